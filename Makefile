# RepL Ranker: the commands of a newcomer and of a developer. `make` alone lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PORT ?= 8080
HOST ?= 127.0.0.1
DATA ?= data
PYTHON ?=
TORCH_INDEX ?=
RUN_ARGS ?=
TEST_ARGS ?=
STACK_DATA ?= data/stack
STACK_PORT ?= 8180
BENCHES ?= rank learn freshness retrieve items

VENV := .venv
BIN := $(VENV)/bin
SETUP := PYTHON="$(PYTHON)" TORCH_INDEX="$(TORCH_INDEX)" bash deploy/setup.sh
# Tests and benches are single-threaded on purpose: results repeat to the bit, and two cores stay usable.
export OMP_NUM_THREADS ?= 1

.PHONY: help setup run stack stop train test test-long lint format bench page-picture requirements dist clean

help: ## list these commands
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

setup: ## make .venv with the repl-ranker command in it (no torch)
	@$(SETUP) serve

run: setup ## import the sample data (first time), start ranker and trainer, print the URL (PORT=8081 DATA=dir)
	@$(BIN)/repl-ranker run --sample --data-dir "$(DATA)" --host "$(HOST)" --port "$(PORT)" $(RUN_ARGS)

stack: setup ## start docker-compose.yml's services without containers: Kafka, Redis, trainer, 2 rankers, proxy (STACK_PORT= STACK_DATA=)
	@$(BIN)/python -m deploy.local.stack up --data "$(STACK_DATA)" --port "$(STACK_PORT)"

stop: ## end what `make stack` started; its data stay in STACK_DATA
	@$(BIN)/python -m deploy.local.stack stop --data "$(STACK_DATA)"

train: ## install torch (about 2.5 GB; TORCH_INDEX=url for another build) and train the base model from the log
	@$(SETUP) train
	@$(BIN)/repl-ranker train --sample --data-dir "$(DATA)"

test: ## lint, types and every test that is not long
	@$(SETUP) dev
	@bash deploy/system.sh
	@$(MAKE) --no-print-directory lint
	@$(BIN)/python -m pytest -m "not long" -q $(TEST_ARGS)

test-long: ## the tests that take minutes
	@$(SETUP) dev
	@bash deploy/system.sh
	@$(BIN)/python -m pytest -m long -q --timeout 3600 $(TEST_ARGS)

lint: ## ruff and mypy --strict
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: ## let ruff sort imports and fix what it can
	@$(BIN)/ruff check --fix .

bench: setup ## measure this machine (BENCHES="rank learn …")
	@for bench in $(BENCHES); do $(BIN)/repl-ranker bench $$bench || exit 1; done

page-picture: ## take docs/page.png anew from a real run
	@$(SETUP) dev
	@PAGE_PICTURE=docs/page.png $(BIN)/python -m pytest -q tests/e2e/test_page.py

requirements: ## compile requirements/*.txt anew from pyproject.toml (needs the network)
	@bash deploy/requirements.sh

dist: ## build the wheel and the source archive
	@$(SETUP) dev
	@bash deploy/dist.sh

clean: ## remove .venv and every cache; the data directory stays
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

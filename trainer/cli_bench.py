"""`repl-ranker bench …`: measure what the documents state, on this machine, with everything switched on.

Each bench is a module of trainer/bench with one `run`; this file only calls it, shows progress and prints. Settings
come from the usual sources; the data of a bench are made for it and deleted afterwards.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Any

import typer

from service.console import Config, DataDir, Json, progress_bar, report, settings_of

app = typer.Typer(help="Measure this machine against the stated figures.", no_args_is_help=True)

Items = Annotated[int, typer.Option("--items", min=1_000, help="Items in the synthetic catalogue.")]
OnStack = Annotated[bool, typer.Option("--stack", help="On a real Kafka and Redis with two rankers (source tree).")]
MILLION = 1_000_000


def _bench(name: str, data_dir: Path | None, config: Path | None, json: bool, **options: Any) -> None:
    """Run trainer/bench/<name>.py and print what it found."""
    settings = settings_of(data_dir, config)
    module = importlib.import_module(f"trainer.bench.{name}")
    with progress_bar(f"bench {name}", "steps", quiet=json) as progress:
        answer = module.run(settings, progress=progress, **options)
    report(answer, json)


@app.command()
def rank(
    minutes: Annotated[float, typer.Option("--minutes", help="Add a load of this length.")] = 0.0,
    stack: OnStack = False,
    data_dir: DataDir = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Latency and throughput of /v1/rank over HTTP at 100, 1,000 and 5,000 candidates."""
    _bench("rank", data_dir, config, json, minutes=minutes, stack=stack)


@app.command()
def learn(data_dir: DataDir = None, config: Config = None, json: Json = False) -> None:
    """Examples and events a second of the online learner."""
    _bench("learn", data_dir, config, json)


@app.command()
def freshness(
    stack: OnStack = False,
    rate: Annotated[int, typer.Option("--rate", min=1, help="Events a second beside, with --stack.")] = 1_000,
    data_dir: DataDir = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """How soon a click is seen in scores: one's own at once, everybody's after the hold."""
    _bench("freshness", data_dir, config, json, stack=stack, rate=rate)


@app.command()
def ingest(data_dir: DataDir = None, config: Config = None, json: Json = False) -> None:
    """Events a second of a trainer that catches up on a backlog in a real Kafka, with its commits to a real Redis."""
    _bench("ingest", data_dir, config, json)


@app.command()
def retrieve(items: Items = MILLION, data_dir: DataDir = None, config: Config = None, json: Json = False) -> None:
    """Latency of /v1/retrieve over the whole catalogue."""
    _bench("retrieve", data_dir, config, json, items=items)


@app.command()
def size(
    redis: Annotated[str | None, typer.Option("--redis", help="A Redis to measure in (what is written goes).")] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Keep the figures for `repl-ranker size` (service/figures.json).")
    ] = False,
    data_dir: DataDir = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """The figures behind `repl-ranker size`; those of Redis only with --redis."""
    from service.figures import FIGURES

    _bench("size", data_dir, config, json, redis=redis, keep=FIGURES if record else None)


@app.command()
def items(
    items: Items = MILLION,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Also the memory of up to so many workers.")] = 1,
    data_dir: DataDir = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Start to ready and memory with a large catalogue."""
    _bench("items", data_dir, config, json, items=items, workers=workers)


@app.command()
def states(
    users: Annotated[int, typer.Option("--users", min=1_000, help="Users to write.")] = 100_000,
    history: Annotated[int, typer.Option("--history", min=1, max=256, help="Interactions of each.")] = 50,
    items: Items = MILLION,
    data_dir: DataDir = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Redis memory of user states: no item twice (the worst case), and with repeats as shops have them."""
    _bench("states", data_dir, config, json, users=users, history=history, items=items)


@app.command()
def crash(
    faults: Annotated[int, typer.Option("--faults", min=0, help="How many faults.")] = 200,
    seed: Annotated[int, typer.Option("--seed", help="The same faults in the same order.")] = 1,
    minutes: Annotated[float, typer.Option("--minutes", min=0, help="Then the load alone; is memory flat?")] = 0.0,
    data_dir: DataDir = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Kill, stop and fill up a real Kafka, Redis, trainer and rankers under load; prove that all adds up."""
    _bench("crash", data_dir, config, json, faults=faults, seed=seed, minutes=minutes)

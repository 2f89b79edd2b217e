#!/usr/bin/env bash
# Compile requirements/*.txt anew from pyproject.toml: every package pinned, with hashes, for every platform; no file names
# a registry's host. dev is solved first; train and serve are cuts of it, so that one version stands in all three.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

uv=.venv/bin/uv
[ -x "$uv" ] || { echo "run 'make setup' first" >&2; exit 2; }
compile() {
    "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header "$@"
}
# The clients of networked logs and stores are small, and so a part of every level here; of the wheel they are extras.
compile pyproject.toml --extra kafka --extra redis --extra archive --extra train --extra dev -o requirements/dev.txt
compile pyproject.toml --extra kafka --extra redis --extra archive --extra train -c requirements/dev.txt -o requirements/train.txt
compile pyproject.toml --extra kafka --extra redis -c requirements/dev.txt -o requirements/serve.txt
compile requirements/tools.in -o requirements/tools.txt
compile requirements/build.in -o requirements/build.txt

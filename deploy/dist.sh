#!/usr/bin/env bash
# Build the wheel and the source archive into dist/, with the build tools of requirements/build.txt: by uv, or without it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ -x .venv/bin/uv ]; then exec .venv/bin/uv build --build-constraints requirements/build.txt --out-dir dist; fi
tools="$(mktemp -d)"
trap 'rm -rf "$tools"' EXIT
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --target "$tools" -r requirements/build.txt
PYTHONPATH="$tools" .venv/bin/python -m hatchling build -d dist

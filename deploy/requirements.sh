#!/usr/bin/env bash
# Compile requirements/*.txt anew from pyproject.toml: every package pinned, with hashes, for every platform; no file names
# a registry's host. dev is solved first; train and serve are cuts of it, so that one version stands in all three. torch
# and the CUDA libraries that its registry's build brings stand in torch.txt alone: another build (TORCH_INDEX) replaces it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

uv=.venv/bin/uv
[ -x "$uv" ] || { echo "run 'make setup' first" >&2; exit 2; }
compile() {
    "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header "$@"
}
# The clients of networked logs and stores are small, and so a part of every level here; of the wheel they are extras.
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
touch requirements/torch.txt requirements/dev.txt requirements/train.txt requirements/serve.txt
for level in dev train; do cat "requirements/$level.txt" requirements/torch.txt > "$work/$level"; done # keeps versions
compile pyproject.toml --extra kafka --extra redis --extra archive --extra train --extra dev -o "$work/dev"
compile pyproject.toml --extra kafka --extra redis --extra archive --extra train -c "$work/dev" -o "$work/train"
compile pyproject.toml --extra kafka --extra redis -c "$work/dev" -o requirements/serve.txt
sed -i "s|$work/dev|requirements/dev.txt|" "$work/train" requirements/serve.txt # in comments
torch='^(torch|triton|nvidia-|cuda-)'
for level in dev train; do
    awk -v torch="$torch" '/^[a-z]/ {keep = ($0 !~ torch)} keep' "$work/$level" > "requirements/$level.txt"
done
awk -v torch="$torch" '/^[a-z]/ {keep = ($0 ~ torch)} keep' "$work/train" > requirements/torch.txt
compile requirements/tools.in -o requirements/tools.txt
compile requirements/build.in -o requirements/build.txt

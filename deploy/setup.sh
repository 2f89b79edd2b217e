#!/usr/bin/env bash
# Make .venv and install one of three levels into it: serve (no torch) < train < dev. A second call is instant.
#   deploy/setup.sh serve|train|dev
# PYTHON names the interpreter to use (3.11 or newer); TORCH_INDEX another package index to take torch from.
# It installs no system package: where one is missing it prints one line to copy and ends with status 2.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

level="${1:-serve}"
venv=.venv
python="$venv/bin/python"

say() { printf '[setup] %s\n' "$*"; }
fail() { printf '[setup] %s\n' "$@" >&2; exit 2; }

case "$level" in serve | train | dev) ;; *) fail "unknown level '$level': serve, train or dev" ;; esac

# --- is the wanted level there already? A stamp holds the hash of what was installed; a higher level covers a lower.
fingerprint() {
    local files=(pyproject.toml requirements/tools.txt requirements/build.txt "requirements/$1.txt")
    [ "$1" = serve ] || files+=(requirements/torch.txt)
    cat "${files[@]}" | sha256sum | cut -c1-16
}
installed() {
    local stamp="$venv/.installed-$1"
    [ -x "$python" ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(fingerprint "$1")" ] && [ -x "$venv/bin/repl-ranker" ]
}
case "$level" in
    serve) covers="serve train dev" ;;
    train) covers="train dev" ;;
    dev) covers="dev" ;;
esac
for candidate in $covers; do
    if installed "$candidate"; then exit 0; fi
done

# --- 1. a Python of 3.11 or newer that can make virtual environments
usable() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
can_venv() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }
apt_line() {
    local sudo=""
    [ "$(id -u)" = 0 ] || sudo="sudo "
    echo "    ${sudo}apt-get install -y $*"
}

if ! { [ -x "$python" ] && usable "$python"; }; then
    base=""
    without_venv=""
    if [ -n "${PYTHON:-}" ]; then candidates="$PYTHON"; else candidates="python3.13 python3.12 python3.11 python3 python3.14"; fi
    for candidate in $candidates; do
        command -v "$candidate" >/dev/null 2>&1 && usable "$candidate" || continue
        if can_venv "$candidate"; then base="$candidate"; break; fi
        without_venv="${without_venv:-$candidate}"
    done
    if [ -z "$base" ] && [ -n "$without_venv" ]; then
        minor="$("$without_venv" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
        fail "$without_venv cannot make virtual environments. On Debian or Ubuntu copy this line, then run make again:" \
            "$(apt_line "python$minor-venv")"
    elif [ -z "$base" ]; then
        fail "no Python 3.11 or newer was found (looked for: $candidates). On Debian 12+ or Ubuntu 24.04+ copy this line:" \
            "$(apt_line python3 python3-venv)" \
            "elsewhere install Python 3.11+ and name it: make run PYTHON=/path/to/python3.11"
    fi
    say "making $venv with $("$base" --version 2>&1) ($(command -v "$base"))"
    "$base" -m venv --clear "$venv"
fi

# --- 2. uv, pinned and checked by hash; plain pip where there is no uv for this platform
has_pip() { "$python" -m pip --version >/dev/null 2>&1; }
if [ ! -x "$venv/bin/uv" ]; then
    has_pip || "$python" -m ensurepip --upgrade >/dev/null
    say "installing uv (the installer, pinned in requirements/tools.txt)"
    "$python" -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/tools.txt \
        || say "uv is not to be had here: going on with pip, which is slower"
fi
install() {
    if [ -x "$venv/bin/uv" ]; then "$venv/bin/uv" pip install --python "$python" --quiet "$@"
    else "$python" -m pip install --disable-pip-version-check --progress-bar off "$@"; fi
}

# --- 3. the packages of this level, every one checked by hash
case "$level" in
    serve) what="what serves and learns online: about 120 MB to fetch, no torch" ;;
    train) what="torch and what training needs: about 2.5 GB to fetch, 5 GB on disk (TORCH_INDEX=url chooses another build)" ;;
    dev) what="everything, with torch and the test tools: about 2.6 GB to fetch, 5 GB on disk" ;;
esac
say "installing requirements/$level.txt: $what"
started=$SECONDS
if [ "$level" = serve ]; then install --require-hashes --no-deps -r requirements/serve.txt
elif [ -n "${TORCH_INDEX:-}" ]; then
    # Another build of torch has other hashes and brings its own libraries: all but torch from the checked file.
    install --require-hashes --no-deps -r "requirements/$level.txt"
    torch="$(sed -n 's/^\(torch==[0-9.]*\).*/\1/p' requirements/torch.txt | head -n 1)"
    say "installing $torch from $TORCH_INDEX (not checked by hash)"
    install --index-url "$TORCH_INDEX" "$torch"
else
    install --require-hashes --no-deps -r "requirements/$level.txt" -r requirements/torch.txt
fi

# --- 4. this project, editable; its build tools are pinned in requirements/build.txt and leave nothing behind
say "installing repl-ranker itself (editable)"
if [ -x "$venv/bin/uv" ]; then install --no-deps --build-constraints requirements/build.txt --editable .
else  # pip takes no constraints with hashes for a directory: the build tools lie beside, for this one step
    tools="$(mktemp -d)"
    trap 'rm -rf "$tools"' EXIT
    install --quiet --require-hashes --no-deps --target "$tools" -r requirements/build.txt
    PYTHONPATH="$tools" install --quiet --no-deps --no-build-isolation --editable .
fi

# --- 5. numba compiles its kernels once; the result is kept beside the sources
"$venv/bin/repl-ranker" warm
fingerprint "$level" > "$venv/.installed-$level"
say "done in $((SECONDS - started)) s: $venv/bin/repl-ranker --help"

#!/usr/bin/env bash
# The system packages that tests need: Chromium, for the page. Installed with apt when root; else named in one line.
# Without it the browser tests skip and say why; with CI=true they fail.
set -euo pipefail

if command -v chromium >/dev/null 2>&1 || [ -n "${CHROMIUM:-}" ]; then exit 0; fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "[system] installing chromium for the browser tests"
    export DEBIAN_FRONTEND=noninteractive
    for attempt in 1 2 3; do
        if apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core > /dev/null; then exit 0; fi
        echo "[system] apt-get failed (attempt $attempt of 3)" >&2
        sleep 5
    done
    if [ "${CI:-}" = true ]; then exit 1; fi
fi
echo "[system] chromium is missing, the browser tests will be skipped. On Debian: sudo apt-get install -y chromium" >&2

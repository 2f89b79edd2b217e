#!/usr/bin/env bash
# The system packages that tests and `make stack` need: Chromium for the page; a Redis, a Java 17 and Maven for the real
# servers (deploy/local/servers.py), HAProxy before the rankers (deploy/local/stack.py); a Prometheus that asks what
# dashboard and alert rules ask. Installed with apt when root; else named in one line.
# Without them the tests that need them skip and say why; with CI=true they fail.
set -euo pipefail

missing=()
command -v chromium >/dev/null 2>&1 || [ -n "${CHROMIUM:-}" ] || missing+=(chromium fonts-dejavu-core)
command -v redis-server >/dev/null 2>&1 || [ -n "${REPL_TEST_REDIS:-}" ] || missing+=(redis-server)
command -v curl >/dev/null 2>&1 || missing+=(curl)
command -v haproxy >/dev/null 2>&1 || missing+=(haproxy)
if [ -z "${REPL_TEST_KAFKA:-}" ]; then
    command -v java >/dev/null 2>&1 || missing+=(default-jre-headless)
    command -v mvn >/dev/null 2>&1 || missing+=(maven)
fi
command -v promtool >/dev/null 2>&1 || missing+=(prometheus)
if [ ${#missing[@]} = 0 ]; then exit 0; fi

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "[system] installing for the tests: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    policy=/usr/sbin/policy-rc.d # keeps apt from starting what it installs
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' > "$policy"
        chmod 755 "$policy"
        trap 'rm -f "$policy"' EXIT
    fi
    for attempt in 1 2 3; do
        if apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null; then exit 0; fi
        echo "[system] apt-get failed (attempt $attempt of 3)" >&2
        sleep 5
    done
    if [ "${CI:-}" = true ]; then exit 1; fi
fi
echo "[system] missing, and the tests that need them will be skipped: ${missing[*]}. On Debian: sudo apt-get install -y ${missing[*]}" >&2

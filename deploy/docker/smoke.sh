#!/usr/bin/env bash
# Does a started stack do its work? Sends a click over HTTP and asks for a ranking until it counts in it and the trainer has
# learned from it (new weights are served), for at most a minute.
#   deploy/docker/smoke.sh URL [KEY]
set -euo pipefail

url="${1:?URL of the proxy or of a ranker}"
key="${2:-}"
call() { curl --fail --silent --show-error --max-time 10 ${key:+--header "Authorization: Bearer $key"} "$@"; }

run="smoke-$$-$(date +%s)"
now="$(date +%s)000"
call "$url/v1/events" --data "[
  {\"id\": \"$run-1\", \"timestamp\": $now, \"event\": \"item\", \"item\": \"$run-a\", \"fields\": {\"title\": \"a red lantern\"}},
  {\"id\": \"$run-2\", \"timestamp\": $now, \"event\": \"item\", \"item\": \"$run-b\", \"fields\": {\"title\": \"a blue lantern\"}}]"
ranked="$(call "$url/v1/rank" --data "{\"user\": \"$run\", \"items\": [\"$run-a\", \"$run-b\"]}")"
version_of() { printf '%s' "$1" | sed -n 's/.*"weights_version": *\([0-9]*\).*/\1/p'; }
before="$(version_of "$ranked")"
request="$(printf '%s' "$ranked" | sed -n 's/.*"request_id": *"\([^"]*\)".*/\1/p')"
call "$url/v1/events" --data "[
  {\"id\": \"$request\", \"timestamp\": $now, \"event\": \"ranking\", \"user\": \"$run\", \"items\": [{\"id\": \"$run-a\"}, {\"id\": \"$run-b\"}]},
  {\"id\": \"$run-3\", \"timestamp\": $now, \"event\": \"interaction\", \"type\": \"click\", \"user\": \"$run\", \"item\": \"$run-b\", \"ranking\": \"$request\"}]"

for _ in $(seq 60); do
    ranked="$(call "$url/v1/rank" --data "{\"user\": \"$run\", \"items\": [\"$run-a\", \"$run-b\"]}")"
    first="$(printf '%s' "$ranked" | sed -n 's/.*"ids": *\["\([^"]*\)".*/\1/p')"
    version="$(version_of "$ranked")"
    if [ "$first" = "$run-b" ] && [ "${version:-0}" -gt "${before:-0}" ]; then
        echo
        echo "smoke: her click counts, and was learned: weights version $version is served (before: ${before:-0})"
        exit 0
    fi
    sleep 1
done
echo "smoke: after a minute the last answer was $ranked" >&2
exit 1

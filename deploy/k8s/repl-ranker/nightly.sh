#!/bin/sh
# Train a base model and roll it out: to a share of the users, and after a while, if it still holds, to all.
#
#   nightly.sh          trains; nightly.sh PATH|URL rolls out a base that is there
#
# Settings are repl-ranker's own (REPL_…; a file: CONFIG), and:
#   OUT      directory that rankers and trainer can read: where bases are kept, the KEEP (3) newest and those in use
#   ARCHIVE  train from the archive at this URL; empty: from the log
#   PERCENT  10: of the users, first       JUDGE  7200: seconds to wait until it can be judged
#   HOLD     1800: seconds between that and all users
#
# Status 0: it answers everybody. Else something said why; a share of the users that it answers by then is taken back, here or,
# where this script itself was ended, by the next night's call.
set -eu
config=${CONFIG:+--config=$CONFIG}

base=${1:-}
if [ -z "$base" ]; then
    : "${OUT:?where are bases kept}"
    made=$(repl-ranker train $config --out "$OUT" ${ARCHIVE:+--from-archive "$ARCHIVE"} --json)
    base=$(printf '%s\n' "$made" | sed -n 's/.*"base": *"\([^"]*\)".*/\1/p')
    used=$(repl-ranker base status $config --json) # what answers, stands beside or can be gone back to stays, however old
    find "$OUT" -mindepth 1 -maxdepth 1 -type d -name '[0-9a-f]*' -printf '%T@ %p\n' | sort -rn | tail -n +"$((${KEEP:-3} + 1))" |
        cut -d ' ' -f 2- | while read -r old; do
        case "$used" in *"${old##*/}"*) ;; *) rm -rf "$old" ;; esac
    done
fi
if repl-ranker base status $config | grep -q '^percent'; then # what ran last was interrupted
    repl-ranker base revert $config --wait 60
fi
repl-ranker base stage $config "$base" --wait 60
repl-ranker base promote $config --percent "${PERCENT:-10}" --wait "${JUDGE:-7200}"
sleep "${HOLD:-1800}"
if ! repl-ranker base promote $config --wait 60; then
    repl-ranker base revert $config --wait 60
    exit 1
fi

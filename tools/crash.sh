#!/usr/bin/env bash
# Kills a server with SIGKILL at random moments of a live recording, and looks at what the next start makes of it: that frames of
# at most one second before the kill are missing, and none before those (tests/net/crash).
#
#   tools/crash.sh [rounds [test]]
#
# 100 rounds when nothing is said, of three seconds or so each. Prints what each kill has cost, and the worst of all. Tests are
# those that kill; a_server_killed_while_somebody takes one whose network is gone, for example.
set -euo pipefail
cd "$(dirname "$0")/.."

CRASH_ROUNDS=${1:-100} cargo test --locked --test net "crash::${2:-a_killed_server}" -- --nocapture |
    grep --line-buffered -E 'seed [0-9]+:|^([0-9]+ kills|test |thread|  left|  right|failures)|panicked'

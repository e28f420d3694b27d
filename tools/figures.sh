#!/usr/bin/env bash
# Measures what is promised of media quality and prints tables for benches/RESULTS.md. What goes on meanwhile is told on
# standard error.
#
#   tools/figures.sh [relay | simulator]... > figures.md
#
# relay: a server process and clients on real sockets, behind relays that lose, delay and narrow what passes (tests/net/figures.rs).
# It takes about ten minutes and wants an idle machine: the load average is printed at both ends.
# simulator: all weathers, in virtual time (tests/sim/figures.rs).
# A figure that misses its bound is printed all the same; the exit code tells.
set -euo pipefail
cd "$(dirname "$0")/.."

parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(relay simulator)
log=$(mktemp)
trap 'rm -f "$log"' EXIT
code=0

say() { echo "figures.sh: $*" >&2; }
load() { cut -d' ' -f1-3 /proc/loadavg; }

# The rows that tests print, and the names of those that failed.
run() {
    say "cargo test $*"
    cargo test --release "$@" > "$log" 2> >(grep -v '^ *\(Compiling\|Finished\|Running\)' >&2) || code=1
    sed -n 's/^test \(.*\) \.\.\. FAILED$/figures.sh: \1 misses its bound/p' "$log" >&2
}

say "building"
cargo test --release --test net --test sim --no-run >&2
echo "Revision $(git describe --always --dirty 2>/dev/null || echo unknown), $(date -u '+%Y-%m-%d %H:%M') UTC," \
    "load average before: $(load)"
for part in "${parts[@]}"; do
    echo
    case "$part" in
        relay)
            echo "### Real sockets, relay on loopback"
            echo
            echo "| network | promised | measured | besides |"
            echo "| --- | --- | --- | --- |"
            run --test net figures::long_ -- --ignored --test-threads=1 --show-output
            grep '^| ' "$log" || true
            ;;
        simulator)
            echo "### Simulator"
            echo
            echo "| network | measured |"
            echo "| --- | --- |"
            run --test sim figures:: -- --test-threads=1 --show-output
            # Rows have as many values as they need.
            sed -n '/^| /{s/ | /\n/;s/ | /; /g;s/\n/ | /;s/; *$/ |/;s/; |$/ |/;p}' "$log"
            ;;
        *)
            sed -n '2,11s/^# \{0,1\}//p' "$0" >&2
            exit 2
            ;;
    esac
done
echo
echo "Load average after: $(load)"
exit $code

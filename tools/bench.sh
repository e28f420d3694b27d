#!/bin/sh
# Runs every bench and the load generator's scenarios in one sitting and prints the results as Markdown, ready for
# benches/RESULTS.md. What goes on meanwhile is told on standard error.
#
#   tools/bench.sh [--quick] > results.md
#
# Wants an idle machine: the load average is printed at both ends, and figures taken under load are not comparable.
# Needs cargo and python3. SECONDS_PER_RUN (20) is the measured time of a scenario; CARGO_TARGET_DIR is respected.
set -eu
cd "$(dirname "$0")/.."

quick=
measured=${SECONDS_PER_RUN:-20}
join_runs=5
case "${1:-}" in
    --quick) quick=--quick measured=3 join_runs=1 ;;
    "") ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
target=${CARGO_TARGET_DIR:-target}
scratch=$(mktemp -d)
server=
cleanup() {
    # Only the server of this script, by its number.
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    rm -rf "$scratch"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

say() { echo "bench.sh: $*" >&2; }
load() { cut -d' ' -f1-3 /proc/loadavg; }

say "building"
cargo build --release --bin webrtc-engine --example loadgen >&2
cargo bench --no-run --bench forward --bench record --bench join --bench latency --bench sfu --bench crypto >&2

echo "# Results of $(date -u '+%Y-%m-%d %H:%M') UTC"
echo
echo "| machine | |"
echo "| --- | --- |"
echo "| CPU | $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) cores |"
echo "| kernel | $(uname -sr) |"
echo "| memory | $(awk '/MemTotal/ {printf "%.0f GiB", $2 / 1048576}' /proc/meminfo) |"
echo "| compiler | $(rustc --version) |"
echo "| revision | $(git describe --always --dirty 2>/dev/null || echo unknown) |"
echo "| load average before | $(load) |"
echo "| command | \`tools/bench.sh${quick:+ $quick}\`, ${measured} s per scenario |"

for bench in forward record join latency; do
    say "cargo bench --bench $bench"
    echo
    echo "## \`cargo bench --bench $bench${quick:+ -- $quick}\`"
    echo
    cargo bench --quiet --bench "$bench" -- $quick
done
for bench in sfu crypto; do
    say "cargo bench --bench $bench"
    echo
    echo "## \`cargo bench --bench $bench\`"
    echo
    echo '```text'
    cargo bench --quiet --bench "$bench"
    echo '```'
done

JWT_SECRET=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')
export JWT_SECRET

# Each scenario has a server of its own: memory is counted from its start.
start_server() {
    # Not the address of the one before.
    : > "$scratch/serve"
    env HOST=127.0.0.1 PORT=0 RTC_UDP_PORT=0 RTC_ANNOUNCED_IPS=127.0.0.1 WORKERS=1 LOG_LEVEL=error \
        LIMIT_PARTICIPANTS=1000 DATA_DIR="$scratch/data" "$target/release/webrtc-engine" > "$scratch/serve" &
    server=$!
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        authority=$(sed -n 's|.*http://\([^/ ]*\)/.*|\1|p' "$scratch/serve" | head -n 1)
        [ -z "$authority" ] || return 0
        sleep 0.5
    done
    say "the server does not start"
    exit 1
}

# The load generator against that server, its report as JSON to the given file. An unsound run is still printed, and says so.
run_loadgen() {
    report=$1
    shift
    "$target/release/examples/loadgen" --url "ws://$authority/video-calls/ws" --secret "$JWT_SECRET" \
        --server-pid "$server" --json "$@" < /dev/null > "$report" || true
    kill "$server" && wait "$server" || true
    server=
}

echo
echo "## Load generator, one worker"
echo
echo "| scenario | packets/s | server CPU µs/packet (user + system) | cores | switches/packet | delay µs p50 / p95 / p99 / max | loss | RSS MB (kB per subscriber) | generator cores | SRTP | load | command |"
echo "| --- | --: | --: | --: | --: | --: | --: | --: | --: | --- | --: | --- |"
# Name, then the options.
while read -r name options; do
    say "scenario $name"
    start_server
    # A receiver's bandwidth is found out only within seconds, and video is paused for as long as it seems too little.
    # $options are words.
    # shellcheck disable=SC2086
    run_loadgen "$scratch/report" --seconds "$measured" --warmup 10 $options
    python3 - "$scratch/report" "$name" "$(load)" "$options" << 'PYTHON'
import json, sys
path, name, load, options = sys.argv[1:]
try:
    r = json.load(open(path))
except ValueError:
    sys.exit(print(f"| {name} | failed: no report |"))
s, d = r["server"] or {}, r["latencyUs"]
number = lambda value, digits=1: "–" if value is None else f"{value:.{digits}f}"
expected = sum(k["expected"] for k in r["delivery"].values())
lost = sum(k["lost"] for k in r["delivery"].values())
loss = f"{100 * lost / expected:.3f} %" if expected else "–"
per = f'{number(s.get("cpuUsPerPacket"))} ({number(s.get("userUsPerPacket"))} + {number(s.get("systemUsPerPacket"))})'
delay = " / ".join(number(d[q], 0) for q in ("p50", "p95", "p99", "max"))
rss = f'{(s.get("rssEndKb") or 0) / 1024:.1f} ({number(s.get("rssPerSubscriberKb"), 0)})'
profiles = ", ".join(r.get("srtpProfiles") or r.get("profiles") or {}) or "–"
sound = "" if r["sound"] else " (unsound)"
generator = number(r["generator"]["cores"], 2)
print(f'| {name}{sound} | {r["packetsPerSecond"]:.0f} | {per} | {number(s.get("cores"), 3)} '
      f'| {number(s.get("contextSwitchesPerPacket"), 2)} | {delay} | {loss} | {rss} | {generator} | {profiles} '
      f'| {load.split()[0]} | `loadgen {options}` |')
PYTHON
done << 'SCENARIOS'
A10 --publishers 1 --subscribers 10 --audio
A60 --publishers 1 --subscribers 60 --audio
A120 --publishers 1 --subscribers 120 --audio --join-rate 40
B6 --publishers 6 --subscribers 0 --meeting --slots 9,9 --audio
C50 --publishers 3 --subscribers 50 --no-video --audio
W60 --via whip --publishers 1 --subscribers 60 --audio --join-rate 15
SCENARIOS

# Ten people come into one room, one after the other, and everybody sends one encoding. What is told is the time from `join`
# to a whole key frame: of anybody who was there, and of everybody who was.
echo
echo "## Time from join to the first frame, one worker"
echo
echo "| scenario | bit/s of each | runs | joins | first frame ms p50 / p95 / max | joins that saw everybody | every frame ms p50 / p95 / max | load |"
echo "| --- | --: | --: | --: | --: | --: | --: | --: |"
for bitrate in 800000 1500000; do
    rm -f "$scratch"/join.*
    for run in $(seq "$join_runs"); do
        say "scenario join, $bitrate bit/s, run $run"
        start_server
        run_loadgen "$scratch/join.$run" --publishers 10 --subscribers 0 --meeting --slots 9,9 --audio \
            --video-bitrate "$bitrate" --join-rate 1 --warmup 8 --seconds 1
    done
    python3 - "$bitrate" "$(load)" "$scratch"/join.* << 'PYTHON'
import json, math, sys
bitrate, load, *paths = sys.argv[1:]
reports = [json.load(open(path)) for path in paths]
merged = lambda name: sorted(value for report in reports for value in report[name])
rank = lambda values, q: values[max(0, math.ceil(len(values) * q) - 1)]
spread = lambda values: " / ".join(f"{rank(values, q):.0f}" for q in (0.5, 0.95, 1)) if values else "–"
first, every = merged("firstFramesMs"), merged("everyFrameMs")
joins = sum(report["joined"] - 1 for report in reports)
print(f'| join | {bitrate} | {len(reports)} | {joins} | {spread(first)} | {len(every)} | {spread(every)} | {load.split()[0]} |')
PYTHON
done
echo
echo "Load average after: $(load)"

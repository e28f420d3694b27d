#!/bin/sh
# Records many calls at once, and counts what the recordings lack.
#
#   tools/record-load.sh [ROOMS [PUBLISHERS [SECONDS]]]
#
# 50 calls of 4 publishers with 300 kbit/s of video and sound each, for 60 s, unless said otherwise; nobody receives anything, so
# that the server does little else. Before that, what a recording costs is compared with what a subscriber costs. Server and generator share the machine. Needs cargo and python3; CARGO_TARGET_DIR is
# respected, and files go to the directory for temporary files.
set -eu
cd "$(dirname "$0")/.."

rooms=${1:-50}
publishers=${2:-4}
seconds=${3:-60}
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

cargo build --release --bin webrtc-engine --example loadgen >&2
JWT_SECRET=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')
export JWT_SECRET

# Whether calls are recorded.
serve() {
    : > "$scratch/serve"
    env HOST=127.0.0.1 PORT=0 RTC_UDP_PORT=0 RTC_ANNOUNCED_IPS=127.0.0.1 LOG_LEVEL=warn DATA_DIR="$scratch/data" \
        RECORDING_AUTO="$1" RECORDING_OUTPUT_DIR="$scratch/recordings" LIMIT_RECORDINGS=1000 \
        "$target/release/webrtc-engine" > "$scratch/serve" 2>&1 &
    server=$!
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        authority=$(sed -n 's|.*http://\([^/ ]*\)/.*|\1|p' "$scratch/serve" | head -n 1)
        [ -z "$authority" ] || return 0
        sleep 0.5
    done
    echo "record-load.sh: the server does not start" >&2
    exit 1
}

# The report's name, then options.
load() {
    report=$1
    shift
    "$target/release/examples/loadgen" --url "ws://$authority/video-calls/ws" --secret "$JWT_SECRET" --server-pid "$server" \
        --audio --json "$@" < /dev/null > "$scratch/$report" || true
}

stop() {
    kill "$server"
    wait "$server" || true
    server=
}

# What the server spends more for a recording, and more for a subscriber, than for a call that goes to nobody.
for run in 1 2; do
    for way in nobody:false:0 subscriber:false:1 recording:true:0; do
        auto=${way#*:}
        serve "${auto%:*}"
        load "${way%%:*}.$run" --rooms 20 --publishers 1 --subscribers "${way##*:}" --seconds 20 --warmup 8
        stop
    done
done
rm -rf "$scratch/recordings"

serve true
load report --rooms "$rooms" --publishers "$publishers" --subscribers 0 --video-bitrate 300000 --seconds "$seconds" --warmup 5
ticks=$(awk '{print $14 + $15}' "/proc/$server/stat")
# Recordings end with the last who leaves; the server stays until all is made of them.
stop
env RECORDING_OUTPUT_DIR="$scratch/recordings" DATA_DIR="$scratch/data" "$target/release/webrtc-engine" recordings repair > /dev/null

python3 - "$scratch" "$rooms" "$publishers" "$seconds" "$ticks" "$(getconf CLK_TCK)" << 'PYTHON'
import glob, json, sys
scratch, rooms, publishers, seconds, ticks, rate = sys.argv[1:]
report = json.load(open(f"{scratch}/report"))
total = dict.fromkeys(("packets", "lost", "recovered", "dropped", "gaps", "frames"), 0)
recordings = tracks = octets = 0
for path in glob.glob(f"{scratch}/recordings/*/*/metadata.json"):
    whole = json.load(open(path))
    recordings += 1
    for file in whole["files"]:
        if file["kind"] == "call":
            octets += file["size"]
            for track in file["media"]["tracks"]:
                tracks += 1
                for key in total:
                    total[key] += track["quality"][key]
cpu = int(ticks) / int(rate)
print(f"| calls x publishers, s | recordings, tracks | packets recorded | lost | dropped frames | gaps | MB | server CPU s | µs/packet | generator cores |")
print(f"| --- | --- | --: | --: | --: | --: | --: | --: | --: | --: |")
generator = report["generator"]["cores"]
print(f"| {rooms} x {publishers}, {seconds} | {recordings}, {tracks} | {total['packets']} | {total['lost']} | {total['dropped']} | {total['gaps']} "
      f"| {octets / 1e6:.0f} | {cpu:.1f} | {cpu * 1e6 / max(1, total['packets']):.1f} | {generator:.2f} |")
cores = lambda way: sum(json.load(open(f"{scratch}/{way}.{run}"))["server"]["cores"] for run in (1, 2)) / 2
nobody, subscriber, recording = map(cores, ("nobody", "subscriber", "recording"))
print()
print("| 20 calls, 1.5 Mbit/s and sound each, cores of the server | to nobody | to one subscriber | recorded | recording / forwarding |")
print("| --- | --: | --: | --: | --: |")
print(f"| 2 runs of 20 s | {nobody:.3f} | {subscriber:.3f} | {recording:.3f} | {(recording - nobody) / (subscriber - nobody):.2f} |")
PYTHON

#!/usr/bin/env bash
# Builds all fuzz targets once and runs each for so many seconds; the first finding ends it with an error.
#
#   tools/fuzz-smoke.sh SECONDS [TARGET...]
#
# Without AddressSanitizer: there is almost no unsafe code of ours, the C inside (OpenSSL, AWS-LC) would not be compiled with
# it anyway, and without it a stable toolchain is enough. What was learned stays in fuzz/corpus, outside version control; a
# finding lies in fuzz/artifacts and is replayed with:  cargo fuzz run -s none TARGET FILE
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:?"how many seconds for each target?"}
shift
if [ $# -gt 0 ]; then
    targets=("$@")
else
    targets=()
    for file in fuzz/fuzz_targets/*.rs; do
        targets+=("$(basename "$file" .rs)")
    done
fi

cargo fuzz build -s none
host=$(rustc -vV | sed -n 's/^host: //p')
for target in "${targets[@]}"; do
    mkdir -p "fuzz/corpus/$target" "fuzz/artifacts/$target"
    echo "== $target, ${seconds} s"
    log="fuzz/artifacts/$target.log"
    if ! "fuzz/target/$host/release/$target" "fuzz/corpus/$target" "fuzz/seeds/$target" \
        -artifact_prefix="fuzz/artifacts/$target/" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
        -print_final_stats=1 >"$log" 2>&1; then
        tail -n 60 "$log"
        echo "fuzz-smoke: $target has a finding, see fuzz/artifacts/$target" >&2
        exit 1
    fi
    sed -n 's/^stat::number_of_executed_units: */   executions: /p; s/^stat::average_exec_per_sec: */   per second: /p' "$log"
done
echo "fuzz-smoke: ${#targets[@]} targets, nothing found"

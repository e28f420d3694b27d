#!/usr/bin/env bash
# Runs all tests. On Debian as root it first installs the browsers and tools that they need; elsewhere stories whose tools
# are missing are skipped with a line that says so. With E2E_REQUIRE=1 nothing may be skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! tools/setup-tests.sh; then
    if [ "${E2E_REQUIRE:-0}" != 0 ]; then
        echo "tools/test.sh: not everything that the tests need is there" >&2
        exit 1
    fi
    echo "tools/test.sh: going on without it; what is SKIPPED is listed below" >&2
fi

cargo test --lib
cargo test --test tidy --test sim --test net
# Samples are made and read by programs, and played in a browser.
cargo test --test webm -- --show-output
# Against stores that are programs.
cargo test --test stores -- --show-output
cargo test --doc
# Media in browsers needs the machine for itself.
cargo test --test e2e -- --test-threads=1 --show-output

#!/usr/bin/env bash
# Sends recordings through every weather of tests/stores/uploads.rs, twenty at once or as many as are said:
#     tools/uploads.sh [count]
set -euo pipefail
cd "$(dirname "$0")/.."

UPLOADS=${1:-20} E2E_REQUIRE=1 cargo test --locked --test stores uploads:: -- --test-threads=2 --show-output

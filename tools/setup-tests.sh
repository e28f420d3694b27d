#!/usr/bin/env bash
# Installs what building and testing need beyond Rust and a C toolchain. Quick when all is there. Fails when something is
# missing and cannot be installed: then tools/test.sh goes on and says what it skips.
#
#   tools/setup-tests.sh         browsers, tools, Node packages
#   tools/setup-tests.sh fuzz    also what tools/fuzz-smoke.sh needs
set -euo pipefail
cd "$(dirname "$0")/.."

packages=()
# OpenSSL is built from source with make and perl, and asks for modules that perl-base has not.
perl -MIPC::Cmd -MFile::Compare -MFindBin -e 1 2>/dev/null || packages+=(perl)
command -v make >/dev/null || packages+=(make)
command -v cc >/dev/null || packages+=(gcc libc6-dev)
if [ "${1:-}" = fuzz ]; then
    command -v c++ >/dev/null || packages+=(g++)
fi
# Firefox goes quiet without a sound device; one that leads nowhere is enough.
command -v pactl >/dev/null || packages+=(pulseaudio-utils)
if [ ${#packages[@]} -gt 0 ]; then
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        echo "Missing: ${packages[*]}. As root: apt-get update && apt-get install -y --no-install-recommends ${packages[*]}" >&2
        exit 1
    fi
    apt-get update
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${packages[@]}"
fi

if [ "${1:-}" = fuzz ] && ! cargo fuzz --version >/dev/null 2>&1; then
    cargo install cargo-fuzz --version 0.13.2 --locked
fi

tests/e2e/setup.sh

#!/bin/sh
# Installs what the end-to-end tests need: browsers, tools, and the two Node packages. Quick when all is there.
set -eu
cd "$(dirname "$0")"

missing=""
# command:package
for pair in chromium:chromium ffmpeg:ffmpeg turnserver:coturn firefox-esr:firefox-esr pulseaudio:pulseaudio ip:iproute2 nft:nftables \
    openssl:openssl node:nodejs npm:npm; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair##*:}"
done

if [ -n "$missing" ]; then
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
        echo "Missing:$missing. As root: apt-get update && apt-get install -y --no-install-recommends$missing" >&2
        exit 1
    fi
    apt-get update
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing
fi

# A copy of the lock file marks a finished installation of exactly these versions.
if [ ! -f node_modules/.e2e-lock ] || ! cmp -s package-lock.json node_modules/.e2e-lock; then
    npm ci
    cp package-lock.json node_modules/.e2e-lock
fi
echo "The end-to-end tests are ready: cargo test --test e2e"

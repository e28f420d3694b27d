#!/bin/sh
# Installs what the end-to-end tests and those of stores need: browsers, tools, GStreamer, the packages of Node and Python, and
# a server that speaks S3. Quick when all is there.
set -eu
cd "$(dirname "$0")"

missing=""
# command:package
for pair in chromium:chromium ffmpeg:ffmpeg mkvmerge:mkvtoolnix turnserver:coturn firefox-esr:firefox-esr pulseaudio:pulseaudio ip:iproute2 nft:nftables \
    openssl:openssl node:nodejs npm:npm; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair##*:}"
done
# These have no command of their own. The interpreter is the one for which Debian has bindings, whatever else is called python3.
/usr/bin/python3 -c "import ensurepip" 2>/dev/null || missing="$missing python3-venv"
/usr/bin/python3 peers/gstreamer.py check >/dev/null 2>&1 || missing="$missing gstreamer1.0-tools gstreamer1.0-plugins-base \
    gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-nice gstreamer1.0-libav gir1.2-gst-plugins-bad-1.0 \
    python3-gi python3-gst-1.0"

if [ -n "$missing" ]; then
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
        echo "Missing:$missing. As root: apt-get update && apt-get install -y --no-install-recommends$missing" >&2
        exit 1
    fi
    apt-get update
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing
fi

# A copy of the list marks a finished installation of exactly these versions.
if [ ! -f .venv/.e2e-lock ] || ! cmp -s peers/requirements.txt .venv/.e2e-lock; then
    /usr/bin/python3 -m venv --clear .venv
    .venv/bin/python -m pip install --quiet --requirement peers/requirements.txt
    cp peers/requirements.txt .venv/.e2e-lock
fi

# The same with Node's lock file.
if [ ! -f node_modules/.e2e-lock ] || ! cmp -s package-lock.json node_modules/.e2e-lock; then
    npm ci
    cp package-lock.json node_modules/.e2e-lock
fi

# Files in a directory behind S3, with signatures that are checked.
s3s_fs="0.14.1"
if [ "$(.tools/bin/s3s-fs --version 2>/dev/null)" != "s3s-fs $s3s_fs" ]; then
    cargo install s3s-fs --version "$s3s_fs" --features binary --locked --root .tools
fi
echo "The end-to-end tests are ready: cargo test --test e2e, cargo test --test stores"

#!/usr/bin/env bash
# What the tests of real containers need: podman and runc, an image with Python that no registry is asked for, and the
# generic worker image, which `batchexec image build` makes on it with packages from wherever pip here has them from.
# Installed and made once, by root on Debian; elsewhere those tests are skipped, but where CI is set this fails.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
IMAGE=localhost/batchexec-base:3.11
WORKER=localhost/batchexec-worker:3.11
BIN=${BIN:-.venv/bin}
RELEASE=bookworm # its Python is the 3.11 of the image's name

cannot() {
    echo "no real containers here: $1" >&2
    [ -z "${CI:-}" ] || exit 1
    exit 0
}

missing=""
for program in podman runc debootstrap; do
    command -v "$program" >/dev/null || missing="$missing $program"
done
if [ -n "$missing" ]; then
    [ "$(id -u)" = 0 ] || cannot "only root could install$missing"
    command -v apt-get >/dev/null || cannot "there is no apt-get to install$missing"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing >/dev/null ||
        cannot "apt-get could not install$missing"
fi

if ! podman image exists "$IMAGE"; then
    [ "$(id -u)" = 0 ] || cannot "only root can make $IMAGE"
    echo "making $IMAGE, once, in about a minute"
    root=$(mktemp -d)
    trap 'rm -rf "$root"' EXIT
    debootstrap --variant=minbase --include=python3,python3-venv,python3-pip "$RELEASE" "$root/image" >"$root/log" ||
        { tail "$root/log" >&2 && cannot "debootstrap failed"; }
    rm -rf "$root"/image/var/cache/apt/archives/*.deb "$root"/image/var/lib/apt/lists/*
    echo "by tests/containers/install.sh" >"$root/image/etc/batchexec-image"
    # What runs in place of an empty command line.
    tar -C "$root/image" -c . | podman import --quiet --change 'CMD ["cat", "/etc/batchexec-image"]' - "$IMAGE" >/dev/null ||
        cannot "podman could not import the image"
fi

# Made anew when what it is made of has changed; each build says so in a label.
recipe=$(cat Dockerfile worker_image/* | sha256sum | cut -c 1-16)
if [ "$(podman image inspect --format '{{index .Labels "recipe"}}' "$WORKER" 2>/dev/null)" != "$recipe" ]; then
    echo "making $WORKER, once, in about a minute"
    options=(--tag "$WORKER" --python 3.11 --base "$IMAGE" --tool "podman --runtime runc")
    # The environment's come first, as they do for pip; `pip config get` looks into one file only.
    setting() { "$BIN/python" -m pip config list | sed -nE "s/^(:env:|global)\.$1='(.*)'\$/\2/p" | head -n 1; }
    ca=$(setting cert) index=$(setting index-url)
    [ -z "$ca" ] || options+=(--ca "$ca")
    [ -z "$index" ] || options+=(--build-arg "PIP_INDEX_URL=$index")
    log=$(mktemp)
    "$BIN/batchexec" image build "${options[@]}" -- --network host --label "recipe=$recipe" >"$log" 2>&1 ||
        { tail -n 20 "$log" >&2 && cannot "the worker image could not be built"; }
    rm -f "$log"
fi

#!/usr/bin/env bash
# What the tests of real containers need: podman and runc, and an image with Python that no registry is asked for.
# Installed and made once, by root on Debian; elsewhere those tests are skipped, but where CI is set this fails.
set -euo pipefail
IMAGE=localhost/batchexec-base:3.11
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

"""Real containers for tests: the runtime and image that tests/containers/install.sh has put here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers_service import Account, processes_of, service, until

IMAGE = "localhost/batchexec-base:3.11"
WORKER_IMAGE = "localhost/batchexec-worker:3.11"  # what Dockerfile makes of it
PYTHON = (3, 11)  # of the images
MARKER = "/etc/batchexec-image"  # a file that only the image has
COMMAND = "podman --runtime runc"  # wherever another is podman's default
OPTIONS = ("--containers", "podman", "--container-command", COMMAND)


for_tests = [  # marks of modules that run pickled functions in these images
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.version_info[:2] != PYTHON, reason=f"pickled functions go to the Python of {IMAGE} only, {PYTHON}"
    ),
]


def missing(image: str = IMAGE) -> str:
    """Why there are no real containers here; empty where there are."""
    if shutil.which("podman") is None:
        return "there is no podman: tests/containers/install.sh installs it"
    if subprocess.run(["podman", "image", "exists", image]).returncode:
        return f"there is no image {image}: tests/containers/install.sh makes it"
    return ""


def need_containers(image: str = IMAGE) -> None:
    """Skip the test where there are no containers; where all checks must run, none is skipped unseen."""
    if why := missing(image):
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why)


def podman(*arguments: str, stdin: str | None = None) -> str:
    """Call podman as the service does; its output."""
    found = subprocess.run([*COMMAND.split(), *arguments], input=stdin, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return found.stdout.strip()


def known(id: str) -> bool:
    """Whether podman knows a container, running or not."""
    return subprocess.run([*COMMAND.split(), "container", "exists", id]).returncode == 0


def left_in(root: Path) -> list[str]:
    """Containers, running or not, that see something of a service's directory, and processes at work in it."""
    listed = json.loads(podman("ps", "--all", "--format", "json"))
    containers = [found["Id"] for found in listed if str(root) in str(found["Mounts"])]
    return containers + list(processes_of(str(root)).values())


@contextmanager
def container_service(root: Path, *options: str) -> Iterator[Account]:
    """The account of a service, with `root` as its directory, that runs tasks in containers; none of them is left."""
    need_containers()
    with service(*OPTIONS, *options, root=root) as account:
        yield account
    assert not left_in(root)


def on(image: str = IMAGE, **more: Any) -> dict[str, Any]:
    """Settings for a pool of one node with two slots, whose tasks run in containers of the image."""
    return {"python": "python3", "image": image, "slots": 2, "max_nodes": 1, "requirements": None, **more}


@contextmanager
def podman_as_docker(directory: Path) -> Iterator[str]:
    """The address at which podman answers docker's own client."""
    socket = directory / "docker.sock"
    with subprocess.Popen([*COMMAND.split(), "system", "service", "--time", "0", f"unix://{socket}"]) as server:
        try:
            until(socket.exists)
            yield f"unix://{socket}"
        finally:
            server.terminate()
            server.wait(60)

"""How secrets come to a container runtime: a task's environment and a registry's password, never as arguments."""

from __future__ import annotations

import base64
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO

from batchexec.emulator.state import Body

_LINE = 60_000  # bytes of a line that a runtime reads from an environment file; beyond 64 KiB it refuses


def full_name(image: str) -> str:
    """An image's name with its registry, as docker understands a short one; podman may know of no registry to ask."""
    first, slash, _ = image.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return image
    return f"docker.io/{image}" if slash else f"docker.io/library/{image}"


def split(env: Mapping[str, str]) -> tuple[bytes, list[str]]:
    """A task's environment as lines of an environment file, and the names of what no line can hold.

    Neither way shows a value in the arguments of a process or on a disk: the file is in memory, and the rest is
    inherited by the runtime's client, which hands it on by name.
    """
    lines, inherited = [], []
    for name, value in env.items():
        line = os.fsencode(f"{name}={value}")
        if b"\n" in line or b"\r" in line or len(line) > _LINE or line[:1] in b"# \t" or line[:1] == b"=":
            inherited.append(name)
        else:
            lines.append(line + b"\n")
    return b"".join(lines), inherited


@contextmanager
def in_memory(content: bytes) -> Iterator[IO[bytes]]:
    """A file that can be another process's standard input; a pipe would have to be written to meanwhile."""
    has_memory = hasattr(os, "memfd_create")
    with open(os.memfd_create("environment"), "w+b") if has_memory else tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        file.seek(0)
        yield file


@contextmanager
def credentials(image: str, registries: Iterable[Body]) -> Iterator[str | None]:
    """A directory of our own with the name and password for an image's registry, in the form both runtimes read.

    None where there are none: the runtime's own configuration is used then.
    """
    server = full_name(image).partition("/")[0]
    for registry in registries:
        at = registry.get("registryServer") or "docker.io"
        if registry.get("username") and at.removeprefix("https://").rstrip("/") == server:
            break
    else:
        yield None
        return
    pair = f"{registry['username']}:{registry.get('password') or ''}".encode()
    known = "https://index.docker.io/v1/" if server == "docker.io" else server
    with tempfile.TemporaryDirectory(prefix="batchexec-registry-") as directory:  # for its owner alone
        file = os.open(f"{directory}/config.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(file, "w") as out:
            json.dump({"auths": {known: {"auth": base64.b64encode(pair).decode()}}}, out)
        yield directory

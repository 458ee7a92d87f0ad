"""The worker as a fork server's zipapp (docs/fork-server.md): preload, run, postmortem."""

from __future__ import annotations

import contextlib
import encodings.idna  # noqa: F401 - what every task needs is loaded before the fork: this by socket, for a host's name
import http.client  # noqa: F401
import importlib
import os
import sys

from batchexec._wire import names

from . import crash, items, store, task  # noqa: F401

if os.environ.get("AZ_BATCH_ACCOUNT_URL", "").startswith("https:"):
    store.trusted()  # where the service has TLS, so has storage

_attempted: set[str] = set()


def preload(modules: list[str]) -> None:
    """Import modules that tasks need; one that cannot be imported fails in the task, with its own error."""
    for name in modules:
        _attempted.add(name)
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def run(argv: list[str], env: dict[str, str], cwd: str) -> int | None:
    preloads = task.PreloadRequest(int(env[names.ENV_PRELOAD_FD]), _attempted)
    sys.argv = [""]
    return task.run(task.Task(env, cwd), preloads, first_run=env.get(names.ENV_FIRST_RUN) == "1")


def postmortem(argv: list[str], env: dict[str, str], cwd: str, status: int) -> None:
    crash.report(task.Task(env, cwd), status)

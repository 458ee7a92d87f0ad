"""The worker as a fork server's zipapp (docs/fork-server.md): preload, run, postmortem."""

from __future__ import annotations

import contextlib
import encodings.idna  # noqa: F401 - what every task needs is loaded before the fork: this by socket, for a host's name
import http.client  # noqa: F401
import importlib
import os
import sys

from batchexec._wire import names

from . import chunk, crash, kept_archive, refusals, running, store, task  # noqa: F401

if os.environ.get("AZ_BATCH_ACCOUNT_URL", "").startswith("https:"):
    store.trusted()  # where the service has TLS, so has storage

kept_archive.keep("batchexec", globals()["__loader__"])  # what only some tasks need is imported there

_attempted: set[str] = set()
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # 1 while modules are preloaded


def preload(modules: list[str]) -> None:
    """Import modules that tasks need; one that cannot be imported fails in the task, with its own error."""
    for name in modules:
        _attempted.add(name)
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def run(argv: list[str], env: dict[str, str], cwd: str) -> int | None:
    preloads = running.PreloadRequest(int(env[names.ENV_PRELOAD_FD]), _attempted)
    sys.argv = [""]
    if _attempted and any(env.get(name, "1") != "1" for name in _THREADS):
        from . import threads

        threads.follow(env)
    secret = {name: env[name] for name in names.ENV_SECRET if name in env}
    own = task.Task(env, cwd)
    own.is_forked = True
    try:
        return running.run(own, preloads, first_run=env.get(names.ENV_FIRST_RUN) == "1")
    except refusals.StartPlainly:
        return _run_plainly(argv, {**env, **secret}, cwd)


def _run_plainly(argv: list[str], env: dict[str, str], cwd: str) -> int:
    """Run the task by its command line, and end as it ends."""
    import signal
    import subprocess

    code = subprocess.call(argv, env=env, cwd=cwd)
    if code > 128 and code - 128 in set(signal.Signals):  # of the process that ran it: its crash is reported again
        os.kill(os.getpid(), code - 128)
    return code


def postmortem(argv: list[str], env: dict[str, str], cwd: str, status: int) -> None:
    crash.report(task.Task(env, cwd), status)

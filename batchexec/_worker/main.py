"""The worker as a program: a supervisor that forks the process which runs user code, and outlives it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import traceback

from batchexec._wire import names


def main() -> int:
    """Run the task that the environment describes. The exit code is 0 whenever a result was stored."""
    from .running import run
    from .task import Task

    env, cwd = dict(os.environ), os.getcwd()
    _hide_secrets()
    if not hasattr(os, "fork"):
        return run(Task(env, cwd)) or 0
    child = os.fork()
    if child == 0:
        code = 1
        try:
            sys.argv = [""]
            code = run(Task(env, cwd)) or 0
        except BaseException:  # noqa: BLE001 - a forked child must never run on into its parent's code
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):  # user code may have closed or replaced it
                    stream.flush()
            os._exit(code)
    waited = os.waitpid(child, 0)[1]
    status = -os.WTERMSIG(waited) if os.WIFSIGNALED(waited) else os.WEXITSTATUS(waited)
    if status != 0:
        _report(env, cwd, status)
    return 128 - status if status < 0 else status


def _hide_secrets() -> None:
    """Overwrite key and SAS where the kernel keeps this process's first environment for all to read."""
    for name in names.ENV_SECRET:
        os.environ.pop(name, None)
    try:
        with open("/proc/self/stat", "rb") as file:
            # Fields 50 and 51 (env_start, env_end), counted from behind the program's name in parentheses.
            start, end = map(int, file.read().rpartition(b")")[2].split()[47:49])
    except OSError:
        return  # no Linux: there is no such place
    block = ctypes.string_at(start, end - start)
    for name in names.ENV_SECRET:
        for setting in block.split(b"\0"):
            if setting.startswith(f"{name}=".encode()):
                ctypes.memset(start + block.index(setting), ord("*"), len(setting))


def _report(env: dict[str, str], cwd: str, status: int) -> None:
    from . import crash
    from .store import StoreError
    from .task import Task

    try:
        crash.report(Task(env, cwd), status)
    except StoreError as error:
        print(f"batchexec worker: no log stored: {error}", file=sys.stderr)

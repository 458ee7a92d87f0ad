"""The worker as a program: a supervisor that forks the process which runs user code, and outlives it."""

from __future__ import annotations

import os
import sys
import traceback


def main() -> int:
    """Run the task that the environment describes. The exit code is 0 whenever a result was stored."""
    from . import task

    env, cwd = dict(os.environ), os.getcwd()
    if not hasattr(os, "fork"):
        return task.run(task.Task(env, cwd)) or 0
    child = os.fork()
    if child == 0:
        code = 1
        try:
            sys.argv = [""]
            code = task.run(task.Task(env, cwd)) or 0
        except BaseException:  # noqa: BLE001 - a forked child must never run on into its parent's code
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != 0:
        _report(env, cwd, status)
    return 128 - status if status < 0 else status


def _report(env: dict[str, str], cwd: str, status: int) -> None:
    from . import crash, task
    from .store import StoreError

    try:
        crash.report(task.Task(env, cwd), status)
    except StoreError as error:
        print(f"batchexec worker: no log stored: {error}", file=sys.stderr)

"""What a process of the fork server does on its own side: take its place, run, end. Standard library only."""

from __future__ import annotations

import errno
import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn


def become_program(request: dict[str, Any], failure: int) -> NoReturn:
    """Write the errno to `failure` where it cannot be run. What belongs to the server is closed by exec."""
    try:
        enter()
        take_place(request, fresh=True)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.execvpe(request["argv"][0], request["argv"], request["env"])
    except OSError as error:
        os.write(failure, str(error.errno or errno.EIO).encode())
    finally:
        os._exit(127)


def enter() -> None:
    """Leave the server's session and signals."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def take_place(request: dict[str, Any], fresh: bool) -> None:
    """Go to the task's directory and output files. Standard input is the null device already, as the server's."""
    os.chdir(request["cwd"])
    _redirect(request["stdout"], fresh, 1)
    _redirect(request["stderr"], fresh, 2)


def _redirect(path: str, fresh: bool, target: int) -> None:
    """An earlier run of the task may have left a link there, or a pipe, which would be waited for."""
    if fresh:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK, 0o640)
    os.set_blocking(file, True)
    os.dup2(file, target, inheritable=True)
    if file != target:
        os.close(file)


def replace_environ(env: dict[str, str]) -> None:
    """By difference: os.environ is slow to clear and to fill."""
    for name in [name for name in os.environ if name not in env]:
        del os.environ[name]
    for name, value in env.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def receive(line: int) -> bytes:
    """A request; nothing when the server wants none of us any more."""
    request = b""
    while not request.endswith(b"\n"):
        data = os.read(line, 1 << 16)
        if not data:
            return b""
        request += data
    return request


def show_error() -> None:
    """Print the exception at hand to standard error; unlike traceback, there is nothing to load."""
    sys.__excepthook__(*sys.exc_info())


def leave(code: int) -> NoReturn:
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code & 0xFF)

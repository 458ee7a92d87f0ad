"""A program as a process: found, started in a group of its own, waited for, and ended with all that it started."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import time
from typing import NamedTuple, Optional, Sequence

from . import strays
from .streams import Stream, followed

_GRACE_SECONDS = 5.0  # between the signals that ask and that force

# Ends the group whose number it read last, once this process is gone: told by its standard input.
_GUARD = 'g=; while read -r n; do g=$n; done; [ -z "$g" ] || kill -9 "-$g"'

_guard: Optional["subprocess.Popen[bytes]"] = None


class CannotStart(Exception):
    """The program is not there, or cannot be run. `exit_code` is what a shell would have ended with."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class Ended(NamedTuple):
    """`status`: the exit code, or minus the signal that killed it."""

    status: int
    seconds: float
    timed_out: bool


def find(word: str, directory: str, path: str) -> str:
    """The program that a command's first word names. Raises CannotStart."""
    if "/" not in word:
        found = shutil.which(word, path=path)
        if found is None:
            raise CannotStart(f"there is no program {word!r} on the node's PATH ({path})", 127)
        return found
    place = os.path.join(directory, word)
    if not os.path.exists(place):
        hint = " (a path of the node; one of yours is sent when it is relative)" if word.startswith("/") else ""
        raise CannotStart(f"there is no program {word!r}{hint}", 127)
    return word  # it is started from that directory


def run(
    argv: Sequence[str],
    program: str,
    directory: str,
    env: dict[str, str],
    streams: tuple[Stream, Stream],
    timeout: Optional[float],
    guarded: bool,
) -> Ended:
    """Run the program to its end and that of its group. `streams` take its output; `guarded`: it ends with this
    process, whatever ends that (one program at a time), and no process that it started outlives it. Raises
    CannotStart."""
    if guarded:
        _tell_guard("")  # it is there before the program is
        strays.adopt()
    before = strays.children() if guarded else frozenset()
    started = time.perf_counter()
    output = followed(streams)
    try:
        try:
            process = subprocess.Popen(
                list(argv),
                executable=program,
                cwd=directory,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output.writers[0],
                stderr=output.writers[1],
                start_new_session=True,
                preexec_fn=_tell_guard_of_me if guarded else None,
            )
        except OSError as error:
            if guarded:
                _tell_guard("")
            raise _cannot_start(error, program, argv[0]) from error
        timed_out = False
        try:
            output.start()
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                timed_out = True
                _signal(process.pid, "SIGTERM")
                try:
                    process.wait(_GRACE_SECONDS)
                except subprocess.TimeoutExpired:
                    pass
        finally:
            seconds = time.perf_counter() - started
            # What it left running would write on while its files are read.
            _signal(process.pid, "SIGKILL")
            process.wait()
            if guarded:
                strays.end(before)
                _tell_guard("")
    finally:
        output.close()
    return Ended(process.returncode, seconds, timed_out)


def _signal(group: int, name: str) -> None:
    if not hasattr(os, "killpg"):
        return
    try:
        os.killpg(group, getattr(signal, name))
    except (ProcessLookupError, PermissionError):
        pass  # all of it has ended


def _tell_guard(group: str) -> None:
    """Have the guard end this group if this process dies; "" for none."""
    global _guard
    for _ in range(2):
        if _guard is None or _guard.poll() is not None:  # the first program, or the node ended it with an earlier task
            _guard = subprocess.Popen(
                ["/bin/sh", "-c", _GUARD],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        assert _guard.stdin is not None
        try:
            _guard.stdin.write(group.encode() + b"\n")
            _guard.stdin.flush()
            return
        except OSError:
            _guard = None


def _tell_guard_of_me() -> None:
    """In the process that becomes the program, already in its own group: told by the worker, the guard would not know
    of a program whose worker dies as it starts."""
    assert _guard is not None
    assert _guard.stdin is not None
    os.write(_guard.stdin.fileno(), b"%d\n" % os.getpid())


def _cannot_start(error: OSError, program: str, word: str) -> CannotStart:
    if error.errno == errno.E2BIG:
        return CannotStart("its command line and environment are longer than the node's system takes", 126)
    if error.errno == errno.ENOENT:
        line = _first_line(program)
        if line.startswith(b"#!"):
            name = line[2:].decode("utf-8", "replace").split(" ")[0].rstrip("\n")
            return CannotStart(f"{word!r} is a script for {name!r}, which is not on the node", 127)
        return CannotStart(f"{word!r} needs a loader that is not on the node: it was built for another Linux", 127)
    if error.errno == errno.ENOEXEC:
        return CannotStart(
            f"{word!r} is no program that this node can run: no interpreter line, or another machine's", 126
        )
    if error.errno == errno.EACCES:
        return CannotStart(f"{word!r} may not be executed on the node", 126)
    return CannotStart(f"{word!r}: {error.strerror or error}", 126)


def _first_line(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.readline(4096)
    except OSError:
        return b""

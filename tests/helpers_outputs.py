"""What tests of outputs have workers leave. Imports nothing that a bare interpreter lacks."""

from __future__ import annotations

import os
import stat
import sys
from typing import IO

NAMES = (
    "plain.out",
    'sp ace\'s "quoted".out',
    "new\nline.out",
    "-leading.out",
    "ünï.out",
    "\udcff\udcfe.out",  # no UTF-8
    "x" * 200 + ".out",
    "sub/dir/deep.out",
    "empty.out",
    "%41.out",
)


def content(number: int, name: str) -> bytes:
    return b"" if name == "empty.out" else os.fsencode(name) * (number + 1)


def leave_all(number: int) -> list[str]:
    """One file of each name, and some that match no pattern; says what was there before."""
    found = sorted(os.listdir("."))
    for name in NAMES:
        os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
        with open(name, "wb") as file:
            file.write(content(number, name))
    os.chmod("plain.out", 0o755)
    for name in ("plain.txt", ".hidden.out"):
        open(name, "w").close()
    if number == 1:
        raise KeyError(number)
    return found


def leave(name: str, text: str) -> str:
    """Leave one file."""
    os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
    with open(name, "w") as file:
        file.write(text)
    return text


def leave_megabytes(name: str, count: int) -> int:
    """Leave one file of so many megabytes, none of them like another; give back what this process had in memory."""
    with open(name, "wb") as file:
        for number in range(count):
            file.write(number.to_bytes(4, "big") * (1 << 18))
    return peak_memory()


def peak_memory() -> int:
    """Most bytes of memory that this process had at once (VmHWM)."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))


def leave_links(target: str) -> None:
    """Links within the directory, one that leads out of it to `target`, and a pipe."""
    leave("real.dat", "real")
    os.symlink("real.dat", "inner.out")
    os.symlink(target, "outer.out")
    os.mkfifo("pipe.out")


def leave_hole(size: int) -> None:
    """A file of `size` bytes that takes no room."""
    with open("hole.out", "wb") as file:
        file.truncate(size)


_log: list[IO[str]] = []


def write_log(number: int) -> int:
    """As a logger does: the first call opens the file, all of this process write to it."""
    if not _log:
        _log.append(open("run.out", "w"))  # noqa: SIM115
    _log[0].write(f"{number}\n")
    _log[0].flush()
    return number


def home() -> tuple[str, str, bool]:
    """HOME, the working directory, and whether HOME can be written to."""
    found = os.environ["HOME"]
    leave(os.path.join(found, "mine"), "")
    return found, os.getcwd(), os.path.exists(os.path.expanduser("~/mine"))


def leave_and_die(name: str) -> None:
    leave(name, "")
    sys.stdout.flush()
    os._exit(3)


def leave_locked_directory() -> None:
    """A directory that its own user may not write to."""
    leave("locked/below/file", "")
    os.chmod("locked/below", stat.S_IRUSR)
    os.chmod("locked", stat.S_IRUSR | stat.S_IXUSR)


def environment(*names: str) -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in names}


def leave_megabytes_within(name: str, count: int, memory: int) -> None:
    """The same in a process that may have only so many bytes more than now, until its end."""
    import resource

    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + memory, now + memory))
    leave_megabytes(name, count)

"""Whether a local program can run on a node: told from the file, before anything is sent."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Collection
from typing import NamedTuple

from batchexec.errors import FilesError

from . import elf

_LDD_SECONDS = 20
_MACHO = {bytes.fromhex(magic) for magic in ("feedface", "feedfacf", "cefaedfe", "cffaedfe", "cafebabe", "bebafeca")}
# In every image that has a Python: the C library's own, and what Debian's smallest images have beside it.
_EVERYWHERE = re.compile(
    r"(ld-linux|ld64|libc|libm|libdl|librt|libpthread|libutil|libresolv|libnsl|libanl|libcrypt|libgcc_s|libstdc\+\+|libz)"
    r"[-.\w]*\.so[.\d]*\Z|ld-linux[-\w]*\.so\.\d+\Z|linux-vdso\.so\.1\Z"
)
_ALIASES = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}
# Directories of interpreters: the same on every Linux, and those that no two machines share.
_SYSTEM = ("/bin/", "/usr/bin/", "/usr/local/bin/", "/sbin/", "/usr/sbin/")
_OF_THIS_MACHINE = ("/home/", "/Users/", "/tmp/")


class Target(NamedTuple):
    """Where a program shall run: the machine's kind, and whether it is this one."""

    machine: str
    here: bool


def this_machine() -> Target:
    return Target(_machine(platform.machine()), True)


def target_of(vm_size: str) -> Target:
    """The nodes of a VM size: Arm sizes have a `p` among the letters behind their vCPUs (Standard_D4ps_v5)."""
    is_arm = re.match(r"(?i)standard_[a-z]+\d+(-\d+)?[a-z]*p[a-z]*(_|\Z)", vm_size) is not None
    return Target("aarch64" if is_arm else "x86_64", False)


def check(path: str, target: Target, *, called: str = "", sent: Collection[str] = (), written: str = "") -> list[str]:
    """What a node must have for the program `path` to run there; a text for each. `sent` are base names of files that
    go with it, `written` is how a command names it as a file. Raises FilesError for one that cannot run."""
    what = repr(called or path)
    written = written or called or path
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
            if head[:4] == b"\x7fELF":
                file.seek(0)
                return _check_elf(what, path, elf.read(file), target, sent)
    except OSError as error:
        raise FilesError(f"{what} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise FilesError(f"{what} cannot be run: it is {error}") from error
    if head[:2] == b"MZ":
        raise FilesError(f"{what} is a program for Windows; the nodes run Linux: send one that was built for Linux")
    if head[:4] in _MACHO and not head.startswith(b"\xca\xfe\xba\xbe\0\0\0\x34"):  # a Java class has the same magic
        raise FilesError(f"{what} is a program for macOS; the nodes run Linux: send one that was built for Linux")
    warnings: list[str] = []
    if head[:2] == b"#!":
        line = head.partition(b"\n")[0]
        warnings = _check_script(what, line, target)
    else:
        raise FilesError(
            f"{what} is neither a program for Linux nor a script that begins with '#!': give the interpreter in the "
            f"command, as in '{'sh' if path.endswith('.sh') else 'python3'} {written} ...'"
        )
    if os.name == "posix" and not os.access(path, os.X_OK):
        raise FilesError(
            f"{what} is not marked as executable: chmod +x it, or give its interpreter in the command, as in "
            f"'{_interpreter(line)} {written} ...'"
        )
    return warnings


def _check_elf(what: str, path: str, found: elf.Elf, target: Target, sent: Collection[str]) -> list[str]:
    if found.machine != target.machine:
        where = "this machine is" if target.here else "the nodes are"
        raise FilesError(f"{what} is a program for {found.machine}; {where} {target.machine}: send one built for that")
    if os.name == "posix" and not os.access(path, os.X_OK):
        raise FilesError(f"{what} is not marked as executable: chmod +x it")
    if target.here and found.loader and not os.path.exists(found.loader):
        raise FilesError(f"{what} needs the loader {found.loader!r}, which is not here: build it for this Linux")
    places = _ldd(path) if sys.platform == "linux" and found.machine == _machine(platform.machine()) else {}
    missing = [name for name, place in places.items() if place is None and name not in sent]
    if missing:
        raise FilesError(
            f"{what} needs shared libraries that are not found here either: {', '.join(missing)}. Install them, or "
            "send them along (app=, inputs=) with LD_LIBRARY_PATH in env="
        )
    if target.here:
        folder = os.path.join(os.path.dirname(os.path.abspath(path)), "")
        beside = [place for name, place in places.items() if place and name not in sent]
        beside = [os.path.relpath(place) for place in beside if os.path.abspath(place).startswith(folder)]
        if not beside:
            return []
        return [f"{what} finds shared libraries beside it here, which are not sent: inputs={beside!r} sends them along"]
    # ldd also names those that the libraries need themselves.
    foreign = [name for name in places or found.needed if name not in sent and not _EVERYWHERE.match(name)]
    if not foreign:
        return []
    named = ", ".join(f"{name} ({places[name]})" if places.get(name) else name for name in foreign)
    return [
        f"{what} needs shared libraries that not every image has: {named}. They must be in image=, or be sent along"
    ]


def _check_script(what: str, line: bytes, target: Target) -> list[str]:
    if line.endswith(b"\r"):
        raise FilesError(
            f"{what}: its first line ends as on Windows (CR LF), so that no Linux finds its interpreter: save it with "
            "line ends of Unix"
        )
    words = line[2:].decode("utf-8", "replace").split()
    if not words:
        raise FilesError(f"{what}: its first line '#!' names no interpreter")
    name = words[0]
    if target.here and not os.path.exists(name):
        raise FilesError(f"{what}: its first line names the interpreter {name!r}, which is not here")
    if target.here or name.startswith(_SYSTEM):
        return []
    where = f"{what}: its first line names the interpreter {name!r}"
    better = f"'#!/usr/bin/env {os.path.basename(name)}' is found on any"
    if name.startswith((*_OF_THIS_MACHINE, f"{sys.prefix}/", f"{os.path.expanduser('~')}/")):
        raise FilesError(f"{where}, a path of this machine, which nodes do not have: {better}")
    return [f"{where}, which must be in image=: {better}"]


def _interpreter(line: bytes) -> str:
    """What the first line of a script names, as one would call it."""
    first, *others = line[2:].decode("utf-8", "replace").split()
    if os.path.basename(first) == "env":  # such as `env -S A=1 python3 -u`
        first = next((word for word in others if not word.startswith("-") and "=" not in word), first)
    return os.path.basename(first)


def _ldd(path: str) -> dict[str, str | None]:
    """Where each shared library is found here, None for one that is not; nothing where `ldd` cannot tell."""
    ldd = shutil.which("ldd")
    if ldd is None:
        return {}
    try:
        done = subprocess.run([ldd, path], capture_output=True, text=True, timeout=_LDD_SECONDS, errors="replace")
    except (OSError, subprocess.TimeoutExpired):
        return {}
    places: dict[str, str | None] = {}
    for line in done.stdout.splitlines():
        name, arrow, place = line.strip().partition(" => ")
        if arrow:
            places[os.path.basename(name)] = None if place.startswith("not found") else place.rsplit(" (", 1)[0]
    return places


def _machine(name: str) -> str:
    return _ALIASES.get(name.lower(), name)

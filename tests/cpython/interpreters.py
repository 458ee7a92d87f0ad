"""Interpreters here that carry CPython's own test package, and a virtual environment of each for batchexec."""

from __future__ import annotations

import fcntl
import functools
import glob
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
_ENVIRONMENTS = ROOT / ".venvs"
_OLDEST = (3, 10)
_NEWEST_MINOR = 20
_PROBE = """
import importlib.util, json, sys
suite = bool(importlib.util.find_spec("test")) and bool(importlib.util.find_spec("test.test_concurrent_futures"))
print(json.dumps([sys.version_info[:3], suite]))
"""


class Interpreter(NamedTuple):
    version: tuple[int, ...]
    path: str

    @property
    def minor(self) -> str:
        return ".".join(map(str, self.version[:2]))


@functools.cache
def with_suite() -> list[Interpreter]:
    """The newest of each minor that can import the suite, the newest minor first."""
    found: dict[str, Interpreter] = {}
    for path in dict.fromkeys(_candidates()):
        probe = subprocess.run([path, "-I", "-c", _PROBE], capture_output=True, text=True, check=False)
        if probe.returncode:
            continue  # not a Python of today, or a shim for one that is not installed
        version, suite = json.loads(probe.stdout)
        interpreter = Interpreter(tuple(version), path)
        best = found.get(interpreter.minor)
        if suite and interpreter.version[:2] >= _OLDEST and (best is None or best.version < interpreter.version):
            found[interpreter.minor] = interpreter
    return sorted(found.values(), reverse=True)


def environment(interpreter: Interpreter) -> str:
    """The Python of a virtual environment with this checkout installed, made anew when its requirements changed."""
    home = _ENVIRONMENTS / f"py{interpreter.minor}"
    python = home / "bin" / "python"
    stamp = home / "installed"
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest() + interpreter.path
    _ENVIRONMENTS.mkdir(exist_ok=True)
    with open(_ENVIRONMENTS / f"py{interpreter.minor}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes may want it at once
        if not (stamp.exists() and stamp.read_text() == wanted):
            _run(interpreter.path, "-m", "venv", "--clear", str(home))
            _run(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-e", str(ROOT))
            stamp.write_text(wanted)
    return str(python)


def _candidates() -> Iterator[str]:
    if not sys.platform.startswith("win"):
        pyenv = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
        yield from sorted(glob.glob(f"{glob.escape(pyenv)}/versions/3.*/bin/python3"))
        for minor in range(_OLDEST[1], _NEWEST_MINOR):
            path = shutil.which(f"python3.{minor}")
            if path:
                yield path
    yield sys.executable


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")

"""Functions that need packages which their workers lack. Imports nothing that a bare interpreter lacks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any


def use_published(number: int) -> tuple[int, str | None, list[str]]:
    """By a pure package and a compiled one, which come with others that the tests are run by; who installed them."""
    from importlib.metadata import distribution

    import frozenlist
    import sortedcontainers

    frozen = frozenlist.FrozenList(sortedcontainers.SortedList([number, 3, 1]))
    frozen.freeze()
    compiled = sys.modules["frozenlist._frozenlist"].__file__
    installer = distribution("frozenlist").read_text("INSTALLER")
    return sum(frozen), installer, [str(sortedcontainers.__file__), str(compiled)]


def look_into_environment(*names: str) -> tuple[list[str], list[str]]:
    """Modules of these names that are in the task's environment, and those that are elsewhere."""
    import importlib

    files = {name: str(importlib.import_module(name).__file__) for name in names}
    own = [name for name, file in files.items() if "/batchexec/environments/" in file]
    return own, [name for name in names if name not in own]


def use_made(number: int) -> dict[str, Any]:
    """By wheels that tests have made: `first`, which has a program, needs `second`."""
    import first  # type: ignore[import-not-found]
    import second  # type: ignore[import-not-found]

    program = subprocess.run(["say-first"], capture_output=True, text=True)
    interpreter = subprocess.run([sys.executable, "-c", "import first; first.say()"], capture_output=True, text=True)
    return {
        "versions": (first.second.VERSION, second.VERSION),
        "file": first.__file__,
        "said": program.stdout + interpreter.stdout,
        "environ": dict(os.environ),
        "number": number,
    }


def make_wheels(folder: Any) -> Any:
    """What `use_made` needs, and an older and a newer version of a part of it; the folder."""
    from helpers_wheels import wheel

    text = "import second\n\n\ndef say():\n    print('said', second.VERSION)\n"
    wheel(folder, "first", files={"first.py": text}, requires=["second"], scripts={"say-first": "first:say"})
    for version in ("1.0", "2.0"):
        wheel(folder, "second", version)
    return folder


def use_second(number: int) -> str:
    import second

    return str(second.VERSION)


def version_of(module: Any) -> str:
    return str(module.VERSION)


def installed_as(*names: str) -> dict[str, tuple[str, bool]]:
    """Of distributions their versions, and whether they are in the task's environment."""
    from importlib.metadata import distribution

    found = [distribution(name) for name in names]
    return {one.metadata["Name"]: (one.version, "/environments/" in str(one.locate_file(""))) for one in found}


def use_large(name: str) -> str:
    import importlib

    return str(importlib.import_module(name).VERSION)


def crash_in_environment() -> None:
    import second

    assert second.VERSION == "1.0"
    os.kill(os.getpid(), signal.SIGSEGV)

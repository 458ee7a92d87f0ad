"""Functions that need packages which their workers lack. Imports nothing that a bare interpreter lacks."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any


def use_published(number: int) -> tuple[int, str, list[str]]:
    """By a pure package and a compiled one, which come with others that the tests are run by."""
    import frozenlist
    import sortedcontainers

    frozen = frozenlist.FrozenList(sortedcontainers.SortedList([number, 3, 1]))
    frozen.freeze()
    compiled = sys.modules["frozenlist._frozenlist"].__file__
    return sum(frozen), sys.executable, [str(sortedcontainers.__file__), str(compiled)]


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

"""What a Command is made of, looked at when it is made. What cannot be meant is a TypeError or ValueError."""

from __future__ import annotations

import math
import numbers
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .templates import NAME
from .values import BlobPath


def checked_command(
    command: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], shell: bool
) -> str | tuple[str | Path, ...]:
    if isinstance(command, str):
        if not command.strip():
            raise ValueError("the command is empty")
        return command
    if isinstance(command, os.PathLike):
        command = [command]
    if not isinstance(command, (list, tuple)):
        raise TypeError(f"a command is one text or a list of words, got {command!r}")
    if shell:
        raise TypeError("shell=True takes the command as one text")
    for word in command:
        if not isinstance(word, (str, os.PathLike)):
            raise TypeError(f"the words of a command are texts and paths, got {word!r}: give {str(word)!r}")
    if not command:
        raise ValueError("the command is empty")
    return tuple(word if isinstance(word, str) else Path(word) for word in command)


def checked_paths(given: Any) -> tuple[tuple[str | None, Any], ...]:
    """`inputs=` as (name or None, path) pairs."""
    if given is None:
        return ()
    pairs: list[tuple[str | None, Any]]
    if isinstance(given, Mapping):
        pairs = [(_placeholder_name(name), one) for name, one in given.items()]
    elif isinstance(given, (str, os.PathLike, BlobPath)):
        pairs = [(None, given)]
    else:
        pairs = [(None, one) for one in _several("inputs", given)]
    for _, one in pairs:
        if not isinstance(one, (str, os.PathLike, BlobPath)):
            raise TypeError(f"inputs: expected paths, globs and BlobPaths, got {one!r}")
    return tuple((name, one if isinstance(one, (str, BlobPath)) else Path(one)) for name, one in pairs)


def checked_patterns(given: Any) -> tuple[tuple[str | None, str], ...] | None:
    """`outputs=` as (name or None, pattern) pairs; None stays None: those of the executor."""
    if given is None:
        return None
    pairs: list[tuple[str | None, Any]]
    if isinstance(given, Mapping):
        pairs = [(_placeholder_name(name), one) for name, one in given.items()]
    else:
        several = (given,) if isinstance(given, (str, os.PathLike)) else _several("outputs", given)
        pairs = [(None, one) for one in several]
    for _, one in pairs:
        if not isinstance(one, (str, os.PathLike)):
            raise TypeError(f"outputs: expected patterns of files, as '*.csv', got {one!r}")
    found = [(name, os.fspath(one).replace("\\", "/")) for name, one in pairs]
    for _, pattern in found:
        check_pattern(pattern)
    return tuple(found)


def check_pattern(pattern: str) -> None:
    absolute = pattern.startswith("/") or re.match(r"[A-Za-z]:/", pattern)
    if absolute or not pattern.strip("./") or ".." in pattern.split("/") or "\0" in pattern:
        raise ValueError(
            f"outputs: {pattern!r} is no pattern of files below the run's directory, as '*.csv' or 'plots/**/*.png'"
        )


def checked_env(given: Any) -> dict[str, str]:
    """Names alone, and those whose value is None, have the values that they have here."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        given = dict.fromkeys([given] if isinstance(given, str) else _several("env", given))
    missing = [str(name) for name, value in given.items() if value is None and name not in os.environ]
    if missing:
        raise ValueError(f"env: {', '.join(missing)} cannot be passed on, being not set here; give {{name: value}}")
    found = {name: _literal(os.environ[name]) if value is None else str(value) for name, value in given.items()}
    for name in found:
        if not isinstance(name, str) or not re.fullmatch(r"[^=\s\0]+", name) or name.startswith(("AZ_BATCH_", "BX_")):
            raise ValueError(f"env: no variable can be called {name!r} here")
    return found


def checked_amount(name: str, given: Any, *, whole: bool = False) -> Any:
    """`cores=`, `memory=` or `timeout=`: None, or a number above 0, which numpy may have made."""
    if given is None:
        return None
    is_whole = isinstance(given, numbers.Integral)
    if isinstance(given, bool) or not (is_whole or (isinstance(given, numbers.Real) and not whole)):
        raise TypeError(f"{name}={given!r}: expected a {'whole ' if whole else ''}number")
    amount = int(given) if is_whole else float(given)
    if not 0 < amount < math.inf:
        raise ValueError(f"{name}={given!r}: expected more than 0")
    return amount


def _several(name: str, given: Any) -> list[Any]:
    if isinstance(given, Iterable) and not isinstance(given, bytes):
        return list(given)
    raise TypeError(f"{name}={given!r}: expected a text, several in a list, or a mapping")


def _literal(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _placeholder_name(name: object) -> str:
    if not isinstance(name, str) or not NAME.match(name):
        raise ValueError(f"{name!r} cannot be a placeholder's name: letters, digits and '_'")
    return name

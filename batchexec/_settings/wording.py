"""What error texts say of a value that is wrong and of a name that nobody knows."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from batchexec._logins import has_login

_OFTEN_MEANT = {
    "low_priority": "spot",
    "account": "batch_account",
    "key": "batch_key",
    "endpoint": "batch_endpoint",
    "nodes": "max_nodes",
    "pool": "pool_id",
    "connection_string": "storage_connection_string",
}


def quoted(value: Any) -> str:
    """The value for an error text, but nothing that could be a key or SAS pasted into the wrong field."""
    if not isinstance(value, (str, int, float)):
        return f"a value of type {type(value).__name__}"
    text = repr(value)
    may_be_secret = len(text) > 200 or has_login(text) or re.search(r"(?i)sig=|key=|[a-z0-9+/=_%-]{30,}", text)
    return "a text that is not shown" if may_be_secret else text


def unknown(what: str, name: str, valid: Iterable[str]) -> str:
    import difflib

    names = list(valid)
    meant = _OFTEN_MEANT.get(name) or next(iter(difflib.get_close_matches(name, names, 1)), None)
    hint = f"did you mean {meant!r}?" if meant else f"valid are {', '.join(sorted(names))}"
    return f"unknown {what} {name!r}: {hint}"

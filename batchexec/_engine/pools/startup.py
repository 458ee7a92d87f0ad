"""The start task of a pool: what each node runs as root before it takes tasks."""

from __future__ import annotations

import shlex
from typing import Any

Json = dict[str, Any]

_SHELL = ("/bin/sh", "-c")
_TRIES_MORE = 1  # package servers stumble; the service runs it again on every boot and join anyway


def start_task(command: str) -> Json:
    """Run by a shell, which the service does not do by itself. No task starts on a node where it fails."""
    return {
        "commandLine": shlex.join([*_SHELL, command]),
        "userIdentity": {"autoUser": {"scope": "pool", "elevationLevel": "admin"}},
        "maxTaskRetryCount": _TRIES_MORE,
        "waitForSuccess": True,
    }


def start_command(pool: Json) -> str | None:
    """The command of a pool's start task; None without one of ours."""
    line = str((pool.get("startTask") or {}).get("commandLine") or "")
    try:
        words = shlex.split(line)
    except ValueError:  # no line of ours
        return None
    return words[2] if len(words) == 3 and tuple(words[:2]) == _SHELL else None

"""What pools, nodes, jobs and tasks have in common, and how a data directory learns of their changes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import datetime
from typing import Any, ClassVar

Body = dict[str, Any]
_serial = itertools.count(1)


class Resource:
    """What all have in common: an id, a body as the client gave it, a state with its times.

    With a data directory every attribute is kept but those that a class calls `transient`: they hold other objects,
    or follow from what is kept. An assignment tells the watcher by itself (see `watch`); `changed` tells it of what no
    assignment shows: a change inside of a list or a mapping, or that the resource is gone for good.
    """

    transient: ClassVar[frozenset[str]] = frozenset({"body", "seq"})  # they have columns of their own
    watcher: ClassVar[Callable[[Resource, str], object] | None] = None

    __slots__ = (
        "body",
        "created",
        "id",
        "modified",
        "previous_state",
        "previous_state_time",
        "seq",
        "state",
        "state_time",
        "version",
    )

    def __init__(self, id: str, body: Body, state: str, now: datetime) -> None:
        self.id = id
        self.body = body
        self.seq = next(_serial)
        self.version = self.seq
        self.state = state
        self.state_time = now
        self.previous_state: str | None = None
        self.previous_state_time: datetime | None = None
        self.created = now
        self.modified = now

    def move(self, state: str, now: datetime) -> None:
        """The one place where a state changes."""
        self.previous_state, self.previous_state_time = self.state, self.state_time
        self.state, self.state_time = state, now

    def touch(self, now: datetime) -> None:
        self.modified = now
        self.version = next(_serial)

    def changed(self) -> None:
        if Resource.watcher is not None:
            Resource.watcher(self, "")

    @property
    def etag(self) -> str:
        return f"0x{0x8DD000000000000 + self.version:X}"


def watch(watcher: Callable[[Resource, str], object] | None) -> None:
    """From now on call `watcher(resource, name)` when an attribute of that name was set; None: no longer.

    The class is changed at run time so that only this makes assignments dearer: without a data directory they cost
    what they always do, and they are the hot path. It is for the whole process, which serves one account.
    """
    Resource.watcher = watcher
    if watcher is None:
        Resource.__setattr__ = object.__setattr__  # type: ignore[method-assign]
        return

    def assign(self: Resource, name: str, value: object) -> None:
        object.__setattr__(self, name, value)
        watcher(self, name)

    Resource.__setattr__ = assign  # type: ignore[method-assign, assignment]


def next_serial() -> int:
    return next(_serial)


def continue_serials(first: int) -> None:
    """Count on where an earlier run ended, so that no serial number and no ETag comes twice."""
    global _serial
    _serial = itertools.count(first)

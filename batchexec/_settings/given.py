"""A value together with where it came from: what all the layers fill in and the derivations read."""

from __future__ import annotations

from typing import Any, NamedTuple

DEFAULT, FILE, ENVIRONMENT, CONFIG, KEYWORD = range(5)  # a higher level wins


class Origin(NamedTuple):
    level: int
    source: str
    derived: bool = False


class Given(NamedTuple):
    value: Any
    origin: Origin


UNSET = Origin(DEFAULT, "default")


class Secret(str):
    """A str that a repr, and so a traceback with locals or a logged dict, does not give away."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


def derived(value: str, source_field: str, source: Given) -> Given:
    text = f"derived from {source_field} ({source.origin.source})"
    return Given(value, Origin(source.origin.level, text, derived=True))

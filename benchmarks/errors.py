"""What makes a measurement worthless."""

from __future__ import annotations


class WrongResultError(Exception):
    """A contender answered something else than was asked for: its time means nothing."""

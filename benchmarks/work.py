"""The function that is not from the standard library: for batchexec, a module of the user's own that has to travel."""

from __future__ import annotations


def negate(number: int) -> int:
    return -number

"""What the tasks of one call need of their node, beside the code and data that travel with it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Needs:
    """The same for all chunks of a call."""

    timeout: float | None = None
    """Seconds that a task may run."""

"""Why a task does not run its chunk, as exceptions of the worker's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchexec._wire.payload import Frame


class Refusal(Exception):
    """The chunk as a whole cannot be run; `code` says why to the client, `fields` what it needs to know."""

    def __init__(self, code: str, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.code = code
        self.fields = fields
        self.frames: list[Frame] = []  # the exception behind it, pickled


class StartPlainly(Exception):
    """This process has modules loaded that the task needs of another version: a fresh one has to run it."""

"""Why a task did not start or did not succeed, as its failureInfo tells."""

from __future__ import annotations

from batchexec.emulator.state import Body


class CannotStart(Exception):
    """A task cannot start: `info` is its failureInfo."""

    def __init__(self, code: str, message: str, **details: str) -> None:
        super().__init__(message)
        self.info = failure("usererror", code, message, **details)


def failure(category: str, code: str, message: str, **details: str) -> Body:
    """A failureInfo object."""
    listed = [{"name": name, "value": value} for name, value in details.items()]
    return {"category": category, "code": code, "message": message, "details": listed}


TASK_ENDED = failure("usererror", "TaskEnded", "The task was ended by user request, by its job or by a time limit")

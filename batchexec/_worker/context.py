"""The task that this process runs, for those of our functions that run as the user's code (a program's run)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

if TYPE_CHECKING:
    from .files.placing import NodeFiles
    from .task import Task


class Context:
    """One task. There is one for as long as the chunk's items run."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.attachments: Any = None
        self.environment = task.environment  # where its packages are, if not in the image alone

    @property
    def files(self) -> NodeFiles:
        """The files that the chunk's items may ask for."""
        assert self.task.files is not None, "the chunk names no files"
        return self.task.files


current: Optional[Context] = None

"""The task that this process runs, for those of our functions that run as the user's code (a program's run)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from .logs import Streams
from .task import Task

if TYPE_CHECKING:
    from .files.placing import NodeFiles
    from .outputs import Attachments
    from .packages.installer import Made


class Context:
    """One task, and what its chunk's items may use: each is there where the chunk asks for it."""

    def __init__(self, task: Task, streams: Streams) -> None:
        self.task = task
        self.streams = streams
        self.named_files: Optional[NodeFiles] = None
        self.attachments: Optional[Attachments] = None  # what the items leave
        self.environment: Optional[Made] = None  # where the packages are, if not in the image alone

    @property
    def files(self) -> NodeFiles:
        """The sets of files that the chunk names."""
        assert self.named_files is not None, "the chunk names no files"
        return self.named_files


current: Optional[Context] = None

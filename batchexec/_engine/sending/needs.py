"""What the tasks of one call need of their node, beside the code and data that travel with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from batchexec._source.files.sets import FileSet


class Node(NamedTuple):
    """What one node has, and in how many task slots that is shared out."""

    what: str  # for messages: "a Standard_D4s_v5 node"
    slots: int
    cores: int | None  # None: nobody knows
    memory: float | None  # GiB
    gpus: int = 0
    is_local: bool = False


@dataclass(frozen=True)
class Needs:
    """The same for all chunks of a call."""

    slots: int = 1
    """Task slots that a task takes of its node."""
    threads: int = 0
    """Threads that libraries (BLAS, OpenMP) may use in a task; 0: as many as they like."""
    cores: int | None = None
    memory: float | None = None
    """GiB. Cores and memory as they were asked for: a pool that is there already may have other nodes."""
    node: Node | None = None
    """What `slots` were counted on."""
    timeout: float | None = None
    """Seconds that a task may run."""
    files: FileSet | None = None
    """Placed into the task's working directory before any code of the user runs."""
    outputs: tuple[str, ...] = ()
    """Patterns of files that each item may leave in the working directory, to be brought here."""
    output_dir: Any = "outputs/{item}"
    """Where they are put: a directory, `{item}` being the item's number in the executor; or a BlobPath."""

"""What goes into commands and comes out of them: BlobPath, CommandResult."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any


class BlobPath:
    """Blobs of the executor's storage account, as `container/name` or `container/prefix`.

    As an input: the blob of that name, or all below the prefix, read by the nodes and not by this machine. As
    `output_dir`: where outputs are left.
    """

    __slots__ = ("container", "prefix")

    container: str
    prefix: str

    def __init__(self, path: str) -> None:
        if "://" in path:
            raise ValueError(f"a BlobPath is 'container/prefix', without account and scheme: {path!r}")
        container, _, prefix = path.strip("/").partition("/")
        if not re.fullmatch(r"(?=.{3,63}\Z)[a-z0-9]+(-[a-z0-9]+)*|\$root|\$web", container):
            raise ValueError(
                f"a BlobPath begins with a container's name, 3 to 63 small letters, digits and hyphens: {path!r}"
            )
        object.__setattr__(self, "container", container)
        object.__setattr__(self, "prefix", prefix)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a BlobPath cannot be changed")

    def __truediv__(self, name: str) -> BlobPath:
        return BlobPath(f"{self}/{name}")

    def __str__(self) -> str:
        return f"{self.container}/{self.prefix}" if self.prefix else self.container

    def __repr__(self) -> str:
        return f"BlobPath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BlobPath) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return BlobPath, (str(self),)


@dataclass(frozen=True)
class CommandResult:
    """What came of one run of a Command.

    `stdout` and `stderr` are the last 1 MB of each, decoded as UTF-8 with replacements; `cut` tells that there was
    more. `exit_code` is 128 + n for a program killed by signal n.
    """

    exit_code: int
    stdout: str = field(repr=False)
    stderr: str = field(repr=False)
    outputs: list[Any]
    """Paths of all that was collected (BlobPaths where outputs stay in storage)."""
    named: dict[str, list[Any]] = field(repr=False)
    """The same by the names given in `outputs={name: pattern}`."""
    seconds: float
    """How long the program ran."""
    staging_seconds: float = field(repr=False)
    """How long it took before that to have its inputs in place."""
    node_id: str
    parameters: dict[str, Any]
    command: str
    """The command line as it was run, quoted as for a shell."""
    cut: bool = field(default=False, repr=False)
    timed_out: bool = field(default=False, repr=False)


for _public in (BlobPath, CommandResult):  # where users find them: pickles name no private module
    _public.__module__ = "batchexec.command"

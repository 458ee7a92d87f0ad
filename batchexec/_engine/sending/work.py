"""What travels between the user's thread and the engine: parts, calls, chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from batchexec._engine.sending import shared
from batchexec._report.words import described
from batchexec._source import Reached, dumps_recording
from batchexec._wire import envelope, payload
from batchexec.errors import PayloadError, PicklingError, SourceError

from .needs import Needs
from .packages import Environment

if TYPE_CHECKING:
    from pathlib import Path

    from batchexec._source.files.sets import FileSet
    from batchexec.futures import ChunkFuture, Finished, Outcome

_INLINE_BYTES = 4096  # a callable up to this size is repeated in each chunk, which saves its reading


class Part:
    """Something pickled once, with what it needs on the worker."""

    def __init__(self, obj: object, what: str) -> None:
        """Raises PicklingError, which names `what`."""
        buffers = payload.BufferCollector()
        try:
            with shared.collecting() as self.shared:
                pickled, self.reached = dumps_recording(obj, buffer_callback=buffers)
        except SourceError:
            raise
        except Exception as error:
            raise PicklingError(
                f"{what} cannot be pickled, so it cannot travel to a worker: {described(error)}"
            ) from error
        self.frames: list[payload.Frame] = [pickled, *buffers.frames]

    @property
    def inline(self) -> bool:
        return len(self.frames) == 1 and len(self.frames[0]) <= _INLINE_BYTES

    @cached_property
    def blob(self) -> tuple[str, bytes]:
        """Content hash and bytes, for a part that is a blob of its own."""
        data = envelope.join_frames({}, self.frames)
        return envelope.sha256(data), data


class ItemsPart:
    """The arguments of a chunk's items. Items that cannot be pickled are told apart, so that their neighbours run."""

    def __init__(self, items: Sequence[tuple[tuple[Any, ...], dict[str, Any]]]) -> None:
        self.failed: dict[int, PayloadError] = {}
        try:
            part = Part(list(items), "an argument")
        except PayloadError:
            kept = []
            for index, item in enumerate(items):
                try:
                    Part(item, "an argument")
                    kept.append(item)
                except PayloadError as error:
                    self.failed[index] = error
            part = Part(kept, "an argument")
        self.frames = part.frames
        self.shared = part.shared
        self.reached = part.reached


@dataclass(slots=True, eq=False)
class Call:
    """One `submit` or `map`: the callable and what all its chunks share."""

    name: str
    code: Part
    init: Part | None
    seed: int | None
    needs: Needs
    destination: Callable[[int, int], Path] | None = None  # of an item's files, by its number in executor and in call
    warned: bool = False  # of paths among its arguments
    preloads: tuple[str, ...] = ()  # modules of the worker itself that its tasks need and others do not
    finish: Callable[[Finished], Outcome] | None = None  # makes of what came of an item what its future gets

    @property
    def attaches(self) -> bool:
        """Whether files may follow the results of its chunks."""
        return bool(self.needs.outputs) or self.finish is not None


@dataclass(slots=True, eq=False)
class Chunk:
    """Some items of one call: one task at a time, one future."""

    number: int
    call: Call
    first_item: int  # number of its first item in the executor, which names its seed
    size: int
    items: ItemsPart | None  # None once it is in storage
    future: ChunkFuture[Any]
    offset: int = 0  # of its first item in its call, for messages
    is_map: bool = False
    filesets: tuple[FileSet, ...] = ()  # that its items may ask for by id, beside those of its call's needs
    generation: int = 0
    task_id: str = ""
    sent_at: float = 0.0
    asked_at: float = 0.0
    running: bool = False
    failed: dict[int, PayloadError] = field(default_factory=dict)
    environment: Environment | None = None  # of packages, which its task is run in
    doomed: bool = False  # failed with others of its environment, while its task may be on its way

    @property
    def parts(self) -> list[Part | ItemsPart]:
        return [part for part in (self.call.init, self.call.code, self.items) if part is not None]

    @property
    def reached(self) -> Reached:
        """Modules that its callable, initializer and arguments need on the worker."""
        reached = [found.reached for part in self.parts for found in (part, *part.shared)]
        local = frozenset().union(*(one.local for one in reached))
        third_party = sorted(set().union(*(one.third_party for one in reached)))
        return Reached(local, tuple(third_party))


__all__ = ["Call", "Chunk", "ItemsPart", "Part"]

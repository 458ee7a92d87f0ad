"""Chunks whose items may leave files: their results are read, and delivered once the files are in their places."""

from __future__ import annotations

import asyncio
import functools
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from .board import Board
from .results import destinations, outcomes
from .results.collector import Brought, Collector, read
from .results.leaving import Leaver
from .sending.work import Chunk
from .session import Session

Ask = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]


class Gatherer:
    """Reports each chunk to the board. `ask` makes a request for as long as the account is out of reach."""

    def __init__(self, board: Board, session: Session, ask: Ask) -> None:
        self._board = board
        self._session = session
        self._ask = ask
        job = session.job_id
        self._hint = (
            "Its value and its files are lost with the local service: make that place writable and run it again"
            if session.is_local
            else f"Its value and its files stay in storage: `batchexec fetch {job} --outputs DIR` brings them, "
            f"`batchexec clean {job}` deletes them"
        )
        self._collector = Collector(self._get, self._hint)
        self._leavers: dict[str, Leaver] = {}
        self._warned = False
        self._empty: Counter[tuple[str, ...]] = Counter()  # items without a file, by the patterns of their outputs
        self._met: set[tuple[str, ...]] = set()  # patterns that some file matched

    async def fetch(self, chunk: Chunk, blob: str) -> bool:
        """Bring the chunk's result and files, and deliver it; False when there is no such blob."""
        result = await read(self._get, blob)
        if result is None:
            return False
        if chunk.number not in self._board.pending:
            return True  # cancelled meanwhile
        job = self._session.job_id
        opening = functools.partial(outcomes.opened, result.envelope, self._session.key, job, chunk)
        try:
            header, frames = await asyncio.get_running_loop().run_in_executor(None, opening)
        except outcomes.Failure as failure:
            self._board.deliver(chunk, functools.partial(_raise, failure))
            return True
        brought = None
        if not header.get("attachments"):
            # Of those that came to a value: any other is an error that tells more.
            well = [one for one in header.get("outcomes", ()) if one.keys().isdisjoint(("type", "refused"))]
            self._empty[chunk.call.needs.outputs] += len(well)
        else:
            self._met.add(chunk.call.needs.outputs)
            where = {"job_id": job, "task_id": chunk.task_id, "node_id": header.get("node") or None}
            target = chunk.call.needs.output_dir
            if hasattr(target, "container") and chunk.call.destination is None:
                brought = await self._leaver(target).leave(blob, result, header, where)
            else:
                directory, shared = self._directory(chunk)
                offset = chunk.first_item - chunk.offset
                brought = await self._collector.bring(blob, result, header, directory, shared, offset, where)
            self._tell(blob, brought)
        self._board.deliver(chunk, lambda: outcomes.delivery(header, frames, job, chunk, brought))
        return True

    def sum_up(self) -> None:
        """Tell of patterns that no file of any item matched: a misspelt one would not be seen otherwise."""
        for patterns, items in self._empty.items():
            if patterns and items and patterns not in self._met:
                self._board.progress.warn(
                    f"outputs={list(patterns)}: none of {items} items left such a file in its working directory"
                )

    async def _get(self, blob: str, span: tuple[int, int]) -> bytes | None:
        data: bytes | None = await self._ask(functools.partial(self._session.store.get, blob, span))
        return data

    def _leaver(self, target: Any) -> Leaver:
        if str(target) not in self._leavers:
            self._leavers[str(target)] = Leaver(self._session.store, target, self._hint)
        return self._leavers[str(target)]

    def _directory(self, chunk: Chunk) -> tuple[destinations.Directory, bool]:
        call = chunk.call
        if call.destination is not None:
            return call.destination, False
        text = os.fspath(call.needs.output_dir)
        return destinations.template(text, self._board.base), destinations.is_shared(text)

    def _tell(self, blob: str, brought: Brought) -> None:
        renamed = self._collector.renamed
        if renamed and not self._warned:
            self._warned = True
            self._board.progress.warn(
                f"several items left a file of the same name. None is replaced: one is now {str(renamed[0])!r}, and so "
                "on. With an {item} in output_dir= each has a directory of its own"
            )
        renamed.clear()
        if brought.kept:
            self._board.kept_results.append(blob)


def _raise(failure: outcomes.Failure) -> Any:
    raise failure

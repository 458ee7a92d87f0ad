"""Chunks into tasks: packed, uploaded and added in few requests, in the order in which they were submitted."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import deque
from typing import Any

from batchexec._azure.batch import BYTES_PER_REQUEST, TASKS_PER_REQUEST
from batchexec._wire import names
from batchexec.errors import (
    BatchExecError,
    BrokenBatchExecutor,
    FilesError,
    RequirementsError,
    ServiceError,
    SourceError,
)

from .board import Board
from .sending.packer import PACK_BYTES, Packed, Packer, task_spec
from .sending.work import Chunk
from .session import Session

_SETTLE = 0.001  # seconds without a new submit after which the batch goes
_SETTLE_MOST = 0.005
_UPLOADS = 16
_TRIES = 10  # of adding a task that the service cannot take for now
_JOB_OVER = ("JobCompleted", "JobNotFound", "JobBeingTerminated", "JobBeingDeleted", "JobNotActive", "JobDisabled")


class Submitter:
    """Turns the board's inbox into tasks of the session's job."""

    def __init__(self, board: Board, session: Session, packer: Packer) -> None:
        self._board = board
        self._session = session
        self._packer = packer
        self._waiting: deque[Chunk] = deque()
        self._packs = 0
        self._calls = 0
        self._under_way = 0
        self._uploads = asyncio.Semaphore(_UPLOADS)
        self._last_add: asyncio.Future[None] | None = None

    @property
    def idle(self) -> bool:
        return not self._under_way and not self._waiting and not len(self._board.inbox)

    async def run(self) -> None:
        while True:
            self._board.mail.clear()
            if not len(self._board.inbox):
                await self._board.mail.wait()
                continue
            await self._settle()
            self._under_way += 1
            try:
                await self._take()
            finally:
                self._under_way -= 1
                self._board.changed.set()  # all that was taken may have been cancelled before it was sent

    async def _settle(self) -> None:
        """Let submits that are made one after another come together."""
        end = time.monotonic() + _SETTLE_MOST
        seen = -1
        while seen != len(self._board.inbox) < TASKS_PER_REQUEST:
            seen = len(self._board.inbox)
            await asyncio.sleep(_SETTLE)
            if time.monotonic() > end:
                return

    async def _take(self) -> None:
        for chunks in self._board.take_inbox():
            if chunks[0].is_map:
                self._calls += 1
                await self._manifest(chunks)
            if chunks[0].call.needs.files or any(chunk.filesets for chunk in chunks):
                chunks = await self._with_files(chunks)
            self._waiting.extend(chunks)
        while self._waiting:
            if self._may_be_slow():
                batch = await asyncio.get_running_loop().run_in_executor(None, self._next_batch)
            else:
                batch = self._next_batch()
            for chunk, error in batch.failed:
                self._board.fail(chunk, error)
            if batch.packed:
                await self._uploads.acquire()
                previous, self._last_add = self._last_add, asyncio.get_running_loop().create_future()
                self._packs += 1
                self._under_way += 1
                new, self._packer.new_blobs = self._packer.new_blobs, {}
                if uploads := self._packer.take_uploads():
                    self._packer.staging.start(uploads, self._board.spawn)
                self._board.spawn(self._send(batch.packed, self._packs, new, previous, self._last_add))

    async def _with_files(self, chunks: list[Chunk]) -> list[Chunk]:
        """Those whose files can be had, as far as that has to be asked in storage."""
        good = []
        for chunk in chunks:
            place = chunk.call.needs.files
            try:
                await self._packer.staging.look_up((*((place,) if place else ()), *chunk.filesets))
                good.append(chunk)
            except FilesError as error:
                self._board.fail(chunk, error)
        return good

    def _may_be_slow(self) -> bool:
        """Whether packing should leave the loop free: archives to build, packages to find, or much data to sign."""
        head = self._waiting[0]
        if self._packer.must_look_up(itertools.islice(self._waiting, TASKS_PER_REQUEST)):
            return True
        return bool(head.reached.local or head.filesets or head.call.needs.files) or (
            head.items is not None and sum(len(frame) for frame in head.items.frames) > 1_000_000
        )

    def _next_batch(self) -> _Batch:
        batch = _Batch()
        size = 0
        while self._waiting and len(batch.packed) < TASKS_PER_REQUEST and size < PACK_BYTES:
            chunk = self._waiting.popleft()
            if chunk.number not in self._board.pending:
                continue  # cancelled before it was sent
            chunk.failed = chunk.items.failed if chunk.items else {}
            if len(chunk.failed) == chunk.size and chunk.size:
                batch.failed.append((chunk, next(iter(chunk.failed.values()))))
                continue
            try:
                packed = self._packer.pack(chunk)
                self._board.raise_if_unmet(chunk)
            except (SourceError, RequirementsError) as error:
                batch.failed.append((chunk, error))
                continue
            chunk.items = None
            batch.packed.append(packed)
            size += len(packed.data)
        return batch

    async def _manifest(self, chunks: list[Chunk]) -> None:
        data = self._packer.manifest(self._calls, chunks)
        await self._session.store.put(names.manifest_blob(self._calls), data)

    async def _send(
        self,
        packed: list[Packed],
        pack: int,
        blobs: dict[str, bytes | memoryview],
        previous: asyncio.Future[None] | None,
        added: asyncio.Future[None],
    ) -> None:
        """Upload one pack and add its tasks, once the pack before it was added."""
        try:
            store = self._session.store
            index = self._packer.index(pack, packed)
            data = b"".join([index, *(one.data for one in packed)])
            uploads = [store.put(name, blob) for name, blob in blobs.items()]
            await asyncio.gather(store.put(names.pack_blob(pack), data), *uploads)
            self._uploads.release()
            tasks: dict[str, dict[str, Any]] = {}
            chunks: dict[str, Chunk] = {}
            start = len(index)
            for one in packed:
                chunk = one.chunk
                lost = await one.files.sent() if one.files else None
                if lost is not None:
                    self._board.fail(chunk, lost)
                    start += len(one.data)
                    continue
                name = names.task_id(chunk.number, chunk.generation)
                tasks[name] = self._session.task(name, task_spec(one, pack, start, store.sas), chunk.call.needs)
                chunks[name] = chunk
                start += len(one.data)
            if previous is not None:
                await previous
            for group in _groups(tasks) if tasks else ():
                await self._add(group, chunks)
            self._board.progress.sent()
            for chunk in chunks.values():
                if chunk.future.cancelled() or chunk.doomed:  # while it was on its way
                    self._board.cancelled.append(chunk)
                    self._board.doom.set()
            await self._session.nudge_pool()
        finally:
            if not added.done():
                added.set_result(None)
            self._under_way -= 1
            self._board.changed.set()

    async def _add(self, tasks: list[dict[str, Any]], chunks: dict[str, Chunk]) -> None:
        waiting = {task["id"]: task for task in tasks}
        for name in waiting:
            self._board.sent_as(chunks[name], name, self._session.written)
        delay = 0.25
        for left in reversed(range(_TRIES)):
            try:
                added = await self._session.batch.add_tasks(self._session.job_id, list(waiting.values()))
            except ServiceError as error:
                if error.code == "RequestBodyTooLarge" and len(waiting) > 1:
                    halves = list(waiting.values())
                    middle = len(halves) // 2
                    await self._add(halves[:middle], chunks)
                    await self._add(halves[middle:], chunks)
                    return
                if error.code in _JOB_OVER:
                    raise _job_over(self._session.job_id, error) from error
                raise
            for name, refused in added.refused:
                self._board.fail(chunks[name], refused)
            waiting = {name: waiting[name] for name in added.again}
            if not waiting:
                return
            if left:
                await asyncio.sleep(delay)
                delay = min(delay * 2, 30)
        for name, busy in added.again.items():
            self._board.fail(chunks[name], busy)


class _Batch:
    """Chunks packed for one request, and those that cannot be."""

    def __init__(self) -> None:
        self.packed: list[Packed] = []
        self.failed: list[tuple[Chunk, BatchExecError]] = []


def _groups(tasks: dict[str, dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Tasks by the request, within the service's limits of number and size."""
    groups: list[list[dict[str, Any]]] = [[]]
    size = 0
    for task in tasks.values():
        length = len(json.dumps(task)) + 1
        if groups[-1] and (len(groups[-1]) >= TASKS_PER_REQUEST or size + length > BYTES_PER_REQUEST):
            groups.append([])
            size = 0
        groups[-1].append(task)
        size += length
    return groups


def _job_over(job: str, error: ServiceError) -> BatchExecError:
    return BrokenBatchExecutor(
        f"job {job} was ended by someone else or by its time limit ({error.code}): open a new BatchExecutor"
    )

"""What became of the tasks: result blobs by prefix, and one incremental query of task states."""

from __future__ import annotations

import asyncio
import functools
import math
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from batchexec._wire import names
from batchexec.errors import AuthenticationError, ServiceError

from .board import Board
from .results import outcomes, verdicts
from .sending.work import Chunk
from .session import Session
from .shelves import Shelves

if TYPE_CHECKING:
    from .gatherer import Gatherer

T = TypeVar("T")

_PATIENCE = 0.1  # of the time without news: how long until the next look
_SHORTEST, _LONGEST_LOCAL, _LONGEST = 0.005, 0.2, 2.0
_MANY, _SHORTEST_FOR_MANY = 10, 0.012  # with so many chunks under way, each look finds several results
_READS = 32
_STATES_LOCAL, _STATES = (0.1, 0.5), (2.0, 8.0)  # least and most seconds between queries of task states
_OVERLAP_LOCAL, _OVERLAP = 0.5, 60.0  # seconds that such a query reaches back: the service's indexes may lag
_TAIL_BYTES = 2000
_LOST_SECONDS = 60.0  # a task not heard of for so long is asked for by name


class Watcher:
    """Watches the chunks that were sent, and reports each exactly once."""

    def __init__(self, board: Board, session: Session) -> None:
        self._board = board
        self._session = session
        self._longest = _LONGEST_LOCAL if session.is_local else _LONGEST
        self._states = _STATES_LOCAL if session.is_local else _STATES
        self._overlap = _OVERLAP_LOCAL if session.is_local else _OVERLAP
        self._news = 0.0  # when a result was last seen, by time.time()
        self._reads = asyncio.Semaphore(_READS)
        self._reading: set[int] = set()  # numbers of chunks whose blobs are being read
        self._since = "2000-01-01T00:00:00Z"
        self._lost_asked = 0.0  # when lost tasks were looked for, by time.time()
        self._gatherer: Gatherer | None = None  # of results with files behind them
        # Work is done in order, so results appear on the first shelves that still have work: as many as hold what all
        # slots are at, and one more that they are about to begin.
        self._shelves = Shelves(board, 1 + math.ceil(session.slots / names.SHELF_CHUNKS))

    async def watch_results(self) -> None:
        """List the shelves on which results are awaited, and read what is new."""
        while True:
            await self._board.busy.wait()
            await asyncio.sleep(await self._look_for_results())

    async def _look_for_results(self) -> float:
        """One turn; the seconds until the next. (A function of its own: a sleeping loop must hold no chunk, and with
        it the user's objects.)"""
        chosen = self._shelves.choose()
        if not chosen.prefixes:
            return _SHORTEST
        begin = time.monotonic()
        listings = [self._ask(functools.partial(self._session.store.names, shelf)) for shelf in chosen.prefixes]
        found = await asyncio.gather(*listings)
        round_trip = time.monotonic() - begin
        fresh = self._awaited([name for listing in found for name in listing])
        for chunk in fresh:
            self._board.spawn(self._read(chunk))
        if fresh:
            self._news = time.time()
        # Results come in bursts: look again soon after one, and the more rarely the longer there was none.
        shortest = max(round_trip, _SHORTEST if chosen.awaited < _MANY else _SHORTEST_FOR_MANY)
        return min(max(_PATIENCE * self._quiet(), shortest), self._longest)

    def _quiet(self) -> float:
        """Seconds since a result was seen or a task was sent."""
        return max(0.0, time.time() - max(self._news, self._shelves.last_sent))

    async def watch_tasks(self) -> None:
        """Show what runs, and find tasks that are over without a result."""
        while True:
            await self._board.busy.wait()
            least, most = self._states
            pause = least
            if self._shelves.is_awaiting():
                pause = min(max(self._quiet() / 5, least), most)
                query = functools.partial(self._session.batch.tasks_changed_since, self._session.job_id)
                changed = await self._ask(functools.partial(query, self._since))
                self._apply(changed)
                self._move_window(changed)
                await self._ask_for_lost()
            await asyncio.sleep(pause)

    async def _ask(self, request: Callable[[], Awaitable[T]]) -> T:
        """The answer, however long the account is out of reach: losing contact must not end anybody's work."""
        pause = 5.0
        while True:
            try:
                return await request()
            except ServiceError as error:
                if not error.transient and not isinstance(error, AuthenticationError):
                    raise
                self._board.progress.warn(f"lost contact; the work goes on in the service, this keeps trying: {error}")
            await asyncio.sleep(pause)
            pause = min(pause * 2, 120.0)

    def _awaited(self, blobs: Iterable[str]) -> list[Chunk]:
        """The chunks whose results are among these blobs and not yet being read."""
        chunks = []
        for blob in blobs:
            digits = blob.rpartition("/")[2].partition(".")[0]
            if not digits.isdecimal():
                continue  # somebody else's
            number = int(digits)
            chunk = self._board.pending.get(number)
            if chunk is None or number in self._reading:
                continue
            if blob == names.result_blob(number, chunk.generation):
                self._reading.add(number)
                chunks.append(chunk)
        return chunks

    def sum_up(self) -> None:
        """All is done: say what can be said of all items only."""
        if self._gatherer is not None:
            self._gatherer.sum_up()

    async def _read(self, chunk: Chunk) -> None:
        async with self._reads:
            await self._fetch(chunk)
        self._reading.discard(chunk.number)

    async def _fetch(self, chunk: Chunk) -> bool:
        """Read the chunk's result and hand it on; False when there is none."""
        key, job = self._session.key, self._session.job_id
        blob = names.result_blob(chunk.number, chunk.generation)
        if chunk.call.attaches:
            if self._gatherer is None:
                from .gatherer import Gatherer

                self._gatherer = Gatherer(self._board, self._session, self._ask)
            return await self._gatherer.fetch(chunk, blob)
        data = await self._ask(functools.partial(self._session.store.get, blob))
        if data is not None:
            self._board.deliver(chunk, lambda: outcomes.decode(data, key, job, chunk))
        return data is not None

    def _apply(self, changed: list[dict[str, Any]]) -> None:
        for task in changed:
            chunk = self._board.pending.get(names.chunk_of(task["id"]))
            if chunk is None or chunk.task_id != task["id"]:
                continue
            state = task["state"].lower()
            if state == "running":
                self._board.show_running(chunk)
            elif state == "completed" and chunk.number not in self._reading:
                self._reading.add(chunk.number)
                self._board.spawn(self._finish(chunk, task))

    async def _finish(self, chunk: Chunk, task: dict[str, Any] | None) -> None:
        """A task is over: its result, asked for by name, or the reason why there is none."""
        store, session = self._session.store, self._session
        async with self._reads:
            if await self._fetch(chunk):
                return
            log_name = names.log_blob(chunk.number, chunk.generation)
            head = await self._ask(functools.partial(store.get, log_name, (0, verdicts.LOG_HEAD_BYTES)))
        log = verdicts.read_log(head, session.key, session.job_id, chunk)
        said = await self._said(chunk) if verdicts.said_elsewhere(task, log) else ""
        self._board.fail(chunk, verdicts.verdict(task, log, session.job_id, chunk, said))

    async def _said(self, chunk: Chunk) -> str:
        """The end of a task's own standard error."""
        data = await self._session.written(chunk.task_id, "stderr", _TAIL_BYTES)
        return data.decode("utf-8", "replace").strip()

    def _move_window(self, changed: list[dict[str, Any]]) -> None:
        """Ask next time from a little before the latest change seen: the service's own clock counts."""
        times = [task["stateTransitionTime"] for task in changed if task.get("stateTransitionTime")]
        if times:
            latest = _parse(max(times)) - timedelta(seconds=self._overlap)
            self._since = max(self._since, latest.strftime("%Y-%m-%dT%H:%M:%S.%fZ"))

    async def _ask_for_lost(self) -> None:
        """Tasks long unheard of, a few at a time: deleted by someone, or missed by the queries."""
        now = time.time()
        if now - self._lost_asked < _LOST_SECONDS / 20:
            return
        self._lost_asked = now
        sent = [chunk for chunk in self._board.unsettled() if chunk.task_id]
        quiet = [chunk for chunk in sent if now - max(chunk.sent_at, chunk.asked_at) > _LOST_SECONDS][:20]
        for chunk in quiet:
            chunk.asked_at = now
            task = await self._ask(functools.partial(self._session.batch.get_task, self._session.job_id, chunk.task_id))
            gone = task is None
            if (gone or str((task or {}).get("state")).lower() == "completed") and chunk.number not in self._reading:
                self._reading.add(chunk.number)
                self._board.spawn(self._finish(chunk, task))


def _parse(time_text: str) -> datetime:
    """A service time: ISO 8601 with up to seven digits of a second, which Python 3.10 does not read."""
    whole, _, fraction = time_text.rstrip("Z").partition(".")
    return datetime.fromisoformat(whole) + timedelta(seconds=float(f"0.{fraction or 0}"))

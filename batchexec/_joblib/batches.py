"""Batches of calls that come in one by one: gathered into chunks, so many of them under way at once."""

from __future__ import annotations

import functools
import itertools
import logging
import math
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from batchexec._calls.caller import Caller
from batchexec.futures import ChunkFuture, Outcome

from .shares import Call, Shares

if TYPE_CHECKING:
    from batchexec._engine.sending.work import Call as SentCall

_log = logging.getLogger("concurrent.futures")

_CHUNKS_PER_SLOT = 8  # enough to even out fits of unequal length, few enough to keep tasks worth starting
_GATHER_SECONDS = 0.05  # what comes in within it goes out together


class Batch:
    """Some calls, and what came of them: the first error, or the values in order."""

    def __init__(self, calls: list[Call], callback: Callable[[Batch], object]) -> None:
        self.size = len(calls)
        self._calls = calls
        self._callback: Callable[[Batch], object] | None = callback
        self._values: list[Any] = []
        self._error: BaseException | None = None

    def take(self) -> list[Call]:
        """The calls, which are not kept here any longer."""
        calls, self._calls = self._calls, []
        return calls

    def result(self) -> list[Any]:
        """The values, which are not kept here any longer; raises the first error."""
        values, self._values = self._values, []
        if self._error is not None:
            raise self._error
        return values

    def finish(self, values: list[Any], error: BaseException | None) -> None:
        self._values, self._error = values, error
        callback, self._callback = self._callback, None  # it knows all other batches
        assert callback is not None
        callback(self)


class Batches:
    """The batches of one `Parallel` call on its way through an executor.

    run: what each item calls, with the function of a call and its arguments.
    unwanted: whether nobody wants their results any more.
    width: tasks that may run at the same time.
    at_once: chunks under way at the same time, or None for no limit of its own.
    gather: several batches to a chunk; else each is one.

    Callbacks of batches are called on any thread, and with no lock held here: whoever calls `add` may hold a lock of
    their own that callbacks take as well.
    """

    def __init__(
        self,
        caller: Caller,
        run: Callable[..., Any],
        unwanted: Callable[[], bool],
        width: int,
        at_once: int | None,
        gather: bool,
    ) -> None:
        self.unwanted = unwanted
        self._caller = caller
        self._run = run
        self._per_flush = width * _CHUNKS_PER_SLOT if gather else None
        self._at_once = at_once
        self._lock = threading.RLock()  # chunks keep the order of their batches
        self._shares = Shares(caller.share)
        self._call: SentCall | None = None
        self._sent = 0  # items
        self._over = False
        self._gathered: list[Batch] = []
        self._held: deque[list[Batch]] = deque()  # chunks that wait for room
        self._under_way: set[ChunkFuture[list[Outcome]]] = set()
        self._timer: threading.Timer | None = None

    @property
    def busy(self) -> bool:
        with self._lock:
            return bool(self._gathered or self._held or self._under_way)

    def add(self, batch: Batch) -> None:
        """Take one more. It goes out at the next `flush`, which is a moment away at most."""
        with self._lock:
            self._gathered.append(batch)
            if self._timer is None:
                self._timer = threading.Timer(_GATHER_SECONDS, self.flush)
                self._timer.daemon = True
                self._timer.start()

    def flush(self) -> None:
        """Send what was gathered, as far as there is room."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._over:
                return
            gathered, self._gathered = self._gathered, []
            size = max(1, math.ceil(len(gathered) / self._per_flush)) if self._per_flush else 1
            self._held += [gathered[at : at + size] for at in range(0, len(gathered), size)]
            room = len(self._held) if self._at_once is None else self._at_once - len(self._under_way)
            groups = [self._held.popleft() for _ in range(min(room, len(self._held)))]
            if not groups:
                return
            try:
                futures = self._send(groups)
            except BaseException as error:  # noqa: BLE001 - it is that of the batches: nobody else would tell them
                failed: BaseException | None = error
            else:
                failed = None
                self._under_way.update(futures)
        if failed is not None:
            for batch in (batch for group in groups for batch in group):
                batch.finish([], failed)
            if isinstance(failed, KeyboardInterrupt):
                raise failed
            return
        for group, future in zip(groups, futures, strict=True):
            future.add_done_callback(functools.partial(self._done, group))

    def cancel(self) -> None:
        """Nobody waits for the rest: what has not started never will, and tasks that run are ended."""
        with self._lock:
            self._over = True
            self._gathered.clear()
            self._held.clear()
            doomed, self._under_way = self._under_way, set()
        self._caller.cancel(doomed)

    def _send(self, groups: list[list[Batch]]) -> list[ChunkFuture[list[Outcome]]]:
        """A chunk for each group."""
        calls = [[call for batch in group for call in batch.take()] for group in groups]
        if self._call is None:
            self._call = self._caller.call(self._run)
        calls = self._shares.put_in(calls)
        items = [[((function, *args), kwargs) for function, args, kwargs in chunk] for chunk in calls]
        start, self._sent = self._sent, self._sent + sum(map(len, items))
        return self._caller.send_groups(self._call, items, start)

    def _done(self, group: list[Batch], future: ChunkFuture[list[Outcome]]) -> None:
        with self._lock:
            self._under_way.discard(future)
            if self._over:
                return
        try:
            outcomes = future.result()
        except Exception as failure:  # noqa: BLE001 - whatever kept the chunk from a result is each batch's error
            outcomes = [Outcome(None, failure)] * sum(batch.size for batch in group)
        rest = iter(outcomes)
        for batch in group:
            own = list(itertools.islice(rest, batch.size))
            errors = [outcome.error for outcome in own if outcome.error is not None]
            try:
                batch.finish([outcome.value for outcome in own], errors[0] if errors else None)
            except Exception:  # noqa: BLE001 - of joblib, which takes more calls here; the other batches are done too
                _log.exception("exception calling callback for %r", future)
        self.flush()  # what came in because these are done, and what had to wait for room

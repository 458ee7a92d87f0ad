"""Threads that turn results into values and resolve futures. User code (unpickling, callbacks) runs here only."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable

_log = logging.getLogger("batchexec")

_STALL_SECONDS = 0.05
_MOST_THREADS = 200


class Resolver:
    """A queue with one thread; another one joins whenever all have been stuck in user code while work waits, so that
    a callback which blocks holds up nothing but itself."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Condition()
        self._queue: deque[Callable[[], None]] = deque()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._moved = time.monotonic()
        self._closing = False

    def put(self, job: Callable[[], None]) -> None:
        with self._lock:
            self._queue.append(job)
            if self._idle:
                self._lock.notify()
            elif not self._threads:
                with contextlib.suppress(RuntimeError):  # no thread can be had now; `tend` and `close` try again
                    self._add_thread()

    def tend(self) -> None:
        """Called now and then while work is pending: add a thread when none makes progress."""
        with self._lock:
            stalled = time.monotonic() - self._moved > _STALL_SECONDS
            if self._queue and not self._idle and stalled and len(self._threads) < _MOST_THREADS:
                with contextlib.suppress(RuntimeError):
                    self._add_thread()

    def is_mine(self) -> bool:
        """Whether this is one of its threads."""
        return threading.current_thread() in self._threads

    def backlog(self) -> bool:
        with self._lock:
            return bool(self._queue)

    def close(self, seconds: float | None) -> None:
        """Let the threads end once the queue is empty, and wait for them: `seconds` at most once it is. Stuck
        ones may wait for what is still in the queue: others join them as before."""
        with self._lock:
            self._closing = True
            self._lock.notify_all()
        end = None if seconds is None else time.monotonic() + seconds
        while self.backlog() or self._threads:
            if not self._threads:
                self._run()  # there is none, and none could be had: this one does it
                return
            if end is not None and time.monotonic() > end and not self.backlog():
                return
            for thread in list(self._threads):
                thread.join(_STALL_SECONDS)
            self.tend()

    def _add_thread(self) -> None:
        """Raises RuntimeError where the system gives no thread."""
        thread = threading.Thread(target=self._run, name=f"{self._name}-resolver-{len(self._threads)}", daemon=True)
        thread.start()
        self._threads.append(thread)
        self._moved = time.monotonic()

    def _run(self) -> None:
        while True:
            with self._lock:
                while not self._queue:
                    if self._closing:
                        with contextlib.suppress(ValueError):  # the engine's own, see `close`
                            self._threads.remove(threading.current_thread())
                        return
                    self._idle += 1
                    self._lock.wait()
                    self._idle -= 1
                job = self._queue.popleft()
                self._moved = time.monotonic()
            try:
                job()
            except BaseException:  # noqa: BLE001 - of what is called last, as a log's handlers; the next ones wait
                with contextlib.suppress(BaseException):
                    _log.exception("a result's thread was disturbed")
            del job  # a future must not live on in an idle thread

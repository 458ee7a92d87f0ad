"""Threads that turn results into values and resolve futures. User code (unpickling, callbacks) runs here only."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

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
                self._add_thread()

    def tend(self) -> None:
        """Called now and then while work is pending: add a thread when none makes progress."""
        with self._lock:
            stalled = time.monotonic() - self._moved > _STALL_SECONDS
            if self._queue and not self._idle and stalled and len(self._threads) < _MOST_THREADS:
                self._add_thread()

    def backlog(self) -> bool:
        with self._lock:
            return bool(self._queue)

    def close(self) -> list[threading.Thread]:
        """Let the threads end once the queue is empty; returns those to wait for."""
        with self._lock:
            self._closing = True
            self._lock.notify_all()
            return list(self._threads)

    def _add_thread(self) -> None:
        thread = threading.Thread(target=self._run, name=f"{self._name}-resolver-{len(self._threads)}", daemon=True)
        self._threads.append(thread)
        self._moved = time.monotonic()
        thread.start()

    def _run(self) -> None:
        while True:
            with self._lock:
                while not self._queue:
                    if self._closing:
                        return
                    self._idle += 1
                    self._lock.wait()
                    self._idle -= 1
                job = self._queue.popleft()
                self._moved = time.monotonic()
            job()
            del job  # a future must not live on in an idle thread

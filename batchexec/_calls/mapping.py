"""What `map` returns: the results in order, taken from the futures of its chunks."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Generic, TypeVar

from batchexec.futures import ChunkFuture, Outcome

T = TypeVar("T")


class MapIterator(Generic[T]):
    """The results of `map` in the order of the items.

    As with the standard library's, the first exception ends it and cancels what has not started, unless
    `return_exceptions` asked for exceptions as values.
    """

    def __init__(
        self,
        chunks: Iterator[ChunkFuture[list[Outcome]]],
        *,
        end_time: float | None,
        return_exceptions: bool,
    ) -> None:
        self._chunks = chunks  # a source that sends more work as chunks are taken, when map has a buffersize
        self._waiting: deque[ChunkFuture[list[Outcome]]] = deque()
        self._outcomes: deque[Outcome] = deque()
        self._end_time = end_time
        self._return_exceptions = return_exceptions
        self._begun = False  # whether a result was asked for

    def start(self, ahead: int | None) -> MapIterator[T]:
        """Send the first `ahead` chunks (None: all)."""
        while ahead is None or ahead > 0:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            self._waiting.append(chunk)
            ahead = None if ahead is None else ahead - 1
        return self

    def __iter__(self) -> MapIterator[T]:
        return self

    def __del__(self) -> None:
        """As the standard library's: who leaves a loop over it wants no more; who never asked wants all to be done."""
        if self._begun:
            self.close()

    def __next__(self) -> T:
        self._begun = True
        try:
            found = self._next_outcome()
        except BaseException:
            self.close()
            raise
        if found is None:
            raise StopIteration
        value, error = found
        del found  # the caller's results belong to the caller alone
        if error is None:
            return value  # type: ignore[no-any-return]
        if self._return_exceptions:
            return error  # type: ignore[return-value]
        self.close()
        try:
            if isinstance(error, StopIteration):  # it would end the loop as if all results had come
                raise RuntimeError("the function raised StopIteration") from error
            raise error
        finally:
            del error

    def _next_outcome(self) -> Outcome | None:
        """What came of the next item; None after the last."""
        while not self._outcomes:
            if not self._waiting:
                return None
            outcomes = self._take()
            self._outcomes.extend(outcomes)
            outcomes.clear()
        return self._outcomes.popleft()

    def close(self) -> None:
        """Cancel the chunks that have not started and forget the rest."""
        for chunk in self._waiting:
            chunk.cancel()
        self._waiting.clear()
        self._outcomes.clear()
        self._chunks = iter(())

    def _take(self) -> list[Outcome]:
        chunk = self._waiting[0]
        try:
            timeout = None if self._end_time is None else self._end_time - time.monotonic()
            outcomes = chunk.result(timeout)
        except (FutureTimeoutError, CancelledError):
            raise
        except Exception as error:
            if not self._return_exceptions:
                raise
            outcomes = [Outcome(None, error)] * chunk.size
        self._waiting.popleft()
        chunk._result = None  # results belong to the caller alone from here on
        following = next(self._chunks, None)
        if following is not None:
            self._waiting.append(following)
        return outcomes

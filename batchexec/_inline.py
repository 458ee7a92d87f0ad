"""Calls that run in this process: `where="inline"`, and a future's `rerun_locally`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ._wire import seeds
from .errors import InitializerError
from .futures import ChunkFuture, Outcome


class LocalCall:
    """A call with its seed, to be run in this process."""

    __slots__ = ("_args", "_fn", "_item", "_kwargs", "_seed")

    def __init__(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], seed: int | None, item: int
    ) -> None:
        self._fn, self._args, self._kwargs, self._seed, self._item = fn, args, kwargs, seed, item

    def __call__(self) -> Any:
        from ._engine.sending.shared import opened

        args = [opened(arg) for arg in self._args]
        kwargs = {name: opened(value) for name, value in self._kwargs.items()}
        with seeds.borrowed(self._seed, self._item):
            return self._fn(*args, **kwargs)


class Initialization:
    """The initializer, called once before the first call in this process; one that raised is not called again."""

    def __init__(self, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]) -> None:
        self.failed: InitializerError | None = None
        self._initializer = initializer
        self._initargs = initargs

    def begin(self) -> None:
        """Raises InitializerError."""
        if self._initializer is None:
            return
        try:
            self._initializer(*self._initargs)
        except Exception as error:
            self.failed = InitializerError(f"the initializer raised {type(error).__name__}: {error}")
            raise self.failed from error
        self._initializer = None


def run_now(future: ChunkFuture[Any], call: Callable[[], Any]) -> None:
    future.show_running()
    try:
        value = call()
    except Exception as error:  # noqa: BLE001 - it is the future's
        future.set_exception(error)
    else:
        future.set_result(value)


def run_chunks(
    fn: Callable[..., Any], known: list[tuple[Any, ...]], size: int, seed: int | None, first: int
) -> Iterator[ChunkFuture[list[Outcome]]]:
    """The chunks of a map, each run when it is asked for. `first` is the number of the first item in its executor."""
    for start in range(0, len(known), size):
        future = ChunkFuture[list[Outcome]](min(size, len(known) - start))
        future.show_running()
        outcomes = []
        for index, args in enumerate(known[start : start + size], start):
            single: ChunkFuture[Any] = ChunkFuture()
            run_now(single, LocalCall(fn, args, {}, seed, first + index))
            error = single.exception()
            outcomes.append(Outcome(None if error else single.result(), error))
        future.set_result(outcomes)
        yield future

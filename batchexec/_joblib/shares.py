"""Large arguments that several calls use: found by identity, sent once, while their owner keeps them."""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from batchexec.errors import PayloadError

Call = tuple[Any, tuple[Any, ...], dict[str, Any]]  # function, positional and keyword arguments

_LARGE_BYTES = 10_000
_SMALL = frozenset({bool, int, float, complex, type(None)})


class Shares:
    """Puts handles of `share` in the place of such arguments.

    An object is known by its id as long as it lives and no longer: the id may be another's after that. What has no
    weak references (lists, texts) is known among calls that go out together only.
    """

    def __init__(self, share: Callable[[Any], Any]) -> None:
        self._share = share
        self._known: dict[int, tuple[weakref.ref[Any], Any]] = {}  # by id: the object, and its handle once it has one

    def put_in(self, chunks: list[list[Call]]) -> list[list[Call]]:
        """The calls of some chunks, those arguments replaced that are used in several chunks, now or earlier."""
        used: dict[int, tuple[Any, set[int]]] = {}
        for number, calls in enumerate(chunks):
            for value in _large(calls):
                used.setdefault(id(value), (value, set()))[1].add(number)
        if not used:
            return chunks
        handles = {}
        for key, (value, where) in used.items():
            handle = self._handle(value, len(where) > 1)
            if handle is not None:
                handles[key] = handle
        return [[_replaced(call, handles) for call in calls] for calls in chunks] if handles else chunks

    def _handle(self, value: Any, often: bool) -> Any:
        """The value's handle, if it is worth one: used in several chunks now, or met before."""
        known = self._known.get(id(value))
        met = known is not None and known[0]() is value
        if met and known is not None and known[1] is not None:
            return known[1]
        handle = None
        if often or met:
            try:
                handle = self._share(value)
            except PayloadError:
                return None  # as an argument of its calls it fails those alone, with their names
            handle.value = None  # or it would never go
        try:
            ref = weakref.ref(value, functools.partial(self._gone, id(value)))
        except TypeError:
            return handle
        self._known[id(value)] = ref, handle
        return handle

    def _gone(self, key: int, ref: weakref.ref[Any]) -> None:
        if self._known.get(key, (None,))[0] is ref:  # else the id is another's by now
            del self._known[key]


def _large(calls: Iterable[Call]) -> Iterator[Any]:
    for _, args, kwargs in calls:
        for value in (*args, *kwargs.values()):
            if type(value) not in _SMALL and size(value) >= _LARGE_BYTES:
                yield value


def _replaced(call: Call, handles: dict[int, Any]) -> Call:
    function, args, kwargs = call
    args = tuple(handles.get(id(value), value) for value in args)
    return function, args, {name: handles.get(id(value), value) for name, value in kwargs.items()}


def size(value: Any) -> int:
    """About how many bytes the value takes: arrays, tables and sparse matrices as they say themselves."""
    try:
        found = getattr(value, "nbytes", None)  # arrays, series, tensors, Arrow tables
        if found is None and hasattr(value, "memory_usage"):
            found = value.memory_usage().sum()  # pandas.DataFrame
        if found is None and hasattr(value, "estimated_size"):
            found = value.estimated_size()  # polars.DataFrame
        if found is None and hasattr(value, "nnz"):
            found = value.data.nbytes  # scipy's sparse matrices; but lists of lists, and dictionaries, have none
        return int(found) if found is not None else sys.getsizeof(value)
    except Exception:  # noqa: BLE001 - attributes of these names on objects of the user's may be anything
        return 0

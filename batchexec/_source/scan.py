"""Pickling that takes note: cloudpickle, recording which modules a worker will have to import."""

from __future__ import annotations

import io
import pickle
import sys
import types
from collections.abc import Callable
from typing import Any

import cloudpickle

from batchexec._source.imports import code_imports
from batchexec._source.modules import top_level
from batchexec._source.reach import NOTHING, Reached, imported, reach

__all__ = ["Reached", "dumps_recording"]

BufferCallback = Callable[[pickle.PickleBuffer], Any]

# Nearly every pickle meets these; naming them would only cost look-ups.
_SILENT = frozenset({"builtins", "__main__", "types", "copyreg", "functools", "collections", "datetime"})


def dumps_recording(obj: object, *, buffer_callback: BufferCallback | None = None) -> tuple[bytes, Reached]:
    """Pickle `obj` (protocol 5, by cloudpickle) and tell which modules unpickling and calling it needs.

    Raises what cloudpickle raises for what cannot be pickled, and SourceError for local modules that cannot
    be read or that exist in this process only.
    """
    with io.BytesIO() as file:
        pickler = RecordingPickler(file, buffer_callback)
        pickler.dump(obj)
        data = file.getvalue()
    return data, pickler.reached()


class RecordingPickler(cloudpickle.Pickler):  # type: ignore[misc]
    """A cloudpickle pickler that records the modules of all functions, classes and modules that it meets."""

    def __init__(self, file: io.BytesIO, buffer_callback: BufferCallback | None) -> None:
        super().__init__(file, protocol=5, buffer_callback=buffer_callback)
        self._plain: dict[int, type] = {}  # types whose instances tell no more than the first one did
        self._met: set[object] = set()  # modules of those instances
        self._by_reference: set[object] = set()  # modules that unpickling imports
        self._functions: list[tuple[types.FunctionType, bool]] = []  # and whether by value

    def reducer_override(self, obj: Any) -> Any:
        cls = type(obj)
        if id(cls) in self._plain:
            return NotImplemented
        if cls is types.FunctionType or issubclass(cls, type):
            reduced = super().reducer_override(obj)
            if reduced is NotImplemented:
                self._by_reference.add(obj.__module__)
            if cls is types.FunctionType:
                self._functions.append((obj, reduced is not NotImplemented))
            return reduced
        if issubclass(cls, types.ModuleType):
            if obj.__name__ in sys.modules:  # any other is pickled by value
                self._by_reference.add(obj.__name__)
        elif _is_named(cls):
            self._met.add(obj.__module__)
        elif cls.__name__ == "memmap" and cls.__module__ == "numpy":
            # By itself it is pickled as a copy in band, and is no map where it arrives. As an array it travels as one.
            self._met.add("numpy")
            return obj.view(sys.modules["numpy"].ndarray).__reduce_ex__(5)
        else:
            self._met.add(cls.__module__)
            self._plain[id(cls)] = cls
        return NotImplemented

    def reached(self) -> Reached:
        """What the objects pickled so far need."""
        if not (self._met or self._by_reference or self._functions):
            return NOTHING
        required = _names(self._by_reference)
        met = frozenset(name for name in _names(self._met) if name in sys.modules)
        reached = reach(required, met)
        bodies: set[str] = set()
        for function, by_value in self._functions:
            # What a function of the user's imports when it is called may not be loaded here yet.
            if by_value or top_level(str(function.__module__)) in reached.local:
                package = function.__globals__.get("__package__") or ""
                bodies.update(imported(code_imports(function.__code__), package))
        return reach(required, met | bodies) if bodies else reached


def _names(modules: set[object]) -> frozenset[str]:
    return frozenset(name for name in modules - _SILENT if isinstance(name, str))


def _is_named(cls: type) -> bool:
    """Whether instances carry a name and module of their own, as functions written in C or Cython do."""
    return any("__qualname__" in vars(base) for base in cls.__mro__)

"""Run an ordinary Python loop on Azure Batch, or on this machine: `BatchExecutor` is a concurrent.futures.Executor."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._version import VERSION as __version__

if TYPE_CHECKING:
    from . import errors
    from .command import BlobPath, Command, CommandResult
    from .config import BatchConfig
    from .executor import BatchExecutor
    from .futures import BatchFuture

__all__ = [
    "BatchConfig",
    "BatchExecutor",
    "BatchFuture",
    "BlobPath",
    "Command",
    "CommandResult",
    "__version__",
    "errors",
]

_HOMES = {
    **{"BatchConfig": "config", "BatchExecutor": "executor", "BatchFuture": "futures"},
    **{"BlobPath": "command", "Command": "command", "CommandResult": "command"},
}


def __getattr__(name: str) -> Any:
    if name in ("errors", "joblib"):
        return importlib.import_module(f".{name}", __name__)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

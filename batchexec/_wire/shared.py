"""Objects shared by many calls, on the worker: each is loaded once per process, from the node's cache."""

from __future__ import annotations

from typing import Any, Callable

_loader: Callable[[str], Any] | None = None
_loaded: dict[str, Any] = {}


def open_with(loader: Callable[[str], Any]) -> None:
    """How this process gets at shared objects: `loader(digest)`."""
    global _loader
    _loader = loader


def fetch(digest: str) -> Any:
    """The shared object; what a handle unpickles to."""
    if digest not in _loaded:
        if _loader is None:
            raise RuntimeError("a shared object can be opened by the workers of its executor only")
        _loaded[digest] = _loader(digest)
    return _loaded[digest]

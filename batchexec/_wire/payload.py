"""Python objects as frames: a pickle (protocol 5) and its out-of-band buffers."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any

Frame = Any  # bytes, bytearray or memoryview; contiguous

_INLINE_BYTES = 1024  # smaller buffers stay within the pickle


class BufferCollector:
    """A `buffer_callback` that takes contiguous buffers of at least 1 kB out of band."""

    def __init__(self) -> None:
        self.frames: list[memoryview] = []

    def __call__(self, buffer: pickle.PickleBuffer) -> bool:
        try:
            raw = buffer.raw()
        except BufferError:
            return True  # not contiguous: the pickler copies it in band
        if raw.nbytes < _INLINE_BYTES:
            return True
        self.frames.append(raw)
        return False


def dump(obj: object, dumps: Callable[..., bytes]) -> list[Frame]:
    """`obj` as frames, the pickle first. `dumps` is cloudpickle.dumps or one of its kind."""
    buffers = BufferCollector()
    return [dumps(obj, protocol=5, buffer_callback=buffers), *buffers.frames]


def load(frames: Sequence[Frame]) -> Any:
    """The object. Buffers become writable copies of their own, but memory maps, which stay what they are."""
    return pickle.loads(
        frames[0],
        buffers=[frame if _is_mapped(frame) else bytearray(frame) for frame in frames[1:]],
    )


def _is_mapped(frame: Frame) -> bool:
    return isinstance(frame, memoryview) and type(frame.obj).__name__ == "mmap"

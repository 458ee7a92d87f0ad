"""The GPUs of a task on a node whose slots share them: taken by locks of files, held until its last process ends."""

from __future__ import annotations

import contextlib
import os
import sys
import time

from . import locks

_PATIENCE = 60.0  # a task whose slot is ours may still be ending
_PAUSE = 0.05

_held: list[locks.Lock] = []


def take(sharing: str, directory: str) -> None:
    """Set CUDA_VISIBLE_DEVICES to GPUs that no other task of the node has.

    `sharing`: GPUs of the node, its slots, slots of this task, as "2:4:1". A slot is a lock file below `directory`;
    slot i of S has GPU i * G // S, or several where there are more GPUs than slots.
    """
    gpus, slots, wanted = map(int, sharing.split(":"))
    if gpus >= 1:
        mine = _lock(os.path.join(directory, "batchexec", "gpus"), slots, wanted)
        chosen = sorted({gpu for slot in mine for gpu in _of_slot(slot, slots, gpus)})
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, chosen))


def release() -> None:
    """The task is over. What it has started and left running holds them on."""
    while _held:
        _held.pop().release()


def _of_slot(slot: int, slots: int, gpus: int) -> range:
    first = slot * gpus // slots
    return range(first, max(first + 1, (slot + 1) * gpus // slots))


def _lock(directory: str, slots: int, wanted: int) -> list[int]:
    """So many slots of the node, locked. After a while without enough of them the first are used unlocked: what is
    left of an earlier task holds them, and the service has given this task a slot."""
    os.makedirs(directory, exist_ok=True)
    with contextlib.suppress(OSError):  # another user's, who did the same
        os.chmod(directory, 0o777)
    end = time.monotonic() + _PATIENCE
    mine: list[int] = []
    while True:
        for slot in range(slots):
            if len(mine) < wanted and slot not in mine:
                lock = locks.take_now(os.path.join(directory, f"slot-{slot}"))
                if lock is not None:
                    with contextlib.suppress(OSError):
                        os.fchmod(lock.descriptor, 0o666)
                    mine.append(slot)
                    _held.append(lock)
        if len(mine) >= wanted:
            return mine
        if time.monotonic() > end:
            print("batchexec worker: this node's GPUs are in use by an earlier task; sharing them", file=sys.stderr)
            return mine + [slot for slot in range(slots) if slot not in mine][: wanted - len(mine)]
        time.sleep(_PAUSE)

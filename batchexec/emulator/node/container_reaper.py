"""Removes containers that nobody else would: those of a service that has ended, however it did."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Mapping, Sequence

# Removes all containers of a label; some may be in the middle of their end, and are tried again.
_REMOVE = """
label=$1; force=$2; shift 2
for attempt in 1 2 3 4 5; do
    ids=$("$@" ps --all --quiet --no-trunc --filter "label=$label") && [ -z "$ids" ] && exit 0
    "$@" rm $force $ids || sleep 0.5
done
"""
# The same once nobody holds the other end of its standard input any more.
_REAP = "cat >/dev/null\n" + _REMOVE


async def remove_labelled(label: str, command: Sequence[str], force: Sequence[str], env: Mapping[str, str]) -> None:
    """Remove all containers of a label, given as `name=value`."""
    process = await asyncio.create_subprocess_exec(
        *("/bin/sh", "-c", _REMOVE, "sh", label, " ".join(force), *command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env=env,
    )
    await process.wait()


class Reaper:
    """A process that waits for our end, and then removes all containers of a label."""

    def __init__(self, label: str, command: Sequence[str], force: Sequence[str], env: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _REAP, "sh", label, " ".join(force), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=env,
            start_new_session=True,  # what is typed at a terminal is not for it
        )

    def fileno(self) -> int:
        """What keeps it waiting: a process that inherits this descriptor is waited for as well."""
        assert self._process.stdin is not None
        return self._process.stdin.fileno()

    async def stop(self) -> None:
        """Have it do its work now."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await asyncio.to_thread(self._process.wait)

"""The directory in which a service is kept from one run to the next: one user at a time, its lock, keys and ports."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from batchexec.emulator.access import Access, listen
from batchexec.emulator.errors import Unusable
from batchexec.emulator.identity.secret_files import write_secret

from .database import Database

_END_SECONDS = 60.0  # for processes that cannot be killed; a busy machine takes seconds over the others


class DataDirectory:
    """Opened, locked and free of what an earlier run left at work; raises Unusable where that cannot be.

    `nodes` and `blobs` are directories in it, as is `identity` for those who need it. It is its owner's alone: the
    database holds what clients sent, signed addresses too.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = _locked(self.path / "lock")
        except OSError as error:
            raise Unusable(f"{path} cannot be the data directory: {error.strerror}") from error
        end_processes_of(self.path / "nodes")
        self._trash = self.path / "trash"
        self._access = self.path / "access.json"
        self.database = Database(self.path / "emulator.db")

    # -- how it is reached

    def saved_access(self) -> dict[str, str]:
        """Names and keys of the last run; empty at first."""
        return {name: value for name, value in self._saved().items() if isinstance(value, str)}

    def listen(self, port: int, blob_port: int, host: str) -> tuple[socket.socket, socket.socket]:
        """Listen on the given ports, for 0 on those of the last run, or else on free ones."""
        saved = self._saved()
        return (
            self._listen("--port", port, saved.get("port"), host),
            self._listen("--blob-port", blob_port, saved.get("blob_port"), host),
        )

    def _listen(self, option: str, given: int, saved: object, host: str) -> socket.socket:
        if given or not isinstance(saved, int):
            return listen(given, host)
        try:
            return listen(saved, host)
        except OSError as error:
            raise Unusable(
                f"port {saved}, on which {self.path} was served last, cannot be had ({error.strerror}); "
                f"clients know it: free it, or give another with {option}"
            ) from error

    def keep_access(self, access: Access, batch: socket.socket, blobs: socket.socket) -> None:
        """Have the next run use the same names, keys and ports."""
        port, blob_port = (sock.getsockname()[1] for sock in (batch, blobs))
        names = ("account", "batch_key", "storage_account", "storage_key")
        known = {name: getattr(access, name) for name in names} | {"port": port, "blob_port": blob_port}
        if known != self._saved():
            write_secret(self._access, json.dumps(known).encode())

    def _saved(self) -> Mapping[str, object]:
        try:
            found = json.loads(self._access.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise Unusable(f"{self._access} cannot be read: {error}") from error
        return found if isinstance(found, dict) else {}

    # -- what goes

    def discard(self, path: Path) -> None:
        """Take something out of the way at once; `empty_trash` deletes it."""
        self._trash.mkdir(exist_ok=True)
        path.rename(self._trash / f"{time.monotonic_ns()}-{path.name}"[:200])

    def empty_trash(self) -> None:
        shutil.rmtree(self._trash, ignore_errors=True)


def _locked(path: Path) -> int:
    """A file that this process holds locked until it ends, however it ends. Its children do not inherit it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(file, 32, 0).decode(errors="replace").strip()
        os.close(file)
        raise Unusable(f"{path.parent} is in use by another emulator (process {holder or 'unknown'})") from None
    os.truncate(file, 0)
    os.pwrite(file, str(os.getpid()).encode(), 0)
    return file


def end_processes_of(nodes: Path) -> None:
    """Kill what still runs on these nodes: their emulator was killed, and must not be followed by another before them.

    Their launchers end by themselves, with all that they started; only a launcher that was killed too leaves some
    behind. They are known by the node's directory in their environment. Where there is no /proc this does nothing.
    """
    end = time.monotonic() + _END_SECONDS
    while found := _processes_of(nodes):
        if time.monotonic() > end:
            raise Unusable(f"processes of an earlier run cannot be ended: {found}")
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            except PermissionError as error:
                raise Unusable(f"process {pid} of an earlier run cannot be ended: {error.strerror}") from error
        time.sleep(0.01)


def _processes_of(nodes: Path) -> list[int]:
    mark = b"\0AZ_BATCH_NODE_ROOT_DIR=" + os.fsencode(nodes) + b"/"
    found = []
    for entry in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            environment = Path("/proc", entry, "environ").read_bytes()
        except OSError:  # it is gone, or another user's
            continue
        if mark in b"\0" + environment:
            found.append(int(entry))
    return found

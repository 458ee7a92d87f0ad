"""The embedded local service: one child process per client process, started on first use, shared by executors."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from batchexec.errors import ServiceUnreachableError

# The child sees this process's packages, whatever put them on the path; after its own, so that no module beside the
# user's script hides one of the standard library.
_START = (
    "import json,sys; sys.path+=[p for p in json.loads(sys.argv.pop(1)) if p not in sys.path];"
    "from batchexec.emulator.__main__ import main; main()"
)
_END_SECONDS = 30.0  # more than the service itself gives to what it runs

_lock = threading.Lock()
_service: LocalService | None = None


class LocalService:
    """The child process. It ends when its standard input does: with this process, however that ends."""

    def __init__(self) -> None:
        if not sys.executable:
            raise ServiceUnreachableError(
                "the local service needs a Python interpreter to run in, and sys.executable is empty here"
            )
        path = [*(os.path.abspath(entry) for entry in sys.path), str(Path(__file__).resolve().parents[2])]
        apart: dict[str, Any] = (
            {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP")}  # noqa: B009 - on Windows only
            if sys.platform == "win32"
            else {"start_new_session": True}  # a Ctrl-C in the terminal is for the client to handle
        )
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _START, json.dumps(path), "--json", "--until-eof"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            **apart,
        )
        self._ready: dict[str, Any] | None = None
        self._reading = threading.Lock()

    def endpoints(self) -> dict[str, Any]:
        """What the service printed when it was ready. Raises ServiceUnreachableError when it did not start."""
        with self._reading:
            if self._ready is None:
                assert self._process.stdout is not None
                line = self._process.stdout.readline()
                if not line:
                    code = self._process.wait()
                    raise ServiceUnreachableError(
                        f"the local service ended with code {code} before it was ready; its own words are above"
                    )
                self._ready = json.loads(line)
            return self._ready

    def alive(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        """End the service and everything it runs."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def forget(self) -> None:
        """In a forked child: let go of the pipe, so that the service still ends with the parent."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.returncode = 0  # not ours to wait for


def start() -> LocalService:
    """This process's local service, started if need be. Does not wait until it is ready."""
    global _service
    with _lock:
        if _service is None or not _service.alive():
            if _service is not None:
                _service.stop()
            _service = LocalService()
        return _service


def _stop() -> None:
    global _service
    with _lock:
        if _service is not None:
            _service.stop()
            _service = None


def _forget() -> None:
    global _service, _lock
    _lock = threading.Lock()
    if _service is not None:
        _service.forget()
        _service = None


# Functions of atexit run after all executors have ended (executor.py waits for those at an earlier hook).
atexit.register(_stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)

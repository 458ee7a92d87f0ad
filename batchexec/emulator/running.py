"""Which emulators of this user are running, so that `batchexec emulator env` finds them; and how a shell uses one."""

from __future__ import annotations

import json
import os
import shlex
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# The variable of a shell → what the emulator printed when it was ready. The names are those of `az batch`, of the Azure
# SDKs and of azure-identity; the last ones come with --tls only.
_VARIABLES = {
    "AZURE_BATCH_ACCOUNT": "account",
    "AZURE_BATCH_ACCESS_KEY": "batch_key",
    "AZURE_BATCH_ENDPOINT": "batch_endpoint",
    "AZURE_STORAGE_CONNECTION_STRING": "connection_string",
    "SSL_CERT_FILE": "ca_bundle",
    "REQUESTS_CA_BUNDLE": "ca_bundle",
    "AZURE_AUTHORITY_HOST": "authority_host",
    "AZURE_TENANT_ID": "tenant_id",
    "AZURE_CLIENT_ID": "client_id",
    "AZURE_CLIENT_SECRET": "client_secret",
}


def variables(ready: Mapping[str, Any]) -> dict[str, str]:
    """Environment variables that lead a client to an emulator; `ready` is what that printed when it was ready."""
    return {name: str(ready[key]) for name, key in _VARIABLES.items() if ready.get(key)}


def exports(ready: Mapping[str, Any]) -> str:
    """The same as lines for a shell."""
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables(ready).items())


@contextmanager
def registered(line: str) -> Iterator[None]:
    """Let `find` see this process while it serves; `line` holds keys, so only its user may read it."""
    file = _directory() / f"{os.getpid()}.json"
    file.unlink(missing_ok=True)  # of a dead process that had our number
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(line)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def find(pid: int | None = None) -> dict[str, Any] | None:
    """What an emulator printed when it was ready: the one of this process id, else the one started last."""
    newest: tuple[float, dict[str, Any]] | None = None
    for file in _directory().glob("*.json"):
        if not _alive(int(file.stem)):
            file.unlink(missing_ok=True)
            continue
        try:
            started, text = file.stat().st_mtime, file.read_text()
        except FileNotFoundError:  # it ended just now
            continue
        if text and (pid is None or pid == int(file.stem)) and (newest is None or started > newest[0]):
            newest = started, json.loads(text)
    return newest[1] if newest else None


def _directory() -> Path:
    """A directory of this user's own, which nobody else can write to."""
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    directory = base / f"batchexec-emulators-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise SystemExit(f"batchexec emulator: {directory} belongs to, or is open to, somebody else: remove it")
    return directory


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True

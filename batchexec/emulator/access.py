"""Where the service is and what opens it: listening sockets, names of accounts, keys, and the line that tells them."""

from __future__ import annotations

import json
import os
import re
import socket
import tempfile
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from batchexec.emulator.identity.hosts import LOOPBACK, names_for
from batchexec.emulator.identity.keys import is_key, new_key

if TYPE_CHECKING:
    from batchexec.emulator.identity.identity import Identity

HOST = "127.0.0.1"
_GIVEN = ("account", "batch_key", "storage_account", "storage_key", "client_secret")
_ENVIRONMENT = {f"BATCHEXEC_EMULATOR_{name.upper()}": name for name in _GIVEN}


class BadKeys(Exception):
    """Keys or names were given that no account can have; the text says which."""


def listen(port: int, host: str = HOST) -> socket.socket:
    """A listening socket on an address or name of this machine, by default loopback; port 0 takes a free one.

    Raises OSError, with the address in its text.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            if os.name == "posix":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
            sock.listen(512)
            sock.setblocking(False)
        except OSError:
            sock.close()
            raise
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} ({host}, port {port})") from None
    return sock


@dataclass(frozen=True)
class Access:
    """What a client needs to use the service. `names` are those by which it can be reached, the printed one first."""

    batch_endpoint: str
    blob_endpoint: str
    account: str
    batch_key: str = field(repr=False)
    storage_account: str
    storage_key: str = field(repr=False)
    names: Sequence[str] = field(default=LOOPBACK, kw_only=True)
    identity: Identity | None = field(default=None, kw_only=True, repr=False)

    @classmethod
    def create(
        cls,
        batch: socket.socket,
        blobs: socket.socket,
        account: str = "local",
        *,
        given: Mapping[str, str] | None = None,
        host: str = HOST,
        more_names: Sequence[str] = (),
        tls: Path | None = None,
    ) -> Access:
        """Names and keys for two listening sockets.

        `given` are names and keys chosen by the user (see `given_keys`); the rest is random. `tls`: serve HTTPS, with
        certificates and the issuer of tokens kept in this directory.
        """
        given = given or {}
        names = names_for(host, more_names)
        identity = None
        if tls is not None:
            from batchexec.emulator.identity.identity import Identity

            identity = Identity.open(tls, names, given.get("client_secret"))
        scheme = "http" if identity is None else "https"
        shown = f"[{names[0]}]" if ":" in names[0] else names[0]
        batch_url, blob_url = (f"{scheme}://{shown}:{sock.getsockname()[1]}" for sock in (batch, blobs))
        account = given.get("account", account)
        storage = given.get("storage_account", account)
        return cls(
            batch_url,
            f"{blob_url}/{storage}",
            account,
            given.get("batch_key") or new_key(),
            storage,
            given.get("storage_key") or new_key(),
            names=names,
            identity=identity,
        )

    @property
    def connection_string(self) -> str:
        return (
            f"DefaultEndpointsProtocol={self.blob_endpoint.partition(':')[0]};"
            f"AccountName={self.storage_account};AccountKey={self.storage_key};BlobEndpoint={self.blob_endpoint};"
        )

    def line(self) -> str:
        """All of it as one line of JSON, for the process that started this one."""
        shown = {
            "batch_endpoint": self.batch_endpoint,
            "blob_endpoint": self.blob_endpoint,
            "account": self.account,
            "batch_key": self.batch_key,
            "storage_account": self.storage_account,
            "storage_key": self.storage_key,
            "connection_string": self.connection_string,
            "pid": os.getpid(),
        }
        if self.identity is not None:
            shown |= asdict(self.identity.login(self.batch_endpoint)) | {
                "ca_certificate": str(self.identity.certificates.authority),
                "ca_bundle": str(self.identity.certificates.bundle),
            }
        return json.dumps(shown)


def given_keys(
    path: Path | None, environment: Mapping[str, str], account: str | None = None, storage_account: str | None = None
) -> dict[str, str]:
    """Names and keys from a JSON file, else from BATCHEXEC_EMULATOR_ACCOUNT, _BATCH_KEY, _STORAGE_ACCOUNT,
    _STORAGE_KEY and _CLIENT_SECRET. Only names may be arguments: those every user of the machine can read.

    Raises BadKeys where the file can be read by others, or a value is not what it should be.
    """
    given = {name: environment[variable] for variable, name in _ENVIRONMENT.items() if environment.get(variable)}
    if path is not None:
        given |= _from_file(path)
    arguments = {"account": account, "storage_account": storage_account}
    given |= {name: value for name, value in arguments.items() if value is not None}
    for name, value in given.items():
        if name.endswith("_key") and not is_key(value):
            raise BadKeys(f"{name} is not a key: Base64 of at least 16 bytes is expected")
        if name.endswith("account") and not re.fullmatch(r"[a-z0-9]{3,24}", value):
            raise BadKeys(f"{name} {value!r} is no name of an account: 3 to 24 lower-case letters and digits")
    return given


def forget_keys(environment: MutableMapping[str, str]) -> None:
    """Take them out of the environment, so that nothing started from here gets them."""
    for variable in _ENVIRONMENT:
        environment.pop(variable, None)


@contextmanager
def tls_directory(root: Path | None) -> Iterator[Path]:
    """Where to keep what HTTPS and tokens need: in a directory that stays, else in one that goes at the end."""
    if root is not None:
        yield root / "identity"
        return
    with tempfile.TemporaryDirectory(prefix="batchexec-emulator-identity-") as directory:
        yield Path(directory)


def _from_file(path: Path) -> dict[str, str]:
    try:
        with open(path, encoding="utf-8") as file:
            if os.name == "posix" and os.fstat(file.fileno()).st_mode & 0o077:
                raise BadKeys(f"{path} holds keys and others may read it: chmod 600 {path}")
            found = json.load(file)
    except OSError as error:
        raise BadKeys(f"{path}: {error.strerror}") from None
    except ValueError:
        raise BadKeys(f"{path} is no JSON") from None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise BadKeys(f"{path}: an object of texts is expected")
    unknown = sorted(found.keys() - set(_GIVEN))
    if unknown:
        raise BadKeys(f"{path}: {', '.join(unknown)} is not known; known are {', '.join(_GIVEN)}")
    return found

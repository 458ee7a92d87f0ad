"""The Blob protocol with nothing between: requests signed by hand, replies as they came."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from urllib.parse import quote

from raw_wire import SIGNED

ACCOUNT = "localacct"
KEY = base64.b64encode(bytes(range(64))).decode()


@dataclass(frozen=True)
class Request:
    """`path` comes after the account, percent-encoded; `query` values are not encoded yet.

    `sas` is a query that authorizes; without one the request is signed with the account's key.
    """

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    sas: str = ""


@dataclass(frozen=True)
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def code(self) -> str | None:
        return self.headers.get("x-ms-error-code")


class Wire:
    """A connection to one server on loopback, kept alive."""

    def __init__(self, port: int, account: str = ACCOUNT, key: str = KEY) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._account = account
        self._key = base64.b64decode(key)

    def send(self, request: Request) -> Reply:
        headers = {name.lower(): value for name, value in request.headers.items()}
        headers.setdefault("x-ms-version", "2021-12-02")
        if request.body or request.method == "PUT":
            headers.setdefault("content-length", str(len(request.body)))
        target = f"/{self._account}{request.path}"
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in request.query.items())
        if request.sas:
            query = f"{query}&{request.sas}" if query else request.sas
        else:
            headers["x-ms-date"] = formatdate(usegmt=True)
            headers["authorization"] = f"SharedKey {self._account}:{self._sign(request, target, headers)}"
        try:
            self._connection.request(request.method, f"{target}?{query}" if query else target, request.body, headers)
            response = self._connection.getresponse()
            return Reply(response.status, response.headers, response.read())
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        self._connection.close()

    def _sign(self, request: Request, target: str, headers: Mapping[str, str]) -> str:
        lines = [request.method, *(headers.get(name, "") for name in SIGNED)]
        lines[3] = "" if lines[3] == "0" else lines[3]
        lines += [f"{name}:{headers[name]}" for name in sorted(headers) if name.startswith("x-ms-")]
        lines.append(f"/{self._account}{target}")
        lines += [f"{name}:{value}" for name, value in sorted(request.query.items())]
        digest = hmac.digest(self._key, "\n".join(lines).encode("utf-8", "surrogateescape"), hashlib.sha256)
        return base64.b64encode(digest).decode()


def blob_path(container: str, blob: str = "") -> str:
    return f"/{container}/{quote(blob)}" if blob else f"/{container}"

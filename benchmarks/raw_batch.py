"""A client of the Batch service that costs next to nothing: signed requests as bytes, on connections that stay."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
from collections.abc import Iterable, Iterator
from email.utils import formatdate
from typing import Any
from urllib.parse import parse_qsl, urlsplit

_TYPE = "application/json; odata=minimalmetadata"
_VERSION = "api-version=2024-07-01.20.0"


class RefusedError(Exception):
    """The service answered with an error."""


class RawBatch:
    """One account by its shared key. `width` requests are under way at a time, each on a connection of its own."""

    def __init__(self, endpoint: str, account: str, key: str, width: int = 2) -> None:
        address = urlsplit(endpoint)
        self._host = address.netloc
        self._account = account
        self._key = base64.b64decode(key)
        self._connections = [
            socket.create_connection((address.hostname or "", address.port or 80)) for _ in range(width)
        ]
        for connection in self._connections:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        for connection in self._connections:
            connection.close()

    def call(self, method: str, path: str, body: object = None, query: str = "") -> Any:
        """The decoded answer to one request; None where it has no body."""
        data = b"" if body is None else json.dumps(body).encode()
        (answer,) = self.calls([self.request(method, path, data, query)])
        return json.loads(answer) if answer else None

    def calls(self, requests: Iterable[bytes]) -> Iterator[bytes]:
        """The bodies of the answers, in order; the next requests are sent while these are worked on."""
        waiting: list[socket.socket] = []
        idle = list(self._connections)
        for request in requests:
            if not idle:
                idle.append(waiting.pop(0))
                yield _answer(idle[-1])
            connection = idle.pop()
            connection.sendall(request)
            waiting.append(connection)
        for connection in waiting:
            yield _answer(connection)

    def request(self, method: str, path: str, body: bytes = b"", query: str = "") -> bytes:
        query = f"{_VERSION}&{query}" if query else _VERSION
        date = formatdate(usegmt=True)
        size, kind = (str(len(body)), _TYPE) if body else ("" if method == "GET" else "0", "")
        signed = "\n".join([method, "", "", size, "", kind, "", *[""] * 5, f"ocp-date:{date}"])
        signed += f"\n/{self._account}{path}"
        signed += "".join(f"\n{name}:{value}" for name, value in sorted(parse_qsl(query)))
        signature = base64.b64encode(hmac.digest(self._key, signed.encode(), hashlib.sha256)).decode()
        head = f"{method} {path}?{query} HTTP/1.1\r\nHost: {self._host}\r\nocp-date: {date}\r\n"
        head += f"Authorization: SharedKey {self._account}:{signature}\r\n"
        if method != "GET":
            head += f"Content-Length: {size}\r\n"
        if kind:
            head += f"Content-Type: {kind}\r\n"
        return head.encode() + b"\r\n" + body


def _answer(connection: socket.socket) -> bytes:
    """The body of one answer: with a length, as all of this service are. RefusedError when it is an error."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _more(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    status, *headers = head.split(b"\r\n")
    length = 0
    for header in headers:
        name, _, value = header.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    parts, left = [body], length - len(body)
    while left > 0:
        parts.append(_more(connection))
        left -= len(parts[-1])
    body = b"".join(parts)
    if not 200 <= int(status.split()[1]) < 300:
        raise RefusedError(f"{status.decode()}: {body.decode(errors='replace')}")
    return body


def _more(connection: socket.socket) -> bytes:
    data = connection.recv(1 << 18)
    if not data:
        raise ConnectionError("the emulator hung up")
    return data

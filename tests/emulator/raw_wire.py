"""One connection on which anything can be sent, and the signature of the Batch service for any request."""

from __future__ import annotations

import base64
import hashlib
import hmac
import socket
from dataclasses import dataclass
from urllib.parse import unquote_plus, urlsplit

SIGNED = (  # headers that a shared key signs, in this order, of both services
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
)


@dataclass
class Reply:
    status: int
    head: bytes
    body: bytes


class Wire:
    """A connection that is opened again after the server has closed it."""

    def __init__(self, endpoint: str, seconds: float = 60.0) -> None:
        address = urlsplit(endpoint)
        self._address = address.hostname or "", address.port or 80
        self.host = address.netloc
        self._seconds = seconds
        self._socket: socket.socket | None = None

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def exchange(self, data: bytes, head_only: bool = False, end: bool = False) -> Reply | None:
        """The reply to these bytes; None when the server hangs up without one. TimeoutError when it does neither.

        `head_only`: no body follows the reply. `end`: nothing follows the data, as after a client's end-of-file.
        """
        if self._socket is None:
            self._socket = socket.create_connection(self._address, self._seconds)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self._socket.sendall(data)
            if end:
                self._socket.shutdown(socket.SHUT_WR)
            reply = _read(self._socket, head_only)
        except TimeoutError:
            raise
        except OSError:  # it hung up while we were sending
            reply = None
        if reply is None or end or b"connection: close" in reply.head.lower():
            self.close()
        return reply


def _read(connection: socket.socket, head_only: bool) -> Reply | None:
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            assert not data, data
            return None
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    lengths = [int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:"]
    if head_only or status in (204, 304):
        return Reply(status, head, body)
    if not lengths:  # to the end of the connection, or in chunks: of long replies only
        while more := connection.recv(65536):
            body += more
            if body.endswith(b"0\r\n\r\n"):
                break
        return Reply(status, head, body)
    while len(body) < lengths[0]:
        more = connection.recv(65536)
        assert more, "the reply ends early"
        body += more
    return Reply(status, head, body)


def batch_signature(account: str, key: str, method: str, path: str, query: str, headers: dict[str, str]) -> str:
    """The Authorization header of a request to the Batch service, for path and query as they are sent."""
    lower = {name.lower(): value for name, value in headers.items()}
    if method not in ("GET", "HEAD"):
        lower.setdefault("content-length", "0")
    lines = [method, *(lower.get(name, "") for name in SIGNED)]
    lines += [f"{name}:{lower[name]}" for name in sorted(lower) if "ocp-" in name and lower[name]]
    lines.append(f"/{account}{path}")
    values: dict[str, str] = {}
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if value:
            values.setdefault(unquote_plus(name), unquote_plus(value))
    lines += [f"{name}:{values[name]}" for name in sorted(values)]
    signed = hmac.digest(base64.b64decode(key), "\n".join(lines).encode(), hashlib.sha256)
    return f"SharedKey {account}:{base64.b64encode(signed).decode()}"

"""Requests to a Blob service that are wrong in some way, made from good ones by a seeded hand."""

from __future__ import annotations

import base64
import random
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import quote

_BLOCK = base64.b64encode(b"block-1").decode()
_LIST = f"<BlockList><Latest>{_BLOCK}</Latest></BlockList>".encode()
_BATCH = b"--b\r\nContent-Type: application/http\r\n\r\nDELETE /{a}/box/x HTTP/1.1\r\n\r\n\r\n--b--\r\n"
_KIND = {"x-ms-blob-type": "BlockBlob"}
_JUNK = (
    *("", "0", "-1", "²", "٣", "9" * 400, "é", "\x7f", "%", "%zz", "%00", "%ff", "*", ",", ";=", '"', "'", "<x>"),
    *("a b", "../..", "NaN", "true", "null", "bytes=0-", "bytes=9-1", f"bytes={'9' * 60}-", "x" * 5000),
    *("Sat, 99 Foo 2000 00:00:00 GMT", "Sat, 01 Jan 99999 00:00:00 +9999999", "2020-13-45T99:99:99Z", "0001-01-01"),
)
_HEADERS = (
    *("If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "Range", "x-ms-range", "Content-MD5"),
    *("Content-Type", "Content-Encoding", "x-ms-blob-content-md5", "x-ms-blob-content-type", "x-ms-blob-type", "Host"),
    *("x-ms-version", "x-ms-date", "x-ms-client-request-id", "x-ms-copy-source", "x-ms-access-tier", "x-ms-lease-id"),
    *("x-ms-meta-a", "x-ms-meta-", "x-ms-tags", "x-ms-range-get-content-md5", "Authorization", "Expect", "Upgrade"),
    *("x-ms-blob-public-access", "x-ms-delete-snapshots", "Accept-Encoding", "Date", "Cookie", "Transfer-Encoding"),
)
_QUERIES = (
    *("comp", "restype", "prefix", "marker", "maxresults", "delimiter", "include", "blockid", "blocklisttype"),
    *("timeout", "snapshot", "versionid", "sv", "se", "st", "sp", "sr", "sig", "spr", "sip", "ss", "srt", "rscd"),
    *("skoid", "sktid", "ske", "skt", "sks", "skv", "si", "ses", "where"),
)
_COMPS = (
    *("list", "metadata", "properties", "block", "blocklist", "batch", "tier", "copy", "lease", "acl", "tags", "page"),
    *("snapshot", "appendblock", "query", "undelete", "stats", "blobs", "userdelegationkey", "seal", "expiry", "BLOCK"),
)
_METHODS = ("PATCH", "OPTIONS", "TRACE", "CONNECT", "get", "GETT", "P\x00T", "POST", "DELETE", "HEAD", "PUT")
_BODIES = (
    b"<",
    b"<BlockList>",
    b"\xff\xfe\x00",
    b"<!DOCTYPE x [<!ENTITY a 'a'>]><BlockList><Latest>&a;</Latest></BlockList>",
    b"<BlockList><Latest>" + b"<a>" * 5000,
    b"<BlockList><Other>MQ==</Other></BlockList>",
    b"<BlockList xmlns='urn:x'><Latest>MQ==</Latest></BlockList>",
    "<BlockList><Latest>\u0663</Latest></BlockList>".encode(),
    b"<?xml version='1.0' encoding='utf-7'?><BlockList/>",
    b"--b\r\n\r\n--b--",
    b"--b\r\n\r\nDELETE\r\n--b--",
    b"--b\r\nContent-ID: 0\r\n\r\nDELETE /x/y/z?comp=%ff HTTP/1.1\r\nx: \r\r\n\r\n--b--",
    b"--b\n\nPUT /x/y/z HTTP/1.1\n\n--b--",
    b"\x00" * 70_000,
)


@dataclass
class Malformed:
    """A request as it goes over the wire. `dead`: the client stops sending before it is whole."""

    method: str
    path: str
    query: str
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    length: str | None = None
    version: str = "HTTP/1.1"
    dead: bool = False
    cut: int | None = None

    def wire(self) -> bytes:
        length = str(len(self.body)) if self.length is None else self.length
        sent = [*self.headers, ("Connection", "close")]
        if length and (self.body or self.method in ("PUT", "POST") or self.length):
            sent.append(("Content-Length", length))
        names = {name.lower() for name, _ in sent}
        head = [f"{self.method} {self.path}{'?' * bool(self.query)}{self.query} {self.version}"]
        head += [] if "host" in names else ["Host: 127.0.0.1"]
        head += [f"{name}: {value}" for name, value in sent]
        whole = "\r\n".join([*head, "", ""]).encode("utf-8", "surrogateescape") + self.body
        return whole if self.cut is None else whole[: self.cut]


class Maker:
    """Makes requests that hold for an account and whose rights come from `sas`; the same ones for the same seed."""

    def __init__(self, account: str, sas: str, seed: int) -> None:
        self._base = f"/{account}"
        self._account = account
        self._sas = sas
        self._random = random.Random(seed)

    def make(self) -> Malformed:
        request = self._good()
        for _ in range(self._random.choice((0, 1, 1, 1, 2, 3))):
            self._random.choice(self._mutations)(self, request)
        return request

    def _good(self) -> Malformed:
        pick = self._random.choice
        box = f"{self._base}/{pick(('box', 'box', 'box', 'other', 'gone'))}"
        blob = f"{box}/{quote(pick(('a', 'b', 'd/e', 'ü x', 'n' * 200)))}"
        body = pick((b"", b"1", b"x" * 100, b"y" * 70_000))
        copy = {"x-ms-copy-source": f"http://127.0.0.1{blob}?{self._sas}"}
        batch = {"Content-Type": "multipart/mixed; boundary=b"}
        method, path, query, headers, content = pick(
            (
                ("PUT", box, "restype=container", {}, b""),
                ("DELETE", f"{self._base}/other", "restype=container", {}, b""),
                ("GET", box, "restype=container&comp=list", {}, b""),
                ("GET", self._base + "/", "comp=list", {}, b""),
                ("PUT", blob, "", _KIND, body),
                ("PUT", blob, "", _KIND, body),
                ("PUT", blob, "", copy, b""),
                ("GET", blob, "", {}, b""),
                ("HEAD", blob, "", {}, b""),
                ("DELETE", blob, "", {}, b""),
                ("PUT", blob, f"comp=block&blockid={quote(_BLOCK)}", {}, body),
                ("PUT", blob, f"comp=block&blockid={quote(_BLOCK)}", {}, body),
                ("PUT", blob, "comp=blocklist", {}, _LIST),
                ("GET", blob, "comp=blocklist&blocklisttype=all", {}, b""),
                ("PUT", blob, "comp=metadata", {"x-ms-meta-k": "v"}, b""),
                ("POST", box, "restype=container&comp=batch", batch, _BATCH.replace(b"{a}", self._account.encode())),
            )
        )
        return Malformed(method, path, f"{query}&{self._sas}" if query else self._sas, list(headers.items()), content)

    def _method(self, request: Malformed) -> None:
        request.method = self._random.choice(_METHODS)

    def _path(self, request: Malformed) -> None:
        pick = self._random.choice
        junk = pick((*_JUNK, "/", "//", "/./", "/../", "?", "#", "%2F", "\xfc", "\\", "%u1234", "n" * 2000))
        at = self._random.randrange(len(request.path) + 1)
        request.path = pick((junk, "*", "", "http://x/y", request.path[:at] + junk + request.path[at:], f"/{junk}/a/b"))

    def _query(self, request: Malformed) -> None:
        name = self._random.choice(_QUERIES)
        value = self._random.choice(_COMPS if name in ("comp", "restype") else _JUNK)
        value = value if self._random.random() < 0.3 else quote(value)
        kept = [part for part in request.query.split("&") if not part.startswith(f"{name}=")]
        kept.insert(self._random.randrange(len(kept) + 1), f"{name}={value}" if self._random.random() < 0.9 else value)
        request.query = "&".join(kept)

    def _header(self, request: Malformed) -> None:
        name = self._random.choice(_HEADERS)
        if name in ("Transfer-Encoding", "Expect", "Upgrade"):
            request.dead = True  # the server may wait for what never comes
        request.headers.append((name, self._random.choice(_JUNK)))

    def _lose(self, request: Malformed) -> None:
        if request.headers:
            request.headers.pop(self._random.randrange(len(request.headers)))

    def _bad_header(self, request: Malformed) -> None:
        name = self._random.choice(("a b", "", "x:y", "(x)", "\x00", "x" * 9000, "x-ms-meta-1<", "ä", "Connection"))
        request.headers.append((name, "1"))

    def _body(self, request: Malformed) -> None:
        request.body = self._random.choice(_BODIES)

    def _length(self, request: Malformed) -> None:
        wrong = ("", "", "", "", "-1", "+3", "0x10", "1e3", "²", "9" * 30, "1", "300000", str(6000 * 2**20))
        request.length = self._random.choice((*wrong, str(len(request.body) + 7)))
        request.dead = request.dead or request.length != ""

    def _chunks(self, request: Malformed) -> None:
        request.headers.append(("Transfer-Encoding", self._random.choice(("chunked", "chunked, gzip", "identity"))))
        chunks = (b"5\r\nhello\r\n0\r\n\r\n", b"zz\r\n", b"5\r\nhi", b"ffffffffffffffff\r\n", b"-1\r\n")
        request.body = self._random.choice(chunks)
        request.length, request.dead = self._random.choice(("", "5")), True

    def _cut(self, request: Malformed) -> None:
        request.cut, request.dead = self._random.randrange(len(request.wire())), True

    def _version(self, request: Malformed) -> None:
        request.version = self._random.choice(("HTTP/1.0", "HTTP/2.0", "HTTP/0.9", "HTTQ/1.1", "", "HTTP/1.1 x"))
        request.dead = request.dead or request.version != "HTTP/1.0"

    _mutations: tuple[Callable[[Maker, Malformed], None], ...] = (
        *(_method, _path, _path, _query, _query, _query, _header, _header, _header, _header, _lose, _bad_header),
        *(_body, _body, _length, _chunks, _cut, _version),
    )


def send(port: int, request: Malformed) -> int | None:
    """The status of the reply; None where the server closed without one. Raises TimeoutError when it does neither."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        try:
            connection.sendall(request.wire())
            if request.dead:
                connection.shutdown(socket.SHUT_WR)
            received = b""
            while data := connection.recv(1 << 16):
                received = (received + data)[: 1 << 16]
        except ConnectionError:  # it refused the rest, which is its right
            received = b""
        while received.startswith(b"HTTP/1.1 100"):
            received = received.partition(b"\r\n\r\n")[2]
        return int(received.split(b" ", 2)[1]) if received.startswith(b"HTTP/") else None

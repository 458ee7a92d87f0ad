"""Blob storage as a worker sees it: a few verbs over HTTP on SAS URLs, with retries."""

from __future__ import annotations

import contextlib
import functools
import http.client
import ipaddress
import os
import random
import socket
import ssl
import time
import urllib.parse
from typing import Any, Iterator

PUT_LIMIT = 5000 * 1024 * 1024  # bytes that Put Blob takes, hence a result's

_RETRIED = frozenset((408, 429, 500, 502, 503, 504))
_TRIES = 10
_FIRST_DELAY, _LONGEST_DELAY = 0.25, 90.0
_PIECE = 256 * 1024
_VERSION = "2021-12-02"
_SENT_BYTES = 1 << 18  # of a file at once
_TIMEOUT = 60.0  # seconds without a byte; a body as a whole may take longer


class StoreError(Exception):
    """Storage refused a request for good. `status` is 0 when nothing answered."""

    def __init__(self, verb: str, name: str, status: int, detail: str) -> None:
        super().__init__(f"{verb} {name}: {status or 'no answer'} {detail}")
        self.status = status


class _Plain(http.client.HTTPConnection):
    """HTTP to an address: asking the resolver for it would cost a forked process more than the connection does."""

    def connect(self) -> None:
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            super().connect()
            return
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect((self.host, self.port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def trusted() -> ssl.SSLContext:
    """Whom to believe: the system's certificates, or those that SSL_CERT_FILE and SSL_CERT_DIR name.

    Reading them takes longer than most tasks' work: a fork server does it once for all its children.
    """
    return _trusted(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@functools.lru_cache(maxsize=1)
def _trusted(file: str | None, directory: str | None) -> ssl.SSLContext:
    return ssl.create_default_context()


class Store:
    """The blobs below one base URL. Not for several threads."""

    def __init__(self, base_url: str) -> None:
        url = urllib.parse.urlsplit(base_url)
        host = url.hostname or ""
        self._connection: http.client.HTTPConnection
        if url.scheme == "https":
            self._connection = http.client.HTTPSConnection(host, url.port, timeout=_TIMEOUT, context=trusted())
        else:
            self._connection = _Plain(host, url.port, timeout=_TIMEOUT)
        self._connection.blocksize = _SENT_BYTES
        self._path = url.path.rstrip("/") + "/"

    def get(self, name: str, sas: str, span: tuple[int, int] | None = None) -> bytes:
        """The blob, or its bytes [start, stop)."""
        headers = {} if span is None else {"x-ms-range": f"bytes={span[0]}-{span[1] - 1}"}
        status, body = self._request("GET", name, sas, None, headers)
        if status not in (200, 206):
            raise StoreError("GET", name, status, _code(body))
        return body

    def pieces(self, name: str, sas: str, start: int, stop: int, etag: str | None = None) -> Iterator[bytes]:
        """The bytes [start, stop) of the blob, by pieces. Where the connection breaks it goes on from there.

        With `etag` only of the blob that has it (412 else). Nothing else may be asked until all have been taken, or the
        iterator was closed.
        """
        at, left, delay = start, _TRIES, _FIRST_DELAY
        whole = False
        try:
            while at < stop:
                wait = delay
                try:
                    response = self._ask_for(name, sas, at, stop, etag)
                    if response.status in _RETRIED:
                        failed = StoreError("GET", name, response.status, _code(response.read()))
                        wait = _retry_after(response, delay)
                    else:
                        while at < stop:
                            piece = response.read(min(_PIECE, stop - at))
                            if not piece:
                                raise http.client.IncompleteRead(b"", stop - at)
                            at, left, delay = at + len(piece), _TRIES, _FIRST_DELAY
                            yield piece
                        response.read()
                        whole = True
                        return
                except (OSError, http.client.HTTPException) as error:
                    self.close()
                    failed = StoreError("GET", name, 0, f"{type(error).__name__}: {error}")
                left -= 1
                if not left:
                    raise failed
                time.sleep(wait * random.uniform(0.5, 1.0))
                delay = min(delay * 2, _LONGEST_DELAY)
        finally:
            if not whole:
                self.close()

    def _ask_for(self, name: str, sas: str, start: int, stop: int, etag: str | None) -> http.client.HTTPResponse:
        headers = {"x-ms-version": _VERSION, "x-ms-range": f"bytes={start}-{stop - 1}"}
        if etag is not None:
            headers["If-Match"] = etag
        self._connection.request("GET", self._target(name, sas), None, headers)
        response = self._connection.getresponse()
        if response.status != 206 and response.status not in _RETRIED:
            raise StoreError("GET", name, response.status, _code(response.read()))
        return response

    def exists(self, name: str, sas: str) -> bool:
        status, body = self._request("HEAD", name, sas, None, {})
        if status not in (200, 404):
            raise StoreError("HEAD", name, status, _code(body))
        return status == 200

    def put_new(self, name: str, sas: str, body: Any, length: int) -> bool:
        """Create the blob; False when there was one already (then that one stands). `body`: bytes, or a file."""
        headers = {"x-ms-blob-type": "BlockBlob", "If-None-Match": "*", "Content-Length": str(length)}
        status, answer = self._request("PUT", name, sas, body, headers)
        if status == 201:
            return True
        # A create-only SAS answers 403 instead of 409 over an existing blob.
        if status in (403, 409) and self.exists(name, sas):
            return False
        raise StoreError("PUT", name, status, _code(answer))

    def put(self, name: str, sas: str, body: Any, length: int) -> None:
        """Write the blob, whatever was there. `body`: bytes, or an open file at its beginning."""
        headers = {"x-ms-blob-type": "BlockBlob", "Content-Length": str(length)}
        status, answer = self._request("PUT", name, sas, body, headers)
        if status != 201:
            raise StoreError("PUT", name, status, _code(answer))

    def close(self) -> None:
        with contextlib.suppress(OSError):  # user code may have closed all that was open
            self._connection.close()

    def _target(self, name: str, sas: str) -> str:
        """`name` is below our base; with a slash at its beginning it is a path in the storage account."""
        path = name if name.startswith("/") else self._path + name
        return f"{urllib.parse.quote(path)}?{sas}"

    def _request(self, verb: str, name: str, sas: str, body: Any, headers: dict[str, str]) -> tuple[int, bytes]:
        target = self._target(name, sas)
        headers = {"x-ms-version": _VERSION, **headers}
        delay = _FIRST_DELAY
        for left in reversed(range(_TRIES)):
            try:
                if hasattr(body, "seek"):
                    body.seek(0)
                self._connection.request(verb, target, body, headers)
                response = self._connection.getresponse()
                status, answer = response.status, response.read()
                if status not in _RETRIED or not left:
                    return status, answer
                wait = _retry_after(response, delay)
            except (OSError, http.client.HTTPException) as error:
                self.close()
                if not left:
                    raise StoreError(verb, name, 0, f"{type(error).__name__}: {error}") from error
                wait = delay
            time.sleep(wait * random.uniform(0.5, 1.0))
            delay = min(delay * 2, _LONGEST_DELAY)
        raise AssertionError("unreachable")


def _retry_after(response: http.client.HTTPResponse, delay: float) -> float:
    value = response.getheader("Retry-After", "")
    return min(float(value), _LONGEST_DELAY) if value.isdigit() else delay


def _code(body: bytes) -> str:
    """The service's error code, from its XML."""
    text = body[:2000].decode("utf-8", "replace")
    _, found, rest = text.partition("<Code>")
    return rest.partition("</Code>")[0] if found else text[:200]

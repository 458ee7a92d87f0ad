"""Shared-key authentication of the Batch service, and the making of keys."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Iterable
from urllib.parse import unquote_plus

from batchexec.emulator.errors import BatchError

_SIGNED = (
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


def new_key() -> str:
    return base64.b64encode(os.urandom(64)).decode()


def is_key(text: str) -> bool:
    """Whether a text can be an account's key."""
    try:
        return len(base64.b64decode(text, validate=True)) >= 16
    except ValueError:
        return False


class SharedKey:
    """Checks `Authorization: SharedKey account:signature` against one account's key."""

    def __init__(self, account: str, key: str) -> None:
        self._account = account
        self._key = base64.b64decode(key)
        self._prefix = f"SharedKey {account}:"

    def check(self, method: str, path: str, query: str, headers: Iterable[tuple[str, str]]) -> None:
        """Raise AuthenticationFailed unless the request, as it came over the wire, is signed with the key.

        Its date is covered by the signature but not compared with the clock, as the service does to 15 minutes:
        clients sign with the real time while our clock may run through hours in a test.
        """
        given = {name.lower(): value for name, value in headers}
        authorization = given.get("authorization", "")
        if not authorization.startswith(self._prefix):
            raise BatchError("AuthenticationFailed")
        expected = self._signature(method, path, query, given)
        if not hmac.compare_digest(authorization[len(self._prefix) :].encode(), expected):
            raise BatchError("AuthenticationFailed")

    def _signature(self, method: str, path: str, query: str, headers: dict[str, str]) -> bytes:
        lines = [method]
        for name in _SIGNED:
            value = headers.get(name, "")
            if name == "content-length" and not value and method not in ("GET", "HEAD"):
                value = "0"
            lines.append(value)
        lines += [f"{name}:{headers[name]}" for name in sorted(headers) if "ocp-" in name and headers[name]]
        lines.append(f"/{self._account}{path}")
        first: dict[str, str] = {}
        for pair in query.split("&"):
            name, _, value = pair.partition("=")
            if value:
                first.setdefault(unquote_plus(name), unquote_plus(value))
        lines += [f"{name}:{first[name]}" for name in sorted(first)]
        digest = hmac.digest(self._key, "\n".join(lines).encode(), hashlib.sha256)
        return base64.b64encode(digest)

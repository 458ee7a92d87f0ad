"""The account's own storage, as its nodes reach it: addresses signed with the account's key."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable
from datetime import datetime, timedelta
from urllib.parse import quote, unquote, urlsplit

_VERSION = "2020-12-06"
_VALID = timedelta(days=1)


class OwnStorage:
    """`endpoint` is that of the Blob service with the account's name, `key` the account's key."""

    def __init__(self, endpoint: str, account: str, key: str, now: Callable[[], datetime]) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._account = account
        self._key = base64.b64decode(key)
        self._now = now

    def container(self, name: str, permissions: str) -> str:
        """The signed address of a container."""
        return f"{self._endpoint}/{quote(name, safe='$')}?{self._signature(name, permissions)}"

    def signed(self, url: str, permissions: str) -> str:
        """An address in this storage with a signature for its container; another's as it is.

        So an identity of the pool is told by the service's nodes: here every one may use the account's own storage.
        """
        parts = urlsplit(url)
        path = f"{parts.scheme}://{parts.netloc}{parts.path}"
        if parts.query or not path.startswith(self._endpoint + "/"):
            return url
        name = unquote(path[len(self._endpoint) + 1 :].partition("/")[0])
        return f"{path}?{self._signature(name, permissions)}"

    def _signature(self, container: str, permissions: str) -> str:
        """The query of a service SAS.

        https://learn.microsoft.com/rest/api/storageservices/create-service-sas
        """
        expiry = (self._now() + _VALID).strftime("%Y-%m-%dT%H:%M:%SZ")
        path = f"/blob/{self._account}/{container}"
        # Start, identifier, addresses and protocol are empty before the version; then the kind of resource, and six
        # more that are: the time of a snapshot, the encryption scope and the headers of replies but one.
        fields = [permissions, "", expiry, path, "", "", "", _VERSION, "c", "", "", "", "", "", "", ""]
        signature = base64.b64encode(hmac.digest(self._key, "\n".join(fields).encode(), "sha256")).decode()
        return f"sv={_VERSION}&sr=c&sp={permissions}&se={quote(expiry)}&sig={quote(signature, safe='')}"

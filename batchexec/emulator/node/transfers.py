"""HTTP as a node speaks it to storage: one session, whom to believe, and addresses that need a signature."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from batchexec.emulator.state import Body

if TYPE_CHECKING:
    from aiohttp import ClientSession
    from aiohttp.client import _RequestContextManager

    from .own_storage import OwnStorage


class Transfers:
    """A node's session, opened when it is first needed.

    `trusted`: a file with the certificates to trust; None for those of the system. `storage`: the account's own.
    """

    def __init__(self, trusted: Path | None, storage: OwnStorage | None) -> None:
        self._trusted_file = trusted
        self.storage = storage
        self._session: ClientSession | None = None
        self._tls: ssl.SSLContext | None = None

    def request(self, method: str, url: str, **more: object) -> _RequestContextManager:
        """A request with the address as it is, for `async with`."""
        import aiohttp
        from yarl import URL

        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60),
                auto_decompress=False,  # what is stored compressed stays so, and a small blob stays small
                headers={"Accept-Encoding": "identity"},
            )
        return self._session.request(method, URL(url, encoded=True), ssl=self._trusted(url), **more)

    def address(self, url: str, item: Body, permissions: str) -> str:
        """The address, signed where the item names an identity instead of bringing a signature."""
        if item.get("identityReference") and self.storage is not None:
            return self.storage.signed(url, permissions)
        return url

    def _trusted(self, url: str) -> ssl.SSLContext | bool:
        """Whom to believe: the given certificates or the system's, read when first needed."""
        if url[:6].lower() != "https:":
            return True
        if self._tls is None:
            self._tls = ssl.create_default_context(cafile=self._trusted_file)
        return self._tls

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


def without_secret(url: str) -> str:
    """An address as it may be shown: its query holds a signature, and what stands before the host a password."""
    scheme, slashes, rest = url.partition("?")[0].partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{slashes}{host.rpartition('@')[2]}{slash}{path}"

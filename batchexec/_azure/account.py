"""Where the services are and what opens them."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from azure.core.pipeline.transport import AioHttpTransport

CONNECTIONS = 64


@dataclass(frozen=True)
class Account:
    """A Batch account and its storage. Without a key, `credential` (a TokenCredential) opens it."""

    batch_endpoint: str
    batch_account: str
    blob_endpoint: str
    storage_account: str
    batch_key: str | None = field(default=None, repr=False)
    storage_key: str | None = field(default=None, repr=False)
    credential: Any = field(default=None, repr=False)

    def token_credential(self) -> Any:
        """The credential given, else Azure's default chain (environment, managed identity, az login, ...)."""
        if self.credential is not None:
            return self.credential
        from azure.identity import DefaultAzureCredential

        return DefaultAzureCredential()


def open_session(account: Account, timeout: float) -> aiohttp.ClientSession:
    """One connection pool for both services. Proxies of the environment are used, but never for this machine."""
    return aiohttp.ClientSession(
        trust_env=not is_loopback(account.batch_endpoint),
        connector=aiohttp.TCPConnector(limit=CONNECTIONS),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=timeout, sock_read=60),
        auto_decompress=False,
    )


def sdk_transport(session: aiohttp.ClientSession, endpoint: str) -> Any:
    return AioHttpTransport(session=session, session_owner=False, use_env_settings=not is_loopback(endpoint))


def is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

"""Where the services are and what opens them."""

from __future__ import annotations

import asyncio
import inspect
import ipaddress
import ssl
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
        """The credential given, else Azure's default chain (environment, managed identity, az login, ...), for the
        asynchronous clients."""
        if self.credential is None:
            from azure.identity import DefaultAzureCredential

            return OffTheLoop(DefaultAzureCredential())
        if inspect.iscoroutinefunction(self.credential.get_token):
            return self.credential
        return OffTheLoop(self.credential)


class OffTheLoop:
    """A synchronous TokenCredential for asynchronous clients: it may ask a server or a program, so a thread waits."""

    def __init__(self, credential: Any) -> None:
        self._credential = credential

    async def get_token(self, *scopes: str, **options: Any) -> Any:
        return await asyncio.to_thread(self._credential.get_token, *scopes, **options)

    async def close(self) -> None:
        """The credential belongs to whoever made it."""

    async def __aenter__(self) -> OffTheLoop:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def open_session(account: Account, timeout: float) -> aiohttp.ClientSession:
    """One connection pool for both services. Proxies of the environment are used, but never for this machine."""
    return aiohttp.ClientSession(
        trust_env=not is_loopback(account.batch_endpoint),
        connector=aiohttp.TCPConnector(limit=CONNECTIONS, ssl=_trusted(account)),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=timeout, sock_read=60),
        auto_decompress=False,
    )


def _trusted(account: Account) -> ssl.SSLContext | bool:
    """Whom to believe over HTTPS: what the environment (SSL_CERT_FILE) says now, not when aiohttp was imported."""
    endpoints = account.batch_endpoint, account.blob_endpoint
    return ssl.create_default_context() if any(url.startswith("https:") for url in endpoints) else True


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

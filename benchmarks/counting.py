"""A door in front of a Blob service: it lets everything through, and counts requests and bytes by kind of blob."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from types import TracebackType
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web
from yarl import URL

_HOP = frozenset({"connection", "content-length", "keep-alive", "transfer-encoding"})
_MOST = 6_000 * 2**20


class CountingDoor:
    """Serves on loopback for the length of a block. `endpoint` is what clients are given in place of the service's."""

    def __init__(self, endpoint: str) -> None:
        self._service = endpoint
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.requests: Counter[tuple[str, str]] = Counter()
        """By method and kind of blob (the first parts of its name)."""
        self.sent: Counter[tuple[str, str]] = Counter()
        """Bytes of bodies, to the service and from it."""

    def __enter__(self) -> CountingDoor:
        self._thread.start()
        port = asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()
        self.endpoint = f"http://127.0.0.1:{port}{urlsplit(self._service).path}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _open(self) -> int:
        self._session = aiohttp.ClientSession(auto_decompress=False, connector=aiohttp.TCPConnector(limit=0))
        application = web.Application(client_max_size=_MOST)
        application.router.add_route("*", "/{rest:.*}", self._pass)
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return int(self._runner.addresses[0][1])

    async def _close(self) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _pass(self, request: web.Request) -> web.Response:
        service = urlsplit(self._service)
        target = URL(f"{service.scheme}://{service.netloc}{request.raw_path}", encoded=True)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in {*_HOP, "host"}}
        body = await request.read()
        async with self._session.request(
            request.method, target, data=body, headers=headers, skip_auto_headers={"Content-Type", "Accept-Encoding"}
        ) as response:
            answer = await response.read()
            about = (request.method, self._kind(request.path))
            self.requests[about] += 1
            self.sent[about] += len(body) + (len(answer) if response.status < 300 else 0)
            kept = [(name, value) for name, value in response.headers.items() if name.lower() not in _HOP]
            if request.method == "HEAD":
                kept.append(("Content-Length", response.headers.get("Content-Length", "0")))
            return web.Response(status=response.status, body=answer, headers=kept)

    def _kind(self, path: str) -> str:
        """`files/bundle` of .../account/container/files/bundle/x, `in` of .../in/1; "" of containers."""
        below = path.removeprefix(urlsplit(self._service).path).strip("/").split("/")[1:]
        return "/".join(below[:2] if below[:1] == ["files"] else below[:1])

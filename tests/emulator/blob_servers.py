"""The Blob services under test: ours in this process, with a clock that tests can move, and Azurite beside it."""

from __future__ import annotations

import asyncio
import http.client
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import BlobServiceClient, generate_blob_sas, generate_container_sas
from blob_wire import ACCOUNT, KEY

from batchexec.emulator.blob.service import blob_app

ODD_NAME = "dir one/ü+%41 &=?#~'\"<ä>/日本"


class BlobServer:
    """A Blob service on loopback, as tests see any."""

    name = ""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}/{ACCOUNT}"

    def client(self, **options: Any) -> BlobServiceClient:
        credential = {"account_name": ACCOUNT, "account_key": KEY}
        return BlobServiceClient(self.url, credential=credential, retry_total=0, **options)

    def http(
        self, method: str, target: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, f"/{ACCOUNT}{target}", body=body, headers=headers or {})
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()

    def sas(self, permission: str, blob: str | None = None, **options: Any) -> str:
        """A SAS of the container `box`, or of one blob in it."""
        options = {"expiry": datetime.now(timezone.utc) + timedelta(hours=1), **options}
        if blob is None:
            return generate_container_sas(ACCOUNT, "box", account_key=KEY, permission=permission, **options)
        return generate_blob_sas(ACCOUNT, "box", blob, account_key=KEY, permission=permission, **options)


class Azurite(BlobServer):
    name = "azurite"


class Embedded(BlobServer):
    """The service of this project on a loop of its own."""

    name = "embedded"

    def __init__(self, root: Path) -> None:
        self.root = root
        self.skew = timedelta(0)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._runner = self._do(self._start())
        super().__init__(self._runner.addresses[0][1])

    def now(self) -> datetime:
        return datetime.now(timezone.utc) + self.skew

    def _do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _start(self) -> web.AppRunner:
        app = blob_app(ACCOUNT, KEY, self.root, self.now)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1, auto_decompress=False)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner

    async def _end(self) -> None:
        await self._runner.cleanup()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:  # connections of refused uploads, on which the server still lingers
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def stop(self) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def code(error: pytest.ExceptionInfo[HttpResponseError]) -> tuple[int | None, str]:
    found = error.value.error_code  # type: ignore[attr-defined]
    return error.value.status_code, getattr(found, "value", found)

"""A service with a data directory, for tests that kill it and start it again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from azure.batch import BatchClient
from azure.core.credentials import AzureNamedKeyCredential
from azure.core.pipeline.policies import RetryPolicy
from azure.storage.blob import BlobServiceClient
from batch_service import Service


class Kept:
    """`batch` and `blobs` are SDK clients; they stay good when the service is started again, as it keeps its ports."""

    def __init__(self, data: Path, *options: str, python: str = sys.executable) -> None:
        self.data = data
        self._command = [python, "-m", "batchexec.emulator", "--json", "--data-dir", str(data), *options]
        self.process: subprocess.Popen[bytes]
        self.info: dict[str, Any] = {}
        self.start()
        credential = AzureNamedKeyCredential(self.info["account"], self.info["batch_key"])
        # Connections that the kill broke are tried again; a refusal is seen at once.
        self.batch = BatchClient(self.info["batch_endpoint"], credential, retry_policy=_only_connections())
        self.blobs = BlobServiceClient.from_connection_string(self.info["connection_string"], retry_total=0)
        self.service = Service(self.batch, self.info, data)

    def start(self) -> None:
        self.process = subprocess.Popen([*self._command, "--until-eof"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"it did not start: exit code {self.process.wait(10)}"
        self.info = json.loads(line)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self._over()

    def restart(self) -> None:
        self.kill()
        self.start()

    def stop(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self._over()

    def _over(self) -> int:
        code = self.process.wait(20)
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()
        return code

    def get(self, path: str) -> Any:
        """What the service answers, as JSON with nothing left out."""
        request = self.service_request(path)
        with self.batch.send_request(request) as response:
            response.raise_for_status()
            return response.json()

    @staticmethod
    def service_request(path: str) -> Any:
        from azure.core.rest import HttpRequest

        joint = "&" if "?" in path else "?"
        return HttpRequest("GET", f"{path}{joint}api-version=2025-06-01")


def _only_connections() -> RetryPolicy[Any, Any]:
    return RetryPolicy(retry_total=20, retry_connect=20, retry_read=20, retry_status=0, retry_backoff_factor=0.05)


@contextmanager
def kept_service(data: Path, *options: str) -> Iterator[Kept]:
    kept = Kept(data, *options)
    try:
        yield kept
    finally:
        kept.batch.close()
        kept.blobs.close()
        if kept.process.poll() is None:
            assert kept.stop() == 0

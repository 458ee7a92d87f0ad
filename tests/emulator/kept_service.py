"""A service with a data directory, for tests that kill it and start it again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from azure.batch import BatchClient
from azure.core.credentials import AzureNamedKeyCredential
from azure.core.pipeline.policies import RetryPolicy
from azure.storage.blob import BlobServiceClient
from batch_service import Service

from batchexec.testing import LocalAzure


class Kept(LocalAzure):
    """`batch` and `blobs` are SDK clients; they stay good when the service is started again, as it keeps its ports."""

    def __init__(self, data: Path, *options: str) -> None:
        self.data = data
        super().__init__("--data-dir", str(data), *options)
        credential = AzureNamedKeyCredential(self.ready["account"], self.ready["batch_key"])
        # Connections that the kill broke are tried again; a refusal is seen at once.
        self.batch = BatchClient(self.ready["batch_endpoint"], credential, retry_policy=_only_connections())
        self.blobs = BlobServiceClient.from_connection_string(self.ready["connection_string"], retry_total=0)
        self.service = Service(self.batch, self.ready, data)

    def restart(self) -> None:
        self.kill()
        self.start()

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

"""A local Azure for the tests of any project that uses Azure Batch: as a context manager, and as pytest fixtures.

In a `conftest.py`:

    pytest_plugins = ["batchexec.testing"]

and a test that takes `azure_batch` has an emulator of its session (a `LocalAzure`), while one that takes
`azure_batch_environment` also has the environment variables that `az batch`, the SDKs and batchexec read.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from batchexec.emulator.running import variables

try:
    import pytest
except ModuleNotFoundError:
    pytest = None  # type: ignore[assignment]  # the context manager needs none

if TYPE_CHECKING:
    from azure.batch import BatchClient
    from azure.storage.blob import BlobServiceClient

_END_SECONDS = 60.0  # only a service that hangs needs them; a busy machine may need some


class LocalAzure:
    """A running emulator: Azure Batch and Blob storage on the loopback interface of this machine.

    `ready` is what it printed when it was ready: `batch_endpoint`, `blob_endpoint`, `account`, `batch_key`,
    `storage_account`, `storage_key`, `connection_string`, `pid`, and with `--tls` more. `env` is the environment of
    its process, `stderr` where what it says goes; by default both are this process's.
    """

    def __init__(self, *options: str, env: Mapping[str, str] | None = None, stderr: IO[Any] | None = None) -> None:
        self._env, self._stderr = env, stderr
        self._command = [sys.executable, "-m", "batchexec.emulator", "--json", "--until-eof", *options]
        self.process: subprocess.Popen[bytes]
        self.ready: dict[str, Any]
        self.start()

    def start(self) -> None:
        """Start the process. Raises RuntimeError where it cannot; the reason is on standard error."""
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, stderr=self._stderr, env=self._env)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self._close()
            raise RuntimeError(f"the emulator ended with code {self.process.wait()} before it was ready")
        self.ready = json.loads(line)

    def stop(self) -> int:
        """End the process, and all that it runs; its exit code."""
        self._close()
        try:
            return self.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def kill(self) -> None:
        """End the process as a crash does. With `--data-dir`, `start` goes on where it was."""
        self.process.kill()
        self._close()
        self.process.wait()

    def _close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()

    @property
    def environment(self) -> dict[str, str]:
        """What a client reads from its environment to use this account."""
        return variables(self.ready)

    def batch_client(self) -> BatchClient:
        """A new client of the Batch service, by the account's key; close it."""
        from azure.batch import BatchClient
        from azure.core.credentials import AzureNamedKeyCredential

        credential = AzureNamedKeyCredential(self.ready["account"], self.ready["batch_key"])
        return BatchClient(self.ready["batch_endpoint"], credential)

    def blob_service_client(self) -> BlobServiceClient:
        """A new client of the Blob service, by the account's key; close it."""
        from azure.storage.blob import BlobServiceClient

        return BlobServiceClient.from_connection_string(self.ready["connection_string"])


@contextmanager
def local_azure(
    *options: str, env: Mapping[str, str] | None = None, stderr: IO[Any] | None = None
) -> Iterator[LocalAzure]:
    """Run an emulator with these options of `batchexec emulator` (`--nodes 2`, `--faults FILE`, ...) in the block.

    It is a child process, and ends with the block or with this process, with all that it runs. Raises RuntimeError
    where it cannot start; the reason is on standard error.
    """
    running = LocalAzure(*options, env=env, stderr=stderr)
    try:
        yield running
    finally:
        running.stop()


if pytest is not None:

    @pytest.fixture(scope="session")
    def azure_batch() -> Iterator[LocalAzure]:
        """One emulator for the session; its account is empty at first."""
        with local_azure() as running:
            yield running

    @pytest.fixture
    def azure_batch_environment(azure_batch: LocalAzure, monkeypatch: pytest.MonkeyPatch) -> LocalAzure:
        """The same, with the environment variables that lead clients to it set while the test runs."""
        for name, value in azure_batch.environment.items():
            monkeypatch.setenv(name, value)
        return azure_batch

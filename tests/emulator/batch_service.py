"""A running emulator for the tests of its Batch side, with the few verbs that they share."""

from __future__ import annotations

import hashlib
import subprocess
import textwrap
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import IO, Any

import pytest
from azure.batch import BatchClient, models
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import BlobServiceClient, generate_blob_sas
from helpers_service import until

from batchexec.testing import local_azure

IMAGE = models.VirtualMachineConfiguration(
    image_reference=models.BatchVmImageReference(
        publisher="canonical", offer="ubuntu-24_04-lts", sku="server", version="latest"
    ),
    node_agent_sku_id="batch.node.ubuntu 24.04",
)


@dataclass
class Service:
    client: BatchClient
    info: dict[str, Any]
    root: Path
    count: int = 0

    def pool(self, nodes: int = 1, slots: int = 2, id: str = "", **more: Any) -> str:
        self.count += 1
        options = models.BatchPoolCreateOptions(
            id=id or f"pool{self.count}",
            **{
                "vm_size": "Standard_D4s_v5",
                "virtual_machine_configuration": IMAGE,
                "target_dedicated_nodes": nodes,
                "task_slots_per_node": slots,
                **more,
            },
        )
        self.client.create_pool(options)
        return options.id

    def job(self, pool: str, **more: Any) -> str:
        self.count += 1
        return self.job_named(f"job{self.count}", pool, **more)

    def job_named(self, id: str, pool: str, **more: Any) -> str:
        pool_info = models.BatchPoolInfo(pool_id=pool)
        self.client.create_job(models.BatchJobCreateOptions(id=id, pool_info=pool_info, **more))
        return id

    def node_root(self, job: str, id: str = "t") -> Path:
        """The root directory of the node that runs, or ran, a task."""
        return self.root / "nodes" / str(self.client.get_task(job, id).node_info.node_id)

    def task(self, job: str, command: str, id: str = "t", **more: Any) -> str:
        self.client.create_task(job, models.BatchTaskCreateOptions(id=id, command_line=command, **more))
        return id

    def run(self, job: str, command: str, id: str = "t", **more: Any) -> models.BatchTask:
        self.task(job, command, id, **more)
        return self.completed(job, id)

    def completed(self, job: str, id: str = "t") -> models.BatchTask:
        return self.until(lambda: self.client.get_task(job, id), lambda task: task.state == "completed")

    def running(self, job: str, id: str = "t") -> models.BatchTask:
        return self.until(lambda: self.client.get_task(job, id), lambda task: task.state == "running")

    def output(self, job: str, id: str = "t", name: str = "stdout.txt") -> str:
        return b"".join(self.client.download_task_file(job, id, name)).decode()

    def said(self, job: str, id: str = "t") -> str:
        """What a task, which may not have begun, has printed so far."""
        try:
            return self.output(job, id)
        except HttpResponseError:  # there are no files before it runs
            return ""

    def absent_blob(self) -> str:
        """A signed address, good for a blob that is not there (404, not 403)."""
        return self.blob(None)

    def blob(self, content: bytes | None) -> str:
        """A signed address of a blob, with this content where there is any."""
        self.count += 1
        name, expiry = f"container{self.count}", datetime.now(timezone.utc) + timedelta(hours=1)
        storage = BlobServiceClient.from_connection_string(self.info["connection_string"])
        with storage, storage.create_container(name) as container:
            if content is not None:
                container.upload_blob("blob", content)
            sas = generate_blob_sas(
                self.info["storage_account"],
                name,
                "blob",
                account_key=self.info["storage_key"],
                permission="r",
                expiry=expiry,
            )
            return f"{container.url}/blob?{sas}"

    until = staticmethod(until)


@contextmanager
def emulator(
    root: Path | None, *options: str, stderr: IO[bytes] | None = None
) -> Iterator[tuple[Service, subprocess.Popen[bytes]]]:
    """An emulator as a child process, which has ended when the block is over."""
    where = ("--root", str(root)) if root else ()
    with local_azure(*where, *options, stderr=stderr) as azure:
        with azure.batch_client() as client:
            yield Service(client, azure.ready, root or Path()), azure.process


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with emulator(tmp_path_factory.mktemp("emulator")) as (service, process):
        yield service
    assert process.returncode == 0


def contract_app(directory: Path, module: str, text: str) -> Path:
    """A zipapp that follows the fork-server contract by `module`; run as any program it prints `plain`."""
    path = directory / "app.pyz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{module}.py", textwrap.dedent(text))
        archive.writestr("__main__.py", "print('plain')")
    return path


def fork_setting(app: Path, module: str) -> str:
    """What a job says in BATCHEXEC_FORK_SERVER to have its tasks forked from this zipapp."""
    return f"{app}:{module}:{hashlib.sha256(app.read_bytes()).hexdigest()}"


def refused(code: str, status: int) -> Any:
    """A `with` block that must raise the service's error of this code and status."""

    class Refused:
        def __enter__(self) -> None: ...

        def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
            assert isinstance(error, HttpResponseError), f"expected {code}"
            assert error.error is not None, error
            assert (error.error.code, error.status_code) == (code, status)
            return True

    return Refused()

"""A standalone local service for tests of the client, a look at what is left in one, and scripts run beside it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from azure.batch import BatchClient, models
from azure.core.credentials import AzureNamedKeyCredential
from azure.core.rest import HttpRequest
from azure.storage.blob import BlobServiceClient, ContainerClient

from batchexec.testing import local_azure

T = TypeVar("T")


def until(look: Callable[[], T], good: Callable[[T], Any] = bool, seconds: float = 60.0) -> T:
    """What `look` finds as soon as it is good. The limit is for what never comes, however busy the machine is."""
    end = time.monotonic() + seconds
    while not good(found := look()):
        assert time.monotonic() < end, f"not within {seconds} s: {found!r}"
        time.sleep(0.01)
    return found


class Account:
    """The account of a running local service, seen through the SDKs."""

    def __init__(self, ready: Mapping[str, Any]) -> None:
        self.ready = ready
        credential = AzureNamedKeyCredential(ready["account"], ready["batch_key"])
        self.batch = BatchClient(ready["batch_endpoint"], credential)
        blob_credential = {"account_name": ready["storage_account"], "account_key": ready["storage_key"]}
        self.blobs = BlobServiceClient(ready["blob_endpoint"], credential=blob_credential)

    @property
    def settings(self) -> dict[str, Any]:
        """What an executor needs to use this account as if it were Azure."""
        return {
            "where": "azure",
            "batch_account": self.ready["account"],
            "batch_endpoint": self.ready["batch_endpoint"],
            "batch_key": self.ready["batch_key"],
            "storage_account": self.ready["storage_account"],
            "storage_key": self.ready["storage_key"],
            "blob_endpoint": self.ready["blob_endpoint"],
            "python": sys.executable,
            "requirements": None,  # it has all that tests use
        }

    def environment(self, **more: str) -> dict[str, str]:
        """The same for a program: what `az batch` reads, and `more`."""
        return scrubbed(
            AZURE_BATCH_ACCOUNT=self.ready["account"],
            AZURE_BATCH_ENDPOINT=self.ready["batch_endpoint"],
            AZURE_BATCH_ACCESS_KEY=self.ready["batch_key"],
            AZURE_STORAGE_CONNECTION_STRING=self.ready["connection_string"],
            BATCHEXEC_PYTHON=sys.executable,
            BATCHEXEC_REQUIREMENTS="none",
            **more,
        )

    def arm(self, *faults: dict[str, Any]) -> None:
        """Have things go wrong (docs/faults.md)."""
        self._control("POST", list(faults))

    def disarm(self) -> None:
        self._control("DELETE")

    def faults(self) -> list[dict[str, Any]]:
        """What is armed, with how often each has fired."""
        found: list[dict[str, Any]] = self._control("GET").json()["value"]
        return found

    def strike(self, action: str, pool: str) -> None:
        """Do something to the pool's only node, now (docs/faults.md)."""
        (node,) = self.batch.list_nodes(pool)
        self._control("POST", path=f"{action}/pools/{pool}/nodes/{node.id}")

    def _control(self, method: str, body: object = None, path: str = "faults") -> Any:
        query = {"api-version": "2025-06-01"}
        response = self.batch.send_request(HttpRequest(method, f"/emulator/{path}", params=query, json=body))
        response.raise_for_status()
        return response

    def pool(self, name: str, nodes: int = 1, slots: int = 2, spot: bool = False) -> str:
        """A pool of so many nodes."""
        self.batch.create_pool(
            {  # type: ignore[arg-type]
                "id": name,
                "vmSize": "Standard_D4s_v5",
                "taskSlotsPerNode": slots,
                "targetLowPriorityNodes" if spot else "targetDedicatedNodes": nodes,
                "virtualMachineConfiguration": {
                    "imageReference": {"publisher": "a", "offer": "ubuntu-hpc", "sku": "2404", "version": "latest"},
                    "nodeAgentSKUId": "batch.node.ubuntu 24.04",
                },
            }
        )
        return name

    def fixed_pool(self, name: str = "fixed", slots: int = 4) -> str:
        image = models.BatchVmImageReference(
            publisher="microsoft-dsvm", offer="ubuntu-hpc", sku="2404", version="latest"
        )
        machine = models.VirtualMachineConfiguration(
            image_reference=image, node_agent_sku_id="batch.node.ubuntu 24.04"
        )
        self.batch.create_pool(
            models.BatchPoolCreateOptions(
                id=name,
                vm_size="Standard_D4s_v5",
                virtual_machine_configuration=machine,
                target_dedicated_nodes=1,
                task_slots_per_node=slots,
            )
        )
        return name

    def jobs(self) -> dict[str, str]:
        """State of each job that is not being deleted."""
        states = {str(job.id): str(getattr(job.state, "value", job.state)) for job in self.batch.list_jobs()}
        return {name: state for name, state in states.items() if state != "deleting"}

    def containers(self) -> list[str]:
        return [container.name for container in self.blobs.list_containers()]

    def only_container(self) -> ContainerClient:
        (name,) = self.containers()
        return self.blobs.get_container_client(name)

    def left(self, *kept_pools: str) -> dict[str, list[str]]:
        """All there is in the account; pools other than these."""
        pools = [str(pool.id) for pool in self.batch.list_pools() if pool.state != "deleting"]
        found = {
            "jobs": list(self.jobs()),
            "pools": [pool for pool in pools if pool not in kept_pools],
            "containers": self.containers(),
        }
        return {kind: names for kind, names in found.items() if names}

    def close(self) -> None:
        self.batch.close()
        self.blobs.close()


@contextmanager
def service(*options: str, root: Path | None = None) -> Iterator[Account]:
    """The account of a `batchexec emulator` that runs in the block."""
    where = ("--root", str(root)) if root else ()
    with local_azure(*options, *where) as azure:
        account = Account(azure.ready)
        try:
            yield account
        finally:
            account.close()
    assert azure.process.returncode == 0


def found_below(folder: Path, name: str) -> list[Path]:
    """All files and directories of that name, also while others come and go, as those of jobs do after their end."""
    return [Path(parent, name) for parent, folders, files in os.walk(folder) if name in (*folders, *files)]


def scrubbed(**more: str) -> dict[str, str]:
    """This process's environment without anything that configures batchexec."""
    ours = ("AZURE_", "BATCH_", "BATCHEXEC_", "STORAGE_", "BX_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | more


def processes_of(mark: str) -> dict[int, str]:
    """Living processes whose environment, arguments or working directory hold `mark`: id and command line."""
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            folder = Path("/proc", entry)
            arguments = (folder / "cmdline").read_bytes()
            seen = arguments + b"\0" + (folder / "environ").read_bytes()
            seen += os.fsencode(os.readlink(folder / "cwd"))
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue  # it ended while we looked
        if mark.encode() in seen and state != "Z":
            found[int(entry)] = arguments.replace(b"\0", b" ").decode(errors="replace")
    return found

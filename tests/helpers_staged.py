"""Blobs that a client has staged, for tasks of a node that a test plays itself; and how often these ask for blobs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import pytest
from azure.storage.blob import generate_blob_sas
from helpers_service import Account, service

from batchexec._worker.store import Store


@pytest.fixture(scope="module")
def running() -> Iterator[Account]:
    """A service with the container of a job."""
    with service() as found:
        found.blobs.create_container("job")
        yield found


@pytest.fixture
def account(running: Account) -> Iterator[Account]:
    """The same, in which each test arms faults of its own."""
    yield running
    running.disarm()


def stage(account: Account, name: str, data: bytes) -> str:
    """Upload the blob; the SAS to read it."""
    account.blobs.get_blob_client("job", name).upload_blob(data, overwrite=True)
    return generate_blob_sas(
        account.ready["storage_account"],
        "job",
        name,
        account_key=account.ready["storage_key"],
        permission="r",
        expiry=datetime.now(timezone.utc) + timedelta(hours=1),
    )


def store_of(account: Account) -> Store:
    """What a task of the job reads by."""
    return Store(f"{account.ready['blob_endpoint']}/job/")


def count(account: Account) -> None:
    """Have the service count what is read of blobs, by a fault that does no harm."""
    account.disarm()
    account.arm({"kind": "delay", "seconds": 0, "match": {"service": "blob", "method": "GET"}})


def gets(account: Account) -> int:
    """Requests for blobs since `count`."""
    return int(account.faults()[0]["matched"])

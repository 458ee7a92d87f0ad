"""Thousands of malformed requests to the Blob service, as a process of its own: no 5xx, no hang, no growth.

BLOB_MALFORMED_SEED chooses other requests.
"""

from __future__ import annotations

import collections
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from azure.storage.blob import ResourceTypes, generate_account_sas
from blob_malformed import Maker, Malformed, send
from helpers_service import Account, service, until

_SEED = int(os.environ.get("BLOB_MALFORMED_SEED", "1"))
_CLIENTS = 8
_SERVED = {501, 505}  # an operation that is not served, a version of HTTP that is not


def storm(account: Account, seed: int, count: int) -> collections.Counter[int | None]:
    """How often each status came. Many clients at once, each with requests of its own."""
    ready = account.ready
    port = urlsplit(ready["blob_endpoint"]).port
    assert port is not None
    account.blobs.create_container("box")
    expiry = datetime.now(timezone.utc) + timedelta(hours=1)
    everything = ResourceTypes(service=True, container=True, object=True)
    sas = generate_account_sas(ready["storage_account"], ready["storage_key"], everything, "rwdlac", expiry)

    def client(number: int) -> collections.Counter[int | None]:
        found: collections.Counter[int | None] = collections.Counter()
        maker = Maker(ready["storage_account"], sas, seed * _CLIENTS + number)
        for _ in range(count // _CLIENTS):
            request = maker.make()
            status = ask(port, request)
            assert status is None or status < 500 or status in _SERVED, request
            found[status] += 1
        return found

    with ThreadPoolExecutor(_CLIENTS) as pool:
        return sum(pool.map(client, range(_CLIENTS)), collections.Counter())


def ask(port: int, request: Malformed) -> int | None:
    try:
        return send(port, request)
    except TimeoutError:
        pytest.fail(f"no answer: {request}")


def files(account: Account) -> int:
    """How many files and connections the service has open."""
    return len(os.listdir(f"/proc/{account.ready['pid']}/fd"))


def memory(account: Account) -> int:
    """Bytes that the service holds."""
    pages = int(Path(f"/proc/{account.ready['pid']}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def emptied(account: Account, root: Path, most_files: int) -> int:
    """Bytes that are held once all containers are gone, and all connections."""
    for name in account.containers():
        account.blobs.delete_container(name)
    until(lambda: list(root.rglob("*.bin")), lambda left: not left)
    until(lambda: files(account), lambda found: found <= most_files)
    return memory(account)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="what a process holds is read from /proc")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("count", [2000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_malformed_requests_are_refused_and_leave_nothing(tmp_path: Path, count: int) -> None:
    with service(root=tmp_path) as account:
        account.containers()
        most_files = files(account) + 2
        storm(account, _SEED, count // 2)
        before = emptied(account, tmp_path, most_files)
        seen = storm(account, _SEED + 1, count // 2)
        grown = emptied(account, tmp_path, most_files) - before
        assert grown < 8 << 20
        # The requests came through to where they can do harm, and the service still does its work.
        assert {200, 201, 202, 400, 403, 404, 409, 501} <= set(seen), seen
        blob = account.blobs.create_container("box").upload_blob("b", b"content")
        assert blob.download_blob().readall() == b"content"

"""A container, or a prefix in it, that an administrator gave: everything stays below it, and all of it goes again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from helpers_service import Account, service
from helpers_work import double

from batchexec import BatchExecutor


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    with service() as running:
        running.fixed_pool()
        running.blobs.create_container("given").upload_blob("team/a/theirs", b"not ours")
        yield running


@pytest.mark.parametrize("prefix", ["", "team/a"])
def test_nothing_is_written_elsewhere_or_left(account: Account, prefix: str) -> None:
    container = account.blobs.get_container_client("given")
    before = set(container.list_blob_names())
    settings = {**account.settings, "pool_id": "fixed", "container": "given", "prefix": prefix}
    with BatchExecutor(**settings) as executor:
        assert list(executor.map(double, range(3), chunksize=1)) == [0, 2, 4]
        below = f"{prefix}/{executor.stats().job_id}/".lstrip("/")
        ours = set(container.list_blob_names()) - before
    assert len(ours) >= 5  # worker, manifest, pack, results
    assert all(name.startswith(below) for name in ours)
    assert set(container.list_blob_names()) == before
    assert account.containers() == ["given"]

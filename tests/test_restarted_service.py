"""Our executor against a service that is killed, and started again from its data directory, in the middle of a map."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import helpers_work as work
from helpers_service import Account, until

from batchexec import BatchExecutor
from batchexec.testing import local_azure


def slow_double(number: int) -> int:
    time.sleep(0.2)
    return 2 * number


def test_a_map_outlives_the_service(tmp_path: Path) -> None:
    with local_azure("--data-dir", str(tmp_path / "data")) as azure, closing(Account(azure.ready)) as account:
        with BatchExecutor(**account.settings, max_workers=4, echo=False) as executor:
            results = executor.map(slow_double, range(24), chunksize=1)
            first = next(results)
            for _ in range(2):
                azure.kill()
                azure.start()
                done = [task for job in account.jobs() for task in account.batch.list_tasks(job)]
                assert len(done) >= 24
            assert [first, *results] == [2 * number for number in range(24)]
            # It is as good as new.
            assert executor.submit(work.double, 4).result(30) == 8
        until(lambda: not account.left(*[str(pool.id) for pool in account.batch.list_pools()]))

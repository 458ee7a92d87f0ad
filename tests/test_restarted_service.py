"""Our executor against a service that is killed, and started again from its data directory, in the middle of a map."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from pathlib import Path

import helpers_work as work
import pytest
from helpers_service import Account, until

from batchexec import BatchExecutor
from batchexec.testing import local_azure


def double_when_it_may(folder: str, number: int) -> int:
    """The first at once, the others when the file `go` is there."""
    if number:
        work.touch_and_wait_for(folder, str(number))
    return work.double(number)


@pytest.mark.slow
def test_a_map_outlives_the_service(tmp_path: Path) -> None:
    with local_azure("--data-dir", str(tmp_path / "data")) as azure, closing(Account(azure.ready)) as account:
        with BatchExecutor(**account.settings, max_workers=4, echo=False) as executor:
            results = executor.map(partial(double_when_it_may, str(tmp_path)), range(24), chunksize=1)
            first = next(results)
            for _ in range(2):
                until(lambda: [path for path in tmp_path.iterdir() if path.name.isdigit()])
                azure.kill()
                for path in tmp_path.glob("[0-9]*"):
                    path.unlink()  # who runs after the start tells so anew
                azure.start()
                tasks = [task for job in account.jobs() for task in account.batch.list_tasks(job)]
                assert len(tasks) == 24
            (tmp_path / "go").touch()
            assert [first, *results] == [2 * number for number in range(24)]
            # It is as good as new.
            assert executor.submit(work.double, 4).result(60) == 8
        until(lambda: not account.left(*[str(pool.id) for pool in account.batch.list_pools()]))

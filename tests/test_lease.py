"""A job's time limit is a lease: a living client extends it, a dead one's job ends by itself."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from helpers_service import Account, service, until

from batchexec import BatchExecutor

_SECONDS = 2.0

_CLIENT = """
import sys, time
from batchexec import BatchExecutor
executor = BatchExecutor(retries=0)
future = executor.submit(time.sleep, 600)
while not future.running():
    time.sleep(0.01)
print("running", flush=True)
future.result()
"""


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    with service() as running:
        running.fixed_pool()
        yield running


def test_work_outlives_the_limit_while_its_client_lives(account: Account) -> None:
    settings = {**account.settings, "pool_id": "fixed", "wall_clock_hours": _SECONDS / 3600}
    with BatchExecutor(**settings) as executor:
        began = time.monotonic()
        executor.submit(time.sleep, 2 * _SECONDS).result(30)
        assert time.monotonic() - began > 1.5 * _SECONDS


@pytest.mark.slow  # the Azure path asks for task states every 8 s
def test_the_job_of_a_dead_client_ends_by_itself(account: Account) -> None:
    environment = account.environment(BATCHEXEC_POOL_ID="fixed", BATCHEXEC_WALL_CLOCK_HOURS=str(12 / 3600))
    with subprocess.Popen([sys.executable, "-c", _CLIENT], env=environment, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"running\n"
        client.kill()
    (job,) = account.jobs()
    assert account.jobs()[job] == "active"  # nobody ended it yet: the work goes on
    until(account.jobs, lambda jobs: jobs[job] == "completed", seconds=20)
    (task,) = account.batch.list_tasks(job)
    assert task.state == "completed"

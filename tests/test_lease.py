"""A job's time limit is a lease: a living client extends it, a dead one's job ends by itself. The service's clock moves
when the tests move it, so that no lease ends while a client is slow."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from emulator.manual_service import Here, scenario, until
from helpers_service import Account
from helpers_work import touch_and_wait_for

from batchexec import BatchExecutor

_SECONDS = 2.0

_CLIENT = """
import sys
import helpers_work as work
from batchexec import BatchExecutor

BatchExecutor(retries=0).submit(work.touch_and_wait_for, sys.argv[1], "runs").result()
"""


@contextmanager
def account(here: Here) -> Iterator[Account]:
    found = Account(json.loads(here.emulator.access.line()))
    yield found
    found.close()


async def only_job(here: Here) -> Any:
    (job,) = [job async for job in here.client.list_jobs()]
    return job


async def running_job(here: Here) -> Any:
    """The only job, once its task runs."""
    await until((here.root / "runs").exists)
    return await only_job(here)


def limit(job: Any) -> float:
    """Seconds from the job's creation to its end."""
    return float(job.constraints.max_wall_clock_time.total_seconds())


@scenario
async def test_work_outlives_the_limit_while_its_client_lives(here: Here) -> None:
    await here.pool(targetDedicatedNodes=1)
    with account(here) as client:
        executor = BatchExecutor(**client.settings, pool_id="p", wall_clock_hours=_SECONDS / 3600)
    try:
        future = executor.submit(touch_and_wait_for, str(here.root), "runs")
        await running_job(here)
        extended = await until(lambda: only_job(here), lambda job: limit(job) > _SECONDS)
        here.clock.advance(limit(extended) - 0.001)
        assert here.clock.monotonic() > _SECONDS
        assert (await only_job(here)).state == "active"
        here.go()
        await asyncio.to_thread(future.result, 60)
    finally:
        await asyncio.to_thread(executor.shutdown)


@scenario
async def test_the_job_of_a_dead_client_ends_by_itself(here: Here) -> None:
    await here.pool(targetDedicatedNodes=1)
    tests = str(Path(__file__).parent)
    with account(here) as seen:
        environment = seen.environment(BATCHEXEC_POOL_ID="p", BATCHEXEC_WALL_CLOCK_HOURS="1", PYTHONPATH=tests)
    client = subprocess.Popen([sys.executable, "-c", _CLIENT, str(here.root)], env=environment)
    try:
        job = await running_job(here)
    finally:
        client.kill()
        client.wait()
    here.clock.advance(3599)
    assert (await only_job(here)).state == "active", "nobody ended it yet: the work goes on"
    here.clock.advance(1)
    await until(lambda: here.client.get_job(job.id), lambda job: job.state == "completed")
    (task,) = [task async for task in here.client.list_tasks(job.id)]
    assert task.state == "completed"

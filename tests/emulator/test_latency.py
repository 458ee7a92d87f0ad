"""Latency: what takes its time at Azure takes a part of it here."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from batch_service import emulator
from manual_service import Here, emulated

from batchexec.emulator.faults.latency import Latency

SCALE = 0.01  # by the clock that the test moves nodes come after 1.8 to 4.8 s, tasks start after 20 to 50 ms


def scaled(play: Callable[[Here], Awaitable[None]]) -> Callable[[Path], None]:
    """A test that plays in an emulator of its own, which takes its time."""

    def test(tmp_path: Path) -> None:
        async def run() -> None:
            async with emulated(tmp_path, latency=Latency(SCALE, seed=1)) as here:
                await play(here)

        asyncio.run(run())

    return test


async def grown(here: Here, nodes: int) -> None:
    """Have a pool whose nodes have come."""
    await here.pool(targetDedicatedNodes=nodes)
    while (await here.client.get_pool("p")).allocation_state == "resizing":
        here.clock.advance(5 * SCALE)


@scaled
async def test_nodes_come_one_after_the_other_in_their_time(here: Here) -> None:
    await grown(here, 3)
    came = sorted((node.created - here.emulator.account.pools["p"].created).total_seconds() for node in here.nodes)
    assert 180 * SCALE <= came[0] < came[1] < came[2] <= 485 * SCALE


@scaled
async def test_a_pool_is_resizing_meanwhile(here: Here) -> None:
    await here.pool(targetDedicatedNodes=3)
    here.clock.advance(179 * SCALE)
    assert (await here.client.get_pool("p")).allocation_state == "resizing"
    assert [node async for node in here.client.list_nodes("p")] == []


@scaled
async def test_a_task_starts_after_its_time_and_is_preparing_meanwhile(here: Here) -> None:
    await grown(here, 1)
    await here.task()
    await here.task_in("preparing")
    here.clock.advance(1.9 * SCALE)
    assert (await here.client.get_task("j", "t")).state == "preparing"
    here.clock.advance(3.1 * SCALE)
    await here.task_in("running")


@scaled
async def test_what_has_just_changed_is_not_in_lists_yet(here: Here) -> None:
    await here.pool(targetDedicatedNodes=0)
    await here.task()

    async def seen() -> tuple[list[str], int]:
        listed = [str(task.id) async for task in here.client.list_tasks("j")]
        counts = await here.client.get_job_task_counts("j")
        return listed, counts.task_counts.active

    assert (await here.client.get_task("j", "t")).state == "active"
    here.clock.advance(0.9 * SCALE)
    assert await seen() == ([], 0)
    here.clock.advance(4.2 * SCALE)
    assert await seen() == (["t"], 1)


def test_each_request_takes_a_round_trip() -> None:
    with emulator(None, "--latency", "azure") as (service, _):
        begin = time.monotonic()
        for _ in range(3):
            list(service.client.list_pools())
        assert time.monotonic() - begin >= 3 * 0.03


def test_a_seed_gives_the_same_times_again() -> None:
    first, second = (Latency.parse("azure:0.5", seed=4) for _ in range(2))
    times = [first.task_start() for _ in range(5)]
    assert times == [second.task_start() for _ in range(5)]
    assert all(1 <= seconds <= 2.5 for seconds in times)
    assert len(set(times)) == 5


@pytest.mark.parametrize("text", ["aws", "azure:0", "azure:", "azure:x", "azure:-1", "azure:nan"])
def test_what_is_no_latency_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Latency.parse(text)


def test_the_command_says_so() -> None:
    command = [sys.executable, "-m", "batchexec.emulator", "--latency", "aws"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert found.returncode == 2
    assert "'aws' is not known" in found.stderr

"""How long a task's files are kept, on a clock that the test moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from batch_service import refused
from manual_service import Here, scenario, until

DAY = 86400.0


async def run(here: Here, id: str, retention: str | None = None, command: str = "true") -> Path:
    """Run a task to its end; its directory."""
    if not here.emulator.account.jobs:
        await here.pool(targetDedicatedNodes=1, taskSlotsPerNode=4)
        job: Any = {"id": "j", "poolInfo": {"poolId": "p"}}
        await here.client.create_job(job)
    body: Any = {"id": id, "commandLine": command}
    if retention:
        body["constraints"] = {"retentionTime": retention}
    await here.client.create_task("j", body)
    return await completed(here, id)


async def completed(here: Here, id: str) -> Path:
    task = await until(lambda: here.client.get_task("j", id), lambda task: task.state == "completed")
    return here.root / "nodes" / task.node_info.node_id / task.node_info.task_root_directory


async def is_gone(here: Here, directory: Path) -> bool:
    await here.emulator.account.idle()
    return not directory.exists()


async def names(here: Here, id: str) -> set[str]:
    return {file.name async for file in here.client.list_task_files("j", id)}


@scenario
async def test_files_go_when_their_time_is_over_each_at_its_own(here: Here) -> None:
    long, short = await run(here, "long"), await run(here, "short", "PT1H")
    ever = await run(here, "ever", "P10675199DT2H48M5.4775807S")
    here.clock.advance(3599)
    assert not await is_gone(here, short)
    here.clock.advance(2)
    assert await is_gone(here, short)
    with refused("TaskFilesCleanedup", 409):
        await names(here, "short")
    assert "stdout.txt" in await names(here, "long")
    here.clock.advance(7 * DAY - 3605)
    assert not await is_gone(here, long)
    here.clock.advance(10)
    assert await is_gone(here, long)
    here.clock.advance(3000 * DAY)
    assert not await is_gone(here, ever)
    assert (await here.client.get_task("j", "long")).state == "completed"


@scenario
async def test_later_ends_are_kept_longer_and_another_life_starts_anew(here: Here) -> None:
    fails = "/bin/sh -c '[ -e ../../../../../../../go ]'"
    first = await run(here, "first", command=fails)
    here.clock.advance(DAY)
    second = await run(here, "second")
    here.go()
    await here.client.reactivate_task("j", "first")
    assert await completed(here, "first") == first
    here.clock.advance(6 * DAY + 1)
    assert not await is_gone(here, first)
    here.clock.advance(DAY)
    assert await is_gone(here, first)
    assert await is_gone(here, second)


@scenario
async def test_nothing_is_left_to_clean_of_what_was_deleted(here: Here) -> None:
    task = await run(here, "task")
    await run(here, "other")
    await here.client.delete_task("j", "task")
    assert await is_gone(here, task)
    here.clock.advance(8 * DAY)
    await here.emulator.account.idle()
    here.emulator.jobs.delete(here.emulator.account.job("j"))
    await here.emulator.account.idle()
    here.clock.advance(8 * DAY)
    assert here.emulator.account.jobs == {}

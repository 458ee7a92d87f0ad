"""What befalls nodes and resizes: slow and failing allocation, preemption, unusable nodes, lost contact."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest
from batch_service import refused
from helpers_processes import process_is_there
from manual_service import Here, emulated, scenario, until

# Allocation


@scenario
async def test_nodes_come_when_they_come(here: Here) -> None:
    times = iter([60.0, 240.0])
    here.emulator.pools.allocation_seconds = lambda pool: next(times)
    await here.pool(targetDedicatedNodes=2)
    for seconds, nodes, state in ((59, 0, "resizing"), (1, 1, "resizing"), (180, 2, "steady")):
        here.clock.advance(seconds)
        pool = await until(lambda: here.client.get_pool("p"), lambda pool, n=nodes: pool.current_dedicated_nodes == n)
        if state == "steady":
            pool = await here.steady()
        assert pool.allocation_state == state
    assert pool.resize_errors is None


@scenario
async def test_nodes_that_take_too_long_do_not_come(here: Here) -> None:
    times = iter([60.0, 400.0, math.inf, 10.0])
    here.emulator.pools.allocation_seconds = lambda pool: next(times)
    await here.pool(targetDedicatedNodes=2, targetLowPriorityNodes=1, resizeTimeout="PT5M")
    await until(lambda: here.client.get_pool("p"), lambda pool: pool.allocation_state == "resizing")
    here.clock.advance(60)
    await until(lambda: here.client.get_pool("p"), lambda pool: pool.current_dedicated_nodes == 1)
    here.clock.advance(240)
    pool = await here.steady()
    assert (pool.current_dedicated_nodes, pool.target_dedicated_nodes, pool.current_low_priority_nodes) == (1, 2, 0)
    assert [error.code for error in pool.resize_errors] == ["AllocationTimedout", "AllocationTimedout"]
    resize: Any = {"targetDedicatedNodes": 2, "targetLowPriorityNodes": 0}
    await here.client.begin_resize_pool("p", resize)
    await asyncio.sleep(0)
    here.clock.advance(10)
    pool = await here.steady()
    assert (pool.current_dedicated_nodes, pool.resize_errors) == (2, None)


@scenario
async def test_a_resize_can_be_stopped_before_its_nodes_are_there(here: Here) -> None:
    times = iter([60.0, 120.0])
    here.emulator.pools.allocation_seconds = lambda pool: next(times)
    await here.pool(targetDedicatedNodes=2)
    here.clock.advance(60)
    await until(lambda: here.client.get_pool("p"), lambda pool: pool.current_dedicated_nodes == 1)
    with refused("PoolBeingResized", 409):
        resize: Any = {"targetDedicatedNodes": 5}
        await here.client.begin_resize_pool("p", resize)
    await here.client.begin_stop_pool_resize("p", polling_interval=0.01)
    pool = await here.steady()
    assert (pool.current_dedicated_nodes, [error.code for error in pool.resize_errors]) == (1, ["ResizeStopped"])
    here.clock.advance(600)
    assert (await here.client.get_pool("p")).current_dedicated_nodes == 1


@scenario
async def test_a_pool_can_be_deleted_while_it_grows(here: Here) -> None:
    here.emulator.pools.allocation_seconds = lambda pool: 60.0
    await here.pool(targetDedicatedNodes=1)
    await here.client.begin_delete_pool("p")
    await until(lambda: _pools(here), lambda pools: pools == [])


async def _pools(here: Here) -> list[str]:
    return [pool.id async for pool in here.client.list_pools()]


@scenario
async def test_what_a_resize_failed_at_stays_while_nothing_is_resized(here: Here) -> None:
    here.emulator.pools.allocation_seconds = lambda pool: math.inf
    await here.pool(enableAutoScale=True, autoScaleFormula="$TargetDedicatedNodes = 1;")
    await asyncio.sleep(0)
    here.clock.advance(15 * 60)
    assert [error.code for error in (await here.steady()).resize_errors] == ["AllocationTimedout"]
    here.clock.advance(31)
    none: Any = {"autoScaleFormula": "$TargetDedicatedNodes = 0;"}
    await here.client.enable_pool_auto_scale("p", none)
    pool = await here.steady()
    assert (pool.target_dedicated_nodes, len(pool.resize_errors)) == (0, 1)


# Preemption


@scenario
async def test_a_preempted_node_loses_disk_and_tasks_and_comes_back_under_its_id(here: Here) -> None:
    await here.pool(targetLowPriorityNodes=1, startTask={"commandLine": "true"})
    await here.task()
    await here.task_in("running")
    await until(here.runs, lambda runs: runs == 1)
    (node,) = here.nodes
    here.emulator.pools.nodes.preempt(node, 120)
    assert (await here.client.get_node("p", node.id)).state == "preempted"
    task = await here.task_in("active")
    assert (task.execution_info.retry_count, task.execution_info.requeue_count) == (0, 0)
    await until(node.agent.root.exists, lambda there: not there)
    assert (await here.client.get_pool("p")).current_low_priority_nodes == 1
    counts = [counts async for counts in here.client.list_pool_node_counts()]
    assert counts[0].low_priority.preempted == 1
    with refused("OperationInvalidForCurrentState", 409):
        await here.client.begin_reboot_node("p", node.id, {"nodeRebootOption": "requeue"})  # type: ignore[arg-type]
    here.clock.advance(120)
    await here.task_in("running")
    assert here.nodes == [node]
    here.go()
    assert (await here.task_in("completed")).execution_info.result == "success"
    assert here.runs() == 2


@scenario
async def test_a_preempted_node_can_leave_its_pool(here: Here) -> None:
    await here.pool(targetLowPriorityNodes=1)
    await here.steady()
    (node,) = here.nodes
    here.emulator.pools.nodes.preempt(node, 120)
    shrink: Any = {"targetLowPriorityNodes": 0}
    await here.client.begin_resize_pool("p", shrink)
    await here.steady()
    here.clock.advance(120)
    assert here.nodes == []
    assert node.state == "leavingpool"


@scenario
async def test_a_dedicated_node_is_never_preempted(here: Here) -> None:
    await here.pool(targetDedicatedNodes=1)
    await here.steady()
    with pytest.raises(ValueError, match="dedicated"):
        here.emulator.pools.nodes.preempt(here.nodes[0])


# Unusable nodes


@scenario
async def test_an_unusable_node_says_why_and_its_tasks_run_elsewhere(here: Here) -> None:
    await here.pool(targetDedicatedNodes=2)
    await here.task()
    first = (await here.task_in("running")).node_info.node_id
    node = here.emulator.account.pools["p"].nodes[first]
    here.emulator.pools.nodes.make_unusable(node, "DiskFull", "There is not enough disk space", DiskSpace="0")
    found = await here.client.get_node("p", first)
    assert found.state == "unusable"
    (error,) = found.errors
    assert (error.code, error.error_details[0].name, error.error_details[0].value) == ("DiskFull", "DiskSpace", "0")
    task = await until(
        lambda: here.client.get_task("j", "t"), lambda task: task.state == "running" and task.node_info.node_id != first
    )
    assert (task.execution_info.retry_count, task.execution_info.requeue_count) == (0, 0)
    for action in ("reboot", "reimage", "deallocate"):
        names = {"reboot": "nodeRebootOption", "reimage": "nodeReimageOption", "deallocate": "nodeDeallocateOption"}
        with refused("NodeStateUnusable", 409):
            await getattr(here.client, f"begin_{action}_node")("p", first, {names[action]: "requeue"})
    with refused("NodeStateUnusable", 409):
        async for _ in here.client.list_node_files("p", first):
            pass
    remove: Any = {"nodeList": [first]}
    await here.client.begin_remove_nodes("p", remove)
    await here.steady()
    assert len(here.nodes) == 1
    here.go()
    await here.task_in("completed")


# Lost contact


async def at_work(here: Here) -> tuple[Any, Any]:
    """The only node of a pool, and the run of its task, whose process is there."""
    await here.pool(targetDedicatedNodes=1)
    await here.task()
    await here.task_in("running")
    await until(here.runs, lambda runs: runs == 1)
    (node,) = here.nodes
    (run,) = node.runs.values()
    return node, run


@scenario
async def test_what_ends_out_of_contact_is_heard_of_when_there_is_contact_again(here: Here) -> None:
    node, run = await at_work(here)
    here.emulator.pools.nodes.disconnect(node)
    assert (await here.client.get_node("p", node.id)).state == "unknown"
    here.go()
    await until(lambda: run.exit_code, lambda code: code == 0)
    here.emulator.pools.nodes.disconnect(node)
    assert (await here.client.get_task("j", "t")).state == "running"
    with refused("TaskFilesUnavailable", 409):
        async for _ in here.client.list_task_files("j", "t"):
            pass
    here.emulator.pools.nodes.reconnect(node)
    assert (await here.task_in("completed")).execution_info.result == "success"
    assert (await here.node_in("idle")).total_tasks_run == 1


@scenario
async def test_a_task_given_up_with_its_node_runs_twice_and_ends_once(here: Here) -> None:
    await here.pool(targetDedicatedNodes=2)
    await here.task()
    first = (await here.task_in("running")).node_info.node_id
    await until(here.runs, lambda runs: runs == 1)
    node = here.emulator.account.pools["p"].nodes[first]
    (run,) = node.runs.values()
    here.emulator.pools.nodes.disconnect(node)
    here.emulator.pools.nodes.give_up(node)
    await until(here.runs, lambda runs: runs == 2)
    task = await here.task_in("running")
    assert task.node_info.node_id != first
    assert (task.execution_info.retry_count, task.execution_info.requeue_count) == (0, 0)
    assert not run.finished.done(), "the first process is still at it"
    here.go()
    task = await here.task_in("completed")
    assert (task.execution_info.result, task.node_info.node_id == first) == ("success", False)
    here.emulator.pools.nodes.reconnect(node)
    await run.finished
    assert (await here.client.get_node("p", first)).state == "idle"
    counts = (await here.client.get_job_task_counts("j")).task_counts
    assert (counts.completed, counts.succeeded, counts.running) == (1, 1, 0)


@scenario
async def test_what_was_given_up_is_killed_when_the_node_comes_back(here: Here) -> None:
    node, run = await at_work(here)
    here.emulator.pools.nodes.disconnect(node)
    here.emulator.pools.nodes.give_up(node)
    await here.task_in("active")
    here.emulator.pools.nodes.reconnect(node)
    await run.finished
    await here.task_in("running")
    here.go()
    assert (await here.task_in("completed")).execution_info.result == "success"


@pytest.mark.parametrize("end", ["remove", "preempt", "delete", "nothing"])
def test_a_node_out_of_contact_can_go(tmp_path: Path, end: str) -> None:
    async def run() -> None:
        async with emulated(tmp_path) as here:
            await here.pool(targetLowPriorityNodes=1)
            await here.task()
            await here.task_in("running")
            (node,) = here.nodes
            here.emulator.pools.nodes.disconnect(node)
            if end == "remove":
                shrink: Any = {"targetLowPriorityNodes": 0}
                await here.client.begin_resize_pool("p", shrink)
                await here.steady()
            elif end == "preempt":
                here.emulator.pools.nodes.preempt(node)
            elif end == "delete":
                await here.client.begin_delete_pool("p")
                await until(lambda: _pools(here), lambda pools: pools == [])
            if end != "nothing":
                await here.task_in("active")

    asyncio.run(run())


@pytest.mark.parametrize("end", ["terminate", "requeue"])
def test_a_task_deleted_while_it_ends_leaves_nothing_of_itself(tmp_path: Path, end: str) -> None:
    async def run() -> None:
        async with emulated(tmp_path) as here:
            await here.pool(targetDedicatedNodes=1)
            await here.task()
            await here.task_in("running")
            here.emulator.pools.nodes.disconnect(here.nodes[0])  # its end takes until there is contact again
            if end == "terminate":
                await here.client.terminate_task("j", "t")
            else:
                requeue: Any = {"disableTasks": "requeue"}
                await here.client.begin_disable_job("j", requeue)
            await here.client.delete_task("j", "t")
            here.emulator.pools.nodes.reconnect(here.nodes[0])
            await here.emulator.account.idle()
            counts = (await here.client.get_job_task_counts("j")).task_counts
            assert (counts.active, counts.running, counts.completed) == (0, 0, 0)
            assert (await here.node_in("idle")).total_tasks_run == 0

    asyncio.run(run())


# What runs on a node that goes


@scenario
async def test_nothing_outlives_a_node(here: Here) -> None:
    await here.pool(targetDedicatedNodes=1)
    await here.task(commandLine="/bin/sh -c 'setsid sleep 100 & echo $!; wait'")
    stdout = await here.directory() / "stdout.txt"
    child = await until(lambda: stdout.read_text() if stdout.exists() else "", lambda text: text.endswith("\n"))
    await here.client.begin_delete_pool("p")
    await until(lambda: _pools(here), lambda pools: pools == [])
    assert not process_is_there(child)

"""What a service had still to do when it was killed, it does when it is started again."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from azure.batch import models
from batch_service import IMAGE, refused
from helpers_service import until
from kept_service import Kept, kept_service


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    with kept_service(tmp_path / "data") as kept:
        yield kept


def preparation(mark: Path, **more: bool) -> models.BatchJobPreparationTask:
    return models.BatchJobPreparationTask(command_line=f"/bin/sh -c 'echo x >> {mark}'", **more)


def test_what_waits_for_other_tasks_goes_on_waiting(kept: Kept) -> None:
    service = kept.service
    pool = service.pool(nodes=0)
    job = service.job(pool, uses_task_dependencies=True)
    ranges = [models.BatchTaskIdRange(start=1, end=3)]
    service.task(job, "/bin/true", "last", depends_on=models.BatchTaskDependencies(task_id_ranges=ranges))
    service.task(job, "/bin/false", "0")
    service.task(job, "/bin/true", "never", depends_on=models.BatchTaskDependencies(task_ids=["0"]))
    for id in ("1", "2", "3"):
        before = [str(int(id) - 1)] if id != "1" else []
        service.task(job, "/bin/true", id, depends_on=models.BatchTaskDependencies(task_ids=before))
    kept.restart()
    kept.batch.begin_resize_pool(pool, models.BatchPoolResizeOptions(target_dedicated_nodes=1), polling_interval=0)
    assert service.completed(job, "last").execution_info.exit_code == 0
    times = [service.completed(job, id).execution_info for id in ("1", "2", "3", "last")]
    assert all(one.end_time <= next.start_time for one, next in itertools.pairwise(times))
    kept.restart()
    service.run(job, "/bin/true", "4", depends_on=models.BatchTaskDependencies(task_ids=["3"]))
    assert kept.batch.get_task(job, "never").state == "active"


def test_a_preparation_runs_again_on_the_nodes_that_booted_where_it_is_to(kept: Kept, tmp_path: Path) -> None:
    service, client = kept.service, kept.batch
    pool = service.pool(nodes=1)
    often, once, barred = tmp_path / "often", tmp_path / "once", tmp_path / "barred"
    release = models.BatchJobReleaseTask(command_line=f"/bin/sh -c 'echo released >> {often}'")
    jobs = [
        service.job(pool, job_preparation_task=preparation(often), job_release_task=release),
        service.job(pool, job_preparation_task=preparation(once, rerun_on_node_reboot_after_success=False)),
        service.job(pool, job_preparation_task=models.BatchJobPreparationTask(command_line=f"/bin/ls {barred}")),
    ]
    for job in jobs[:2]:
        service.run(job, "/bin/true", "before")
    service.task(jobs[2], "/bin/true", "barred")
    until(lambda: list(client.list_job_preparation_and_release_task_status(jobs[2])))
    until(
        lambda: [
            status.job_preparation_task_execution_info.state
            for status in client.list_job_preparation_and_release_task_status(jobs[2])
        ],
        lambda states: states == ["completed"],
    )
    barred.touch()  # it would succeed now
    status = [kept.get(f"/jobs/{job}/jobpreparationandreleasetaskstatus") for job in jobs]
    kept.restart()
    assert [kept.get(f"/jobs/{job}/jobpreparationandreleasetaskstatus") for job in jobs] == status
    for job in jobs[:2]:
        service.run(job, "/bin/true", "after")
    assert often.read_text() == "x\nx\n"
    assert once.read_text() == "x\n"
    assert client.get_task(jobs[2], "barred").state == "active"
    client.begin_terminate_job(jobs[0], options={"terminateReason": "over"}, polling_interval=0).wait()
    assert often.read_text() == "x\nx\nreleased\n"
    shown = kept.get(f"/jobs/{jobs[0]}/jobpreparationandreleasetaskstatus")
    kept.restart()
    assert kept.get(f"/jobs/{jobs[0]}/jobpreparationandreleasetaskstatus") == shown


def test_files_go_when_their_time_is_over(kept: Kept) -> None:
    service = kept.service
    job = service.job(service.pool(nodes=1))
    service.run(job, "/bin/echo one", "short", constraints=models.BatchTaskConstraints(retention_time="PT2S"))
    service.run(job, "/bin/echo two", "long")
    kept.restart()
    directory = service.node_root(job, "short") / "workitems" / job / "job-1" / "short"
    until(lambda: not directory.exists())
    with refused("TaskFilesCleanedup", 409):
        list(kept.batch.list_task_files(job, "short"))
    kept.restart()
    with refused("TaskFilesCleanedup", 409):
        list(kept.batch.list_task_files(job, "short"))
    assert service.output(job, "long") == "two\n"


def test_a_pool_made_for_a_job_goes_with_it(kept: Kept) -> None:
    pool = models.BatchPoolSpecification(
        vm_size="Standard_D4s_v5", virtual_machine_configuration=IMAGE, target_dedicated_nodes=1
    )
    automatic = models.BatchAutoPoolSpecification(
        auto_pool_id_prefix="own", pool_lifetime_option="job", keep_alive=False, pool=pool
    )
    info = models.BatchPoolInfo(auto_pool_specification=automatic)
    limits = models.BatchJobConstraints(max_wall_clock_time=timedelta(hours=1))
    kept.batch.create_job(models.BatchJobCreateOptions(id="auto", pool_info=info, constraints=limits))
    kept.service.run("auto", "/bin/true")
    before = kept.get("/jobs/auto")
    kept.restart()
    assert kept.get("/jobs/auto") == before
    kept.service.run("auto", "/bin/true", "again")
    kept.batch.begin_terminate_job("auto", options={"terminateReason": "over"}, polling_interval=0).wait()
    kept.restart()
    until(lambda: kept.get("/pools")["value"], lambda pools: not pools)


def test_nodes_are_as_they_were_left(kept: Kept) -> None:
    service, client = kept.service, kept.batch
    pool = service.pool(nodes=3)
    job = service.job(pool)
    service.run(job, "/bin/echo kept")
    files = service.node_root(job)
    off, aside, _ = sorted(str(node.id) for node in client.list_nodes(pool))
    client.begin_deallocate_node(pool, off, options={"nodeDeallocateOption": "requeue"}, polling_interval=0).wait()
    client.disable_node_scheduling(
        pool, aside, models.BatchNodeDisableSchedulingOptions(node_disable_scheduling_option="requeue")
    )
    kept.restart()
    states = until(
        lambda: {node["id"]: node["state"] for node in kept.get(f"/pools/{pool}/nodes")["value"]},
        lambda states: "rebooting" not in states.values(),
    )
    assert sorted(states.values()) == ["deallocated", "idle", "offline"]
    assert (states[off], states[aside]) == ("deallocated", "offline")
    assert client.get_node(pool, aside).scheduling_state == "disabled"
    # Node ids are drawn, so the task ran on any of the three; the one that was turned off lost its disk.
    if files.name != off:
        assert service.output(job) == "kept\n"
    client.begin_remove_nodes(pool, models.BatchNodeRemoveOptions(node_ids=[off]), polling_interval=60)
    kept.restart()
    until(lambda: {str(node.id) for node in client.list_nodes(pool)}, lambda left: left == states.keys() - {off})

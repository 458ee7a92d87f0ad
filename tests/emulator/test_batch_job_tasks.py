"""The tasks that belong to a job: its manager, its preparation and its release; the pool made for it; a forced end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from azure.batch import models
from azure.core.exceptions import HttpResponseError
from batch_service import IMAGE, Service, emulator, refused, service
from manual_service import Here, scenario, until

__all__ = ["service"]


@pytest.fixture(scope="module")
def pool(service: Service) -> str:
    return service.pool(slots=2)


def prep(command: str, **more: Any) -> models.BatchJobPreparationTask:
    return models.BatchJobPreparationTask(command_line=command, **more)


def release(command: str, **more: Any) -> models.BatchJobReleaseTask:
    return models.BatchJobReleaseTask(command_line=command, **more)


def ended(service: Service, job: str) -> models.BatchJob:
    return service.until(lambda: service.client.get_job(job), lambda found: found.state == "completed")


# Release


def test_the_release_task_runs_where_the_preparation_did_before_the_job_is_completed(
    service: Service, tmp_path: Path
) -> None:
    pool = service.pool(nodes=3)
    go = tmp_path / "go"
    job = service.job(
        pool,
        job_preparation_task=prep("true"),
        job_release_task=release(f"/bin/sh -c 'until [ -e {go} ]; do sleep 0.01; done; env'"),
    )
    node = service.run(job, "true").node_info.node_id
    service.client.begin_terminate_job(job, {"terminateReason": "enough"}, polling_interval=0.01)
    status = service.until(
        lambda: list(service.client.list_job_preparation_and_release_task_status(job)),
        lambda found: found[0].job_release_task_execution_info is not None,
    )
    assert [found.node_id for found in status] == [node]
    assert status[0].job_release_task_execution_info.state == "running"
    assert service.client.get_job(job).state == "terminating"
    go.touch()
    assert ended(service, job).execution_info.termination_reason == "enough"
    (status,) = service.client.list_job_preparation_and_release_task_status(
        job, filter="jobReleaseTaskExecutionInfo/exitCode eq 0"
    )
    info = status.job_release_task_execution_info
    assert (info.result, info.exit_code, info.task_root_directory) == (
        "success",
        0,
        f"workitems/{job}/job-1/jobrelease",
    )
    out = (service.root / "nodes" / node / info.task_root_directory / "stdout.txt").read_text()
    env = dict(line.split("=", 1) for line in out.splitlines())
    assert (env["AZ_BATCH_TASK_ID"], env["AZ_BATCH_JOB_ID"]) == ("jobrelease", job)
    assert env["AZ_BATCH_JOB_PREP_WORKING_DIR"].endswith("jobpreparation/wd")


def test_a_deleted_job_releases_its_nodes_first_unless_forced(service: Service, pool: str, tmp_path: Path) -> None:
    for force in (False, True):
        mark = tmp_path / f"released-{force}"
        job = service.job(pool, job_preparation_task=prep("true"), job_release_task=release(f"touch {mark}"))
        service.run(job, "true")
        service.client.begin_delete_job(job, force=force, polling_interval=0.01).result()
        with refused("JobNotFound", 404):
            service.client.get_job(job)
        assert mark.exists() is not force


def test_a_release_task_ends_with_its_time_and_its_node(service: Service) -> None:
    body: Any = {"commandLine": "sleep 100", "maxWallClockTime": "PT0.2S"}
    job = service.job(service.pool(), job_preparation_task=prep("true"), job_release_task=body)
    service.run(job, "true")
    service.client.begin_terminate_job(job, {"terminateReason": "over"}, polling_interval=0.01)
    ended(service, job)
    (status,) = service.client.list_job_preparation_and_release_task_status(job)
    assert status.job_release_task_execution_info.failure_info.code == "TaskEnded"
    pool = service.pool()
    job = service.job(pool, job_preparation_task=prep("true"), job_release_task=release("sleep 100"))
    service.run(job, "true")
    service.client.begin_terminate_job(job, {"terminateReason": "over"}, polling_interval=0.01)
    service.until(
        lambda: list(service.client.list_job_preparation_and_release_task_status(job)),
        lambda found: found[0].job_release_task_execution_info is not None,
    )
    service.client.begin_delete_pool(pool, polling_interval=0.01).result()
    ended(service, job)


@pytest.mark.parametrize(
    "tasks",
    [
        {"jobReleaseTask": {"commandLine": "true"}},
        {
            "jobPreparationTask": {"commandLine": "true"},
            "jobReleaseTask": {"commandLine": "true", "maxWallClockTime": "PT16M"},
        },
        {
            "jobPreparationTask": {"id": "same", "commandLine": "true"},
            "jobReleaseTask": {"id": "SAME", "commandLine": "true"},
        },
        {"jobPreparationTask": {"id": "jm", "commandLine": "true"}, "jobManagerTask": {"id": "jm", "commandLine": "x"}},
    ],
)
def test_a_job_whose_own_tasks_cannot_be_is_refused(service: Service, tasks: Any) -> None:
    with refused("InvalidPropertyValue", 400):
        service.client.create_job({"id": "refused", "poolInfo": {"poolId": "p"}, **tasks})


def test_no_task_may_have_the_id_of_a_preparation_or_release_task(service: Service, pool: str) -> None:
    job = service.job(pool, job_preparation_task=prep("true", id="Ready"), job_release_task=release("true"))
    with refused("TaskIdSameAsJobPreparationTask", 409):
        service.task(job, "true", "READY")
    with refused("TaskIdSameAsJobReleaseTask", 409):
        service.task(job, "true", "jobRelease")


# Preparation


def test_tasks_need_not_wait_for_a_preparation_that_need_not_succeed(service: Service, pool: str) -> None:
    job = service.job(pool, job_preparation_task=prep("sleep 100", wait_for_success=False))
    assert service.run(job, "true").execution_info.result == "success"
    (status,) = service.client.list_job_preparation_and_release_task_status(job)
    assert status.job_preparation_task_execution_info.state == "running"


# The manager


def test_the_manager_task_runs_alone_and_ends_the_job_with_itself(service: Service, tmp_path: Path) -> None:
    pool, go = service.pool(slots=2), tmp_path / "go"
    manager = models.BatchJobManagerTask(id="Boss", command_line=f"/bin/sh -c 'until [ -e {go} ]; do sleep 0.01; done'")
    job = service.job(pool, job_manager_task=manager)
    service.running(job, "boss")
    service.task(job, "sleep 100", "worker")
    assert service.client.get_task(job, "worker").state == "active"
    go.touch()
    assert ended(service, job).execution_info.termination_reason == "JMComplete"


def test_a_manager_may_leave_the_job_to_its_tasks(service: Service, pool: str) -> None:
    manager = models.BatchJobManagerTask(
        id="boss", command_line="true", kill_job_on_completion=False, run_exclusive=False
    )
    job = service.job(pool, job_manager_task=manager)
    assert service.completed(job, "boss").execution_info.result == "success"
    assert service.run(job, "true").execution_info.result == "success"
    assert service.client.get_job(job).state == "active"


# Auto pools


def auto_pool(prefix: str = "", keep: bool = False, **pool: Any) -> Any:
    specification = models.BatchPoolSpecification(
        **{
            "vm_size": "Standard_D4s_v5",
            "virtual_machine_configuration": IMAGE,
            "target_dedicated_nodes": 1,
            "task_slots_per_node": 2,
            **pool,
        }
    )
    auto = models.BatchAutoPoolSpecification(
        auto_pool_id_prefix=prefix or None, pool_lifetime_option="job", keep_alive=keep, pool=specification
    )
    return models.BatchPoolInfo(auto_pool_specification=auto)


def auto_job(service: Service, id: str, info: Any) -> models.BatchJob:
    service.client.create_job(models.BatchJobCreateOptions(id=id, pool_info=info))
    return service.client.get_job(id)


@pytest.mark.parametrize("keep", [False, True])
def test_a_pool_made_for_a_job_goes_with_it_unless_it_is_kept_alive(service: Service, keep: bool) -> None:
    job = auto_job(service, f"auto-{keep}", auto_pool("mine", keep))
    pool = job.execution_info.pool_id
    assert pool.startswith("mine_")
    assert job.pool_info.pool_id is None
    assert service.run(job.id, "true").node_info.pool_id == pool
    service.client.begin_terminate_job(job.id, {"terminateReason": "over"}, polling_interval=0.01)
    ended(service, job.id)
    if keep:
        assert service.client.get_pool(pool).state == "active"
        service.client.begin_delete_pool(pool, polling_interval=0.01).result()
    else:
        service.until(lambda: pool_is_there(service, pool), lambda there: not there)


def pool_is_there(service: Service, pool: str) -> bool:
    try:
        service.client.get_pool(pool)
    except HttpResponseError:
        return False
    return True


def test_of_an_auto_pool_only_its_keeping_alive_can_be_changed(service: Service) -> None:
    job = auto_job(service, "auto-change", auto_pool())
    with refused("InvalidPropertyValue", 400):
        service.client.update_job(job.id, models.BatchJobUpdateOptions(pool_info=auto_pool("other")))
    service.client.update_job(job.id, models.BatchJobUpdateOptions(pool_info=auto_pool(keep=True)))
    assert service.client.get_job(job.id).pool_info.auto_pool_specification.keep_alive is True
    service.client.begin_delete_job(job.id, polling_interval=0.01).result()
    assert service.client.get_pool(job.execution_info.pool_id).state == "active"


def test_a_job_whose_pool_cannot_be_made_is_completed_and_says_why(tmp_path: Path) -> None:
    with emulator(tmp_path / "root", "--pool-quota", "0") as (service, _):
        service.client.create_job(models.BatchJobCreateOptions(id="j", pool_info=auto_pool()))
        found = ended(service, "j").execution_info
        assert (found.scheduling_error.category, found.scheduling_error.code) == ("usererror", "PoolQuotaReached")
        assert found.pool_id is None


@pytest.mark.parametrize(
    ("info", "code"),
    [
        ({}, "InvalidPropertyValue"),
        (
            {"poolId": "p", "autoPoolSpecification": {"poolLifetimeOption": "job", "pool": {"vmSize": "s"}}},
            "InvalidPropertyValue",
        ),
        (
            {"autoPoolSpecification": {"poolLifetimeOption": "jobschedule", "pool": {"vmSize": "s"}}},
            "InvalidPropertyValue",
        ),
        ({"autoPoolSpecification": {"poolLifetimeOption": "job"}}, "MissingRequiredProperty"),
        (
            {
                "autoPoolSpecification": {
                    "poolLifetimeOption": "job",
                    "autoPoolIdPrefix": "p" * 21,
                    "pool": {"vmSize": "s"},
                }
            },
            "InvalidPropertyValue",
        ),
        ({"autoPoolSpecification": {"poolLifetimeOption": "job", "pool": {}}}, "MissingRequiredProperty"),
    ],
)
def test_a_job_names_a_pool_or_describes_one(service: Service, info: Any, code: str) -> None:
    with refused(code, 400):
        service.client.create_job({"id": "refused", "poolInfo": info})


@scenario
async def test_a_job_on_a_node_out_of_contact_ends_only_by_force(here: Here) -> None:
    await here.pool(targetDedicatedNodes=1)
    for job_id in ("j", "k"):
        job: Any = {"id": job_id, "poolInfo": {"poolId": "p"}}
        await here.client.create_job(job)
    await here.task()
    await here.task_in("running")
    account, jobs = here.emulator.account, here.emulator.jobs
    here.emulator.pools.nodes.disconnect(here.nodes[0])
    jobs.terminate(account.job("j"), "over")
    jobs.delete(account.job("k"))
    await until(lambda: "k" not in account.jobs)
    assert account.job("j").state == "terminating"
    jobs.delete(account.job("j"), force=True)
    await until(lambda: "j" not in account.jobs)

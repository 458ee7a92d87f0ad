"""Jobs, preparation tasks, scheduling and pools, as the real SDK sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from azure.batch import models
from batch_service import Service, refused, service
from manual_service import Here, scenario, until

__all__ = ["service"]


@pytest.fixture(scope="module")
def pool(service: Service) -> str:
    return service.pool()


def prep(command: str, retries: int = 0) -> models.BatchJobPreparationTask:
    constraints = models.BatchTaskConstraints(max_task_retry_count=retries)
    return models.BatchJobPreparationTask(command_line=command, constraints=constraints)


def job_state(service: Service, job: str, state: str) -> models.BatchJob:
    return service.until(lambda: service.client.get_job(job), lambda found: found.state == state)


# Preparation


def test_the_preparation_task_runs_once_per_node_before_the_first_task(service: Service, tmp_path: Path) -> None:
    pool, go = service.pool(nodes=2, slots=2), tmp_path / "go"
    job = service.job(pool, job_preparation_task=prep("/bin/sh -c 'echo >> ran'"))
    line = f"wc -l < $AZ_BATCH_JOB_PREP_WORKING_DIR/ran; until [ -e {go} ]; do sleep 0.01; done"
    for i in range(8):
        service.task(job, f"/bin/sh -c '{line}'", f"t{i}")
    go.touch()  # until now they filled both nodes
    nodes = {service.completed(job, f"t{i}").node_info.node_id for i in range(8)}
    assert {service.output(job, f"t{i}") for i in range(8)} == {"1\n"}
    statuses = list(service.client.list_job_preparation_and_release_task_status(job))
    assert {status.node_id for status in statuses} == nodes
    assert len(nodes) == 2
    assert {status.job_preparation_task_execution_info.result for status in statuses} == {"success"}


def test_a_failed_preparation_bars_the_node_and_the_tasks_wait(service: Service, pool: str) -> None:
    job = service.job(pool, job_preparation_task=prep("/bin/sh -c 'echo >> ran; exit 4'", retries=2))
    service.task(job, "true")
    status = service.until(
        lambda: list(service.client.list_job_preparation_and_release_task_status(job)),
        lambda found: found and found[0].job_preparation_task_execution_info.state == "completed",
    )[0].job_preparation_task_execution_info
    assert (status.result, status.exit_code, status.retry_count) == ("failure", 4, 2)
    assert status.failure_info.code == "FailureExitCode"
    service.until(lambda: service.client.get_task(job, "t"), lambda task: task.state == "active")
    assert service.run(service.job(pool), "true").execution_info.result == "success"


def test_a_preparation_whose_file_is_not_there_bars_the_node_and_says_so(service: Service, pool: str) -> None:
    url = service.absent_blob()
    file = models.ResourceFile(http_url=url, file_path="worker.pyz")
    task = models.BatchJobPreparationTask(
        command_line="true",
        resource_files=[file],
        constraints=models.BatchTaskConstraints(max_task_retry_count=3),
    )
    job = service.job(pool, job_preparation_task=task)
    service.task(job, "true")
    status = service.until(
        lambda: list(service.client.list_job_preparation_and_release_task_status(job)),
        lambda found: found and found[0].job_preparation_task_execution_info.state == "completed",
    )[0].job_preparation_task_execution_info
    assert (status.result, status.exit_code, status.retry_count) == ("failure", None, 0)
    assert (status.failure_info.category, status.failure_info.code) == ("usererror", "BlobNotFound")
    details = {detail.name: detail.value for detail in status.failure_info.details}
    address, _, secret = url.partition("?")
    assert (details["FilePath"], details["BlobSource"]) == ("worker.pyz", address)
    assert secret not in str(details)
    service.until(lambda: service.client.get_task(job, "t"), lambda task: task.state == "active")
    assert service.run(service.job(pool), "true").execution_info.result == "success"


def test_a_task_waits_as_preparing_and_can_be_ended_then(service: Service, pool: str) -> None:
    job = service.job(pool, job_preparation_task=prep("sleep 100"))
    service.task(job, "true")
    service.until(lambda: service.client.get_task(job, "t"), lambda task: task.state == "preparing")
    service.client.terminate_task(job, "t")
    assert service.completed(job).execution_info.failure_info.code == "TaskEnded"
    service.client.begin_delete_job(job, polling_interval=0.01).result()


def test_only_jobs_with_a_preparation_task_have_its_status(service: Service, pool: str) -> None:
    with refused("JobPreparationTaskNotSpecified", 409):
        list(service.client.list_job_preparation_and_release_task_status(service.job(pool)))


# The life of a job


def test_terminating_a_job_kills_what_runs_and_leaves_what_waits(service: Service, pool: str) -> None:
    job = service.job(pool, max_parallel_tasks=1)
    service.task(job, "sleep 100", "runs")
    service.running(job, "runs")
    service.task(job, "true", "waits")
    poller = service.client.begin_terminate_job(job, options={"terminateReason": "enough"}, polling_interval=0.01)
    poller.result()
    found = service.client.get_job(job)
    assert (found.state, found.execution_info.termination_reason) == ("completed", "enough")
    assert service.client.get_task(job, "runs").execution_info.failure_info.code == "TaskEnded"
    assert service.client.get_task(job, "waits").state == "active"
    with refused("JobCompleted", 409):
        service.task(job, "true", "late")
    with refused("JobCompleted", 409):
        service.client.create_task_collection(job, {"value": [{"id": "late", "commandLine": "true"}]})


def test_a_job_can_end_with_its_last_task(service: Service, pool: str) -> None:
    job = service.job(pool)
    service.task(job, "/bin/sh -c 'until [ -e go ]; do sleep 0.01; done'")
    service.client.update_job(job, models.BatchJobUpdateOptions(all_tasks_complete_mode="terminatejob"))
    service.running(job)
    wd = Path(service.client.get_task(job, "t").node_info.task_root_directory, "wd")
    assert service.client.get_job(job).state == "active"
    (service.node_root(job) / wd / "go").touch()
    assert job_state(service, job, "completed").execution_info.termination_reason == "AllTasksComplete"


def test_an_empty_job_that_ends_with_its_last_task_ends_at_once(service: Service, pool: str) -> None:
    job = service.job(pool, all_tasks_complete_mode="terminatejob")
    job_state(service, job, "completed")


@scenario
async def test_the_wall_clock_of_a_job_ends_it_and_can_be_extended(here: Here) -> None:
    client, clock = here.client, here.clock
    await here.pool(targetDedicatedNodes=1)
    for id in ("j", "lives"):
        job: Any = {"id": id, "poolInfo": {"poolId": "p"}, "constraints": {"maxWallClockTime": "PT1H"}}
        await client.create_job(job)
    await here.task()
    await here.task_in("running")
    clock.advance(3599)
    longer: Any = {"constraints": {"maxWallClockTime": "PT3H"}}
    await client.update_job("lives", longer)
    assert (await client.get_job("j")).state == "active"
    clock.advance(1)
    ended = await until(lambda: client.get_job("j"), lambda found: found.state == "completed")
    assert ended.execution_info.termination_reason == "MaxWallClockTimeExpiry"
    assert (await here.task_in("completed")).execution_info.failure_info.code == "TaskEnded"
    clock.advance(2 * 3600 - 1)
    assert (await client.get_job("lives")).state == "active"
    clock.advance(1)
    await until(lambda: client.get_job("lives"), lambda found: found.state == "completed")


def test_a_deleted_job_is_gone_with_its_processes_and_files(service: Service, pool: str) -> None:
    job = service.job(pool)
    service.task(job, "sleep 100")
    service.running(job)
    directory = service.node_root(job) / "workitems" / job
    assert directory.is_dir()
    service.client.begin_delete_job(job, polling_interval=0.01).result()
    with refused("JobNotFound", 404):
        service.client.get_job(job)
    assert not directory.exists()


@scenario
async def test_a_job_can_be_deleted_while_its_nodes_and_other_pools_go(here: Here) -> None:
    for name in ("p", "q", "r"):
        await here.pool(name, targetDedicatedNodes=4)
    for i in range(4):
        await here.task(f"t{i}")
    here.go()
    counts = lambda: here.client.get_job_task_counts("j")  # noqa: E731
    await until(counts, lambda found: found.task_counts.completed == 4)
    account = here.emulator.account
    here.emulator.jobs.delete(account.job("j"))
    for pool in list(account.pools.values()):
        here.emulator.pools.delete(pool)
    await account.idle()
    assert (account.jobs, account.pools) == ({}, {})


def test_a_disabled_job_starts_nothing_until_it_is_enabled(service: Service, pool: str) -> None:
    job = service.job(pool)
    service.task(job, "/bin/sh -c '[ -e again ] || { touch again; exec sleep 100; }'")
    service.until(lambda: _exists(service, job, "again"), bool)
    options = models.BatchJobDisableOptions(disable_tasks="requeue")
    service.client.begin_disable_job(job, options, polling_interval=0.01).result()
    task = service.client.get_task(job, "t")
    assert (task.state, task.execution_info.requeue_count) == ("active", 1)
    service.client.begin_enable_job(job, polling_interval=0.01).result()
    assert service.completed(job).execution_info.result == "success"


def _exists(service: Service, job: str, name: str) -> bool:
    task = service.client.get_task(job, "t")
    return (
        task.state == "running" and (service.node_root(job) / task.node_info.task_root_directory / "wd" / name).exists()
    )


def test_ids_keep_their_case_but_are_found_without_it(service: Service, pool: str) -> None:
    options: Any = models.BatchJobCreateOptions(id="CamelCase", pool_info=models.BatchPoolInfo(pool_id=pool.upper()))
    service.client.create_job(options)
    service.run("camelcase", "true", "T1")
    assert service.client.get_job("CAMELCASE").id == "CamelCase"
    assert service.client.get_task("camelCASE", "t1").id == "T1"
    with refused("JobExists", 409):
        service.job_named("camelcase", pool)


# Scheduling


def test_tasks_of_a_job_start_in_the_order_of_their_creation(service: Service) -> None:
    job = service.job(service.pool(slots=1))
    for i in range(6):
        service.task(job, "true", f"t{5 - i}")
    starts = [service.completed(job, f"t{5 - i}").execution_info.start_time for i in range(6)]
    assert starts == sorted(starts)


def test_a_job_of_higher_priority_goes_first(service: Service) -> None:
    pool = "priority-pool"
    low, high = service.job(pool, priority=-1), service.job(pool, priority=1)
    for job in (low, high):
        service.task(job, "true")
    service.pool(slots=1, id=pool)
    assert service.completed(high).execution_info.start_time < service.completed(low).execution_info.start_time


def test_slots_and_required_slots_bound_what_runs_at_once(service: Service) -> None:
    pool = service.pool(slots=3)
    job = service.job(pool)
    service.task(job, "sleep 100", "wide", required_slots=2)
    for i in range(2):
        service.task(job, "sleep 100", f"narrow{i}")
    service.running(job, "wide")
    service.running(job, "narrow0")
    assert service.client.get_task(job, "narrow1").state == "active"
    counts = service.client.get_job_task_counts(job)
    assert (counts.task_counts.running, counts.task_slot_counts.running) == (2, 3)
    service.client.terminate_task(job, "wide")
    service.running(job, "narrow1")


def test_a_job_waits_for_a_pool_that_comes_later(service: Service) -> None:
    job = service.job("later")
    service.task(job, "true")
    assert service.client.get_task(job, "t").state == "active"
    service.pool(id="later")
    assert service.completed(job).execution_info.result == "success"


# Pools


def test_a_pool_has_its_nodes_at_once(service: Service) -> None:
    pool = service.pool(nodes=2)
    nodes = list(service.client.list_nodes(pool))
    assert [(node.state, node.scheduling_state, node.is_dedicated) for node in nodes] == [("idle", "enabled", True)] * 2
    assert all(node.id.startswith("tvmps_") and node.id.endswith("_d") for node in nodes)
    counts = next(iter(service.client.list_pool_node_counts(filter=f"poolId eq '{pool}'")))
    assert (counts.dedicated.idle, counts.dedicated.total, counts.low_priority.total) == (2, 2, 0)
    found = service.client.get_pool(pool)
    assert (found.state, found.allocation_state, found.current_dedicated_nodes) == ("active", "steady", 2)


def test_shrinking_a_pool_requeues_its_tasks(service: Service) -> None:
    pool = service.pool(nodes=1)
    job = service.job(pool)
    service.task(job, "sleep 100")
    service.running(job)
    options = models.BatchPoolResizeOptions(target_dedicated_nodes=0)
    service.client.begin_resize_pool(pool, options, polling_interval=0.01).result()
    assert service.client.get_task(job, "t").state == "active"
    assert list(service.client.list_nodes(pool)) == []


def test_deleting_a_pool_leaves_its_jobs_and_requeues_their_tasks(service: Service) -> None:
    pool = service.pool()
    job = service.job(pool)
    service.task(job, "sleep 100")
    service.running(job)
    service.client.begin_delete_pool(pool, polling_interval=0.01).result()
    with refused("PoolNotFound", 404):
        service.client.get_pool(pool)
    assert service.client.get_task(job, "t").state == "active"
    service.pool(id=pool)
    service.running(job)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"vmSize": None}, "MissingRequiredProperty"),
        ({"id": "white space"}, "InvalidPropertyValue"),
        ({"taskSlotsPerNode": 257}, "InvalidPropertyValue"),
        ({"taskSlotsPerNode": 17}, "InvalidPropertyValue"),
        ({"targetDedicatedNodes": "two"}, "InvalidPropertyValue"),
        ({"resizeTimeout": "5 minutes"}, "InvalidPropertyValue"),
        ({"identity": {"type": "UserAssigned"}}, "InvalidRequestBody"),
    ],
)
def test_a_pool_that_cannot_be_is_refused(service: Service, change: dict[str, object], code: str) -> None:
    body: Any = {"id": "refused", "vmSize": "Standard_D4s_v5", **change}
    with refused(code, 400):
        service.client.create_pool(body)


def test_a_pool_exists_once(service: Service, pool: str) -> None:
    with refused("PoolExists", 409):
        service.pool(id=pool.upper())


def test_images_that_run_containers_can_be_found(service: Service) -> None:
    images = list(service.client.list_supported_images(filter="verificationType eq 'verified'"))
    assert any("DockerCompatible" in image.capabilities for image in images)

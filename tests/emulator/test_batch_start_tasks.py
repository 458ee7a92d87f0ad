"""Start tasks: what a node runs before it takes tasks, and what becomes of it when that fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from azure.batch import models
from batch_service import Service, refused, service
from helpers_processes import process_is_there

__all__ = ["service"]

UNTIL_GO = "/bin/sh -c 'until [ -e go ]; do sleep 0.01; done'"


def start(command: str, **more: Any) -> models.BatchStartTask:
    return models.BatchStartTask(command_line=command, **more)


def node_in(service: Service, pool: str, state: str) -> models.BatchNode:
    nodes = service.until(
        lambda: list(service.client.list_nodes(pool)), lambda found: [node.state for node in found] == [state]
    )
    return nodes[0]


def startup(service: Service, node: models.BatchNode) -> Path:
    return service.root / "nodes" / node.id / "startup"


def test_a_node_takes_tasks_only_after_its_start_task(service: Service) -> None:
    pool = service.pool(start_task=start(UNTIL_GO))
    job = service.job(pool)
    service.task(job, "true")
    node = node_in(service, pool, "waitingforstarttask")
    assert (node.start_task_info.state, node.start_task_info.result) == ("running", None)
    assert service.client.get_pool(pool).allocation_state == "steady", "the node is there, though it is not ready"
    assert service.client.get_task(job, "t").state == "active"
    (startup(service, node) / "wd" / "go").touch()
    execution = service.completed(job).execution_info
    node = node_in(service, pool, "idle")
    info = node.start_task_info
    assert (info.state, info.exit_code, info.result, info.retry_count) == ("completed", 0, "success", 0)
    assert info.start_time <= info.end_time <= execution.start_time
    assert node.start_task.command_line == UNTIL_GO
    counts = next(iter(service.client.list_pool_node_counts(filter=f"poolId eq '{pool}'")))
    assert counts.dedicated.idle == 1


def test_the_environment_and_directory_of_a_start_task(service: Service) -> None:
    setting = models.EnvironmentSetting(name="X", value="y")
    pool = service.pool(start_task=start("/bin/sh -c 'env; pwd >&2'", environment_settings=[setting]))
    directory = startup(service, node_in(service, pool, "idle"))
    env = dict(line.split("=", 1) for line in (directory / "stdout.txt").read_text().splitlines())
    assert (directory / "stderr.txt").read_text() == f"{directory}/wd\n"
    assert env["AZ_BATCH_NODE_STARTUP_DIR"] == env["AZ_BATCH_TASK_DIR"] == str(directory)
    assert env["HOME"] == env["AZ_BATCH_TASK_WORKING_DIR"] == f"{directory}/wd"
    assert env["X"] == "y"
    task = {"TASK_DIR", "TASK_WORKING_DIR", "TASK_RESERVED_EPHEMERAL_DISK_SPACE_BYTES"}
    assert {name for name in env if name.startswith("AZ_BATCH_")} == {f"AZ_BATCH_{name}" for name in NODE | task}


NODE = {"ACCOUNT_NAME", "ACCOUNT_URL", "POOL_ID", "NODE_ID", "NODE_IS_DEDICATED", "NODE_ROOT_DIR", "NODE_SHARED_DIR"}
NODE |= {"NODE_STARTUP_DIR", "NODE_STARTUP_WORKING_DIR", "NODE_MOUNTS_DIR"}


@pytest.mark.parametrize("prepared", [True, False])
def test_a_task_knows_where_it_is(service: Service, prepared: bool) -> None:
    pool = service.pool()
    prep = models.BatchJobPreparationTask(command_line="true", id="prep")
    job = service.job(pool, **({"job_preparation_task": prep} if prepared else {}))
    service.run(job, "env")
    env = dict(line.split("=", 1) for line in service.output(job).splitlines())
    names = NODE | {"JOB_ID", "TASK_ID", "TASK_DIR", "TASK_WORKING_DIR", "TASK_RESERVED_EPHEMERAL_DISK_SPACE_BYTES"}
    names |= {"JOB_PREP_DIR", "JOB_PREP_WORKING_DIR"} if prepared else set()
    assert {name for name in env if name.startswith("AZ_BATCH_")} == {f"AZ_BATCH_{name}" for name in names}
    root = env["AZ_BATCH_NODE_ROOT_DIR"]
    assert env["AZ_BATCH_NODE_MOUNTS_DIR"] == f"{root}/fsmounts"
    assert env["AZ_BATCH_NODE_SHARED_DIR"] == f"{root}/shared"
    assert env["AZ_BATCH_TASK_DIR"] == f"{root}/workitems/{job}/job-1/t"
    if prepared:
        assert env["AZ_BATCH_JOB_PREP_WORKING_DIR"] == f"{root}/workitems/{job}/job-1/prep/wd"
    assert (env["AZ_BATCH_NODE_IS_DEDICATED"], env["AZ_BATCH_ACCOUNT_NAME"]) == ("true", service.info["account"])
    there = {path.name for path in Path(root).iterdir()}
    assert {"applications", "fsmounts", "shared", "startup", "workitems"} <= there


def test_what_a_start_task_leaves_in_the_shared_directory_its_tasks_find(service: Service) -> None:
    pool = service.pool(nodes=2, start_task=start("/bin/sh -c 'echo here > $AZ_BATCH_NODE_SHARED_DIR/x'"))
    job = service.job(pool)
    for i in range(4):
        service.task(job, "/bin/sh -c 'cat $AZ_BATCH_NODE_SHARED_DIR/x'", f"t{i}")
    assert {service.completed(job, f"t{i}").execution_info.result for i in range(4)} == {"success"}


def test_a_node_whose_start_task_fails_takes_no_tasks_and_says_why(service: Service) -> None:
    pool = service.pool(start_task=start("/bin/sh -c 'echo broken >&2; exit 5'", max_task_retry_count=2))
    job = service.job(pool)
    service.task(job, "true")
    node = node_in(service, pool, "starttaskfailed")
    info = node.start_task_info
    assert (info.state, info.exit_code, info.result, info.retry_count) == ("completed", 5, "failure", 2)
    assert (info.failure_info.category, info.failure_info.code) == ("usererror", "FailureExitCode")
    assert info.last_retry_time == info.start_time
    assert (startup(service, node) / "stderr.txt").read_text() == "broken\n"
    assert service.client.get_task(job, "t").state == "active"
    failed = service.client.list_nodes(pool, filter="state eq 'starttaskfailed' and startTaskInfo/result eq 'failure'")
    assert [found.id for found in failed] == [node.id]
    counts = next(iter(service.client.list_pool_node_counts(filter=f"poolId eq '{pool}'")))
    assert (counts.dedicated.start_task_failed, counts.dedicated.total) == (1, 1)


def test_a_start_task_may_heal_at_a_retry(service: Service) -> None:
    line = "/bin/sh -c 'echo >> tries; [ $(wc -l < tries) -ge 3 ]'"
    pool = service.pool(start_task=start(line, max_task_retry_count=-1))
    assert node_in(service, pool, "idle").start_task_info.retry_count == 2


def test_a_start_task_whose_file_is_not_there_fails_its_node(service: Service) -> None:
    file = models.ResourceFile(http_url=service.absent_blob(), file_path="x")
    pool = service.pool(start_task=start("true", resource_files=[file], max_task_retry_count=1))
    info = node_in(service, pool, "starttaskfailed").start_task_info
    assert (info.exit_code, info.failure_info.code, info.retry_count) == (None, "BlobNotFound", 0)


def test_a_pool_that_does_not_wait_runs_tasks_beside_and_after_its_start_task(service: Service) -> None:
    line = UNTIL_GO.replace("done'", "done; exit 6'")
    pool = service.pool(start_task=start(line, wait_for_success=False))
    job = service.job(pool)
    assert service.run(job, "true", "beside").execution_info.result == "success"
    node = next(iter(service.client.list_nodes(pool)))
    assert node.start_task_info.state == "running"
    (startup(service, node) / "wd" / "go").touch()
    service.until(
        lambda: next(iter(service.client.list_nodes(pool))).start_task_info, lambda info: info.state == "completed"
    )
    node = node_in(service, pool, "idle")
    assert (node.start_task_info.result, node.start_task_info.exit_code) == ("failure", 6)
    assert service.run(job, "true", "after").execution_info.result == "success"


def test_a_changed_start_task_is_for_the_nodes_to_come(service: Service) -> None:
    pool = service.pool(start_task=start("true"))
    node_in(service, pool, "idle")
    service.client.update_pool(pool, models.BatchPoolUpdateOptions(start_task=start("false")))
    options = models.BatchPoolResizeOptions(target_dedicated_nodes=2)
    service.client.begin_resize_pool(pool, options, polling_interval=0.01).result()
    nodes = service.until(
        lambda: list(service.client.list_nodes(pool)),
        lambda found: sorted(node.state for node in found) == ["idle", "starttaskfailed"],
    )
    assert {(node.state, node.start_task.command_line) for node in nodes} == {
        ("idle", "true"),
        ("starttaskfailed", "false"),
    }


def test_a_node_can_leave_in_the_middle_of_its_start_task(service: Service) -> None:
    pool = service.pool(start_task=start("/bin/sh -c 'echo $$; exec sleep 100'"))
    node = node_in(service, pool, "waitingforstarttask")
    stdout = startup(service, node) / "stdout.txt"
    pid = service.until(lambda: stdout.read_text() if stdout.exists() else "", bool).strip()
    service.client.begin_delete_pool(pool, polling_interval=0.01).result()
    assert not process_is_there(pid)
    assert not startup(service, node).exists()


@pytest.mark.parametrize(
    ("task", "code"),
    [
        ({}, "MissingRequiredProperty"),
        ({"commandLine": ""}, "InvalidPropertyValue"),
        ({"commandLine": "true", "maxTaskRetryCount": -2}, "InvalidPropertyValue"),
        ({"commandLine": "true", "constraints": {}}, "InvalidRequestBody"),
    ],
)
def test_a_start_task_that_cannot_be_is_refused(service: Service, task: dict[str, object], code: str) -> None:
    body: Any = {"id": "refused", "vmSize": "Standard_D4s_v5", "startTask": task}
    with refused(code, 400):
        service.client.create_pool(body)

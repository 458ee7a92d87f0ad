"""Nodes: reboot, reimage, deallocate, scheduling, removal, and what becomes of the tasks on them."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from azure.batch import models
from azure.storage.blob import BlobServiceClient, ContainerSasPermissions, generate_container_sas
from batch_service import Service, refused, service
from helpers_processes import process_is_there

__all__ = ["service"]

COUNT = "/bin/sh -c 'echo >> $AZ_BATCH_NODE_SHARED_DIR/{0}; wc -l < $AZ_BATCH_NODE_SHARED_DIR/{0}'"
UNTIL_GO = "/bin/sh -c 'until [ -e $AZ_BATCH_NODE_SHARED_DIR/go ]; do sleep 0.01; done'"


def only_node(service: Service, pool: str) -> models.BatchNode:
    (node,) = service.until(lambda: list(service.client.list_nodes(pool)), lambda found: len(found) == 1)
    return node


def state_of(service: Service, node: models.BatchNode, pool: str, *states: str) -> models.BatchNode:
    return service.until(lambda: service.client.get_node(pool, node.id), lambda found: found.state in states)


def shared(service: Service, node: models.BatchNode) -> Path:
    return service.root / "nodes" / node.id / "shared"


def act(service: Service, action: str, pool: str, node: models.BatchNode, option: str = "requeue") -> None:
    names = {"reboot": "nodeRebootOption", "reimage": "nodeReimageOption", "deallocate": "nodeDeallocateOption"}
    begin = getattr(service.client, f"begin_{action}_node")
    begin(pool, node.id, options={names[action]: option}, polling_interval=0.01).result()


# Reboot and reimage


def test_a_reboot_runs_the_start_task_again_and_keeps_the_disk(service: Service) -> None:
    pool = service.pool(start_task=models.BatchStartTask(command_line=COUNT.format("boots")))
    node = state_of(service, only_node(service, pool), pool, "idle")
    job = service.job(pool)
    service.run(job, "echo kept")
    other = models.BatchStartTask(command_line=COUNT.format("boots"), max_task_retry_count=1)
    service.client.update_pool(pool, models.BatchPoolUpdateOptions(start_task=other))
    assert service.client.get_node(pool, node.id).start_task.max_task_retry_count is None, "not before it boots"
    act(service, "reboot", pool, node)
    again = state_of(service, node, pool, "idle")
    assert (shared(service, node) / "boots").read_text() == "\n\n"
    assert again.last_boot_time > node.last_boot_time
    assert again.allocation_time == node.allocation_time
    assert again.start_task.max_task_retry_count == 1
    assert service.output(job) == "kept\n"


@pytest.mark.parametrize("action", ["reboot", "reimage"])
def test_a_task_that_runs_at_a_reboot_goes_back_to_the_queue(service: Service, action: str) -> None:
    pool = service.pool()
    job = service.job(pool)
    service.task(job, "/bin/sh -c 'echo $$; exec sleep 100'")
    service.running(job)
    node = only_node(service, pool)
    stdout = service.node_root(job) / f"workitems/{job}/job-1/t/stdout.txt"
    pid = service.until(lambda: stdout.read_text() if stdout.exists() else "", bool).strip()
    act(service, action, pool, node)
    assert not process_is_there(pid)
    task = service.running(job)
    assert (task.execution_info.retry_count, task.execution_info.requeue_count) == (0, 1)
    assert task.execution_info.last_requeue_time is not None
    assert service.client.get_node(pool, node.id).running_tasks_count == 1
    service.client.terminate_task(job, "t")
    service.completed(job)


def test_a_reboot_can_end_the_tasks_instead(service: Service) -> None:
    pool = service.pool()
    job = service.job(pool)
    service.task(job, "sleep 100")
    service.running(job)
    act(service, "reboot", pool, only_node(service, pool), "terminate")
    assert service.completed(job).execution_info.failure_info.code == "TaskEnded"


@pytest.mark.parametrize("action", ["reboot", "reimage", "deallocate"])
def test_an_action_can_wait_for_the_tasks(service: Service, action: str) -> None:
    pool = service.pool()
    job = service.job(pool)
    service.task(job, UNTIL_GO)
    service.running(job)
    node = only_node(service, pool)
    names = {"reboot": "nodeRebootOption", "reimage": "nodeReimageOption", "deallocate": "nodeDeallocateOption"}
    begin = getattr(service.client, f"begin_{action}_node")
    poller = begin(pool, node.id, options={names[action]: "taskcompletion"}, polling_interval=0.01)
    service.task(job, "true", "later")
    assert service.client.get_task(job, "t").state == "running"
    assert service.client.get_task(job, "later").state == "active", "no new tasks meanwhile"
    (shared(service, node) / "go").touch()
    poller.result()
    task = service.client.get_task(job, "t")
    assert (task.execution_info.result, task.execution_info.requeue_count) == ("success", 0)
    if action == "deallocate":
        service.client.begin_start_node(pool, node.id, polling_interval=0.01).result()
    assert service.completed(job, "later").execution_info.result == "success"


def test_a_reimage_empties_the_disk(service: Service) -> None:
    pool = service.pool()
    job = service.job(pool)
    service.run(job, "/bin/sh -c 'echo > $AZ_BATCH_NODE_SHARED_DIR/x'")
    node = only_node(service, pool)
    act(service, "reimage", pool, node)
    with refused("TaskFilesUnavailable", 409):
        list(service.client.list_task_files(job, "t"))
    service.run(job, "ls $AZ_BATCH_NODE_SHARED_DIR", "ls")
    assert service.output(job, "ls") == ""
    assert service.client.get_node(pool, node.id).state == "idle"


def test_a_node_whose_start_task_failed_is_healed_by_a_reboot(service: Service) -> None:
    pool = service.pool(start_task=models.BatchStartTask(command_line="false"))
    node = state_of(service, only_node(service, pool), pool, "starttaskfailed")
    service.client.update_pool(
        pool, models.BatchPoolUpdateOptions(start_task=models.BatchStartTask(command_line="true"))
    )
    act(service, "reboot", pool, node)
    assert state_of(service, node, pool, "idle").start_task_info.result == "success"


@pytest.mark.parametrize(("rerun", "runs"), [(True, 2), (False, 1)])
def test_a_preparation_task_runs_again_after_a_reboot_unless_told_not_to(
    service: Service, rerun: bool, runs: int
) -> None:
    pool = service.pool()
    prep = models.BatchJobPreparationTask(
        command_line=COUNT.format("prep"), rerun_on_node_reboot_after_success=rerun, wait_for_success=True
    )
    job = service.job(pool, job_preparation_task=prep)
    service.run(job, "true", "before")
    node = only_node(service, pool)
    act(service, "reboot", pool, node)
    service.run(job, "true", "after")
    assert (shared(service, node) / "prep").read_text() == "\n" * runs


def test_a_failed_preparation_task_bars_its_node_until_a_reimage(service: Service) -> None:
    pool = service.pool()
    line = "/bin/sh -c '[ -e $AZ_BATCH_NODE_SHARED_DIR/../../go ]'"
    prep = models.BatchJobPreparationTask(command_line=line, wait_for_success=True)
    job = service.job(pool, job_preparation_task=prep)
    service.task(job, "true")

    def status() -> Any:
        found = list(service.client.list_job_preparation_and_release_task_status(job))
        return found and found[0].job_preparation_task_execution_info.result

    service.until(status, lambda result: result == "failure")
    node = only_node(service, pool)
    (service.root / "nodes" / "go").touch()
    act(service, "reboot", pool, node)
    service.run(service.job(pool), "true")
    assert service.client.get_task(job, "t").state == "active"
    act(service, "reimage", pool, node)
    assert service.completed(job).execution_info.result == "success"


# Off and on


def test_a_deallocated_node_has_no_files_and_takes_no_tasks_until_it_is_started(service: Service) -> None:
    pool = service.pool(start_task=models.BatchStartTask(command_line="true"))
    job = service.job(pool)
    service.run(job, "true")
    node = only_node(service, pool)
    act(service, "deallocate", pool, node)
    assert service.client.get_node(pool, node.id).state == "deallocated"
    assert service.client.get_pool(pool).current_dedicated_nodes == 1
    with refused("OperationInvalidForCurrentState", 409):
        list(service.client.list_node_files(pool, node.id))
    with refused("TaskFilesUnavailable", 409):
        list(service.client.list_task_files(job, "t"))
    service.task(job, "true", "later")
    with refused("OperationInvalidForCurrentState", 409):
        act(service, "reboot", pool, node)
    service.client.begin_start_node(pool, node.id, polling_interval=0.01).result()
    assert service.completed(job, "later").execution_info.result == "success"
    assert state_of(service, node, pool, "idle").start_task_info.result == "success"
    with refused("OperationInvalidForCurrentState", 409):
        service.client.begin_start_node(pool, node.id)


def test_a_node_takes_no_tasks_while_its_scheduling_is_disabled(service: Service) -> None:
    pool = service.pool(slots=1)
    job = service.job(pool)
    service.task(job, UNTIL_GO)
    service.running(job)
    node = only_node(service, pool)
    options = models.BatchNodeDisableSchedulingOptions(node_disable_scheduling_option="taskcompletion")
    service.client.disable_node_scheduling(pool, node.id, options=options)
    service.task(job, "true", "later")
    found = service.client.get_node(pool, node.id)
    assert (found.state, found.scheduling_state) == ("running", "disabled")
    with refused("NodeAlreadyInTargetSchedulingState", 409):
        service.client.disable_node_scheduling(pool, node.id, options=options)
    (shared(service, node) / "go").touch()
    state_of(service, node, pool, "offline")
    assert service.completed(job).execution_info.result == "success"
    counts = next(iter(service.client.list_pool_node_counts(filter=f"poolId eq '{pool}'")))
    assert (counts.dedicated.offline, counts.dedicated.idle) == (1, 0)
    assert service.client.get_task(job, "later").state == "active"
    service.client.enable_node_scheduling(pool, node.id)
    with refused("NodeAlreadyInTargetSchedulingState", 409):
        service.client.enable_node_scheduling(pool, node.id)
    assert service.completed(job, "later").execution_info.result == "success"
    assert service.client.get_node(pool, node.id).scheduling_state == "enabled"


def test_disabling_the_scheduling_requeues_what_runs(service: Service) -> None:
    pool = service.pool(nodes=2, slots=1)
    job = service.job(pool)
    service.task(job, UNTIL_GO)
    first = service.running(job).node_info.node_id
    options = models.BatchNodeDisableSchedulingOptions(node_disable_scheduling_option="requeue")
    service.client.disable_node_scheduling(pool, first, options=options)
    task = service.until(
        lambda: service.client.get_task(job, "t"),
        lambda task: task.state == "running" and task.node_info.node_id != first,
    )
    assert task.execution_info.requeue_count == 1
    assert service.client.get_node(pool, first).state == "offline"
    service.client.terminate_task(job, "t")


# Rules


def test_what_a_node_cannot_do_now_is_refused(service: Service) -> None:
    line = "/bin/sh -c 'until [ -e go ]; do sleep 0.01; done'"
    pool = service.pool(start_task=models.BatchStartTask(command_line=line))
    node = state_of(service, only_node(service, pool), pool, "waitingforstarttask")
    with refused("NodeBeingStarted", 409):
        act(service, "reboot", pool, node)
    (service.root / "nodes" / node.id / "startup" / "wd" / "go").touch()
    state_of(service, node, pool, "idle")
    job = service.job(pool)
    service.task(job, UNTIL_GO)
    service.running(job)
    service.client.begin_reboot_node(pool, node.id, options={"nodeRebootOption": "taskcompletion"})
    with refused("NodeBeingRebooted", 409):
        act(service, "reimage", pool, node)
    (shared(service, node) / "go").touch()
    state_of(service, node, pool, "idle")
    with refused("InvalidPropertyValue", 400):
        act(service, "reboot", pool, node, "never")
    with refused("NodeNotFound", 404):
        service.client.get_node(pool, "tvmps_no")
    with refused("PoolNotFound", 404):
        service.client.get_node("nowhere", node.id)


def test_nodes_are_removed_by_name_and_not_replaced(service: Service) -> None:
    pool = service.pool(nodes=3, target_low_priority_nodes=1)
    nodes = service.until(lambda: list(service.client.list_nodes(pool)), lambda found: len(found) == 4)
    spot = next(node for node in nodes if not node.is_dedicated)
    dedicated = next(node for node in nodes if node.is_dedicated)
    assert (spot.id[-2:], dedicated.id[-2:]) == ("_p", "_d")
    options = models.BatchNodeRemoveOptions(node_ids=[spot.id, dedicated.id.upper()])
    service.client.begin_remove_nodes(pool, options, polling_interval=0.01).result()
    found = service.client.get_pool(pool)
    assert (found.current_dedicated_nodes, found.target_dedicated_nodes) == (2, 2)
    assert (found.current_low_priority_nodes, found.target_low_priority_nodes) == (0, 0)
    with refused("NodeNotFound", 404):
        service.client.begin_remove_nodes(pool, options)
    for ids in ([], ["x"] * 101):
        with refused("InvalidPropertyValue", 400):
            service.client.begin_remove_nodes(pool, models.BatchNodeRemoveOptions(node_ids=ids))


def test_removal_can_wait_for_tasks_and_be_stopped(service: Service) -> None:
    pool = service.pool(slots=1)
    job = service.job(pool)
    service.task(job, UNTIL_GO)
    service.running(job)
    node = only_node(service, pool)
    options = models.BatchPoolResizeOptions(target_dedicated_nodes=0, node_deallocation_option="taskcompletion")
    service.client.begin_resize_pool(pool, options)
    found = service.client.get_pool(pool)
    assert (found.allocation_state, found.current_dedicated_nodes) == ("resizing", 1)
    with refused("PoolBeingResized", 409):
        service.client.begin_resize_pool(pool, options)
    with refused("PoolBeingResized", 409):
        service.client.begin_remove_nodes(pool, models.BatchNodeRemoveOptions(node_ids=[node.id]))
    with refused("PoolBeingResized", 409):
        service.client.enable_pool_auto_scale(
            pool, models.BatchPoolEnableAutoScaleOptions(auto_scale_formula="$TargetDedicatedNodes = 1;")
        )
    service.client.begin_stop_pool_resize(pool, polling_interval=0.01).result()
    found = service.client.get_pool(pool)
    assert (found.allocation_state, found.current_dedicated_nodes) == ("steady", 1)
    assert [error.code for error in found.resize_errors] == ["ResizeStopped"]
    assert service.client.get_task(job, "t").state == "running"
    poller = service.client.begin_resize_pool(pool, options, polling_interval=0.01)
    (shared(service, node) / "go").touch()
    poller.result()
    assert service.client.get_pool(pool).current_dedicated_nodes == 0
    assert service.client.get_task(job, "t").execution_info.result == "success"


def test_deleting_a_pool_requeues_its_tasks_and_leaves_the_job(service: Service) -> None:
    pool = service.pool(slots=1)
    job = service.job(pool)
    service.task(job, "sleep 100")
    service.running(job)
    options = models.BatchPoolResizeOptions(target_dedicated_nodes=0, node_deallocation_option="taskcompletion")
    service.client.begin_resize_pool(pool, options)
    service.client.begin_delete_pool(pool, polling_interval=0.01).result()
    task = service.client.get_task(job, "t")
    assert (task.state, task.execution_info.requeue_count, task.node_info) == ("active", 1, None)
    assert service.client.get_job(job).state == "active"
    service.pool(id=pool, slots=1)
    service.running(job)
    service.client.terminate_task(job, "t")


# What a node tells


def test_a_node_tells_what_it_ran(service: Service) -> None:
    pool = service.pool()
    job = service.job(pool)
    for number in range(12):
        service.run(job, "true" if number % 3 else "false", f"t{number}")
    service.client.delete_task(job, "t10")
    service.task(job, "sleep 100", "long")
    service.running(job, "long")
    node = only_node(service, pool)
    assert (node.total_tasks_run, node.total_tasks_succeeded) == (12, 8)
    assert (node.running_tasks_count, node.running_task_slots_count) == (1, 1)
    recent = [(task.task_id, task.task_state) for task in node.recent_tasks]
    assert recent[:3] == [("long", "running"), ("t11", "completed"), ("t9", "completed")]
    assert len(recent) == 9
    assert node.recent_tasks[1].execution_info.result == "success"
    assert node.virtual_machine_info.image_reference.offer == "ubuntu-24_04-lts"
    service.client.terminate_task(job, "long")
    service.completed(job, "long")
    (one,) = service.client.list_nodes(pool, select=["id", "recentTasks"])
    assert (one.id, one.state) == (node.id, None)
    assert one.recent_tasks
    service.client.begin_delete_job(job, polling_interval=0.01).result()
    assert only_node(service, pool).recent_tasks is None


def test_a_nodes_own_logs_are_uploaded(service: Service) -> None:
    pool = service.pool(start_task=models.BatchStartTask(command_line="true"))
    node = state_of(service, only_node(service, pool), pool, "idle")
    with BlobServiceClient.from_connection_string(service.info["connection_string"]) as storage:
        container = storage.create_container("logs-of-nodes")
        expiry = datetime.now(timezone.utc) + timedelta(hours=1)
        permission = ContainerSasPermissions(create=True, write=True)
        sas = generate_container_sas(
            service.info["storage_account"],
            "logs-of-nodes",
            account_key=service.info["storage_key"],
            permission=permission,
            expiry=expiry,
        )
        options = models.UploadBatchServiceLogsOptions(
            container_url=f"{container.url}?{sas}", start_time=datetime.now(timezone.utc) - timedelta(hours=1)
        )
        result = service.client.upload_node_logs(pool, node.id, options)
        prefix = result.virtual_directory_name + "/"
        assert prefix.startswith(f"{pool}/{node.id}/")
        names = service.until(
            lambda: [blob.name for blob in container.list_blobs(name_starts_with=prefix)],
            lambda found: len(found) == result.number_of_files_uploaded,
        )
        assert prefix + "agent.log" in names
        assert b"start task is over: success" in container.download_blob(prefix + "agent.log").readall()
        options.start_time = datetime.now(timezone.utc) + timedelta(hours=1)
        assert service.client.upload_node_logs(pool, node.id, options).number_of_files_uploaded == 0
        with refused("InvalidPropertyValue", 400):
            service.client.upload_node_logs(
                pool,
                node.id,
                models.UploadBatchServiceLogsOptions(container_url="nonsense", start_time=options.start_time),
            )


def test_remote_login_and_extensions(service: Service) -> None:
    pool = service.pool(nodes=2)
    nodes = service.until(lambda: list(service.client.list_nodes(pool)), lambda found: len(found) == 2)
    places = [service.client.get_node_remote_login_settings(pool, node.id) for node in nodes]
    assert {place.remote_login_ip_address for place in places} == {"127.0.0.1"}
    assert len({place.remote_login_port for place in places}) == 2
    assert list(service.client.list_node_extensions(pool, nodes[0].id)) == []


def test_a_thousand_idle_nodes_cost_nothing(service: Service) -> None:
    before = set((service.root / "nodes").iterdir())
    pool = service.pool(nodes=1000)
    pages = service.client.list_nodes(pool, max_results=400, select=["id", "state"]).by_page()
    found = service.until(lambda: service.client.get_pool(pool), lambda pool: pool.current_dedicated_nodes == 1000)
    assert found.allocation_state == "steady"
    assert [len(list(page)) for page in pages] == [400, 400, 200]
    assert len(set((service.root / "nodes").iterdir()) - before) <= 2, "a directory is made when it is used"
    counts = next(iter(service.client.list_pool_node_counts(filter=f"poolId eq '{pool}'")))
    assert counts.dedicated.idle == 1000
    job = service.job(pool)
    service.run(job, "true")
    service.client.begin_delete_pool(pool, polling_interval=0.01).result()


def test_no_pool_gets_a_million_nodes(service: Service) -> None:
    pool = service.pool(nodes=2_000_000_000)
    found = service.until(lambda: service.client.get_pool(pool), lambda found: found.allocation_state == "steady")
    assert found.current_dedicated_nodes == 5000
    assert [error.code for error in found.resize_errors] == ["AllocationFailed"]
    service.client.begin_delete_pool(pool, polling_interval=0.01).result()

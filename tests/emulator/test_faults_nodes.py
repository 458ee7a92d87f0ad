"""Faults of nodes and of what they run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from azure.batch import models
from batch_service import refused
from faulty import Faulty, running, service

__all__ = ["running", "service"]  # fixtures

SPOT = {"target_dedicated_nodes": 0, "target_low_priority_nodes": 1}
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a process a network or a disk of its own")


@pytest.fixture(scope="module")
def pool(running: Faulty) -> str:
    return running.pool(id="one")


def node(service: Faulty, pool: str) -> Any:
    (found,) = service.client.list_nodes(pool)
    return found


def node_in(service: Faulty, pool: str, *states: str) -> Any:
    """The pool's only node, as soon as it is in one of these states."""
    found = lambda: [node for node in service.client.list_nodes(pool) if node.state in states]  # noqa: E731
    return service.until(found, bool)[0]


def marks(path: Path) -> int:
    """How many lines were written there."""
    return len(path.read_text().splitlines()) if path.exists() else 0


# -- commands


def test_a_task_that_cannot_be_launched(service: Faulty, pool: str) -> None:
    job = service.job(pool)
    service.arm({"kind": "fail", "match": {"task": "bad*"}, "code": "CommandLaunchFailed", "category": "servererror"})
    assert service.run(job, "true", "good").execution_info.failure_info is None
    failure = service.run(job, "true", "bad1").execution_info.failure_info
    assert (failure.code, failure.category) == ("CommandLaunchFailed", "servererror")


def test_a_node_on_which_everything_ends_with_126(service: Faulty, pool: str) -> None:
    job = service.job(pool)
    match = {"node": node(service, pool).id}
    service.arm({"kind": "exit", "exit_code": 126, "stderr": "docker: no space", "match": match})
    for id in ("a", "b"):
        assert service.run(job, "true", id).execution_info.exit_code == 126
        assert service.output(job, id, "stderr.txt") == "docker: no space\n"


def test_a_task_that_the_service_ends(service: Faulty, pool: str) -> None:
    job = service.job(pool)
    service.arm({"kind": "end", "seconds": 0.1, "match": {"job": job}})
    assert service.run(job, "sleep 1000").execution_info.failure_info.code == "TaskEnded"


@pytest.mark.parametrize("overlap", [False, True])
def test_a_task_that_runs_twice(service: Faulty, pool: str, tmp_path: Path, overlap: bool) -> None:
    job = service.job(pool)
    service.arm({"kind": "twice", "overlap": overlap, "count": 1})
    begun, done = tmp_path / "begun", tmp_path / "done"
    wait = f"until [ $(wc -l < {begun}) = 2 ]; do sleep 0.01; done;" if overlap else ""
    task = service.run(job, f"/bin/sh -c 'echo $$ >> {begun}; {wait} echo $$ >> {done}'")
    service.until(lambda: marks(done), lambda count: count == 2)
    assert task.execution_info.retry_count == 0
    assert task.execution_info.requeue_count == 0


@as_root
def test_a_task_without_a_network(service: Faulty, pool: str) -> None:
    job = service.job(pool)
    service.arm({"kind": "no-network", "match": {"job": job}})
    command = f"python3 -c 'import urllib.request as u; u.urlopen(\"{service.info['blob_endpoint']}\")'"
    assert service.run(job, command).execution_info.exit_code == 1
    assert "Network is unreachable" in service.output(job, "t", "stderr.txt")
    file = {"http_url": service.absent_blob(), "file_path": "x"}
    task = service.run(job, "true", "file", resource_files=[models.ResourceFile(**file)])
    assert task.execution_info.failure_info.code == "BlobDownloadMiscError"


@as_root
def test_a_task_on_a_full_disk(service: Faulty, pool: str) -> None:
    job = service.job(pool)
    service.arm({"kind": "disk-full", "bytes": 100_000, "match": {"job": job}})
    task = service.run(job, "/bin/sh -c 'head -c 50000 /dev/zero > a && head -c 500000 /dev/zero > b'")
    assert task.execution_info.exit_code == 1
    assert "No space left on device" in service.output(job, "t", "stderr.txt")
    mounts = Path("/proc/mounts").read_text()
    assert str(service.root) not in mounts


def test_a_start_task_that_fails(service: Faulty) -> None:
    service.arm({"kind": "exit", "exit_code": 3, "stderr": "no licence", "match": {"role": "start"}})
    pool = service.pool(start_task={"commandLine": "true", "waitForSuccess": True})
    info = node_in(service, pool, "starttaskfailed").start_task_info
    assert (info.exit_code, info.failure_info.code) == (3, "FailureExitCode")
    service.client.begin_delete_pool(pool)


def test_a_preparation_task_that_fails(service: Faulty) -> None:
    pool = service.pool()
    service.arm({"kind": "fail", "code": "BlobNotFound", "match": {"role": "preparation"}})
    job = service.job(pool, job_preparation_task={"commandLine": "true"})
    service.task(job, "true")

    def failures() -> list[str]:
        found = service.client.list_job_preparation_and_release_task_status(job)
        infos = [status.job_preparation_task_execution_info for status in found]
        return [info.failure_info.code for info in infos if info.failure_info]

    assert service.until(failures, bool) == ["BlobNotFound"]
    service.until(lambda: service.client.get_task(job, "t").state, "active".__eq__)
    service.client.begin_delete_pool(pool)


def test_images_that_cannot_be_pulled(service: Faulty) -> None:
    machine = {
        "imageReference": {"publisher": "microsoft-dsvm", "offer": "ubuntu-hpc", "sku": "2404", "version": "latest"},
        "nodeAgentSKUId": "batch.node.ubuntu 24.04",
        "containerConfiguration": {"type": "dockerCompatible", "containerImageNames": ["a:1"]},
    }
    service.arm({"kind": "image-pull", "match": {"role": "task"}, "count": 1})
    pool = service.pool(virtual_machine_configuration=machine)
    job = service.job(pool)
    task = service.run(job, "true", container_settings={"imageName": "a:1"})
    assert task.execution_info.failure_info.code == "ContainerInvalidImage"
    service.arm({"kind": "image-pull", "match": {"role": "node"}, "message": "manifest unknown"})
    other = service.pool(virtual_machine_configuration=machine)
    (error,) = node_in(service, other, "unusable").errors
    assert (error.code, error.message) == ("ContainerInvalidImage", "manifest unknown")
    for id in (pool, other):
        service.client.begin_delete_pool(id)


# -- nodes


def waiting(begun: Path) -> str:
    """A command that marks its begin and ends when the test says so."""
    return f"/bin/sh -c 'echo $AZ_BATCH_NODE_ID >> {begun}; until [ -e {begun}.go ]; do sleep 0.01; done'"


def test_a_spot_node_is_preempted_and_comes_back(service: Faulty, tmp_path: Path) -> None:
    pool = service.pool(**SPOT)
    job = service.job(pool)
    service.arm({"kind": "preempt", "seconds": 0.1, "count": 1, "match": {"pool": pool}})
    begun = tmp_path / "begun"
    service.task(job, waiting(begun))
    first = node_in(service, pool, "preempted").id
    service.until(lambda: service.client.get_task(job, "t").state, "active".__eq__)
    service.control("POST", f"recreate/pools/{pool}/nodes/{first}")
    Path(f"{begun}.go").touch()
    task = service.completed(job)
    assert task.execution_info.exit_code == 0
    assert task.execution_info.requeue_count == 0
    assert set(begun.read_text().split()) == {first}
    assert node(service, pool).state == "idle"
    service.client.begin_delete_pool(pool)


def test_a_spot_node_that_is_back_before_its_processes_are_dead(service: Faulty, tmp_path: Path) -> None:
    pool = service.pool(**SPOT)
    job = service.job(pool)
    begun = tmp_path / "begun"
    service.task(job, waiting(begun))
    for count in (1, 2, 3):
        service.until(lambda: marks(begun), count.__eq__)
        if count < 3:
            service.arm({"kind": "preempt", "at": 0, "back": 0, "match": {"pool": pool}})
    (tmp_path / "begun.go").touch()
    assert service.completed(job).execution_info.exit_code == 0
    service.client.begin_delete_pool(pool)


def test_a_dedicated_node_is_never_preempted(service: Faulty, pool: str) -> None:
    job = service.job(pool)
    service.arm({"kind": "preempt"})
    assert service.run(job, "sleep 0.1").execution_info.exit_code == 0
    assert service.fired() == [0]
    with refused("OperationInvalidForCurrentState", 409):
        service.control("POST", f"preempt/pools/{pool}/nodes/{node(service, pool).id}")


def test_a_reboot_amid_a_task(service: Faulty, pool: str, tmp_path: Path) -> None:
    job = service.job(pool)
    boot = node(service, pool).last_boot_time
    service.arm({"kind": "reboot", "seconds": 0.1, "count": 1})
    service.task(job, waiting(tmp_path / "begun"))
    service.until(lambda: node(service, pool).last_boot_time, lambda time: time > boot)
    (tmp_path / "begun.go").touch()
    assert service.completed(job).execution_info.exit_code == 0


def test_a_node_becomes_unusable_at_its_time(service: Faulty) -> None:
    pool = service.pool()
    node_in(service, pool, "idle")
    service.arm({"kind": "unusable", "at": 0.1, "code": "DiskFull", "message": "no room", "match": {"pool": pool}})
    (error,) = node_in(service, pool, "unusable").errors
    assert (error.code, error.message) == ("DiskFull", "no room")
    assert service.fired() == [1]
    service.client.begin_delete_pool(pool)


def test_a_node_out_of_contact_whose_tasks_run_elsewhere(service: Faulty, tmp_path: Path) -> None:
    pool = service.pool(nodes=2, slots=1)
    job = service.job(pool)
    begun = tmp_path / "begun"
    service.task(job, waiting(begun))
    service.until(lambda: marks(begun), lambda count: count == 1)
    busy = node_in(service, pool, "running").id
    service.arm({"kind": "offline", "at": 0, "given_up": 0.1, "match": {"node": busy}})
    service.until(lambda: marks(begun), lambda count: count == 2)
    assert node_in(service, pool, "unknown").id == busy
    assert len(set(begun.read_text().split())) == 2
    (tmp_path / "begun.go").touch()
    service.completed(job)
    service.control("POST", f"reconnect/pools/{pool}/nodes/{busy}")
    assert {node.state for node in service.client.list_nodes(pool)} == {"idle"}
    service.client.begin_delete_pool(pool)


def test_what_cannot_be_done_to_a_node_is_refused(service: Faulty, pool: str) -> None:
    with refused("InvalidPropertyValue", 400):
        service.control("POST", f"explode/pools/{pool}/nodes/{node(service, pool).id}")
    with refused("NodeNotFound", 404):
        service.control("POST", f"reboot/pools/{pool}/nodes/nobody")

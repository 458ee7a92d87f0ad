"""What of a job can be changed in which state, under which conditions, and by clients of which version."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from azure.batch import models
from azure.core import MatchConditions
from batch_service import Service, refused, service
from raw_wire import Wire, batch_signature

__all__ = ["service"]


@pytest.fixture(scope="module")
def pool(service: Service) -> str:
    return service.pool(slots=2)


def state(service: Service, job: str) -> str:
    found = service.client.get_job(job).state
    return str(getattr(found, "value", found))


def becomes(service: Service, job: str, wanted: str) -> None:
    service.until(lambda: state(service, job), lambda found: found == wanted)


def send(service: Service, method: str, path: str, body: Any = None, version: str = "2025-06-01") -> tuple[int, Any]:
    """A request as any client could make it; the status and what was answered."""
    data = b"" if body is None else json.dumps(body).encode()
    headers = {"ocp-date": "Sat, 21 Nov 2026 12:00:00 GMT", "Content-Length": str(len(data))}
    if method == "GET":
        del headers["Content-Length"]
    if data:
        headers["Content-Type"] = "application/json; odata=minimalmetadata"
    path, _, query = path.partition("?")
    query = "&".join(part for part in (version and f"api-version={version}", query) if part)
    account, key = service.info["account"], service.info["batch_key"]
    headers["Authorization"] = batch_signature(account, key, method, path, query, headers)
    wire = Wire(service.info["batch_endpoint"])
    lines = [f"{method} {path}?{query} HTTP/1.1", f"Host: {wire.host}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    reply = wire.exchange("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
    wire.close()
    assert reply is not None
    return reply.status, json.loads(reply.body) if reply.body else None


# PATCH and PUT

CHANGES: dict[str, Any] = {
    "priority": 7,
    "maxParallelTasks": 3,
    "allowTaskPreemption": True,
    "constraints": {"maxTaskRetryCount": 2},
    "metadata": [{"name": "a", "value": "b"}],
}


def test_patch_changes_what_is_given_and_put_resets_what_is_not(service: Service, pool: str) -> None:
    job = service.job(pool)
    assert send(service, "PATCH", f"/jobs/{job}", CHANGES)[0] == 200
    assert send(service, "PATCH", f"/jobs/{job}", {"priority": 8})[0] == 200
    _, found = send(service, "GET", f"/jobs/{job}")
    assert {name: found[name] for name in CHANGES if name != "constraints"} == {
        **{name: value for name, value in CHANGES.items() if name != "constraints"},
        "priority": 8,
    }
    assert found["constraints"]["maxTaskRetryCount"] == 2
    assert send(service, "PUT", f"/jobs/{job}", {"poolInfo": {"poolId": pool}, "maxParallelTasks": 5})[0] == 200
    _, found = send(service, "GET", f"/jobs/{job}")
    assert (found["priority"], found["maxParallelTasks"]) == (0, 5)
    assert found["constraints"]["maxTaskRetryCount"] == 0
    assert not {"metadata", "allowTaskPreemption"} & set(found)
    status, error = send(service, "PUT", f"/jobs/{job}", {"priority": 1})
    assert (status, error["code"]) == (400, "MissingRequiredProperty")


def test_a_job_as_it_was_read_can_be_put_back(service: Service, pool: str) -> None:
    job = service.job(pool, priority=3, display_name="shown", uses_task_dependencies=True)
    found = service.client.get_job(job)
    found.priority = 4
    service.client.replace_job(job, found)
    again = service.client.get_job(job)
    assert (again.priority, again.display_name, again.uses_task_dependencies) == (4, "shown", True)


def test_the_pool_of_a_job_changes_only_while_it_is_disabled(service: Service, pool: str) -> None:
    other, job = service.pool(), service.job(pool)
    change = models.BatchJobUpdateOptions(pool_info=models.BatchPoolInfo(pool_id=other))
    with refused("OperationInvalidForCurrentState", 409):
        service.client.update_job(job, change)
    options = models.BatchJobDisableOptions(disable_tasks="wait")
    service.client.begin_disable_job(job, options, polling_interval=0.01).result()
    service.client.update_job(job, change)
    service.client.begin_enable_job(job, polling_interval=0.01).result()
    assert service.run(job, "true").node_info.pool_id == other


def test_ending_with_the_last_task_cannot_be_taken_back(service: Service) -> None:
    pool = "comes-never"
    job = service.job(pool)
    service.task(job, "true")
    for change in ({"onAllTasksComplete": "terminateJob"}, {"priority": 1}):  # as older clients spell it
        assert send(service, "PATCH", f"/jobs/{job}", change)[0] == 200
    for method, body in (
        ("PATCH", {"onAllTasksComplete": "noaction"}),
        ("PUT", {"poolInfo": {"poolId": pool}}),
    ):
        status, error = send(service, method, f"/jobs/{job}", body)
        assert (status, error["code"]) == (400, "InvalidPropertyValue")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"priority": 1001}, "InvalidPropertyValue"),
        ({"maxParallelTasks": 0}, "InvalidPropertyValue"),
        ({"maxParallelTasks": -2}, "InvalidPropertyValue"),
        ({"constraints": {"maxWallClockTime": "an hour"}}, "InvalidPropertyValue"),
        ({"onAllTasksComplete": "explode"}, "InvalidPropertyValue"),
        ({"id": "other"}, "InvalidRequestBody"),
        ({"usesTaskDependencies": True}, "InvalidRequestBody"),
        ({"metadata": [{"name": "a"}]}, "MissingRequiredProperty"),
    ],
)
def test_changes_that_cannot_be_are_refused(service: Service, pool: str, change: Any, code: str) -> None:
    status, error = send(service, "PATCH", f"/jobs/{service.job(pool)}", change)
    assert (status, error["code"]) == (400, code)


# States


def test_each_operation_has_its_states(service: Service, pool: str) -> None:
    job = service.job(pool)
    with refused("OperationInvalidForCurrentState", 409):
        service.client.begin_enable_job(job)
    options = models.BatchJobDisableOptions(disable_tasks="terminate")
    for _ in range(2):
        service.client.begin_disable_job(job, options, polling_interval=0.01).result()
    service.task(job, "true", "waits")
    assert service.client.get_task(job, "waits").state == "active"
    service.client.begin_terminate_job(job, {"terminateReason": "over"}, polling_interval=0.01).result()
    becomes(service, job, "completed")
    for path in (f"/jobs/{job}/enable", f"/jobs/{job}/terminate"):
        status, error = send(service, "POST", path)
        assert (status, error["code"]) == (409, "JobCompleted")
    with refused("JobCompleted", 409):
        service.client.update_job(job, models.BatchJobUpdateOptions(priority=1))
    with refused("JobCompleted", 409):
        service.client.begin_disable_job(job, options)
    assert send(service, "DELETE", f"/jobs/{job}")[0] == 202


def test_disabling_waits_for_tasks_ends_them_or_puts_them_back(service: Service, pool: str) -> None:
    job = service.job(pool)
    service.task(job, "sleep 100")
    service.until(lambda: service.client.get_task(job, "t"), lambda task: task.state == "running")
    service.client.begin_disable_job(job, models.BatchJobDisableOptions(disable_tasks="wait"))
    assert (state(service, job), service.client.get_task(job, "t").state) == ("disabling", "running")
    service.client.begin_disable_job(job, models.BatchJobDisableOptions(disable_tasks="terminate"))
    assert service.completed(job).execution_info.failure_info.code == "TaskEnded"
    becomes(service, job, "disabled")


# Conditions


def test_operations_on_jobs_and_tasks_have_conditions(service: Service, pool: str) -> None:
    job = service.job(pool)
    service.run(job, "/bin/sh -c 'exit 1'")
    stale = {"etag": "0x0", "match_condition": MatchConditions.IfNotModified}
    client = service.client
    disable = models.BatchJobDisableOptions(disable_tasks="wait")
    for refused_call in (
        lambda: client.get_job(job, **stale),
        lambda: client.begin_disable_job(job, disable, **stale),
        lambda: client.begin_enable_job(job, **stale),
        lambda: client.begin_terminate_job(job, {"terminateReason": "x"}, **stale),
        lambda: client.begin_delete_job(job, **stale),
        lambda: client.get_task(job, "t", **stale),
        lambda: client.reactivate_task(job, "t", **stale),
        lambda: client.terminate_task(job, "t", **stale),
        lambda: client.delete_task(job, "t", **stale),
    ):
        with refused("ConditionNotMet", 412):
            refused_call()
    past = datetime.now(timezone.utc) - timedelta(days=1)
    with refused("ConditionNotMet", 412):
        client.update_job(job, models.BatchJobUpdateOptions(priority=1), if_unmodified_since=past)
    client.update_job(job, models.BatchJobUpdateOptions(priority=1), if_modified_since=past)
    assert client.get_job(job).priority == 1


# Versions


def test_versions_from_2019_on_are_served_and_what_was_dropped_since_is_passed_over(service: Service) -> None:
    for version in ("2019-08-01.10.0", "2024-02-01.19.0"):
        pool = {"id": "old", "vmSize": "Standard_D4s_v5", "targetNodeCommunicationMode": "simplified"}
        pool |= {"resourceTags": {"a": "b"}, "targetDedicatedNodes": "1"}
        assert send(service, "POST", "/pools", pool, version)[0] == 201
        assert send(service, "POST", "/jobs", {"id": "old", "poolInfo": {"poolId": "old"}}, version)[0] == 201
        task = {"id": "t", "commandLine": "true", "authenticationTokenSettings": {"access": ["job"]}}
        assert send(service, "POST", "/jobs/old/tasks", task, version)[0] == 201
        service.completed("old")
        _, found = send(service, "GET", "/jobs/old/tasks/t", version=version)
        assert "authenticationTokenSettings" not in found
        service.client.begin_delete_job("old", polling_interval=0.01).result()
        service.client.begin_delete_pool("old", polling_interval=0.01).result()


def test_the_newest_version_knows_nothing_of_what_was_dropped(service: Service, pool: str) -> None:
    task = {"id": "t", "commandLine": "true", "authenticationTokenSettings": {"access": ["job"]}}
    status, error = send(service, "POST", f"/jobs/{service.job(pool)}/tasks", task)
    assert (status, error["code"]) == (400, "InvalidRequestBody")


@pytest.mark.parametrize(
    ("version", "query", "code"),
    [
        ("", "", "MissingRequiredQueryParameter"),
        ("2018-12-01.8.0", "", "UnsupportedRequestVersion"),
        ("2030-01-01", "", "UnsupportedRequestVersion"),
        ("2025-06-01", "timeOut=soon", "InvalidQueryParameterValue"),
        ("2025-06-01", "maxresults=0", "OutOfRangeQueryParameterValue"),
    ],
)
def test_bad_parameters_are_refused(service: Service, version: str, query: str, code: str) -> None:
    status, error = send(service, "GET", f"/jobs?{query}", version=version)
    assert (status, error["code"]) == (400, code)

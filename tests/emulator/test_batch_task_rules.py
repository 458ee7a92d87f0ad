"""What a task may look like, and what of it may change."""

from __future__ import annotations

from typing import Any

import pytest
from azure.batch import models
from batch_service import Service, refused, service

__all__ = ["service"]


@pytest.fixture(scope="module")
def pool(service: Service) -> str:
    return service.pool()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"id": "a" * 65}, "InvalidPropertyValue"),
        ({"id": "a.b"}, "InvalidPropertyValue"),
        ({"id": None}, "MissingRequiredProperty"),
        ({"commandLine": ""}, "InvalidPropertyValue"),
        ({"displayName": "x" * 1025}, "InvalidPropertyValue"),
        ({"requiredSlots": 0}, "InvalidPropertyValue"),
        ({"requiredSlots": 257}, "InvalidPropertyValue"),
        ({"requiredSlots": 1.5}, "InvalidPropertyValue"),
        ({"constraints": {"maxTaskRetryCount": -2}}, "InvalidPropertyValue"),
        ({"constraints": {"retentionTime": "7 days"}}, "InvalidPropertyValue"),
        ({"constraints": []}, "InvalidPropertyValue"),
        ({"environmentSettings": [{"value": "x"}]}, "MissingRequiredProperty"),
        ({"environmentSettings": {"A": "x"}}, "InvalidPropertyValue"),
        ({"userIdentity": {"autoUser": {"scope": "everyone"}}}, "InvalidPropertyValue"),
        ({"affinityInfo": {}}, "MissingRequiredProperty"),
        ({"exitConditions": {"exitCodes": [{"code": "x", "exitOptions": {}}]}}, "InvalidPropertyValue"),
        ({"exitConditions": {"exitCodes": [{"code": 1}]}}, "MissingRequiredProperty"),
        ({"exitConditions": {"exitCodeRanges": [{"start": 2, "end": 1, "exitOptions": {}}]}}, "InvalidPropertyValue"),
        ({"exitConditions": {"default": {"dependencyAction": "maybe"}}}, "InvalidPropertyValue"),
        ({"outputFiles": [{"filePattern": "x"}]}, "MissingRequiredProperty"),
        ({"multiInstanceSettings": {"coordinationCommandLine": "true"}}, "InvalidPropertyValue"),
        ({"unknown": 1}, "InvalidRequestBody"),
    ],
)
def test_a_task_that_cannot_be_is_refused(service: Service, pool: str, change: Any, code: str) -> None:
    body = {"id": "t", "commandLine": "true", **change}
    with refused(code, 400):
        service.client.create_task(service.job(pool), body)


def test_application_packages_that_are_not_there_are_refused(service: Service, pool: str) -> None:
    package = models.BatchApplicationPackageReference(application_id="app")
    with refused("InvalidApplicationPackageReferences", 409):
        service.task(service.job(pool), "true", application_package_references=[package])


def test_what_older_clients_spell_and_type_otherwise_is_understood(service: Service, pool: str) -> None:
    task: Any = {"id": "t", "commandLine": "true", "requiredSlots": "2", "displayName": None}
    task["userIdentity"] = {"autoUser": {"scope": "Task", "elevationLevel": "nonAdmin", "username": None}}
    with refused("InvalidRequestBody", 400):
        service.client.create_task(service.job(pool), task)
    del task["userIdentity"]["autoUser"]["username"]
    job = service.job(pool)
    service.client.create_task(job, task)
    found = service.completed(job)
    assert (found.required_slots, found.display_name) == (2, None)
    assert found.user_identity.auto_user.elevation_level == "nonadmin"


def test_a_task_that_is_no_multi_instance_task_has_no_subtasks(service: Service, pool: str) -> None:
    job = service.job(pool)
    service.run(job, "true")
    assert list(service.client.list_subtasks(job, "t")) == []
    with refused("TaskNotFound", 404):
        list(service.client.list_subtasks(job, "u"))


def test_constraints_are_replaced_until_a_task_is_completed(service: Service) -> None:
    job = service.job("comes-later")
    service.task(job, "/bin/sh -c 'exit 1'", constraints=models.BatchTaskConstraints(max_task_retry_count=5))
    task = service.client.get_task(job, "t")
    task.constraints = models.BatchTaskConstraints(max_task_retry_count=2)
    service.client.replace_task(job, "t", task)
    service.pool(id="comes-later")
    assert service.completed(job).execution_info.retry_count == 2
    with refused("TaskCompleted", 409):
        service.client.replace_task(job, "t", task)

"""Tasks that depend on others, and what the end of a task means for them and for its job."""

from __future__ import annotations

import random
from datetime import datetime, timezone
from typing import Any

import pytest
from azure.batch import models
from batch_service import Service, refused, service
from hypothesis import given
from hypothesis import strategies as st

from batchexec.emulator.scheduling.dependencies import Dependencies, Numbers, number_of
from batchexec.emulator.state import Job, Task

__all__ = ["service"]


@pytest.fixture(scope="module")
def pool(service: Service) -> str:
    return service.pool(slots=4)


def after(*ids: str, ranges: tuple[tuple[int, int], ...] = ()) -> models.BatchTaskDependencies:
    return models.BatchTaskDependencies(
        task_ids=list(ids), task_id_ranges=[models.BatchTaskIdRange(start=start, end=end) for start, end in ranges]
    )


def ending(job: str = "none", dependency: str = "block") -> models.ExitOptions:
    return models.ExitOptions(job_action=job, dependency_action=dependency)


def states(service: Service, job: str) -> dict[str, str]:
    return {task.id: getattr(task.state, "value", task.state) for task in service.client.list_tasks(job)}


# By the service


def test_a_task_starts_when_all_it_depends_on_have_succeeded(service: Service, pool: str) -> None:
    job = service.job(pool, uses_task_dependencies=True)
    service.task(job, "true", "late", depends_on=after("A", "b", ranges=((7, 9),)))
    for id in ("a", "B", "7", "008"):
        service.run(job, "true", id)
    assert service.client.get_task(job, "late").state == "active"
    last = service.run(job, "true", "09")
    late = service.completed(job, "late")
    assert late.execution_info.start_time >= last.execution_info.end_time
    assert service.run(job, "true", "later", depends_on=after("late", ranges=((7, 7),))).execution_info.exit_code == 0


def test_a_failed_task_blocks_those_that_depend_on_it_until_it_succeeds(service: Service, pool: str) -> None:
    job = service.job(pool, uses_task_dependencies=True)
    service.task(job, "true", "child", depends_on=after("parent"))
    service.task(job, "true", "grandchild", depends_on=after("child"))
    service.run(job, "/bin/sh -c '[ -e again ] || { touch again; exit 3; }'", "parent")
    service.run(job, "true", "witness")
    assert states(service, job) == {
        "child": "active",
        "grandchild": "active",
        "parent": "completed",
        "witness": "completed",
    }
    service.client.reactivate_task(job, "parent")
    assert service.completed(job, "grandchild").execution_info.result == "success"


def test_exit_conditions_say_which_ends_satisfy(service: Service, pool: str) -> None:
    job = service.job(pool, uses_task_dependencies=True)
    conditions = models.ExitConditions(
        exit_codes=[models.ExitCodeMapping(code=0, exit_options=models.ExitOptions(dependency_action="block"))],
        exit_code_ranges=[
            models.ExitCodeRangeMapping(start=3, end=5, exit_options=models.ExitOptions(dependency_action="satisfy"))
        ],
        pre_processing_error=models.ExitOptions(dependency_action="satisfy"),
        default=models.ExitOptions(dependency_action="block"),
    )
    ends = {"ok": "true", "four": "/bin/sh -c 'exit 4'", "six": "/bin/sh -c 'exit 6'", "absent": "no-such-program"}
    for id, command in ends.items():
        service.run(job, command, id, exit_conditions=conditions)
        service.task(job, "true", f"after-{id}", depends_on=after(id))
    for id in ("four", "absent"):
        service.completed(job, f"after-{id}")
    found = states(service, job)
    assert (found["after-ok"], found["after-six"]) == ("active", "active")


def test_a_job_acts_on_the_exit_of_a_task_only_if_it_says_so(service: Service, pool: str) -> None:
    failing = "/bin/sh -c 'exit 7'"
    job = service.job(pool, task_failure_mode="performexitoptionsjobaction")
    mapping = models.ExitCodeMapping(code=7, exit_options=ending("none"))
    service.run(job, failing, "mild", exit_conditions=models.ExitConditions(exit_codes=[mapping]))
    service.run(job, failing, "pausing", exit_conditions=models.ExitConditions(default=ending("disable")))
    service.until(lambda: service.client.get_job(job), lambda found: found.state == "disabled")
    service.client.begin_enable_job(job, polling_interval=0.01).result()
    service.run(job, failing, "ending")
    found = service.until(lambda: service.client.get_job(job), lambda found: found.state == "completed")
    assert found.execution_info.termination_reason == "TaskFailed"
    plain = service.job(pool)
    service.run(plain, failing)
    assert service.client.get_job(plain).state == "active"
    with refused("InvalidPropertyValue", 400):
        service.task(plain, "true", "u", exit_conditions=models.ExitConditions(default=ending("terminate")))


def test_dependencies_that_cannot_be_are_refused(service: Service, pool: str) -> None:
    with refused("TaskDependenciesNotSpecifiedOnJob", 400):
        service.task(service.job(pool), "true", depends_on=after("a"))
    job = service.job(pool, uses_task_dependencies=True)
    with refused("TaskDependencyListTooLong", 400):
        service.task(job, "true", depends_on=after(*(f"{i:064}" for i in range(1001))))
    with refused("InvalidPropertyValue", 400):
        service.task(job, "true", depends_on=after(ranges=((2, 1),)))
    body: Any = {"id": "t", "commandLine": "true", "dependsOn": {"taskIds": "a"}}
    with refused("InvalidPropertyValue", 400):
        service.client.create_task(job, body)


def test_a_waiting_task_can_be_ended_and_deleted(service: Service, pool: str) -> None:
    job = service.job(pool, uses_task_dependencies=True)
    for id in ("ended", "deleted", "kept"):
        service.task(job, "true", id, depends_on=after("parent"))
    service.client.terminate_task(job, "ended")
    service.client.delete_task(job, "deleted")
    service.run(job, "true", "parent")
    service.completed(job, "kept")
    assert service.client.get_task(job, "ended").execution_info.failure_info.code == "TaskEnded"
    assert "deleted" not in states(service, job)


# Many of them, without a service

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


class Many:
    """A job whose tasks succeed in a given order."""

    def __init__(self) -> None:
        self.job = Job("j", {"poolInfo": {"poolId": "p"}}, NOW)
        self.freed: list[str] = []
        self.dependencies = Dependencies(self.job, self._free)

    def _free(self, task: Task) -> None:
        task.blocked = False
        self.freed.append(task.id)

    def add(self, number: int, **depends_on: Any) -> None:
        task = Task(str(number), self.job, {"dependsOn": depends_on} if depends_on else {}, NOW)
        if task.blocked:
            self.dependencies.add(task)

    def succeed(self, number: int) -> None:
        task = self.job.tasks[str(number)]
        task.exit_code, task.result = 0, "success"
        task.move("completed", NOW)
        self.dependencies.completed(task)


def test_a_long_chain_takes_time_in_proportion_to_its_length() -> None:
    many = Many()
    for i in range(20_000):
        many.add(i, **({"taskIds": [str(i - 1)]} if i else {}))
    for i in range(19_999):
        many.succeed(i)
    assert many.freed == [str(i) for i in range(1, 20_000)]


@pytest.mark.parametrize("order", [1, -1, 0])
def test_many_tasks_that_depend_on_long_ranges_are_freed_in_whatever_order_those_end(order: int) -> None:
    """8,000 tasks over ranges of up to 8,000: quadratic work would be 32 million steps for each order."""
    count, many, numbers = 8_000, Many(), list(range(8_000))
    for i in numbers:
        many.add(i)
        many.add(count + i, taskIdRanges=[{"start": 0, "end": i}])
    if order == 0:
        random.Random(1).shuffle(numbers)
    for i in numbers[:: order or 1]:
        many.succeed(i)
    assert len(many.freed) == count
    if order == 1:
        assert many.freed == [str(count + i) for i in numbers]


def test_one_range_that_many_tasks_share_is_watched_once() -> None:
    many = Many()
    for i in range(1000):
        many.add(i)
    for i in range(20_000):
        many.add(1000 + i, taskIdRanges=[{"start": 0, "end": 999}])
    for i in range(999):
        many.succeed(i)
    assert many.freed == []
    many.succeed(999)
    assert len(many.freed) == 20_000


@given(st.lists(st.tuples(st.booleans(), st.integers(-5, 30)), max_size=60), st.integers(-8, 32), st.integers(-8, 32))
def test_a_set_of_numbers_knows_what_is_missing(steps: list[tuple[bool, int]], start: int, end: int) -> None:
    numbers, model = Numbers(), set[int]()
    for adds, number in steps:
        if adds:
            numbers.add(number)
            model.add(number)
        else:
            numbers.discard(number)
            model.discard(number)
        assert (number in numbers) is adds
    missing = set(range(start, end + 1)) - model
    found = numbers.missing(start, end)
    assert (found is None) is (not missing)
    assert found is None or found in missing


def test_numbers_of_ids() -> None:
    assert [number_of(id) for id in ("7", "007", "-3", "7a", "a", "-")] == [7, 7, -3, None, None, None]

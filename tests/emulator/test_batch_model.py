"""Random lives of pools, jobs and tasks, compared after each step with a model of a few lines."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
import pytest
from azure.core.exceptions import HttpResponseError
from batch_service import IMAGE, Service, service
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

SEED = os.environ.get("MODEL_SEED")  # chooses other lives in the slow test
SLEEPS = "sleep"
_lives = itertools.count()
_service: list[Service] = []  # the machines are made by hypothesis, which knows no fixtures


@dataclass
class Task:
    """`ends` is its exit code, or SLEEPS. `done`: known to be completed, with that result.

    `orphan`: one of its parents was deleted; it may have started before that.
    """

    ends: int | str
    retries: int
    parents: frozenset[str]
    done: bool = False
    success: bool = False
    orphan: bool = False


@dataclass
class Job:
    pool: str
    priority: int
    state: str = "active"
    tasks: dict[str, Task] = field(default_factory=dict)


def code_of(call: Any, *arguments: Any, **more: Any) -> str:
    """The code of the service's refusal, or "" where it accepts."""
    try:
        found = call(*arguments, **more)
        if hasattr(found, "result"):
            found.result()
    except HttpResponseError as error:
        return str(error.error.code) if error.error else str(error)
    return ""


class Account(RuleBasedStateMachine):
    pools_made = Bundle("pools")
    jobs_made = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        self.service = _service[0]
        self.client = self.service.client
        self.life = next(_lives)
        self.pools: dict[str, int] = {}  # the nodes of each
        self.jobs: dict[str, Job] = {}
        self.number = itertools.count()

    # -- pools

    @rule(target=pools_made, nodes=st.integers(0, 2), slots=st.integers(1, 2))
    def create_pool(self, nodes: int, slots: int) -> str:
        name = self.service.pool(nodes, slots, f"p{self.life}-{next(self.number)}", virtual_machine_configuration=IMAGE)
        self.pools[name] = nodes
        return name

    @rule(pool=pools_made)
    def create_pool_again(self, pool: str) -> None:
        again: Any = {"id": pool.upper() if pool in self.pools else pool, "vmSize": "Standard_D2s_v5"}
        expected = "PoolExists" if pool in self.pools else ""
        assert code_of(self.client.create_pool, again) == expected
        self.pools.setdefault(pool, 0)

    @rule(pool=pools_made, nodes=st.integers(0, 2))
    def resize(self, pool: str, nodes: int) -> None:
        self._steady(pool)
        options: Any = {"targetDedicatedNodes": nodes}
        code = code_of(self.client.begin_resize_pool, pool, options, polling_interval=0.005)
        assert code == ("" if pool in self.pools else "PoolNotFound")
        if not code:
            self.pools[pool] = nodes
            self._steady(pool)
            assert self.client.get_pool(pool).current_dedicated_nodes == nodes

    @rule(pool=pools_made)
    def delete_pool(self, pool: str) -> None:
        code = code_of(self.client.begin_delete_pool, pool, polling_interval=0.005)
        assert code == ("" if self.pools.pop(pool, None) is not None else "PoolNotFound")

    def _steady(self, pool: str) -> None:
        if pool in self.pools:
            Service.until(lambda: self.client.get_pool(pool), lambda found: found.allocation_state == "steady")

    # -- jobs

    @rule(target=jobs_made, pool=pools_made, priority=st.integers(-1000, 1000))
    def create_job(self, pool: str, priority: int) -> str:
        name = f"j{self.life}-{next(self.number)}"
        body: Any = {"id": name, "poolInfo": {"poolId": pool}, "priority": priority, "usesTaskDependencies": True}
        self.client.create_job(body)
        assert code_of(self.client.create_job, body) == "JobExists"
        self.jobs[name] = Job(pool, priority)
        return name

    @rule(job=jobs_made, priority=st.integers(-1000, 1000))
    def update_job(self, job: str, priority: int) -> None:
        patch: Any = {"priority": priority}
        code = code_of(self.client.update_job, job, patch)
        assert code == self._refusal(job)
        if not code:
            self.jobs[job].priority = priority

    @rule(job=jobs_made, what=st.sampled_from(["requeue", "terminate", "wait"]))
    def disable_and_enable(self, job: str, what: str) -> None:
        if what == "wait" and job in self.jobs:
            self.end_the_sleeping(job)
        at_work = [task for task in self._tasks(job).values() if not task.done]
        options: Any = {"disableTasks": what}
        code = code_of(self.client.begin_disable_job, job, options, polling_interval=0.005)
        assert code == self._refusal(job)
        if code:
            return
        assert self.client.get_job(job).state == "disabled"
        if what == "terminate":  # which of them were at work is the service's to know
            for name, task in self._tasks(job).items():
                if task in at_work and self.client.get_task(job, name).state == "completed":
                    task.done = True
                    task.success = self.client.get_task(job, name).execution_info.result == "success"
        assert code_of(self.client.begin_enable_job, job, polling_interval=0.005) == ""
        assert self.client.get_job(job).state == "active"

    @rule(job=jobs_made)
    def terminate_job(self, job: str) -> None:
        options: Any = {"terminateReason": "model"}
        code = code_of(self.client.begin_terminate_job, job, options=options, polling_interval=0.005)
        assert code == self._refusal(job)
        if not code:
            found = self.client.get_job(job)
            assert (found.state, found["executionInfo"]["terminateReason"]) == ("completed", "model")
            self.jobs[job].state = "completed"

    @rule(job=consumes(jobs_made))
    def delete_job(self, job: str) -> None:
        assert code_of(self.client.begin_delete_job, job, polling_interval=0.005) == ""
        del self.jobs[job]

    def _refusal(self, job: str) -> str:
        return {"completed": "JobCompleted", "active": ""}[self.jobs[job].state]

    def _tasks(self, job: str) -> dict[str, Task]:
        return self.jobs[job].tasks

    # -- tasks

    @rule(
        job=jobs_made,
        adds=st.lists(
            st.tuples(
                st.sampled_from("abcdef"),
                st.sampled_from([0, 0, 0, 3, SLEEPS]),
                st.integers(0, 1),
                st.sets(st.sampled_from("abcdef"), max_size=2),
            ),
            min_size=1,
            max_size=5,
        ),
    )
    def add_tasks(self, job: str, adds: list[tuple[str, int | str, int, set[str]]]) -> None:
        items = []
        for name, ends, retries, parents in adds:
            command = "sleep 100" if ends == SLEEPS else f"/bin/sh -c 'exit {ends}'"
            item: Any = {"id": name, "commandLine": command, "constraints": {"maxTaskRetryCount": retries}}
            item |= {"dependsOn": {"taskIds": sorted(parents)}} if parents else {}
            items.append(item)
        collection: Any = {"value": items}
        if self._refusal(job):
            assert code_of(self.client.create_task_collection, job, collection) == self._refusal(job)
            return
        replies = self.client.create_task_collection(job, collection)["value"]
        seen: dict[str, list[str]] = {reply["taskId"]: [] for reply in replies}
        for reply in replies:
            seen[reply["taskId"]].append(reply["error"]["code"] if reply.get("error") else "")
        expected: dict[str, list[str]] = {}
        for name, ends, retries, parents in adds:
            known = name in self._tasks(job)
            expected.setdefault(name, []).append("TaskExists" if known else "")
            if not known:
                self._tasks(job)[name] = Task(ends, retries, frozenset(parents))
        assert {name: sorted(codes) for name, codes in seen.items()} == {n: sorted(c) for n, c in expected.items()}

    @rule(job=jobs_made, name=st.sampled_from("abcdef"))
    def terminate_task(self, job: str, name: str) -> None:
        code = code_of(self.client.terminate_task, job, name)
        task = self._tasks(job).get(name)
        if task is None:
            assert code == "TaskNotFound"
        elif task.done:
            assert code == "TaskCompleted"
        elif code:  # it came to its end by itself
            assert code == "TaskCompleted"
            assert task.ends != SLEEPS or self.jobs[job].state == "completed"
        if task is not None and not code:
            Service.until(lambda: self.client.get_task(job, name), lambda found: found.state == "completed")
        self._learn(job, name)

    @rule(job=jobs_made, name=st.sampled_from("abcdef"))
    def delete_task(self, job: str, name: str) -> None:
        code = code_of(self.client.delete_task, job, name)
        assert code == ("" if self._tasks(job).pop(name, None) else "TaskNotFound")
        for task in self._tasks(job).values():
            task.orphan = task.orphan or name in task.parents

    @rule(job=jobs_made, name=st.sampled_from("abcdef"))
    def end_and_delete_task(self, job: str, name: str) -> None:
        code_of(self.client.terminate_task, job, name)
        self.delete_task(job, name)  # its process may be there still

    @rule(job=jobs_made, name=st.sampled_from("abcdef"))
    def reactivate(self, job: str, name: str) -> None:
        self._learn(job, name)
        task = self._tasks(job).get(name)
        code = code_of(self.client.reactivate_task, job, name)
        if task is None:
            assert code == "TaskNotFound"
        elif self._refusal(job):
            assert code == self._refusal(job)
        elif task.done:
            assert code == ("TaskSucceeded" if task.success else "")
            task.done = task.success
        else:
            assert code in ("TaskNotCompleted", "TaskSucceeded", "")

    def _learn(self, job: str, name: str) -> None:
        """What a task, if there is one, has come to."""
        task = self._tasks(job).get(name)
        if task is not None and not task.done:
            found = self.client.get_task(job, name)
            task.done = found.state == "completed"
            task.success = task.done and found.execution_info.result == "success"

    def end_the_sleeping(self, job: str) -> None:
        for name, task in self._tasks(job).items():
            if task.ends == SLEEPS and not task.done:
                assert code_of(self.client.terminate_task, job, name) in ("", "TaskCompleted")
                Service.until(lambda n=name: self.client.get_task(job, n), lambda found: found.state == "completed")
                task.done, task.success = True, False

    @precondition(lambda self: self.jobs)
    @rule()
    def all_that_can_run_comes_to_its_end(self) -> None:
        for name, job in self.jobs.items():
            if job.state == "active":
                self.end_the_sleeping(name)
        for name, job in self.jobs.items():
            if job.state != "active" or not self.pools.get(job.pool):
                continue
            running = True
            while running:
                running = False
                for id, task in job.tasks.items():
                    free = all(p in job.tasks and job.tasks[p].done and job.tasks[p].success for p in task.parents)
                    if task.done or not free:
                        continue
                    running = True
                    self.service.completed(name, id)
                    found = self.client.get_task(name, id).execution_info
                    task.done, task.success = True, found.result == "success"
                    if found.failure_info is None or found.failure_info.code == "FailureExitCode":
                        assert found.exit_code == task.ends
                        assert found.retry_count == (task.retries if task.ends else 0)

    # -- what always holds

    @invariant()
    def the_service_has_what_the_model_has(self) -> None:
        mine = f"startswith(id,'p{self.life}-')"
        pools = {str(pool.id): pool for pool in self.client.list_pools(filter=mine)}
        assert set(pools) == set(self.pools)
        jobs = {str(job.id): job for job in self.client.list_jobs(filter=f"startswith(id,'j{self.life}-')")}
        assert {name: (job.priority, job.state) for name, job in jobs.items()} == {
            name: (job.priority, job.state) for name, job in self.jobs.items()
        }
        for name, job in self.jobs.items():
            tasks = {str(task.id): task for task in self.client.list_tasks(name)}
            assert set(tasks) == set(job.tasks)
            for id, task in job.tasks.items():
                found = tasks[id]
                assert found.state in ("active", "preparing", "running", "completed")
                if task.done:
                    assert found.state == "completed"
                    assert (found.execution_info.result == "success") is task.success
                elif found.state != "active":  # it started: so it may, and all before it are done
                    assert task.orphan or all(p in job.tasks for p in task.parents), (id, task)
            counts = self.client.get_job_task_counts(name).task_counts
            assert counts.active + counts.running + counts.completed == len(tasks)
            assert min(counts.active, counts.running, counts.completed) >= 0, counts
            assert counts.succeeded + counts.failed == counts.completed

    def teardown(self) -> None:
        for job in self.jobs:
            code_of(self.client.begin_delete_job, job, polling_interval=0.005)
        for pool in self.pools:
            code_of(self.client.begin_delete_pool, pool, polling_interval=0.005)


__all__ = ["service"]


@pytest.fixture(autouse=True)
def _the_service(service: Service) -> Iterator[None]:
    _service[:] = [service]
    yield
    _service.clear()


def _explore(machine: type[Account], examples: int, steps: int) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=SEED is None,
            database=None,
            phases=[Phase.generate],  # to shrink takes many times as long as to find; the steps are printed
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.timeout(300)
def test_lives_are_as_the_model_says() -> None:
    _explore(Account, 6, 20)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_lives_are_as_the_model_says() -> None:
    _explore(Account if SEED is None else seed(int(SEED))(Account), 40, 30)

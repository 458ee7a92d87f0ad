"""Which task starts first where several could: slots, patience, priorities, hints."""

from __future__ import annotations

from pathlib import Path

import pytest
from azure.batch import models
from batch_service import Service, service

__all__ = ["service"]


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A file that `held` tasks wait for."""
    return tmp_path / "go"


def held(gate: Path) -> str:
    return f"/bin/sh -c 'until [ -e {gate} ]; do sleep 0.01; done'"


def test_a_wide_task_is_passed_over_by_some_that_fit_and_then_a_node_is_kept_for_it(service: Service) -> None:
    job = service.job(service.pool(slots=2))
    service.task(job, "sleep 100", "first")
    service.running(job, "first")
    service.task(job, "true", "wide", required_slots=2)
    for i in range(40):
        service.task(job, "true", f"small{i:02}")
    service.until(
        lambda: service.client.get_job_task_counts(job).task_counts.completed, lambda completed: completed == 10
    )
    service.run(service.job(service.pool()), "true", "witness")
    assert service.client.get_job_task_counts(job).task_counts.completed == 10
    service.client.terminate_task(job, "first")
    wide = service.completed(job, "wide")
    late = service.completed(job, "small39")
    assert wide.execution_info.start_time <= late.execution_info.start_time


def test_a_task_wider_than_any_node_holds_up_nobody(service: Service) -> None:
    job = service.job(service.pool(slots=2))
    service.task(job, "true", "giant", required_slots=3)
    for i in range(15):
        service.task(job, "true", f"small{i:02}")
    for i in range(15):
        service.completed(job, f"small{i:02}")
    assert service.client.get_task(job, "giant").state == "active"


def test_a_job_that_allows_it_gives_way_to_one_of_higher_priority(service: Service, gate: Path) -> None:
    pool = service.pool(slots=2)
    yields = service.job(pool, priority=-1, allow_task_preemption=True)
    stays = service.job(pool, priority=-1)
    service.task(stays, held(gate))
    service.task(yields, held(gate))
    service.running(stays)
    service.running(yields)
    urgent = service.job(pool, priority=5)
    assert service.run(urgent, "true").execution_info.result == "success"
    gate.touch()
    execution = service.completed(yields).execution_info
    assert (execution.result, execution.requeue_count, execution.retry_count) == ("success", 0, 0)
    assert service.completed(stays).execution_info.result == "success"


def test_a_task_goes_to_the_node_that_its_affinity_names_if_it_can(service: Service, gate: Path) -> None:
    pool = service.pool(nodes=3, slots=4)
    job = service.job(pool)
    service.task(job, held(gate), "first")
    first = service.running(job, "first").node_info
    hint = models.BatchAffinityInfo(affinity_id=first.affinity_id)
    for i in range(3):
        service.task(job, held(gate), f"near{i}", affinity_info=hint)
    assert {service.running(job, f"near{i}").node_info.node_id for i in range(3)} == {first.node_id}
    service.task(job, held(gate), "elsewhere", affinity_info=hint)
    assert service.running(job, "elsewhere").node_info.node_id != first.node_id
    gate.touch()
    service.completed(job, "elsewhere")


@pytest.mark.parametrize(("fill", "nodes"), [("spread", 3), ("pack", 1)])
def test_a_pool_spreads_tasks_over_its_nodes_or_packs_them(service: Service, gate: Path, fill: str, nodes: int) -> None:
    policy = models.BatchTaskSchedulingPolicy(node_fill_type=fill)
    job = service.job(service.pool(nodes=3, slots=3, task_scheduling_policy=policy))
    for i in range(3):
        service.task(job, held(gate), f"t{i}")
    assert len({service.running(job, f"t{i}").node_info.node_id for i in range(3)}) == nodes
    gate.touch()
    service.completed(job, "t2")

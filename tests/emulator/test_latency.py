"""Latency: what takes its time at Azure takes a part of it here."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from batch_service import Service, emulator

from batchexec.emulator.faults.latency import Latency

SCALE = 0.002  # nodes come after 0.36 to 0.96 s, tasks start after 4 to 10 ms


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    options = "--latency", f"azure:{SCALE}", "--seed", "1"
    with emulator(tmp_path_factory.mktemp("emulator"), *options) as (service, process):
        yield service
    assert process.returncode == 0


def test_nodes_come_one_after_the_other_in_their_time(service: Service) -> None:
    id = service.pool(nodes=3)
    pool = service.client.get_pool(id)
    assert pool.allocation_state == "resizing"
    assert not list(service.client.list_nodes(id))
    service.until(lambda: service.client.get_pool(id), lambda pool: pool.allocation_state == "steady")
    came = sorted((node.allocation_time - pool.creation_time).total_seconds() for node in service.client.list_nodes(id))
    assert came[0] >= 180 * SCALE
    assert len({round(seconds, 2) for seconds in came}) > 1


def test_a_task_starts_after_its_time_and_is_preparing_meanwhile(service: Service) -> None:
    pool = service.pool()
    service.until(lambda: list(service.client.list_nodes(pool)), bool)
    job = service.job(pool)
    task = service.run(job, "true")
    begin, start = task.creation_time, task.execution_info.start_time
    assert 2 * SCALE <= (start - begin).total_seconds() < 2


def test_what_has_just_changed_is_not_in_lists_yet() -> None:
    with emulator(None, "--latency", "azure:0.2", "--seed", "1") as (service, _):
        pool = service.pool(nodes=0)
        job = service.job(pool)
        service.task(job, "true")
        assert service.client.get_task(job, "t").state == "active"
        assert list(service.client.list_tasks(job)) == []
        assert service.client.get_job_task_counts(job).task_counts.active == 0
        service.until(lambda: list(service.client.list_tasks(job)), bool)


def test_each_request_takes_a_round_trip() -> None:
    with emulator(None, "--latency", "azure") as (service, _):
        begin = time.monotonic()
        for _ in range(3):
            list(service.client.list_pools())
        assert time.monotonic() - begin >= 3 * 0.03


def test_a_seed_gives_the_same_times_again() -> None:
    first, second = (Latency.parse("azure:0.5", seed=4) for _ in range(2))
    times = [first.task_start() for _ in range(5)]
    assert times == [second.task_start() for _ in range(5)]
    assert all(1 <= seconds <= 2.5 for seconds in times)
    assert len(set(times)) == 5


@pytest.mark.parametrize("text", ["aws", "azure:0", "azure:", "azure:x", "azure:-1", "azure:nan"])
def test_what_is_no_latency_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Latency.parse(text)


def test_the_command_says_so() -> None:
    command = [sys.executable, "-m", "batchexec.emulator", "--latency", "aws"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert found.returncode == 2
    assert "'aws' is not known" in found.stderr

"""The executor on a service that fails, lags, loses replies and takes nodes away: exact results or a typed error."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tenacity
from helpers_service import Account, service, until
from helpers_work import die, double, mark, touch_and_sleep, touch_and_wait_for, write_here

from batchexec import BatchExecutor, errors
from batchexec._azure import faults
from batchexec._engine import health, submitter, watcher

ADD = {"operation": "POST jobs/*/addtaskcollection"}
PUT = {"service": "blob", "method": "PUT"}


@pytest.fixture(scope="module")
def running() -> Iterator[Account]:
    with service() as account:
        account.fixed_pool(slots=2)
        yield account


@pytest.fixture
def account(running: Account) -> Iterator[Account]:
    running.disarm()
    yield running
    running.disarm()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks, pool and nodes are looked at, and requests repeated, sooner than a real account would like."""
    monkeypatch.setattr(faults, "_FIRST_WAIT", 0.02)
    monkeypatch.setattr(faults, "_BACKOFF", tenacity.wait_random_exponential(multiplier=0.04, min=0.02, max=1))
    monkeypatch.setattr(watcher, "_STATES", (0.2, 0.5))
    monkeypatch.setattr(health, "_FIRST", 0.3)
    monkeypatch.setattr(health, "_EVERY", 0.3)
    monkeypatch.setattr(health, "_SECONDS_OF_TRUST", 1.0)


def doubled(account: Account, count: int = 40, **settings: Any) -> None:
    """A map of one-item chunks whose results are exact, and of which nothing is left."""
    settings = {"pool_id": "fixed", **settings}
    before = account.containers()  # with the logs of what failed in other tests
    with BatchExecutor(**account.settings, **settings) as executor:
        assert list(executor.map(double, range(count), chunksize=1, timeout=120)) == [2 * n for n in range(count)]
    fired = {fault["kind"]: fault["fired"] for fault in account.faults()}
    account.disarm()
    until(lambda: (account.jobs(), account.containers()), lambda left: left == ({}, before))
    assert all(fired.values()), fired


def failed(account: Account, kind: type[Exception], *parts: str, **settings: Any) -> None:
    """A submit that ends in this error, whose text has these parts; no job is left."""
    settings = {"pool_id": "fixed", **settings}
    with BatchExecutor(**account.settings, **settings) as executor:
        error = executor.submit(double, 1).exception(60)
    assert isinstance(error, kind), repr(error)
    for part in parts:
        assert part in str(error)
    account.disarm()
    until(account.jobs, lambda jobs: not jobs)


# -- requests


def test_throttling_without_a_time_to_wait(account: Account) -> None:
    account.arm(
        {"kind": "status", "status": 429, "match": {"method": "POST"}, "count": 3},
        {"kind": "status", "status": 503, "probability": 0.05, "seed": 5},
    )
    doubled(account)


def test_replies_that_are_lost_before_and_after_the_commit(account: Account) -> None:
    account.arm(
        {"kind": "drop", "match": ADD, "count": 1},
        {"kind": "drop", "when": "after", "match": ADD, "count": 2},
        {"kind": "drop", "when": "after", "match": {"operation": "POST jobs"}, "count": 1},
        {"kind": "drop", "match": PUT, "count": 3},
        {"kind": "drop", "when": "after", "match": PUT, "count": 6, "after": 2},
    )
    doubled(account)


def test_replies_that_are_cut(account: Account) -> None:
    account.arm(
        {"kind": "truncate", "match": ADD, "count": 1},
        {"kind": "truncate", "probability": 0.1, "seed": 1},
        {"kind": "truncate", "match": {"operation": "GET pools/*"}, "count": 1},
    )
    doubled(account)


def test_a_gateway_that_answers_in_html(account: Account) -> None:
    worker = {"method": "GET", "blob": "*worker/*"}
    account.arm(
        {"kind": "status", "status": 502, "html": True, "probability": 0.05, "seed": 1},
        {"kind": "status", "status": 502, "html": True, "count": 1, "match": worker},
    )
    doubled(account)


def test_items_that_are_refused_for_now_and_replies_out_of_order(account: Account) -> None:
    account.arm(
        {"kind": "servererror", "probability": 0.3, "seed": 1},
        {"kind": "servererror", "probability": 0.3, "seed": 2, "when": "after"},
        {"kind": "reorder", "match": ADD},
    )
    doubled(account)


def test_lists_that_lag_and_come_in_short_and_empty_pages(account: Account) -> None:
    """A crash is known from the list of tasks alone."""
    account.arm(
        {"kind": "lag", "seconds": 1},
        {"kind": "short-pages", "items": 7, "empty": True},
        {"kind": "reorder", "match": {"operation": "GET jobs/*/tasks"}},
    )
    with BatchExecutor(**account.settings, pool_id="fixed", retries=0) as executor:
        crashed = executor.submit(die, "exit")
        assert list(executor.map(double, range(30), chunksize=1, timeout=120)) == [2 * n for n in range(30)]
        assert isinstance(crashed.exception(60), errors.WorkerCrashedError)
    assert all(fault["fired"] for fault in account.faults())


def test_items_that_are_refused_for_ever_end_in_an_error(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submitter, "_TRIES", 4)
    account.arm({"kind": "servererror", "code": "ServerBusy"})
    failed(account, errors.ServiceError, "ServerBusy")


def test_a_quota_of_jobs_is_a_typed_error_at_once(account: Account) -> None:
    match = {"operation": "POST jobs"}
    account.arm({"kind": "status", "status": 409, "code": "ActiveJobAndScheduleQuotaReached", "match": match})
    failed(account, errors.QuotaError, "ActiveJobAndScheduleQuotaReached")


def test_a_signature_that_expired_before_the_result_was_stored(account: Account) -> None:
    account.arm({"kind": "expired-sas", "match": {"method": "PUT", "blob": "out/*"}})
    failed(account, errors.ResultStoreError, "could not reach storage", "403")
    account.arm({"kind": "expired-sas", "match": {"method": "PUT", "blob": "[ol][uo][tg]/*"}})  # nor its log
    failed(account, errors.ResultStoreError, "could not reach storage", "403")


# -- tasks


def test_tasks_that_run_twice_have_one_result(account: Account, tmp_path: Path) -> None:
    account.arm(
        {"kind": "twice", "probability": 0.5, "seed": 1, "count": 4},
        {"kind": "twice", "overlap": True, "probability": 0.5, "seed": 2, "count": 4},
    )
    with BatchExecutor(**account.settings, pool_id="fixed") as executor:
        folder = str(tmp_path)
        assert list(executor.map(mark, [folder] * 20, range(20), chunksize=1, timeout=120)) == list(range(20))
    assert sum(fault["fired"] for fault in account.faults()) == 8
    assert {path.name for path in tmp_path.iterdir()} == {str(number) for number in range(20)}


def test_a_task_that_the_service_ends_or_cannot_launch(account: Account) -> None:
    account.arm({"kind": "end", "seconds": 0, "match": {"role": "task"}})
    failed(account, errors.TaskTerminatedError, "was ended by the service")
    account.arm({"kind": "fail", "code": "CommandLaunchFailed", "match": {"role": "task"}})
    failed(account, errors.TaskError, "CommandLaunchFailed")


def test_a_node_on_which_every_task_ends_with_126(account: Account) -> None:
    account.arm({"kind": "exit", "exit_code": 126, "stderr": "no such container", "match": {"role": "task"}})
    failed(account, errors.WorkerCrashedError, "126", "node tvmps_", "no such container")


# -- nodes and pools


def test_a_start_task_that_fails_tells_its_last_words(account: Account) -> None:
    account.arm({"kind": "exit", "exit_code": 9, "stderr": "no licence here", "match": {"role": "start"}})
    start = {"commandLine": "true", "waitForSuccess": True}
    words = ("start task failed (exit code 9)", "no licence here")
    failed(account, errors.NodeError, *words, pool_id="starting", pool_options={"startTask": start})


def test_a_preparation_that_fails_tells_its_last_words(account: Account) -> None:
    account.pool("preparing")
    account.arm({"kind": "exit", "exit_code": 8, "stderr": "no disk here", "match": {"role": "preparation"}})
    failed(account, errors.NodeError, "cannot prepare for the job (exit code 8)", "no disk here", pool_id="preparing")


def test_images_that_cannot_be_pulled(account: Account) -> None:
    account.arm({"kind": "image-pull", "match": {"role": "node"}, "message": "manifest unknown"})
    failed(account, errors.NodeError, "unusable", "ContainerInvalidImage", "manifest unknown", pool_id="imageless")


@pytest.mark.parametrize("code", ["AllocationFailed", "AllocationTimedout", "AccountCoreQuotaReached"])
def test_a_pool_that_gets_no_nodes(account: Account, code: str) -> None:
    account.arm({"kind": "resize-error", "code": code, "message": "none for you"})
    kind = errors.QuotaError if "Quota" in code else errors.PoolError
    failed(account, kind, code, "none for you", pool_id=f"no-{code}")


def test_a_pool_that_gets_some_of_its_nodes_works_with_a_warning(
    account: Account, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    account.arm({"kind": "resize-error", "nodes": 1})
    account.pool("partial", nodes=3, slots=1)
    with caplog.at_level(logging.WARNING, "batchexec"):
        with BatchExecutor(**account.settings, pool_id="partial") as executor:
            futures = [executor.submit(touch_and_wait_for, str(tmp_path), f"runs{n}") for n in range(2)]
            until(lambda: "AllocationFailed" in caplog.text)
            (tmp_path / "go").touch()
            for future in futures:
                future.result(60)


def test_nodes_that_are_preempted_and_rebooted_amid_the_work(account: Account) -> None:
    account.pool("spot", nodes=2, spot=True, slots=1)
    account.arm(
        {"kind": "preempt", "seconds": 0.05, "back": 0.2, "after": 5, "probability": 0.3, "seed": 1, "count": 2},
        {"kind": "reboot", "seconds": 0.05, "after": 5, "probability": 0.3, "seed": 2, "count": 2},
    )
    doubled(account, pool_id="spot")


def test_a_node_that_becomes_unusable_amid_its_only_task(account: Account, tmp_path: Path) -> None:
    account.pool("doomed")
    with BatchExecutor(**account.settings, pool_id="doomed") as executor:
        future = executor.submit(touch_and_sleep, str(tmp_path / "runs"))
        until((tmp_path / "runs").exists)
        until(future.running)
        match = {"pool": "doomed"}
        account.arm({"kind": "unusable", "at": 0, "code": "DiskFull", "message": "nothing fits", "match": match})
        error = future.exception(60)
    assert isinstance(error, errors.NodeError), repr(error)
    assert "DiskFull: nothing fits" in str(error)


def test_a_node_out_of_contact_is_a_warning_and_the_work_goes_on_when_it_is_back(
    account: Account, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    account.pool("away", slots=1)
    with caplog.at_level(logging.WARNING, "batchexec"):
        with BatchExecutor(**account.settings, pool_id="away") as executor:
            first = executor.submit(touch_and_wait_for, str(tmp_path), "runs")
            futures = [executor.submit(double, number) for number in range(3)]
            until((tmp_path / "runs").exists)
            account.strike("offline", "away")
            until(lambda: "is unknown" in caplog.text)
            account.strike("give-up", "away")
            account.strike("reconnect", "away")
            (tmp_path / "go").touch()
            first.result(60)
            assert [future.result(60) for future in futures] == [0, 2, 4]


def test_who_may_not_look_at_pools_goes_by_the_tasks(account: Account, tmp_path: Path) -> None:
    with BatchExecutor(**account.settings, pool_id="fixed", create_pool=False) as executor:
        assert executor.submit(double, 1).result(60) == 2
        account.arm({"kind": "status", "status": 403, "match": {"operation": "GET pools/*"}})
        running = [executor.submit(touch_and_wait_for, str(tmp_path), f"runs{n}") for n in range(2)]
        behind = executor.submit(double, 2)
        until(lambda: account.faults()[0]["fired"])
        (tmp_path / "go").touch()
        for future in running:
            future.result(60)
        assert behind.result(60) == 4
        assert executor.submit(double, 3).result(60) == 6
    until(account.jobs, lambda jobs: not jobs)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a process a disk of its own")
def test_a_full_disk_is_the_functions_own_error(account: Account) -> None:
    account.arm({"kind": "disk-full", "bytes": 1_000_000, "match": {"role": "task"}})
    with BatchExecutor(**account.settings, pool_id="fixed") as executor:
        error = executor.submit(write_here, 2_000_000).exception(60)
    assert isinstance(error, OSError), repr(error)
    assert error.errno == errno.ENOSPC


def test_a_service_that_takes_its_time() -> None:
    with service("--latency", "azure:0.002", "--seed", "1") as slow:
        slow.pool("slow", nodes=2)
        with BatchExecutor(**slow.settings, pool_id="slow") as executor:
            assert list(executor.map(double, range(20), chunksize=1, timeout=120)) == [2 * n for n in range(20)]
        until(lambda: slow.left("slow"), lambda left: not left)

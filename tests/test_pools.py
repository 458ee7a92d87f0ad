"""Pools: made or reused, checked against what exists, and why work on them cannot start."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from helpers_service import Account, service, until
from helpers_work import double, touch_and_wait_for

from batchexec import BatchConfig, BatchExecutor, errors
from batchexec._engine import health
from batchexec._engine.pools import pool
from batchexec.emulator.scheduling.autoscale import evaluate
from batchexec.emulator.scheduling.autoscale_samples import History

_MACHINE = {
    "imageReference": {"publisher": "microsoft-dsvm", "offer": "ubuntu-hpc", "sku": "2404", "version": "latest"},
    "nodeAgentSKUId": "batch.node.ubuntu 24.04",
}


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    with service() as running:
        yield running


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pool and nodes are looked at sooner than a real account would like."""
    monkeypatch.setattr(health, "_FIRST", 0.3)
    monkeypatch.setattr(health, "_EVERY", 0.3)


def make_pool(account: Account, name: str, **fields: Any) -> str:
    body = {
        "id": name,
        "vmSize": "Standard_D4s_v5",
        "taskSlotsPerNode": 4,
        "targetDedicatedNodes": 1,
        "virtualMachineConfiguration": _MACHINE,
        **fields,
    }
    body = {name: value for name, value in body.items() if value is not None}
    account.batch.create_pool(body)  # type: ignore[arg-type]
    return name


def doubled(account: Account, **settings: Any) -> list[int]:
    with BatchExecutor(**account.settings, **settings) as executor:
        return list(executor.map(double, range(3), timeout=120))


def refusal(account: Account, kind: type[Exception], **settings: Any) -> str:
    """The text of the error that a first submit ends with; nothing but the pools may be left behind."""
    with BatchExecutor(**account.settings, **settings) as executor:
        error = executor.submit(double, 1).exception(60)
    assert isinstance(error, kind), repr(error)
    assert not account.left(*(str(found.id) for found in account.batch.list_pools()))
    return str(error)


def test_a_pool_is_made_as_the_documentation_says_and_stays_for_the_next_executor(account: Account) -> None:
    name = pool.pool_id(BatchConfig(**account.settings))
    assert doubled(account) == [0, 2, 4]
    made = account.batch.get_pool(name)
    assert made.enable_auto_scale
    assert made.task_slots_per_node == 4
    assert "TimeInterval_Minute * 11" in str(made.auto_scale_formula)
    created = made.creation_time
    assert doubled(account) == [0, 2, 4]
    assert account.batch.get_pool(name).creation_time == created
    assert not account.left(name)


@pytest.mark.parametrize("idle", [1, 2, 3, 10, 600])
def test_a_pool_goes_to_nothing_when_it_was_idle_for_as_long_as_it_may(idle: int) -> None:
    formula = pool.formula(nodes=3, slots=4, idle_minutes=idle, spot=False)

    def nodes_after(minutes: float) -> int:
        """Of a pool whose last work was done at minute 2, with samples at every half minute."""
        samples = [(30.0 * i, {"$PendingTasks": float(i <= 4)}) for i in range(int(minutes * 2) + 1)]
        history = History(samples, minutes * 60, datetime.now(timezone.utc))
        return int(evaluate(formula, {}, history.ask)["$TargetDedicatedNodes"])  # type: ignore[arg-type]

    assert nodes_after(0.5) == 3, "the start size while there are too few samples"
    assert nodes_after(2 + idle) == 1
    assert nodes_after(2 + idle + 1) == 0


def test_the_formula_is_accepted_and_evaluated_by_the_service(account: Account) -> None:
    formula = pool.formula(nodes=3, slots=4, idle_minutes=10, spot=False)
    name = make_pool(
        account, "formula", enableAutoScale=True, autoScaleFormula=formula, targetDedicatedNodes=None
    )
    result = account.batch.evaluate_pool_auto_scale(name, {"autoScaleFormula": formula})  # type: ignore[arg-type]
    assert result.error is None
    assert "$TargetDedicatedNodes=3" in str(result.results)  # too few samples yet: the start size
    account.batch.begin_delete_pool(name)


def test_an_existing_pool_of_another_size_is_used_with_a_warning(
    account: Account, caplog: pytest.LogCaptureFixture
) -> None:
    name = make_pool(account, "other-size", vmSize="Standard_D2s_v5", taskSlotsPerNode=2)
    with caplog.at_level(logging.WARNING, "batchexec"):
        assert doubled(account, pool_id=name) == [0, 2, 4]
    assert "Standard_D2s_v5, not Standard_D4s_v5" in caplog.text
    assert "2 task slots a node, not 4" in caplog.text
    assert "fixed size of 1 nodes" in caplog.text


def test_a_pool_fixed_at_zero_nodes_is_refused(account: Account) -> None:
    name = make_pool(account, "zero", targetDedicatedNodes=0)
    assert "fixed at zero nodes" in refusal(account, errors.PoolMismatchError, pool_id=name)


def test_an_image_needs_a_pool_with_containers(account: Account) -> None:
    name = make_pool(account, "bare")
    text = refusal(account, errors.PoolMismatchError, pool_id=name, image="python:3.11-slim")
    assert "without container support" in text


def test_a_pool_for_another_python_is_refused(account: Account) -> None:
    name = make_pool(account, "python", metadata=[{"name": "batchexec_python", "value": "3.6"}])
    assert "Python 3.6" in refusal(account, errors.PoolMismatchError, pool_id=name)


def test_a_windows_pool_is_refused() -> None:
    machine = {**_MACHINE, "nodeAgentSKUId": "batch.node.windows amd64"}
    body = {"id": "w", "vmSize": "Standard_D4s_v5", "targetDedicatedNodes": 1, "virtualMachineConfiguration": machine}
    with pytest.raises(errors.PoolMismatchError, match="runs Windows"):
        pool.differences(body, BatchConfig())


def test_a_pool_that_is_being_deleted_is_refused() -> None:
    body = {"id": "d", "state": "deleting", "virtualMachineConfiguration": _MACHINE}
    with pytest.raises(errors.PoolMismatchError, match="being deleted"):
        pool.differences(body, BatchConfig())


def test_no_pool_is_made_where_that_is_forbidden(account: Account) -> None:
    text = refusal(account, errors.PoolError, pool_id="not-there", create_pool=False)
    assert "does not exist and create_pool=False" in text


def test_a_refused_creation_arrives_with_the_services_own_words(account: Account) -> None:
    text = refusal(account, errors.ServiceError, pool_id="refused", pool_options={"noSuchProperty": 1})
    assert "noSuchProperty" in text


def test_pool_options_are_laid_over_the_body() -> None:
    config = BatchConfig(
        pool_options={"virtualMachineConfiguration": {"licenseType": "RHEL"}, "taskSchedulingPolicy": None},
        subnet_id="/subscriptions/s/resourceGroups/g/providers/p/virtualNetworks/v/subnets/n",
        public_ip=False,
        spot=True,
    )
    body = pool.azure_pool(config, nodes=2)
    assert body["virtualMachineConfiguration"]["licenseType"] == "RHEL"
    assert body["virtualMachineConfiguration"]["nodeAgentSKUId"] == "batch.node.ubuntu 24.04"
    assert body["taskSchedulingPolicy"] is None
    network = body["networkConfiguration"]
    assert network["subnetId"].endswith("/subnets/n")
    assert network["publicIPAddressConfiguration"] == {"provision": "nopublicipaddresses"}
    assert "$TargetLowPriorityNodes" in body["autoScaleFormula"]


def test_the_pools_name_tells_what_it_is_made_of() -> None:
    names = {
        pool.pool_id(BatchConfig(**fields))
        for fields in ({}, {"slots": 2}, {"vm_size": "Standard_D8s_v5"}, {"image": "x"}, {"spot": True})
    }
    assert len(names) == 5
    assert all(re.fullmatch(r"batchexec-[a-z0-9-]+-[0-9a-f]{10}", name) for name in names)


def test_a_failing_start_task_reaches_the_future(account: Account) -> None:
    start = {"commandLine": "/bin/sh -c 'echo no licence >&2; exit 7'", "waitForSuccess": True}
    text = refusal(account, errors.NodeError, pool_id="start", pool_options={"startTask": start})
    assert "start task failed (exit code 7)" in text


def test_one_bad_node_is_a_warning_while_others_work(
    account: Account, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    only_one = {"commandLine": f"/bin/mkdir {tmp_path}/taken", "waitForSuccess": True}
    name = make_pool(account, "half", targetDedicatedNodes=2, taskSlotsPerNode=1, startTask=only_one)
    with BatchExecutor(**account.settings, pool_id=name) as executor, caplog.at_level(logging.WARNING, "batchexec"):
        futures = [executor.submit(touch_and_wait_for, str(tmp_path), f"runs{n}") for n in range(2)]
        until(lambda: "Other nodes go on." in caplog.text)
        assert "start task failed" in caplog.text
        (tmp_path / "go").touch()
        for future in futures:
            future.result(60)


def test_a_pool_that_gets_no_cores_reaches_the_future() -> None:
    with service("--core-quota", "0") as account:
        text = refusal(account, errors.QuotaError)
    assert "AccountCoreQuotaReached" in text


def test_a_failing_preparation_reaches_the_future(account: Account, tmp_path: Path) -> None:
    """The worker's blob is gone before the node can stage it."""
    command = f"/bin/sh -c 'until [ -e {tmp_path}/gone ]; do sleep 0.01; done'"
    pool_id = make_pool(account, "unready", startTask={"commandLine": command, "waitForSuccess": True})
    with BatchExecutor(**account.settings, pool_id=pool_id) as executor:
        future = executor.submit(double, 1)
        until(lambda: future.task_id)
        container = account.only_container()
        for blob in list(container.list_blobs("worker/")):
            container.delete_blob(blob.name)
        (tmp_path / "gone").touch()
        error = future.exception(60)
    assert isinstance(error, errors.NodeError), repr(error)
    assert "BlobNotFound" in str(error)


def test_what_a_resize_failed_at_is_no_matter_once_no_nodes_are_wanted() -> None:
    with service("--core-quota", "0") as account:
        name = make_pool(
            account, "p", enableAutoScale=True, autoScaleFormula="$TargetDedicatedNodes = 1;", targetDedicatedNodes=None
        )

        def steady() -> dict[str, Any]:
            found = until(lambda: account.batch.get_pool(name), lambda pool: pool.allocation_state == "steady")
            return dict(found.as_dict())

        problems = health.Health._pool_problems(None, steady())  # type: ignore[arg-type]
        assert isinstance(problems[0], errors.QuotaError)
        account.batch.disable_pool_auto_scale(name)
        none: Any = {"autoScaleFormula": "$TargetDedicatedNodes = 0;"}
        account.batch.enable_pool_auto_scale(name, none)
        pool = steady()
        assert [error["code"] for error in pool["resizeErrors"]] == ["AccountCoreQuotaReached"]
        assert health.Health._pool_problems(None, pool) == []  # type: ignore[arg-type]

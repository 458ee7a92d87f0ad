"""Pools: what of them can be changed and when, lists of them, and what an account has besides."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from azure.batch import models
from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError
from batch_service import Service, emulator, refused, service

__all__ = ["service"]

COMMAND = models.BatchStartTask(command_line="true")
METADATA = [models.BatchMetadataItem(name="a", value="b")]


def test_a_pool_is_what_it_was_created_as(service: Service) -> None:
    id = service.pool(nodes=1, slots=3, metadata=METADATA, display_name="my pool")
    pool = service.until(lambda: service.client.get_pool(id), lambda pool: pool.allocation_state == "steady")
    assert (pool.id, pool.state, pool.vm_size, pool.task_slots_per_node) == (id, "active", "Standard_D4s_v5", 3)
    assert (pool.current_dedicated_nodes, pool.target_dedicated_nodes) == (1, 1)
    assert (pool.current_low_priority_nodes, pool.target_low_priority_nodes) == (0, 0)
    assert (pool.enable_auto_scale, pool.enable_inter_node_communication) == (False, False)
    assert pool.resize_timeout == timedelta(minutes=15)
    assert pool.task_scheduling_policy.node_fill_type == "spread"
    assert [(item.name, item.value) for item in pool.metadata] == [("a", "b")]
    assert pool.display_name == "my pool"
    assert pool.url.endswith(f"/pools/{id}")
    assert pool.virtual_machine_configuration.node_agent_sku_id == "batch.node.ubuntu 24.04"
    assert service.client.pool_exists(id)
    with refused("PoolExists", 409):
        service.pool(id=id.upper())


def test_a_patch_changes_what_it_names(service: Service) -> None:
    pool = service.pool(start_task=COMMAND, metadata=METADATA)
    before = service.client.get_pool(pool)
    service.client.update_pool(pool, models.BatchPoolUpdateOptions(metadata=[]))
    found = service.client.get_pool(pool)
    assert (found.metadata, found.start_task.command_line) == ([], "true")
    assert found.etag != before.etag
    assert found.last_modified >= before.last_modified


def test_replacing_the_properties_removes_what_is_not_given(service: Service) -> None:
    pool = service.pool(start_task=COMMAND, metadata=METADATA)
    options = models.BatchPoolReplaceOptions(application_package_references=[], metadata=METADATA)
    service.client.replace_pool_properties(pool, options)
    found = service.client.get_pool(pool)
    assert (found.start_task, [item.name for item in found.metadata]) == (None, ["a"])
    assert found.task_slots_per_node == 2
    options = models.BatchPoolReplaceOptions(application_package_references=[], metadata=[], start_task=COMMAND)
    service.client.replace_pool_properties(pool, options)
    assert service.client.get_pool(pool).start_task.command_line == "true"


def test_most_of_a_pool_changes_only_while_it_is_empty(service: Service) -> None:
    pool = service.pool(slots=1)
    service.until(lambda: service.client.get_pool(pool), lambda found: found.current_dedicated_nodes == 1)
    change = models.BatchPoolUpdateOptions(task_slots_per_node=4, vm_size="Standard_D2s_v5", display_name="x")
    with refused("OperationInvalidForCurrentState", 409):
        service.client.update_pool(pool, change)
    none = models.BatchPoolResizeOptions(target_dedicated_nodes=0)
    service.client.begin_resize_pool(pool, none, polling_interval=0.01).result()
    service.client.update_pool(pool, change)
    found = service.client.get_pool(pool)
    assert (found.task_slots_per_node, found.vm_size, found.display_name) == (4, "Standard_D2s_v5", "x")
    with refused("InvalidPropertyValue", 400):
        service.client.update_pool(pool, models.BatchPoolUpdateOptions(task_slots_per_node=9))
    one = models.BatchPoolResizeOptions(target_dedicated_nodes=1)
    service.client.begin_resize_pool(pool, one, polling_interval=0.01).result()
    job = service.job(pool)
    for number in range(4):
        service.task(job, "sleep 100", f"t{number}")
    counts = service.until(
        lambda: service.client.get_job_task_counts(job).task_counts, lambda found: found.running == 4
    )
    assert counts.active == 0
    service.client.begin_terminate_job(job, options={"terminateReason": "x"}, polling_interval=0.01).result()


def test_conditions_are_checked_before_a_pool_is_touched(service: Service) -> None:
    pool = service.pool(nodes=0)
    etag = service.client.get_pool(pool).etag
    yesterday, tomorrow = (datetime.now(timezone.utc) + timedelta(days=days) for days in (-1, 1))
    update = models.BatchPoolUpdateOptions(metadata=METADATA)
    same: Any = {"etag": etag, "match_condition": MatchConditions.IfNotModified}
    changed: Any = {"etag": etag, "match_condition": MatchConditions.IfModified}
    for condition in (changed, {"if_unmodified_since": yesterday}, {"if_modified_since": tomorrow}):
        with refused("ConditionNotMet", 412):
            service.client.update_pool(pool, update, **condition)
    for condition in (same, {"if_unmodified_since": tomorrow}, {"if_modified_since": yesterday}):
        service.client.get_pool(pool, **condition)
    service.client.update_pool(pool, update, **same)
    resize = models.BatchPoolResizeOptions(target_dedicated_nodes=1)
    scale = models.BatchPoolEnableAutoScaleOptions(auto_scale_formula="$TargetDedicatedNodes = 0;")
    with refused("ConditionNotMet", 412):
        service.client.begin_resize_pool(pool, resize, **same)
    with refused("ConditionNotMet", 412):
        service.client.begin_stop_pool_resize(pool, **same)
    with refused("ConditionNotMet", 412):
        service.client.begin_remove_nodes(pool, models.BatchNodeRemoveOptions(node_ids=["x"]), **same)
    with refused("ConditionNotMet", 412):
        service.client.enable_pool_auto_scale(pool, scale, **same)
    with refused("ConditionNotMet", 412):
        service.client.begin_delete_pool(pool, **same)
    for condition in ({"if_modified_since": tomorrow}, {**changed, "etag": service.client.get_pool(pool).etag}):
        with pytest.raises(HttpResponseError) as caught:
            service.client.get_pool(pool, **condition)
        assert caught.value.status_code == 304
        with pytest.raises(HttpResponseError) as caught:
            service.client.pool_exists(pool, **condition)
        assert caught.value.status_code == 304


@pytest.mark.parametrize(
    ("more", "code", "status"),
    [
        ({"resizeTimeout": "PT4M"}, "InvalidPropertyValue", 400),
        ({"taskSlotsPerNode": 17}, "InvalidPropertyValue", 400),
        ({"targetDedicatedNodes": -1}, "InvalidPropertyValue", 400),
        ({"enableAutoScale": True}, "MissingRequiredProperty", 400),
        ({"autoScaleFormula": "$TargetDedicatedNodes=1;"}, "InvalidPropertyValue", 400),
        ({"enableAutoScale": True, "autoScaleFormula": "x = ("}, "AutoScalingFormulaSyntaxError", 400),
        ({"enableAutoScale": True, "autoScaleFormula": "x=1;", "targetDedicatedNodes": 1}, "InvalidPropertyValue", 400),
        (
            {"enableAutoScale": True, "autoScaleFormula": "x=1;", "autoScaleEvaluationInterval": "PT4M"},
            "InvalidAutoScalingSettings",
            400,
        ),
        ({"applicationPackageReferences": [{"applicationId": "a"}]}, "InvalidApplicationPackageReferences", 409),
        ({"mountConfiguration": [{"nfsMountConfiguration": {}}]}, "UnsupportedProperty", 400),
        ({"vmSise": "x"}, "InvalidRequestBody", 400),
    ],
)
def test_a_pool_that_cannot_be_is_refused(service: Service, more: dict[str, Any], code: str, status: int) -> None:
    body: Any = {"id": "refused", "vmSize": "Standard_D4s_v5", **more}
    with refused(code, status):
        service.client.create_pool(body)
    with refused("PoolNotFound", 404):
        service.client.get_pool("refused")


def test_a_resize_that_cannot_be_is_refused(service: Service) -> None:
    pool = service.pool(nodes=0)
    for body in ({}, {"targetDedicatedNodes": 1, "resizeTimeout": "PT1M"}, {"targetDedicatedNodes": "x"}):
        with pytest.raises(HttpResponseError) as caught:
            service.client.begin_resize_pool(pool, body)  # type: ignore[arg-type]
        assert caught.value.status_code == 400
    service.client.begin_delete_pool(pool, polling_interval=0.01).result()
    with refused("PoolNotFound", 404):
        service.client.begin_resize_pool(pool, models.BatchPoolResizeOptions(target_dedicated_nodes=1))


def test_a_pool_being_deleted_is_not_changed_any_more(service: Service) -> None:
    pool = service.pool(slots=1)
    job = service.job(pool)
    line = "/bin/sh -c 'trap \"\" TERM; until [ -e go ]; do sleep 0.01; done'"
    service.task(job, line)
    service.until(lambda: service.client.get_task(job, "t"), lambda task: task.state == "running")
    seen: list[str] = []
    service.client.begin_delete_pool(pool)
    try:
        service.client.update_pool(pool, models.BatchPoolUpdateOptions(metadata=[]))
    except HttpResponseError as error:
        seen.append(error.error.code)
    assert seen in (["PoolBeingDeleted"], ["PoolNotFound"]), "it may be over already"
    service.until(lambda: [found.id for found in service.client.list_pools()], lambda ids: pool not in ids)


def test_pools_are_listed_by_what_they_are(service: Service) -> None:
    small = [service.pool(nodes=0, id=f"small-{number}", vm_size="Standard_D8s_v5") for number in range(3)]
    service.client.enable_pool_auto_scale(
        small[0], models.BatchPoolEnableAutoScaleOptions(auto_scale_formula="$TargetDedicatedNodes = 0;")
    )

    def ids(text: str, **how: Any) -> list[str]:
        return [str(pool.id) for pool in service.client.list_pools(filter=text, **how)]

    assert ids("vmSize eq 'standard_d8s_v5'") == small
    assert ids("startswith(id,'SMALL-') and enableAutoScale eq true") == small[:1]
    assert ids("startswith(id,'small-') and (allocationState ne 'steady' or state eq 'deleting')") == []
    assert ids("startswith(id,'small-')", max_results=1) == small
    moment = service.client.get_pool(small[1]).creation_time.isoformat().replace("+00:00", "Z")
    assert ids(f"startswith(id,'small-') and creationTime gt DateTime'{moment}'") == small[2:]
    (one,) = service.client.list_pools(filter="id eq 'small-1'", select=["id", "vmSize"], expand=["stats"])
    assert (one.id, one.vm_size, one.state) == ("small-1", "Standard_D8s_v5", None)
    bad = ["state gt 'active'", "metadata eq 'x'", "id eq 5", "creationTime gt 'x'", "enableAutoScale eq 'true'"]
    for text in [*bad, "id eq", "id eq " + "9" * 5000, "(" * 1000 + "id eq 'x'" + ")" * 1000]:
        with refused("InvalidQueryParameterValue", 400):
            ids(text)
    with refused("InvalidQueryParameterValue", 400):
        service.client.get_pool("small-1", expand=["jobs"])


def test_nodes_are_listed_by_what_they_are(service: Service) -> None:
    pool = service.pool(nodes=2, start_task=COMMAND)
    text = "state eq 'idle' and startTaskInfo/state eq 'completed' and startTaskInfo/exitCode eq 0"
    found = service.until(lambda: list(service.client.list_nodes(pool, filter=text)), lambda found: len(found) == 2)
    moment = found[0].last_boot_time.isoformat().replace("+00:00", "Z")
    assert len(list(service.client.list_nodes(pool, filter=f"lastBootTime ge DateTime'{moment}'"))) >= 1
    for text in ("id eq 'x'", "startTaskInfo/state ne 'running'", "state gt 'idle'", "startTaskInfo/exitCode eq '0'"):
        with refused("InvalidQueryParameterValue", 400):
            list(service.client.list_nodes(pool, filter=text))


def test_what_an_account_has_and_has_not(service: Service) -> None:
    images = list(service.client.list_supported_images())
    assert images[0].image_reference.offer == "ubuntu-hpc"
    assert "DockerCompatible" in images[0].capabilities
    text = "nodeAgentSKUId eq 'batch.node.ubuntu 24.04' and verificationType ne 'unverified'"
    assert len(list(service.client.list_supported_images(filter=text))) == 2
    assert list(service.client.list_applications()) == []
    with refused("ApplicationNotFound", 404):
        service.client.get_application("a")
    assert list(service.client.list_pool_usage_metrics()) == []
    assert list(service.client.list_job_schedules()) == []
    with refused("JobScheduleNotFound", 404):
        service.client.get_job_schedule("s")
    with refused("OutOfRangeQueryParameterValue", 400):
        list(service.client.list_pool_node_counts(max_results=11))
    with refused("InvalidQueryParameterValue", 400):
        list(service.client.list_pool_node_counts(filter="poolId ne 'x'"))


def test_a_pool_can_be_there_from_the_start(tmp_path: Path) -> None:
    with emulator(tmp_path / "root", "--nodes", "2", "--slots", "3") as (service, _):
        pool = service.until(lambda: service.client.get_pool("local"), lambda pool: pool.current_dedicated_nodes == 2)
        assert (pool.task_slots_per_node, pool.allocation_state) == (3, "steady")
        assert service.run(service.job("local"), "true").execution_info.result == "success"


@pytest.mark.parametrize("options", [["--nodes", "-1"], ["--nodes", "1001"], ["--nodes", "1", "--slots", "0"]])
def test_a_pool_that_cannot_be_there_from_the_start(options: list[str]) -> None:
    command = [sys.executable, "-m", "batchexec.emulator", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "--nodes: 0 to 1000, --slots: 1 to 256" in done.stderr) == (2, True)

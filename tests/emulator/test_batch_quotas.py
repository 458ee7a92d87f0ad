"""Quotas of the account: pools that get fewer nodes than they want, pools and jobs refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.batch import models
from batch_service import Service, emulator, refused
from manual_service import emulated

from batchexec.emulator.scheduling.quotas import Quotas, cores_of


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """An account with cores for two dedicated nodes of four and one spot node, three pools and two active jobs."""
    options = ("--core-quota", "11", "--spot-quota", "4", "--pool-quota", "3", "--job-quota", "2")
    with emulator(tmp_path_factory.mktemp("emulator"), *options) as (service, _):
        yield service


@pytest.fixture(autouse=True)
def _left_as_found(service: Service) -> Iterator[None]:
    yield
    for job in list(service.client.list_jobs()):
        service.client.begin_delete_job(job.id, polling_interval=0.01).result()
    for pool in list(service.client.list_pools()):
        service.client.begin_delete_pool(pool.id, polling_interval=0.01).result()


def steady(service: Service, pool: str) -> models.BatchPool:
    return service.until(lambda: service.client.get_pool(pool), lambda found: found.allocation_state == "steady")


def resize(service: Service, pool: str, nodes: int) -> models.BatchPool:
    options = models.BatchPoolResizeOptions(target_dedicated_nodes=nodes)
    service.client.begin_resize_pool(pool, options, polling_interval=0.01).result()
    return service.client.get_pool(pool)


def test_a_pool_gets_the_nodes_that_fit_and_the_reason_for_the_others(service: Service) -> None:
    pool = service.pool(nodes=3)
    found = steady(service, pool)
    assert (found.current_dedicated_nodes, found.target_dedicated_nodes) == (2, 3)
    (error,) = found.resize_errors
    assert (error.code, error.message) == (
        "AccountCoreQuotaReached",
        "The specified account has reached core quota",
    )
    assert {value.name: value.value for value in error.error_values} == {
        "CoreQuota": "11",
        "CoresInUse": "0",
        "NodesWanted": "3",
        "NodesGranted": "2",
    }
    assert service.run(service.job(pool), "true").execution_info.result == "success"
    found = resize(service, pool, 2)
    assert (found.current_dedicated_nodes, found.resize_errors) == (2, None), "a resize that fits clears the errors"


def test_spot_nodes_have_a_quota_of_their_own(service: Service) -> None:
    pool = service.pool(nodes=1, target_low_priority_nodes=2)
    found = steady(service, pool)
    assert (found.current_dedicated_nodes, found.current_low_priority_nodes) == (1, 1)
    assert [error.code for error in found.resize_errors] == ["AccountLowPriorityCoreQuotaReached"]


def test_pools_share_the_cores(service: Service) -> None:
    first, second = service.pool(nodes=2), service.pool(nodes=1)
    found = steady(service, second)
    assert (found.current_dedicated_nodes, len(found.resize_errors)) == (0, 1)
    resize(service, first, 1)
    assert resize(service, second, 1).current_dedicated_nodes == 1


def test_a_pool_of_larger_machines_needs_more_of_the_quota(service: Service) -> None:
    assert steady(service, service.pool(vm_size="Standard_D16s_v5")).current_dedicated_nodes == 0


@pytest.mark.parametrize(
    ("size", "cores"),
    [("Standard_D4s_v5", 4), ("STANDARD_E96ads_v5", 96), ("Standard_NC6", 6), ("Basic_A1", 1), ("nonsense", 1)],
)
def test_cores_are_read_from_the_name_of_the_size(size: str, cores: int) -> None:
    assert cores_of(size) == cores


def test_one_pool_too_many_is_refused_until_one_is_gone(service: Service) -> None:
    pools = [service.pool(nodes=0) for _ in range(3)]
    with refused("PoolExists", 409):
        service.pool(nodes=0, id=pools[0])
    with refused("PoolQuotaReached", 409):
        service.pool(nodes=0)
    service.client.begin_delete_pool(pools[0], polling_interval=0.01).result()
    service.pool(nodes=0)


def test_one_active_job_too_many_is_refused_but_completed_ones_do_not_count(service: Service) -> None:
    pool = service.pool()
    jobs = [service.job(pool) for _ in range(2)]
    service.client.begin_disable_job(
        jobs[1], models.BatchJobDisableOptions(disable_tasks="wait"), polling_interval=0.01
    ).result()
    with refused("ActiveJobAndScheduleQuotaReached", 409):
        service.job(pool)
    service.client.begin_terminate_job(jobs[0], options={"terminateReason": "x"}, polling_interval=0.01).result()
    service.job(pool)
    with refused("ActiveJobAndScheduleQuotaReached", 409):
        service.job(pool)
    service.client.begin_delete_job(jobs[1], polling_interval=0.01).result()
    service.job(pool)


def test_an_autoscaled_pool_asks_again_until_the_quota_has_room(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with emulated(tmp_path, quotas=Quotas(cores=4)) as here:
            client = here.client
            first: Any = {"id": "first", "vmSize": "Standard_D4s_v5", "targetDedicatedNodes": 1}
            await client.create_pool(first)
            body: Any = {"id": "p", "vmSize": "Standard_D4s_v5", "enableAutoScale": True}
            await client.create_pool({**body, "autoScaleFormula": "$TargetDedicatedNodes = 1;"})

            async def nodes() -> tuple[int | None, int]:
                while (pool := await client.get_pool("p")).allocation_state != "steady":
                    pass
                return pool.current_dedicated_nodes, len(pool.resize_errors or ())

            assert await nodes() == (0, 1)
            await (await client.begin_delete_pool("first", polling_interval=0.01)).result()
            assert await nodes() == (0, 1), "not before the next evaluation"
            here.clock.advance(15 * 60)
            assert await nodes() == (1, 0)

    asyncio.run(scenario())

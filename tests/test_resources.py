"""cores=, memory=, timeout= and GPU sizes: what a task takes of its node, and what it is told of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from helpers_resources import gpus_beside, settings, threads_of_blas
from helpers_service import Account, service, until
from helpers_work import die, double, touch_and_wait_for

from batchexec import BatchConfig, BatchExecutor, Command, errors
from batchexec._engine.pools import pool
from batchexec._engine.pools.resources import Place, needs_of
from batchexec._engine.results.verdicts import more_memory
from batchexec._engine.sending.needs import Needs
from batchexec._settings import sizes
from batchexec.emulator.scheduling.autoscale import evaluate
from batchexec.emulator.scheduling.autoscale_samples import History

CORES = os.cpu_count() or 1


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    with service() as running:
        yield running


def share(slots: int | None = None, vm_size: str = "Standard_D4s_v5", **wanted: Any) -> tuple[int, int]:
    """Slots and threads of a task on Azure."""
    config = BatchConfig(vm_size=vm_size, slots=slots)
    found = needs_of(config, Place("azure", 16, 4), **wanted)
    return found["slots"], found["threads"]


@pytest.mark.parametrize(
    ("size", "cores", "memory", "gpus"),
    [
        ("Standard_D4s_v5", 4, 16, 0),
        ("Standard_D2ls_v5", 2, 4, 0),
        ("Standard_D3_v2_Promo", 4, 14, 0),
        ("Standard_DS13_v2", 8, 56, 0),
        ("Standard_A7", 8, 56, 0),
        ("Standard_E64-16s_v5", 16, 512, 0),
        ("Standard_E64_v3", 64, 432, 0),
        ("Standard_F8s_v2", 8, 16, 0),
        ("Standard_F16ams_v6", 16, 128, 0),
        ("Standard_B2ts_v2", 2, 1, 0),
        ("Standard_HB120-16rs_v3", 16, 448, 0),
        ("Standard_M64s", 64, None, 0),
        ("Standard_NC6", 6, 56, 1),
        ("Standard_NC24rs_v3", 24, 448, 4),
        ("Standard_NC4as_T4_v3", 4, 27.5, 1),
        ("Standard_NC64as_T4_v3", 64, 440, 4),
        ("Standard_NC48ads_A100_v4", 48, 440, 2),
        ("Standard_NC80adis_H100_v5", 80, 640, 2),
        ("Standard_ND40rs_v2", 40, 672, 8),
        ("Standard_ND96asr_v4", 96, 900, 8),
        ("Standard_ND96isr_H100_v5", 96, 1850, 8),
        ("Standard_ND128isr_NDR_GB200_v6", 128, 900, 4),
        ("Standard_NV48s_v3", 48, 448, 4),
        ("Standard_NV6ads_A10_v5", 6, 55, 1),
        ("Standard_NV72ads_A10_v5", 72, 660, 2),
        ("Standard_NV24ads_V710_v5", 24, None, 1),
        ("Standard_NC999x_Z1_v9", 999, None, None),
    ],
)
def test_a_sizes_name_tells_what_it_has(size: str, cores: int, memory: float | None, gpus: int | None) -> None:
    assert sizes.vcpus(size) == cores
    assert sizes.memory(size) == (memory and pytest.approx(memory))
    assert sizes.gpus(size) == gpus


def test_slots_are_counted_by_what_is_asked_for() -> None:
    assert share() == (1, 1)
    assert share(cores=2) == (2, 2)
    assert share(cores=3) == (3, 3)
    assert share(memory=4) == (1, 1)
    assert share(memory=4.5) == (2, 2)
    assert share(cores=1, memory=16) == (4, 1), "the memory of the whole node, and one core of it"
    assert share(slots=2) == (1, 2)
    assert share(slots=2, cores=3) == (2, 3)
    assert share(slots=8, cores=1) == (2, 1)
    assert share(slots=8) == (1, 1)


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ({"cores": 5}, "cores: a Standard_D4s_v5 node has 4, got 5; use a larger vm_size"),
        ({"memory": 16.5}, "memory: a Standard_D4s_v5 node has 16 GiB, got 16.5"),
        ({"memory": 1, "vm_size": "Standard_M64s"}, "nobody knows how much a Standard_M64s node has: set slots"),
        ({"cores": 1, "vm_size": "Future_1", "slots": 2}, "nobody knows how much a Future_1 node has: set slots"),
    ],
)
def test_more_than_a_node_has_is_said_before_anything_is_sent(
    wanted: dict[str, Any], text: str, account: Account
) -> None:
    with pytest.raises(errors.ConfigError, match=text):
        BatchExecutor(**account.settings, **wanted)
    assert not account.left()


def test_this_machine_is_a_node_of_at_most_256_slots() -> None:
    assert BatchExecutor(max_workers=300, where="local").stats().slots == 256


def test_this_machine_has_what_it_has() -> None:
    with pytest.raises(errors.ConfigError, match=f"cores: this machine has {CORES}, got {CORES + 1}"):
        BatchExecutor(where="local", cores=CORES + 1)
    with pytest.raises(errors.ConfigError, match="memory: this machine has"):
        BatchExecutor(where="local", memory=1e6)
    assert BatchExecutor(where="local", cores=CORES, max_workers=CORES).stats().slots == 1
    assert BatchExecutor(where="inline", cores=1000).submit(double, 2).result() == 4


def test_a_size_without_known_gpus_needs_slots() -> None:
    with pytest.raises(errors.ConfigError, match="cannot read the GPUs from 'Standard_NC9ads_Z1_v9': set slots"):
        BatchConfig(vm_size="Standard_NC9ads_Z1_v9")
    assert BatchConfig(vm_size="Standard_NC9ads_Z1_v9", slots=2).slots_per_node == 2
    assert BatchConfig(vm_size="Standard_NC48ads_A100_v4").slots_per_node == 2


def test_tasks_take_slots_and_threads_and_their_directories_do_not_stay_for_days(account: Account) -> None:
    wanted = {"cores": 2, "timeout": 90, "env": {"MKL_NUM_THREADS": "7"}, "max_nodes": 2}
    with BatchExecutor(**account.settings, **wanted) as executor:
        found = executor.submit(settings, "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS").result()
        assert found == {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2", "MKL_NUM_THREADS": "7"}
        assert executor.stats().slots == 4, "two tasks on each of two nodes"
        assert list(executor.map(double, range(100))) == [2 * number for number in range(100)]
        job = account.batch.get_job(str(executor.stats().job_id))
        tasks = list(account.batch.list_tasks(str(job.id)))
    assert job.max_parallel_tasks == 4
    assert len(tasks) == 1 + 15, "chunks for four slots, not for eight"
    for task in tasks:
        assert task.required_slots == 2
        constraints = task.constraints.as_dict()
        assert constraints["retentionTime"] == "PT1H"
        assert constraints["maxWallClockTime"] == "PT90.000S"


def test_a_pool_grows_to_as_many_nodes_as_wide_tasks_take() -> None:
    """The service's formula counts tasks: it has to know how many of them a node runs at once."""
    formulas = {cores: pool.azure_pool(BatchConfig(cores=cores), 3)["autoScaleFormula"] for cores in (1, 2, 4)}

    def nodes_for(tasks: int, formula: str) -> int:
        history = History(
            [(30.0 * i, {"$PendingTasks": float(tasks)}) for i in range(60)], 1800, datetime.now(timezone.utc)
        )
        return int(evaluate(formula, {}, history.ask)["$TargetDedicatedNodes"])  # type: ignore[arg-type]

    assert [nodes_for(3, formulas[cores]) for cores in (1, 2, 4)] == [1, 2, 3]
    assert pool.reckoning_with(formulas[1], 2) == formulas[2].replace(": 6;", ": 12;")
    assert pool.tasks_a_node(formulas[2]) == 2
    assert pool.tasks_a_node("$TargetDedicatedNodes = 1;") is None


@pytest.mark.slow  # the service takes no other formula within half a minute
@pytest.mark.timeout(300)
def test_a_pool_that_is_there_learns_of_wider_tasks(account: Account, tmp_path: Path) -> None:
    given = {**account.settings, "max_nodes": 2, "idle_minutes": 7, "vm_size": "Standard_D4as_v5"}
    with BatchExecutor(**given) as executor:
        executor.submit(double, 1).result()
    name = pool.pool_id(BatchConfig(**given))

    def tasks() -> int | None:
        return pool.tasks_a_node(str(account.batch.get_pool(name).auto_scale_formula))

    assert tasks() == 4
    with BatchExecutor(**given) as executor:
        futures = [executor.submit(touch_and_wait_for, str(tmp_path), str(i)) for i in range(8)]
        last = executor.submit(Command("true", cores=4))  # there is no room for it, so it waits
        until(tasks, lambda found: found == 1, 200)
        (tmp_path / "go").touch()
        assert last.result().exit_code == 0
        assert [future.result() for future in futures] == [None] * 8


def test_a_command_has_needs_of_its_own(account: Account) -> None:
    """Beside callables of the same executor: its tasks say so for themselves."""
    program = Command("printenv OMP_NUM_THREADS OPENBLAS_NUM_THREADS", cores=3, timeout=80)
    with BatchExecutor(**account.settings, env={"OPENBLAS_NUM_THREADS": "7"}) as executor:
        assert executor.submit(program).result().stdout == "3\n7\n"
        assert executor.submit(settings, "OMP_NUM_THREADS").result() == {"OMP_NUM_THREADS": "1"}
        first, second = account.batch.list_tasks(str(executor.stats().job_id))
        with pytest.raises(errors.ConfigError, match="got 5"):
            executor.submit(Command("true", cores=5))
    assert (first.required_slots, second.required_slots) == (3, 1)


def test_who_sets_openmps_threads_sets_all() -> None:
    with BatchExecutor(where="local", max_workers=2, env={"OMP_NUM_THREADS": "3"}) as executor:
        found = executor.submit(settings, "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS").result()
    assert found == {"OMP_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": None}


def test_a_pool_that_is_there_has_slots_of_its_own(account: Account) -> None:
    name = account.fixed_pool("wide", slots=8)
    with BatchExecutor(**account.settings, pool_id=name, cores=2) as executor:
        executor.submit(double, 1).result()
        (task,) = account.batch.list_tasks(str(executor.stats().job_id))
    assert task.required_slots == 4, "of eight slots on four cores"
    with BatchExecutor(**account.settings, pool_id=name, vm_size="Standard_D16s_v5", cores=8) as executor:
        error = executor.submit(double, 1).exception()
    assert isinstance(error, errors.PoolMismatchError)
    assert "is too small: cores: a Standard_D4s_v5 node has 4, got 8" in str(error)


@pytest.mark.parametrize("slots", [None, 4])
def test_tasks_that_run_together_have_gpus_of_their_own(account: Account, tmp_path: Path, slots: int | None) -> None:
    """Two GPUs: one for each slot, or each shared by two."""
    gpus = {**account.settings, "vm_size": "Standard_NC48ads_A100_v4", "slots": slots, "max_nodes": 1}
    together = slots or 2
    with BatchExecutor(**gpus) as executor:
        for turn in "ab":
            folder = tmp_path / turn
            folder.mkdir()
            futures = [executor.submit(gpus_beside, str(folder), str(i), together) for i in range(together)]
            assert sorted(future.result(60) for future in futures) == sorted("01" * (together // 2))
        found = executor.submit(settings, "NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES").result()
    assert found["NVIDIA_VISIBLE_DEVICES"] == "all"
    with BatchExecutor(**gpus, cores=48) as executor:
        assert executor.submit(settings, "CUDA_VISIBLE_DEVICES").result() == {"CUDA_VISIBLE_DEVICES": "0,1"}
    with BatchExecutor(**gpus, env={"CUDA_VISIBLE_DEVICES": "7"}) as executor:
        assert executor.submit(settings, "CUDA_VISIBLE_DEVICES").result() == {"CUDA_VISIBLE_DEVICES": "7"}


def test_out_of_memory_says_what_to_set(account: Account) -> None:
    with BatchExecutor(**account.settings, retries=0) as executor:
        text = str(executor.submit(die, "SIGKILL").exception())
    assert "the node ran out of memory" in text
    assert "A task had 1 of the 4 slots of a Standard_D4s_v5 node of 16.0 GiB" in text
    assert "set memory=8 (GiB a task), cores=2, or slots=2 (now 4 per node)" in text
    with BatchExecutor(where="local", retries=0, max_workers=6) as executor:
        assert "or max_workers=3 (now 6)" in str(executor.submit(die, "SIGKILL").exception())
    whole = Needs(**needs_of(BatchConfig(memory=16), Place("azure", 16, 4)))
    assert "had a Standard_D4s_v5 node of 16.0 GiB to itself: use a larger vm_size" in more_memory(whole)


@pytest.mark.parametrize("threads", [pytest.param(1, marks=pytest.mark.slow), CORES])
def test_blas_has_the_threads_of_the_task_though_numpy_was_loaded_before_it(threads: int) -> None:
    pytest.importorskip("threadpoolctl")
    with BatchExecutor(where="local", max_workers=CORES, cores=threads) as executor:
        found = [executor.submit(threads_of_blas, number).result() for number in range(2)]
    warm, pools, running = found[-1]
    assert warm, "the node loads it before the task is forked"
    assert pools
    assert set(pools) == {threads}
    assert running >= threads
    if threads == 1:
        assert running == 1

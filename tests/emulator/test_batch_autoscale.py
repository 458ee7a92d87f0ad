"""Autoscale: formulas, and pools that follow them in hours which last milliseconds."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from azure.batch.aio import BatchClient
from azure.core.credentials import AzureNamedKeyCredential
from batch_service import refused

from batchexec.emulator.autoscale import FormulaError, evaluate
from batchexec.emulator.clock import ManualClock
from batchexec.emulator.options import Options
from batchexec.emulator.service import Access, Emulator, listen

FORMULA = """
    // two nodes while there is work, and for ten minutes after
    seen = $PendingTasks.GetSamplePercent(TimeInterval_Minute * 10);
    work = seen < 70 ? 1 : max($PendingTasks.GetSample(TimeInterval_Minute * 10));
    $TargetDedicatedNodes = work > 0 ? 2 : 0;
    $NodeDeallocationOption = taskcompletion;
"""


def no_samples(variable: str, method: str, argument: float) -> float:
    raise FormulaError("no samples")


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("x = 1 + 2 * 3 - -4 / 2;", 9),
        ("x = (1 + 2) * 3", 9),
        ("x = 1 < 2 && !(3 >= 4) || 0;", 1),
        ("a = 5; x = a > 4 ? max(a, 7, min(1, 2)) : 0;", 7),
        ("x = avg(1, 2, 6);", 3),
        ("x = 1 ? 2 : max($PendingTasks.GetSample(1));", 2),
        ("x = $CurrentDedicatedNodes /* now */ + 1;", 4),
    ],
)
def test_a_formula_assigns(formula: str, value: float) -> None:
    assert evaluate(formula, {"$CurrentDedicatedNodes": 3}, no_samples)["x"] == value


@pytest.mark.parametrize("formula", ["x = ", "x = 1 2", "x = #", "x = y", "x = 1 / 0", "1 = 1 = 1", "x = max(1"])
def test_what_is_no_formula_is_refused(formula: str) -> None:
    with pytest.raises(FormulaError):
        evaluate(formula, {}, no_samples)


def test_a_pool_grows_with_work_and_is_gone_without(tmp_path: Path) -> None:
    async def scenario() -> None:
        clock = ManualClock()
        batch, blobs = listen(0), listen(0)
        access = Access.create(batch, blobs)
        credential = AzureNamedKeyCredential(access.account, access.batch_key)
        async with (
            Emulator(batch, blobs, access, Options(tmp_path), clock),
            BatchClient(access.batch_endpoint, credential) as client,
        ):
            body: Any = {"id": "p", "vmSize": "Standard_D4s_v5", "enableAutoScale": True, "autoScaleFormula": FORMULA}
            await client.create_pool({**body, "autoScaleEvaluationInterval": "PT5M"})
            job: Any = {"id": "j", "poolInfo": {"poolId": "p"}}
            await client.create_job(job)

            async def nodes_after(minutes: float) -> int:
                for _ in range(int(minutes * 2)):
                    clock.advance(30)
                while (pool := await client.get_pool("p")).allocation_state != "steady":
                    pass
                return int(pool.current_dedicated_nodes or 0)

            assert await nodes_after(0) == 2, "the start size while there are too few samples"
            assert await nodes_after(11) == 0
            task: Any = {"id": "t", "commandLine": "/bin/sh -c 'until [ -e go ]; do sleep 0.01; done'"}
            await client.create_task("j", task)
            assert await nodes_after(6) == 2
            assert await nodes_after(30) == 2
            while not (wd := list(tmp_path.glob("nodes/*/workitems/j/job-1/t/wd"))):
                await asyncio.sleep(0)
            (wd[0] / "go").touch()
            while (await client.get_task("j", "t")).state != "completed":
                pass
            assert await nodes_after(5) == 2, "idle, but not for long enough"
            assert await nodes_after(11) == 0
            run = (await client.get_pool("p")).auto_scale_run
            assert run is not None
            assert "$TargetDedicatedNodes=0" in str(run.results)
            with refused("OperationNotValidOnPool", 409):
                resize: Any = {"targetDedicatedNodes": 1}
                await client.begin_resize_pool("p", resize)
            enable: Any = {"autoScaleFormula": FORMULA}
            await client.enable_pool_auto_scale("p", enable)
            with refused("TooManyEnableAutoScaleRequests", 503):
                await client.enable_pool_auto_scale("p", enable, retry_total=0)
            clock.advance(31)
            with refused("AutoScalingFormulaSyntaxError", 400):
                await client.enable_pool_auto_scale("p", {"autoScaleFormula": "nonsense"})  # type: ignore[arg-type]

    asyncio.run(scenario())

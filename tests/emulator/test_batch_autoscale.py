"""Autoscale: formulas, and pools that follow them in hours which last milliseconds."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from batch_service import refused
from manual_service import emulated

from batchexec.emulator.scheduling.autoscale import check_syntax, evaluate
from batchexec.emulator.scheduling.autoscale_samples import History
from batchexec.emulator.scheduling.autoscale_values import FormulaError, Interval, NoSamples, Value

FORMULA = """
    // two nodes while there is work, and for ten minutes after
    seen = $PendingTasks.GetSamplePercent(TimeInterval_Minute * 10);
    work = seen < 70 ? 1 : max($PendingTasks.GetSample(TimeInterval_Minute * 10));
    $TargetDedicatedNodes = work > 0 ? 2 : 0;
    $NodeDeallocationOption = taskcompletion;
"""


NOW = datetime(2026, 11, 21, 13, 30, 5, tzinfo=timezone.utc)  # a Saturday


def no_samples(variable: str, method: str, arguments: list[Value]) -> Value:
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
        ("x = 1; stop(); x = 2;", 1),
        ("x = 1; x = 0 ? 1 / 0 : x;", 1),
        ("v = vec(3, 1, 2); x = v * 2 - vec(1, 1, 1);", [5, 1, 3]),
        ("v = vec(3, 1, 2); x = val(v, 1) + percentile(v, 50) + range(v);", 5),
        ("x = norm(3, 4) + lg(8) + log(100) + len(vec());", 10),
        ("x = std(1, 2, 3, 4, 5, 6, 7, 8, 9) * std(1, 2, 3, 4, 5, 6, 7, 8, 9) + std(4);", 7.5),
        ("x = time().hour * 100 + time().minute + (time().weekday == 6 ? 0.5 : 0);", 1330.5),
        ('x = (time() - time("2026-11-21T13:00:05Z")) / TimeInterval_Minute;', 30),
        ('x = time("Sat, 21 Nov 2026 13:30:05 GMT") + TimeInterval_Hour > time() ? 1 : 0;', 1),
        ("$TargetDedicated = 3; x = 1;", 1),
        ("x = 2 * TimeInterval_Minute + TimeInterval_Second;", 121),
        ("x = -vec(1, 2);", [-1, -2]),
    ],
)
def test_a_formula_assigns(formula: str, value: float | list[float]) -> None:
    assert evaluate(formula, {"$CurrentDedicatedNodes": 3.0}, no_samples, NOW)["x"] == pytest.approx(value)


def test_the_short_names_of_the_targets_are_the_targets() -> None:
    found = evaluate("$TargetDedicated = 3; $TargetLowPriority = 4; $TargetLowPriorityNodes = 5;", {}, no_samples)
    assert (found["$TargetDedicatedNodes"], found["$TargetLowPriorityNodes"]) == (3, 5)


NO_FORMULAS = ["x = ", "x = 1 2", "x = #", "x = y", "1 = 1 = 1", "x = max(1", "x = $A.GetSample(1)"]
NO_FORMULAS += ["x = $PendingTasks.Sample(1)", "x = 1;" * 101, "x = " + "(" * 5000]
NO_VALUES = ["x = 1 / 0", "x = lg(0)", "x = val(vec(1), 1)", "x = max()", "x = vec(1) + vec(1, 2)", 'x = "a" + 1']
NO_VALUES += ["x = time().age", "x = vec(1) < 2", 'x = time("yesterday")', "x = time() + 1", "x = lg(1, 2)"]


@pytest.mark.parametrize("formula", NO_FORMULAS)
def test_what_is_no_formula_is_refused(formula: str) -> None:
    with pytest.raises(FormulaError):
        check_syntax(formula)
    with pytest.raises(FormulaError):
        evaluate(formula, {}, lambda *_: 1.0)


@pytest.mark.parametrize("formula", NO_VALUES)
def test_what_has_no_value_shows_when_it_is_evaluated(formula: str) -> None:
    check_syntax(formula)
    with pytest.raises(FormulaError):
        evaluate(formula, {}, no_samples)


MINUTE = Interval(60.0)


@pytest.mark.parametrize(
    ("method", "arguments", "found"),
    [
        ("GetSample", [2.0], [17, 18]),
        ("GetSample", [Interval(120.0)], [17, 18]),
        ("GetSample", [Interval(120.0), 50.0], [17, 18]),
        ("GetSample", [MINUTE, Interval(180.0)], [15, 16, 17, 18]),
        ("GetSample", [Interval(180.0), MINUTE, 100.0], [15, 16, 17, 18]),
        ("GetSample", [NOW - timedelta(seconds=120)], [17, 18]),
        ("GetSamplePercent", [Interval(120.0)], 50),
        ("GetSamplePercent", [Interval(600.0)], 90),
        ("GetSamplePercent", [MINUTE], 0),
        ("GetSamplePercent", [MINUTE, Interval(300.0)], 100),
        ("GetSamplePeriod", [], 30),
        ("Count", [], 19),
        ("HistoryBeginTime", [], NOW - timedelta(minutes=10)),
    ],
)
def test_samples_are_there_a_minute_after_they_were_taken(method: str, arguments: list[Value], found: Value) -> None:
    history = History([(30.0 * i, {"$PendingTasks": float(i)}) for i in range(21)], 600.0, NOW)
    assert history.ask("$PendingTasks", method, arguments) == found


def test_too_few_samples_end_the_evaluation() -> None:
    history = History([(30.0 * i, {"$PendingTasks": float(i)}) for i in range(21)], 600.0, NOW)
    for arguments in ([Interval(120.0), 60.0], [MINUTE]):
        with pytest.raises(NoSamples):
            history.ask("$PendingTasks", "GetSample", arguments)
    with pytest.raises(NoSamples):
        history.ask("$CPUPercent", "GetSample", [1.0])


def test_a_pool_grows_with_work_and_is_gone_without(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with emulated(tmp_path) as here:
            client, clock = here.client, here.clock
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
            with refused("AutoScaleFormulaTooLong", 400):
                await client.enable_pool_auto_scale("p", {"autoScaleFormula": "x=1;" * 2049})  # type: ignore[arg-type]
            ask: Any = {"autoScaleFormula": "$TargetDedicatedNodes = min(7, $CurrentDedicatedNodes + 5);"}
            answer = await client.evaluate_pool_auto_scale("p", ask)
            assert (answer.results, answer.error) == ("$TargetDedicatedNodes=5", None)
            answer = await client.evaluate_pool_auto_scale("p", {"autoScaleFormula": "x = 1 / 0;"})  # type: ignore[arg-type]
            assert answer.error is not None
            assert answer.error.code == "AutoScalingFormulaEvaluationError"
            assert (await client.get_pool("p")).current_dedicated_nodes == 0, "it is only evaluated"
            await client.disable_pool_auto_scale("p")
            with refused("OperationNotValidOnPool", 409):
                await client.evaluate_pool_auto_scale("p", ask)
            found = await client.get_pool("p")
            assert (found.enable_auto_scale, found.auto_scale_formula, found.auto_scale_run) == (False, None, None)

    asyncio.run(scenario())

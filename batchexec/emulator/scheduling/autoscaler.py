"""Autoscale of pools: samples taken while it is on, and formulas evaluated at their interval."""

from __future__ import annotations

import math
from collections import Counter, deque

from batchexec.emulator.clock import Clock, Timer, iso, seconds_of
from batchexec.emulator.errors import BatchError, missing
from batchexec.emulator.state import Account, Body, Pool

from .autoscale import check_syntax, evaluate, results_text
from .autoscale_samples import SAMPLE_SECONDS, History
from .autoscale_values import FormulaError, NoSamples, Value, scalar
from .pools import Pools

_KEPT_SECONDS = 24 * 3600.0
_LEAST_SECONDS_BETWEEN_ENABLING = 30.0
_LONGEST = 8192


class PoolScale:
    """What autoscale knows of one pool: its samples, newest last, and its timers."""

    def __init__(self, started: float) -> None:
        self.samples: deque[tuple[float, dict[str, float]]] = deque(maxlen=int(_KEPT_SECONDS / SAMPLE_SECONDS))
        self.enabled = started
        self.sampling: Timer | None = None
        self.evaluating: Timer | None = None


class AutoScaler:
    def __init__(self, account: Account, clock: Clock, pools: Pools) -> None:
        self._account = account
        self._clock = clock
        self._pools = pools
        self._scales: dict[Pool, PoolScale] = {}

    def enable(self, pool: Pool, settings: Body) -> None:
        """Switch it on, or on with other settings: `settings` is the pool's body from now on."""
        if pool.allocation_state != "steady":
            raise BatchError("PoolBeingResized")
        scale = self._scales.get(pool)
        if scale is not None and self._clock.monotonic() - scale.enabled < _LEAST_SECONDS_BETWEEN_ENABLING:
            raise BatchError("TooManyEnableAutoScaleRequests")
        self.check(settings)
        pool.body = settings
        pool.touch(self._clock.now())
        self.begin(pool)

    def disable(self, pool: Pool) -> None:
        names = ("enableAutoScale", "autoScaleFormula", "autoScaleEvaluationInterval")
        pool.body = {name: value for name, value in pool.body.items() if name not in names}
        self._end(pool)
        pool.autoscale_run = None
        pool.touch(self._clock.now())

    def evaluate(self, pool: Pool, formula: str) -> Body:
        """What the formula would do now, as the service shows a run of it."""
        if not pool.body.get("enableAutoScale"):
            raise BatchError("OperationNotValidOnPool", Reason="autoscale is not enabled")
        return self._run(pool, formula)[0]

    def check(self, settings: Body) -> None:
        """Raise what the service answers to autoscale settings that cannot be."""
        if not settings.get("autoScaleFormula"):
            raise missing("autoScaleFormula")
        if len(settings["autoScaleFormula"]) > _LONGEST:
            raise BatchError("AutoScaleFormulaTooLong")
        try:
            check_syntax(settings["autoScaleFormula"])
        except FormulaError as error:
            raise BatchError("AutoScalingFormulaSyntaxError", Reason=str(error)) from None
        interval = seconds_of(settings.get("autoScaleEvaluationInterval") or "PT15M")
        if interval is None or not 300 <= interval <= 168 * 3600:
            raise BatchError("InvalidAutoScalingSettings", Reason="an interval of 5 minutes to 168 hours is expected")

    def begin(self, pool: Pool) -> None:
        """Evaluate now, and from now on at the pool's interval."""
        scale = self._scales.setdefault(pool, PoolScale(self._clock.monotonic()))
        scale.enabled = self._clock.monotonic()
        if scale.sampling is None:
            self._sample(pool, scale)
        self._evaluate(pool, scale)

    def resume(self, pool: Pool) -> None:
        """Go on with a pool that was read from a data directory: without its samples, at its next interval."""
        scale = self._scales[pool] = PoolScale(self._clock.monotonic() - _LEAST_SECONDS_BETWEEN_ENABLING)
        self._sample(pool, scale)
        scale.evaluating = self._clock.call_later(_interval(pool), lambda: self._evaluate(pool, scale))

    def _end(self, pool: Pool) -> None:
        scale = self._scales.pop(pool, None)
        for timer in (scale.sampling, scale.evaluating) if scale else ():
            if timer is not None:
                timer.cancel()

    def _sample(self, pool: Pool, scale: PoolScale) -> None:
        if pool.state == "deleting":
            self._end(pool)
            return
        scale.samples.append((self._clock.monotonic(), self._measure(pool)))
        scale.sampling = self._clock.call_later(SAMPLE_SECONDS, lambda: self._sample(pool, scale))

    def _measure(self, pool: Pool) -> dict[str, float]:
        jobs = [job for job in self._account.jobs.values() if job.pool_id.lower() == pool.id.lower()]
        active = float(sum(len(job.queue) for job in jobs if job.state == "active"))
        running = float(sum(job.at_work for job in jobs))
        states = Counter(node.state for node in pool.nodes.values())
        return {
            "$ActiveTasks": active,
            "$RunningTasks": running,
            "$PendingTasks": active + running,
            "$SucceededTasks": float(sum(job.results["success"] for job in jobs)),
            "$FailedTasks": float(sum(job.results["failure"] for job in jobs)),
            "$CurrentDedicatedNodes": float(pool.count(True)),
            "$CurrentLowPriorityNodes": float(pool.count(False)),
            "$PreemptedNodeCount": float(states["preempted"]),
            "$SampleNodeCount": float(len(pool.nodes)),
            "$UsableNodeCount": float(states["idle"] + states["running"]),
            "$TaskSlotsPerNode": float(pool.slots),
        }

    def _evaluate(self, pool: Pool, scale: PoolScale) -> None:
        if scale.evaluating is not None:
            scale.evaluating.cancel()
        if pool.state == "deleting":
            return
        scale.evaluating = self._clock.call_later(_interval(pool), lambda: self._evaluate(pool, scale))
        pool.autoscale_run, found = self._run(pool, pool.body["autoScaleFormula"])
        dedicated = _nodes(found.get("$TargetDedicatedNodes"), pool.target_dedicated)
        spot = _nodes(found.get("$TargetLowPriorityNodes"), pool.target_spot)
        if pool.allocation_state != "steady":
            return
        if (dedicated, spot) == (pool.count(True), pool.count(False)):
            # No resize: what the last one failed at stays in the pool's resizeErrors (nextflow-io/nextflow#7312).
            pool.target_dedicated, pool.target_spot = dedicated, spot
            return
        self._pools.resize(pool, dedicated, spot, str(found.get("$NodeDeallocationOption", "requeue")))

    def _run(self, pool: Pool, formula: str) -> tuple[Body, dict[str, Value]]:
        run: Body = {"timestamp": iso(self._clock.now())}
        try:
            found = self._values(pool, formula)
        except FormulaError as error:
            code = "InsufficientSampleData" if isinstance(error, NoSamples) else "AutoScalingFormulaEvaluationError"
            run["error"] = {"code": code, "message": str(error), "values": []}
            return run, {}
        shown = {"$TargetDedicatedNodes": float(pool.target_dedicated), **found}
        return {**run, "results": results_text(shown)}, found

    def _values(self, pool: Pool, formula: str) -> dict[str, Value]:
        scale = self._scales.get(pool)
        history = History(scale.samples if scale else (), self._clock.monotonic(), self._clock.now())
        given = self._measure(pool)
        given["$TargetDedicatedNodes"] = float(pool.target_dedicated)
        given["$TargetLowPriorityNodes"] = float(pool.target_spot)
        found = evaluate(formula, given, history.ask, self._clock.now())
        for name in ("$TargetDedicatedNodes", "$TargetLowPriorityNodes"):
            if name in found and not math.isfinite(scalar(found[name])):
                raise FormulaError(f"{name} is no number")
        return found


def _interval(pool: Pool) -> float:
    """Seconds between evaluations."""
    return seconds_of(pool.body.get("autoScaleEvaluationInterval") or "PT15M") or 900.0


def _nodes(value: Value | None, present: int) -> int:
    return max(0, int(value)) if isinstance(value, float) else present

"""Autoscale of pools: samples taken while it is on, formulas evaluated at their interval, and the operations."""

from __future__ import annotations

from collections import deque

from aiohttp import web

from . import schema
from .autoscale import FormulaError, NoSamples, evaluate, results_text
from .clock import Clock, Timer, iso, seconds_of
from .errors import BatchError, missing
from .pools import Pools
from .server import Call, Operation, answer, done
from .state import Account, Body, Pool

SAMPLE_SECONDS = 30.0
_KEPT_SECONDS = 24 * 3600.0
_LEAST_SECONDS_BETWEEN_ENABLING = 30.0


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

    def operations(self) -> dict[str, Operation]:
        return {
            "POST pools/*/enableautoscale": self.enable,
            "POST pools/*/disableautoscale": self.disable,
            "POST pools/*/evaluateautoscale": self.evaluate,
        }

    def enable(self, call: Call) -> web.Response:
        body = call.body()
        schema.AUTOSCALE.check(body)
        pool = self._open(call)
        scale = self._scales.get(pool)
        if scale is not None and self._clock.monotonic() - scale.enabled < _LEAST_SECONDS_BETWEEN_ENABLING:
            raise BatchError("TooManyEnableAutoScaleRequests")
        settings = {**pool.body, **schema.without_nulls(body), "enableAutoScale": True}
        self.check(settings)
        self._try(pool, settings["autoScaleFormula"])
        pool.body = settings
        pool.touch(self._clock.now())
        self.begin(pool)
        return done(200, call, pool)

    def disable(self, call: Call) -> web.Response:
        pool = self._open(call)
        names = ("enableAutoScale", "autoScaleFormula", "autoScaleEvaluationInterval")
        pool.body = {name: value for name, value in pool.body.items() if name not in names}
        self._end(pool)
        pool.autoscale_run = None
        pool.touch(self._clock.now())
        return done(200, call, pool)

    def evaluate(self, call: Call) -> web.Response:
        body = call.body()
        schema.EVALUATE.check(body)
        pool = self._open(call)
        if not pool.body.get("enableAutoScale"):
            raise BatchError("OperationNotValidOnPool", Reason="autoscale is not enabled")
        return answer(self._run(pool, body["autoScaleFormula"])[0], pool)

    def check(self, settings: Body) -> None:
        """Raise what the service answers to autoscale settings that cannot be."""
        if not settings.get("autoScaleFormula"):
            raise missing("autoScaleFormula")
        interval = seconds_of(settings.get("autoScaleEvaluationInterval") or "PT15M")
        if len(settings["autoScaleFormula"]) > 8192 or interval is None or not 300 <= interval <= 168 * 3600:
            raise BatchError("InvalidAutoScalingSettings", Reason="5 minutes to 168 hours, at most 8192 characters")

    def begin(self, pool: Pool) -> None:
        """Evaluate now, and from now on at the pool's interval."""
        scale = self._scales.setdefault(pool, PoolScale(self._clock.monotonic()))
        scale.enabled = self._clock.monotonic()
        if scale.sampling is None:
            self._sample(pool, scale)
        self._evaluate(pool, scale)

    def _open(self, call: Call) -> Pool:
        pool = self._account.pool(call.ids[0])
        call.check_conditions(pool)
        if pool.state == "deleting":
            raise BatchError("PoolBeingDeleted")
        return pool

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
        active = float(sum(job.counts["active"] for job in jobs if job.state == "active"))
        running = float(sum(job.at_work for job in jobs))
        return {
            "$ActiveTasks": active,
            "$RunningTasks": running,
            "$PendingTasks": active + running,
            "$CurrentDedicatedNodes": float(pool.count(True)),
            "$CurrentLowPriorityNodes": float(pool.count(False)),
            "$UsableNodeCount": float(len(pool.nodes)),
        }

    def _evaluate(self, pool: Pool, scale: PoolScale) -> None:
        if scale.evaluating is not None:
            scale.evaluating.cancel()
        if pool.state == "deleting":
            return
        interval = seconds_of(pool.body.get("autoScaleEvaluationInterval") or "PT15M") or 900.0
        scale.evaluating = self._clock.call_later(interval, lambda: self._evaluate(pool, scale))
        pool.autoscale_run, found = self._run(pool, pool.body["autoScaleFormula"])
        dedicated = _nodes(found.get("$TargetDedicatedNodes"), pool.target_dedicated)
        spot = _nodes(found.get("$TargetLowPriorityNodes"), pool.target_spot)
        changed = (dedicated, spot) != (pool.target_dedicated, pool.target_spot)
        if (changed or pool.resize_errors) and pool.allocation_state == "steady":
            self._pools.resize(pool, dedicated, spot, str(found.get("$NodeDeallocationOption", "requeue")))

    def _run(self, pool: Pool, formula: str) -> tuple[Body, dict[str, float | list[float] | str]]:
        run: Body = {"timestamp": iso(self._clock.now())}
        try:
            found = self._values(pool, formula)
        except FormulaError as error:
            run["error"] = {"code": "AutoScalingFormulaEvaluationError", "message": str(error), "values": []}
            return run, {}
        shown = {"$TargetDedicatedNodes": float(pool.target_dedicated), **found}
        return {**run, "results": results_text(shown)}, found

    def _try(self, pool: Pool, formula: str) -> None:
        """Refuse a formula that cannot even be read."""
        try:
            self._values(pool, formula)
        except NoSamples:
            pass  # it can be read, and more is not known before its time
        except FormulaError as error:
            raise BatchError("AutoScalingFormulaSyntaxError", Reason=str(error)) from None

    def _values(self, pool: Pool, formula: str) -> dict[str, float | list[float] | str]:
        scale = self._scales.get(pool)
        history = scale.samples if scale else ()
        now = self._clock.monotonic()

        def samples(variable: str, method: str, argument: float) -> float | list[float]:
            recent = [values for moment, values in history if moment > now - argument]
            if method == "GetSamplePercent":
                return min(100.0, 100.0 * len(recent) / max(1.0, argument / SAMPLE_SECONDS))
            if method != "GetSample":
                raise FormulaError(f"unknown method {method!r}")
            found = [values[variable] for values in recent if variable in values]
            if not found:
                raise NoSamples(f"there are no samples of {variable} yet")
            return found

        given = self._measure(pool)
        given["$TargetDedicatedNodes"] = float(pool.target_dedicated)
        given["$TargetLowPriorityNodes"] = float(pool.target_spot)
        return evaluate(formula, given, samples)


def _nodes(value: float | list[float] | str | None, present: int) -> int:
    return max(0, int(value)) if isinstance(value, float) else present

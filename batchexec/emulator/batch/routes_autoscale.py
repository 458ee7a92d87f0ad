"""Operations on the autoscale of pools."""

from __future__ import annotations

from aiohttp import web

from batchexec.emulator.scheduling.autoscaler import AutoScaler
from batchexec.emulator.state import Account

from . import schema
from .routes_pools import open_pool
from .server import Call, Operation, answer, done


class AutoScaleRoutes:
    def __init__(self, account: Account, scaler: AutoScaler) -> None:
        self._account = account
        self._scaler = scaler

    def operations(self) -> dict[str, Operation]:
        return {
            "POST pools/*/enableautoscale": self.enable,
            "POST pools/*/disableautoscale": self.disable,
            "POST pools/*/evaluateautoscale": self.evaluate,
        }

    def enable(self, call: Call) -> web.Response:
        """What is not given stays as it was."""
        body = call.body()
        schema.AUTOSCALE.check(body)
        pool = open_pool(self._account, call)
        settings = {**pool.body, **schema.without_nulls(body), "enableAutoScale": True}
        for name in ("targetDedicatedNodes", "targetLowPriorityNodes"):
            settings.pop(name, None)
        self._scaler.enable(pool, settings)
        return done(200, call, pool)

    def disable(self, call: Call) -> web.Response:
        pool = open_pool(self._account, call)
        self._scaler.disable(pool)
        return done(200, call, pool)

    def evaluate(self, call: Call) -> web.Response:
        body = call.body()
        schema.EVALUATE.check(body)
        pool = open_pool(self._account, call)
        return answer(self._scaler.evaluate(pool, body["autoScaleFormula"]), pool)

"""Operations on pools."""

from __future__ import annotations

from operator import attrgetter

from aiohttp import web

from . import schema
from .autoscaler import AutoScaler
from .clock import Clock, iso
from .errors import BatchError, invalid
from .odata import Getter
from .pools import Pools
from .quotas import cores_of
from .server import Call, Operation, Wire, answer, chosen, done, listed
from .state import Account, Body, Pool

_seq = attrgetter("seq")
_POOL_FILTERS: dict[str, Getter] = {
    "id": attrgetter("id"),
    "state": attrgetter("state"),
    "stateTransitionTime": attrgetter("state_time"),
    "creationTime": attrgetter("created"),
    "lastModified": attrgetter("modified"),
    "allocationState": attrgetter("allocation_state"),
    "allocationStateTransitionTime": attrgetter("allocation_time"),
    "enableAutoScale": lambda pool: pool.body.get("enableAutoScale", False),
    "enableInterNodeCommunication": lambda pool: pool.body.get("enableInterNodeCommunication", False),
    "vmSize": lambda pool: pool.body["vmSize"],
}


class PoolRoutes:
    def __init__(self, account: Account, clock: Clock, pools: Pools, scaler: AutoScaler) -> None:
        self._account = account
        self._clock = clock
        self._pools = pools
        self._scaler = scaler

    def operations(self) -> dict[str, Operation]:
        return {
            "POST pools": self.create,
            "GET pools": self.list,
            "GET pools/*": self.get,
            "HEAD pools/*": self.exists,
            "DELETE pools/*": self.delete,
            "PATCH pools/*": self.patch,
            "POST pools/*/resize": self.resize,
            "POST pools/*/stopresize": self.stop_resize,
        }

    def create(self, call: Call) -> web.Response:
        body = call.body()
        schema.POOL.check(body)
        body = schema.without_nulls(body)
        if body["id"].lower() in self._account.pools:
            raise BatchError("PoolExists")
        slots, cores = body.get("taskSlotsPerNode", 1), cores_of(body["vmSize"])
        if slots > min(4 * cores, 256):
            raise invalid("taskSlotsPerNode", slots, f"at most 4 per core; {body['vmSize']} has {cores}")
        scaled = bool(body.get("enableAutoScale"))
        if scaled:
            self._scaler.check(body)
            if "targetDedicatedNodes" in body or "targetLowPriorityNodes" in body:
                raise invalid("targetDedicatedNodes", "", "not with autoscale")
        self._account.quotas.admit_pool(self._account)
        pool = Pool(body["id"], body, self._clock.now())
        self._account.pools[pool.id.lower()] = pool
        if scaled:
            self._scaler.begin(pool)
        else:
            dedicated, spot = body.get("targetDedicatedNodes", 0), body.get("targetLowPriorityNodes", 0)
            self._pools.resize(pool, dedicated, spot)
        return done(201, call, pool, f"/pools/{pool.id}")

    def list(self, call: Call) -> web.Response:
        found = call.filter(_POOL_FILTERS)
        return listed(call, "pools", self._account.pools.values(), found, _seq, self._wire(call))

    def get(self, call: Call) -> web.Response:
        pool = self._account.pool(call.ids[0])
        call.check_conditions(pool, reading=True)
        return answer(self._wire(call)(pool, call.select()), pool)

    def exists(self, call: Call) -> web.Response:
        return done(200, call, self._account.pool(call.ids[0]))

    def delete(self, call: Call) -> web.Response:
        pool = self._account.pool(call.ids[0])
        call.check_conditions(pool)
        self._pools.delete(pool)
        return done(202, call)

    def patch(self, call: Call) -> web.Response:
        pool = self._open(call)
        body = call.body()
        schema.POOL_PATCH.check(body)
        pool.body = {**pool.body, **schema.without_nulls(body)}
        pool.touch(self._clock.now())
        return done(200, call, pool)

    def resize(self, call: Call) -> web.Response:
        pool = self._open(call)
        body = call.body()
        schema.RESIZE.check(body)
        if pool.body.get("enableAutoScale"):
            raise BatchError("OperationNotValidOnPool", Reason="autoscale is enabled")
        if pool.allocation_state != "steady":
            raise BatchError("PoolBeingResized")
        dedicated = body.get("targetDedicatedNodes")
        spot = body.get("targetLowPriorityNodes")
        self._pools.resize(
            pool,
            pool.target_dedicated if dedicated is None else dedicated,
            pool.target_spot if spot is None else spot,
            body.get("nodeDeallocationOption") or "requeue",
        )
        return done(202, call, pool)

    def stop_resize(self, call: Call) -> web.Response:
        pool = self._open(call)
        if pool.allocation_state == "resizing":
            pool.allocate("stopping", self._clock.now())
        return done(202, call, pool)

    def _open(self, call: Call) -> Pool:
        pool = self._account.pool(call.ids[0])
        call.check_conditions(pool)
        if pool.state == "deleting":
            raise BatchError("PoolBeingDeleted")
        return pool

    def _wire(self, call: Call) -> Wire[Pool]:
        return lambda pool, select: chosen(select, pool_wire(pool, call.base))


def pool_wire(pool: Pool, base: str) -> Body:
    found: Body = {
        "id": pool.id,
        "url": f"{base}/pools/{pool.id}",
        "eTag": pool.etag,
        "lastModified": iso(pool.modified),
        "creationTime": iso(pool.created),
        "state": pool.state,
        "stateTransitionTime": iso(pool.state_time),
        "allocationState": pool.allocation_state,
        "allocationStateTransitionTime": iso(pool.allocation_time),
        "resizeTimeout": "PT15M",
        "taskSchedulingPolicy": {"nodeFillType": "spread"},
        "enableAutoScale": False,
        "enableInterNodeCommunication": False,
        "taskSlotsPerNode": pool.slots,
        **pool.body,
        "currentDedicatedNodes": pool.count(True),
        "currentLowPriorityNodes": pool.count(False),
        "targetDedicatedNodes": pool.target_dedicated,
        "targetLowPriorityNodes": pool.target_spot,
    }
    if pool.resize_errors:
        found["resizeErrors"] = pool.resize_errors
    if pool.autoscale_run is not None:
        found["autoScaleRun"] = pool.autoscale_run
    if pool.body.get("enableAutoScale"):
        del found["resizeTimeout"]
        found.setdefault("autoScaleEvaluationInterval", "PT15M")
    return found

"""Operations on pools."""

from __future__ import annotations

from operator import attrgetter

from aiohttp import web

from batchexec.emulator.clock import Clock, iso, seconds_of
from batchexec.emulator.errors import BatchError, invalid, missing
from batchexec.emulator.scheduling.autoscaler import AutoScaler
from batchexec.emulator.scheduling.pools import Pools
from batchexec.emulator.scheduling.quotas import cores_of
from batchexec.emulator.state import Account, Body, Pool

from . import schema
from .odata import Getter, Only
from .server import Call, Operation, Wire, answer, chosen, done, listed

_seq = attrgetter("seq")
_POOL_FILTERS: dict[str, Getter] = {
    "id": attrgetter("id"),
    "state": Only(attrgetter("state"), "eq", "ne"),
    "stateTransitionTime": attrgetter("state_time"),
    "creationTime": attrgetter("created"),
    "lastModified": attrgetter("modified"),
    "allocationState": Only(attrgetter("allocation_state"), "eq", "ne"),
    "allocationStateTransitionTime": attrgetter("allocation_time"),
    "enableAutoScale": Only(lambda pool: pool.body.get("enableAutoScale", False), "eq", "ne"),
    "enableInterNodeCommunication": Only(lambda pool: pool.body.get("enableInterNodeCommunication", False), "eq", "ne"),
    "vmSize": lambda pool: pool.body["vmSize"],
}
LOCAL = "local"
_ALWAYS_CHANGEABLE = ("startTask", "applicationPackageReferences", "metadata")  # the rest only while there are no nodes


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
            "POST pools/*/updateproperties": self.replace_properties,
            "POST pools/*/resize": self.resize,
            "POST pools/*/stopresize": self.stop_resize,
            "POST pools/*/removenodes": self.remove_nodes,
        }

    def create(self, call: Call) -> web.Response:
        body = call.body()
        schema.POOL.check(body)
        pool = self.add(schema.without_nulls(body))
        return done(201, call, pool, f"/pools/{pool.id}")

    def add(self, body: Body) -> Pool:
        """A new pool with this body, which gets its nodes from now on."""
        if body["id"].lower() in self._account.pools:
            raise BatchError("PoolExists")
        self.check(body)
        self._account.quotas.admit_pool(self._account)
        pool = Pool(body["id"], body, self._clock.now())
        self._account.pools[pool.id.lower()] = pool
        if body.get("enableAutoScale"):
            self._scaler.begin(pool)
        else:
            dedicated, spot = body.get("targetDedicatedNodes", 0), body.get("targetLowPriorityNodes", 0)
            self._pools.resize(pool, dedicated, spot, timeout=_timeout(body))
        return pool

    def check(self, body: Body) -> None:
        """Raise what the service answers to a pool that cannot be."""
        _check_properties(body)
        _timeout(body)
        if body.get("enableAutoScale"):
            self._scaler.check(body)
            for name in ("targetDedicatedNodes", "targetLowPriorityNodes"):
                if name in body:
                    raise invalid(name, body[name], "not with autoscale")
        elif "autoScaleFormula" in body:
            raise invalid("autoScaleFormula", body["autoScaleFormula"], "only with enableAutoScale")

    def list(self, call: Call) -> web.Response:
        check_expand(call)
        found = call.filter(_POOL_FILTERS)
        return listed(call, "pools", self._account.pools.values(), found, _seq, self._wire(call))

    def get(self, call: Call) -> web.Response:
        check_expand(call)
        pool = self._account.pool(call.ids[0])
        call.check_conditions(pool, reading=True)
        return answer(self._wire(call)(pool, call.select()), pool)

    def exists(self, call: Call) -> web.Response:
        pool = self._account.pool(call.ids[0])
        call.check_conditions(pool, reading=True)
        return done(200, call, pool)

    def delete(self, call: Call) -> web.Response:
        pool = self._account.pool(call.ids[0])
        call.check_conditions(pool)
        self._pools.delete(pool)
        return done(202, call)

    def patch(self, call: Call) -> web.Response:
        pool = open_pool(self._account, call)
        body = call.body()
        schema.POOL_PATCH.check(body)
        body = schema.without_nulls(body)
        fixed = [name for name in body if name not in _ALWAYS_CHANGEABLE]
        if fixed and (pool.nodes or pool.allocation_state != "steady"):
            raise BatchError("OperationInvalidForCurrentState", Reason=f"{fixed[0]} changes only in an empty pool")
        body = {**pool.body, **body}
        _check_properties(body)
        pool.body = body
        pool.slots = pool.body.get("taskSlotsPerNode", 1)
        pool.touch(self._clock.now())
        return done(200, call, pool)

    def replace_properties(self, call: Call) -> web.Response:
        """What is not given is removed."""
        pool = open_pool(self._account, call)
        body = call.body()
        schema.POOL_REPLACE.check(body)
        body = schema.without_nulls(body)
        _check_properties(body)
        kept = {name: value for name, value in pool.body.items() if name not in _ALWAYS_CHANGEABLE}
        pool.body = {**kept, **body}
        pool.touch(self._clock.now())
        return done(204, call, pool)

    def resize(self, call: Call) -> web.Response:
        pool = open_pool(self._account, call)
        body = call.body()
        schema.RESIZE.check(body)
        dedicated, spot = body.get("targetDedicatedNodes"), body.get("targetLowPriorityNodes")
        if dedicated is None and spot is None:
            raise missing("targetDedicatedNodes")
        timeout = _timeout(body)
        if pool.body.get("enableAutoScale"):
            raise BatchError("OperationNotValidOnPool", Reason="autoscale is enabled")
        self._refuse_unless_steady(pool)
        pool.body = {**pool.body, "resizeTimeout": body.get("resizeTimeout") or "PT15M"}
        self._pools.resize(
            pool,
            pool.target_dedicated if dedicated is None else dedicated,
            pool.target_spot if spot is None else spot,
            body.get("nodeDeallocationOption") or "requeue",
            timeout,
        )
        return done(202, call, pool)

    def stop_resize(self, call: Call) -> web.Response:
        """Where there is nothing to stop, nothing is done: here a resize may be over sooner than a client stops it."""
        pool = open_pool(self._account, call)
        self._pools.stop_resize(pool)
        return done(202, call, pool)

    def remove_nodes(self, call: Call) -> web.Response:
        pool = open_pool(self._account, call)
        body = call.body()
        schema.REMOVE_NODES.check(body)
        _timeout(body)
        if not 1 <= len(body["nodeList"]) <= 100:
            raise invalid("nodeList", len(body["nodeList"]), "1 to 100 nodes are expected")
        self._refuse_unless_steady(pool)
        nodes = dict.fromkeys(self._account.node(pool.id, id) for id in body["nodeList"])
        self._pools.remove(pool, nodes, body.get("nodeDeallocationOption") or "requeue")
        return done(202, call, pool)

    @staticmethod
    def _refuse_unless_steady(pool: Pool) -> None:
        if pool.allocation_state != "steady":
            raise BatchError("PoolBeingResized")

    def _wire(self, call: Call) -> Wire[Pool]:
        return lambda pool, select: chosen(select, pool_wire(pool, call.base))


def open_pool(account: Account, call: Call) -> Pool:
    """The pool of a request that changes it."""
    pool = account.pool(call.ids[0])
    call.check_conditions(pool)
    if pool.state == "deleting":
        raise BatchError("PoolBeingDeleted")
    return pool


def local_pool(nodes: int, slots: int) -> Body:
    """The pool that is there from the start, where one is asked for."""
    cores = next(size for size in (2, 4, 8, 16, 32, 64) if 4 * size >= slots)
    image = {"publisher": "canonical", "offer": "ubuntu-24_04-lts", "sku": "server", "version": "latest"}
    return {
        "id": LOCAL,
        "vmSize": f"Standard_D{cores}s_v5",
        "targetDedicatedNodes": nodes,
        "taskSlotsPerNode": slots,
        "virtualMachineConfiguration": {"imageReference": image, "nodeAgentSKUId": "batch.node.ubuntu 24.04"},
    }


def check_expand(call: Call) -> None:
    """`stats` can be asked for, of which this service has none."""
    expand = call.query.get("$expand")
    if expand and expand.strip() != "stats":
        raise BatchError("InvalidQueryParameterValue", QueryParameterName="$expand", QueryParameterValue=expand)


def _timeout(body: Body) -> float:
    """The resizeTimeout in seconds."""
    text = body.get("resizeTimeout") or "PT15M"
    seconds = seconds_of(text)
    if seconds is None or not 300 <= seconds <= 168 * 3600:
        raise invalid("resizeTimeout", text, "5 minutes to 168 hours are expected")
    return seconds


def _check_properties(body: Body) -> None:
    """Refuse what its nodes, this account or this service do not have."""
    slots, cores = body.get("taskSlotsPerNode", 1), cores_of(body.get("vmSize", ""))
    if slots > min(4 * cores, 256):
        raise invalid("taskSlotsPerNode", slots, f"at most 4 per core; {body['vmSize']} has {cores}")
    if body.get("applicationPackageReferences"):
        raise BatchError("InvalidApplicationPackageReferences")
    if body.get("mountConfiguration"):
        raise BatchError("UnsupportedProperty", PropertyName="mountConfiguration")


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
        found.pop("resizeTimeout", None)
        found.setdefault("autoScaleEvaluationInterval", "PT15M")
    return found

"""Operations on nodes, and what is known of node images."""

from __future__ import annotations

from collections import Counter
from operator import attrgetter, itemgetter

from aiohttp import web

from .clock import iso
from .errors import BatchError
from .odata import Getter
from .server import Call, Operation, Wire, answer, chosen, listed
from .state import Account, Body, Node, Pool

_seq = attrgetter("seq")
_FILTERS: dict[str, Getter] = {
    "state": attrgetter("state"),
    "stateTransitionTime": attrgetter("state_time"),
    "lastBootTime": attrgetter("created"),
    "allocationTime": attrgetter("created"),
    "startTaskInfo/state": lambda node: node.start_run and ("completed" if node.start_run.end_time else "running"),
    "startTaskInfo/result": lambda node: node.start_run and node.start_run.result,
    "startTaskInfo/exitCode": lambda node: node.start_run and node.start_run.exit_code,
    "startTaskInfo/startTime": lambda node: node.start_run and node.start_run.start_time,
    "startTaskInfo/endTime": lambda node: node.start_run and node.start_run.end_time,
}
_STATES = [
    "creating",
    "idle",
    "offline",
    "preempted",
    "rebooting",
    "reimaging",
    "running",
    "starting",
    "startTaskFailed",
    "leavingPool",
    "unknown",
    "unusable",
    "waitingForStartTask",
    "deallocated",
    "deallocating",
    "upgradingOS",
]


class NodeRoutes:
    def __init__(self, account: Account) -> None:
        self._account = account

    def operations(self) -> dict[str, Operation]:
        return {
            "GET pools/*/nodes": self.nodes,
            "GET pools/*/nodes/*": self.node,
            "GET nodecounts": self.node_counts,
            "GET supportedimages": self.images,
        }

    def nodes(self, call: Call) -> web.Response:
        pool = self._account.pool(call.ids[0])
        found = call.filter(_FILTERS)
        return listed(call, "nodes", pool.nodes.values(), found, _seq, node_wire(call))

    def node(self, call: Call) -> web.Response:
        node = self._account.pool(call.ids[0]).nodes.get(call.ids[1].lower())
        if node is None:
            raise BatchError("NodeNotFound")
        return answer(node_wire(call)(node, call.select()), node)

    def node_counts(self, call: Call) -> web.Response:
        found = call.filter({"poolId": attrgetter("id")})

        def wire(pool: Pool, select: frozenset[str] | None) -> Body:
            return {"poolId": pool.id, "dedicated": _count(pool, True), "lowPriority": _count(pool, False)}

        return listed(call, "poolnodecounts", self._account.pools.values(), found, _seq, wire, most=10)

    def images(self, call: Call) -> web.Response:
        names = ("nodeAgentSKUId", "osType", "verificationType")
        found = call.filter({name: itemgetter(name) for name in names})
        return listed(call, "supportedimages", IMAGES, found, IMAGES.index, lambda image, _: image)


def node_wire(call: Call) -> Wire[Node]:
    def wire(node: Node, select: frozenset[str] | None) -> Body:
        version = "1.11.0 (emulated; containers are processes)" if node.agent.has_containers else "1.11.0 (emulated)"
        found: Body = {
            "id": node.id,
            "url": f"{call.base}/pools/{node.pool.id}/nodes/{node.id}",
            "state": node.state,
            "schedulingState": "enabled" if node.schedulable else "disabled",
            "stateTransitionTime": iso(node.state_time),
            "lastBootTime": iso(node.created),
            "allocationTime": iso(node.created),
            "ipAddress": "127.0.0.1",
            "affinityId": f"TVM:{node.id}",
            "vmSize": node.pool.vm_size,
            "totalTasksRun": node.total_run,
            "runningTasksCount": len(node.runs),
            "runningTaskSlotsCount": node.pool.slots - node.free,
            "totalTasksSucceeded": node.succeeded,
            "isDedicated": node.dedicated,
            "nodeAgentInfo": {"version": version, "lastUpdateTime": iso(node.created)},
        }
        if node.start_run is not None:
            found["startTask"] = node.start_task
            found["startTaskInfo"] = node.start_run.execution()
        return chosen(select, found)

    return wire


def _count(pool: Pool, dedicated: bool) -> Body:
    states = Counter(node.state for node in pool.nodes.values() if node.dedicated is dedicated)
    counts = {name: states[name.lower()] for name in _STATES}
    return {**counts, "total": sum(states.values())}


def _image(publisher: str, offer: str, sku: str, agent: str, *capabilities: str) -> Body:
    return {
        "nodeAgentSKUId": agent,
        "imageReference": {"publisher": publisher, "offer": offer, "sku": sku, "version": "latest"},
        "osType": "linux",
        "verificationType": "verified",
        "capabilities": list(capabilities),
    }


IMAGES = [
    _image("microsoft-dsvm", "ubuntu-hpc", "2404", "batch.node.ubuntu 24.04", "DockerCompatible", "IntelMKL"),
    _image("microsoft-dsvm", "ubuntu-hpc", "2204", "batch.node.ubuntu 22.04", "DockerCompatible", "IntelMKL"),
    _image("canonical", "ubuntu-24_04-lts", "server", "batch.node.ubuntu 24.04"),
]

"""Operations on the account as a whole: images, node counts, and lists of what this service has none of."""

from __future__ import annotations

from collections import Counter
from operator import attrgetter, itemgetter

from aiohttp import web

from batchexec.emulator.errors import BatchError
from batchexec.emulator.state import Account, Body, Pool

from .odata import Only
from .server import Call, Operation, listed

_seq = attrgetter("seq")
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


class AccountRoutes:
    def __init__(self, account: Account) -> None:
        self._account = account

    def operations(self) -> dict[str, Operation]:
        found: dict[str, Operation] = {
            "GET nodecounts": self.node_counts,
            "GET supportedimages": self.images,
            "GET applications": lambda call: _nothing(call, "applicationlist"),
            "GET applications/*": lambda call: _absent("ApplicationNotFound"),
            "GET jobschedules": lambda call: _nothing(call, "jobschedules"),
            "GET poolusagemetrics": self.usage,
        }
        for method in ("GET", "HEAD", "PATCH", "PUT", "DELETE"):
            found[f"{method} jobschedules/*"] = lambda call: _absent("JobScheduleNotFound")
        return found

    def node_counts(self, call: Call) -> web.Response:
        found = call.filter({"poolId": Only(attrgetter("id"), "eq")})

        def wire(pool: Pool, select: frozenset[str] | None) -> Body:
            return {"poolId": pool.id, "dedicated": _count(pool, True), "lowPriority": _count(pool, False)}

        return listed(call, "poolnodecounts", self._account.pools.values(), found, _seq, wire, most=10)

    def images(self, call: Call) -> web.Response:
        names = ("nodeAgentSKUId", "osType", "verificationType")
        found = call.filter({name: Only(itemgetter(name), "eq", "ne") for name in names})
        return listed(call, "supportedimages", IMAGES, found, _place, lambda image, _: image)

    def usage(self, call: Call) -> web.Response:
        call.filter({name: lambda item: None for name in ("startTime", "endTime", "poolId")})
        return _nothing(call, "poolusagemetrics")


def _place(image: Body) -> int:
    return IMAGES.index(image) + 1


def _nothing(call: Call, kind: str) -> web.Response:
    return listed(call, kind, (), None, lambda item: 0, lambda item, _: {})


def _absent(code: str) -> web.Response:
    raise BatchError(code)


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

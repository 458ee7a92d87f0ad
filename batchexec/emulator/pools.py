"""The life of pools and nodes: how many there are, how they start and how they leave."""

from __future__ import annotations

import asyncio
import logging
import secrets
import shutil
from pathlib import Path

from . import containers
from .clock import Clock
from .directories import make_top
from .errors import BatchError
from .node import NodeAgent
from .scheduler import Scheduler
from .state import Account, Node, Pool

_log = logging.getLogger(__name__)


class Pools:
    """Adds nodes to pools and takes them out.

    `root` is the directory of the nodes, `url` the endpoint of the service, `path` the PATH of the nodes.
    """

    def __init__(
        self, account: Account, clock: Clock, scheduler: Scheduler, root: Path, url: str, path: str
    ) -> None:
        self._account = account
        self._clock = clock
        self._scheduler = scheduler
        make_top(root)
        self._root = root
        self._url = url
        self._path = path
        self._told_of_containers = False

    def resize(self, pool: Pool, dedicated: int, spot: int, option: str = "requeue") -> None:
        """Bring the pool to these numbers of nodes; the state shows `resizing` until that is so."""
        pool.target_dedicated, pool.target_spot = dedicated, spot
        pool.allocate("resizing", self._clock.now())
        self._account.spawn(self._resize(pool, option))

    async def _resize(self, pool: Pool, option: str) -> None:
        leaving: list[Node] = []
        pool.resize_errors = []
        for dedicated, target in ((True, pool.target_dedicated), (False, pool.target_spot)):
            present = [node for node in pool.nodes.values() if node.dedicated is dedicated]
            granted, error = self._account.quotas.grant(self._account, pool, dedicated, target - len(present))
            for _ in range(granted):
                self._add_node(pool, dedicated)
            if error is not None:
                pool.resize_errors.append(error)
            leaving += sorted(present, key=lambda node: len(node.runs))[: max(0, len(present) - target)]
        await asyncio.gather(*(self._remove_node(node, option) for node in leaving))
        if pool.allocation_state != "steady":
            pool.allocate("steady", self._clock.now())
        self._scheduler.wake()

    def _add_node(self, pool: Pool, dedicated: bool) -> None:
        now = self._clock.now()
        node = Node(node_id(dedicated), pool, dedicated, now)
        root = self._root / node.id
        node.agent = NodeAgent(node, root, self._account, self._url, self._path, self._clock, self._scheduler, self)
        pool.nodes[node.id] = node
        if node.start_task is not None:
            node.start_run = node.agent.start_up(node.start_task)
        if node.agent.has_containers and not self._told_of_containers:
            self._told_of_containers = True
            _log.warning("pool %s: %s", pool.id, containers.NOTICE)

    async def _remove_node(self, node: Node, option: str) -> None:
        """Take a node out: its tasks go back to the queue, end, or are awaited first."""
        node.schedulable = False
        tasks = list(node.runs)
        if option != "taskcompletion":
            node.move("leavingpool", self._clock.now())
            for task in tasks:
                self._scheduler.end_task(task, "requeue" if option == "requeue" else "ended")
        await self._scheduler.idle(tasks)
        node.move("leavingpool", self._clock.now())
        await node.agent.stop()
        node.pool.nodes.pop(node.id, None)
        await asyncio.to_thread(shutil.rmtree, node.agent.root, ignore_errors=True)

    def delete(self, pool: Pool) -> None:
        if pool.state == "deleting":
            raise BatchError("PoolBeingDeleted")
        pool.move("deleting", self._clock.now())
        self._account.spawn(self._delete(pool))

    async def _delete(self, pool: Pool) -> None:
        await asyncio.gather(*(self._remove_node(node, "requeue") for node in list(pool.nodes.values())))
        self._account.pools.pop(pool.id.lower(), None)

    # -- what the nodes report

    def starting(self, node: Node) -> None:
        """The start task begins; where the pool does not wait for it, tasks may run beside it."""
        if node.state == "starting":
            waits = (node.start_task or {}).get("waitForSuccess") is not False
            node.move("waitingforstarttask" if waits else "idle", self._clock.now())
            self._scheduler.wake()

    def started(self, node: Node) -> None:
        """The start task is over."""
        if node.state == "waitingforstarttask" and node.start_run is not None:
            good = node.start_run.result == "success"
            node.move("idle" if good else "starttaskfailed", self._clock.now())
            self._scheduler.wake()

    async def stop(self) -> None:
        """Kill everything that runs; no state is brought to an end."""
        agents = [node.agent for pool in self._account.pools.values() for node in pool.nodes.values()]
        await asyncio.gather(*(agent.stop() for agent in agents))


def node_id(dedicated: bool) -> str:
    """An id of the shape the service gives: `tvmps_<hash>_d` for dedicated nodes, `_p` for spot."""
    return f"tvmps_{secrets.token_hex(8)}_{'d' if dedicated else 'p'}"

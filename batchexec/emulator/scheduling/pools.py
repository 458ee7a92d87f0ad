"""The size of pools: nodes that come, nodes that go, and what stops that."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable

from batchexec.emulator.clock import Clock
from batchexec.emulator.errors import BatchError
from batchexec.emulator.state import Account, Body, Node, Pool

from .nodes import WAITING, Nodes
from .scheduler import Scheduler

Halt = asyncio.Future[None]  # done when the resize is to stop
_MOST_NODES = 5000  # of a pool; more would be a slip of the keyboard, and the end of this process


class Pools:
    """Adds nodes to pools and takes them out. What becomes of a node in between is the matter of `nodes`.

    `allocation_seconds` is asked for each node that a pool is to get: how long it takes until it is there. Beyond the
    pool's resizeTimeout, no node comes.
    """

    def __init__(self, account: Account, clock: Clock, scheduler: Scheduler, nodes: Nodes) -> None:
        self._account = account
        self._clock = clock
        self._scheduler = scheduler
        self.nodes = nodes
        self.allocation_seconds: Callable[[Pool], float] = lambda pool: 0.0
        self._halts: dict[Pool, Halt] = {}
        self._going: dict[Node, asyncio.Task[None]] = {}

    def resize(
        self, pool: Pool, dedicated: int, spot: int, option: str = "requeue", timeout: float = 15 * 60.0
    ) -> None:
        """Bring the pool to these numbers of nodes; the state shows `resizing` until that is so, or cannot be."""
        pool.target_dedicated, pool.target_spot = dedicated, spot
        self._account.spawn(self._resize(pool, option, timeout, self._begin(pool)))

    def remove(self, pool: Pool, nodes: Iterable[Node], option: str) -> None:
        """Take these nodes out, and do not replace them."""
        leaving = list(nodes)
        for node in leaving:
            node.leaving = True  # at once, so that it is known after a restart too
        spot = sum(not node.dedicated for node in leaving)
        pool.target_spot = max(0, pool.target_spot - spot)
        pool.target_dedicated = max(0, pool.target_dedicated - (len(leaving) - spot))
        self._account.spawn(self._shrink(pool, leaving, option, self._begin(pool)))

    def stop_resize(self, pool: Pool) -> None:
        """Leave the pool as it is now."""
        if pool.allocation_state == "resizing":
            pool.allocate("stopping", self._clock.now())
            self._halt(pool)

    def delete(self, pool: Pool) -> None:
        """Stop a resize; requeue what runs; remove all nodes, and then the pool."""
        if pool.state == "deleting":
            raise BatchError("PoolBeingDeleted")
        pool.move("deleting", self._clock.now())
        self._halt(pool)
        self._account.spawn(self._delete(pool))

    def resume(self, pool: Pool) -> None:
        """Go on with a pool read from a data directory: its nodes boot, and what was under way comes to its end."""
        for node in list(pool.nodes.values()):
            self.nodes.resume(node)
        self._account.spawn(self._resume(pool))

    async def stop(self) -> None:
        """Kill everything that runs; no state is brought to an end."""
        for pool in list(self._halts):
            self._halt(pool)
        await self.nodes.stop()

    # -- resizing

    def _begin(self, pool: Pool) -> Halt:
        pool.allocate("resizing", self._clock.now())
        pool.resize_errors = []
        halt = self._halts[pool] = asyncio.get_running_loop().create_future()
        return halt

    def _halt(self, pool: Pool) -> None:
        if pool in self._halts:
            _set(self._halts[pool])

    def _end(self, pool: Pool, errors: list[Body]) -> None:
        self._halts.pop(pool, None)
        pool.resize_errors = errors
        pool.allocate("steady", self._clock.now())
        self._scheduler.wake()

    async def _resize(self, pool: Pool, option: str, timeout: float, halt: Halt) -> None:
        leaving: list[Node] = []
        coming: list[tuple[float, bool]] = []
        errors: list[Body] = []
        for dedicated, target in ((True, pool.target_dedicated), (False, pool.target_spot)):
            present = [node for node in pool.nodes.values() if node.dedicated is dedicated]
            granted, error = self._grant(pool, dedicated, target - len(present))
            coming += [(self.allocation_seconds(pool), dedicated) for _ in range(granted)]
            if error is not None:
                errors.append(error)
            leaving += sorted(present, key=lambda node: len(node.runs))[: max(0, len(present) - target)]
        going = [self._remove(node, option, halt) for node in leaving]
        errors += await self._grow(pool, sorted(coming), timeout, halt)
        if going:
            await asyncio.wait(going)
        self._end(pool, errors + self._unfinished(leaving, errors))

    def _grant(self, pool: Pool, dedicated: bool, wanted: int) -> tuple[int, Body | None]:
        granted, error = self._account.quotas.grant(self._account, pool, dedicated, wanted)
        room = max(0, _MOST_NODES - pool.count(dedicated))
        if granted > room:
            return room, _error("AllocationFailed", f"This service gives a pool at most {_MOST_NODES} nodes of a kind")
        return granted, error

    async def _grow(self, pool: Pool, coming: list[tuple[float, bool]], timeout: float, halt: Halt) -> list[Body]:
        """Add the nodes as they come; the errors that tell of those that do not."""
        waited = 0.0
        for number, (seconds, dedicated) in enumerate(coming):
            late = min(seconds, timeout) - waited
            if late > 0:
                await self._wait(late, halt)
                waited += late
            if halt.done():
                return [_error("ResizeStopped", "The resize was stopped")]
            if seconds > timeout:
                return [_timed_out(dedicated) for dedicated in sorted({kind for _, kind in coming[number:]})]
            self._add_node(pool, dedicated)
        return []

    async def _wait(self, seconds: float, halt: Halt) -> None:
        over: Halt = asyncio.get_running_loop().create_future()
        timer = self._clock.call_later(seconds, lambda: _set(over))
        await asyncio.wait({over, halt}, return_when=asyncio.FIRST_COMPLETED)
        timer.cancel()

    def _add_node(self, pool: Pool, dedicated: bool) -> None:
        node = Node(node_id(dedicated), pool, dedicated, self._clock.now())
        pool.nodes[node.id] = node
        self.nodes.boot(node)

    async def _shrink(self, pool: Pool, leaving: list[Node], option: str, halt: Halt) -> None:
        going = [self._remove(node, option, halt) for node in leaving]
        if going:
            await asyncio.wait(going)
        self._end(pool, self._unfinished(leaving, []))

    def _unfinished(self, leaving: list[Node], errors: list[Body]) -> list[Body]:
        """The error that tells that nodes stayed, as the resize was stopped; once is enough."""
        stayed = any(node.id in node.pool.nodes for node in leaving)
        known = any(error["code"] == "ResizeStopped" for error in errors)
        return [_error("ResizeStopped", "The resize was stopped")] if stayed and not known else []

    # -- nodes that go

    def _remove(self, node: Node, option: str, halt: Halt) -> asyncio.Task[None]:
        going = self._going.get(node)
        if going is None:
            going = self._going[node] = self._account.spawn(self._take_out(node, option, halt))
        return going

    async def _take_out(self, node: Node, option: str, halt: Halt) -> None:
        node.leaving = True
        try:
            if option in WAITING and not await self._idle(node, halt):
                node.leaving = False
                return
            node.move("leavingpool", self._clock.now())
            await self.nodes.clear(node, option)
            await node.agent.stop()
            node.pool.forget(node)
            await node.agent.remove_directories()
        finally:
            del self._going[node]

    async def _idle(self, node: Node, halt: Halt) -> bool:
        """Wait for the node's tasks; False when the resize is stopped first."""
        while node.runs:
            ends: set[asyncio.Future[None]] = {run.finished for run in node.runs.values()}
            await asyncio.wait(ends | {halt}, return_when=asyncio.FIRST_COMPLETED)
            if halt.done():
                return False
        return True

    async def _delete(self, pool: Pool) -> None:
        over: Halt = asyncio.get_running_loop().create_future()
        going = [task for node, task in self._going.items() if node.pool is pool]
        if going:  # those that leave already; those that wait for their tasks no longer do
            await asyncio.wait(going)
        going = [self._remove(node, "requeue", over) for node in pool.nodes.values()]
        if going:
            await asyncio.wait(going)
        self._account.forget_pool(pool)

    async def _resume(self, pool: Pool) -> None:
        over: Halt = asyncio.get_running_loop().create_future()
        if pool.allocation_state == "stopping":
            for node in pool.nodes.values():
                node.leaving = node.state == "leavingpool"
        leaving = [node for node in pool.nodes.values() if node.leaving]
        if leaving:
            await asyncio.wait([self._remove(node, "requeue", over) for node in leaving])
        if pool.state == "deleting":
            await self._delete(pool)
        elif pool.allocation_state == "stopping":
            self._end(pool, [_error("ResizeStopped", "The resize was stopped")])
        elif pool.allocation_state == "resizing":
            self.resize(pool, pool.target_dedicated, pool.target_spot)


def node_id(dedicated: bool) -> str:
    """An id of the shape the service gives: `tvmps_<hash>_d` for dedicated nodes, `_p` for spot."""
    return f"tvmps_{secrets.token_hex(8)}_{'d' if dedicated else 'p'}"


def _set(future: Halt) -> None:
    if not future.done():
        future.set_result(None)


def _timed_out(dedicated: bool) -> Body:
    # The code as the live service writes it, with a small o (Azure/Batch#40); its documentation has AllocationTimedOut.
    kind = "dedicated" if dedicated else "low priority"
    return _error(
        "AllocationTimedout", f"Desired number of {kind} nodes could not be allocated as the resize timeout was reached"
    )


def _error(code: str, message: str) -> Body:
    return {"code": code, "message": message, "values": []}

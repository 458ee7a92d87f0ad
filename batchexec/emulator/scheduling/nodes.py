"""The life of nodes: how they boot, what is done to them, and what befalls them."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from batchexec.emulator.clock import Clock
from batchexec.emulator.errors import BatchError
from batchexec.emulator.node import containers
from batchexec.emulator.node.agent import NodeAgent
from batchexec.emulator.node.directories import make_top
from batchexec.emulator.node.failures import CannotStart
from batchexec.emulator.state import Account, Node, Task

from .scheduler import Scheduler

_log = logging.getLogger(__name__)
WAITING = ("taskcompletion", "retaineddata")  # options that let the tasks of a node come to their end
_BUSY = {
    "creating": "NodeBeingCreated",
    "starting": "NodeBeingStarted",
    "waitingforstarttask": "NodeBeingStarted",
    "rebooting": "NodeBeingRebooted",
    "reimaging": "NodeBeingReimaged",
    "unusable": "NodeStateUnusable",
}


class Nodes:
    """Takes nodes through their states.

    `root` is the directory of the nodes, `url` the endpoint of the service, `path` the PATH of the nodes, `inline` how
    they run tasks of the fork-server contract. `boot_seconds` tells how long a node takes to boot.

    What a client asks for: `reboot`, `reimage`, `deallocate`, `start`, `disable`, `enable`. What merely happens:
    `preempt` and `recreate`, `make_unusable`, `disconnect`, `give_up` and `reconnect`.
    """

    def __init__(
        self,
        account: Account,
        clock: Clock,
        scheduler: Scheduler,
        root: Path,
        url: str,
        path: str,
        inline: bool,
    ) -> None:
        self._account = account
        self._clock = clock
        self._scheduler = scheduler
        make_top(root)
        self._root = root
        self._url = url
        self._path = path
        self._inline = inline
        self._told_of_containers = False
        self._stopping = False
        self._lost: dict[Node, asyncio.Task[None]] = {}  # whose processes are being killed
        self.boot_seconds: Callable[[Node], float] = lambda node: 0.0

    # -- booting

    def boot(self, node: Node) -> None:
        """Start a node that is off or new; it has the same directory as before, if that is still there."""
        if self._stopping:
            return
        agent = self.equip(node)
        seconds = self.boot_seconds(node)
        if seconds > 0:
            if node.state == "idle":  # a new one
                node.move("starting", self._clock.now())
            self._clock.call_later(seconds, lambda: self._booted(node, agent))
        else:
            self._booted(node, agent)

    def equip(self, node: Node) -> NodeAgent:
        """Give the node an agent, which does nothing yet."""
        root = self._root / node.id
        node.agent = NodeAgent(
            node, root, self._account, self._url, self._path, self._clock, self._scheduler, self, self._inline
        )
        if node.agent.has_containers and node.agent.runtime is None and not self._told_of_containers:
            self._told_of_containers = True
            _log.warning("pool %s: %s", node.pool.id, containers.NOTICE)
        return node.agent

    def _booted(self, node: Node, agent: NodeAgent) -> None:
        if self._stopping or node.agent is not agent or node.state in ("leavingpool", "preempted", "unusable"):
            return  # something else has happened to it meanwhile
        if agent.has_containers and agent.faults.active:
            fault = agent.faults.take("command", role="node", pool=node.pool.id, node=node.id)
            if fault is not None:
                message = fault["message"] or containers.NO_IMAGE
                self.make_unusable(node, "ContainerInvalidImage", message)
                return
        node.boot_time = self._clock.now()
        node.errors = []
        node.start_task = node.pool.body.get("startTask")
        agent.note("the node has booted")
        if agent.runtime is not None and containers.images(node.pool.body):
            node.move("starting", self._clock.now())
            self._account.spawn(self._fetch_images(node, agent))
        else:
            self._set_up(node, agent)

    async def _fetch_images(self, node: Node, agent: NodeAgent) -> None:
        """A node fetches its pool's images before anything else; without one of them it is unusable."""
        try:
            await agent.fetch_images()
        except CannotStart as error:
            if node.agent is agent and node.state == "starting":
                details = {detail["name"]: detail["value"] for detail in error.info["details"]}
                self.make_unusable(node, error.info["code"], error.info["message"], **details)
            return
        if node.agent is agent and node.state == "starting":
            self._set_up(node, agent)

    def _set_up(self, node: Node, agent: NodeAgent) -> None:
        if node.start_task is None:
            self._rest(node)
        else:
            node.move("starting", self._clock.now())
            node.start_run = agent.start_up(node.start_task)

    def resume(self, node: Node) -> None:
        """Go on with a node read from a data directory: whatever it was doing, it boots, unless it was off."""
        if node.state in ("reimaging", "deallocating", "preempted", "creating"):
            shutil.rmtree(self._root / node.id, ignore_errors=True)
        if node.state == "deallocating":
            node.move("deallocated", self._clock.now())
        if node.state in ("preempted", "unusable", "deallocated", "leavingpool"):
            self.equip(node)
        else:
            self.boot(node)

    def starting(self, node: Node, agent: NodeAgent) -> None:
        """The start task begins; where the pool does not wait for it, tasks may run beside it."""
        if node.agent is agent and node.state == "starting":
            if (node.start_task or {}).get("waitForSuccess") is not False:
                node.move("waitingforstarttask", self._clock.now())
            else:
                self._rest(node)

    def started(self, node: Node, agent: NodeAgent) -> None:
        """The start task is over."""
        run = node.start_run
        if node.agent is not agent or run is None:
            return
        agent.note(f"the start task is over: {run.result}, exit code {run.exit_code}")
        if node.state != "waitingforstarttask":
            return
        if run.result == "success":
            self._rest(node)
        else:
            node.move("starttaskfailed", self._clock.now())

    def _rest(self, node: Node) -> None:
        node.rest(self._clock.now())
        self._scheduler.wake()

    # -- what a client asks for; the state shows it before the reply does

    def reboot(self, node: Node, option: str) -> None:
        """Boot anew, with its disk as it is. A node whose start task failed may be healed so."""
        self._refuse_unless(node, "idle", "running", "starttaskfailed")
        self._restart(node, "rebooting", option)

    def reimage(self, node: Node, option: str) -> None:
        """Boot anew with an empty disk."""
        self._refuse_unless(node, "idle", "running", "starttaskfailed")
        self._restart(node, "reimaging", option)

    def _restart(self, node: Node, state: str, option: str) -> None:
        node.move(state, self._clock.now())
        node.start_run = None

        async def work() -> None:
            await self.clear(node, option)
            await self._turn_off(node, wipe=state == "reimaging")
            if node.state == state:
                self.boot(node)

        self._account.spawn(work())

    def deallocate(self, node: Node, option: str) -> None:
        """Turn it off; the disk with the tasks' files is a local one, and is lost."""
        self._refuse_unless(node, "idle", "running")
        node.move("deallocating", self._clock.now())

        async def work() -> None:
            await self.clear(node, option)
            await self._turn_off(node, wipe=True)
            if node.state == "deallocating":
                node.move("deallocated", self._clock.now())

        self._account.spawn(work())

    def start(self, node: Node) -> None:
        self._refuse_unless(node, "deallocated")
        node.move("starting", self._clock.now())
        self.boot(node)

    def disable(self, node: Node, option: str) -> None:
        """Schedule nothing more on it; it is offline as soon as it is idle."""
        if not node.schedulable:
            raise BatchError("NodeAlreadyInTargetSchedulingState")
        node.schedulable = False
        if node.state == "idle":
            node.move("offline", self._clock.now())
        self._account.spawn(self.clear(node, option))

    def enable(self, node: Node) -> None:
        if node.schedulable:
            raise BatchError("NodeAlreadyInTargetSchedulingState")
        node.schedulable = True
        if node.state == "offline":
            self._rest(node)

    def _refuse_unless(self, node: Node, *states: str) -> None:
        if node.state not in states:
            raise BatchError(_BUSY.get(node.state, "OperationInvalidForCurrentState"), State=node.state)

    # -- what merely happens

    def preempt(self, node: Node, seconds: float | None = None) -> None:
        """A spot node is taken away: its disk is lost, its tasks go back to the queue without being asked.

        It stays in the pool under its id, and is created again when there is capacity: in so many seconds, or at
        `recreate`. ValueError for a dedicated node: those are never preempted.
        """
        if node.dedicated:
            raise ValueError(f"{node.id} is a dedicated node")
        self._lose(node, "preempted", wipe=True)
        if seconds is not None:
            self._clock.call_later(seconds, lambda: self.recreate(node))

    def recreate(self, node: Node) -> None:
        """There is capacity for a preempted node again."""
        if node.state == "preempted" and node.id in node.pool.nodes:
            node.move("creating", self._clock.now())
            self._account.spawn(self._recreate(node))

    async def _recreate(self, node: Node) -> None:
        lost = self._lost.get(node)
        if lost is not None:  # what was there must be off, or it would be taken for what comes
            await asyncio.wait([lost])
        if node.state == "creating":
            self.boot(node)

    def make_unusable(self, node: Node, code: str, message: str, **details: str) -> None:
        """The node cannot be used any more, its `errors` say why; its tasks go back to the queue. It can only leave."""
        listed = [{"name": name, "value": value} for name, value in details.items()]
        node.errors = [{"code": code, "message": message, "errorDetails": listed}]
        node.agent.note(f"the node is unusable: {code}: {message}")
        self._lose(node, "unusable", wipe=False)

    def _lose(self, node: Node, state: str, wipe: bool) -> None:
        node.move(state, self._clock.now())
        node.start_run = None
        node.agent.hear()

        async def work() -> None:
            for task in list(node.runs):
                self._scheduler.end_task(task, "requeue")
            await self._scheduler.idle(list(node.runs))
            await self._turn_off(node, wipe)
            self._lost.pop(node, None)

        self._lost[node] = self._account.spawn(work())

    def disconnect(self, node: Node) -> None:
        """The service loses contact: the state is unknown, what runs there goes on, and its end is not heard of."""
        if node.agent.contact is None:  # who waits for it must not be forgotten
            node.agent.contact = asyncio.get_running_loop().create_future()
        node.move("unknown", self._clock.now())

    def give_up(self, node: Node) -> None:
        """The service gives up a node out of contact: its tasks run elsewhere, while it may still be at them."""
        for task in list(node.runs):
            self._scheduler.abandon(task)

    def reconnect(self, node: Node) -> None:
        """Contact is back: the node reports what has ended, and kills what was given up."""
        node.agent.hear()
        if node.state == "unknown":
            self._rest(node)

    # -- common to them

    async def clear(self, node: Node, option: str) -> None:
        """Take the tasks off a node at a client's wish: back to the queue, to their end, or when they are done."""
        node.agent.hear()
        tasks = list(node.runs)
        if option not in WAITING:
            for task in tasks:
                self.take_off(task, option)
        await self._scheduler.idle(tasks)

    def take_off(self, task: Task, option: str) -> None:
        """End a task here; `requeue`, asked for by a client, is counted."""
        if option == "requeue":
            self._scheduler.requeue_for_user(task)
        else:
            self._scheduler.end_task(task, "ended")

    async def _turn_off(self, node: Node, wipe: bool) -> None:
        """Kill all that runs. A preparation task that failed keeps the node from its job until the disk is new."""
        kept = {} if wipe else {job: prep for job, prep in node.prepared.items() if prep.outlives_reboot}
        agent = node.agent
        await agent.stop()
        if node.agent is agent:
            node.prepared = kept
            if wipe:
                await agent.remove_directories()

    async def stop(self) -> None:
        """Kill everything that runs; no state is brought to an end."""
        self._stopping = True
        agents = [node.agent for pool in self._account.pools.values() for node in pool.nodes.values()]
        await asyncio.gather(*(agent.stop() for agent in agents))

"""Operations on nodes."""

from __future__ import annotations

import re
from operator import attrgetter
from secrets import token_hex

from aiohttp import web

from batchexec.emulator.clock import iso
from batchexec.emulator.errors import BatchError, invalid
from batchexec.emulator.node import node_logs
from batchexec.emulator.node.transfers import without_secret
from batchexec.emulator.scheduling.nodes import Nodes
from batchexec.emulator.state import Account, Body, Node, Task

from . import schema
from .odata import Getter, Only
from .routes_tasks import task_wire
from .server import Call, Operation, Wire, answer, chosen, done, listed

_seq = attrgetter("seq")
_FILTERS: dict[str, Getter] = {
    "state": Only(attrgetter("state"), "eq", "ne"),
    "stateTransitionTime": attrgetter("state_time"),
    "lastBootTime": attrgetter("boot_time"),
    "allocationTime": attrgetter("created"),
    "startTaskInfo/state": Only(lambda node: node.start_run and node.start_run.state, "eq"),
    "startTaskInfo/result": Only(lambda node: node.start_run and node.start_run.result, "eq", "ne"),
    "startTaskInfo/exitCode": lambda node: node.start_run and node.start_run.exit_code,
    "startTaskInfo/startTime": lambda node: node.start_run and node.start_run.start_time,
    "startTaskInfo/endTime": lambda node: node.start_run and node.start_run.end_time,
}
_EXECUTION = frozenset({"executionInfo"})
_CONTAINER = re.compile(r"https?://[A-Za-z0-9._:\[\]-]+/[^\s?#]+(?:\?[^\s#]*)?")
_SSH_PORTS = 50000  # where those of the nodes would begin


class NodeRoutes:
    def __init__(self, account: Account, nodes: Nodes) -> None:
        self._account = account
        self._nodes = nodes

    def operations(self) -> dict[str, Operation]:
        return {
            "GET pools/*/nodes": self.list,
            "GET pools/*/nodes/*": self.get,
            "POST pools/*/nodes/*/reboot": self.reboot,
            "POST pools/*/nodes/*/reimage": self.reimage,
            "POST pools/*/nodes/*/deallocate": self.deallocate,
            "POST pools/*/nodes/*/start": self.start,
            "POST pools/*/nodes/*/disablescheduling": self.disable,
            "POST pools/*/nodes/*/enablescheduling": self.enable,
            "POST pools/*/nodes/*/uploadbatchservicelogs": self.upload_logs,
            "GET pools/*/nodes/*/remoteloginsettings": self.remote_login,
            "GET pools/*/nodes/*/extensions": self.extensions,
        }

    def list(self, call: Call) -> web.Response:
        pool = self._account.pool(call.ids[0])
        found = call.filter(_FILTERS)
        return listed(call, "nodes", pool.nodes.values(), found, _seq, node_wire(call))

    def get(self, call: Call) -> web.Response:
        return answer(node_wire(call)(self._node(call), call.select()))

    def reboot(self, call: Call) -> web.Response:
        self._nodes.reboot(*self._asked(call, "nodeRebootOption"))
        return done(202, call)

    def reimage(self, call: Call) -> web.Response:
        self._nodes.reimage(*self._asked(call, "nodeReimageOption"))
        return done(202, call)

    def deallocate(self, call: Call) -> web.Response:
        self._nodes.deallocate(*self._asked(call, "nodeDeallocateOption"))
        return done(202, call)

    def start(self, call: Call) -> web.Response:
        self._nodes.start(self._node(call))
        return done(202, call)

    def disable(self, call: Call) -> web.Response:
        self._nodes.disable(*self._asked(call, "nodeDisableSchedulingOption", "requeue", "terminate", "taskcompletion"))
        return done(200, call)

    def enable(self, call: Call) -> web.Response:
        self._nodes.enable(self._node(call))
        return done(200, call)

    def upload_logs(self, call: Call) -> web.Response:
        """The reply tells what will be uploaded; it goes on after it, and its failure is not heard of."""
        node = self._node(call)
        body = call.body()
        schema.UPLOAD_LOGS.check(body)
        if not _CONTAINER.fullmatch(body["containerUrl"]):
            raise invalid("containerUrl", without_secret(body["containerUrl"]), "an address of a container is expected")
        refuse_unless_there(node)
        node.agent.make_directories()
        files = node_logs.since(node.agent.root, schema.time_of("startTime", body["startTime"]))
        directory = f"{node.pool.id}/{node.id}/{token_hex(16)}"
        url = node.agent.http.address(body["containerUrl"], body, "racw")
        self._account.spawn(node_logs.upload(node.agent.http, files, url, directory))
        return answer({"virtualDirectoryName": directory, "numberOfFilesUploaded": len(files)})

    def remote_login(self, call: Call) -> web.Response:
        """Where the node's SSH would be; nothing listens there."""
        node = self._node(call)
        refuse_unless_there(node)
        port = _SSH_PORTS + list(node.pool.nodes).index(node.id)
        return answer({"remoteLoginIPAddress": "127.0.0.1", "remoteLoginPort": port})

    def extensions(self, call: Call) -> web.Response:
        self._node(call)
        return listed(call, "nodeVMExtensionList", (), None, lambda item: 0, lambda item, _: {})

    def _node(self, call: Call) -> Node:
        return self._account.node(*call.ids[:2])

    def _asked(self, call: Call, name: str, *options: str) -> tuple[Node, str]:
        """The node, and what is to become of its tasks: `requeue` unless the body says otherwise."""
        body = call.body_or_empty()
        check = schema.one_of(*options) if options else schema.DEALLOCATION
        schema.Shape({}, {name: check}).check(body)
        return self._node(call), body.get(name) or "requeue"


def refuse_unless_there(node: Node) -> None:
    """Raise unless the service can reach what is on the node."""
    if node.state == "unusable":
        raise BatchError("NodeStateUnusable")
    if node.state in ("unknown", "preempted", "creating", "deallocating", "deallocated"):
        raise BatchError("OperationInvalidForCurrentState", State=node.state)


def node_wire(call: Call) -> Wire[Node]:
    def wire(node: Node, select: frozenset[str] | None) -> Body:
        url = f"{call.base}/pools/{node.pool.id}/nodes/{node.id}"
        found: Body = {
            "id": node.id,
            "url": url,
            "state": node.state,
            "schedulingState": "enabled" if node.schedulable else "disabled",
            "stateTransitionTime": iso(node.state_time),
            "lastBootTime": iso(node.boot_time),
            "allocationTime": iso(node.created),
            "ipAddress": "127.0.0.1",
            "affinityId": f"TVM:{node.id}",
            "vmSize": node.pool.vm_size,
            "totalTasksRun": node.total_run,
            "runningTasksCount": len(node.runs),
            "runningTaskSlotsCount": node.pool.slots - node.free,
            "totalTasksSucceeded": node.succeeded,
            "isDedicated": node.dedicated,
            "nodeAgentInfo": {"version": _version(node), "lastUpdateTime": iso(node.boot_time)},
            "virtualMachineInfo": _machine(node),
        }
        if node.start_run is not None:
            found["startTask"] = node.start_task
            found["startTaskInfo"] = node.start_run.execution()
        if node.errors:
            found["errors"] = node.errors
        if node.recent and (select is None or "recentTasks" in select):
            found["recentTasks"] = [_recent(task, call.base) for task in _here(node)]
        return chosen(select, found)

    return wire


def _version(node: Node) -> str:
    processes = node.agent.has_containers and node.agent.runtime is None
    return "1.11.0 (emulated; containers are processes)" if processes else "1.11.0 (emulated)"


def _machine(node: Node) -> Body:
    machine = node.pool.body.get("virtualMachineConfiguration") or {}
    return {"imageReference": machine["imageReference"]} if "imageReference" in machine else {}


def _here(node: Node) -> list[Task]:
    """Its recent tasks, the last one first; without those that were deleted, or went elsewhere."""
    found: dict[Task, None] = dict.fromkeys(reversed(node.recent))
    return [
        task
        for task in found
        if task.node_info is not None
        and task.node_info["nodeId"] == node.id
        and task.job.tasks.get(task.id.lower()) is task
    ]


def _recent(task: Task, base: str) -> Body:
    return {
        "taskUrl": f"{base}/jobs/{task.job.id}/tasks/{task.id}",
        "jobId": task.job.id,
        "taskId": task.id,
        "taskState": task.state,
        **task_wire(task, _EXECUTION, base),
    }

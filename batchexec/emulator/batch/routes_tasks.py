"""Operations on tasks."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import Any

from aiohttp import web

from batchexec.emulator.clock import INFINITE, iso
from batchexec.emulator.errors import BatchError
from batchexec.emulator.node.agent import PREP, RELEASE
from batchexec.emulator.scheduling.scheduler import Scheduler
from batchexec.emulator.state import Account, Body, Job, Task

from . import task_schema
from .odata import Filter, Only
from .routes_pools import check_expand
from .server import Call, Operation, answer, done, listed

_seq = attrgetter("seq")


def _node_info(name: str) -> Any:
    return lambda task: task.node_info and task.node_info[name]


_FILTERS = {
    "id": attrgetter("id"),
    "state": Only(attrgetter("state"), "eq", "ne"),
    "stateTransitionTime": attrgetter("state_time"),
    "creationTime": attrgetter("created"),
    "lastModified": attrgetter("modified"),
    "executionInfo/startTime": attrgetter("start_time"),
    "executionInfo/endTime": attrgetter("end_time"),
    "executionInfo/exitCode": attrgetter("exit_code"),
    "executionInfo/result": Only(attrgetter("result"), "eq", "ne"),
    "executionInfo/retryCount": attrgetter("retries"),
    "nodeInfo/poolId": _node_info("poolId"),
    "nodeInfo/nodeId": _node_info("nodeId"),
}


class TaskRoutes:
    def __init__(self, account: Account, scheduler: Scheduler) -> None:
        self._account = account
        self._scheduler = scheduler

    def operations(self) -> dict[str, Operation]:
        return {
            "POST jobs/*/tasks": self.create,
            "POST jobs/*/addtaskcollection": self.create_collection,
            "GET jobs/*/tasks": self.list,
            "GET jobs/*/tasks/*": self.get,
            "PUT jobs/*/tasks/*": self.put,
            "DELETE jobs/*/tasks/*": self.delete,
            "GET jobs/*/tasks/*/subtasksinfo": self.subtasks,
            "POST jobs/*/tasks/*/terminate": self.terminate,
            "POST jobs/*/tasks/*/reactivate": self.reactivate,
        }

    def create(self, call: Call) -> web.Response:
        job = self._account.job(call.ids[0])
        job.refuse_unless_open()
        task = self._add(job, call.body())
        return done(201, call, task, f"/jobs/{job.id}/tasks/{task.id}")

    def create_collection(self, call: Call) -> web.Response:
        job = self._account.job(call.ids[0])
        body = call.body()
        items = body.get("value")
        if not isinstance(items, list):
            raise BatchError("MissingRequiredProperty", PropertyName="value")
        if not 1 <= len(items) <= 100:
            raise BatchError("InvalidPropertyValue", PropertyName="value", Reason="1 to 100 tasks are expected")
        job.refuse_unless_open()
        return answer(
            {
                "odata.metadata": f"{call.base}/$metadata#taskaddresult",
                "value": [self._try(call, job, i) for i in items],
            }
        )

    def _try(self, call: Call, job: Job, item: object) -> Body:
        id = item.get("id") if isinstance(item, dict) else None
        faults = self._account.faults
        fault = faults.take("item", job=job.id, task=id) if faults.active else None
        try:
            if not isinstance(item, dict):
                raise BatchError("InvalidRequestBody", Reason="an object is expected")
            if fault is None or fault["when"] == "after":
                task = self._add(job, item)
        except BatchError as error:
            return {"status": "clienterror", "taskId": str(id or ""), "error": error.body()}
        if fault is not None:
            return {"status": "servererror", "taskId": str(id or ""), "error": fault.error()}
        return {
            "status": "success",
            "taskId": task.id,
            "eTag": task.etag,
            "lastModified": iso(task.modified),
            "location": f"{call.base}/jobs/{job.id}/tasks/{task.id}",
        }

    def _add(self, job: Job, body: Body) -> Task:
        task_schema.TASK.check(body)
        id = body["id"].lower()
        if id in job.tasks:
            raise BatchError("TaskExists")
        for name, code in (("jobPreparationTask", "Preparation"), ("jobReleaseTask", "Release")):
            if (
                name in job.body
                and id == (job.body[name].get("id") or (PREP if code == "Preparation" else RELEASE)).lower()
            ):
                raise BatchError(f"TaskIdSameAsJob{code}Task")
        if body.get("dependsOn") and not job.body.get("usesTaskDependencies"):
            raise BatchError("TaskDependenciesNotSpecifiedOnJob")
        if body.get("exitConditions") and job.body.get("onTaskFailure") != "performexitoptionsjobaction":
            task_schema.check_actions(body["exitConditions"])
        task = Task(body["id"], job, body, self._scheduler.clock.now())
        self._scheduler.added(task)
        return task

    def list(self, call: Call) -> web.Response:
        check_expand(call)
        job = self._account.job(call.ids[0])
        found = call.filter(_FILTERS)
        tasks = _candidates(job, found)
        if self._account.faults.active:
            from batchexec.emulator.faults.lagging import seen

            tasks = seen(tasks, self._account.faults, self._scheduler.clock, job, by_filter=found is not None)
        return listed(call, "tasks", tasks, found, _seq, lambda task, s: task_wire(task, s, call.base))

    def get(self, call: Call) -> web.Response:
        check_expand(call)
        task = self._account.task(*call.ids)
        call.check_conditions(task, reading=True)
        return answer(task_wire(task, call.select(), call.base), task)

    def put(self, call: Call) -> web.Response:
        task = self._account.task(*call.ids)
        call.check_conditions(task)
        body = {name: value for name, value in call.body().items() if name == "constraints"}
        task_schema.TASK_UPDATE.check(body)
        task.job.refuse_unless_open()
        if task.state == "completed":
            raise BatchError("TaskCompleted")
        task.body = {name: value for name, value in task.body.items() if name != "constraints"} | body
        task.touch(self._scheduler.clock.now())
        return done(200, call, task)

    def delete(self, call: Call) -> web.Response:
        task = self._account.task(*call.ids)
        call.check_conditions(task)
        self._scheduler.delete_task(task)
        return done(200, call)

    def terminate(self, call: Call) -> web.Response:
        task = self._account.task(*call.ids)
        call.check_conditions(task)
        if task.state == "completed":
            raise BatchError("TaskCompleted")
        self._scheduler.end_task(task, "ended")
        return done(204, call, task)

    def reactivate(self, call: Call) -> web.Response:
        task = self._account.task(*call.ids)
        call.check_conditions(task)
        task.job.refuse_unless_open()
        if task.state != "completed":
            raise BatchError("TaskNotCompleted")
        if task.succeeded:
            raise BatchError("TaskSucceeded")
        self._scheduler.reactivate(task)
        return done(204, call, task)

    def subtasks(self, call: Call) -> web.Response:
        """None: there are no multi-instance tasks, and of others the list is empty."""
        self._account.task(*call.ids)
        return answer({"odata.metadata": f"{call.base}/$metadata#subtasks", "value": []})


def _candidates(job: Job, found: Filter | None) -> Iterable[Task]:
    """The tasks a query has to look at: all, or by the index of changes those that changed lately."""
    if found is None or found.since is None:
        return job.tasks.values()
    recent = []
    for task in reversed(job.recent.values()):
        if task.state_time < found.since:
            break
        recent.append(task)
    recent.sort(key=_seq)
    return recent


def task_wire(task: Task, select: frozenset[str] | None, base: str) -> Body:
    """A task as the service shows it; only what is selected is built."""
    names = _BUILDERS if select is None else [name for name in _BUILDERS if name in select]
    found = {name: _BUILDERS[name](task, base) for name in names}
    for name, value in task.body.items():
        if name not in _BUILDERS and (select is None or name in select):
            found[name] = value
    return {name: value for name, value in found.items() if value is not None}


def _constraints(task: Task, base: str) -> Body:
    own = task.body.get("constraints") or {}
    return {
        "maxWallClockTime": INFINITE,
        "retentionTime": "P7D",
        **own,
        "maxTaskRetryCount": task.retry_limit,
    }


def _execution(task: Task, base: str) -> Body:
    found: Body = {"retryCount": task.retries, "requeueCount": task.requeues}
    for name, moment in (
        ("startTime", task.start_time),
        ("endTime", task.end_time),
        ("lastRetryTime", task.last_retry),
        ("lastRequeueTime", task.last_requeue),
    ):
        if moment is not None:
            found[name] = iso(moment)
    for name, value in (("exitCode", task.exit_code), ("failureInfo", task.failure), ("result", task.result)):
        if value is not None:
            found[name] = value
    if task.container:
        found["containerInfo"] = task.container
    return found


def _node(task: Task, base: str) -> Body | None:
    if task.node_info is None:
        return None
    url = f"{base}/pools/{task.node_info['poolId']}/nodes/{task.node_info['nodeId']}"
    root = f"workitems/{task.job.id}/job-1/{task.id}"
    return {
        "affinityId": f"TVM:{task.node_info['nodeId']}",
        "nodeUrl": url,
        **task.node_info,
        "taskRootDirectory": root,
        "taskRootDirectoryUrl": f"{url}/files/{root}",
    }


_BUILDERS: dict[str, Any] = {
    "id": lambda task, base: task.id,
    "url": lambda task, base: f"{base}/jobs/{task.job.id}/tasks/{task.id}",
    "eTag": lambda task, base: task.etag,
    "creationTime": lambda task, base: iso(task.created),
    "lastModified": lambda task, base: iso(task.modified),
    "state": lambda task, base: task.state,
    "stateTransitionTime": lambda task, base: iso(task.state_time),
    "previousState": lambda task, base: task.previous_state,
    "previousStateTransitionTime": lambda task, base: task.previous_state_time and iso(task.previous_state_time),
    "constraints": _constraints,
    "requiredSlots": lambda task, base: task.slots,
    "executionInfo": _execution,
    "nodeInfo": _node,
}

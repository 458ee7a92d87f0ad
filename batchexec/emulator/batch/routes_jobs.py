"""Operations on jobs."""

from __future__ import annotations

from operator import attrgetter

from aiohttp import web

from batchexec.emulator.clock import INFINITE, Clock, iso
from batchexec.emulator.errors import BatchError, missing
from batchexec.emulator.node.runs import PrepRun, ReleaseRun
from batchexec.emulator.scheduling.jobs import Jobs
from batchexec.emulator.state import Account, Body, Job

from . import job_schema
from .odata import Getter, Only
from .routes_pools import check_expand
from .server import Call, Operation, answer, chosen, done, listed

_FILTERS: dict[str, Getter] = {
    "id": attrgetter("id"),
    "state": Only(attrgetter("state"), "eq", "ne"),
    "stateTransitionTime": attrgetter("state_time"),
    "creationTime": attrgetter("created"),
    "lastModified": attrgetter("modified"),
    "executionInfo/startTime": attrgetter("start_time"),
    "executionInfo/endTime": attrgetter("end_time"),
    "executionInfo/poolId": attrgetter("pool_id"),
}


_EXECUTION = {
    "startTime": "start_time",
    "endTime": "end_time",
    "exitCode": "exit_code",
    "result": "result",
    "state": "state",
}


class JobRoutes:
    def __init__(self, account: Account, clock: Clock, jobs: Jobs) -> None:
        self._account = account
        self._clock = clock
        self._jobs = jobs

    def operations(self) -> dict[str, Operation]:
        return {
            "POST jobs": self.create,
            "GET jobs": self.list,
            "GET jobs/*": self.get,
            "PATCH jobs/*": self.patch,
            "PUT jobs/*": self.put,
            "DELETE jobs/*": self.delete,
            "POST jobs/*/terminate": self.terminate,
            "POST jobs/*/disable": self.disable,
            "POST jobs/*/enable": self.enable,
            "GET jobs/*/taskcounts": self.task_counts,
            "GET jobs/*/jobpreparationandreleasetaskstatus": self.preparation_status,
        }

    def create(self, call: Call) -> web.Response:
        body = call.body()
        job_schema.JOB.check(body)
        if body["id"].lower() in self._account.jobs:
            raise BatchError("JobExists")
        self._account.quotas.admit_job(self._account)
        job = Job(body["id"], body, self._clock.now())
        self._jobs.begin(job)
        return done(201, call, job, f"/jobs/{job.id}")

    def list(self, call: Call) -> web.Response:
        check_expand(call)
        found = call.filter(_FILTERS)
        jobs = self._account.jobs.values()
        return listed(
            call,
            "jobs",
            jobs,
            found,
            attrgetter("seq"),
            lambda job, s: chosen(s, job_wire(job, call.base)),
        )

    def get(self, call: Call) -> web.Response:
        check_expand(call)
        job = self._account.job(call.ids[0])
        call.check_conditions(job, reading=True)
        return answer(chosen(call.select(), job_wire(job, call.base)), job)

    def patch(self, call: Call) -> web.Response:
        """Change what is given."""
        body = call.body()
        job_schema.PATCH.check(body)
        return self._update(call, body, whole=False)

    def put(self, call: Call) -> web.Response:
        """Replace all that can be changed; what is absent goes back to its default."""
        body = {name: value for name, value in call.body().items() if name in job_schema.CHANGEABLE}
        job_schema.PATCH.check(body)
        if "poolInfo" not in body:
            raise missing("poolInfo")
        body.setdefault("onAllTasksComplete", "noaction")
        return self._update(call, body, whole=True)

    def _update(self, call: Call, body: Body, whole: bool) -> web.Response:
        job = self._account.job(call.ids[0])
        call.check_conditions(job)
        job.refuse_unless_open()
        job_schema.check_change(job.body, body, job.state, whole)
        kept = job.body
        if whole:
            kept = {name: value for name, value in kept.items() if name not in job_schema.CHANGEABLE}
        job.body = {**kept, **body}
        job.touch(self._clock.now())
        self._jobs.changed(job)
        return done(200, call, job)

    def delete(self, call: Call) -> web.Response:
        job = self._account.job(call.ids[0])
        call.check_conditions(job)
        if job.state == "deleting":
            raise BatchError("JobBeingDeleted")
        self._jobs.delete(job, call.flag("force"))
        return done(202, call)

    def terminate(self, call: Call) -> web.Response:
        body = call.body_or_empty()
        job_schema.TERMINATE.check(body)
        job = self._account.job(call.ids[0])
        call.check_conditions(job)
        job.refuse_unless_open()
        self._jobs.terminate(job, body.get("terminateReason") or "UserTerminate", call.flag("force"))
        return done(202, call, job)

    def disable(self, call: Call) -> web.Response:
        body = call.body()
        job_schema.DISABLE.check(body)
        job = self._account.job(call.ids[0])
        call.check_conditions(job)
        job.refuse_unless_open()
        self._jobs.disable(job, body["disableTasks"])
        return done(202, call, job)

    def enable(self, call: Call) -> web.Response:
        job = self._account.job(call.ids[0])
        call.check_conditions(job)
        job.refuse_unless_open()
        self._jobs.enable(job)
        return done(202, call, job)

    def task_counts(self, call: Call) -> web.Response:
        job = self._account.job(call.ids[0])
        tasks = {
            "active": job.counts["active"],
            "running": job.at_work,
            "completed": job.counts["completed"],
            "succeeded": job.results["success"],
            "failed": job.results["failure"],
        }
        slots = _slot_counts(job) if job.wide else tasks
        if self._account.faults.active:
            from batchexec.emulator.faults.lagging import counts

            tasks = counts(job, self._account.faults, self._clock) or tasks
        return answer({"taskCounts": tasks, "taskSlotCounts": slots}, job)

    def preparation_status(self, call: Call) -> web.Response:
        job = self._account.job(call.ids[0])
        if "jobPreparationTask" not in job.body and "jobReleaseTask" not in job.body:
            raise BatchError("JobPreparationTaskNotSpecified")
        found = call.filter(_status_filters(job))

        def wire(prep: PrepRun, select: frozenset[str] | None) -> Body:
            node_url = f"{call.base}/pools/{job.pool_id}/nodes/{prep.node_id}"
            body: Body = {"poolId": job.pool_id, "nodeId": prep.node_id, "nodeUrl": node_url}
            body["jobPreparationTaskExecutionInfo"] = _run_wire(prep, node_url)
            release = job.released_on.get(prep.node_id)
            if release is not None:
                body["jobReleaseTaskExecutionInfo"] = _run_wire(release, node_url)
            return chosen(select, body)

        runs = list(job.prepared_on.values())
        order = {id(run): index for index, run in enumerate(runs, 1)}
        return listed(call, "jobpreparationandreleasetaskstatuslist", runs, found, lambda run: order[id(run)], wire)


def _run_wire(run: PrepRun | ReleaseRun, node_url: str) -> Body:
    root = {
        "taskRootDirectory": run.root_directory,
        "taskRootDirectoryUrl": f"{node_url}/files/{run.root_directory}",
    }
    return {**root, **run.execution()}


def _status_filters(job: Job) -> dict[str, Getter]:
    """The properties of preparation and release that a filter may name."""
    filters: dict[str, Getter] = {"nodeId": attrgetter("node_id"), "poolId": lambda prep: job.pool_id}
    runs: tuple[tuple[str, Getter], ...] = (
        ("jobPreparationTaskExecutionInfo", lambda prep: prep),
        ("jobReleaseTaskExecutionInfo", lambda prep: job.released_on.get(prep.node_id)),
    )
    for info, run_of in runs:
        for name, attribute in _EXECUTION.items():
            filters[f"{info}/{name}"] = _of_run(run_of, attribute)
    return filters


def _of_run(run_of: Getter, attribute: str) -> Getter:
    return lambda prep: getattr(run_of(prep), attribute, None)


def _slot_counts(job: Job) -> dict[str, int]:
    slots = dict.fromkeys(("active", "running", "completed", "succeeded", "failed"), 0)
    for task in job.tasks.values():
        slots["running" if task.state == "preparing" else task.state] += task.slots
        if task.state == "completed":
            slots["succeeded" if task.succeeded else "failed"] += task.slots
    return slots


def job_wire(job: Job, base: str) -> Body:
    execution: Body = {"startTime": iso(job.start_time)}
    if job.pool_id:
        execution["poolId"] = job.pool_id
    if job.end_time is not None:
        execution["endTime"] = iso(job.end_time)
    if job.scheduling_error is not None:
        execution["schedulingError"] = job.scheduling_error
    if job.terminate_reason is not None and job.end_time is not None:
        execution["terminateReason"] = job.terminate_reason
    found: Body = {
        "id": job.id,
        "url": f"{base}/jobs/{job.id}",
        "eTag": job.etag,
        "lastModified": iso(job.modified),
        "creationTime": iso(job.created),
        "state": job.state,
        "stateTransitionTime": iso(job.state_time),
        "priority": 0,
        "maxParallelTasks": -1,
        "usesTaskDependencies": False,
        "onAllTasksComplete": "noaction",
        "onTaskFailure": "noaction",
        **job.body,
        "constraints": {
            "maxWallClockTime": INFINITE,
            "maxTaskRetryCount": 0,
            **(job.body.get("constraints") or {}),
        },
        "executionInfo": execution,
    }
    if job.previous_state is not None and job.previous_state_time is not None:
        found["previousState"] = job.previous_state
        found["previousStateTransitionTime"] = iso(job.previous_state_time)
    return found

"""The bodies of jobs."""

from __future__ import annotations

from batchexec.emulator.clock import seconds_of
from batchexec.emulator.errors import BatchError, invalid, missing
from batchexec.emulator.state import Body

from .schema import (
    JOB_CONSTRAINTS,
    MANY,
    METADATA,
    POOL,
    SETTING,
    TASK_CONSTRAINTS,
    Check,
    Command,
    Number,
    Shape,
    duration,
    flag,
    identifier,
    listing,
    nonempty,
    number,
    one_of,
    text,
    text_up_to,
)
from .task_schema import DISPLAY_NAME, OUTPUT_FILES, PACKAGES

_RELEASE_LIMIT_SECONDS = 15 * 60


class _Parallel(Number):
    """-1 for no limit, or a number above 0."""

    def __call__(self, name: str, value: object) -> None:
        super().__call__(name, value)
        if value == 0:
            raise invalid(name, value, "-1 or a number above 0 is expected")


def _release_limit(name: str, value: object) -> None:
    duration(name, value)
    if (seconds_of(str(value)) or 0) > _RELEASE_LIMIT_SECONDS:
        raise invalid(name, value, "at most 15 minutes")


_PREPARATION = Command(
    {},
    {
        "id": identifier,
        "constraints": TASK_CONSTRAINTS,
        "waitForSuccess": flag,
        "rerunOnNodeRebootAfterSuccess": flag,
    },
)
_RELEASE = Command({}, {"id": identifier, "maxWallClockTime": _release_limit, "retentionTime": duration})
_MANAGER = Command(
    {"id": identifier},
    {
        "displayName": DISPLAY_NAME,
        "outputFiles": OUTPUT_FILES,
        "constraints": TASK_CONSTRAINTS,
        "requiredSlots": number(1, 256),
        "killJobOnCompletion": flag,
        "runExclusive": flag,
        "allowLowPriorityNode": flag,
        "applicationPackageReferences": PACKAGES,
    },
)

# A pool without its id: the service gives it one.
_POOL_SPECIFICATION = Shape(
    {"vmSize": nonempty}, {name: check for name, check in POOL.checks.items() if name not in ("id", "vmSize")}
)
_AUTO_POOL = Shape(
    {"poolLifetimeOption": one_of("job", "jobschedule")},
    {"autoPoolIdPrefix": text_up_to(20), "keepAlive": flag, "pool": _POOL_SPECIFICATION},
)


class _PoolInfo(Shape):
    """The id of a pool, or what a pool made for the job is to be."""

    def check(self, body: Body) -> None:
        super().check(body)
        auto = body.get("autoPoolSpecification")
        if ("poolId" in body) == (auto is not None):
            raise invalid("poolInfo", "", "either poolId or autoPoolSpecification is expected")
        if auto is None:
            return
        if auto["poolLifetimeOption"] == "jobschedule":
            raise invalid("poolLifetimeOption", "jobschedule", "it is for job schedules only")
        if auto.get("pool") is None:
            raise missing("pool")
        if auto.get("autoPoolIdPrefix"):
            identifier("autoPoolIdPrefix", auto["autoPoolIdPrefix"])


_POOL_INFO = _PoolInfo({}, {"poolId": identifier, "autoPoolSpecification": _AUTO_POOL})
_UPDATE: dict[str, Check] = {
    "priority": number(-1000, 1000),
    "allowTaskPreemption": flag,
    "maxParallelTasks": _Parallel(-1, MANY),
    "constraints": JOB_CONSTRAINTS,
    "onAllTasksComplete": one_of("noaction", "terminatejob"),
    "metadata": METADATA,
    "networkConfiguration": Shape({"subnetId": nonempty}, {"skipWithdrawFromVNet": flag}),
}


class _Job(Shape):
    def check(self, body: Body) -> None:
        super().check(body)
        if "jobReleaseTask" in body and "jobPreparationTask" not in body:
            raise invalid("jobReleaseTask", "", "it needs a jobPreparationTask")
        ids = [
            (body[name].get("id") or default).lower()
            for name, default in (("jobPreparationTask", "jobpreparation"), ("jobReleaseTask", "jobrelease"))
            if name in body
        ]
        if "jobManagerTask" in body:
            ids.append(body["jobManagerTask"]["id"].lower())
        if len(set(ids)) < len(ids):
            raise invalid("id", ids[-1], "two tasks of the job have the same id")


JOB = _Job(
    {"id": identifier, "poolInfo": _POOL_INFO},
    {
        **_UPDATE,
        "displayName": DISPLAY_NAME,
        "usesTaskDependencies": flag,
        "jobManagerTask": _MANAGER,
        "jobPreparationTask": _PREPARATION,
        "jobReleaseTask": _RELEASE,
        "commonEnvironmentSettings": listing(SETTING),
        "onTaskFailure": one_of("noaction", "performexitoptionsjobaction"),
    },
)
PATCH = Shape({}, {**_UPDATE, "poolInfo": _POOL_INFO})
# PUT takes a whole job as `get` gave it; what cannot be changed is ignored.
CHANGEABLE = (*_UPDATE, "poolInfo")
DISABLE = Shape({"disableTasks": one_of("requeue", "terminate", "wait")}, {})
TERMINATE = Shape({}, {"terminateReason": text})


def check_change(old: Body, new: Body, state: str, whole: bool) -> None:
    """Raise where a job's pool or its action on completion may not be changed so.

    The pool changes only while the job is disabled; of an auto pool only keepAlive, at any time. A `whole` job, as PUT
    brings it, has to name its pool; a PATCH may not even do that.
    """
    if old.get("onAllTasksComplete") == "terminatejob" and new.get("onAllTasksComplete") == "noaction":
        raise invalid("onAllTasksComplete", "noaction", "it cannot be set back")
    if "poolInfo" not in new:
        return
    before, after = (body["poolInfo"].get("autoPoolSpecification") for body in (old, new))
    if (before is None) != (after is None) or (before and _fixed(before) != _fixed(after)):
        raise invalid("poolInfo", "", "of an auto pool only keepAlive can be changed")
    if before is None and state != "disabled" and (new["poolInfo"] != old["poolInfo"] or not whole):
        reason = "the pool of a job changes only while it is disabled"
        raise BatchError("OperationInvalidForCurrentState", Reason=reason)


def _fixed(auto: Body) -> Body:
    return {name: value for name, value in auto.items() if name != "keepAlive"}

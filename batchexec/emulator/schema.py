"""Request bodies: which properties each may have and what they must look like."""

from __future__ import annotations

import re
from collections.abc import Callable

from .clock import seconds_of
from .errors import BatchError, invalid, missing
from .state import Body

Check = Callable[[str, object], None]
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def identifier(name: str, value: object) -> None:
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise invalid(name, value, "1 to 64 characters of A-Z, a-z, 0-9, hyphen and underscore")


def text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise invalid(name, value, "text is expected")


def nonempty(name: str, value: object) -> None:
    if not isinstance(value, str) or not value:
        raise invalid(name, value, "text is expected")


def flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise invalid(name, value, "true or false is expected")


def number(least: int, most: int) -> Check:
    def check(name: str, value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise invalid(name, value, f"a number from {least} to {most} is expected")

    return check


def duration(name: str, value: object) -> None:
    if not isinstance(value, str) or seconds_of(value) is None:
        raise invalid(name, value, "an ISO 8601 duration is expected")


def one_of(*values: str) -> Check:
    def check(name: str, value: object) -> None:
        if value not in values:
            raise invalid(name, value, "one of " + ", ".join(values))

    return check


def anything(name: str, value: object) -> None:
    """Accepted, kept and given back; the emulator does nothing with it."""


def listing(check: Check) -> Check:
    def check_all(name: str, value: object) -> None:
        if not isinstance(value, list):
            raise invalid(name, value, "a list is expected")
        for item in value:
            check(name, item)

    return check_all


class Shape:
    """An object with these properties and no others."""

    def __init__(self, required: dict[str, Check], optional: dict[str, Check]) -> None:
        self._required = required
        self._checks = {**required, **optional}

    def __call__(self, name: str, value: object) -> None:
        if not isinstance(value, dict):
            raise invalid(name, value, "an object is expected")
        self.check(value)

    def check(self, body: Body) -> None:
        """Raise 400 unless the body fits. A null stands for a property that is not there."""
        for name in self._required:
            if body.get(name) is None:
                raise missing(name)
        for name, value in body.items():
            check = self._checks.get(name)
            if check is None:
                if name.startswith("odata."):
                    continue
                raise BatchError(
                    "InvalidRequestBody", Reason=f"The property '{name}' does not exist", PropertyName=name
                )
            if value is not None:
                check(name, value)


def without_nulls(body: Body) -> Body:
    return {name: value for name, value in body.items() if value is not None}


_MANY = 2**31 - 1
SETTING = Shape({"name": nonempty}, {"value": text})
METADATA = listing(Shape({"name": text, "value": text}, {}))
TASK_CONSTRAINTS = Shape(
    {}, {"maxWallClockTime": duration, "retentionTime": duration, "maxTaskRetryCount": number(-1, _MANY)}
)
JOB_CONSTRAINTS = Shape({}, {"maxWallClockTime": duration, "maxTaskRetryCount": number(-1, _MANY)})
RESOURCE_FILE = Shape(
    {},
    {
        "httpUrl": nonempty,
        "storageContainerUrl": nonempty,
        "autoStorageContainerName": nonempty,
        "blobPrefix": text,
        "filePath": nonempty,
        "fileMode": text,
        "identityReference": anything,
    },
)


def resource_file(name: str, value: object) -> None:
    RESOURCE_FILE(name, value)
    assert isinstance(value, dict)
    sources = [key for key in ("httpUrl", "storageContainerUrl", "autoStorageContainerName") if value.get(key)]
    if len(sources) != 1:
        raise invalid(name, ", ".join(sources), "exactly one source is expected")
    if value.get("httpUrl") and not value.get("filePath"):
        raise missing("filePath")
    if sources != ["httpUrl"]:
        raise BatchError("NotImplemented", PropertyName=sources[0])
    mode = value.get("fileMode")
    if mode and not re.fullmatch("[0-7]{3,5}", mode):
        raise invalid("fileMode", mode, "an octal mode is expected")


CONTAINER = Shape(
    {"imageName": nonempty},
    {
        "containerRunOptions": text,
        "registry": anything,
        "workingDirectory": one_of("taskWorkingDirectory", "containerImageDefault"),
        "containerHostBatchBindMounts": anything,
    },
)
_COMMAND: dict[str, Check] = {
    "containerSettings": CONTAINER,
    "resourceFiles": listing(resource_file),
    "environmentSettings": listing(SETTING),
    "userIdentity": anything,
}


class Command(Shape):
    """What runs a command line, which may be empty only in a container: the image's own is meant then."""

    def __init__(self, required: dict[str, Check], optional: dict[str, Check]) -> None:
        super().__init__({**required, "commandLine": text}, {**_COMMAND, **optional})

    def check(self, body: Body) -> None:
        super().check(body)
        if not body.get("containerSettings"):
            nonempty("commandLine", body["commandLine"])


START = Command({}, {"maxTaskRetryCount": number(-1, _MANY), "waitForSuccess": flag})
VIRTUAL_MACHINES = Shape(
    {"imageReference": anything, "nodeAgentSKUId": nonempty},
    {
        "windowsConfiguration": anything,
        "dataDisks": anything,
        "licenseType": text,
        "containerConfiguration": Shape(
            {"type": one_of("dockerCompatible", "criCompatible")},
            {"containerImageNames": listing(nonempty), "containerRegistries": anything},
        ),
        "diskEncryptionConfiguration": anything,
        "nodePlacementConfiguration": anything,
        "extensions": anything,
        "osDisk": anything,
        "securityProfile": anything,
        "serviceArtifactReference": anything,
    },
)
POOL = Shape(
    {"id": identifier, "vmSize": nonempty},
    {
        "displayName": text,
        "virtualMachineConfiguration": VIRTUAL_MACHINES,
        "resizeTimeout": duration,
        "targetDedicatedNodes": number(0, _MANY),
        "targetLowPriorityNodes": number(0, _MANY),
        "enableAutoScale": flag,
        "autoScaleFormula": text,
        "autoScaleEvaluationInterval": duration,
        "enableInterNodeCommunication": flag,
        "networkConfiguration": anything,
        "startTask": START,
        "applicationPackageReferences": anything,
        "taskSlotsPerNode": number(1, 256),
        "taskSchedulingPolicy": Shape(
            {}, {"nodeFillType": one_of("spread", "pack"), "jobDefaultOrder": one_of("none", "creationtime")}
        ),
        "userAccounts": anything,
        "metadata": METADATA,
        "mountConfiguration": anything,
        "upgradePolicy": anything,
    },
)
_POOL_KEPT = ("id", "resizeTimeout", "targetDedicatedNodes", "targetLowPriorityNodes", "enableAutoScale")
_POOL_AUTOSCALE = ("autoScaleFormula", "autoScaleEvaluationInterval")
POOL_PATCH = Shape(
    {}, {name: check for name, check in POOL._checks.items() if name not in _POOL_KEPT + _POOL_AUTOSCALE}
)
DEALLOCATION = one_of("requeue", "terminate", "taskcompletion", "retaineddata")
RESIZE = Shape(
    {},
    {
        "targetDedicatedNodes": number(0, _MANY),
        "targetLowPriorityNodes": number(0, _MANY),
        "resizeTimeout": duration,
        "nodeDeallocationOption": DEALLOCATION,
    },
)
AUTOSCALE = Shape({}, {"autoScaleFormula": text, "autoScaleEvaluationInterval": duration})
EVALUATE = Shape({"autoScaleFormula": text}, {})

PREPARATION = Command(
    {},
    {
        "id": identifier,
        "constraints": TASK_CONSTRAINTS,
        "waitForSuccess": flag,
        "rerunOnNodeRebootAfterSuccess": flag,
    },
)
_JOB_UPDATE: dict[str, Check] = {
    "priority": number(-1000, 1000),
    "allowTaskPreemption": flag,
    "maxParallelTasks": number(-1, _MANY),
    "constraints": JOB_CONSTRAINTS,
    "onAllTasksComplete": one_of("noaction", "terminatejob"),
    "metadata": METADATA,
    "networkConfiguration": anything,
}
POOL_INFO = Shape({"poolId": identifier}, {})
JOB = Shape(
    {"id": identifier, "poolInfo": POOL_INFO},
    {
        **_JOB_UPDATE,
        "displayName": text,
        "usesTaskDependencies": flag,
        "jobManagerTask": anything,
        "jobPreparationTask": PREPARATION,
        "jobReleaseTask": anything,
        "commonEnvironmentSettings": listing(SETTING),
        "onTaskFailure": one_of("noaction", "performexitoptionsjobaction"),
    },
)
JOB_PATCH = Shape({}, {**_JOB_UPDATE, "poolInfo": POOL_INFO})
# PUT takes a whole job as `get` gave it; what cannot be changed is ignored.
JOB_CHANGEABLE = (*_JOB_UPDATE, "poolInfo")
DISABLE = Shape({"disableTasks": one_of("requeue", "terminate", "wait")}, {})
TERMINATE = Shape({}, {"terminateReason": text})

TASK = Command(
    {"id": identifier},
    {
        "displayName": text,
        "exitConditions": anything,
        "outputFiles": anything,
        "affinityInfo": anything,
        "constraints": TASK_CONSTRAINTS,
        "requiredSlots": number(1, 256),
        "multiInstanceSettings": anything,
        "dependsOn": anything,
        "applicationPackageReferences": anything,
    },
)
TASK_UPDATE = Shape({}, {"constraints": TASK_CONSTRAINTS})

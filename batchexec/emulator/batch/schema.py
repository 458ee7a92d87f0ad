"""Request bodies: which properties each may have and what they must look like."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime

from batchexec.emulator.clock import parse_time, seconds_of
from batchexec.emulator.errors import BatchError, invalid, missing
from batchexec.emulator.state import Body

Check = Callable[[str, object], object]
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_WHOLE = re.compile(r"-?[0-9]{1,10}")


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


class Number:
    """A whole number within limits."""

    def __init__(self, least: int, most: int) -> None:
        self._limits = least, most

    def __call__(self, name: str, value: object) -> None:
        least, most = self._limits
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise invalid(name, value, f"a number from {least} to {most} is expected")


def number(least: int, most: int) -> Check:
    return Number(least, most)


def duration(name: str, value: object) -> None:
    if not isinstance(value, str) or seconds_of(value) is None:
        raise invalid(name, value, "an ISO 8601 duration is expected")


def time_of(name: str, value: object) -> datetime:
    moment = parse_time(value) if isinstance(value, str) else None
    if moment is None:
        raise invalid(name, value, "a time is expected")
    return moment


class OneOf:
    """One of these words. Older clients spell them in other cases (`terminateJob`); kept is what stands here."""

    def __init__(self, values: tuple[str, ...]) -> None:
        self.values = values
        self.spelling = {value.lower(): value for value in values}

    def __call__(self, name: str, value: object) -> None:
        if value not in self.values:
            raise invalid(name, value, "one of " + ", ".join(self.values))


def one_of(*values: str) -> Check:
    return OneOf(values)


def text_up_to(most: int) -> Check:
    def check(name: str, value: object) -> None:
        if not isinstance(value, str) or len(value) > most:
            raise invalid(name, value, f"text of at most {most} characters is expected")

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
        self.checks = {**required, **optional}

    def __call__(self, name: str, value: object) -> None:
        if not isinstance(value, dict):
            raise invalid(name, value, "an object is expected")
        self.check(value)

    def check(self, body: Body) -> None:
        """Raise 400 unless the body fits. A null stands for a property that is not there, and goes."""
        for name in self._required:
            if body.get(name) is None:
                raise missing(name)
        nulls = False
        for name, value in body.items():
            check = self.checks.get(name)
            if check is None:
                if name.startswith("odata."):
                    continue
                raise BatchError(
                    "InvalidRequestBody", Reason=f"The property '{name}' does not exist", PropertyName=name
                )
            if value is None:
                nulls = True
                continue
            if type(value) is str:
                if isinstance(check, Number) and _WHOLE.fullmatch(value):
                    body[name] = value = int(value)  # `az batch` sends numbers as text, and the service takes them
                elif type(check) is OneOf:
                    body[name] = value = check.spelling.get(value.lower(), value)
            check(name, value)
        if nulls:
            for name in [name for name, value in body.items() if value is None]:
                del body[name]


def without_nulls(body: Body) -> Body:
    return {name: value for name, value in body.items() if value is not None}


MANY = 2**31 - 1
SETTING = Shape({"name": nonempty}, {"value": text})
METADATA = listing(Shape({"name": text, "value": text}, {}))
TASK_CONSTRAINTS = Shape(
    {}, {"maxWallClockTime": duration, "retentionTime": duration, "maxTaskRetryCount": number(-1, MANY)}
)
JOB_CONSTRAINTS = Shape({}, {"maxWallClockTime": duration, "maxTaskRetryCount": number(-1, MANY)})
IDENTITY = Shape({}, {"resourceId": nonempty})
RESOURCE_FILE = Shape(
    {},
    {
        "httpUrl": nonempty,
        "storageContainerUrl": nonempty,
        "autoStorageContainerName": nonempty,
        "blobPrefix": text,
        "filePath": nonempty,
        "fileMode": text,
        "identityReference": IDENTITY,
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
    if value.get("httpUrl") and value.get("blobPrefix"):
        raise invalid("blobPrefix", value["blobPrefix"], "it goes with a container only")
    mode = value.get("fileMode")
    if mode and not re.fullmatch("[0-7]{3,5}", mode):
        raise invalid("fileMode", mode, "an octal mode is expected")


def image_name(name: str, value: object) -> None:
    """No option of the runtime, and nothing that no program can be told."""
    if not isinstance(value, str) or not value.isprintable() or value[:1] in ("", "-"):
        raise invalid(name, value, "the name of an image is expected")


REGISTRY = Shape({}, {"username": text, "password": text, "registryServer": text, "identityReference": anything})
CONTAINER = Shape(
    {"imageName": image_name},
    {
        "containerRunOptions": text,
        "registry": REGISTRY,
        "workingDirectory": one_of("taskWorkingDirectory", "containerImageDefault"),
        "containerHostBatchBindMounts": listing(Shape({}, {"source": text, "isReadOnly": flag})),
    },
)
_COMMAND: dict[str, Check] = {
    "containerSettings": CONTAINER,
    "resourceFiles": listing(resource_file),
    "environmentSettings": listing(SETTING),
    "userIdentity": Shape(
        {},
        {
            "username": nonempty,
            "autoUser": Shape({}, {"scope": one_of("task", "pool"), "elevationLevel": one_of("nonadmin", "admin")}),
        },
    ),
}


class Command(Shape):
    """What runs a command line, which may be empty only in a container: the image's own is meant then."""

    def __init__(self, required: dict[str, Check], optional: dict[str, Check]) -> None:
        super().__init__({**required, "commandLine": text}, {**_COMMAND, **optional})

    def check(self, body: Body) -> None:
        super().check(body)
        if not body.get("containerSettings"):
            nonempty("commandLine", body["commandLine"])


START = Command({}, {"maxTaskRetryCount": number(-1, MANY), "waitForSuccess": flag})
VIRTUAL_MACHINES = Shape(
    {"imageReference": anything, "nodeAgentSKUId": nonempty},
    {
        "windowsConfiguration": anything,
        "dataDisks": anything,
        "licenseType": text,
        "containerConfiguration": Shape(
            {"type": one_of("dockerCompatible", "criCompatible")},
            {"containerImageNames": listing(image_name), "containerRegistries": listing(REGISTRY)},
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
        "targetDedicatedNodes": number(0, MANY),
        "targetLowPriorityNodes": number(0, MANY),
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
POOL_PATCH = Shape({}, {name: check for name, check in POOL.checks.items() if name not in _POOL_KEPT + _POOL_AUTOSCALE})
DEALLOCATION = one_of("requeue", "terminate", "taskcompletion", "retaineddata")
RESIZE = Shape(
    {},
    {
        "targetDedicatedNodes": number(0, MANY),
        "targetLowPriorityNodes": number(0, MANY),
        "resizeTimeout": duration,
        "nodeDeallocationOption": DEALLOCATION,
    },
)
POOL_REPLACE = Shape(
    {}, {name: POOL.checks[name] for name in ("startTask", "applicationPackageReferences", "metadata")}
)
REMOVE_NODES = Shape(
    {"nodeList": listing(nonempty)}, {"resizeTimeout": duration, "nodeDeallocationOption": DEALLOCATION}
)
AUTOSCALE = Shape({}, {"autoScaleFormula": text, "autoScaleEvaluationInterval": duration})
EVALUATE = Shape({"autoScaleFormula": text}, {})
UPLOAD_LOGS = Shape(
    {"containerUrl": nonempty, "startTime": time_of}, {"endTime": time_of, "identityReference": anything}
)

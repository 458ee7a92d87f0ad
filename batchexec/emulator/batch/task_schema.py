"""The bodies of tasks: what their properties must look like beyond what all commands share."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from batchexec.emulator.errors import BatchError, invalid
from batchexec.emulator.state import Body

from .schema import (
    IDENTITY,
    MANY,
    TASK_CONSTRAINTS,
    Check,
    Command,
    Shape,
    identifier,
    listing,
    nonempty,
    number,
    one_of,
    text,
    text_up_to,
)

_DEPENDENCY_CHARACTERS = 64_000
_INT = number(-MANY - 1, MANY)
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

DISPLAY_NAME = text_up_to(1024)


def _packages(name: str, value: object) -> None:
    """Applications come from the management side of the service; there are none here to refer to."""
    _PACKAGES(name, value)
    if value:
        raise BatchError("InvalidApplicationPackageReferences")


_PACKAGES = listing(Shape({"applicationId": nonempty}, {"version": text}))
PACKAGES: Check = _packages


def _web_address(name: str, value: object) -> None:
    try:
        parts = urlsplit(value) if isinstance(value, str) else None
    except ValueError:  # brackets around what is no address
        parts = None
    if parts is None or parts.scheme not in ("http", "https") or not parts.netloc or len(parts.path) < 2:
        raise invalid(name, value, "the address of a container is expected")


def _header(name: str, value: object) -> None:
    _HEADER_PAIR(name, value)
    assert isinstance(value, dict)
    if not _HEADER.fullmatch(value["name"]) or "\r" in (value.get("value") or "") or "\n" in (value.get("value") or ""):
        raise invalid(name, value["name"], "a header of the Blob service is expected")


_HEADER_PAIR = Shape({"name": nonempty}, {"value": text})
_OUTPUT_CONTAINER = Shape(
    {"containerUrl": _web_address}, {"path": text, "identityReference": IDENTITY, "uploadHeaders": listing(_header)}
)
OUTPUT_FILES = listing(
    Shape(
        {
            "filePattern": nonempty,
            "destination": Shape({"container": _OUTPUT_CONTAINER}, {}),
            "uploadOptions": Shape({"uploadCondition": one_of("tasksuccess", "taskfailure", "taskcompletion")}, {}),
        },
        {},
    )
)

_EXIT_OPTIONS = Shape(
    {}, {"jobAction": one_of("none", "disable", "terminate"), "dependencyAction": one_of("satisfy", "block")}
)


class _Range(Shape):
    """Two numbers, the first not above the second."""

    def check(self, body: Body) -> None:
        super().check(body)
        if body["start"] > body["end"]:
            raise invalid("end", body["end"], "it is less than the start")


_EXIT_CONDITIONS = Shape(
    {},
    {
        "exitCodes": listing(Shape({"code": _INT, "exitOptions": _EXIT_OPTIONS}, {})),
        "exitCodeRanges": listing(_Range({"start": _INT, "end": _INT, "exitOptions": _EXIT_OPTIONS}, {})),
        "preProcessingError": _EXIT_OPTIONS,
        "fileUploadError": _EXIT_OPTIONS,
        "default": _EXIT_OPTIONS,
    },
)


class _Dependencies(Shape):
    def check(self, body: Body) -> None:
        super().check(body)
        if sum(map(len, body.get("taskIds") or ())) > _DEPENDENCY_CHARACTERS:
            raise BatchError("TaskDependencyListTooLong", MaxLimit=str(_DEPENDENCY_CHARACTERS))


_DEPENDS_ON = _Dependencies(
    {}, {"taskIds": listing(identifier), "taskIdRanges": listing(_Range({"start": _INT, "end": _INT}, {}))}
)


def _multi_instance(name: str, value: object) -> None:
    raise invalid(name, "", "multi-instance tasks are not served here")


TASK = Command(
    {"id": identifier},
    {
        "displayName": DISPLAY_NAME,
        "exitConditions": _EXIT_CONDITIONS,
        "outputFiles": OUTPUT_FILES,
        "affinityInfo": Shape({"affinityId": nonempty}, {}),
        "constraints": TASK_CONSTRAINTS,
        "requiredSlots": number(1, 256),
        "multiInstanceSettings": _multi_instance,
        "dependsOn": _DEPENDS_ON,
        "applicationPackageReferences": PACKAGES,
    },
)
TASK_UPDATE = Shape({}, {"constraints": TASK_CONSTRAINTS})


def check_actions(conditions: Body) -> None:
    """Raise where exit conditions act on a job that does not let them."""
    options = [item["exitOptions"] for name in ("exitCodes", "exitCodeRanges") for item in conditions.get(name) or ()]
    options += [conditions.get(name) or {} for name in ("preProcessingError", "fileUploadError", "default")]
    for given in options:
        if given.get("jobAction"):
            raise invalid("jobAction", given["jobAction"], "the job's onTaskFailure is noaction")

"""What a task's end means for its job and for the tasks that depend on it."""

from __future__ import annotations

from typing import NamedTuple

from batchexec.emulator.state import Body, Task


class Verdict(NamedTuple):
    """`job_action`: none, disable or terminate; `satisfies`: whether tasks that wait for this one may go on."""

    job_action: str
    satisfies: bool


def verdict(task: Task) -> Verdict:
    """How a completed task's exit conditions answer its end.

    Without any, exit code 0 satisfies and does nothing to the job, and all else blocks and would terminate it. A code
    that is listed comes first, even where a file could not be uploaded after it (REST documentation of ExitConditions).
    """
    good = task.result == "success"
    conditions = task.body.get("exitConditions")
    options = (_options(task, conditions) or {}) if conditions else {}
    action = options.get("jobAction") or ("none" if good else "terminate")
    return Verdict(action, (options.get("dependencyAction") or ("satisfy" if good else "block")) == "satisfy")


def _options(task: Task, conditions: Body) -> Body | None:
    code = task.exit_code
    if code is not None:
        for mapping in conditions.get("exitCodes") or ():
            if mapping["code"] == code:
                return _body(mapping["exitOptions"])
        for mapping in conditions.get("exitCodeRanges") or ():
            if mapping["start"] <= code <= mapping["end"]:
                return _body(mapping["exitOptions"])
    if task.result == "success":
        return None
    failure = str((task.failure or {}).get("code"))
    name = "default"
    if failure.startswith("FileUpload"):
        name = "fileUploadError"
    elif code is None and failure != "TaskEnded":
        name = "preProcessingError"
    return _body(conditions.get(name) or conditions.get("default"))


def _body(options: object) -> Body | None:
    return options if isinstance(options, dict) else None

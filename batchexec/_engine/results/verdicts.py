"""Why a task that is over has no result: the typed error, from what the service says and from its log blob."""

from __future__ import annotations

import math
import signal
from typing import Any, NamedTuple

from batchexec._engine.sending.needs import Needs
from batchexec._engine.sending.work import Chunk
from batchexec._wire import envelope, names
from batchexec.errors import ResultStoreError, TamperedError, TaskError, TaskTerminatedError, WorkerCrashedError

LOG_HEAD_BYTES = 8 + 4 * names.TAIL_BYTES  # of a log blob: enough for its signed head with both tails


_NOT_STARTED = (125, 126, 127)  # what shells and container runtimes end with when they cannot start a program


class CrashLog(NamedTuple):
    """The signed head of a log blob."""

    status: int | None  # exit code of the worker process, or minus its signal
    oom_kills: int
    stdout: str
    stderr: str


def read_log(data: bytes | None, key: bytes, job: str, chunk: Chunk) -> CrashLog | None:
    """The head of the log blob; None when there is none, or none that a worker of ours signed."""
    if not data or len(data) < 8:
        return None
    length = int.from_bytes(data[:8], "big")
    about = envelope.context("log", job, chunk.number, chunk.generation)
    try:
        header, frames = envelope.unseal(key, about, data[8 : 8 + length])
    except envelope.BadEnvelope:
        return None
    out, err = (bytes(frame).decode("utf-8", "replace") for frame in frames)
    return CrashLog(header.get("status"), int(header.get("oom_kills") or 0), out, err)


def said_elsewhere(task: dict[str, Any] | None, log: CrashLog | None) -> bool:
    """Whether only the service has what the task wrote: its worker did not start, or could not reach storage."""
    exit_code = ((task or {}).get("executionInfo") or {}).get("exitCode")
    return log is None and exit_code in (*_NOT_STARTED, names.EXIT_NO_RESULT)


def verdict(task: dict[str, Any] | None, log: CrashLog | None, job: str, chunk: Chunk, said: str = "") -> TaskError:
    """The error for a chunk whose task is completed (or gone: None) and has no result blob.

    `said`: the end of its standard error as the service has it, for one without a log.
    """
    info = (task or {}).get("executionInfo") or {}
    failure = info.get("failureInfo") or {}
    code, exit_code = failure.get("code", ""), info.get("exitCode")
    where: dict[str, Any] = {
        "job_id": job,
        "task_id": chunk.task_id,
        "node_id": ((task or {}).get("nodeInfo") or {}).get("nodeId"),
        "exit_code": exit_code,
        "stdout": log.stdout if log else "",
        "stderr": log.stderr if log else "",
    }
    what = f"{chunk.call.name} (task {chunk.task_id})"
    if task is None:
        return TaskTerminatedError(f"{what} is gone: someone deleted its task or its job", **where)
    if code in ("TaskEnded", "JobBeingTerminated"):
        timeout = chunk.call.needs.timeout
        limit = f", or it ran longer than timeout={timeout:g} s" if timeout else ""
        return TaskTerminatedError(f"{what} was ended by the service: it was terminated{limit}", **where)
    if exit_code == names.EXIT_NO_RESULT:
        reason = _last_line(log.stderr if log else said) or "see its stderr"
        return ResultStoreError(f"{what} ran, but could not reach storage: {reason}", **where)
    if exit_code == names.EXIT_TAMPERED and log is None:
        return TamperedError(f"{what} was not run: its worker.pyz was changed, in storage or on the node", **where)
    if log is None and exit_code in _NOT_STARTED:
        ends = _ends(said)
        text = f"{what} could not be started on node {where['node_id']} (exit code {exit_code}).{ends}"
        return WorkerCrashedError(text, **{**where, "stderr": said})
    if exit_code is not None and (exit_code != 0 or log is not None):
        status = log.status if log and log.status is not None else exit_code
        tries = f" (tried {info['retryCount'] + 1} times)" if info.get("retryCount") else ""
        death, room = _death(status, log), ""
        if "out of memory" in death:
            room = more_memory(chunk.call.needs)
        return WorkerCrashedError(f"{what}: its process {death}{tries}.{room}{_tail(log)}", **where)
    if failure:
        text = failure.get("message") or ""
        details = "; ".join(f"{d.get('name')}: {d.get('value')}" for d in failure.get("details") or ())
        words = f"{code}: {text}" + (f" ({details})" if details else "")
        return TaskError(f"{what} could not be run by the service: {words}", **where)
    return ResultStoreError(f"{what} completed, but its result is not in storage: was it deleted?", **where)


def more_memory(needs: Needs) -> str:
    """What to set so that a task has more memory, as a sentence behind others; nothing where nobody knows."""
    node = needs.node
    if node is None:
        return ""
    has = f" of {node.memory:.1f} GiB" if node.memory else ""
    if needs.slots >= node.slots:
        return f" The task had {node.what}{has} to itself" + ("." if node.is_local else ": use a larger vm_size.")
    name, now = ("max_workers", f"now {node.slots}") if node.is_local else ("slots", f"now {node.slots} per node")
    fewer = max(1, node.slots // (2 * needs.slots))
    twice = min(1.0, 2 * needs.slots / node.slots)
    ways = [f"memory={math.floor(twice * node.memory)} (GiB a task)"] if node.memory else []
    ways += [f"cores={max(1, math.floor(twice * node.cores))}"] if node.cores else []
    had = f"{needs.slots} of the {node.slots} slots of {node.what}{has}"
    return f" A task had {had}: set {', '.join([*ways, f'or {name}={fewer}'])} ({now})."


def _death(status: int, log: CrashLog | None) -> str:
    number = -status if status < 0 else status - 128 if status > 128 else 0
    if not number:
        return f"ended itself with exit code {status} (os._exit?) before it had a result"
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    text = f"was killed by {name}"
    if log and log.oom_kills:
        return f"{text}: the node ran out of memory"
    if number == 9:
        return f"{text}: if nobody did that, the node ran out of memory"
    if number in (11, 7):
        return f"{text}: a crash in compiled code, or the stack overflowed (too deep a recursion)"
    return text


def _last_line(stderr: str) -> str:
    lines = stderr.strip().splitlines()
    return lines[-1] if lines else ""


def _tail(log: CrashLog | None) -> str:
    return _ends(log.stderr) if log else ""


def _ends(stderr: str) -> str:
    lines = stderr.rstrip().splitlines()[-20:]
    if not any(line.strip() for line in lines):
        return ""
    return "\nIts standard error ends:\n" + "\n".join(f"  {line}" for line in lines)

"""Preparation and release tasks in the data directory: those that were over are shown again after a restart."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from batchexec.emulator.node.runs import NodeRun, PrepRun, ReleaseRun
from batchexec.emulator.state import Account, Body, Job

from .records import dump, fields_of, load

_KEPT = ("container", "end_time", "exit_code", "failure", "last_retry", "retries", "root_directory", "start_time")
R = TypeVar("R", bound=NodeRun)


def record_runs(job: Job) -> dict[str, str]:
    """What is kept with a job of its runs on nodes, by the nodes' ids. One that was not over runs anew."""
    return {
        "prepared": dump({id: _record(run) for id, run in job.prepared_on.items() if run.end_time is not None}),
        "released": dump({id: _record(run) for id, run in job.released_on.items() if run.end_time is not None}),
    }


def _record(run: NodeRun) -> str:
    return dump(fields_of(run, _KEPT))


def restore_runs(account: Account, job: Job, prepared: str, released: str) -> None:
    """Fill in the runs of a job whose nodes have been read. Its nodes boot: most have to be prepared once more."""
    for id, record in load(prepared).items():
        prep = _past(PrepRun, job.body["jobPreparationTask"], record)
        prep.node_id = id
        job.prepared_on[id] = prep
        node = account.any_node(id)
        # Where the job is ending nothing is prepared any more, and who was is to be released.
        if node is not None and (prep.outlives_reboot or job.state in ("terminating", "deleting")):
            node.prepared[job] = prep
    for id, record in load(released).items():
        job.released_on[id] = _past(ReleaseRun, job.body["jobReleaseTask"], record)


def _past(kind: type[R], body: Body, record: str) -> R:
    """A run without an agent, as nothing is left to do."""
    run = kind.__new__(kind)
    for name, value in load(record).items():
        setattr(run, name, value)
    run.reason = "ended"
    run._body = body
    run._running = run._waiting = None
    run.done = asyncio.get_running_loop().create_future()
    run.done.set_result(run.failure is None or body.get("waitForSuccess") is False)
    return run

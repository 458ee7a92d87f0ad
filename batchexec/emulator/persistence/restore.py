"""A data directory read again: pools, nodes, jobs and tasks as they were when the service was last there."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from sys import intern
from typing import Any

from batchexec.emulator.errors import Unusable
from batchexec.emulator.state import Account, Body, Job, Node, Pool, Resource, Task, continue_serials

from .database import Database
from .journal import KEPT, SERIAL
from .past_runs import restore_runs
from .records import load_all, with_times

_ROWS = """
SELECT resource.seq, kind, parent, state, coalesce(body, '{}') FROM resource LEFT JOIN body USING (seq)
ORDER BY resource.seq
"""


def restore(database: Database, account: Account) -> None:
    """Fill the account. Nothing runs yet, and nodes have no agents: see `resume`."""
    continue_serials(database.number(SERIAL) + 1)
    found: dict[int, Resource] = {}
    runs: list[tuple[Job, str, str]] = []
    with _no_collections():
        for seq, kind, parent, fields, body in _rows(database):
            above = found.get(parent) if parent is not None else None
            resource = _made(kind, with_times(fields), body, above, account)
            _fill(resource, seq, KEPT[kind], fields)
            if not isinstance(resource, Task):
                found[seq] = resource
            if isinstance(resource, Job):
                runs.append((resource, fields["prepared"], fields["released"]))
    for job, prepared, released in runs:
        job.reindex()
        restore_runs(account, job, prepared, released)
    _remember_recent_tasks(account)


def _rows(database: Database) -> Iterator[tuple[int, str, int | None, dict[str, Any], Body]]:
    for rows in database.read(_ROWS):
        states = load_all(row[3] for row in rows)
        bodies = load_all(row[4] for row in rows)
        for (seq, kind, parent, *_), state, body in zip(rows, states, bodies, strict=True):
            yield seq, kind, parent, state, body


def _made(kind: str, fields: dict[str, Any], body: Body, above: Resource | None, account: Account) -> Resource:
    id: str = fields["id"]
    created: datetime = fields["created"]
    if kind == "Task" and isinstance(above, Job):
        return Task(id, above, body, created)
    if kind == "Node" and isinstance(above, Pool):
        node = above.nodes[id] = Node(id, above, fields["dedicated"], created)
        return node
    if kind == "Job":
        job = account.jobs[id.lower()] = Job(id, body, created)
        return job
    if kind == "Pool":
        pool = account.pools[id.lower()] = Pool(id, body, created)
        return pool
    raise Unusable(f"the data directory is damaged: {kind} {id} belongs to nothing")


def _fill(resource: Resource, seq: int, names: tuple[str, ...], fields: dict[str, Any]) -> None:
    """What an earlier version did not know keeps the value of a new object."""
    resource.seq = seq
    info = fields.get("node_info")
    if info is not None:  # most of it is the same for thousands of tasks
        fields["node_info"] = {name: intern(value) for name, value in info.items()}
    for name in names:
        if name in fields:
            value = fields[name]
            setattr(resource, name, intern(value) if type(value) is str else value)


def _remember_recent_tasks(account: Account) -> None:
    nodes = {id: node for pool in account.pools.values() for id, node in pool.nodes.items()}
    tasks = [task for job in account.jobs.values() for task in job.tasks.values() if task.start_time is not None]
    tasks.sort(key=lambda task: task.start_time or task.created)
    for task in tasks:
        node = nodes.get(task.node_info["nodeId"]) if task.node_info else None
        if node is not None:
            node.recent.append(task)


@contextmanager
def _no_collections() -> Iterator[None]:
    """Without the garbage collector, which would look through all that is read, again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()

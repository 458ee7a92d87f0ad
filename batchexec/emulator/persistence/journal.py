"""What changed since it was last written down: pools, nodes, jobs, tasks and blobs, in one transaction."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from batchexec.emulator.errors import NotSaved
from batchexec.emulator.state import Account, Job, Node, Pool, Resource, Task, next_serial, watch

from .blobs import BlobJournal
from .database import Database
from .past_runs import record_runs
from .records import dump, dump_body, fields_of

_log = logging.getLogger(__name__)
SERIAL = "next serial"
_LATEST = 0.02  # seconds until a change is written that no reply tells of
_AGAIN = 1.0  # seconds until what could not be written is tried again


class Journal:
    """Notes changes and saves them: before each reply, and soon after a change that no request made.

    Whatever a client was told is in the file. A running task's end that nobody heard of may be lost; it runs again.
    """

    def __init__(self, database: Database, account: Account, blobs: Path) -> None:
        self._database = database
        self._account = account
        self.blobs = BlobJournal(database, blobs)
        self._changed: dict[Resource, None] = {}
        self._bodies: set[Resource] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._failed = False
        self._closed = False

    def open(self) -> None:
        """Note every change from now on."""
        watch(self._note)

    def _note(self, resource: Resource, name: str) -> None:
        self._changed[resource] = None
        if name == "body":
            self._bodies.add(resource)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LATEST, self._save_late)

    def save(self) -> None:
        """Have written all that is known now; NotSaved where the disk takes no more. Then it is tried again later."""
        if not self._changed and not self.blobs.pending:
            return
        if self._closed:
            raise NotSaved("the service is ending")
        with self._database.transaction():
            self._write_resources()
            if self.blobs.pending:
                self.blobs.write()
            self._database.set_number(SERIAL, next_serial())
        self._changed, self._bodies = {}, set()
        self.blobs.written()
        if self._failed:
            self._failed = False
            _log.warning("changes are written down again")

    def _save_late(self) -> None:
        self._timer = None
        if self._closed:
            return
        try:
            self.save()
        except NotSaved as error:
            if not self._failed:
                self._failed = True
                _log.error("changes cannot be written down, and replies are refused: %s", error)
            self._timer = asyncio.get_running_loop().call_later(_AGAIN, self._save_late)

    def _write_resources(self) -> None:
        states: list[tuple[int, str, int | None, str]] = []
        bodies: list[tuple[int, str]] = []
        gone: list[tuple[int]] = []
        for resource in self._changed:
            if not self._present(resource):
                gone.append((resource.seq,))
                continue
            kind = type(resource).__name__
            fields = fields_of(resource, KEPT[kind])
            if isinstance(resource, Job):
                fields |= record_runs(resource)
            states.append((resource.seq, kind, _parent(resource), dump(fields)))
            if resource in self._bodies:
                bodies.append((resource.seq, dump_body(resource.body)))
        database = self._database
        database.executemany("INSERT OR REPLACE INTO resource VALUES (?, ?, ?, ?)", states)
        database.executemany("INSERT OR REPLACE INTO body VALUES (?, ?)", bodies)
        for table, column in (("body", "seq"), ("resource", "seq")):
            database.executemany(f"DELETE FROM {table} WHERE {column} = ?", gone)
        # What belonged to it: the tasks of a job, the nodes of a pool.
        database.executemany("DELETE FROM body WHERE seq IN (SELECT seq FROM resource WHERE parent = ?)", gone)
        database.executemany("DELETE FROM resource WHERE parent = ?", gone)

    def _present(self, resource: Resource) -> bool:
        """Whether it is still there: what is on its way out may change long after it is gone."""
        if isinstance(resource, Task):
            return self._present(resource.job) and resource.job.tasks.get(resource.id.lower()) is resource
        if isinstance(resource, Node):
            return self._present(resource.pool) and resource.pool.nodes.get(resource.id) is resource
        if isinstance(resource, Job):
            return self._account.jobs.get(resource.id.lower()) is resource
        return isinstance(resource, Pool) and self._account.pools.get(resource.id.lower()) is resource

    def close(self) -> None:
        """Save, and take nothing more: how tasks end while the service does is not to be known."""
        watch(None)
        if self._timer is not None:
            self._timer.cancel()
        try:
            self.save()
        except NotSaved as error:
            _log.error("the last changes, of which nobody was told, cannot be written down: %s", error)
        self._closed = True
        self._database.close()


def _parent(resource: Resource) -> int | None:
    if isinstance(resource, Task):
        return resource.job.seq
    return resource.pool.seq if isinstance(resource, Node) else None


def _kept(kind: type[Resource]) -> tuple[str, ...]:
    names = [name for base in kind.__mro__ for name in getattr(base, "__slots__", ())]
    return tuple(sorted(set(names) - kind.transient))


# The attributes that are kept, by the name of the class.
KEPT = {kind.__name__: _kept(kind) for kind in (Pool, Node, Job, Task)}

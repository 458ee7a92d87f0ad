"""Pool and nodes, looked at only while something waits: why work that should start does not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

from batchexec.errors import BatchExecError, NodeError, PoolError, QuotaError, ServiceError

from .board import Board
from .session import Session

Json = dict[str, Any]

_FIRST_LOCAL, _EVERY_LOCAL = 0.5, 1.0
_FIRST, _EVERY = 5.0, 15.0
_SECONDS_OF_TRUST = 60.0  # while all that was sent is running; a task is requeued without a word when its node goes
_ASKED = 20  # tasks said to be running that are asked for, before nothing is believed to run
_TAIL_BYTES = 2000
_USELESS = frozenset(("unusable", "starttaskfailed"))
_AWAY = frozenset(("unknown", "offline", "preempted", "deallocated"))  # they may come back, and nobody knows when
# Codes are compared in lower case: the service itself writes AllocationTimedout as well as AllocationTimedOut.
_QUOTA = frozenset(("accountcorequotareached", "accountvmseriescorequotareached", "accountlowprioritycorequotareached"))
_FOR_GOOD = _QUOTA | frozenset(("resizestopped", "allocationfailed", "allocationtimedout"))


class Health:
    """Breaks the engine when nothing of it can ever run; warns, once each, of what only slows it down."""

    def __init__(self, board: Board, session: Session) -> None:
        self._board = board
        self._session = session
        self._warned: set[str] = set()
        self._last_words: dict[tuple[str, str], str] = {}  # of start and preparation tasks, by node and file

    async def run(self) -> None:
        is_local = self._session.is_local
        await asyncio.sleep(_FIRST_LOCAL if is_local else _FIRST)
        looked = time.monotonic()
        while True:
            sent = [chunk.running for chunk in self._board.unsettled() if chunk.task_id]
            if sent and (not all(sent) or time.monotonic() - looked > _SECONDS_OF_TRUST):
                looked = time.monotonic()
                try:
                    await self._look()
                except ServiceError as error:
                    if error.status == 403:  # no right to look at pools: tasks alone tell then
                        await asyncio.Event().wait()
                    if not error.transient:
                        raise
            await asyncio.sleep(_EVERY_LOCAL if is_local else _EVERY)

    async def _look(self) -> None:
        """Raises PoolError, NodeError or QuotaError when the work cannot start."""
        await self._session.nudge_pool(if_due=True)
        pool_id = self._session.pool_id
        pool = await self._session.batch.get_pool(pool_id)
        if pool is None:
            raise PoolError(f"pool {pool_id!r} is gone: someone deleted it")
        if pool.get("state") == "deleting":
            raise PoolError(f"pool {pool_id!r} is being deleted")
        nodes = await self._session.batch.nodes(pool_id)
        useful = [node for node in nodes if node["state"].lower() not in _USELESS]
        problems = [*self._pool_problems(pool), *await self._node_problems(pool_id, nodes)]
        await self._report(problems, hopeless=not useful)
        if useful:
            failed = await self._failed_preparations(pool_id)
            await self._report(failed.values(), hopeless=all(node["id"] in failed for node in useful))
        for node in useful:
            if node["state"].lower() in _AWAY:
                self._warn(f"node {node['id']} is {node['state']}: its tasks wait, or run elsewhere, until it is back")
        self._board.progress.pool(pool, nodes)

    def _pool_problems(self, pool: Json) -> list[BatchExecError]:
        problems: list[BatchExecError] = []
        steady = str(pool.get("allocationState")).lower() == "steady"
        for error in () if steady and _has_its_nodes(pool) else pool.get("resizeErrors") or ():
            text = f"pool {pool['id']!r} cannot get its nodes: {_words(error)}"
            code = str(error.get("code")).lower()
            if code in _QUOTA:
                problems.append(PoolQuota(f"{text}. Ask for more cores, or use a smaller vm_size or max_nodes."))
            elif steady or code in _FOR_GOOD:
                problems.append(PoolError(text))
        run_error = (pool.get("autoScaleRun") or {}).get("error")
        if run_error:
            problems.append(PoolError(f"pool {pool['id']!r}: its autoscale formula fails: {_words(run_error)}"))
        return problems

    async def _node_problems(self, pool_id: str, nodes: list[Json]) -> list[BatchExecError]:
        problems: list[BatchExecError] = []
        for node in nodes:
            if node["state"].lower() not in _USELESS:
                continue
            words = [_words(error) for error in node.get("errors") or ()]
            failure = (node.get("startTaskInfo") or {}).get("failureInfo")
            if failure:
                exit_code = node["startTaskInfo"].get("exitCode")
                said = await self._said(pool_id, node["id"], "startup")
                words.append(f"its start task failed (exit code {exit_code}): {_words(failure)}{said}")
            reason = "; ".join(words) or "the service gives no reason"
            problems.append(NodeError(f"node {node['id']} is {node['state']}: {reason}"))
        return problems

    async def _failed_preparations(self, pool_id: str) -> dict[str, BatchExecError]:
        """Errors of nodes that cannot prepare for this job, by node."""
        failed: dict[str, BatchExecError] = {}
        for status in await self._session.batch.preparation_status(self._session.job_id):
            info = status.get("jobPreparationTaskExecutionInfo") or {}
            if str(info.get("state")).lower() == "completed" and str(info.get("result")).lower() == "failure":
                node, words = status["nodeId"], _words(info.get("failureInfo") or {})
                said = await self._said(pool_id, node, info.get("taskRootDirectory") or "")
                exit_code = info.get("exitCode")
                failed[node] = NodeError(
                    f"node {node} cannot prepare for the job (exit code {exit_code}): {words}{said}"
                )
        return failed

    async def _said(self, pool_id: str, node_id: str, directory: str) -> str:
        """The end of what a task of a node wrote to its standard error, to be put behind an error's text."""
        if not directory:
            return ""
        key = node_id, f"{directory}/stderr.txt"
        if key not in self._last_words:
            try:
                data = await self._session.batch.node_file_end(pool_id, *key, _TAIL_BYTES)
            except ServiceError:
                return ""  # the node is gone, or may not be looked into: the error says enough without
            self._last_words[key] = data.decode("utf-8", "replace").strip()
        lines = self._last_words[key].splitlines()[-20:]
        return "".join(["\nIts standard error ends:", *(f"\n  {line}" for line in lines)]) if lines else ""

    async def _report(self, problems: Iterable[BatchExecError], *, hopeless: bool) -> None:
        found = list(problems)
        if found and hopeless and not await self._at_work():
            raise found[0]
        for problem in found:
            self._warn(f"{problem}. Other nodes go on.")

    async def _at_work(self) -> bool:
        """Whether a task of ours runs after all. Asked by name: a requeued one is still taken for running here."""
        running = [chunk for chunk in self._board.unsettled() if chunk.running][:_ASKED]
        for chunk in running:
            task = await self._session.batch.get_task(self._session.job_id, chunk.task_id)
            if task is not None and str(task.get("state")).lower() != "active":
                return True
        return False

    def _warn(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            self._board.progress.warn(text)


class PoolQuota(QuotaError, PoolError):
    """An account's core quota keeps the pool without nodes."""


def _has_its_nodes(pool: Json) -> bool:
    """What a resize failed at stays in the pool until the next one, maybe for days (nextflow-io/nextflow#7312)."""
    kinds = ("DedicatedNodes", "LowPriorityNodes")
    return all(int(pool.get(f"current{kind}") or 0) >= int(pool.get(f"target{kind}") or 0) for kind in kinds)


def _words(error: Json) -> str:
    """The service's own text."""
    code, message = error.get("code", ""), error.get("message", "")
    if isinstance(message, dict):
        message = message.get("value", "")
    values = error.get("values") or error.get("errorDetails") or error.get("details") or ()
    details = "; ".join(f"{value.get('name') or value.get('key')}: {value.get('value')}" for value in values)
    return ": ".join(part for part in (code, message, details) if part) or "no reason given"

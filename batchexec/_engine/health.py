"""Pool and nodes, looked at only while something waits: why work that should start does not."""

from __future__ import annotations

import asyncio
from typing import Any

from batchexec.errors import BatchExecError, NodeError, PoolError, QuotaError, ServiceError

from .board import Board
from .session import Session

Json = dict[str, Any]

_FIRST_LOCAL, _EVERY_LOCAL = 0.5, 1.0
_FIRST, _EVERY = 5.0, 15.0
_USELESS = frozenset(("unusable", "starttaskfailed"))
_QUOTA = frozenset(("AccountCoreQuotaReached", "AccountVMSeriesCoreQuotaReached", "AccountLowPriorityCoreQuotaReached"))
_FOR_GOOD = _QUOTA | frozenset(("ResizeStopped", "AllocationFailed", "AllocationTimedOut"))


class Health:
    """Breaks the engine when nothing of it can ever run; warns, once each, of what only slows it down."""

    def __init__(self, board: Board, session: Session) -> None:
        self._board = board
        self._session = session
        self._warned: set[str] = set()

    async def run(self) -> None:
        is_local = self._session.is_local
        await asyncio.sleep(_FIRST_LOCAL if is_local else _FIRST)
        while True:
            if any(chunk.task_id and not chunk.running for chunk in self._board.unsettled()):
                try:
                    await self._look()
                except ServiceError as error:
                    if error.status == 403:
                        return  # no right to look at pools: tasks alone tell then
                    if not error.transient:
                        raise
            await asyncio.sleep(_EVERY_LOCAL if is_local else _EVERY)

    async def _look(self) -> None:
        """Raises PoolError, NodeError or QuotaError when the work cannot start."""
        pool_id = self._session.pool_id
        pool = await self._session.batch.get_pool(pool_id)
        if pool is None:
            raise PoolError(f"pool {pool_id!r} is gone: someone deleted it")
        if pool.get("state") == "deleting":
            raise PoolError(f"pool {pool_id!r} is being deleted")
        nodes = await self._session.batch.nodes(pool_id)
        at_work = any(chunk.running for chunk in self._board.unsettled())
        useful = [node for node in nodes if node["state"].lower() not in _USELESS]
        for problem in (*self._pool_problems(pool, nodes), *self._node_problems(nodes, useful)):
            self._report(problem, fatal=not useful and not at_work)
        if useful:
            failed = await self._failed_preparations()
            eligible = [node for node in useful if node["id"] not in failed]
            for problem in failed.values():
                self._report(problem, fatal=not eligible and not at_work)
        self._board.progress.pool(pool, nodes)

    def _pool_problems(self, pool: Json, nodes: list[Json]) -> list[BatchExecError]:
        problems: list[BatchExecError] = []
        steady = str(pool.get("allocationState")).lower() == "steady"
        for error in pool.get("resizeErrors") or ():
            text = f"pool {pool['id']!r} cannot get its nodes: {_words(error)}"
            code = error.get("code")
            if code in _QUOTA:
                problems.append(PoolQuota(f"{text}. Ask for more cores, or use a smaller vm_size or max_nodes."))
            elif steady or code in _FOR_GOOD:
                problems.append(PoolError(text))
        run_error = (pool.get("autoScaleRun") or {}).get("error")
        if run_error:
            problems.append(PoolError(f"pool {pool['id']!r}: its autoscale formula fails: {_words(run_error)}"))
        return problems

    def _node_problems(self, nodes: list[Json], useful: list[Json]) -> list[BatchExecError]:
        problems: list[BatchExecError] = []
        for node in nodes:
            if node in useful:
                continue
            words = [_words(error) for error in node.get("errors") or ()]
            failure = (node.get("startTaskInfo") or {}).get("failureInfo")
            if failure:
                exit_code = node["startTaskInfo"].get("exitCode")
                words.append(f"its start task failed (exit code {exit_code}): {_words(failure)}")
            reason = "; ".join(words) or "the service gives no reason"
            problems.append(NodeError(f"node {node['id']} is {node['state']}: {reason}"))
        return problems

    async def _failed_preparations(self) -> dict[str, BatchExecError]:
        """Errors of nodes that cannot prepare for this job, by node."""
        failed: dict[str, BatchExecError] = {}
        for status in await self._session.batch.preparation_status(self._session.job_id):
            info = status.get("jobPreparationTaskExecutionInfo") or {}
            if str(info.get("state")).lower() == "completed" and str(info.get("result")).lower() == "failure":
                words = _words(info.get("failureInfo") or {})
                failed[status["nodeId"]] = NodeError(
                    f"node {status['nodeId']} cannot prepare for the job (exit code {info.get('exitCode')}): {words}"
                )
        return failed

    def _report(self, problem: BatchExecError, *, fatal: bool) -> None:
        if fatal:
            raise problem
        if str(problem) not in self._warned:
            self._warned.add(str(problem))
            self._board.progress.warn(f"{problem}. Other nodes go on.")


class PoolQuota(QuotaError, PoolError):
    """An account's core quota keeps the pool without nodes."""


def _words(error: Json) -> str:
    """The service's own text."""
    code, message = error.get("code", ""), error.get("message", "")
    if isinstance(message, dict):
        message = message.get("value", "")
    values = error.get("values") or error.get("errorDetails") or error.get("details") or ()
    details = "; ".join(f"{value.get('name') or value.get('key')}: {value.get('value')}" for value in values)
    return ": ".join(part for part in (code, message, details) if part) or "no reason given"

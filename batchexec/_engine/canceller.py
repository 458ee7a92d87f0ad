"""Ends the tasks of cancelled futures."""

from __future__ import annotations

import asyncio

from batchexec.errors import ServiceError

from .board import Board
from .session import Session

_SETTLE_SECONDS = 0.02
_AT_ONCE = 16


class Canceller:
    """Cancellations come in bursts; where one leaves nothing to do, closing the job ends all its tasks at once."""

    def __init__(self, board: Board, session: Session) -> None:
        self._board = board
        self._session = session

    async def run(self) -> None:
        while True:
            await self._board.doom.wait()
            await asyncio.sleep(_SETTLE_SECONDS)
            self._board.doom.clear()
            if self._board.ending and not self._board.pending:
                continue
            while self._board.cancelled:
                some = [self._board.cancelled.popleft() for _ in range(min(_AT_ONCE, len(self._board.cancelled)))]
                await asyncio.gather(*(self._end(chunk.task_id) for chunk in some if chunk.task_id))

    async def _end(self, task_id: str) -> None:
        try:
            await self._session.batch.terminate_task(self._session.job_id, task_id)
        except ServiceError as error:
            if not error.transient:
                raise
            self._board.progress.warn(f"task {task_id} was cancelled and could not be ended, so it may run on: {error}")

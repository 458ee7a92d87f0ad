"""On which shelves of results something is awaited, known without a walk over all that is pending."""

from __future__ import annotations

from typing import NamedTuple

from batchexec._wire import names

from .board import Board


class Chosen(NamedTuple):
    """The shelves to look at in one turn."""

    prefixes: list[str]
    awaited: int
    """Chunks that are awaited on them."""


class Shelves:
    """The chunks that were sent, by shelf. With tens of thousands of them a turn costs no more than with a hundred, as
    only the shelves that it looks at are brought up to date."""

    def __init__(self, board: Board, at_work: int) -> None:
        """`at_work`: on so many shelves, from the first with work on, results are likely."""
        self._board = board
        self._at_work = at_work
        self._shelves: dict[int, set[int]] = {}  # numbers of chunks, of some that have a verdict too
        self._turn = 0
        self.last_sent = 0.0  # when, by time.time()

    def is_awaiting(self) -> bool:
        """Whether any chunk that was sent has no verdict yet."""
        self._take_sent()
        return any(self._awaits(shelf) for shelf in list(self._shelves))

    def choose(self) -> Chosen:
        """The first shelves with pending chunks, and one of the others by turns; nothing when nothing is awaited."""
        self._take_sent()
        chosen: list[int] = []
        for shelf in list(self._shelves):
            if len(chosen) == self._at_work:
                break
            if self._awaits(shelf):
                chosen.append(shelf)
        others = list(self._shelves)[len(chosen) :]
        if others:
            self._turn += 1
            other = others[self._turn % len(others)]
            if self._awaits(other):
                chosen.append(other)
        prefixes = [names.shelf_prefix(shelf * names.SHELF_CHUNKS) for shelf in chosen]
        return Chosen(prefixes, sum(len(self._shelves[shelf]) for shelf in chosen))

    def _take_sent(self) -> None:
        for number, sent_at in self._board.take_sent():
            self._shelves.setdefault(number // names.SHELF_CHUNKS, set()).add(number)
            self.last_sent = max(self.last_sent, sent_at)

    def _awaits(self, shelf: int) -> bool:
        """Forget what has its verdict; False where nothing is left, and the shelf is forgotten too."""
        left = {number for number in self._shelves[shelf] if number in self._board.pending}
        if left:
            self._shelves[shelf] = left
        else:
            del self._shelves[shelf]
        return bool(left)

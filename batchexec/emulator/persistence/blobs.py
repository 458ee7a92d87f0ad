"""Containers and blobs in the data directory: what changed as rows, and the rows as they are read again."""

from __future__ import annotations

import dataclasses
import itertools
import weakref
from collections import deque
from pathlib import Path

from batchexec.emulator.blob.files import Piece, PieceFiles, remove
from batchexec.emulator.blob.store import Blob, Container, Store

from .database import Database
from .records import dump, fields_of, load

_ETAGS = "blob etags"
# Blob and Container keep all their fields but those that stand in other tables or follow from others.
_ELSEWHERE = {"blobs", "blocks", "changes", "created_text", "modified_text", "name", "names", "pieces", "staged"} | {
    "staged_at",  # an upload that was given up has its week from the restart on
}
_BLOB = tuple(field.name for field in dataclasses.fields(Blob) if field.name not in _ELSEWHERE)
_CONTAINER = tuple(field.name for field in dataclasses.fields(Container) if field.name not in _ELSEWHERE)


class KeptPiece(Piece):
    """A piece whose bytes are in the database once it was saved, and in memory no more."""

    __slots__ = ("_database", "saved")

    def __init__(self, database: Database, number: int, size: int, data: bytes = b"", path: Path | None = None) -> None:
        super().__init__(number, size, data, path)
        self._database = database
        self.saved = False

    def data(self) -> bytes:
        if self._data is not None:
            return self._data
        row = self._database.execute("SELECT data FROM piece WHERE id = ?", (self.number,)).fetchone()
        return bytes(row[0])

    def is_saved(self) -> None:
        self.saved = True
        self._data = None


class KeptPieces(PieceFiles):
    """Makes pieces that outlive the process. What nothing refers to any more is in `dead`, until its row is gone."""

    synchronised = True

    def __init__(self, root: Path, database: Database) -> None:
        super().__init__(root)
        self._prefix = ""
        self._database = database
        self.dead: deque[tuple[int, Path | None]] = deque()
        (last,) = database.execute("SELECT max(id) FROM piece").fetchone()
        self._numbers = itertools.count((last or 0) + 1)

    def made(self, number: int, size: int, data: bytes = b"", path: Path | None = None) -> KeptPiece:
        piece = KeptPiece(self._database, number, size, data, path)
        # Its row and its file go with the transaction that no longer refers to it, never before.
        weakref.finalize(piece, self.dead.append, (number, path)).atexit = False
        return piece


class BlobJournal:
    """The `changes` of a store: notes what to write, and writes it when told to."""

    def __init__(self, database: Database, root: Path) -> None:
        self._database = database
        self._root = root
        self.files = KeptPieces(root, database)
        self.store = Store()
        self.store.changes = self
        self._restore()
        self._clear()

    # -- what is noted

    def _clear(self) -> None:
        self._containers: set[str] = set()
        self._gone: set[str] = set()
        self._blobs: set[tuple[str, str]] = set()
        self._unstaged: set[tuple[str, str]] = set()
        self._blocks: dict[tuple[str, str, str], None] = {}  # in the order in which they came
        self._buried: list[tuple[int, Path | None]] = []
        self._pieces: dict[int, KeptPiece] = {}

    @property
    def pending(self) -> bool:
        return bool(self._containers or self._gone or self._blobs or self._unstaged or self._blocks or self.files.dead)

    def container(self, name: str) -> None:
        self._containers.add(name)

    def container_gone(self, name: str) -> None:
        self._gone.add(name)

    def blob(self, container: str, name: str) -> None:
        self._blobs.add((container, name))

    def block(self, container: str, blob: str, block: str) -> None:
        self._blocks[container, blob, block] = None

    def blocks_gone(self, container: str, blob: str) -> None:
        self._unstaged.add((container, blob))

    # -- how it is written

    def write(self) -> None:
        """Within a transaction: bring the rows to what is in memory."""
        database, self._pieces = self._database, {}
        for table, column in (("container", "name"), ("blob", "container"), ("block", "container")):
            database.executemany(f"DELETE FROM {table} WHERE {column} = ?", [(name,) for name in self._gone])
        database.executemany("DELETE FROM block WHERE container = ? AND blob = ?", list(self._unstaged))
        for name in self._containers:
            container = self.store.containers.get(name)
            if container is not None:
                row = (name, dump(fields_of(container, _CONTAINER)))
                database.execute("INSERT OR REPLACE INTO container VALUES (?, ?)", row)
        for container_name, name in self._blobs:
            self._write_blob(container_name, name)
        for key in self._blocks:
            self._write_block(*key)
        pieces = [(piece.number, piece.size, None if piece.path else piece.data()) for piece in self._pieces.values()]
        database.executemany("INSERT INTO piece VALUES (?, ?, ?)", pieces)
        # Only what is dead by now: what these rows replaced is not referred to by any.
        self._buried = [*self._buried, *(self.files.dead.popleft() for _ in range(len(self.files.dead)))]
        database.executemany("DELETE FROM piece WHERE id = ?", [(number,) for number, _ in self._buried])
        database.set_number(_ETAGS, self.store.etags)

    def _write_blob(self, container_name: str, name: str) -> None:
        container = self.store.containers.get(container_name)
        blob = container.blobs.get(name) if container else None
        if blob is None:
            self._database.execute("DELETE FROM blob WHERE container = ? AND name = ?", (container_name, name))
            return
        fields = fields_of(blob, _BLOB)
        fields["piece_ids"] = [self._id(piece) for piece in blob.pieces]
        fields["block_ids"] = [id for id, _ in blob.blocks]
        self._database.execute("INSERT OR REPLACE INTO blob VALUES (?, ?, ?)", (container_name, name, dump(fields)))

    def _write_block(self, container_name: str, name: str, block: str) -> None:
        container = self.store.containers.get(container_name)
        piece = container.staged.get(name, {}).get(block) if container else None
        if piece is not None:
            row = (container_name, name, block, piece.number, self._id(piece))
            # One that is staged again keeps its place, as in memory.
            self._database.execute(
                "INSERT INTO block VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET piece = excluded.piece", row
            )

    def _id(self, piece: Piece) -> int:
        assert isinstance(piece, KeptPiece)
        if not piece.saved:
            self._pieces[piece.number] = piece
        return piece.number

    def written(self) -> None:
        """The transaction is in the file."""
        for piece in self._pieces.values():
            piece.is_saved()
        for _, path in self._buried:
            if path is not None:
                remove(path)
        self._clear()

    # -- how it is read again

    def _restore(self) -> None:
        database, store = self._database, self.store
        store.etags = database.number(_ETAGS)
        pieces: dict[int, KeptPiece] = {}
        for number, size, is_file in database.rows("SELECT id, size, data IS NULL FROM piece"):
            pieces[number] = piece = self.files.made(number, size, path=self.files.path(number) if is_file else None)
            piece.is_saved()
        for name, state in database.rows("SELECT name, state FROM container"):
            store.containers[name] = Container(name=name, changes=self, **load(state))
        for container, name, state in database.rows("SELECT container, name, state FROM blob ORDER BY 1, 2"):
            fields = load(state)
            parts = tuple(pieces[number] for number in fields.pop("piece_ids"))
            blocks = tuple(zip(fields.pop("block_ids"), parts, strict=False))
            home = store.containers[container]
            home.blobs[name] = Blob(pieces=parts, blocks=blocks, **fields)
            home.names.append(name)
        for home in store.containers.values():
            home.names.sort()  # as text: SQLite sorts by the bytes of UTF-8
        for container, name, block, number in database.rows(
            "SELECT container, blob, id, piece FROM block ORDER BY place"
        ):
            store.containers[container].staged.setdefault(name, {})[block] = pieces[number]
        self._remove_strangers({piece.path for piece in pieces.values()})
        # What no row refers to is dead as soon as `pieces` goes, and its rows with the first transaction.

    def _remove_strangers(self, known: set[Path | None]) -> None:
        """Remove files that no row refers to: they were written, but nobody was told so."""
        for path in self._root.glob("*.bin"):
            if path not in known:
                remove(path)

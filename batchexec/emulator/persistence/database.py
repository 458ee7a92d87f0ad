"""The SQLite file of a data directory: its tables, and transactions that are written whole or not at all."""

from __future__ import annotations

import itertools
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from batchexec.emulator.errors import NotSaved, Unusable

VERSION = 1  # of the tables below; a file of a later version is refused
_APPLICATION = 0x42455845  # "BEXE": tells our files from those of other programs
_WAIT_SECONDS = 10.0

# resource: a pool, node, job or task. `parent` is the pool of a node, the job of a task. Its body, as the client gave
# it, stands in a table of its own: it is written once, its state many times.
# piece: bytes of blobs; `data` is NULL where they are a file, named by the id.
# block: what was staged for a blob and not committed, in order of `place`.
_TABLES = """
CREATE TABLE meta(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE resource(seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, parent INTEGER, state TEXT NOT NULL);
CREATE INDEX resource_parent ON resource(parent) WHERE parent IS NOT NULL;
CREATE TABLE body(seq INTEGER PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE container(name TEXT PRIMARY KEY, state TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE blob(container TEXT, name TEXT, state TEXT NOT NULL, PRIMARY KEY(container, name)) WITHOUT ROWID;
CREATE TABLE block(container TEXT, blob TEXT, id TEXT, place INTEGER NOT NULL, piece INTEGER NOT NULL,
                   PRIMARY KEY(container, blob, id)) WITHOUT ROWID;
CREATE TABLE piece(id INTEGER PRIMARY KEY, size INTEGER NOT NULL, data BLOB);
"""


class Database:
    """One connection, for one thread.

    A transaction is in the file before `transaction` ends: the end of this process loses nothing, however it comes. An
    end of the machine may lose the last ones (the write-ahead log is synchronised with the disk when it is folded into
    the file), and never a part of one.
    """

    def __init__(self, path: Path) -> None:
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # keys and signed addresses stand in it
            self._connection = connection = sqlite3.connect(path, isolation_level=None, timeout=_WAIT_SECONDS)
            self._open(path)
        except (OSError, sqlite3.Error) as error:
            raise Unusable(f"{path} cannot be opened: {error}") from error
        self.execute = connection.execute
        self.executemany = connection.executemany

    def _open(self, path: Path) -> None:
        connection = self._connection
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and application != _APPLICATION:
            raise Unusable(f"{path} is no database of the emulator")
        if version > VERSION:
            raise Unusable(f"{path} was written by a later version of the emulator (format {version}, known {VERSION})")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        if not tables:
            new = f"PRAGMA application_id = {_APPLICATION}; PRAGMA user_version = {VERSION}"
            connection.executescript(f"BEGIN; {_TABLES} {new}; COMMIT")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is executed within is written at its end; NotSaved, and none of it, where the disk refuses."""
        try:
            self.execute("BEGIN")
            try:
                yield
                self.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise NotSaved(str(error)) from error

    def read(self, query: str, at_once: int = 1000) -> Iterator[list[Any]]:
        """All rows, so many at a time; Unusable where they cannot be read."""
        try:
            cursor = self.execute(query)
            while rows := cursor.fetchmany(at_once):
                yield rows
        except sqlite3.Error as error:
            raise Unusable(f"the database is damaged: {error}") from error

    def rows(self, query: str) -> Iterator[Any]:
        return itertools.chain.from_iterable(self.read(query))

    def number(self, name: str) -> int:
        row = self.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return int(row[0]) if row else 0

    def set_number(self, name: str, value: int) -> None:
        self.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def close(self) -> None:
        self._connection.close()

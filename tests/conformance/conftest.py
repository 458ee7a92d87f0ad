"""Executors to test: the standard thread pool as the control, ours on the local service."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import pytest
from conformance_helpers import KINDS, Gate

from batchexec import BatchExecutor


@pytest.fixture(scope="session", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def shared(kind: str, account: None) -> Iterator[Executor]:
    """One executor of each kind with two workers, for tests that leave it as it was."""
    with KINDS[kind](max_workers=2) as executor:
        yield executor


@pytest.fixture(scope="session")
def batch(account: None) -> Iterator[BatchExecutor]:
    """One of ours with two workers, for tests of what only ours has."""
    with BatchExecutor(max_workers=2, echo=False) as executor:
        yield executor


@pytest.fixture
def make(kind: str) -> Iterator[Callable[..., Executor]]:
    """Makes executors of one kind, which are shut down when the test is over."""
    made: list[Executor] = []

    def make(**fields: Any) -> Executor:
        made.append(KINDS[kind](**{"max_workers": 2, **fields}))
        return made[-1]

    yield make
    while made:
        made.pop().shutdown()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """Closed at first; opened at the end at the latest, so that a failed test leaves no call waiting."""
    gate = Gate(tmp_path / "gate")
    yield gate
    gate.open()


@pytest.fixture
def log(tmp_path: Path) -> str:
    """A file in which calls leave notes (see lines_of)."""
    return str(tmp_path / "log")

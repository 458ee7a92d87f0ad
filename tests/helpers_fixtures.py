"""Fixtures that several modules have: a service with its directory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers_service import Account, service


def account_in_root(run: Callable[[Path], AbstractContextManager[Account]]) -> Any:
    """For `account = account_in_root(...)` in a module: the account of a service for all its tests, whose directory is
    the fixture `root` (tests/conftest.py)."""

    @pytest.fixture(scope="module")
    def account(root: Path) -> Iterator[Account]:
        with run(root) as running:
            yield running

    return account


@contextmanager
def with_fixed_pool(root: Path) -> Iterator[Account]:
    """A service with the pool "fixed": one node of two slots."""
    with service(root=root) as running:
        running.fixed_pool("fixed", slots=2)
        yield running

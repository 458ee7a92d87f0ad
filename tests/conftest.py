"""What every test starts from: an environment that names no account."""

from __future__ import annotations

import os

import pytest

_ACCOUNT = ("AZURE_", "BATCH_", "BATCHEXEC_", "STORAGE_")


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's own account settings reach a test, or what it starts."""
    for name in list(os.environ):
        if name.startswith(_ACCOUNT):
            monkeypatch.delenv(name)

"""What tests of programs share: their directory, scripts, and a program that tells its words."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import Any

import pytest

from batchexec import Command

HOSTILE = ["a b", "quote'quote", 'quote"quote', "$HOME", "`id`", "new\nline", "-n", "*", "{x}", "\\", "é", ";rm -rf /"]
WORDS = "printf '%s\\0'"  # a program that tells its words


def words(command: Command, *args: Any, **kwargs: Any) -> list[str]:
    """What a command of WORDS was given."""
    return command(*args, **kwargs).stdout.split("\0")[:-1]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory of its own, and one for temporary files beside it."""
    (tmp_path / "here").mkdir()
    (tmp_path / "tmp").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    return tmp_path / "here"


def script(path: str, text: str, interpreter: str = "/bin/sh") -> str:
    """Write a program; its path."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(f"#!{interpreter}\n{textwrap.dedent(text)}")
    os.chmod(path, 0o755)
    return path

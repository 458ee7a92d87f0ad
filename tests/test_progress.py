"""What is shown while work is under way, and to whom."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest
from helpers_service import scrubbed

from batchexec._report.progress import Progress

_SLOW = """
import time
from batchexec import BatchExecutor
with BatchExecutor(max_workers=2) as executor:
    list(executor.map(time.sleep, [2.8, 2.8, 2.8], chunksize=1))
"""


def shown_on_a_terminal(script: str) -> str:
    """What the script writes to standard error when that is a terminal."""
    leader, follower = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", script], stderr=follower, env=scrubbed()) as process:
        os.close(follower)
        written = b""
        while True:
            try:
                piece = os.read(leader, 4096)
            except OSError:  # how Linux tells that the other side is closed
                break
            if not piece:
                break
            written += piece
        assert process.wait(60) == 0
    os.close(leader)
    return written.decode()


def test_a_terminal_is_told_where_the_work_goes_and_how_far_it_is() -> None:
    text = shown_on_a_terminal(_SLOW)
    assert "on this machine, 2 processes at once (no Azure account is configured)" in text
    assert "\rbatchexec: 0/3 items, 0:02" in text
    assert "\rbatchexec: 2/3 items, 0:0" in text
    assert text.rstrip(" ").endswith("\r")  # the line is wiped at the end


def test_a_file_is_told_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", _SLOW], capture_output=True, text=True, env=scrubbed(), timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def lines(progress: Progress, capsys: pytest.CaptureFixture[str]) -> list[str]:
    progress.close()
    return [line.strip() for line in capsys.readouterr().err.split("\r") if line.strip()]


def test_starting_nodes_says_how_long_that_usually_takes(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(show=True, echo=False, remote=True, quiet_seconds=0)
    progress.items_added(5)
    progress.opening()
    progress.sent()
    progress.pool({"targetDedicatedNodes": 4}, [{"state": "starting"}])
    assert lines(progress, capsys) == [
        "batchexec: 0/5 items, 0:00, starting 4 nodes, 0:00 of typically 3 to 8 min"
    ]


def test_nothing_is_explained_once_work_runs(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(show=True, echo=False, remote=True, quiet_seconds=0)
    progress.items_added(5)
    progress.opening()
    progress.sent()
    progress.working()
    progress.pool({"targetDedicatedNodes": 4}, [{"state": "running"}])
    assert lines(progress, capsys) == ["batchexec: 0/5 items, 0:00"]

"""Commands in real containers: on an image that has nothing but Python and a shell."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from helpers_containers import MARKER, container_service, for_tests, on
from helpers_fixtures import account_in_root
from helpers_service import Account, processes_of, until

from batchexec import BatchExecutor, Command
from batchexec.errors import CommandFailed

pytestmark = for_tests


account = account_in_root(container_service)


@pytest.fixture
def settings(account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    return account.settings | on(echo=False)


def test_a_sweep_runs_in_containers(settings: dict[str, Any]) -> None:
    """A program of ours, an app from an archive, a large shared input, a script by the image's own Python."""
    os.makedirs("tool/bin")
    Path("tool/bin/double").write_text("#!/bin/sh\necho $((2 * $1))\n")
    os.chmod("tool/bin/double", 0o755)
    Path("run").write_text(f'#!/bin/sh\ncat {MARKER} > out/marker.txt\ndouble "$1" > out/d.txt\nwc -c < big\n')
    os.chmod("run", 0o755)
    Path("big").write_bytes(b"x" * 3_000_000)
    Path("where.py").write_text("import os, sys; print(sys.executable, os.environ['HOME'] == os.getcwd())")
    app = shutil.make_archive("tool-1", "gztar", "tool")
    command = Command("./run {n} {out}", inputs="big", outputs={"out": "*.txt"}, app=app)
    with BatchExecutor(**settings) as ex:
        results = list(ex.map(command, [{"n": n} for n in range(4)]))
        where = ex.submit(Command("python3 where.py")).result()
        nowhere = ex.submit(Command("gcc --version")).exception()
    assert [one.stdout.strip() for one in results] == ["3000000"] * 4
    assert [sorted(path.read_text() for path in one.outputs) for one in results] == [
        [f"{2 * n}\n", "by tests/containers/install.sh\n"] for n in range(4)
    ]
    assert where.stdout == "/usr/bin/python3 True\n"
    assert isinstance(nowhere, CommandFailed)
    assert nowhere.exit_code == 127


def test_a_program_that_runs_too_long_is_ended_within_its_container(settings: dict[str, Any]) -> None:
    sleep = f"sleep 4322.{os.getpid()}"
    with BatchExecutor(**settings) as ex:
        error = ex.submit(Command(f"sh -c '{sleep} & echo begun; {sleep}'", timeout=5)).exception()
        assert isinstance(error, CommandFailed)
        assert (error.exit_code, error.stdout) == (143, "begun\n")
        until(
            lambda: [line for line in processes_of(sleep.split()[1]).values() if sleep in line], lambda seen: not seen
        )


def test_a_run_is_followed_while_it_runs(settings: dict[str, Any]) -> None:
    """Its container's output is a pipe of the runtime's, to which the worker hands on what comes."""
    go = '"$AZ_BATCH_NODE_SHARED_DIR/go"'
    text = f"echo begun; echo why >&2; until [ -e {go} ]; do sleep 0.1; done; echo end"
    with BatchExecutor(**settings) as ex:
        future = ex.submit(Command(text, shell=True))
        try:
            assert until(future.stdout) == "begun\n"
            assert until(future.stderr) == "why\n"
            assert not future.done()
        finally:
            ex.submit(Command(f"touch {go}", shell=True)).result()
        assert future.result().stdout == future.stdout() == "begun\nend\n"
        log = ex.submit(Command(f'cat "$AZ_BATCH_TASK_DIR/../{future.task_id}/stdout.txt"', shell=True))
        assert log.result().stdout == "begun\nend\n"  # nothing of it twice


def test_a_compiled_program_runs_where_its_libraries_are(settings: dict[str, Any]) -> None:
    if shutil.which("gcc") is None:
        assert "CI" not in os.environ, "a C compiler is part of the tests' machine"
        pytest.skip("no C compiler")
    Path("main.c").write_text('#include <stdio.h>\nint main(int n, char **a) { printf("%d\\n", n); return 0; }')
    subprocess.run(["gcc", "-static", "-o", "count", "main.c"], check=True)
    with BatchExecutor(**settings) as ex:
        assert ex.submit(Command("./count a b")).result().stdout == "3\n"

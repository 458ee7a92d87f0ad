"""Whole programs that use BatchExecutor: functions of `__main__`, interpreter exit, forked children."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest


def run(tmp_path: Path, source: str) -> subprocess.CompletedProcess[str]:
    """The script's end, run as a user would run it."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(source))
    return subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.here
def test_functions_and_classes_of_a_script_travel_without_a_main_guard(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        import math
        from dataclasses import dataclass
        from batchexec import BatchExecutor

        SCALE = 10

        @dataclass
        class Point:
            x: float

        def norm(point):
            return Point(SCALE * math.sqrt(point.x))

        with BatchExecutor(max_workers=2) as ex:
            print(list(ex.map(norm, [Point(4), Point(9)])))
            print(ex.submit(norm, Point(16)).result())
        """,
    )
    assert (done.stdout, done.stderr) == ("[Point(x=20.0), Point(x=30.0)]\nPoint(x=40.0)\n", "")
    assert done.returncode == 0


@pytest.mark.here
def test_an_interpreter_that_ends_finishes_the_work_first(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        import time
        from batchexec import BatchExecutor

        def work(word):
            time.sleep(0.3)
            print(word)

        ex = BatchExecutor(max_workers=2)
        ex.submit(work, "done")
        """,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)


@pytest.mark.here
def test_a_worker_cannot_start_an_executor_of_its_own(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        from batchexec import BatchExecutor, errors

        def nest():
            from batchexec import BatchExecutor
            return BatchExecutor().submit(abs, -1).result()

        with BatchExecutor(max_workers=1) as ex:
            error = ex.submit(nest).exception()
            print(isinstance(error, errors.NestedExecutorError))
        """,
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.here
def test_a_forked_child_cannot_touch_its_parents_work(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        f"""
        import os, sys, time
        from pathlib import Path
        from batchexec import BatchExecutor

        def until(path):
            while not Path(path).exists():
                time.sleep(0.005)
            return "finished"

        gate = {str(tmp_path / "gate")!r}
        ex = BatchExecutor(max_workers=2)
        pending = ex.submit(until, gate)
        while not pending.running():
            time.sleep(0.005)
        child = os.fork()
        if child == 0:
            try:
                ex.submit(abs, -1)
            except RuntimeError as error:
                print("child:", error, flush=True)
            pending.cancel()
            ex.terminate_workers()
            ex.shutdown()
            with BatchExecutor(max_workers=1) as own:
                print("child's own:", own.submit(abs, -2).result(), flush=True)
            sys.exit(5)
        print("child ended with", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        print("parent:", ex.submit(abs, -3).result(), pending.done())
        Path(gate).touch()
        print("parent:", pending.result(timeout=20))
        """,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "child: this BatchExecutor belongs to the parent process: create one of its own in a forked child",
        "child's own: 2",
        "child ended with 5",
        "parent: 3 False",
        "parent: finished",
    ]

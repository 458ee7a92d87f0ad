"""CPython's own tests for executors, wait, as_completed, shutdown and initializers pass with BatchExecutor.

`bound.py` says which tests, what was adapted, and names every one that is skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import interpreters
import pytest

# Suite -> how many of its tests have to pass: fewer would mean that some were not found.
SUITES = {"executor": 10, "wait": 8, "as_completed": 5, "shutdown": 7, "init": 2}
SKIPPED_BY_NAME = frozenset(
    {
        "test_threads_terminate",
        "test_thread_names_assigned",
        "test_thread_names_default",
        "test_processes_terminate",
        "test_context_manager_shutdown",
        "test_del_shutdown",
        "test_shutdown_no_wait",
        "test_cancel_futures_wait_false",  # before Python 3.12 only
        "test_pending_calls_race",
        "test_killed_child",
        "test_saturation",
        "test_idle_process_reuse_one",
        "test_idle_process_reuse_multiple",
        "test_max_tasks_per_child",
        "test_max_tasks_per_child_defaults_to_spawn_context",
        "test_max_tasks_early_shutdown",
        "test_max_workers_too_large",
        "test_python_finalization_error",
        "test_ressources_gced_in_workers",
        "test_traceback",
    }
)


def _interpreters() -> list[Any]:
    found = interpreters.with_suite()
    if not found:
        reason = "no interpreter here has CPython's test package (test.test_concurrent_futures)"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason), id="none")]
    return [pytest.param(one, id=f"py{one.minor}") for one in found]


class Runs:
    """Suites under way: those of one interpreter run side by side, since they sleep most of the time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._processes: dict[tuple[str, str], subprocess.Popen[str]] = {}

    def result(self, interpreter: interpreters.Interpreter, suite: str) -> tuple[dict[str, Any], str]:
        """The suite's report and what it printed."""
        # Where test processes share the work among them, each starts only what it was given.
        for name in [suite] if "PYTEST_XDIST_WORKER" in os.environ else SUITES:
            if (interpreter.minor, name) not in self._processes:
                self._start(interpreter, name)
        process = self._processes[interpreter.minor, suite]
        output = process.communicate(timeout=280)[0]
        assert process.returncode == 0, output
        return json.loads(self._report(interpreter, suite).read_text()), output

    def end(self) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()
                process.communicate()

    def _report(self, interpreter: interpreters.Interpreter, suite: str) -> Path:
        return self._directory / f"{interpreter.minor}-{suite}.json"

    def _start(self, interpreter: interpreters.Interpreter, suite: str) -> None:
        python, program = interpreters.environment(interpreter), Path(__file__).with_name("bound.py")
        self._processes[interpreter.minor, suite] = subprocess.Popen(
            [python, str(program), suite, str(self._report(interpreter, suite))],
            cwd=self._directory,
            env=_local_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    runs = Runs(tmp_path_factory.mktemp("cpython"))
    yield runs
    runs.end()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("interpreter", _interpreters())
def test_suite_passes(interpreter: interpreters.Interpreter, suite: str, runs: Runs) -> None:
    report, output = runs.result(interpreter, suite)
    assert report["failed"] == {}, output
    assert len(report["passed"]) >= SUITES[suite], output
    assert {name.rpartition(".")[2] for name in report["skipped"]} <= SKIPPED_BY_NAME
    assert not report["left_behind"], f"threads or processes outlived a test\n{output}"


def _local_environment() -> dict[str, str]:
    """This environment without any account, so that the work runs here."""
    accounts = ("AZURE_", "BATCH_", "STORAGE_", "BATCHEXEC_", "PYTHON")
    return {name: value for name, value in os.environ.items() if not name.startswith(accounts)}

"""CPython's own tests for executors, wait, as_completed, shutdown and initializers pass with BatchExecutor.

`bound.py` says which tests, what was adapted, and names every one that is skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import interpreters
import pytest

# Suite -> how many of its tests have to pass: fewer would mean that some were not found.
SUITES = {"executor": 9, "wait": 8, "as_completed": 5, "shutdown": 8, "init": 2}
PREFERRED = "3.13"
SKIPPED_BY_NAME = frozenset(
    {
        "test_threads_terminate",
        "test_thread_names_assigned",
        "test_thread_names_default",
        "test_processes_terminate",
        "test_context_manager_shutdown",
        "test_del_shutdown",
        "test_shutdown_no_wait",
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
    """One in the quick tests (the preferred minor, else the newest), the others in the slow ones."""
    found = interpreters.with_suite()
    quick = next((one for one in found if one.minor == PREFERRED), next(iter(found), None))
    if quick is None:
        reason = "no interpreter here has CPython's test package (test.test_concurrent_futures)"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason), id="none")]
    slow = pytest.mark.slow
    return [pytest.param(one, marks=() if one is quick else slow, id=f"py{one.minor}") for one in found]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("interpreter", _interpreters())
def test_suite_passes(interpreter: interpreters.Interpreter, suite: str, tmp_path: Path) -> None:
    python = interpreters.environment(interpreter)
    report_path = tmp_path / "report.json"
    command = [python, str(Path(__file__).with_name("bound.py")), suite, str(report_path)]
    done = subprocess.run(
        command, cwd=tmp_path, env=_local_environment(), capture_output=True, text=True, timeout=280, check=False
    )
    output = f"{done.stdout}\n{done.stderr}"
    assert done.returncode == 0, output
    report = json.loads(report_path.read_text())
    assert report["failed"] == {}, output
    assert len(report["passed"]) >= SUITES[suite], output
    assert {name.rpartition(".")[2] for name in report["skipped"]} <= SKIPPED_BY_NAME
    assert not report["left_behind"], f"threads or processes outlived a test\n{output}"


def _local_environment() -> dict[str, str]:
    """This environment without any account, so that the work runs here."""
    accounts = ("AZURE_", "BATCH_", "STORAGE_", "BATCHEXEC_", "PYTHON")
    return {name: value for name, value in os.environ.items() if not name.startswith(accounts)}

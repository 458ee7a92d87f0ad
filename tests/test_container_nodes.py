"""The executor on nodes with real containers: what runs in them, and what it hears when they cannot run."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
from helpers_containers import IMAGE, MARKER, OPTIONS, container_service, for_tests, need_containers, on
from helpers_fixtures import account_in_root
from helpers_in_container import hold, invert, look_around
from helpers_secure import running
from helpers_service import Account, processes_of, scrubbed, until
from helpers_work import die, double

from batchexec import BatchExecutor
from batchexec.errors import NodeError, TaskError, TaskTerminatedError, WorkerCrashedError

pytestmark = for_tests


account = account_in_root(container_service)


@pytest.fixture(scope="module")
def settings(account: Account) -> dict[str, Any]:
    return account.settings | on()


def test_a_map_runs_in_containers(settings: dict[str, Any]) -> None:
    assert not Path(MARKER).exists()
    with BatchExecutor(**settings) as executor:
        found = list(executor.map(functools.partial(look_around, MARKER), range(6), chunksize=2))
        future = executor.submit(look_around, MARKER, 6)
        future.result()
        assert future.stdout() == "seen 6\n"
    assert [seen["number"] for seen in found] == list(range(6))
    for seen in found:
        assert seen["marker"] == "by tests/containers/install.sh\n"
        assert seen["python"].startswith("/usr/bin/python3")
        assert {"AZ_BATCH_JOB_ID", "AZ_BATCH_TASK_WORKING_DIR", "AZ_BATCH_NODE_ROOT_DIR"} <= set(seen["batch"])
        assert not [value for value in seen["values"] if "sig=" in value], "signatures are not for user code"


def test_files_are_in_the_containers_and_large_ones_there_once(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/small").write_bytes(b"x" * 1000)
    (tmp_path / "in/large").write_bytes(b"x" * 3_000_000)
    monkeypatch.chdir(tmp_path)
    with BatchExecutor(**settings, files=["in"]) as executor:
        found = list(executor.map(os.stat, ["in/small", "in/large"] * 2, chunksize=2))
    assert [state.st_size for state in found] == [1000, 3_000_000] * 2
    assert [state.st_nlink > 1 for state in found] == [False, True] * 2


def test_an_exception_comes_back_with_its_traceback(settings: dict[str, Any]) -> None:
    with BatchExecutor(**settings) as executor:
        error = executor.submit(invert, 0).exception()
    assert isinstance(error, ZeroDivisionError)
    assert "return 1 / number" in "".join(traceback.format_exception(error))


def test_a_crash_is_told_with_what_was_said(settings: dict[str, Any]) -> None:
    with BatchExecutor(**settings, retries=0) as executor:
        crashed, fine = executor.submit(die, "SIGSEGV"), executor.submit(double, 2)
        error = crashed.exception()
        assert fine.result() == 4
    assert isinstance(error, WorkerCrashedError)
    assert "SIGSEGV" in str(error)


def test_a_time_limit_kills_the_container_with_all_in_it(settings: dict[str, Any]) -> None:
    with BatchExecutor(**settings, timeout=4.0, retries=0) as executor:
        error = executor.submit(hold, "4321.5").exception()
    assert isinstance(error, TaskTerminatedError)
    until(lambda: processes_of("4321.5"), lambda found: not found)


def test_leaving_in_a_hurry_kills_the_containers(settings: dict[str, Any]) -> None:
    executor = BatchExecutor(**settings)
    executor.submit(hold, "5432.1")
    until(lambda: processes_of("5432.1"), seconds=120)
    executor.terminate_workers()
    until(lambda: processes_of("5432.1"), lambda found: not found)
    executor.shutdown()


def test_an_image_that_cannot_be_had_is_said_in_time(settings: dict[str, Any]) -> None:
    missing = "127.0.0.1:9/team/no-such-image:1"
    with pytest.raises(NodeError, match="ContainerInvalidImage") as caught:
        with BatchExecutor(**{**settings, "image": missing}) as executor:
            executor.submit(double, 1).result(timeout=200)
    assert missing in str(caught.value)


def test_an_image_that_goes_while_the_pool_stands_is_an_error_of_the_task(
    settings: dict[str, Any],
) -> None:
    """The pool is there, its image is not among those it fetched, and only the task finds out."""
    with BatchExecutor(**settings) as executor:
        assert executor.submit(double, 1).result() == 2
        pool = executor.stats().pool_id
    missing = "127.0.0.1:9/team/no-such-image:2"
    with BatchExecutor(**{**settings, "image": missing, "pool_id": pool}, retries=0) as executor:
        error = executor.submit(double, 1).exception(timeout=200)
    assert isinstance(error, TaskError)
    assert "ContainerInvalidImage" in str(error)
    assert missing in str(error)


def test_an_image_without_the_interpreter_says_so(settings: dict[str, Any]) -> None:
    with BatchExecutor(**{**settings, "python": "python3.99"}, retries=0) as executor:
        error = executor.submit(double, 1).exception(timeout=200)
    assert isinstance(error, TaskError)
    assert "python3.99" in str(error)


OVER_TLS = """
import json, sys
import azure.identity, azure.identity.aio
from batchexec import BatchExecutor

def look():
    return open("/etc/batchexec-image").read()

credential = azure.identity.EnvironmentCredential()
with BatchExecutor(where="azure", credential=credential, progress=False, **json.loads(sys.argv[1])) as executor:
    print(executor.submit(look).result())
"""


def test_containers_trust_the_authority_of_a_service_over_tls() -> None:
    need_containers()
    with running("--tls", *OPTIONS) as secure:
        names = ("batch_endpoint", "storage_account", "blob_endpoint")
        given = {name: secure.info[name] for name in names} | {"batch_account": secure.info["account"]}
        given |= {"image": IMAGE, "slots": 2, "max_nodes": 1}
        done = subprocess.run(
            [sys.executable, "-c", OVER_TLS, json.dumps(given)],
            env=scrubbed(**secure.environment("")),
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "by tests/containers/install.sh"

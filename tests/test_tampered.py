"""Storage that someone else writes to: what was changed there is neither run nor used, by node or client."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import helpers_wheels as wheels
import helpers_work as work
import pytest
from azure.batch import models
from azure.core.rest import HttpRequest
from helpers_service import Account, service, until
from test_worker_wire import worker_that_leaves

from batchexec import BatchExecutor
from batchexec._wire import envelope, names
from batchexec.errors import TamperedError

KEY = bytes(range(32))
OWN = """
import os

def trace():
    # The client imports this module too, and leaves none.
    if "AZ_BATCH_TASK_ID" in os.environ:
        open({trace!r}, "w").close()

def run(padding, *values):
    trace()

trace()
"""


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    with service() as account:
        account.fixed_pool("narrow", slots=1)
        yield account
        assert account.left("narrow") == {}


@pytest.fixture
def settings(account: Account) -> Iterator[dict[str, Any]]:
    yield {**account.settings, "pool_id": "narrow", "retries": 0, "requirements": None, "echo": False}
    for name in account.containers():  # logs of failed chunks stay
        account.blobs.delete_container(name)


@contextmanager
def node_held(account: Account, folder: Path) -> Iterator[None]:
    """A block in which the pool's only slot is taken, so that tasks wait. It is free afterwards."""
    pool = models.BatchPoolInfo(pool_id="narrow")
    job = f"holder-{folder.name}"
    account.batch.create_job(models.BatchJobCreateOptions(id=job, pool_info=pool))
    wait = f"/bin/sh -c 'touch {folder}/held; until [ -e {folder}/free ]; do sleep 0.01; done'"
    account.batch.create_task(job, models.BatchTaskCreateOptions(id="t", command_line=wait))
    until((folder / "held").exists)
    try:
        yield
    finally:
        (folder / "free").touch()
        until(lambda: account.batch.get_task(job, "t").state == "completed")
        request = HttpRequest("DELETE", f"/jobs/{job}", params={"api-version": "2025-06-01"})
        account.batch.send_request(request).raise_for_status()


def waiting(account: Account) -> bool:
    """Whether a task of ours waits."""
    jobs = [job for job in account.jobs() if not job.startswith("holder")]
    return any(task.state == "active" for job in jobs for task in account.batch.list_tasks(job))


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module of the user's that leaves a trace as soon as a node imports it."""
    (tmp_path / "t_traced.py").write_text(OWN.format(trace=str(tmp_path / "trace")))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("t_traced")
    del sys.modules["t_traced"]


@pytest.fixture
def staged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files whose contents go together, one by itself, and so many that their listing is a blob."""
    folder = tmp_path / "here/files"
    folder.mkdir(parents=True)
    for number in range(40):
        (folder / f"small-{number}.txt").write_text(f"content {number}")
    (folder / "large.bin").write_bytes(os.urandom(2_000_000))
    monkeypatch.chdir(folder.parent)
    return ["files"]


def memory(size: int) -> Any:
    """Bytes that travel as a buffer of their own."""
    import pickle

    return pickle.PickleBuffer(bytearray(os.urandom(size)))


Edit = Callable[[bytes], bytes]


def change(container: Any, prefix: str, edit: Edit) -> None:
    blobs = [name for name in container.list_blob_names() if name.startswith(prefix)]
    assert blobs, f"nothing at {prefix}"
    for name in blobs:
        client = container.get_blob_client(name)
        client.upload_blob(edit(client.download_blob().readall()), overwrite=True)


def flipped_at_end(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def flipped_at_start(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    ("prefix", "edit"),
    [
        ("in/", flipped_at_end),
        ("code/", flipped_at_end),
        ("source/", flipped_at_end),
        ("data/", flipped_at_end),
        ("files/bundle/", flipped_at_end),
        pytest.param("files/bundle/", cut, marks=pytest.mark.slow),
        ("files/content/", flipped_at_start),
        pytest.param("files/content/", cut, marks=pytest.mark.slow),
        ("files/listing/", flipped_at_start),
    ],
)
def test_what_was_changed_in_storage_is_seen_before_any_code_of_the_user_runs(
    account: Account,
    settings: dict[str, Any],
    tmp_path: Path,
    own: ModuleType,
    staged: list[str],
    prefix: str,
    edit: Edit,
) -> None:
    with BatchExecutor(**settings, files=staged, initializer=own.trace) as executor:
        with node_held(account, tmp_path):
            shared = executor.share(memory(1 << 20))
            # The padding makes it larger than what travels within each chunk.
            future = executor.submit(functools.partial(own.run, "x" * 5000), memory(1 << 20), shared)
            until(lambda: waiting(account))
            change(account.only_container(), prefix, edit)
        error = future.exception(60)
        assert isinstance(error, TamperedError)
        assert error.job_id
        assert error.task_id == future.task_id
        assert not (tmp_path / "trace").exists()


@pytest.mark.slow
@pytest.mark.parametrize("what", ["spec", "wheel"])
def test_a_changed_environment_is_not_made(
    account: Account, settings: dict[str, Any], tmp_path: Path, own: ModuleType, what: str
) -> None:
    project = wheels.project(tmp_path / "own", "t-tampered", files={"t_tampered.py": f"open({TRACE!r}, 'w')"})
    settings |= {"requirements": [str(project)], "pip_options": wheels.options(tmp_path)}
    with BatchExecutor(**settings) as executor:
        with node_held(account, tmp_path):
            future = executor.submit(own.run, "")
            until(lambda: waiting(account))
            container = account.only_container()
            for name in list(container.list_blob_names(name_starts_with="data/")):
                client = container.get_blob_client(name)
                data = client.download_blob().readall()
                if (data[:2] == b"PK") == (what == "wheel"):
                    client.upload_blob(flipped_at_end(data), overwrite=True)
        assert isinstance(future.exception(60), TamperedError)
        assert not (tmp_path / "trace").exists()


TRACE = "no module of a wheel is imported here"


@pytest.mark.slow  # no result tells of it, so it is seen late
def test_a_changed_worker_is_not_run(
    account: Account, settings: dict[str, Any], tmp_path: Path, own: ModuleType
) -> None:
    trace = tmp_path / "trace"
    with BatchExecutor(**settings) as executor:
        with node_held(account, tmp_path):
            future = executor.submit(own.run, "")
            until(lambda: waiting(account))
            change(account.only_container(), "worker/", lambda _: worker_that_leaves(trace))
        assert isinstance(future.exception(60), TamperedError)
        assert not trace.exists()


def test_a_forged_result_is_no_result(account: Account, settings: dict[str, Any], tmp_path: Path) -> None:
    with BatchExecutor(**settings) as executor:
        with node_held(account, tmp_path):
            future = executor.submit(work.double, 1)
            until(lambda: waiting(account))
            about = envelope.context("result", "job", 3, 0)
            forged = envelope.seal(KEY, about, {"outcomes": [{"n": 1}]}, [b"I do not matter"])
            account.only_container().upload_blob(names.result_blob(0, 0), forged)
        assert isinstance(future.exception(60), TamperedError)


def test_another_chunks_result_is_no_result(account: Account, settings: dict[str, Any], tmp_path: Path) -> None:
    with BatchExecutor(**settings) as executor:
        assert executor.submit(work.double, 1).result(60) == 2
        container = account.only_container()
        first = container.get_blob_client(names.result_blob(0, 0)).download_blob().readall()
        with node_held(account, tmp_path):
            future = executor.submit(work.double, 100)
            until(lambda: waiting(account))
            container.upload_blob(names.result_blob(1, 0), first)
        assert isinstance(future.exception(60), TamperedError)

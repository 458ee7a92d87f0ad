"""What cannot work arrives as a typed error, harms no neighbour, and leaves nothing behind."""

from __future__ import annotations

import base64
import errno
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import helpers_work as work
import pytest
import tenacity
from helpers_disks import small_disk
from helpers_http import serving
from helpers_service import Account, scrubbed, service, until

from batchexec import BatchExecutor
from batchexec._azure import faults
from batchexec._engine import local
from batchexec.errors import (
    AuthenticationError,
    BatchExecError,
    BrokenBatchExecutor,
    NestedExecutorError,
    PayloadError,
    PicklingError,
    RemoteError,
    RemoteExit,
    ResultPicklingError,
    ServiceError,
    ServiceUnreachableError,
    TaskError,
    WorkerCrashedError,
)

Make = Callable[..., BatchExecutor]


@pytest.fixture(scope="module")
def here() -> Iterator[Account]:
    """The local service that executors of this process share."""
    account = Account(local.start().endpoints())
    yield account
    account.close()


@pytest.fixture
def executor(here: Account) -> Iterator[BatchExecutor]:
    """A local executor that must still work after the test, and leave nothing."""
    before = here.left()  # other tests share the service
    with BatchExecutor(max_workers=2, echo=False) as executor:
        yield executor
        assert executor.submit(work.double, 21).result(60) == 42
    until(here.left, lambda left: all(set(names) <= set(before.get(kind, ())) for kind, names in left.items()))


# what cannot travel


def test_a_callable_that_cannot_be_pickled_is_named(executor: BatchExecutor) -> None:
    lock = threading.Lock()

    def guarded(number: int) -> None:
        lock.acquire()

    future = executor.submit(guarded, 1)
    with pytest.raises(PicklingError, match=r"the callable .*guarded cannot be pickled.*lock"):
        future.result(60)
    with pytest.raises(PicklingError, match="guarded"):
        list(executor.map(guarded, range(3)))
    for buffersize in (None, 2):
        errors = list(executor.map(guarded, range(5), chunksize=2, buffersize=buffersize, return_exceptions=True))
        assert [type(error) for error in errors] == [PicklingError] * 5


def test_an_argument_that_cannot_be_pickled_spares_its_neighbours(executor: BatchExecutor) -> None:
    items = [1, threading.Lock(), 3]
    results = list(executor.map(work.double, items, chunksize=3, return_exceptions=True))
    assert (results[0], results[2]) == (2, 6)
    assert isinstance(results[1], PicklingError)
    assert "lock" in str(results[1])


def test_a_result_that_cannot_be_pickled_spares_its_neighbours(executor: BatchExecutor) -> None:
    results: list[Any] = list(executor.map(work.lock_from, range(3), chunksize=3, return_exceptions=True))
    assert (results[0], results[2]) == (0, 2)
    assert isinstance(results[1], ResultPicklingError)
    assert "of type lock, cannot be pickled by the worker" in str(results[1])


def test_a_result_that_cannot_be_unpickled_spares_its_neighbours(executor: BatchExecutor) -> None:
    results: list[Any] = list(executor.map(work.only_there, range(3), chunksize=3, return_exceptions=True))
    assert (results[0], results[2]) == (0, 2)
    assert isinstance(results[1], ResultPicklingError)
    assert "cannot be unpickled here: ValueError: this is not the worker" in str(results[1])


def test_a_result_that_ends_who_unpickles_it_is_an_error(executor: BatchExecutor) -> None:
    results: list[Any] = list(executor.map(work.exiting, range(3), chunksize=3, return_exceptions=True))
    assert (results[0], results[2]) == (0, 2)
    assert isinstance(results[1], ResultPicklingError)
    assert "cannot be unpickled here: SystemExit: 3" in str(results[1])


def test_a_callback_that_would_end_its_thread_holds_up_nothing(
    executor: BatchExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    said: list[str] = []
    for _ in range(2):
        future = executor.submit(work.double, 2)
        future.add_done_callback(lambda _: sys.exit("of a callback"))
        assert future.result(60) == 4
    executor.submit(work.double, 3).add_done_callback(lambda future: said.append(str(future.result())))
    until(lambda: said, bool)
    assert said == ["6"]
    assert "exception calling callback" in caplog.text


@pytest.mark.parametrize(
    ("function", "name", "reason"),
    [
        (work.raise_unsendable, "Unsendable", "it cannot be pickled by the worker"),
        (work.raise_unreadable, "Unreadable", "it cannot be unpickled here"),
    ],
)
def test_an_exception_that_cannot_travel_arrives_as_text(
    executor: BatchExecutor, function: Callable[[str], None], name: str, reason: str
) -> None:
    error = executor.submit(function, "of a kind").exception(60)
    assert isinstance(error, RemoteError)
    assert error.type_name == f"helpers_work.{name}"
    assert error.text == "of a kind"
    assert reason in error.reason
    assert f"raise {name}" in error.traceback_text
    assert error.text in str(error)
    assert error.reason in str(error)
    assert f"raise {name}" in str(error.__cause__)


# workers that die


@pytest.mark.parametrize(
    ("how", "exit_code", "words"),
    [
        ("SIGKILL", 137, "was killed by SIGKILL: if nobody did that, the node ran out of memory"),
        ("SIGTERM", 143, "was killed by SIGTERM"),
        ("SIGSEGV", 139, "was killed by SIGSEGV: a crash in compiled code"),
        ("exit", 3, "ended itself with exit code 3"),
        ("overflow", 139, "or the stack overflowed"),
        ("null", 139, "was killed by SIGSEGV"),
    ],
)
def test_a_worker_that_dies_is_told_with_its_last_words(
    executor: BatchExecutor, how: str, exit_code: int, words: str
) -> None:
    doomed = executor.submit(work.die, how)
    neighbours = [executor.submit(work.double, number) for number in range(3)]
    error = doomed.exception(60)
    assert isinstance(error, WorkerCrashedError)
    assert words in str(error)
    assert "die" in str(error)
    assert "tried 2 times" in str(error)
    assert error.exit_code == exit_code
    assert error.task_id == doomed.task_id
    assert error.job_id
    assert error.node_id
    assert error.stdout == doomed.stdout() == "said before the end\n"
    assert error.stderr.startswith("warned before the end\n")
    assert "warned before the end" in str(error)
    assert [neighbour.result(60) for neighbour in neighbours] == [0, 2, 4]


def test_a_worker_killed_once_is_run_again(executor: BatchExecutor, tmp_path: Path) -> None:
    assert executor.submit(work.die_once, str(tmp_path / "tried"), 4).result(60) == 8


def test_a_chunk_that_dies_spares_other_chunks(executor: BatchExecutor) -> None:
    results = list(executor.map(work.die_at_two, range(4), chunksize=1, return_exceptions=True))
    assert [type(result) for result in results] == [int, int, WorkerCrashedError, int]


@pytest.mark.parametrize("code", [3, 0])
def test_sys_exit_is_no_crash(executor: BatchExecutor, code: int) -> None:
    future = executor.submit(work.leave, code)
    error = future.exception(60)
    assert isinstance(error, RemoteExit)
    assert (error.type_name, error.text) == ("SystemExit", str(code))
    assert "sys.exit(code)" in error.traceback_text
    assert future.stdout() == "said before the end\n"
    assert future.stderr() == "warned before the end\n"


def test_a_memory_error_arrives_as_itself(executor: BatchExecutor) -> None:
    assert type(executor.submit(work.hoard).exception(60)) is MemoryError


def test_too_deep_a_recursion_arrives_as_itself(executor: BatchExecutor) -> None:
    assert type(executor.submit(work.recurse, 0).exception(60)) is RecursionError


def test_a_full_device_arrives_as_itself(executor: BatchExecutor) -> None:
    error = executor.submit(work.write_to_full, "/dev/full").exception(60)
    assert isinstance(error, OSError)
    assert error.errno == errno.ENOSPC


# executors within executors


def test_an_executor_made_by_an_imported_module_starts_nothing_on_the_worker(
    executor: BatchExecutor, here: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "greedy.py").write_text(
        "from batchexec import BatchExecutor\nex = BatchExecutor(max_workers=1)\n\n\ndef work(x):\n    return x\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import greedy  # type: ignore[import-not-found]

    before = set(here.jobs())
    future = executor.submit(greedy.work, 1)
    with pytest.raises(NestedExecutorError, match="work that starts work"):
        future.result(60)
    assert set(here.jobs()) - before == {executor.stats().job_id}


def test_an_executor_made_by_a_function_starts_nothing_on_the_worker(executor: BatchExecutor) -> None:
    def nest() -> None:
        with BatchExecutor() as inner:
            inner.submit(abs, -1).result()

    with pytest.raises(NestedExecutorError):
        executor.submit(nest).result(60)


# accounts that do not answer, or answer no


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    """An account with one pool of fixed size."""
    with service() as account:
        account.fixed_pool()
        yield account


OTHER_KEY = base64.b64encode(b"another key, of no account here").decode()


def refusal(settings: dict[str, Any], **more: Any) -> BatchExecError:
    """What the future of a call gets; later submits are refused, and the end is quiet."""
    executor = BatchExecutor(**{**settings, "pool_id": "fixed", "connect_timeout": 60, "progress": False, **more})
    with executor:
        error = executor.submit(work.double, 1).exception(60)
        assert isinstance(error, BatchExecError)
        with pytest.raises(BrokenBatchExecutor):
            executor.submit(work.double, 1)
    return error


def test_the_account_itself_serves(account: Account) -> None:
    with BatchExecutor(**account.settings, pool_id="fixed") as executor:
        assert list(executor.map(work.double, range(5))) == [0, 2, 4, 6, 8]
    until(lambda: account.left("fixed"), lambda left: not left)


@pytest.mark.parametrize("key", ["batch_key", "storage_key"])
def test_a_wrong_key_is_refused(account: Account, key: str) -> None:
    error = refusal(account.settings, **{key: OTHER_KEY})
    assert isinstance(error, AuthenticationError)
    assert error.status in (401, 403)
    assert "Check the account's name and key" in str(error)
    assert OTHER_KEY not in str(error)
    until(lambda: account.left("fixed"), lambda left: not left)


@pytest.fixture
def few_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are given up after two repetitions, soon after one another."""
    monkeypatch.setattr(faults, "_TRIES", 3)
    monkeypatch.setattr(faults, "_FIRST_WAIT", 0.02)
    monkeypatch.setattr(faults, "_BACKOFF", tenacity.wait_fixed(0.02))


@contextmanager
def not_answering(listening: bool) -> Iterator[str]:
    """The host and port of a socket that refuses, or takes connections for nothing."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        if listening:
            taken.listen()
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.parametrize("setting", ["batch_endpoint", "blob_endpoint"])
def test_an_endpoint_where_nothing_listens_is_told(account: Account, setting: str, few_tries: None) -> None:
    with not_answering(listening=False) as host:
        error = refusal(account.settings, **{setting: f"http://{host}"})
    assert isinstance(error, ServiceUnreachableError)
    assert f"http://{host} cannot be reached" in str(error)
    until(lambda: account.left("fixed"), lambda left: not left)


@pytest.mark.parametrize("listening", [False, True])
def test_endpoints_that_do_not_answer_are_told_in_time(
    account: Account, listening: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time for a first answer is all that ends these tries."""
    monkeypatch.setattr(faults, "_TRIES", 10**6)
    with not_answering(listening) as host:
        url = f"http://{host}"
        error = refusal(account.settings, batch_endpoint=url, blob_endpoint=url, connect_timeout=1)
    assert isinstance(error, ServiceUnreachableError)
    assert host in str(error)


@contextmanager
def web_page(status: int, headers: dict[str, str]) -> Iterator[str]:
    """The URL of a server that answers everything with a page."""

    class Page(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = b"<!DOCTYPE html><html><body>Please sign in</body></html>"
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(200 if self.path.startswith("/login") else status)
            for name, value in {"Content-Type": "text/html", "Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do_PATCH = answer

    with serving(Page) as url:
        yield url


@pytest.mark.parametrize("setting", ["batch_endpoint", "blob_endpoint"])
@pytest.mark.parametrize(
    ("status", "headers"),
    [(200, {}), (404, {}), (302, {"Location": "/login"}), (302, {"Location": "/round"})],
    ids=["page", "missing page", "login", "round and round"],
)
def test_an_endpoint_that_answers_with_a_web_page_is_not_the_service(
    account: Account, setting: str, status: int, headers: dict[str, str]
) -> None:
    with web_page(status, headers) as url:
        error = refusal(account.settings, **{setting: url})
    assert isinstance(error, ServiceUnreachableError)
    assert url in str(error)
    assert "is not" in str(error)
    until(lambda: account.left("fixed"), lambda left: not left)


@pytest.mark.parametrize("setting", ["batch_endpoint", "blob_endpoint"])
def test_a_gateway_that_stays_bad_is_told(account: Account, setting: str, few_tries: None) -> None:
    with web_page(502, {}) as url:
        error = refusal(account.settings, **{setting: url})
    assert isinstance(error, ServiceError)
    assert error.status == 502
    until(lambda: account.left("fixed"), lambda left: not left)


# full disks


@pytest.fixture
def small_nodes(tmp_path: Path) -> Iterator[Account]:
    """An account whose one node has a small disk."""
    with small_disk(tmp_path / "nodes", "2m"), service(root=tmp_path) as account:
        account.fixed_pool()
        yield account


def test_a_full_disk_under_the_local_service_is_told(tmp_path: Path) -> None:
    script = """
from batchexec import BatchExecutor
with BatchExecutor(max_workers=1, echo=False) as ex:
    print(repr(ex.submit(bytes, 5_000_000).exception(60)))
    print(ex.submit(abs, -1).result(60))
    print(repr(ex.submit(len, bytes(5_000_000)).exception(60)))
"""
    with small_disk(tmp_path / "tmp", "3m"):
        env = scrubbed(TMPDIR=str(tmp_path / "tmp"))
        done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
        assert os.listdir(tmp_path / "tmp") == []
    too_large, small, too_large_to_send = done.stdout.splitlines()
    assert too_large.startswith("ResultStoreError(")
    assert small == "1"
    assert "disk on which this local service keeps its blobs is full" in too_large_to_send
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_full_disk_on_the_node_is_told(small_nodes: Account, tmp_path: Path) -> None:
    hog = str(tmp_path / "nodes" / "hog")
    with BatchExecutor(**small_nodes.settings, pool_id="fixed") as executor:
        error = executor.submit(work.fill, hog).exception(60)
        assert isinstance(error, OSError)
        assert error.errno == errno.ENOSPC
        assert f"fill('{hog[:4]}" in str(error.__cause__)

        late = executor.submit(work.double, 1).exception(60)  # no room for its directory
        assert isinstance(late, TaskError)
        assert "DiskFull: There is not enough disk space on the node" in str(late)

        shutil.rmtree(hog)
        assert executor.submit(work.double, 1).result(60) == 2
    until(lambda: small_nodes.left("fixed"), lambda left: not left)


@pytest.mark.slow
def test_of_a_failed_chunk_the_log_alone_stays(account: Account) -> None:
    with BatchExecutor(**account.settings, pool_id="fixed", retries=0) as executor:
        executor.submit(work.double, 1).result(60)
        assert isinstance(executor.submit(work.die, "SIGKILL").exception(60), WorkerCrashedError)
    until(lambda: account.left("fixed"), lambda left: set(left) == {"containers"})
    container = account.only_container()
    assert [blob.name for blob in container.list_blobs()] == ["log/00000001.0"]
    container.delete_container()


# surroundings


def test_a_dead_proxy_does_not_disturb_local_work(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{taken.getsockname()[1]}"
        names = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"]
        script = "from batchexec import BatchExecutor\nwith BatchExecutor() as ex: print(list(ex.map(abs, [-1, -2])))"
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=scrubbed(TMPDIR=str(tmp_path), **dict.fromkeys(names, dead)),
            capture_output=True,
            text=True,
        )
    assert (done.stdout, done.returncode) == ("[1, 2]\n", 0), done.stderr
    assert os.listdir(tmp_path) == []


def test_a_payload_error_is_one_of_the_standard_library_too(executor: BatchExecutor) -> None:
    import pickle

    error = executor.submit(work.double, threading.Lock()).exception(60)
    assert isinstance(error, PayloadError)
    assert isinstance(error, pickle.PicklingError)

"""`batchexec fetch` and `batchexec clean`: what an interrupted client leaves, and how it goes."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers_service import Account, scrubbed, service, until

from batchexec import BatchConfig, BatchExecutor, Command
from batchexec._engine import earlier_jobs
from batchexec.errors import PayloadError

_INTERRUPTED = """
import time
from batchexec import BatchExecutor

def work(number):
    if number == 1:
        raise ValueError("one")
    time.sleep(0 if number < 4 else 600)
    return number * number

with BatchExecutor() as executor:
    for result in executor.map(work, range(8), chunksize=1, return_exceptions=True):
        print(result, flush=True)
"""


@pytest.fixture
def account() -> Iterator[Account]:
    with service() as running:
        yield running


def command(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "batchexec._cli", *words]
    return subprocess.run(line, env=environment, capture_output=True, text=True)


def test_an_interrupted_job_can_be_fetched_and_cleaned_away(account: Account, tmp_path: Path) -> None:
    pool = account.fixed_pool()
    environment = account.environment(BATCHEXEC_POOL_ID=pool)
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", _INTERRUPTED], env=environment, stdout=pipe, stderr=pipe) as client:
        try:
            assert client.stdout is not None
            lines = [client.stdout.readline().strip() for _ in range(4)]
            client.send_signal(signal.SIGINT)
            _, said = client.communicate()
        finally:
            client.kill()
    assert lines == [b"0", b"one", b"4", b"9"]
    (job,) = account.jobs()
    until(account.jobs, lambda jobs: jobs == {job: "completed"})
    assert f"batchexec fetch {job}".encode() in said

    file = tmp_path / "new" / "results.pickle"
    fetched = command(environment, "fetch", job, "--to", str(file))
    assert fetched.returncode == 0, fetched.stderr
    items = pickle.loads(file.read_bytes())
    assert [(call, number, value, repr(error)) for call, number, value, error in items] == [
        ("work", 0, 0, "None"),
        ("work", 1, None, "ValueError('one')"),
        ("work", 2, 4, "None"),
        ("work", 3, 9, "None"),
    ]

    assert command(environment, "clean", job).returncode == 0
    assert not account.left(pool)
    again = command(environment, "clean", job)
    assert again.returncode == 1
    assert f"no job '{job}'" in again.stderr


def test_items_that_were_never_sent_are_among_those_fetched(
    account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with BatchExecutor(**account.settings, pool_id=account.fixed_pool()) as executor:
        given = [1, threading.Lock(), 3]
        assert list(executor.map(repr, given, chunksize=3, return_exceptions=True))[::2] == ["1", "3"]
        for name, value in account.environment().items():
            monkeypatch.setenv(name, value)
        items = earlier_jobs.fetch(BatchConfig.load(), str(executor.stats().job_id)).items
    assert [(item.number, item.value, type(item.error)) for item in items] == [
        (0, "1", type(None)),
        (1, None, PayloadError),
        (2, "3", type(None)),
    ]


def test_runs_of_commands_are_fetched_as_results(
    account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    echo = Command("echo {n} > {out}/n.txt; echo {n}; exit {n}", shell=True, outputs={"out": "*.txt"}, when="always")
    with BatchExecutor(**account.settings, pool_id=account.fixed_pool()) as executor:
        assert len(list(executor.map(echo, [{"n": 0}, {"n": 3}], return_exceptions=True))) == 2
        job = str(executor.stats().job_id)
        done = command(account.environment(), "fetch", job, "--outputs", "files")
    assert done.returncode == 0, done.stderr
    (call, _, first, _), (_, _, second, error) = pickle.loads(Path(f"{job}.pickle").read_bytes())
    assert (call, error) == ("echo", None)
    assert [(one.exit_code, one.stdout) for one in (first, second)] == [(0, "0\n"), (3, "3\n")]
    assert first.node_id
    assert first.outputs == first.named["out"]
    assert [path.read_text() for path in second.outputs] == ["3\n"]


def test_a_job_of_the_local_service_is_no_more(tmp_path: Path) -> None:
    done = command(scrubbed(), "fetch", "batchexec-1")
    assert done.returncode == 1
    assert "no account is configured" in done.stderr

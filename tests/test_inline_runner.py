"""The executor on a service that runs chunks in processes that stay (`--runner inline`)."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers_service import Account, service
from helpers_wheels import options, wheel

from batchexec import BatchExecutor
from batchexec._wire import names
from batchexec.errors import WorkerCrashedError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the fork server is for Linux nodes")


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    with service("--runner", "inline") as account:
        account.fixed_pool("fixed", slots=1)
        yield account


@pytest.fixture
def executor(account: Account) -> Iterator[BatchExecutor]:
    with opened(account) as executor:
        yield executor


def opened(account: Account, **own: Any) -> BatchExecutor:
    settings = {**account.settings, **own}
    return BatchExecutor(pool_id="fixed", create_pool=False, max_workers=1, progress=False, **settings)


def own_process(number: int) -> tuple[int, int]:
    return os.getpid(), number


def secrets_seen(_: int) -> list[str]:
    return [name for name in names.ENV_SECRET if name in os.environ]


def print_and_fail(number: int) -> None:
    print("before", number)
    raise ValueError(f"not {number}")


def test_a_map_runs_in_one_process_that_stays(executor: BatchExecutor) -> None:
    found = list(executor.map(own_process, range(40), chunksize=1))
    assert [number for _, number in found] == list(range(40))
    assert len({pid for pid, _ in found}) == 1
    assert found[0][0] != os.getpid()


def test_each_chunk_has_its_own_secrets_streams_and_errors(executor: BatchExecutor) -> None:
    assert list(executor.map(secrets_seen, range(3), chunksize=1)) == [[], [], []]
    futures = [executor.submit(print_and_fail, number) for number in range(3)]
    for number, future in enumerate(futures):
        error = future.exception(60)
        assert isinstance(error, ValueError)
        assert str(error) == f"not {number}"
        assert future.stdout() == f"before {number}\n"


def is_there(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def test_packages_are_for_the_tasks_that_ask_for_them(account: Account, tmp_path: Path) -> None:
    wheel(tmp_path, "asked-for")
    with opened(account, requirements=["asked-for"], pip_options=options(tmp_path)) as executor:
        assert executor.submit(is_there, "asked_for").result(60)
    with opened(account) as executor:
        assert not executor.submit(is_there, "asked_for").result(60)


def test_a_crash_fails_its_own_chunk_only(account: Account) -> None:
    with opened(account) as executor:
        before = executor.submit(own_process, 1).result(60)
        crash = executor.submit(os._exit, 3)
        after = executor.submit(own_process, 2)
        assert isinstance(crash.exception(60), WorkerCrashedError)
        assert after.result(60)[0] != before[0]


def test_modules_and_shared_objects_are_those_of_the_executor(
    account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    for word in ("first", "second"):
        (tmp_path / "own_words.py").write_text(f"def word(_):\n    return {word!r}\n")
        sys.modules.pop("own_words", None)
        importlib.invalidate_caches()
        module = importlib.import_module("own_words")
        with opened(account) as executor:
            shared = executor.share([word])
            assert list(executor.map(module.word, range(2), chunksize=1)) == [word, word]
            assert executor.submit(list, shared).result(60) == [word]
    sys.modules.pop("own_words", None)

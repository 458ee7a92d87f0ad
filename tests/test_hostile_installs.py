"""Installations that go wrong: a typed error or success, and nothing half made that a later task would use (slow)."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import signal
import socket
import sys
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from helpers_disks import small_disk
from helpers_environments import entries, environments
from helpers_fixtures import account_in_root
from helpers_index import PASSWORD, Index, index
from helpers_packages import crash_in_environment, make_wheels, use_large, use_made, use_second, version_of
from helpers_service import Account, processes_of, service, until
from helpers_venv import interpreter
from helpers_wheels import installed, large_wheel, on_path, options, wheel
from helpers_work import double

from batchexec import BatchExecutor
from batchexec.errors import RequirementsError, TaskTerminatedError, WorkerCrashedError

pytestmark = pytest.mark.slow

MADE = ["first", "second>=1,<2"]  # what use_made wants


account = account_in_root(lambda root: service(root=root))


@pytest.fixture
def links(tmp_path: Path) -> Path:
    return Path(make_wheels(tmp_path / "links"))


@pytest.fixture
def packages(links: Path) -> Iterator[Index]:
    with index(links) as running:
        yield running


@pytest.fixture
def settings(account: Account, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Of an executor on the only node of a pool, which has two slots; more executors get the same node."""
    name = f"pool-{tmp_path.name[-20:]}".replace("_", "-")
    account.fixed_pool(name, slots=2)
    own = {"pool_id": name, "create_pool": False, "max_workers": 2, "echo": False, "progress": False}
    python = interpreter(tmp_path / "worker")
    yield {**account.settings, **own, "python": python, "requirements": MADE}
    account.batch.begin_delete_pool(name)


def failures_of(executor: BatchExecutor, root: Path) -> list[dict[str, Any]]:
    """What its job has noted on nodes: each failure with its time."""
    found = [json.loads(path.read_text()) for path in entries(root, "*.failed")]
    return [note for note in found if note["job"] == executor.stats().job_id]


# what cannot be had


def test_an_index_that_cannot_be_reached(
    settings: dict[str, Any], root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"http://me:{PASSWORD}@127.0.0.1:{nobody.getsockname()[1]}/simple"
        about = {"pip_options": ["--index-url", address, "--retries", "1"], "echo": True}
        with BatchExecutor(**{**settings, **about}) as executor:
            error = executor.submit(use_made, 1).exception(120)
            noted = failures_of(executor, root)
            again = executor.submit(use_made, 2).exception(120)
            assert failures_of(executor, root) == noted != [], "it is not tried again at once"
    assert isinstance(error, RequirementsError)
    assert isinstance(again, RequirementsError)
    assert error.kind == again.kind == "network"
    assert "Failed to establish a new connection" in str(error)
    heard = "".join([str(error), str(again), repr(error), *capfd.readouterr()])
    assert "packages could not be installed" in heard
    assert PASSWORD not in heard


def test_a_package_that_cannot_be_built(settings: dict[str, Any], links: Path) -> None:
    backend = (
        "import sys\n\n\ndef build_wheel(*args, **more):\n"
        "    sys.exit(\"error: command 'gcc' failed: No such file or directory\")\n"
    )
    text = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    about = "Metadata-Version: 2.1\nName: compiled\nVersion: 1.0\n"
    with tarfile.open(links / "compiled-1.0.tar.gz", "w:gz") as archive:
        for name, content in (("backend.py", backend), ("pyproject.toml", text), ("PKG-INFO", about)):
            member = tarfile.TarInfo(f"compiled-1.0/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content.encode()))
    own = {"requirements": [*MADE, "compiled"], "pip_options": options(links)}
    with BatchExecutor(**{**settings, **own}) as executor:
        error = executor.submit(use_made, 1).exception(120)
    assert isinstance(error, RequirementsError)
    assert error.kind == "build"
    assert "gcc" in str(error)


def test_a_wrong_line_among_many_chunks_is_tried_once(settings: dict[str, Any], packages: Index) -> None:
    own = {"requirements": ["first==8"], "pip_options": packages.options}
    with BatchExecutor(**{**settings, **own}) as executor:
        futures = [executor.submit(double, number) for number in range(50)]
        errors = [future.exception(120) for future in futures]
    assert {type(error) for error in errors} == {RequirementsError}
    assert packages.looked_up == ["first"] * 2  # once more for what pip keeps to itself


# what happens meanwhile


def test_two_jobs_at_once_install_once(settings: dict[str, Any], packages: Index, root: Path) -> None:
    def job(number: int) -> list[dict[str, Any]]:
        with BatchExecutor(**settings, pip_options=packages.options) as executor:
            return list(executor.map(use_made, range(3), chunksize=1))

    with ThreadPoolExecutor(2) as threads:
        found = [seen for seen_by_one in threads.map(job, range(2)) for seen in seen_by_one]
    assert len({seen["file"] for seen in found}) == 1
    assert len(packages.asked) == len({*packages.asked}) == 2
    assert not packages.arguments_seen
    assert not [text for seen in found for text in seen["environ"].values() if PASSWORD in text]
    left = dict(files_below(root))
    assert left
    assert not [path for path, data in left.items() if PASSWORD.encode() in data]


def files_below(root: Path) -> Iterator[tuple[Path, bytes]]:
    """All that a service has on its disk, payloads and logs and environments, but for what is being deleted."""
    for parent, _, names in os.walk(root):
        for path in (Path(parent, name) for name in names):
            with contextlib.suppress(FileNotFoundError):  # the job has ended: its directories go
                if path.is_file():
                    yield path, path.read_bytes()


def test_an_installation_that_is_killed_is_begun_anew(settings: dict[str, Any], packages: Index, root: Path) -> None:
    packages.hold()
    earlier = environments(root)
    with BatchExecutor(**settings, pip_options=packages.options, retries=2) as executor:
        future = executor.submit(use_made, 1)
        half = being_made(packages, root, earlier)
        installers = processes_of(half.name)
        assert installers
        (task,) = parents_of(installers) & set(processes_of(settings["python"]))
        os.kill(task, signal.SIGKILL)
        until(lambda: not set(processes_of(half.name)) & set(installers))
        packages.go.set()
        assert future.result(120)["versions"] == ("1.0", "1.0")
    assert not half.exists()


def being_made(packages: Index, root: Path, earlier: list[Path]) -> Path:
    """The environment whose packages the index holds back."""
    assert packages.held.wait(120)
    (half,) = (path for path in environments(root) if path not in earlier and (path / "pyvenv.cfg").exists())
    return half


def parents_of(processes: dict[int, str]) -> set[int]:
    def parent(id: int) -> int:
        return int(re.search(r"PPid:\s*(\d+)", Path(f"/proc/{id}/status").read_text())[1])  # type: ignore[index]

    return {parent(id) for id in processes} - set(processes)


def test_the_end_of_a_task_is_that_of_its_installer(
    settings: dict[str, Any], packages: Index, root: Path, account: Account
) -> None:
    packages.hold()
    earlier = environments(root)
    with BatchExecutor(**settings, pip_options=packages.options, retries=0) as executor:
        future = executor.submit(use_made, 1)
        half = being_made(packages, root, earlier)
        assert [line for line in processes_of(half.name).values() if "pip" in line]
        account.batch.terminate_task(str(executor.stats().job_id), str(future.task_id))
        assert isinstance(future.exception(120), TaskTerminatedError)
        until(lambda: processes_of(half.name), lambda found: not found)
    packages.go.set()
    with BatchExecutor(**settings, pip_options=packages.options) as executor:
        assert executor.submit(use_made, 1).result(120)["versions"] == ("1.0", "1.0")


# disks


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "24m", 20_000):
        yield tmp_path / "disk"


def test_a_full_disk_is_said_and_not_remembered(links: Path, disk: Path, tmp_path: Path) -> None:
    large_wheel(links, "large", 6)
    filler = disk / "filler"
    filler.write_bytes(bytes(17 << 20))
    own = {"max_workers": 1, "echo": False, "progress": False, "python": interpreter(tmp_path / "worker")}
    with service("--slots", "1", root=disk / "service") as account:
        settings = {**account.settings, **own, "pool_id": account.fixed_pool(slots=1), "create_pool": False}
        settings |= {"requirements": ["large"], "pip_options": options(links)}
        with BatchExecutor(**settings) as executor:
            error = executor.submit(use_large, "large").exception(120)
            assert isinstance(error, RequirementsError)
            assert error.kind == "disk"
            assert "No space left on device" in str(error)
            assert not environments(disk / "service")
            filler.unlink()
            assert executor.submit(use_large, "large").result(120) == "1.0"


def test_on_a_small_disk_environments_that_nobody_uses_make_room(links: Path, disk: Path, tmp_path: Path) -> None:
    names = [f"large{number}" for number in range(3)]
    for name in names:
        large_wheel(links, name, 8)
    own = {"max_workers": 1, "echo": False, "progress": False, "python": interpreter(tmp_path / "worker")}
    with service("--slots", "1", root=disk / "service") as account:
        settings = {**account.settings, **own, "pool_id": account.fixed_pool(slots=1), "create_pool": False}
        for name in names:  # three of them do not fit
            with BatchExecutor(**settings | {"requirements": [name], "pip_options": options(links)}) as executor:
                assert executor.submit(use_large, name).result(120) == "1.0"
        assert 1 <= len(environments(disk / "service")) <= 2


# what the node's process has loaded


def test_modules_that_the_fork_server_has_of_the_image_do_not_hide_those_of_an_environment(
    settings: dict[str, Any], links: Path, tmp_path: Path
) -> None:
    old = wheel(tmp_path / "old", "second", "0.5")
    installed(tmp_path / "site-packages", old)
    with on_path(tmp_path / "site-packages"):
        second = importlib.import_module("second")
        own = {**settings, "python": interpreter(tmp_path / "older", old), "pip_options": options(links)}
        with BatchExecutor(**{**own, "requirements": None}) as executor:
            for _ in range(3):  # the node preloads the module once it has seen that it is used
                assert executor.submit(version_of, second).result(120) == "0.5"
        with BatchExecutor(**own) as executor:
            assert list(executor.map(version_of, [second] * 3, chunksize=1)) == ["1.0"] * 3
            crashed = executor.submit(crash_in_environment).exception(120)
            assert isinstance(crashed, WorkerCrashedError)
            assert "SIGSEGV" in str(crashed)


@pytest.mark.skipif(sys.platform != "linux", reason="the fork server is for Linux nodes")
def test_a_process_that_stays_runs_each_task_with_its_own_packages(links: Path, tmp_path: Path) -> None:
    old = wheel(tmp_path / "old", "second", "0.5")
    own = {"python": interpreter(tmp_path / "older", old), "max_workers": 1, "progress": False, "echo": False}
    with service("--runner", "inline") as account:
        own |= {**account.settings, **own, "pool_id": account.fixed_pool(slots=1), "create_pool": False}
        own |= {"pip_options": options(links)}
        for lines, version in ((MADE, "1.0"), (None, "0.5"), (["second==2"], "2.0")):
            with BatchExecutor(**{**own, "requirements": lines}) as executor:
                for _ in range(2):
                    assert executor.submit(use_second, 1).result(120) == version


def test_a_node_without_any_installer_uses_the_one_that_travels(
    settings: dict[str, Any], links: Path, tmp_path: Path
) -> None:
    bare = interpreter(tmp_path / "bare", with_pip=False)
    own = {**settings, "python": bare, "pip_options": options(links), "env": {"PATH": "/usr/bin:/bin"}}
    with BatchExecutor(**own) as executor:
        assert executor.submit(use_made, 1).result(120)["versions"] == ("1.0", "1.0")

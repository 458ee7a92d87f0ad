"""What a job keeps on a node is bounded: modules, apps and buffers go when others need room, never while in use."""

from __future__ import annotations

import glob
import hashlib
import importlib
import io
import os
import random
import shutil
import signal
import sys
import threading
import time
import traceback
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers_disks import small_disk
from helpers_environments import environments
from helpers_packages import use_large
from helpers_processes import in_process
from helpers_service import Account, service, until
from helpers_staged import account, count, gets, running, stage, store_of
from helpers_venv import interpreter
from helpers_wheels import large_wheel, options

from batchexec import BatchExecutor, Command
from batchexec._wire import names
from batchexec._worker import locks, surroundings
from batchexec._worker.cache import NodeCache
from batchexec._worker.disk import room
from batchexec._worker.refusals import Refusal
from batchexec._worker.shared_trees import SharedTrees
from batchexec._worker.store import Store

__all__ = ["account", "running"]


class Staged:
    """Blobs of a job, and tasks of a node which use them."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._sas: dict[str, str] = {}
        self._stores: list[Store] = []

    def archive(self, contents: dict[str, bytes]) -> str:
        """The SHA-256 of modules that are staged."""
        with io.BytesIO() as file:
            with zipfile.ZipFile(file, "w") as archive:
                for name, data in contents.items():
                    archive.writestr(name, data)
            return self._blob(names.source_blob, file.getvalue())

    def buffer(self, data: bytes) -> str:
        return self._blob(names.data_blob, data)

    def _blob(self, name: Any, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        self._sas[digest] = stage(self._account, name(digest), data)
        return digest

    def task(self, cache: Path) -> NodeCache:
        self._stores.append(store_of(self._account))
        return NodeCache(str(cache), self._stores[-1], self._sas)

    def close(self) -> None:
        for store in self._stores:
            store.close()


@pytest.fixture
def staged(account: Account) -> Iterator[Staged]:
    made = Staged(account)
    yield made
    made.close()


def left(cache: Path) -> list[str]:
    """Whatever is there but empty directories, and the lock of those who look for room."""
    found = [str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file()]
    return sorted(name for name in found if name != "locks/room")


# modules


def test_modules_stay_while_a_task_uses_them_and_are_unpacked_again(
    account: Account, staged: Staged, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    digest = staged.archive({"own/__init__.py": b"x = 1", "other.py": b"y = 2"})
    first, second = staged.task(cache), staged.task(cache)
    count(account)
    there = Path(first.source(digest))
    assert second.source(digest) == str(there)
    first.close()
    room.empty(str(cache))
    assert (there / "own/__init__.py").read_bytes() == b"x = 1"
    assert gets(account) == 1
    second.close()
    room.empty(str(cache))
    assert left(cache) == []
    assert Path(staged.task(cache).source(digest), "other.py").read_bytes() == b"y = 2"
    assert gets(account) == 2


def test_the_path_loses_the_modules_of_an_earlier_job_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (SharedTrees(str(tmp_path / job)).path("source-1") for job in ("first", "second"))
    like_ours = str(tmp_path / "source-code")
    monkeypatch.setattr(sys, "path", ["", like_ours])
    surroundings.find_modules_in(first)
    assert sys.path == ["", first, like_ours]
    surroundings.find_modules_in(second)
    assert sys.path == ["", second, like_ours]


def test_a_fork_that_a_task_left_running_keeps_its_directories(tmp_path: Path) -> None:
    shared = SharedTrees(str(tmp_path))
    path = shared.have("app", lambda new: Path(new, "file").write_text("in use"))
    (ends, go) = os.pipe()
    child = os.fork()
    if not child:  # it has what the task had open
        os.read(ends, 1)
        os._exit(0)
    shared.let_go()
    room.empty(str(tmp_path))
    assert os.listdir(path) == ["file"]
    os.write(go, b"!")
    os.waitpid(child, 0)
    room.empty(str(tmp_path))
    assert left(tmp_path) == []


def test_what_cannot_be_unpacked_leaves_nothing(staged: Staged, tmp_path: Path) -> None:
    digest = staged.archive({"a": b"1", "a/b": b"a directory and a file"})
    with pytest.raises(NotADirectoryError):
        staged.task(tmp_path).source(digest)
    assert [name for name in left(tmp_path) if not name.startswith("locks/")] == []


def test_one_that_is_killed_while_it_unpacks_holds_up_nobody(tmp_path: Path) -> None:
    started = tmp_path / "started"

    def never(new: str) -> None:
        Path(new, "half").write_text("half")
        started.touch()
        signal.pause()

    killed = in_process(lambda: SharedTrees(str(tmp_path)).have("app", never))
    until(started.exists)
    sibling = SharedTrees(str(tmp_path))
    found: list[str] = []
    waits = threading.Thread(target=lambda: found.append(sibling.have("app", lambda new: Path(new, "all").touch())))
    waits.start()
    room.empty(str(tmp_path))
    assert (tmp_path / "kept/app.part/half").exists()  # somebody is at work on it
    assert not found
    os.kill(killed.pid, signal.SIGKILL)
    waits.join(60)
    assert found == [str(tmp_path / "kept/app")]
    assert os.listdir(found[0]) == ["all"]
    assert os.listdir(tmp_path / "kept") == ["app"]
    killed.join()


def test_what_a_killed_task_left_goes_as_soon_as_room_is_needed(
    account: Account, staged: Staged, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    digest = staged.buffer(b"x" * 10_000)
    account.arm({"kind": "delay", "seconds": 600, "match": {"service": "blob", "method": "GET"}, "count": 1})
    killed = in_process(lambda: staged.task(cache).data(digest))
    until(lambda: account.faults()[0]["fired"])
    for name in ("kept/app.part/deep", "files"):
        (cache / name).mkdir(parents=True)
    (cache / "kept/app.part/deep/file").write_text("half")
    (cache / "files/1234.lock.part").write_text("half")
    room.empty(str(cache))
    assert left(cache) == [f"{digest}.part"]  # of one that lives
    os.kill(killed.pid, signal.SIGKILL)
    killed.join()
    room.empty(str(cache))
    assert left(cache) == []
    assert bytes(staged.task(cache).data(digest)) == b"x" * 10_000


# buffers


def test_a_buffer_stays_while_it_is_mapped(account: Account, staged: Staged, tmp_path: Path) -> None:
    digest = staged.buffer(b"x" * 10_000)
    mapped = staged.task(tmp_path).data(digest)
    count(account)
    room.empty(str(tmp_path))
    assert bytes(staged.task(tmp_path).data(digest)) == bytes(mapped)
    assert gets(account) == 0
    del mapped
    room.empty(str(tmp_path))
    assert left(tmp_path) == []


# small disks


def put(cache: NodeCache, digest: str) -> Path:
    path = Path(cache.source(digest))
    cache.close()
    return path


def test_archives_never_fill_a_small_disk(account: Account, staged: Staged, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, "16m", files=0):
        cache = disk / "cache"
        user = staged.task(cache)
        held = Path(user.source(staged.archive({"held.bin": bytes(3_000_000)})))
        often = staged.buffer(os.urandom(1_500_000))
        digests = [staged.archive({f"m{n}.bin": bytes(2_000_000), "n.py": b"%d" % n}) for n in range(12)]
        for number, digest in enumerate(digests):  # 24 MB
            assert len(staged.task(cache).data(often)) == 1_500_000
            there = put(staged.task(cache), digest)
            assert (there / "n.py").exists()
            os.utime(there, (number, number))  # all this may happen within one tick of the disk's clock
            assert shutil.disk_usage(disk).used < 8 * 1024 * 1024 + 100_000
        count(account)
        assert len(staged.task(cache).data(often)) == 1_500_000
        put(staged.task(cache), digests[-1])
        assert gets(account) == 0  # used last
        put(staged.task(cache), digests[0])
        assert gets(account) == 1  # unpacked again
        assert (held / "held.bin").stat().st_size == 3_000_000


def test_many_small_files_do_not_use_up_what_a_disk_has_of_them(staged: Staged, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, "64m", files=400):
        for number in range(8):
            digest = staged.archive({f"{n}.py": b"%d" % number for n in range(100)})
            assert len(os.listdir(put(staged.task(disk / "cache"), digest))) == 100
        too_many = staged.archive({f"{n}.py": b"" for n in range(500)})
        with pytest.raises(Refusal, match="the node's disk is full"):
            staged.task(disk / "cache").source(too_many)
        put(staged.task(disk / "cache"), digest)


def test_a_disk_that_others_have_filled_is_a_refusal_or_makes_room(staged: Staged, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, "16m", files=0):
        cache = disk / "cache"
        old, new = (staged.archive({"m.bin": bytes(4_000_000) + name}) for name in (b"1", b"2"))
        put(staged.task(cache), old)
        fill = disk / "programs"
        fill.write_bytes(bytes(shutil.disk_usage(disk).free))
        assert (put(staged.task(cache), new) / "m.bin").stat().st_size == 4_000_001
        user = staged.task(cache)
        user.source(new)
        with pytest.raises(Refusal, match=r"the node's disk is full: 4\.0 MB are needed") as refused:
            staged.task(cache).source(old)
        assert refused.value.code == "files"
        fill.unlink()
        put(staged.task(cache), old)


def test_locks_of_what_has_gone_go_too_and_no_lock_is_lost(tmp_path: Path) -> None:
    shared = SharedTrees(str(tmp_path))
    for number in range(20):
        shared.have(f"a-{number}", lambda new: Path(new, "file").touch())
        shared.let_go()
    with locks.take(str(tmp_path / "locks/own")):
        room.empty(str(tmp_path))
        assert left(tmp_path) == ["locks/own"]
    room.empty(str(tmp_path))
    assert left(tmp_path) == []


def test_what_was_found_full_in_the_midst_is_tried_again_when_others_have_gone(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, "8m", files=0):
        shared = SharedTrees(str(disk))

        def fill(new: str) -> None:  # without having asked for room
            Path(new, "file").write_bytes(bytes(5_000_000))

        shared.have("old", fill)
        shared.let_go()
        assert room.trying(str(disk), lambda: shared.have("new", fill)) == str(disk / "kept/new")
        assert os.listdir(disk / "kept") == ["new"]
        with pytest.raises(Refusal, match=r"the node's disk is full: .*No space left"):
            room.trying(str(disk), lambda: shared.have("other", fill))
        assert os.listdir(disk / "kept") == ["new"]


def test_what_other_jobs_do_not_use_goes_before_a_disk_is_full(
    staged: Staged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, "16m", files=0):
        monkeypatch.setenv("AZ_BATCH_NODE_SHARED_DIR", str(disk / "shared"))
        first, second, gone, third, fourth = (disk / f"workitems/{number}/cache" for number in range(5))
        modules = [staged.archive({"m.bin": bytes(5_000_000) + name}) for name in (b"1", b"2", b"3", b"4")]
        held = Path(staged.task(second).source(modules[1]))
        put(staged.task(first), modules[0])
        put(staged.task(gone), modules[2])
        shutil.rmtree(gone.parent)  # with its job
        put(staged.task(third), modules[2])  # 15 MB by now
        assert len(os.listdir(first / "kept")) == 1
        put(staged.task(fourth), modules[3])
        assert [len(os.listdir(one / "kept")) for one in (first, second, third, fourth)] == [0, 1, 1, 1]
        assert (held / "m.bin").stat().st_size == 5_000_001
        assert not gone.parent.exists()
        assert len(os.listdir(disk / "shared/batchexec/caches")) == 4
        put(staged.task(first), modules[0])
        assert [len(os.listdir(one / "kept")) for one in (first, second, third, fourth)] == [1, 1, 0, 1]


@pytest.mark.slow
def test_tasks_that_are_killed_at_any_moment_harm_no_other(staged: Staged, tmp_path: Path) -> None:
    """Each holds modules and a buffer, all of which must stay as they are; four times as much as there is room for."""
    disk, notes = tmp_path / "disk", tmp_path / "notes"
    notes.mkdir()
    modules = [staged.archive({f"{n}.bin": bytes([n]) * 400_000 for n in range(1, size)}) for size in range(2, 8)]
    buffers = [staged.buffer(bytes([n]) * 1_000_000) for n in range(4)]
    chance = random.Random(7)

    def tasks(number: int) -> None:
        own = random.Random(number)
        try:
            while True:
                task, digest, buffer = staged.task(disk / f"job{number % 2}"), own.choice(modules), own.choice(buffers)
                try:
                    there, mapped = Path(task.source(digest)), task.data(buffer)
                except Refusal as refused:
                    if "disk is full" not in str(refused):
                        raise
                else:
                    for _ in range(2):
                        assert sorted(os.listdir(there)) == [f"{n}.bin" for n in range(1, modules.index(digest) + 2)]
                        assert all(path.stat().st_size == 400_000 for path in there.iterdir())
                        assert hashlib.sha256(mapped).hexdigest() == buffer
                    del mapped
                    (notes / f"good-{number}-{own.random()}").touch()
                task.close()
                staged.close()
        except BaseException:
            (notes / "error").write_text(traceback.format_exc())
            raise

    with small_disk(disk, "10m", files=0):
        running = [in_process(lambda n=n: tasks(n)) for n in range(4)]
        for kill in range(40):
            done = len(os.listdir(notes))
            until(lambda done=done: len(os.listdir(notes)) > done)
            victim = chance.randrange(4)
            time.sleep(chance.random() / 50)  # at any moment of a task
            os.kill(running[victim].pid, signal.SIGKILL)
            running[victim].join()
            running[victim] = in_process(lambda n=4 + kill: tasks(n))
        for one in running:
            os.kill(one.pid, signal.SIGKILL)
            one.join()
        assert not (notes / "error").exists(), (notes / "error").read_text()
        for job in ("job0", "job1"):
            room.empty(str(disk / job))
            assert left(disk / job) == []


# over one executor


@pytest.mark.slow
def test_apps_and_modules_of_one_executor_never_fill_the_disk_of_a_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    nodes = tmp_path / "root/nodes"
    nodes.parent.mkdir()
    with small_disk(nodes, "48m", files=0), service(root=nodes.parent) as account:
        account.fixed_pool("fixed", slots=2)
        settings = {**account.settings, "pool_id": "fixed", "echo": False, "progress": False}
        with BatchExecutor(**settings, max_workers=2) as executor:
            done = tmp_path / "done"
            wait = f"touch {tmp_path}/begun; until [ -e {done} ]; do sleep 0.05; done; wc -c < $(dirname $0)/data"
            held = executor.submit(Command("held", app=packed("held", wait)))
            until((tmp_path / "begun").exists)
            try:
                for number in range(10):  # 6 MB each, beside the 6 MB that are in use
                    tool = Command(f"app-{number}", app=packed(f"app-{number}", f"echo {number}"))
                    assert executor.submit(tool).result().stdout == f"{number}\n"
                    Path(f"t_own_{number}.py").write_text(f"def f(): return {number}\n# {'x' * 5_000_000}\n")
                    assert executor.submit(importlib.import_module(f"t_own_{number}").f).result() == number
                    del sys.modules[f"t_own_{number}"]
                    assert shutil.disk_usage(nodes).used < 32_000_000  # half of it, and what a task has beside that
                first = Command("app-0", app="app-0.tar.gz")
                assert executor.submit(first).result().stdout == "0\n"  # it had gone
            finally:
                done.touch()
            assert held.result().stdout.endswith("6000000\n")


@pytest.mark.slow
def test_packages_and_apps_that_nobody_uses_make_room_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    nodes = tmp_path / "root/nodes"
    nodes.parent.mkdir()
    large_wheel(tmp_path / "links", "large", 8)
    with small_disk(nodes, "32m", files=0), service("--slots", "1", root=nodes.parent) as account:
        own = {"max_workers": 1, "echo": False, "progress": False, "python": interpreter(tmp_path / "worker")}
        settings = {**account.settings, **own, "pool_id": account.fixed_pool(slots=1), "create_pool": False}
        needing = settings | {"requirements": ["large"], "pip_options": options(tmp_path / "links")}
        with BatchExecutor(**needing) as executor:
            assert executor.submit(use_large, "large").result() == "1.0"
        assert environments(nodes.parent)
        with BatchExecutor(**settings) as others:
            app = Command("app", app=packed("app", "echo app", 26_000_000))
            assert others.submit(app).result().stdout == "app\n"
            assert not environments(nodes.parent)
            with BatchExecutor(**needing) as executor:
                assert executor.submit(use_large, "large").result() == "1.0"
                # `Path.glob` would fail where a job's directories go meanwhile
                assert not glob.glob(f"{nodes}/*/workitems/*/job-1/jobpreparation/wd/cache/kept/app-*")
            assert others.submit(app).result().stdout == "app\n"


def packed(name: str, text: str, size: int = 6_000_000) -> str:
    """An archive, small until it is unpacked, with one program."""
    folder = Path(f"of-{name}")
    folder.mkdir()
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)
    (folder / "data").write_bytes(bytes(size))
    return shutil.make_archive(name, "gztar", folder)

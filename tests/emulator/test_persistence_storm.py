"""A service that is killed in the middle of many writes, and one whose disk is full: no reply was a lie."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from azure.batch import models
from azure.core.exceptions import AzureError, HttpResponseError
from azure.storage.blob import BlobBlock
from helpers_service import until
from kept_service import Kept, kept_service

PER_COLLECTION = 20
SIZES = (0, 100, 70_000, 300_000)
BLOCK = 100_000


pytestmark = pytest.mark.slow


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    with kept_service(tmp_path / "data") as kept:
        yield kept


def content(name: str) -> bytes:
    """Bytes that only this blob has; the size is in the name."""
    size = int(name.rpartition("-")[2])
    return (hashlib.sha256(name.encode()).digest() * (size // 32 + 1))[:size]


class Storm:
    """Writers that go on until they are told to end, and what was acknowledged to them."""

    def __init__(self, kept: Kept, job: str) -> None:
        self._kept = kept
        self._job = job
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._round = 0
        self._refused: list[AzureError] = []
        self.tasks: set[str] = set()
        self.terminated: set[str] = set()
        self.blobs: set[str] = set()
        self.deleted: set[str] = set()

    def begin(self, *writers: Callable[[str], None]) -> None:
        self._round += 1
        for number, writer in enumerate(writers):
            thread = threading.Thread(target=self._write, args=(writer, f"r{self._round}-w{number}"))
            self._threads.append(thread)
            thread.start()

    def _write(self, writer: Callable[[str], None], name: str) -> None:
        count = 0
        while not self._over.is_set():
            count += 1
            try:
                writer(f"{name}-{count}")
            except AzureError as error:
                # What a kill does to a request is borne, a refusal is not.
                if isinstance(error, HttpResponseError) and error.status_code is not None:
                    self._refused.append(error)
                    return

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        self._over.clear()
        assert not self._refused

    # writers

    def collections(self, name: str) -> None:
        tasks = [{"id": f"{name}-{n}", "commandLine": "/bin/true"} for n in range(PER_COLLECTION)]
        group = models.BatchTaskGroup(task_values=[models.BatchTaskCreateOptions(task) for task in tasks])
        done = self._kept.batch.create_task_collection(self._job, group)
        assert done.result_values is not None
        self.tasks.update(str(result.task_id) for result in done.result_values)
        self._kept.batch.terminate_task(self._job, f"{name}-0")
        self.terminated.add(f"{name}-0")

    def whole_blobs(self, name: str) -> None:
        name = f"{name}-{random.choice(SIZES)}"
        self._kept.blobs.get_blob_client("box", name).upload_blob(content(name))
        self.blobs.add(name)
        if random.random() < 0.2:
            self.deleted.add(name)
            self._kept.blobs.get_blob_client("box", name).delete_blob()
            self.blobs.discard(name)

    def blobs_of_blocks(self, name: str) -> None:
        name = f"{name}-{3 * BLOCK}"
        blob = self._kept.blobs.get_blob_client("box", name)
        data = content(name)
        ids = ["a", "b", "c"]
        for index, id in enumerate(ids):
            blob.stage_block(id, data[index * BLOCK : (index + 1) * BLOCK])
        blob.commit_block_list([BlobBlock(id) for id in ids])
        self.blobs.add(name)


def test_killed_in_the_middle_of_a_storm_it_has_all_that_was_acknowledged_and_nothing_half(kept: Kept) -> None:
    service = kept.service
    job = service.job(service.pool(nodes=0))
    kept.blobs.create_container("box")
    storm = Storm(kept, job)
    for _ in range(3):
        known = len(storm.tasks), len(storm.blobs)
        storm.begin(storm.collections, storm.collections, storm.whole_blobs, storm.whole_blobs, storm.blobs_of_blocks)
        until(lambda: len(storm.tasks) > known[0] + 200 and len(storm.blobs) > known[1] + 12)  # noqa: B023
        kept.kill()
        storm.end()
        kept.start()

    tasks = {str(task.id): task.state for task in kept.batch.list_tasks(job)}
    assert storm.tasks <= tasks.keys()
    assert {tasks[id] for id in storm.terminated} == {"completed"}
    whole = Counter(id.rpartition("-")[0] for id in tasks)
    assert set(whole.values()) == {PER_COLLECTION}
    counts = kept.get(f"/jobs/{job}/taskcounts")["taskCounts"]
    assert counts["active"] + counts["completed"] == len(tasks)

    with kept.blobs.get_container_client("box") as box:
        names = {blob.name for blob in box.list_blobs()}
        assert storm.blobs - storm.deleted <= names
        for name in names:
            assert box.download_blob(name).readall() == content(name), name
    files = list((kept.data / "blobs").iterdir())
    kept.stop()
    # Every file that is there belongs to a blob, or to a block that was staged.
    kept.start()
    assert set((kept.data / "blobs").iterdir()) == set(files)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", place], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def fill(path: Path) -> None:
    """Take all that is left on a disk."""
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError as error:
            assert error.errno == errno.ENOSPC  # noqa: PT017 - it ends so, and in no other way


def refusal(call: Callable[[], object]) -> tuple[int | None, str | None]:
    """Status and code of the service's refusal; (None, None) where there was none."""
    try:
        call()
    except HttpResponseError as error:
        code = error.error.code if getattr(error, "error", None) else getattr(error, "error_code", None)
        return error.status_code, str(code) if code else None
    return None, None


def test_on_a_full_disk_nothing_is_told_that_would_be_forgotten(small_disk: Path) -> None:
    with kept_service(small_disk / "data") as kept:
        service = kept.service
        job = service.job(service.pool(nodes=0))
        box = kept.blobs.create_container("box")
        box.upload_blob("before", b"before")
        ballast = small_disk / "ballast"
        fill(ballast)
        os.truncate(ballast, ballast.stat().st_size - 1_500_000)
        told: list[str] = []
        setting = models.EnvironmentSetting(name="FILL", value="x" * 100_000)
        found: tuple[int | None, str | None] = (None, None)
        while len(told) < 50:
            id = f"t{len(told)}"
            options = models.BatchTaskCreateOptions(id=id, command_line="/bin/true", environment_settings=[setting])
            found = refusal(lambda: kept.batch.create_task(job, options))  # noqa: B023
            if found != (None, None):
                break
            told.append(id)
        assert told
        assert found == (503, "ServerBusy")
        # What could not be written is not told by a read either, nor by a condition that it would fail.
        assert refusal(lambda: kept.batch.get_task(job, f"t{len(told)}")) == (503, "ServerBusy")
        assert refusal(lambda: box.upload_blob("large", bytes(1 << 20)))[0] == 507
        assert refusal(lambda: box.upload_blob("small", b"small"))[0] == 507
        assert refusal(lambda: box.upload_blob("small", b"small"))[0] == 507
        kept.kill()
        ballast.unlink()
        kept.start()
        assert [str(task.id) for task in kept.batch.list_tasks(job)][: len(told)] == told
        assert {blob.name for blob in box.list_blobs()} == {"before"}
        assert box.download_blob("before").readall() == b"before"

        # Full once more; and with room again it goes on, without having been started again.
        fill(ballast)
        assert refusal(lambda: box.upload_blob("large", bytes(1 << 20)))[0] == 507
        ballast.unlink()
        until(lambda: refusal(lambda: box.upload_blob("large", bytes(1 << 20)))[0] is None)
        service.task(job, "/bin/true", "later")
        kept.restart()
        assert box.download_blob("large").readall() == bytes(1 << 20)
        assert kept.batch.get_task(job, "later").state == "active"

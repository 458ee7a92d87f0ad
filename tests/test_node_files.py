"""Files on a node: fetched once by whoever comes first, checked, placed, kept within the bounds of the disk."""

from __future__ import annotations

import hashlib
import os
import signal
import stat
import subprocess
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from helpers_disks import small_disk
from helpers_processes import in_process
from helpers_service import Account, until
from helpers_staged import account, count, gets, running, stage, store_of

from batchexec._wire import files
from batchexec._worker import locks
from batchexec._worker.disk import room
from batchexec._worker.files.placing import NodeFiles
from batchexec._worker.refusals import Refusal
from batchexec._worker.shared_trees import SharedTrees

__all__ = ["account", "running"]

LARGE = 1_500_000


class Staged:
    """A set of files as its client staged it: each in a blob of its own, or all in one."""

    def __init__(self, account: Account, contents: dict[str, bytes], *, together: bool = False) -> None:
        self._account = account
        blobs = [b"".join(contents.values())] if together else list(contents.values())
        self.names = [f"b-{hashlib.sha256(data).hexdigest()[:20]}" for data in blobs]
        uploads = zip(self.names, blobs, strict=True)
        self.sources = [files.Source(name, stage(account, name, data), None) for name, data in uploads]
        placed = []
        start = 0
        for number, (path, data) in enumerate(contents.items()):
            digest = hashlib.sha256(data).hexdigest()
            source, at = (0, start) if together else (number, 0)
            placed.append(files.File(path, path.endswith(".sh"), len(data), digest, source, at))
            start += len(data)
        self.listing = files.Listing(["empty"], self.sources, placed)
        self.id = hashlib.sha256(files.dump(self.listing)).hexdigest()

    def on(self, cache: Path) -> NodeFiles:
        """What a task of the node whose cache this is has at its hands."""
        sets = {self.id: files.plain(self.listing)}
        return NodeFiles(SharedTrees(str(cache)), store_of(self._account), sets, bytes)

    def place(self, cache: Path, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self.on(cache).place(self.id, str(directory))


def read(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()
    }


def test_small_files_are_copied_and_large_ones_linked(account: Account, tmp_path: Path) -> None:
    made = {"a.txt": b"a", "deep/er/b.sh": b"#!/bin/sh", "large.bin": os.urandom(LARGE), "large.sh": bytes(LARGE)}
    staged = Staged(account, {**made, "none": b""})
    there = tmp_path / "there"
    there.mkdir()
    (there / "a.txt").write_text("of an earlier try")
    (there / "large.bin").symlink_to("/etc/hostname")
    staged.place(tmp_path / "cache", there)
    assert read(there) == {**made, "none": b""}
    assert (there / "empty").is_dir()
    found = {name: (there / name).stat() for name in made}
    assert {name: oct(stat.S_IMODE(state.st_mode)) for name, state in found.items()} == {
        "a.txt": "0o644",
        "deep/er/b.sh": "0o755",
        "large.bin": "0o444",
        "large.sh": "0o555",
    }
    assert {name: state.st_nlink for name, state in found.items()} == {
        "a.txt": 1,
        "deep/er/b.sh": 1,
        "large.bin": 2,
        "large.sh": 2,
    }


def test_files_next_to_each_other_are_read_by_one_request(account: Account, tmp_path: Path) -> None:
    made = {str(number): b"%05d" % number * 1000 for number in range(20)}
    whole, part = Staged(account, made, together=True), Staged(account, made, together=True)
    part.listing = part.listing._replace(files=[*part.listing.files[3:7], *part.listing.files[10:12]])
    part.id = "part"
    count(account)
    part.place(tmp_path / "cache", tmp_path / "part")
    assert gets(account) == 2
    whole.place(tmp_path / "cache", tmp_path / "whole")
    assert gets(account) == 2 + 3  # what lies before, between and behind
    assert read(tmp_path / "whole") == made


def test_a_download_that_breaks_off_goes_on_where_it_was(account: Account, tmp_path: Path) -> None:
    made = {"a": os.urandom(700_000), "b": os.urandom(LARGE), "c": b"end"}
    staged = Staged(account, made, together=True)
    match = {"service": "blob", "method": "GET", "blob": "b-*"}
    account.arm(
        {"kind": "truncate", "bytes": 400_000, "match": match, "count": 2},
        {"kind": "status", "status": 503, "match": match, "after": 2, "count": 1},
        {"kind": "drop", "match": match, "after": 2, "count": 1},
    )
    staged.place(tmp_path / "cache", tmp_path / "there")
    assert read(tmp_path / "there") == made
    assert all(fault["fired"] == fault["count"] for fault in account.faults())


@pytest.mark.parametrize("together", [True, False])
def test_wrong_bytes_are_neither_placed_nor_kept(account: Account, tmp_path: Path, together: bool) -> None:
    made = {"good": b"1" * 1000, "bad": b"2" * 1000, "large": b"3" * LARGE}
    staged = Staged(account, made, together=together)
    for name in staged.names:
        client = account.blobs.get_blob_client("job", name)
        client.upload_blob(client.download_blob().readall().replace(b"222", b"233"), overwrite=True)
    with pytest.raises(Refusal) as refused:
        staged.place(tmp_path / "cache", tmp_path / "there")
    assert refused.value.code == "tampered"
    assert read(tmp_path / "there") == {}
    good = {hashlib.sha256(made["good"]).hexdigest(), hashlib.sha256(made["large"]).hexdigest()}
    assert set(os.listdir(tmp_path / "cache/files")) <= good


def test_what_a_task_changed_is_fetched_again(account: Account, tmp_path: Path) -> None:
    made = {"small": b"small", "large": bytes(LARGE)}
    staged = Staged(account, made)
    cache = tmp_path / "cache"
    count(account)
    staged.place(cache, tmp_path / "first")
    os.chmod(tmp_path / "first/large", 0o644)
    staged.place(cache, tmp_path / "second")
    assert gets(account) == 3  # with another mode, someone may be about to write
    with open(tmp_path / "second/large", "r+b") as file:  # as root may, whatever the mode
        file.write(b"spoilt")
    staged.place(cache, tmp_path / "third")
    assert read(tmp_path / "third") == made
    assert gets(account) == 4


def test_where_no_link_can_be_made_large_files_are_copied(account: Account, tmp_path: Path) -> None:
    far = Path("/dev/shm")
    if not far.is_dir() or far.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system at /dev/shm")
    staged = Staged(account, {"large": b"x" * LARGE})
    there = far / f"batchexec-test-{os.getpid()}"
    try:
        staged.place(tmp_path / "cache", there)
        assert read(there) == {"large": b"x" * LARGE}
        assert (there / "large").stat().st_nlink == 1
    finally:
        (there / "large").unlink()
        (there / "empty").rmdir()
        there.rmdir()


def test_blobs_that_changed_since_are_not_used(account: Account, tmp_path: Path) -> None:
    staged = Staged(account, {"a": b"one"})
    client = account.blobs.get_blob_client("job", staged.names[0])
    (source,), (file,) = staged.listing.sources, staged.listing.files
    path = f"{urlsplit(account.ready['blob_endpoint']).path}/job/{source.name}"

    def pin() -> None:
        """As a blob that was there before the job: known by its etag, and by no hash."""
        etag = str(client.get_blob_properties().etag)
        pinned = source._replace(etag=etag, name=path)
        staged.listing, staged.id = files.Listing([], [pinned], [file._replace(digest="")]), etag

    pin()
    staged.place(tmp_path / "cache", tmp_path / "first")
    client.upload_blob(b"two", overwrite=True)
    staged.place(tmp_path / "cache", tmp_path / "second")  # the node has it still
    assert read(tmp_path / "first") == read(tmp_path / "second") == {"a": b"one"}
    pin()
    client.upload_blob(b"six", overwrite=True)
    with pytest.raises(Refusal, match="was changed since the work was submitted"):
        staged.place(tmp_path / "cache", tmp_path / "third")
    client.delete_blob()
    with pytest.raises(Refusal, match="is not there any more"):
        staged.place(tmp_path / "cache", tmp_path / "third")


# one directory for all tasks


def test_a_kept_set_is_one_directory_for_all_and_mended(account: Account, tmp_path: Path) -> None:
    made = {"bin/run.sh": b"#!/bin/sh", "lib.so": b"x" * LARGE, "zero": b""}
    staged = Staged(account, made)
    cache = tmp_path / "cache"
    count(account)
    kept = Path(staged.on(cache).kept(staged.id))
    assert read(kept) == made
    assert (kept / "empty").is_dir()
    assert {oct(path.stat().st_mode & 0o777) for path in kept.rglob("*") if path.is_file()} == {"0o444", "0o555"}
    inode = kept.stat().st_ino
    assert staged.on(cache).kept(staged.id) == str(kept)
    assert gets(account) == 2
    (kept / "bin/run.sh").unlink()
    (kept / "zero").write_text("no more")
    (kept / "more").write_text("what a program left")
    assert staged.on(cache).kept(staged.id) == str(kept)
    assert read(kept) == {**made, "more": b"what a program left"}
    assert kept.stat().st_ino == inode


def test_a_kept_set_goes_when_nobody_uses_it(account: Account, tmp_path: Path) -> None:
    staged = Staged(account, {"a": b"x" * 1000})
    cache = tmp_path / "cache"
    user = staged.on(cache)
    kept = Path(user.kept(staged.id))
    room.empty(str(cache))
    assert kept.is_dir()
    user._trees.let_go()  # as at the end of its task
    room.empty(str(cache))
    assert os.listdir(cache / "kept") == []
    assert os.listdir(cache / "files") == []


# siblings


def test_siblings_wait_for_the_one_that_fetches(account: Account, tmp_path: Path) -> None:
    staged = Staged(account, {str(number): os.urandom(40_000) for number in range(5)}, together=True)
    count(account)
    siblings = [in_process(lambda n=n: staged.place(tmp_path / "cache", tmp_path / str(n))) for n in range(4)]
    for sibling in siblings:
        sibling.join(60)
        assert sibling.exitcode == 0
    assert gets(account) == 1
    assert read(tmp_path / "0") == read(tmp_path / "3") != {}


def test_one_that_is_killed_while_it_fetches_holds_up_nobody(account: Account, tmp_path: Path) -> None:
    staged = Staged(account, {"a": b"1" * LARGE})
    cache = tmp_path / "cache"
    match = {"service": "blob", "method": "GET", "blob": "b-*"}
    account.arm({"kind": "delay", "seconds": 600, "match": match, "count": 1})
    holder = in_process(lambda: staged.place(cache, tmp_path / "killed"))
    until(lambda: account.faults()[0]["fired"])
    sibling = threading.Thread(target=staged.place, args=(cache, tmp_path / "there"))
    sibling.start()
    name = hashlib.sha256(staged.names[0].encode()).hexdigest()
    assert locks.take_now(str(cache / "locks" / name)) is None
    room.empty(str(cache))
    (part,) = (cache / "files").iterdir()  # somebody is at work on it
    os.kill(holder.pid, signal.SIGKILL)
    sibling.join(60)
    assert not sibling.is_alive()
    assert read(tmp_path / "there") == {"a": b"1" * LARGE}
    assert not part.exists()
    holder.join()


# room


def used(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


@pytest.mark.slow
def test_on_a_small_disk_what_was_used_longest_ago_goes(account: Account, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, "32m", files=0):
        cache, work = disk / "cache", disk / "work"
        often = Staged(account, {"often": b"o" * 2_000_000})
        sets = [Staged(account, {"once": os.urandom(2_000_000), "small": b"%d" % n * 9000}) for n in range(15)]
        for one in sets:  # 30 MB in all, and as much again for what is placed
            for staged in (often, one):
                staged.place(cache, work)
            assert used(cache) < 16 * 1024 * 1024 + 2_000_000
            subprocess.run(["rm", "-r", str(work)], check=True)
        count(account)
        often.place(cache, work)
        sets[-1].place(cache, work)
        assert gets(account) == 0
        sets[0].place(cache, work)
        assert gets(account) == 2


@pytest.mark.slow
def test_what_a_running_task_uses_stays_when_room_is_made(account: Account, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, "24m", files=0):
        cache = disk / "cache"
        first = Staged(account, {"large": os.urandom(8_000_000)})
        kept = Staged(account, {"app": os.urandom(3_000_000)})
        user = kept.on(cache)
        app = Path(user.kept(kept.id))
        first.place(cache, disk / "one")
        for _ in range(4):
            Staged(account, {"large": os.urandom(4_000_000)}).place(cache, disk / "next")
            (disk / "next/large").unlink()
        assert len(read(disk / "one")["large"]) == 8_000_000
        assert len(read(app)["app"]) == 3_000_000
        count(account)
        first.place(cache, disk / "two")
        assert gets(account) == 0  # it frees nothing while a task has it, so it is there for others too


def test_a_disk_that_is_too_small_is_a_clear_refusal_and_poisons_nothing(account: Account, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, "16m", files=0):
        cache = disk / "cache"
        with pytest.raises(Refusal, match=r"disk is full: 20\.0 MB are needed") as refused:
            Staged(account, {"large": os.urandom(20_000_000)}).place(cache, disk / "there")
        assert refused.value.code == "files"
        many = Staged(account, {f"{number}": os.urandom(900_000) for number in range(12)}, together=True)
        with pytest.raises(Refusal, match=r"disk is full|cannot be placed"):
            many.place(cache, disk / "there")  # in the cache and copied: twice as much
        subprocess.run(["rm", "-r", str(disk / "there")], check=True)
        Staged(account, {"a": b"fits"}).place(cache, disk / "there")
        assert read(disk / "there") == {"a": b"fits"}

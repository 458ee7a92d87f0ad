"""Files travel: what `files=` stands for, that it arrives as it is here, and that what cannot travel is refused."""

from __future__ import annotations

import hashlib
import logging
import os
import pathlib
import socket
import stat
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers_service import Account, service
from hypothesis import given
from hypothesis import strategies as st

from batchexec import BatchExecutor
from batchexec._engine.results import hints
from batchexec._source.files.sets import FileSet, entry_for, file_set, relative
from batchexec.command import BlobPath
from batchexec.errors import ConfigError, FilesError, RemoteTraceback

Tree = Callable[[dict[str, str]], Path]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """Writes files into the current directory, which is a new one; a name with a slash at its end is a directory."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)

    def write(files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = here / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if name.endswith("/"):
                path.mkdir(exist_ok=True)
            else:
                path.write_text(text)
        return here

    return write


def places(given: Any) -> list[str]:
    return [entry.path for entry in file_set(given).entries]


# what is meant


def test_paths_directories_and_globs_keep_their_places(tree: Tree) -> None:
    tree({"a.csv": "1", "b.csv": "2", "deep/er/c.csv": "3", "deep/d.txt": "4", "deep/empty/": "", "[x].csv": "5"})
    assert places(["a.csv"]) == ["a.csv"]
    assert places(["./deep/../b.csv", os.path.abspath("a.csv"), Path("deep")]) == [
        "a.csv",
        "b.csv",
        "deep/d.txt",
        "deep/er/c.csv",
    ]
    assert places(["*.csv"]) == ["[x].csv", "a.csv", "b.csv"]
    assert places(["**/*.csv", "*.csv"]) == ["[x].csv", "a.csv", "b.csv", "deep/er/c.csv"]
    assert places(["[x].csv"]) == ["[x].csv"]  # a file of that name is no pattern
    assert file_set(["deep"]).directories == ("deep", "deep/empty", "deep/er")


def test_the_current_directory_may_have_another_name(tree: Tree, tmp_path: Path) -> None:
    tree({"deep/a.csv": "1"})
    (tmp_path / "alias").symlink_to(tmp_path / "here")
    assert places([str(tmp_path / "alias/deep/a.csv")]) == ["deep/a.csv"]


def test_a_mapping_gives_other_places(tree: Tree, tmp_path: Path) -> None:
    tree({"a.csv": "1", "deep/d.txt": "4", "deep/er/e.txt": "5"})
    (tmp_path / "outside.csv").write_text("6")
    given = [("in/put.csv", "../outside.csv"), ("copy", "deep"), ("texts", "deep/**/*.txt"), (".", "deep/er")]
    assert places(given) == [
        "copy/d.txt",
        "copy/er/e.txt",
        "e.txt",
        "in/put.csv",
        "texts/d.txt",
        "texts/er/e.txt",
    ]


def test_what_nobody_means_is_left_out(tree: Tree) -> None:
    tree({"src/a.py": "", "src/.git/config": "", "src/__pycache__/a.pyc": "", "src/.hidden": ""})
    assert places(["src"]) == ["src/.hidden", "src/a.py"]
    assert places(["src/**"]) == ["src/a.py"]


def test_links_are_followed_and_modes_kept(tree: Tree) -> None:
    here = tree({"data/a.txt": "1", "run.sh": "#!/bin/sh"})
    (here / "run.sh").chmod(0o755)
    (here / "data/link.txt").symlink_to(here / "run.sh")
    (here / "data/more").symlink_to(here / "data/../other")
    (here / "other").mkdir()
    (here / "other/b.txt").write_text("2")
    found = {entry.path: entry.executable for entry in file_set(["data"]).entries}
    assert found == {"data/a.txt": False, "data/link.txt": True, "data/more/b.txt": False}


def test_a_set_is_its_content(tree: Tree) -> None:
    here = tree({"a": "one", "b": "two"})
    first = file_set(["a", "b"])
    assert first == file_set(["b", "a", "a"])
    assert hash(first) == hash(file_set(["*"]))
    os.utime("a", ns=(0, 0))
    assert first == file_set(["a", "b"])
    (here / "a").chmod(0o755)
    assert first != file_set(["a", "b"])
    (here / "a").chmod(0o644)
    (here / "a").write_text("ONE")
    assert first != file_set(["a", "b"])


def test_a_file_that_did_not_change_is_read_once(tree: Tree) -> None:
    here = tree({"a": "one"})
    os.utime("a", ns=(0, 0))
    before = entry_for("a", "a")
    (here / "a").write_text("two")
    os.utime("a", ns=(0, 0))  # as if nothing had happened: time, size and inode are what is looked at
    assert entry_for("a", "a") == before
    os.utime("a", ns=(0, 1000))
    assert entry_for("a", "a").sha256 == hashlib.sha256(b"two").hexdigest()


# what is refused


@pytest.mark.parametrize("given", [3, [3], [""], {"a": 3}, {"a": ""}, [b"a"], [("a", "b", "c")], [("a", ("b", "c"))]])
def test_what_names_no_files_is_refused_with_the_configuration(given: Any) -> None:
    with pytest.raises(ConfigError, match="files: expected"):
        BatchExecutor(files=given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["missing.csv"], "'missing.csv' is not there"),
        (["~/missing.csv"], r"A ~ is not replaced here: os\.path\.expanduser does so"),
        (["https://example.org/c/b"], r"is a URL: BlobPath\('container/name'\)"),
        (["*.parquet"], "matches no file"),
        (["../outside"], "outside of the current directory.*files="),
        (["/etc/hostname"], "outside of the current directory"),
        ([("../up", "a")], "leads out"),
        ([("/abs", "a")], "leads out"),
        ([("x/../../y", "a")], "leads out"),
        ([("same", "a"), ("same", "b")], "would both be 'same'"),
        ([("a", "b"), ("a/b", "a")], "a file on the node, and a directory"),
        ([("a", "b"), ("a", "empty")], "both a file and a directory"),
        ([(".", "a")], "needs a name"),
        ([("x" * 256, "a")], "more than 255 bytes"),
        ([("é" * 128, "a")], "more than 255 bytes"),
        ([("/".join(["x" * 200] * 20), "a")], "too long"),
        ([("\ud800", "a")], "characters that no file name"),
        ([("nul\0", "a")], "null character"),
        ([(".batchexec-stdout.txt", "a")], "worker's own"),
        (["pipe"], "a pipe"),
        (["socket"], "a socket"),
        (["folder"], "a pipe"),
        ([("null", "/dev/null")], "a device"),
        (["nowhere"], "leads nowhere"),
        (["loop"], "a loop"),
    ],
)
def test_what_cannot_travel_is_refused(tree: Tree, tmp_path: Path, given: Any, words: str) -> None:
    here = tree({"a": "1", "b": "2", "empty/": "", "loop/x": "", "folder/x": ""})
    (tmp_path / "outside").write_text("")
    os.mkfifo(here / "pipe")
    os.mkfifo(here / "folder/pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")  # relative, as its path may only be short
    (here / "nowhere").symlink_to(here / "gone")
    (here / "loop/back").symlink_to(here / "loop")
    with pytest.raises(FilesError, match=words):
        file_set(given)


def test_an_unreadable_file_is_refused(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree({"a": "1"}).joinpath("a").chmod(0)
    if os.access("a", os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(FilesError, match="cannot be read"):
        file_set(["a"])


@given(st.text(st.sampled_from("a./\\ \n~")) | st.text())
def test_no_place_there_is_outside_of_the_directory(target: str) -> None:
    try:
        path = relative(target)
    except FilesError:
        return
    assert os.path.normpath(os.path.join("/top", path)) == os.path.join("/top", path).rstrip("/")


# to nodes and back


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    with service() as account:
        account.fixed_pool("narrow", slots=2)
        yield account


@pytest.fixture
def settings(account: Account) -> Iterator[dict[str, Any]]:
    yield {**account.settings, "pool_id": "narrow", "retries": 0, "requirements": None, "echo": False}
    account.disarm()


def look(_: Any = None) -> dict[bytes, Any]:
    """What there is in the working directory: digests and whether executable; of directories None."""
    found: dict[bytes, Any] = {}
    for folder, _folders, names in os.walk(b"."):
        found[folder[2:]] = None
        for name in names:
            path = os.path.join(folder, name)
            with open(path, "rb") as file:
                digest = hashlib.sha256(file.read()).hexdigest()
            found[path[2:]] = digest, bool(os.stat(path).st_mode & stat.S_IXUSR)
    return {path: what for path, what in found.items() if not path.startswith(b".batchexec") and path}


HOSTILE = [
    b"with space",
    b'quote\' and "quote"',
    b"line\nbreak",
    b"-rf",
    b"--",
    b"..data",
    b"a..b/..c../d..",
    b"back\\slash",
    b"$HOME `id` ;&|*?",
    b"not utf-8 \xff\xfe",
    "ünïcode \U0001f600".encode(),
    b"x" * 200,
    b"y" * 255,
    b"tab\tand\x01control",
    b"%41+%2F",
    b"\xed\xa0\x80",
]


def test_names_that_look_harmful_arrive_as_they_are(tree: Tree, settings: dict[str, Any]) -> None:
    top = os.fsencode(tree({"top/run.sh": "#!/bin/sh\n", "top/empty/": "", "top/zero": ""}) / "top")
    (Path("top") / "run.sh").chmod(0o755)
    for number, name in enumerate(HOSTILE):
        path = os.path.join(top, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(b"content %d" % number)
    with open(os.path.join(top, b"large"), "wb") as file:
        file.write(os.urandom(3_000_000))
    expected = look()
    assert len(expected) == len(HOSTILE) + 7
    with BatchExecutor(**settings, files=["top"]) as executor:
        assert list(executor.map(look, range(4), chunksize=1)) == [expected] * 4


def test_the_first_call_is_told_what_is_wrong_before_anything_is_sent(tree: Tree, settings: dict[str, Any]) -> None:
    tree({})
    with BatchExecutor(**settings, files=["input.csv"]) as executor:
        with pytest.raises(FilesError, match=r"'input\.csv' is not there"):
            executor.submit(look).result(60)
        with pytest.raises(FilesError):
            list(executor.map(look, range(3)))
        assert executor.stats().job_id is None
        tree({"input.csv": "now"})
        assert list(executor.submit(look).result(60)) == [b"input.csv"]


@pytest.mark.parametrize("size", [100, 20_000_000])
def test_a_file_that_changes_before_it_is_sent_fails_what_needs_it(
    tree: Tree, settings: dict[str, Any], size: int
) -> None:
    here = tree({"steady": "1"})
    (here / "moving").write_bytes(bytes(size))
    with BatchExecutor(**settings) as executor:
        look_again(executor, "moving", "steady")
        (here / "moving").write_bytes(b"x" * size)
        with pytest.raises(FilesError, match="moving' was changed"):
            executor.submit(look).result(60)
        look_again(executor, "moving", "steady")
        assert len(executor.submit(look).result(60)) == 2
        (here / "steady").write_text("2")
        look_again(executor, "steady")
        (here / "steady").unlink()
        with pytest.raises(FilesError, match="steady' cannot be read any more"):
            executor.submit(look).result(60)


def look_again(executor: BatchExecutor, *names: str) -> None:
    """Have the executor see these files as they are now: it looks at those of its configuration once."""
    executor._caller._files, executor._caller._needs = file_set([*names]), None


def requests(account: Account, *patterns: dict[str, str]) -> list[int]:
    """How many requests matched each pattern since `count` was called."""
    return [fault["matched"] for fault in account.faults()]


def count(account: Account, *patterns: dict[str, str]) -> None:
    """Have the service count requests that match, by a fault that does no harm."""
    account.arm(*({"kind": "delay", "seconds": 0, "match": {"service": "blob", **one}} for one in patterns))


def test_each_content_moves_once_to_storage_and_once_to_the_node(
    account: Account, tree: Tree, settings: dict[str, Any]
) -> None:
    here = tree({f"in/{number}.txt": f"content {number % 40}" for number in range(60)})
    (here / "in/large.bin").write_bytes(os.urandom(2_000_000))
    (here / "in/same.bin").write_bytes((here / "in/large.bin").read_bytes())
    count(account, *({"method": verb, "blob": f"files/{kind}/*"} for verb in ("PUT", "GET") for kind in KINDS))
    with BatchExecutor(**settings, files=["in"]) as executor:
        found = list(executor.map(look, range(8), chunksize=1))
    assert found == [found[0]] * 8
    assert len(found[0]) == 63
    assert requests(account) == [1, 1, 1, 1, 1, 1]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_large_file_is_never_whole_in_memory(tree: Tree, settings: dict[str, Any]) -> None:
    size = 400_000_000
    with (tree({}) / "large").open("wb") as file:
        file.truncate(size)
    tracemalloc.start()
    try:
        with BatchExecutor(**settings, files=["large"]) as executor:
            future = executor.submit(os.path.getsize, "large")
            assert future.result() == size
            _, here = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    there = future.timing.peak_memory if future.timing else None
    assert here < 150_000_000
    assert there is not None
    assert there < 150_000_000


KINDS = ("bundle", "content", "listing")


def spoil(path: str) -> int:
    """Write into a file that was placed here, against its mode; how many links it has."""
    os.chmod(path, 0o644)
    with open(path, "r+b") as file:
        file.write(b"spoilt")
    return os.stat(path).st_nlink


def test_a_file_that_a_task_changed_is_not_handed_on(tree: Tree, settings: dict[str, Any]) -> None:
    here = tree({"small.txt": "small content"})
    (here / "large.bin").write_bytes(bytes(1_500_000))
    with BatchExecutor(**settings, files=["*"]) as executor:
        expected = executor.submit(look).result(60)
        assert executor.submit(spoil, "large.bin").result(60) > 1
        assert executor.submit(spoil, "small.txt").result(60) == 1
        assert executor.submit(look).result(60) == expected


# blobs that are there already


def test_blobs_are_read_by_the_nodes(account: Account, tree: Tree, settings: dict[str, Any]) -> None:
    tree({"own.txt": "own"})
    container = account.blobs.create_container("inputs")
    for name in ("set/a.csv", "set/b/ü '&%2F.csv", "settle.csv", "single.csv"):
        container.upload_blob(name, name.encode() * 1000)
    given = {"own.txt": "own.txt", "in/set": BlobPath("inputs/set"), "one.csv": BlobPath("inputs/single.csv")}
    with BatchExecutor(**settings, files=given) as executor:
        found = executor.submit(look).result(60)
        assert {name for name, what in found.items() if what} == {
            *(b"own.txt", b"in/set/a.csv", "in/set/b/ü '&%2F.csv".encode(), b"one.csv"),
        }
        assert found[b"one.csv"][0] == hashlib.sha256(b"single.csv" * 1000).hexdigest()
    with BatchExecutor(**settings, files={".": BlobPath("inputs/set"), "all": BlobPath("inputs")}) as executor:
        found = executor.submit(look).result(60)
        assert {b"a.csv", "b/ü '&%2F.csv".encode(), b"all/set/a.csv", b"all/single.csv"} <= set(found)
    with BatchExecutor(**settings, files={"settle.csv": "own.txt", ".": BlobPath("inputs")}) as executor:
        with pytest.raises(FilesError, match=r"would both be 'settle\.csv'"):
            executor.submit(look).result(60)
    container.upload_blob(f"up/{'x' * 300}", b"")
    with BatchExecutor(**settings, files=[BlobPath("inputs/up")]) as executor:
        with pytest.raises(FilesError, match="more than 255 bytes"):
            executor.submit(look).result(60)
    with BatchExecutor(**settings, files=[BlobPath("inputs/nothing")]) as executor:
        with pytest.raises(FilesError, match="no blob at 'inputs/nothing'"):
            executor.submit(look).result(60)
    with BatchExecutor(**settings, files=[BlobPath("no-such-container/x")]) as executor:
        with pytest.raises(FilesError, match="there is no container 'no-such-container'"):
            executor.submit(look).result(60)
    account.blobs.delete_container("inputs")


# hints


def open_there(path: str) -> None:
    open(path).close()


def complain(text: str) -> None:
    raise FileNotFoundError(text)


def test_a_file_that_is_only_here_is_said_to_be_missing_there(tree: Tree, settings: dict[str, Any]) -> None:
    here = tree({"data/in.csv": "1"})
    with BatchExecutor(**settings) as executor:
        relative = executor.submit(open_there, "data/in.csv").exception(60)
        unknown = executor.submit(open_there, "data/no.csv").exception(60)
        words = executor.submit(complain, "data/in.csv not found.").exception(60)
    assert isinstance(relative, FileNotFoundError)
    assert isinstance(relative.__cause__, RemoteTraceback)
    assert "files=['data/in.csv']" in str(relative.__cause__)
    assert str(here / "data/in.csv") in str(relative.__cause__)
    assert "files=['data/in.csv']" in str(words and words.__cause__)
    assert "files=" not in str(unknown and unknown.__cause__)
    if sys.version_info >= (3, 11):
        assert any("files=['data/in.csv']" in note for note in relative.__notes__)


def test_an_absolute_path_is_advised_to_be_relative(tree: Tree, tmp_path: Path) -> None:
    here = tree({"in.csv": "1"})
    (tmp_path / "far.csv").write_text("")

    def advice(path: str) -> str:
        return str(hints.missing_file(FileNotFoundError(2, "No such file or directory", path)))

    assert "files=['in.csv']" in advice(str(here / "in.csv"))
    assert "files=['in.csv']" in advice("/mnt/batch/tasks/workitems/j/job-1/c0/wd/in.csv")
    assert f"files={{'far.csv': '{tmp_path / 'far.csv'}'}}" in advice(str(tmp_path / "far.csv"))
    assert advice("/no/such/thing") == "None"


def test_paths_of_this_machine_among_arguments_are_warned_of_once(
    tree: Tree, settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    here = str(tree({"in.csv": "1"}) / "in.csv")
    with caplog.at_level(logging.WARNING, "batchexec"), BatchExecutor(**settings) as executor:
        assert list(executor.map(len, [here, here, "in.csv", "/usr"], chunksize=1)) == [len(here), len(here), 6, 4]
        assert executor.submit(len, {"a": Path(here)}).result(60) == 1
        assert executor.submit(len, ["in.csv", "/tmp", "/no/such/file"]).result(60) == 3
    told = [record.getMessage() for record in caplog.records if "this machine" in record.getMessage()]
    assert len(told) == 2
    assert all(repr(here) in text and "files=" in text for text in told)


def test_windows_paths_among_arguments_are_warned_of() -> None:
    path = object.__new__(pathlib.WindowsPath)  # as on Windows; here no such path can be made in the ordinary way
    assert "as_posix" in str(hints.local_path([((path,), {})]))
    assert hints.local_path([((pathlib.PureWindowsPath("C:/x"), 3, None, b"/"), {"x": [1.5]})]) is None


@pytest.mark.slow
def test_work_on_this_machine_is_not_warned_of_paths(tree: Tree, caplog: pytest.LogCaptureFixture) -> None:
    here = str(tree({"in.csv": "1"}) / "in.csv")
    with caplog.at_level(logging.WARNING, "batchexec"), BatchExecutor(max_workers=1, echo=False) as executor:
        assert executor.submit(os.path.getsize, here).result(60) == 1
    assert not [record for record in caplog.records if record.name.startswith("batchexec")]


def test_an_empty_set_is_no_set() -> None:
    assert not FileSet(())
    assert file_set([]) == FileSet(())

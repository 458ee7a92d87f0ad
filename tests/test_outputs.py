"""Files that items leave come back: which, where to, when, and what cannot go wrong with them."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import helpers_outputs as outputs
import pytest
from helpers_fixtures import account_in_root, with_fixed_pool
from helpers_service import Account, found_below, until

from batchexec import BatchExecutor, BatchFuture, BlobPath
from batchexec._cli import main
from batchexec._wire import envelope, names
from batchexec.errors import OutputError, TamperedError, WorkerCrashedError

account = account_in_root(with_fixed_pool)


@pytest.fixture
def executor(account: Account, tmp_path: Path) -> Iterator[Callable[..., BatchExecutor]]:
    """Makes executors that use the module's account and a directory of the test."""
    made: list[BatchExecutor] = []

    def make(**fields: Any) -> BatchExecutor:
        fields = {"output_dir": str(tmp_path / "{item}"), **fields}
        made.append(BatchExecutor(**account.settings, pool_id="fixed", **fields))
        return made[-1]

    yield make
    for one in made:
        one.shutdown()


def tree(folder: Path) -> dict[str, bytes]:
    """Content of each file, by its relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_each_item_has_its_files_as_it_left_them(executor: Callable[..., BatchExecutor], tmp_path: Path) -> None:
    ex = executor(outputs=["*.out", "sub/**/*.out"])
    first, second, third = ex.map(outputs.leave_all, range(3), chunksize=3, return_exceptions=True)
    assert repr(second) == "KeyError(1)"
    for number in range(3):
        assert tree(tmp_path / str(number)) == {name: outputs.content(number, name) for name in outputs.NAMES}
        assert os.access(tmp_path / str(number) / "plain.out", os.X_OK)
        assert not os.access(tmp_path / str(number) / "empty.out", os.X_OK)
    # What is taken is gone for the next item, as if that were alone; what is not, stays.
    assert [name for name in third if name.endswith(".out")] == [".hidden.out"]
    assert first == [name for name in first if name.startswith(".batchexec-")]


def test_files_are_there_when_the_future_is_done(executor: Callable[..., BatchExecutor], tmp_path: Path) -> None:
    ex = executor(outputs="results", output_dir=str(tmp_path / "{item:03d}"))
    seen: list[dict[str, bytes]] = []
    future = ex.submit(outputs.leave, "results/of/it.txt", "text")
    assert future.outputs == [] or future.done()
    future.add_done_callback(lambda done: seen.append({str(path): path.read_bytes() for path in done.outputs}))  # type: ignore[attr-defined]
    assert future.result() == "text"
    path = tmp_path / "000" / "results" / "of" / "it.txt"
    assert future.outputs == [path]
    ex.shutdown()
    assert seen == [{str(path): b"text"}]


def test_patterns_that_nothing_matched_are_told_in_the_end(
    executor: Callable[..., BatchExecutor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for pattern in ("*.csv", "*.cvs"):
        with executor(outputs=pattern, output_dir=str(tmp_path)) as ex:
            assert list(ex.map(outputs.leave, ["a.csv", "b.txt"], ["x", "y"], chunksize=1)) == ["x", "y"]
            assert "none of" not in caplog.text
    assert "outputs=['*.cvs']: none of 2 items left such a file in its working directory" in caplog.text


def test_earlier_runs_are_replaced_and_items_are_not(
    executor: Callable[..., BatchExecutor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for run in ("first", "second"):
        ex = executor(outputs="*.csv", output_dir=str(tmp_path))
        futures = [ex.submit(outputs.leave, "table.tar.csv", f"{run} {number}") for number in range(3)]
        assert [future.result() for future in futures] == [f"{run} {number}" for number in range(3)]
        found = {future.outputs[0].read_text() for future in futures}
        assert found == {f"{run} {number}" for number in range(3)}
        ex.shutdown()
        names = set(tree(tmp_path))
        assert "table.tar.csv" in names
        assert all(re.fullmatch(r"table(\.item[012])?\.tar\.csv", name) for name in names)
        assert len({future.outputs[0] for future in futures}) == 3
    assert caplog.text.count("several items left a file of the same name") == 2


def test_what_leads_outside_is_refused_by_name(executor: Callable[..., BatchExecutor], tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    future = executor(outputs="*.out").submit(outputs.leave_links, str(secret))
    with pytest.raises(OutputError) as caught:
        future.result()
    assert "'outer.out' is a link to" in str(caught.value)
    assert "'pipe.out' is no file" in str(caught.value)
    assert tree(tmp_path / "0") == {"inner.out": b"real"}


def test_a_file_that_is_still_written_to_comes_whole(executor: Callable[..., BatchExecutor], tmp_path: Path) -> None:
    assert list(executor(outputs="*.out").map(outputs.write_log, range(3), chunksize=3)) == [0, 1, 2]
    assert tree(tmp_path) == {"0/run.out": b"0\n1\n2\n"}


def test_more_than_one_result_may_take(executor: Callable[..., BatchExecutor], root: Path) -> None:
    future = executor(outputs="*.out").submit(outputs.leave_hole, 6 * 2**30)
    with pytest.raises(OutputError, match=r"6,144 MiB.* of which files take 6,144: 'hole.out' of item 0 \(6,442 MB\)"):
        future.result()


def test_the_working_directory_is_emptied_unless_the_task_failed(
    executor: Callable[..., BatchExecutor], root: Path
) -> None:
    ex = executor(outputs="*.out", retries=0)
    future: BatchFuture[Any] = ex.submit(outputs.leave, "left.txt", "")
    locked = ex.submit(outputs.leave_locked_directory)
    failed = ex.submit(outputs.leave_and_die, "kept.txt")
    future.result()
    locked.result()
    with pytest.raises(WorkerCrashedError):
        failed.result()
    (job,) = found_below(root, str(ex.stats().job_id))

    def left(task: BatchFuture[Any]) -> list[str]:
        return [name for folder in found_below(job, str(task.task_id)) for name in os.listdir(folder / "wd")]

    until(lambda: left(future) + left(locked), lambda found: not found)  # a worker does it when its result is stored
    assert left(failed) == ["kept.txt"]


def test_home_is_the_working_directory_where_the_node_has_none(executor: Callable[..., BatchExecutor]) -> None:
    for home in ("/nonexistent/home", "/dev/null"):
        ex = executor(env={"HOME": home})
        found, working, there = ex.submit(outputs.home).result()
        assert found == working
        assert there


def test_connections_that_break_cost_time_and_nothing_else(
    executor: Callable[..., BatchExecutor], account: Account, tmp_path: Path
) -> None:
    on_the_way_up = {"operation": "PUT blob", "blob": "out/*"}
    account.arm(
        {"kind": "drop", "when": "before", "match": on_the_way_up, "count": 1},
        {"kind": "drop", "when": "after", "match": on_the_way_up, "count": 1},
        {"kind": "truncate", "match": {"operation": "GET blob", "blob": "out/*"}, "after": 1, "count": 2},
    )
    executor(outputs="*.bin").submit(outputs.leave_megabytes, "large.bin", 10).result()
    assert [fault["fired"] for fault in account.faults()] == [1, 1, 2]
    account.disarm()
    expected = b"".join(number.to_bytes(4, "big") * (1 << 18) for number in range(10))
    assert (tmp_path / "0" / "large.bin").read_bytes() == expected


def test_files_that_cannot_be_written_here_stay_and_can_be_fetched(
    executor: Callable[..., BatchExecutor],
    account: Account,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The directory for item 1 is a file. The rest of this test is what others may do to results in storage."""
    (tmp_path / "1").write_text("in the way")
    ex = executor(outputs="*.txt")
    futures = [ex.submit(outputs.leave, f"{number}.txt", f"text {number}") for number in range(3)]
    assert [futures[0].result(), futures[2].result()] == ["text 0", "text 2"]
    with pytest.raises(OutputError) as caught:
        futures[1].result()
    job = str(ex.stats().job_id)
    assert f"'{tmp_path / '1' / '1.txt'}', which item 1 left, cannot be written here: " in str(caught.value)
    assert f"`batchexec fetch {job} --outputs DIR`" in str(caught.value)
    ex.shutdown()

    for name, value in account.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    assert main(["fetch", job]) == 0
    assert "3 files of these items were left in storage: --outputs DIR brings them" in capsys.readouterr().err
    assert main(["fetch", job, "--outputs", "fetched"]) == 0
    assert tree(tmp_path / "fetched") == {f"{number}/{number}.txt": b"text %d" % number for number in range(3)}
    capsys.readouterr()

    # Changed bytes, a shorter blob, and (by someone who has the job's key) a path that leads outside.
    blobs = account.blobs.get_container_client(job)
    results = {number: blobs.get_blob_client(names.result_blob(number, 0)) for number in range(3)}
    whole = {number: blob.download_blob().readall() for number, blob in results.items()}
    results[0].upload_blob(whole[0][:-1] + b"X", overwrite=True)
    results[1].upload_blob(whole[1][:-3], overwrite=True)
    results[2].upload_blob(_resealed(account, job, whole[2]), overwrite=True)
    assert main(["fetch", job, "--outputs", "bad"]) == 1
    assert "3 files could not be written" in capsys.readouterr().err
    assert tree(tmp_path / "bad") == {}
    assert not list(tmp_path.rglob("escaped*"))
    from batchexec import BatchConfig
    from batchexec._engine import earlier_jobs

    errors = [item.error for item in earlier_jobs.fetch(BatchConfig.load(), job, "bad").items]
    assert [type(error) for error in errors] == [TamperedError, TamperedError, OutputError]
    assert "leads out of its directory" in str(errors[2])
    assert main(["clean", job]) == 0


def _shown(name: str) -> str:
    """In a blob's name."""
    return name.replace("%", "%25").replace("\n", "%0a").replace("\udcff\udcfe", "%ff%fe")


def test_files_can_stay_in_storage(executor: Callable[..., BatchExecutor], account: Account, tmp_path: Path) -> None:
    for number, target in enumerate(("kept-outputs/here", "kept-outputs/{item}/there")):
        ex = executor(outputs=["*.out", "sub/**/*.out"], output_dir=BlobPath(target))
        futures = [ex.submit(outputs.leave_all, item) for item in (0, 2)]
        for item, future in enumerate(futures):
            future.result()
            prefix = f"here/{item}" if number == 0 else f"{item}/there"
            assert {path.container for path in future.outputs} == {"kept-outputs"}
            found = {path.prefix.removeprefix(f"{prefix}/"): path for path in future.outputs}
            expected = {_shown(name): name for name in outputs.NAMES}
            assert found.keys() == expected.keys()
            for shown, name in expected.items():
                blob = account.blobs.get_blob_client("kept-outputs", found[shown].prefix)
                data = blob.download_blob().readall()
                assert data == outputs.content(2 * item, name)
                metadata = blob.get_blob_properties().metadata
                assert metadata["sha256"] == hashlib.sha256(data).hexdigest()
                assert metadata.get("executable") == ("true" if name == "plain.out" else None)
        ex.shutdown()
    assert tree(tmp_path) == {}


def test_files_that_cannot_stay_there_are_fetched(executor: Callable[..., BatchExecutor], account: Account) -> None:
    account.arm({"kind": "status", "status": 403, "match": {"container": "refused-outputs"}})
    future = executor(outputs="*.txt", output_dir=BlobPath("refused-outputs/x")).submit(outputs.leave, "a.txt", "text")
    with pytest.raises(
        OutputError, match=r"(?s)'a.txt', which item 0 left, cannot be copied to refused-outputs/x: .* fetch"
    ):
        future.result()
    account.disarm()


def _resealed(account: Account, job: str, whole: bytes) -> bytes:
    """The result of chunk 2 with another path for its file, signed with the job's own key."""
    settings = {one.name: one.value for one in account.batch.get_job(job).common_environment_settings or ()}
    key = base64.b64decode(str(settings[names.ENV_KEY]))
    about = envelope.context("result", job, 2, 0)
    length = envelope.length(whole)
    header, frames = envelope.unseal(key, about, whole[:length])
    (entry,) = header["attachments"]
    entry[1] = "../../escaped.txt"
    del header["frames"]
    return envelope.seal(key, about, header, frames) + whole[length:]

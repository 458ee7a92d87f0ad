"""A map of a Command leaves a table, and goes on from it: whoever wrote it, and however that ended."""

from __future__ import annotations

import contextlib
import csv
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers_disks import small_disk
from helpers_service import processes_of, scrubbed, until

from batchexec import BatchExecutor, Command, CommandResult
from batchexec._command.sweeps import table
from batchexec._command.sweeps.locks import Lock
from batchexec.errors import CommandFailed, OutputError

# Fails for the numbers that the file `bad` names, and tells what it has run.
TEXT = 'sh -c \'echo {n} >> "$0"; echo out {n}; echo {n} > r_{n}.txt; ! grep -qx {n} "$1"\' {ran} {bad}'
COLUMNS = ["item", "n", "ran", "bad", "exit_code", "seconds", "node", "outputs", "error", "key"]


class Sweeps:
    """Runs sweeps in a directory, with a record of what was run."""

    def __init__(self, folder: Path, ex: BatchExecutor) -> None:
        self.root = folder / "sweep"
        self._ran = folder / "ran"
        self._bad = folder / "bad"
        self._ex = ex
        self._ran.touch()
        self.bad()

    def bad(self, *numbers: int) -> None:
        self._bad.write_text("".join(f"{n}\n" for n in numbers))

    def rows(self, numbers: Any) -> list[dict[str, Any]]:
        return [{"n": n, "ran": str(self._ran), "bad": str(self._bad)} for n in numbers]

    def run(self, numbers: Any, command: Command | None = None, **options: Any) -> list[Any]:
        command = command or Command(TEXT, outputs={"r": "r_{n}.txt"})
        return list(self._ex.map(command, self.rows(numbers), resume=self.root, return_exceptions=True, **options))

    def ran(self) -> list[int]:
        """The numbers run since it was asked last, in order."""
        found = sorted(map(int, self._ran.read_text().split()))
        self._ran.write_text("")
        return found

    def table(self) -> list[dict[str, str]]:
        with open(self.root / "sweep.csv", newline="") as file:
            return list(csv.DictReader(file))


@pytest.fixture
def sweeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sweeps]:
    monkeypatch.chdir(tmp_path)
    with BatchExecutor(where="inline") as ex:
        yield Sweeps(tmp_path, ex)


def test_the_table_has_a_line_for_each_run(sweeps: Sweeps) -> None:
    sweeps.bad(2)
    results = sweeps.run(range(4))
    assert [type(one) for one in results] == [CommandResult, CommandResult, CommandFailed, CommandResult]
    rows = sweeps.table()
    assert list(rows[0]) == COLUMNS
    assert [(row["item"], row["n"], row["exit_code"]) for row in rows] == [
        ("0", "0", "0"),
        ("1", "1", "0"),
        ("2", "2", "1"),
        ("3", "3", "0"),
    ]
    assert [row["outputs"] for row in rows] == ["0/r_0.txt", "1/r_1.txt", "", "3/r_3.txt"]
    assert rows[2]["error"].startswith("CommandFailed: sh -c")
    assert float(rows[0]["seconds"]) > 0
    assert (sweeps.root / "3/r_3.txt").read_text() == "3\n"


def test_only_missing_and_failed_runs_are_run_again(sweeps: Sweeps) -> None:
    sweeps.bad(1)
    first = sweeps.run(range(3))
    assert sweeps.ran() == [0, 1, 2]
    sweeps.bad()
    second = sweeps.run(range(5))
    assert sweeps.ran() == [1, 3, 4]
    assert second[0] == first[0]
    assert second[0].stdout == "out 0\n"
    assert second[0].named == {"r": [sweeps.root / "0/r_0.txt"]}
    assert [one.exit_code for one in second] == [0] * 5
    assert [row["exit_code"] for row in sweeps.table()] == ["0"] * 5
    assert [one.exit_code for one in sweeps.run(range(5))] == [0] * 5
    assert sweeps.ran() == []


def test_a_run_whose_files_are_gone_is_run_again(sweeps: Sweeps) -> None:
    sweeps.run(range(3))
    sweeps.ran()
    (sweeps.root / "1/r_1.txt").unlink()
    sweeps.run(range(3))
    assert sweeps.ran() == [1]


def test_rows_keep_their_directories_when_others_come_before_them(sweeps: Sweeps) -> None:
    sweeps.run([10, 11])
    sweeps.ran()
    results = sweeps.run([5, 11, 6, 10])
    assert sweeps.ran() == [5, 6]
    assert [str(one.outputs[0].relative_to(sweeps.root)) for one in results] == [
        "2/r_5.txt",
        "1/r_11.txt",
        "3/r_6.txt",
        "0/r_10.txt",
    ]
    assert [(row["item"], row["n"]) for row in sweeps.table()] == [("0", "10"), ("1", "11"), ("2", "5"), ("3", "6")]
    # A row that is not asked for stays in the table; the same one asked for twice is run twice.
    sweeps.run([5, 5])
    assert sweeps.ran() == [5]
    assert len(sweeps.table()) == 5


def test_another_command_runs_all_again_in_the_same_places(sweeps: Sweeps) -> None:
    sweeps.run(range(2))
    sweeps.ran()
    sweeps.run(range(2), Command(TEXT, outputs={"r": "r_{n}.txt"}, env={"MORE": "1"}))
    assert sweeps.ran() == [0, 1]
    assert len(sweeps.table()) == 2


def test_changed_content_of_an_input_is_another_run(sweeps: Sweeps, tmp_path: Path) -> None:
    command = Command("wc -c {input}", outputs="*")
    for name in ("a", "b"):
        Path(name).write_text(name)
    with BatchExecutor(where="inline") as ex:
        list(ex.map(command, ["a", "b"], resume="s"))
        Path("b").write_text("bbb")
        results = list(ex.map(command, ["a", "b"], resume="s"))
    assert [one.stdout.split()[0] for one in results] == ["1", "3"]
    assert [row.item for row in table.read(Path("s/sweep.csv"))] == [0, 1]


def test_names_and_values_of_any_kind_are_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hostile = 'a;b,"c"\nd%é=1'
    rows = [{"x": hostile, "item": "i", "outputs": 2.5, "parameter.x": None}]
    command = Command("touch {x} plain", outputs=["plain", "a*"])
    with BatchExecutor(where="inline") as ex:
        first = list(ex.map(command, rows, resume="s"))
        again = list(ex.map(command, rows, resume="s"))
    assert sorted(path.name for path in again[0].outputs) == sorted([hostile, "plain"])
    assert again == first
    (row,) = table.read(tmp_path / "s/sweep.csv")
    assert row.parameters == {"x": hostile, "item": "i", "outputs": "2.5", "parameter.x": "None"}


def test_what_a_killed_writer_left_unfinished_is_passed_over(sweeps: Sweeps) -> None:
    sweeps.run(range(3))
    sweeps.ran()
    path = sweeps.root / "sweep.csv"
    whole = path.read_bytes()
    last = whole.rstrip(b"\n").rpartition(b"\n")[2] + b"\n"
    for cut in range(len(whole) - len(last), len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert [row.item for row in table.read(path)] == [0, 1]
    path.write_bytes(whole[:-9])
    sweeps.run(range(3))
    assert sweeps.ran() == [2]
    assert path.read_bytes().count(b"\n") == 4


def test_two_writers_of_a_table_are_refused(sweeps: Sweeps) -> None:
    sweeps.root.mkdir()
    lock = Lock(sweeps.root / "sweep.csv.lock", "it")
    with pytest.raises(OutputError, match=f"is being written by process {os.getpid()} on"):
        sweeps.run(range(2))
    assert sweeps.ran() == []
    lock.release()
    sweeps.run(range(2))
    assert sorted(os.listdir(sweeps.root)) == [".sweep", "0", "1", "sweep.csv"]


def test_a_table_that_was_saved_by_another_program_is_read(sweeps: Sweeps) -> None:
    sweeps.bad(1)
    sweeps.run(range(3))
    sweeps.ran()
    path = sweeps.root / "sweep.csv"
    text = path.read_text()
    rows = sweeps.table()
    for row in rows:
        row["exit_code"] += ".0"
    with open(path, "w", newline="\r\n", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows([*rows[:2], {**rows[2], "seconds": "0,5"}])
    sweeps.bad()
    sweeps.run(range(3))
    assert sweeps.ran() == [1, 2]  # what failed, and what could not be read
    path.write_text(text.replace(",", ";"))
    with pytest.raises(OutputError, match="separated by ';'"):
        sweeps.run(range(3))
    with pytest.raises(TypeError, match="resume= is the directory"):
        sweeps._ex.map(Command("true"), [{}], resume=True)  # type: ignore[arg-type]


def test_what_is_no_table_is_not_written_over(sweeps: Sweeps) -> None:
    sweeps.root.mkdir()
    (sweeps.root / "sweep.csv").write_text("my,own\n1,2\n")
    with pytest.raises(OutputError, match="no table of a sweep"):
        sweeps.run(range(2))
    assert (sweeps.root / "sweep.csv").read_text() == "my,own\n1,2\n"
    assert os.listdir(sweeps.root) == ["sweep.csv"]


def test_a_place_that_cannot_be_written_is_an_error_before_anything_runs(sweeps: Sweeps, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    sweeps.root = tmp_path / "file" / "sweep"
    with pytest.raises(OutputError, match=r"'.*sweep\.csv', cannot be written: Not a directory. Choose another"):
        sweeps.run([1])
    assert sweeps.ran() == []


@pytest.mark.parametrize("where", ["inline", "local"])
def test_a_disk_without_room_for_the_table_costs_no_result(
    tmp_path: Path, where: Any, caplog: pytest.LogCaptureFixture
) -> None:
    disk = tmp_path / "disk"
    rows = [{"n": n} for n in range(4)]
    command = Command("touch {o}", outputs={"o": "r_{n}.txt"})
    with small_disk(disk, "64k"), BatchExecutor(2, where=where) as ex:
        with open(disk / "ballast", "wb", buffering=0) as ballast, contextlib.suppress(OSError):
            while ballast.write(bytes(4096)):
                pass
        os.truncate(disk / "ballast", os.path.getsize(disk / "ballast") - 2 * 4096)  # for the lock, and an empty table
        results = list(ex.map(command, rows, resume=disk / "sweep", return_exceptions=True))
        assert [getattr(result, "parameters", result) for result in results] == rows
        assert [record.getMessage() for record in caplog.records if "No space left" in record.getMessage()]
        os.unlink(disk / "ballast")
        assert [result.parameters for result in ex.map(command, rows, resume=disk / "sweep")] == rows
        assert [row.parameters["n"] for row in table.read(disk / "sweep/sweep.csv")] == ["0", "1", "2", "3"]


def test_a_sweep_that_is_left_early_gives_the_table_up(sweeps: Sweeps) -> None:
    command = Command("true", outputs="*")
    with BatchExecutor(where="inline") as ex:
        found = ex.map(command, [{}] * 3, resume="s")
        next(found)
        del found
        assert [one.exit_code for one in ex.map(command, [{}] * 3, resume="s")] == [0, 0, 0]
        by_and_by = ex.map(command, ({} for _ in range(5)), buffersize=1)
        next(by_and_by)
        del by_and_by
        assert len(list(ex.map(command, ({} for _ in range(5)), buffersize=1))) == 5
    assert len(table.read(Path("outputs/sweep-2.csv"))) == 5


def test_a_table_of_an_earlier_run_is_kept_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = Command("touch x", outputs="x")
    for count in (2, 1):
        with BatchExecutor(where="inline") as ex:
            list(ex.map(command, [{}] * count))
    assert len(table.read(Path("outputs/sweep.csv"))) == 1
    assert len(table.read(Path("outputs/sweep.previous.csv"))) == 2
    with BatchExecutor(where="inline") as ex:  # what was begun without resume= can be gone on with
        assert len(list(ex.map(command, [{}] * 3, resume="outputs"))) == 3
    assert len(table.read(Path("outputs/sweep.csv"))) == 3


SCRIPT = """
import sys
from batchexec import BatchExecutor, Command
wait = "until test {n} -lt $(cat \\"$0/limit\\"); do sleep 0.02; done"
command = Command(f"sh -c 'echo {{n}} >> \\"$0/ran\\"; {wait}; echo {{n}} > r' {sys.argv[1]}", outputs="r")
with BatchExecutor(%s) as ex:
    for result in ex.map(command, [dict(n=n) for n in range(40)], resume=f"{sys.argv[1]}/s"):
        assert result.outputs[0].read_text() == f"{result.parameters['n']}\\n"
print("done")
"""


def killed_and_resumed(folder: Path, where: str, *killed_at: int) -> None:
    """SIGKILL of the client once the table has so many lines, again and again; then it is run to its end. Until it is
    killed, runs from a `limit` on do not end."""
    (folder / "ran").touch()
    (folder / "tmp").mkdir()
    environment = scrubbed(TMPDIR=str(folder / "tmp"))
    (folder / "script.py").write_text(SCRIPT % where)

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, str(folder / "script.py"), str(folder)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    path = folder / "s/sweep.csv"
    for target in killed_at:
        (folder / "limit").write_text(f"{target + 10}")
        process = start()
        until(lambda: path.exists() and path.read_bytes().count(b"\n") > target)  # noqa: B023
        process.send_signal(signal.SIGKILL)
        (folder / "limit").write_text("1000")
        process.communicate()
        until(lambda: processes_of(str(folder)), lambda found: not found)
        rows = table.read(path)
        assert target <= len(rows) < 40
        assert all(row.good for row in rows)
    finished = len(table.read(path))
    before = len((folder / "ran").read_text().split())
    process = start()
    out, err = process.communicate(timeout=240)
    assert out == "done\n", err
    assert len((folder / "ran").read_text().split()) == before + 40 - finished
    rows = table.read(path)
    assert [row.item for row in rows] == list(range(40))
    assert all(row.good for row in rows)
    assert not list(folder.glob("s/*.lock"))


def test_a_client_that_is_killed_in_the_middle_can_go_on(tmp_path: Path) -> None:
    killed_and_resumed(tmp_path, 'where="inline"', 12)


@pytest.mark.slow
def test_so_it_can_on_nodes(tmp_path: Path) -> None:
    killed_and_resumed(tmp_path, "max_workers=2, echo=False, progress=False", 5, 10)

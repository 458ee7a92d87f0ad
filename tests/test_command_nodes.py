"""Commands on nodes: what is sent and how often, what comes back, and what is left."""

from __future__ import annotations

import csv
import importlib
import os
import pickle
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed
from fractions import Fraction
from pathlib import Path
from typing import Any

import helpers_work as work
import pytest
from helpers_commands import HOSTILE, script
from helpers_fixtures import account_in_root, with_fixed_pool
from helpers_processes import process_lives
from helpers_service import Account, scrubbed, until
from helpers_wheels import installed, options, wheel

from batchexec import BatchExecutor, BlobPath, Command, CommandResult
from batchexec._cli import main
from batchexec.errors import BrokenBatchExecutor, CommandFailed, FilesError, NodeError, OutputError, WorkerCrashedError

account = account_in_root(with_fixed_pool)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def executor(account: Account, here: Path) -> Iterator[Callable[..., BatchExecutor]]:
    made: list[BatchExecutor] = []

    def make(**settings: Any) -> BatchExecutor:
        made.append(BatchExecutor(**{**account.settings, "pool_id": "fixed", "echo": False, **settings}))
        return made[-1]

    yield make
    for one in made:
        one.shutdown()


def test_a_map_over_files(executor: Callable[..., BatchExecutor], here: Path) -> None:
    """A program of ours, a shared input, an app; each run in a directory of its own, several of them in a task."""
    script(
        "join", 'pwd; ls > listing; cat "$1" shared/big | tail -c 9 > "$2/end.txt"; helper >> "$2/end.txt"; echo $N >&2'
    )
    script("app/bin/helper", "echo help; echo $HOME >&2")
    (here / "shared").mkdir()
    (here / "shared/big").write_bytes(b"x" * 2_000_000 + b"end")
    (here / "data").mkdir()
    for name in HOSTILE:
        (here / "data" / name).write_text(name)
    inputs = sorted(Path("data").iterdir())
    command = Command(
        "./join {input} {out}",
        inputs="shared",
        outputs={"out": "*.txt", "listing": "listing"},
        app="app",
        env={"N": "{n}"},
    )
    ex = executor(files=["data/é"])
    results = list(ex.map(command, [{"input": path, "n": n} for n, path in enumerate(inputs)], chunksize=5))
    for n, (path, result) in enumerate(zip(inputs, results, strict=True)):
        home = result.stdout.strip()
        assert result.stderr.splitlines() == [home, str(n)]
        assert result.exit_code == 0
        (end,) = result.named["out"]
        assert end == here / f"outputs/{n}/out/end.txt"
        assert end.read_text() == "xxxxxxendhelp\n"
        assert result.named["listing"][0].read_text().split() == ["data", "join", "listing", "out", "shared"]
        assert result.node_id
        assert result.seconds > 0
        assert result.parameters["input"] == path
    assert len({result.stdout for result in results}) == len(inputs)
    with open("outputs/sweep.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["item"], row["input"], row["n"]) for row in rows] == [
        (str(n), str(path), str(n)) for n, path in enumerate(inputs)
    ]


def test_one_run_is_a_future_like_any_other(executor: Callable[..., BatchExecutor], here: Path) -> None:
    ex = executor(outputs="*.txt")
    ex.submit(work.double, 1).result()  # the items' numbers go on
    (here / "a b.txt").write_text("A")
    good = ex.submit(Command("cp {input} copy.txt"), "a b.txt")
    bad = ex.submit(Command("sh -c 'echo said; echo why >&2; touch x.txt; exit {code}'", when="failure"), code=3)
    gone = ex.submit(Command("cat {input}"), "nothing")
    none = ex.submit(Command("nobody-has-this"))
    assert good in list(as_completed([good, bad, gone, none]))
    assert good.result().outputs == good.outputs == [here / "outputs/1/copy.txt"]
    assert good.rerun_locally().outputs[0].read_text() == "A"
    error = bad.exception()
    assert isinstance(error, CommandFailed)
    assert isinstance(error.result, CommandResult)
    assert (error.exit_code, error.stdout, error.stderr, error.task_id) == (3, "said\n", "why\n", bad.task_id)
    assert error.result.outputs == [here / "outputs/2/x.txt"]
    assert bad.stdout() == "said\n"
    assert bad.stderr() == "why\n"
    assert isinstance(gone.exception(), FilesError)
    assert isinstance(none.exception(), CommandFailed)
    assert "could not be started" in str(none.exception())


def test_a_run_is_followed_while_it_runs(executor: Callable[..., BatchExecutor], account: Account, here: Path) -> None:
    """What it writes without end is bounded in the task's log, as the service has it."""
    ex = executor()
    text = (
        "echo begun; echo why >&2; until [ -e {go} ]; do sleep 0.05; done; head -c 20000000 /dev/zero; echo; echo end"
    )
    future = ex.submit(Command(text, shell=True), go=str(here / "go"))
    try:
        assert until(future.stdout) == "begun\n"
        assert until(future.stderr) == "why\n"
        assert not future.done()
    finally:
        (here / "go").touch()
    assert future.result().cut
    assert future.stdout().endswith("\0\nend\n")
    job, task = str(ex.stats().job_id), str(future.task_id)
    log = b"".join(account.batch.download_task_file(job, task, "stdout.txt"))
    assert len(log) < 6_000_000
    assert log.startswith(b"begun\n\0")
    assert log.endswith(b"\0\nend\n")
    assert b"bytes are left out here]" in log


def test_a_program_sees_no_secret_and_no_standard_input(executor: Callable[..., BatchExecutor]) -> None:
    ex = executor(env={"MINE": "1"})
    lines = ex.submit(Command("sh -c 'env; cat'")).result().stdout.splitlines()
    variables = {line.partition("=")[0] for line in lines}
    assert {"MINE", "HOME", "PATH", "AZ_BATCH_TASK_ID"} <= variables
    assert not [name for name in variables if name.startswith("BX_") and name != "BX_INSIDE"]
    assert not [line for line in lines if "sig=" in line]


def test_python_is_the_worker_s(executor: Callable[..., BatchExecutor], here: Path) -> None:
    (here / "say.py").write_text("import sys; print(sys.executable)")
    assert executor().submit(Command("python3 say.py")).result().stdout == f"{sys.executable}\n"


def test_a_module_that_makes_a_command_is_imported_on_nodes(
    executor: Callable[..., BatchExecutor], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "simulation.py").write_text(
        "from batchexec import BlobPath, Command\n"
        "command = Command('cat {x} {y}', inputs={'y': BlobPath('data/y')})\n"
        "def told(x): return f'{command} {x}'\n"
    )
    monkeypatch.syspath_prepend(str(here))
    module = importlib.import_module("simulation")
    assert executor().submit(module.told, 1).result() == "Command('cat {x} {y}') 1"


def test_a_command_that_a_task_calls_is_refused(executor: Callable[..., BatchExecutor]) -> None:
    with executor() as ex, pytest.raises(RuntimeError, match=r"was called within a task: give it to submit or map"):
        ex.submit(lambda: Command("true")()).result()


def test_what_broke_an_executor_is_raised_without_the_frames_of_earlier_calls(here: Path) -> None:
    with BatchExecutor(1, where="local", start_command="echo no >&2; exit 3") as ex:
        error = ex.submit(Command("true")).exception()
        depths = []
        for _ in range(3):
            with pytest.raises(NodeError, match="no") as again:
                ex.submit(Command("true"))
            assert again.value is error
            depths.append(len(again.traceback))
    assert depths[0] == depths[1] == depths[2]


def test_failures_are_results_and_their_neighbours_run(executor: Callable[..., BatchExecutor]) -> None:
    ex = executor()
    command = Command("sh -c 'touch r.txt; test {n} != 1 && rm -f r.txt; exit {code}'", outputs="r.*", when="always")
    rows = [{"n": n, "code": code} for n, code in ((0, 0), (1, 5), (2, 0))]
    results = list(ex.map(command, rows, chunksize=3, return_exceptions=True))
    assert [getattr(one, "exit_code", None) for one in results] == [0, 5, 0]
    assert "item 1: n=1, code=5" in str(results[1])
    (missing,) = ex.map(Command("true", outputs="x"), [{}], return_exceptions=True)
    assert isinstance(missing, OutputError)
    with pytest.raises(TypeError, match="nothing is given for"):
        ex.map(command, [{"n": 1}])
    with pytest.raises(FilesError, match="nothing"):
        ex.map(Command("cat {input}"), ["nothing"])


def test_cancelling_ends_the_program(executor: Callable[..., BatchExecutor], here: Path) -> None:
    ex = executor()
    command = Command("sh -c 'echo $$ > {pid}; exec sleep 600'")
    results = ex.map(command, [{"pid": str(here / "pid")}], resume="s")
    pid = int(until(lambda: (here / "pid").exists() and (here / "pid").read_text()))
    ex.terminate_workers()
    with pytest.raises(BrokenBatchExecutor):
        next(results)
    until(lambda: not process_lives(pid))
    assert os.listdir("s") == ["sweep.csv"]
    assert Path("s/sweep.csv").read_text().splitlines() == ["item,exit_code,seconds,node,outputs,error,key"]


def test_a_run_whose_worker_dies_has_a_typed_error_and_no_line(
    executor: Callable[..., BatchExecutor], here: Path
) -> None:
    ex = executor(retries=0)
    command = Command("sh -c '{do}'", outputs="*")
    rows = [{"do": "kill -9 $PPID; sleep 600"}, {"do": "touch x"}]
    died, good = ex.map(command, rows, resume="s", return_exceptions=True)
    assert isinstance(died, WorkerCrashedError)
    assert isinstance(good, CommandResult)
    with open("s/sweep.csv", newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["exit_code"], second["exit_code"]) == ("", "0")
    assert "WorkerCrashedError" in first["error"]
    assert not Path("s/sweep.csv.lock").exists()
    assert good.outputs == [here / "s/1/x"]


def test_runs_that_are_done_take_their_places_among_those_that_are_not(
    executor: Callable[..., BatchExecutor], here: Path
) -> None:
    ex = executor()
    command = Command("sh -c 'echo {n} > {out}'", outputs={"out": "n.txt"})
    list(ex.map(command, [{"n": n} for n in (1, 2, 5)], resume="s"))
    results = list(ex.map(command, [{"n": n} for n in range(8)], chunksize=3, resume="s"))
    assert [one.named["out"][0].read_text() for one in results] == [f"{n}\n" for n in range(8)]
    assert ex.stats().items == 3 + 5
    by_and_by = ex.map(command, ({"n": n} for n in range(5)), buffersize=2)
    assert [one.parameters["n"] for one in by_and_by] == list(range(5))
    assert len(Path("outputs/sweep.csv").read_text().splitlines()) == 1 + 5


def test_runs_leave_nothing_on_the_node(executor: Callable[..., BatchExecutor], root: Path, here: Path) -> None:
    """Not even within a task: of 6 runs with 20 MB each, only the outputs wait for its end."""
    (here / "in.bin").write_bytes(os.urandom(1000))
    peak = "du -sk .. | cut -f1 > {out}; head -c 20000000 /dev/zero > scratch"
    ex = executor()
    results = list(ex.map(Command(f"sh -c '{peak}'", inputs="in.bin", outputs={"out": "peak"}), [{}] * 6, chunksize=6))
    assert all(int(one.outputs[0].read_text()) < 2000 for one in results)
    until(lambda: not [folder for folder, *_ in os.walk(root) if os.path.basename(folder) == "runs"])


def test_a_job_tells_what_it_ran_without_its_client(
    executor: Callable[..., BatchExecutor], account: Account, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`batchexec fetch` writes the sweep's own table, with which the sweep can go on. Secrets are not in it."""
    monkeypatch.setenv("PASS_WORD", "sesame-1234")
    for n in range(5):
        (here / f"a {n}.txt").write_text(f"{n}")
    fail = "if [ {n} = 2 ]; then kill -9 $PPID; sleep 60; fi; test {n} != 3 || exit 5"
    text = f"{fail}; echo ${{{{#PASS_WORD}}}} {{x}} >> {{ran}}; cat {{input}} > {{out}}"
    command = Command(text, shell=True, env=["PASS_WORD"], outputs={"out": "copy.txt"})
    rows = [{"n": n, "x": Fraction(n, 7), "input": Path(f"a {n}.txt"), "ran": str(here / "ran")} for n in range(4)]
    ex = executor(retries=0)
    list(ex.map(command, rows, return_exceptions=True))
    ex.submit(work.double, 4).result()
    job = str(ex.stats().job_id)
    for name, value in account.environment().items():
        monkeypatch.setenv(name, value)
    assert main(["fetch", job, "--to", "found.pickle"]) == 0
    assert main(["fetch", job, "--outputs", "found"]) == 0

    def lines(path: str) -> list[list[str]]:
        with open(path, newline="") as file:
            return [row for row in csv.reader(file) if row[0] != "2"]  # its worker died

    with open("found/sweep.csv", newline="") as file:
        found = list(csv.DictReader(file))
    assert lines("found/sweep.csv") == lines("outputs/sweep.csv") == lines("found.csv")
    assert [(row["exit_code"], row["n"], row["x"], row["input"]) for row in found] == [
        (code, str(n), str(Fraction(n, 7)), f"a {n}.txt") for n, code in enumerate(("0", "0", "", "5"))
    ]
    assert found[0]["outputs"] == "0/copy.txt"
    assert float(found[0]["seconds"]) > 0
    assert found[2]["error"].startswith("BatchExecError: it has no result")
    assert "(item 3: n=3, x=Fraction(3, 7), input=" in found[3]["error"]
    items = pickle.loads(Path(f"{job}.pickle").read_bytes())
    assert [(call, number) for call, number, _, _ in items] == [("if", 0), ("if", 1), ("if", 3), ("double", 4)]
    assert items[0][2].parameters == {"n": 0, "x": "0", "input": "a 0.txt", "ran": str(here / "ran")}
    assert items[0][2].command.startswith("if [ 0 = 2 ]; ")

    for path in [path for path in here.rglob("*") if path.is_file()]:
        assert b"sesame" not in path.read_bytes(), path
    monkeypatch.setenv("PASS_WORD", "another one")  # not what was asked for
    results = list(ex.map(command, [*rows[:2], *({**row, "n": 9} for row in rows[2:])], resume="found"))
    assert [one.named["out"][0].read_text() for one in results] == ["0", "1", "2", "3"]
    assert sorted((here / "ran").read_text().split("\n")) == ["", "11 0", "11 1/7", "11 2/7", "11 3/7"]


@pytest.mark.slow
def test_blobs_as_inputs_and_outputs_left_in_storage(
    executor: Callable[..., BatchExecutor], account: Account, here: Path
) -> None:
    container = account.blobs.create_container("data-in")
    container.upload_blob("set/a.txt", b"A")
    container.upload_blob("set/sub/b.txt", b"B")
    container.upload_blob("one.txt", b"one")
    ex = executor(output_dir=BlobPath("data-in/results"))
    command = Command(
        "sh -c 'cat {input} set/a.txt set/sub/b.txt > r.txt'", inputs=BlobPath("data-in/set"), outputs="r.txt"
    )
    (result,) = ex.map(command, [BlobPath("data-in/one.txt")])
    assert result.parameters == {"input": BlobPath("data-in/one.txt")}
    (left,) = result.outputs
    assert container.download_blob(left.prefix).readall() == b"oneAB"
    missing = ex.submit(Command("cat {input}"), BlobPath("data-in/nothing"))
    assert isinstance(missing.exception(), FilesError)


@pytest.mark.slow
def test_compiled_programs_and_their_libraries(executor: Callable[..., BatchExecutor], here: Path, caplog: Any) -> None:
    if shutil.which("gcc") is None:
        assert "CI" not in os.environ, "a C compiler is part of the tests' machine"
        pytest.skip("no C compiler")
    (here / "lib.c").write_text("int answer(void) { return 42; }")
    (here / "main.c").write_text('#include <stdio.h>\nint answer(void);\nint main(void) { printf("%d\\n", answer()); }')
    (here / "app/bin").mkdir(parents=True)
    (here / "app/lib").mkdir()
    subprocess.run("gcc -shared -fPIC -o app/lib/libanswer.so lib.c", shell=True, check=True)
    link = "gcc -o {} main.c -Lapp/lib -lanswer {}"
    subprocess.run(link.format("app/bin/found", "'-Wl,-rpath,$ORIGIN/../lib'"), shell=True, check=True)
    subprocess.run(link.format("app/bin/asked", ""), shell=True, check=True)
    shutil.copy("app/bin/asked", "alone")
    ex = executor()
    with pytest.raises(FilesError, match=r"libraries that are not found here either: libanswer\.so"):
        Command("./alone")()
    assert isinstance(ex.submit(Command("./alone")).exception(), FilesError)
    assert ex.submit(Command("found", app="app")).result().stdout == "42\n"
    asked = Command("asked", app="app", env={"LD_LIBRARY_PATH": "{app}/lib"})
    archive = shutil.make_archive("packed", "gztar", "app")
    assert [one.stdout for one in (asked(), ex.submit(asked).result())] == ["42\n", "42\n"]
    assert ex.submit(Command("found", app=archive)).result().stdout == "42\n"
    ls = shutil.copy(shutil.which("ls") or "", "ls")
    assert ex.submit(Command([Path(ls)])).result().exit_code == 0
    needed = subprocess.run(["ldd", ls], capture_output=True, text=True, check=True).stdout
    assert ("not every image has: libselinux" in caplog.text) == ("libselinux" in needed)


@pytest.mark.slow
def test_packages_of_a_script_are_found_and_installed(
    executor: Callable[..., BatchExecutor], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = wheel(
        here / "wheels",
        "tiny-c",
        "2.0",
        scripts={"tiny-say": "tiny_c:say"},
        files={"tiny_c.py": "import sys\nVERSION = '2.0'\ndef say(): print('said by', sys.executable)\n"},
    )
    installed(here / "site-packages", made)
    monkeypatch.syspath_prepend(str(here / "site-packages"))
    (here / "program.py").write_text("import beside; print(beside.tiny_c.VERSION)")
    (here / "beside.py").write_text("import tiny_c")
    ex = executor(requirements="auto", pip_options=options(here / "wheels"))
    assert ex.submit(Command("python program.py")).result().stdout == "2.0\n"
    listed = executor(requirements=["tiny-c"], pip_options=options(here / "wheels"))
    said = listed.submit(Command("tiny-say")).result().stdout
    assert said.startswith("said by ")
    assert "environments" in said


@pytest.mark.slow
def test_an_archive_is_unpacked_once_for_all_tasks_of_a_node(
    executor: Callable[..., BatchExecutor], root: Path, here: Path
) -> None:
    script("app/tool", 'stat -c %i "$0"')
    archive = shutil.make_archive("packed", "zip", "app")
    with zipfile.ZipFile(archive, "w") as file:
        file.write("app/tool", "tool")
    results = list(executor().map(Command("tool", app=archive), [{}] * 8))
    assert len({one.stdout for one in results}) == 1


@pytest.mark.slow
def test_the_programs_of_the_page_run_as_they_are(here: Path) -> None:
    page = Path(__file__).resolve().parent.parent / "docs/commands.md"
    programs = re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    said = [
        subprocess.run([sys.executable, "-c", text], check=True, capture_output=True, text=True, env=scrubbed()).stdout
        for text in programs
    ]
    assert said[0].endswith("0\n")
    assert said[1] == "285\n"


@pytest.mark.slow
def test_a_thousand_runs_are_submitted_quickly(executor: Callable[..., BatchExecutor]) -> None:
    """In time of this thread: it is the user's, who waits for it, and not the machine's, which may be busy."""
    started = time.thread_time()
    found = executor().map(Command("true", env={"A": "{a}", "B": "{b}"}), [{"a": n, "b": -n} for n in range(1000)])
    seconds = time.thread_time() - started
    assert seconds < 2
    found.close()  # type: ignore[attr-defined]

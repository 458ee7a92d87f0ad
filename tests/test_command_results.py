"""What comes of a Command: its environment, its ends, its outputs, and what it leaves."""

from __future__ import annotations

import os
import pickle
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from helpers_commands import WORDS, here, words
from helpers_processes import process_lives
from helpers_service import until

from batchexec import Command
from batchexec.errors import CommandFailed, OutputError

__all__ = ["here"]


def test_the_environment_is_what_is_given_and_values_may_be_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSED_ON", "{braces}")
    command = Command("sh -c 'echo $A-$B-$PASSED_ON; echo $HOME; pwd'", env={"A": "{n:02d}", "B": 5})
    first, home, cwd = command(n=3).stdout.splitlines()
    assert first == "03-5-{braces}"
    assert home == cwd != os.getcwd()
    assert Command("printenv PASSED_ON", env=["PASSED_ON"])().stdout == "{braces}\n"
    assert Command("printenv PASSED_ON", env={"PASSED_ON": None})().stdout == "{braces}\n"
    assert Command("cat")().stdout == ""  # its standard input is empty


# results


def test_a_result_has_what_the_program_left() -> None:
    started = time.perf_counter()
    result = Command(
        "sh -c 'echo out; echo err >&2; echo x > a.csv; mkdir d; echo y > d/b.csv; echo z > c'", outputs="**/*.csv"
    )()
    assert (result.exit_code, result.stdout, result.stderr) == (0, "out\n", "err\n")
    assert [path.name for path in result.outputs] == ["a.csv", "b.csv"]
    assert result.seconds > 0
    assert result.staging_seconds > 0
    assert result.seconds + result.staging_seconds < time.perf_counter() - started
    assert not result.cut
    assert not result.timed_out
    assert result.parameters == {}
    assert pickle.loads(pickle.dumps(result)) == result
    assert "out\\n" not in repr(result)


def test_named_outputs_are_files_or_directories_made_for_them() -> None:
    result = Command(
        'sh -c \'echo 1 > "$0"; echo 2 > "$1/x.dat"; echo 3 > "$1/y.txt"\' {log} {data}',
        outputs={"log": "logs/run_{n}.txt", "data": "*.dat"},
    )(n=4)
    (log,), (data,) = result.named["log"], result.named["data"]
    assert str(log).endswith("logs/run_4.txt")
    assert str(data).endswith("data/x.dat")
    assert sorted(result.outputs) == sorted([log, data])


def test_a_named_pattern_that_the_command_does_not_use_is_looked_for_where_the_program_runs() -> None:
    result = Command("echo a > a.csv; echo b > b.txt", shell=True, outputs={"tables": "*.csv", "notes": "*.txt"})()
    assert [[path.name for path in result.named[name]] for name in ("tables", "notes")] == [["a.csv"], ["b.txt"]]


def test_a_value_in_a_pattern_means_itself() -> None:
    result = Command("touch a1 'a*1'", outputs="{x}1")(x="a*")
    assert [path.name for path in result.outputs] == ["a*1"]
    with pytest.raises(ValueError, match="below the run's directory"):
        Command("true", outputs="{x}/y")(x="..")


def test_inputs_that_did_not_change_are_no_outputs() -> None:
    Path("a.txt").write_text("a")
    Path("b.txt").write_text("b")
    result = Command("sh -c 'echo more >> b.txt; touch c.txt'", inputs="*.txt", outputs="*")()
    assert sorted(path.name for path in result.outputs) == ["b.txt", "c.txt"]
    assert Path("b.txt").read_text() == "b"


def test_outputs_cannot_lead_outside() -> None:
    with pytest.raises(OutputError, match="outside"):
        Command("ln -s /etc/passwd x", outputs="*")()
    result = Command("sh -c 'echo 1 > a; ln -s a b'", outputs="*")()
    assert [path.read_text() for path in result.outputs] == ["1\n", "1\n"]


def test_an_output_that_is_missing_is_an_error_unless_it_is_a_pattern() -> None:
    with pytest.raises(OutputError, match=r"left no 'x\.csv'"):
        Command("true", outputs="x.csv")()
    assert Command("true", outputs="*.csv")().outputs == []
    assert Command("true", outputs="x.csv", check=False)().outputs == []


@pytest.mark.parametrize(
    ("when", "good", "bad"), [("success", 1, 0), ("failure", 0, 1), ("always", 1, 1)], ids=lambda value: str(value)
)
def test_when_says_after_which_ends_outputs_are_collected(when: str, good: int, bad: int) -> None:
    command = Command("sh -c 'touch x; exit {code}'", outputs="*", when=when, check=False)
    assert [len(command(code=code).outputs) for code in (0, 3)] == [good, bad]
    failing = Command("sh -c 'touch x; exit 3'", outputs="*", when=when)
    with pytest.raises(CommandFailed) as failure:
        failing()
    assert len(failure.value.result.outputs) == bad  # type: ignore[attr-defined]


def test_a_failure_tells_exit_code_and_the_end_of_standard_error() -> None:
    with pytest.raises(CommandFailed, match=r"exit code 3\nIts standard error ends:\n(  .*\n)*  line 30$") as failure:
        Command("sh -c 'echo said; for i in $(seq 30); do echo line $i >&2; done; exit 3'")()
    error = failure.value
    assert (error.exit_code, error.stdout) == (3, "said\n")
    assert "line 10\n" not in str(error)
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error)
    assert copy.result.exit_code == 3


def test_a_failure_says_which_files_were_not_sent() -> None:
    Path("data.csv").touch()
    with pytest.raises(CommandFailed, match=r"were not sent: 'data\.csv'"):
        Command("cat data.csv")()


def test_a_failure_says_how_a_script_gets_its_packages() -> None:
    Path("say.py").write_text("import nobody_has_this")
    with pytest.raises(CommandFailed, match=r"requirements=\[\.\.\.\]\) with 'nobody_has_this'"):
        Command("python say.py")()


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        (Command("nobody-has-this"), 127, "no program 'nobody-has-this'"),
        (Command("/nobody/has/this"), 127, "a path of the node"),
        (Command("sh -c 'kill -SEGV $$'"), 139, "SIGSEGV"),
        (Command("sh -c 'kill -9 $$'"), 137, "ran out of memory"),
        (Command("sh -c 'sleep 600'", timeout=0.2), 143, r"longer than timeout=0\.2 s"),
    ],
    ids=["missing", "absolute", "segv", "killed", "timeout"],
)
def test_other_ends_are_told_apart(command: Command, code: int, says: str) -> None:
    with pytest.raises(CommandFailed, match=says) as failure:
        command()
    assert failure.value.exit_code == code


def test_a_program_that_does_not_start_fails_even_unchecked() -> None:
    with pytest.raises(CommandFailed, match="could not be started"):
        Command("nobody-has-this", check=False)()
    assert Command("false", check=False)().exit_code == 1


def test_a_timeout_ends_all_that_the_program_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit, wait = 1234.0, subprocess.Popen.wait

    def over_when_it_is_deaf(process: Any, timeout: float | None = None) -> int:
        if timeout != limit:
            return wait(process, timeout)
        until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        raise subprocess.TimeoutExpired(process.args, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", over_when_it_is_deaf)
    # The process that it waits for tells its number itself: one that still is the shell's copy has the shell's trap.
    deaf = "trap : TERM; sh -c 'echo $$ > {pid}; exec sleep 600' & wait; wait"
    with pytest.raises(CommandFailed, match="timeout") as failure:
        Command(["sh", "-c", deaf], timeout=limit)(pid=str(tmp_path / "pid"))
    assert failure.value.exit_code == 124
    pid = int((tmp_path / "pid").read_text())
    until(lambda: not process_lives(pid))


def test_what_a_program_leaves_running_ends_with_it(tmp_path: Path) -> None:
    Command("sh -c 'sleep 600 & echo $! > {pid}'")(pid=str(tmp_path / "pid"))
    pid = int((tmp_path / "pid").read_text())
    until(lambda: not process_lives(pid))


@pytest.mark.parametrize("dies", ["as it starts", "while it runs"])
def test_a_program_ends_with_its_worker_however_that_ends(tmp_path: Path, dies: str) -> None:
    """The guard, in a process that is killed: as soon as there is a program, or when told."""
    here = str(tmp_path)
    at_once = "os.kill(os.getpid(), signal.SIGKILL)" if dies == "as it starts" else ""
    code = (
        "import os, signal, subprocess\n"
        "from batchexec._worker.programs import processes, streams\n"
        "class Popen(subprocess.Popen):\n"
        "    def __init__(self, *args, **kwargs):\n"
        "        super().__init__(*args, **kwargs)\n"
        f"        if {here!r} in str(args):\n"
        f"            open({here + '/program'!r}, 'w').write(str(self.pid))\n"
        f"            {at_once}\n"
        "subprocess.Popen = Popen\n"
        f"processes.run(['sh', '-c', 'touch {here}/runs; exec sleep 600'], '/bin/sh', '.', {{}}, "
        "(streams.Stream(), streams.Stream()), None, True)"
    )
    worker = subprocess.Popen([sys.executable, "-c", code])
    if dies == "while it runs":
        until((tmp_path / "runs").exists)
        until(lambda: (tmp_path / "program").exists() and (tmp_path / "program").read_text())
        worker.send_signal(signal.SIGKILL)
    assert worker.wait() == -signal.SIGKILL
    pid = int((tmp_path / "program").read_text())
    until(lambda: not process_lives(pid))


def test_only_the_end_of_much_output_is_kept() -> None:
    result = Command("sh -c 'head -c 3000000 /dev/zero | tr \"\\0\" x; echo end'")()
    assert result.cut
    assert len(result.stdout) == 1024 * 1024
    assert result.stdout.endswith("xend\n")
    assert Command(["printf", "\\377"])().stdout == "\ufffd"


def test_a_command_can_be_sent_itself() -> None:
    command = pickle.loads(pickle.dumps(Command(f"{WORDS} {{x:02d}}", outputs={"o": "*"}, env={"A": "{x}"})))
    assert words(command, x=3) == ["03"]
    assert repr(command) == f"Command({WORDS + ' {x:02d}'!r})"


def test_a_run_leaves_nothing_but_its_outputs(tmp_path: Path) -> None:
    Path("in.txt").touch()
    Command("sh -c 'mkdir d; touch d/x; chmod 500 d'", inputs="in.txt")()
    with pytest.raises(CommandFailed):
        Command("false")()
    assert list((tmp_path / "tmp").iterdir()) == []
    (kept,) = Command("sh -c 'touch x; chmod 400 x'", outputs="x")().outputs
    assert kept.stat().st_mode & stat.S_IWUSR
    assert [path.name for path in (tmp_path / "tmp").rglob("*") if path.is_file()] == ["x"]

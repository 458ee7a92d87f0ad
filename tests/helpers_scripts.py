"""Scripts that use BatchExecutor, run as a user runs them, with a directory for temporary files of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from helpers_service import processes_of, scrubbed, until

TESTS = str(Path(__file__).parent)
HEAD = """\
import os, signal, sys, threading, time
from functools import partial
import helpers_work as work
from batchexec import BatchExecutor, errors

started = os.environ["STARTED"]


def in_thread():
    print(BatchExecutor().submit(work.double, 4).result())


"""


class Script:
    """A running script. Its TMPDIR marks every process that it brings about, however far away: all of them run below
    it, or have it in their environment."""

    def __init__(self, folder: Path, text: str, **env: str) -> None:
        self.temporary = folder / "tmp"
        self.started = folder / "started"
        self.temporary.mkdir()
        self.started.mkdir()
        path = folder / "script.py"
        path.write_text(HEAD + text)
        places = {"TMPDIR": str(self.temporary), "STARTED": str(self.started), "PYTHONPATH": TESTS}
        self.process = subprocess.Popen(
            [sys.executable, str(path)],
            env=scrubbed(**places, **env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def wait_for(self, *names: str) -> None:
        """Until worker code has told that it runs."""

        def come() -> set[str]:
            code = self.process.poll()
            assert code is None, f"it ended with {code}: {self.process.communicate()[1]}"
            return set(os.listdir(self.started))

        until(come, lambda found: found >= set(names))

    def wait_to_say(self, words: str) -> None:
        """Until it has written these words to standard error; what was read then is no part of its end."""
        assert self.process.stderr is not None
        said = ""
        while words not in said:
            line = self.process.stderr.readline()
            assert line, f"it ended and had not said so: {said}"
            said += line

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def send_to_group(self, number: signal.Signals) -> None:
        """As a terminal does: to the script's whole process group."""
        os.killpg(self.process.pid, number)

    def end(self, seconds: float = 60.0) -> tuple[int, str, str]:
        """Exit code, standard output and standard error, once it has ended by itself."""
        try:
            out, err = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.send_to_group(signal.SIGABRT)
            out, err = self.process.communicate()
            raise AssertionError(f"still there after {seconds} s:\n{out}\n{err}") from None
        return self.process.returncode, out, err

    def others(self) -> dict[int, str]:
        """Processes it brought about."""
        found = processes_of(str(self.temporary))
        found.pop(self.process.pid, None)
        return found

    def service_pid(self) -> int:
        """The script's own child: what that starts has the same command line until it becomes another program."""
        services = [pid for pid, command in self.others().items() if "--until-eof" in command]
        (pid,) = (pid for pid in services if _parent(pid) == self.process.pid)
        return pid

    def leaves_nothing(self) -> None:
        """No process of it is there, and no temporary file."""
        self.leaves_no_process()
        until(lambda: os.listdir(self.temporary), lambda found: not found)

    def leaves_no_process(self) -> None:
        until(self.others, lambda found: not found)


def _parent(pid: int) -> int:
    """Its number; 0 where the process has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0

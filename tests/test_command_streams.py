"""What a program writes while it runs: in the log as it comes, whole at its end, and bounded."""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers_processes import process_lives
from helpers_service import until
from hypothesis import given, settings
from hypothesis import strategies as st

from batchexec import Command
from batchexec._worker.logs import Streams
from batchexec._worker.programs import processes, streams

LEFT_OUT = re.compile(rb"\n\[batchexec: ([\d,]+) bytes are left out here\]\n")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("TAIL_BYTES", 20), ("LOG_BYTES", 50), ("GLIMPSE_BYTES", 5)):
        monkeypatch.setattr(streams, name, size)


@settings(max_examples=100)
@given(pieces=st.lists(st.binary(min_size=1, max_size=40), max_size=12), before=st.integers(0, 60))
def test_the_log_has_all_or_says_what_it_has_not(pieces: list[bytes], before: int) -> None:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryFile() as log:
        for name, size in (("TAIL_BYTES", 20), ("LOG_BYTES", 50)):
            patch.setattr(streams, name, size)
        log.write(b"x" * before)
        log.flush()
        stream = streams.Stream(log.fileno())
        for piece in pieces:
            stream.take(piece)
        stream.finish()
        written = b"".join(pieces)
        assert (stream.size, stream.tail, stream.cut) == (len(written), written[-20:], len(written) > 20)
        log.seek(before)
        logged = log.read()
    if before + len(written) <= 50:
        assert logged == written
    head, *rest = LEFT_OUT.split(logged, maxsplit=1) if b"left out here" in logged else [logged]
    assert written.startswith(head)
    if rest:
        number, end = rest
        assert len(head) + int(number) + len(end) == len(written)
        assert end == written[-20:]
        assert before + len(head) <= max(before, 50)


def test_a_log_that_has_enough_is_told_now_and_then_where_it_stands(
    small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryFile() as log:
        shown: list[int] = []
        stream = streams.Stream(log.fileno(), lambda: shown.append(os.fstat(log.fileno()).st_size))
        stream.take(b"a" * 45)
        for _ in range(3):
            stream.take(b"b" * 100)
            stream.glimpse()
        assert os.fstat(log.fileno()).st_size == 45
        monkeypatch.setattr(streams, "GLIMPSE_SECONDS", 0.0)
        stream.glimpse()
        stream.take(b"c" * 7)
        stream.glimpse()
        stream.glimpse()
        stream.finish()
        log.seek(45)
        assert log.read() == (
            b"\n[batchexec: 295 bytes are left out here]\nbbbbb\n[batchexec: 2 bytes are left out here]\nccccc"
        )
        assert shown[0] == 45
        assert len(shown) == 3


def test_a_program_is_followed_byte_by_byte(here: Path) -> None:
    """Its file for the log is read while the program waits to be told to go on; and the log of a container follows."""
    os.mkdir("task")
    script = "echo begun; echo why >&2; until [ -e go ]; do sleep 0.01; done; echo end"
    with open("stdout.txt", "wb") as out, open("stderr.txt", "wb") as err:
        first = [os.dup(1), os.dup(2)]
        try:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            led = Streams(str(here / "task"), str(here))  # not the task's own files: it leads them into its own
            with ThreadPoolExecutor(1) as pool:
                pair = (streams.Stream(1, led.replay), streams.Stream(2, led.replay))
                running = pool.submit(
                    processes.run, ["sh", "-c", script], "/bin/sh", ".", dict(os.environ), pair, None, False
                )
                try:
                    until(lambda: Path("stdout.txt").read_bytes() == b"begun\n")
                    until(lambda: Path("stderr.txt").read_bytes() == b"why\n")
                    assert not running.done()
                finally:
                    Path("go").touch()
                assert running.result().status == 0
            led.replay()
        finally:
            for number, descriptor in enumerate(first, 1):
                os.dup2(descriptor, number)
                os.close(descriptor)
    assert Path("stdout.txt").read_bytes() == Path(led.paths[0]).read_bytes() == pair[0].tail == b"begun\nend\n"


def test_a_log_that_cannot_be_written_holds_up_no_program() -> None:
    with open("/dev/full", "wb", buffering=0) as full:
        pair = (streams.Stream(full.fileno()), streams.Stream(10_000))
        ended = processes.run(
            ["sh", "-c", "seq 100000; echo why >&2"], "/bin/sh", ".", dict(os.environ), pair, None, False
        )
    assert ended.status == 0
    assert pair[0].tail.endswith(b"\n99999\n100000\n")
    assert pair[1].tail == b"why\n"


def test_what_holds_the_pipe_open_holds_up_nobody() -> None:
    """Processes out of the program's group: one that sleeps, and one that goes on writing."""
    text = (
        "setsid sh -c 'echo $$ > {kept}/1; exec sleep 600' & setsid sh -c 'echo $$ > {kept}/2; exec yes' & "
        "until [ -s {kept}/1 ] && [ -s {kept}/2 ]; do sleep 0.01; done; echo said >&2"
    )
    result = Command(text, shell=True, outputs={"kept": "*"})()
    assert result.stderr == "said\n"
    sleeping, writing = (int(path.read_text()) for path in result.named["kept"])
    try:
        assert process_lives(sleeping)
        until(lambda: not process_lives(writing))  # nobody reads it any more
    finally:
        os.kill(sleeping, signal.SIGKILL)


def test_a_program_may_close_its_streams_and_go_on() -> None:
    result = Command("sh -c 'echo said; exec >&- 2>&-; : > done; ls > /dev/null'", outputs="done")()
    assert (result.exit_code, result.stdout) == (0, "said\n")
    assert result.outputs


def test_programs_at_once_keep_their_outputs_apart() -> None:
    count = Command("sh -c 'for i in $(seq 200); do echo {n}; echo {n} >&2; done'")
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda n: count(n=n), range(8)))
    for n, result in enumerate(results):
        assert result.stdout == result.stderr == f"{n}\n" * 200


def test_what_a_flood_takes_is_bounded() -> None:
    """100 MB: this process keeps 2 MB of them, and the disk nothing."""
    code = (
        "import resource, sys\n"
        "from batchexec import Command\n"
        "Command('true')()\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "before = peak()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "result = Command('sh -c \"head -c 100000000 /dev/zero; echo end >&2\"')()\n"
        "print(peak() - before, len(result.stdout), result.cut)\n"
    )
    grown, kept, cut = Command([sys.executable, "-c", code])().stdout.split()
    assert int(grown) < 30
    assert (kept, cut) == (str(1 << 20), "True")


def test_where_the_system_cannot_wait_for_pipes_files_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "followed", streams.Files)
    monkeypatch.setattr(processes, "followed", streams.Files)
    result = Command("sh -c 'seq 300000; echo why >&2'")()
    assert result.stdout.endswith("\n299999\n300000\n")
    assert (len(result.stdout), result.stderr, result.cut) == (1 << 20, "why\n", True)

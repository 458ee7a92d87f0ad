"""What client and worker say to each other is signed, or hashed by what is signed; secrets stay where they belong."""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helpers_work as work
import pytest
from helpers_service import Account, scrubbed, service

from batchexec import BatchExecutor
from batchexec._engine.sending import command, workerzip
from batchexec._wire import envelope, names

KEY = bytes(range(32))
ABOUT = envelope.context("result", "job", 3, 0)


# envelopes


def test_an_envelope_gives_back_header_and_frames() -> None:
    sealed = envelope.seal(KEY, ABOUT, {"node": "n"}, [b"one", b"", bytearray(b"three")])
    header, frames = envelope.unseal(KEY, ABOUT, sealed)
    assert header["node"] == "n"
    assert [bytes(frame) for frame in frames] == [b"one", b"", b"three"]


def test_an_envelope_changed_in_any_byte_is_refused() -> None:
    sealed = envelope.seal(KEY, ABOUT, {"node": "n"}, [b"frame"])
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises(envelope.BadEnvelope):
            envelope.unseal(KEY, ABOUT, bytes(changed))


def test_an_envelope_cut_or_lengthened_is_refused() -> None:
    sealed = envelope.seal(KEY, ABOUT, {}, [b"frame"])
    for wrong in (*(sealed[:length] for length in range(len(sealed))), sealed + b"\0"):
        with pytest.raises(envelope.BadEnvelope):
            envelope.unseal(KEY, ABOUT, wrong)


@pytest.mark.parametrize(
    "other",
    [
        envelope.context("chunk", "job", 3, 0),
        envelope.context("result", "job2", 3, 0),
        envelope.context("result", "job", 4, 0),
        envelope.context("result", "job", 3, 1),
    ],
    ids=["kind", "job", "chunk", "generation"],
)
def test_an_envelope_in_the_place_of_another_is_refused(other: bytes) -> None:
    sealed = envelope.seal(KEY, ABOUT, {}, [b"frame"])
    with pytest.raises(envelope.BadEnvelope):
        envelope.unseal(KEY, other, sealed)
    with pytest.raises(envelope.BadEnvelope):
        envelope.unseal(KEY[::-1], ABOUT, sealed)


# worker.pyz


def test_the_same_installation_builds_the_same_worker() -> None:
    script = "from batchexec._engine.sending import workerzip; print(workerzip.build()[0])"
    command = [sys.executable, "-c", script]
    digests = {
        subprocess.run(command, env=scrubbed(PYTHONHASHSEED=seed), capture_output=True, text=True, check=True).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1
    digest, data = workerzip.build()
    assert envelope.sha256(data) == digest


def test_the_worker_holds_no_azure_sdk_and_is_small() -> None:
    _, data = workerzip.build()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
        rooms = {name.split("/")[1] for name in archive.namelist() if name.count("/") > 1}
    assert tops == {"batchexec", "cloudpickle"}
    assert rooms >= {"_wire", "_worker"}
    assert rooms.isdisjoint({"_azure", "_cli", "_engine", "_source", "emulator"})
    assert len(data) < 450_000


def test_a_worker_that_was_changed_is_not_run(tmp_path: Path) -> None:
    digest, _ = workerzip.build()
    trace = tmp_path / "trace"
    (tmp_path / command.WORKER_FILE).write_bytes(worker_that_leaves(trace))
    line = command.worker_command(sys.executable, digest)
    env = scrubbed(AZ_BATCH_JOB_PREP_WORKING_DIR=str(tmp_path))
    ended = subprocess.run(shlex.split(line), env=env, capture_output=True, text=True)
    assert ended.returncode == names.EXIT_TAMPERED
    assert "worker.pyz was changed" in ended.stderr
    assert not trace.exists()


def worker_that_leaves(trace: Path) -> bytes:
    """A zipapp in the worker's place that leaves a trace as soon as anything of it is imported."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for module in ("batchexec/__init__", "batchexec/_worker/__init__", "batchexec/_worker/main"):
            archive.writestr(f"{module}.py", f"open({str(trace)!r}, 'w').close()\n")
    return file.getvalue()


# secrets


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    with service() as account:
        account.fixed_pool("narrow", slots=1)
        yield account


@pytest.mark.parametrize("started", ["forked", "plain"])
def test_user_code_sees_no_secret(account: Account, tmp_path: Path, started: str) -> None:
    settings = account.settings
    if started == "plain":  # an interpreter that no fork server starts in
        python = tmp_path / "python"
        python.write_text(f'#!/bin/sh\ncase "$2" in *forkserver*) exit 1;; esac\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
        settings["python"] = str(python)

    def look() -> tuple[str, str, str]:
        arguments, pid = b"", os.getpid()
        while b"batchexec.emulator" not in arguments:  # up to the service
            arguments += Path("/proc", str(pid), "cmdline").read_bytes()
            pid = int(Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[1])
        initial = Path("/proc/self/environ").read_bytes() + Path("/proc", str(os.getppid()), "environ").read_bytes()
        return repr(dict(os.environ)), repr(initial), repr(arguments)

    with BatchExecutor(**settings, pool_id="narrow") as executor:
        seen = executor.submit(look).result(60)
    keys = account.ready["batch_key"], account.ready["storage_key"]
    for text in seen:
        for secret in (names.ENV_KEY, names.ENV_CHUNK, "sig=", *keys):
            assert secret not in text
    assert "AZ_BATCH_TASK_ID" in seen[0]
    assert "batchexec.emulator" in seen[2]


def test_secrets_stay_out_of_what_is_shown(account: Account) -> None:
    with BatchExecutor(**account.settings, pool_id="narrow") as executor:
        future = executor.submit(work.double, 1)
        future.result(60)
        engine = executor._engine
        shown = [repr(executor), repr(future), repr(vars(executor)), repr(vars(engine)), repr(vars(engine.board))]
    for text in shown:
        assert account.ready["batch_key"] not in text
        assert account.ready["storage_key"] not in text


# what a job keeps of itself


def envelope_at(executor: BatchExecutor, container: Any, blob: str, about: bytes) -> dict[str, Any]:
    """The header of a signed blob that begins with an envelope without frames."""
    session: Any = executor._engine and executor._engine.session
    data = container.get_blob_client(blob).download_blob().readall()
    return envelope.unseal(session.key, about, data[: envelope.headed_length(data)])[0]


def test_a_job_can_be_read_from_its_storage_alone(account: Account) -> None:
    with BatchExecutor(**account.settings, pool_id="narrow") as executor:
        assert list(executor.map(work.double, range(5), chunksize=2)) == [0, 2, 4, 6, 8]
        executor.submit(work.double, 7).result(60)
        container = account.only_container()
        job = str(executor.stats().job_id)
        manifest = envelope_at(executor, container, "manifest/000001", envelope.context("manifest", job, 1))
        first = envelope_at(executor, container, "in/00000001", envelope.context("index", job, 1))
        second = envelope_at(executor, container, "in/00000002", envelope.context("index", job, 2))
    assert (manifest["callable"], manifest["items"]) == ("double", 5)
    assert manifest["chunks"] == [[0, 0, 2], [1, 2, 2], [2, 4, 1]]  # chunk, its first item, how many
    assert len(manifest["code"]) == 64
    assert [(entry["chunk"], entry["items"], entry["first"]) for entry in first["chunks"]] == [
        (0, 2, 0),
        (1, 2, 2),
        (2, 1, 4),
    ]
    assert [(entry["chunk"], entry["call"], entry["map"]) for entry in second["chunks"]] == [(3, "double", False)]


def test_of_much_output_the_tail_is_with_the_result_and_all_of_it_in_storage(account: Account) -> None:
    def talk() -> None:
        for number in range(20_000):
            print(f"line {number:6d}")

    with BatchExecutor(**account.settings, pool_id="narrow", echo=False) as executor:
        future = executor.submit(talk)
        future.result(60)
        log = account.only_container().get_blob_client(names.log_blob(0, 0)).download_blob().readall()
    assert len(future.stdout()) == names.TAIL_BYTES
    assert future.stdout().endswith("line  19999\n")
    whole = b"".join(b"line %6d\n" % number for number in range(20_000))
    assert log.endswith(whole)

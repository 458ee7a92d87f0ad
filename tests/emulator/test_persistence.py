"""A service with a data directory that is killed: what it had told is there when it is started again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import manual_service
import pytest
from azure.batch import models
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import BlobBlock, BlobServiceClient, ContentSettings
from helpers_service import processes_of, until
from kept_service import Kept, kept_service
from manual_service import emulated

from batchexec.emulator.clock import ManualClock
from batchexec.emulator.persistence.datadir import DataDirectory

SLEEPS = "/bin/sleep 1000"


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    with kept_service(tmp_path / "data") as kept:
        yield kept


def everything(kept: Kept) -> dict[str, Any]:
    """All that the Batch service tells, by path."""
    found: dict[str, Any] = {}

    def look(path: str) -> list[Any]:
        found[path] = kept.get(path)
        return list(found[path].get("value", ()))

    for pool in look("/pools"):
        look(f"/pools/{pool['id']}")
        look(f"/pools/{pool['id']}/nodes")
    for job in look("/jobs"):
        path = f"/jobs/{job['id']}"
        look(path)
        look(f"{path}/taskcounts")
        if "jobPreparationTask" in job:
            look(f"{path}/jobpreparationandreleasetaskstatus")
        for task in look(f"{path}/tasks"):
            look(f"{path}/tasks/{task['id']}")
            if "nodeInfo" in task:
                look(f"{path}/tasks/{task['id']}/files?recursive=true")
    look("/nodecounts")
    return found


def all_blobs(service: BlobServiceClient) -> dict[str, Any]:
    """All that the Blob service tells."""
    found: dict[str, Any] = {}
    for container in service.list_containers(include_metadata=True):
        with service.get_container_client(container.name) as client:
            found[container.name] = dict(client.get_container_properties())
            for name in [blob.name for blob in client.list_blobs(include=["uncommittedblobs"])]:
                blob = client.get_blob_client(name)
                committed, staged = blob.get_block_list("all")
                key = f"{container.name}/{name}"
                found[f"{key} blocks"] = [[(block.id, block.size) for block in part] for part in (committed, staged)]
                if committed or not staged:
                    found[key] = blob.download_blob().readall()
                    found[f"{key} properties"] = _plain(dict(blob.get_blob_properties()))
    return found


def _plain(properties: dict[str, Any]) -> dict[str, Any]:
    return {name: dict(value) if hasattr(value, "keys") else value for name, value in properties.items()}


# What is another after a restart: the nodes have booted.
REBOOTED = {"lastBootTime", "stateTransitionTime", "startTaskInfo", "nodeAgentInfo"}


def without_boots(found: dict[str, Any]) -> dict[str, Any]:
    shown = json.loads(json.dumps(found))
    for path, answer in shown.items():
        for node in answer["value"] if path.endswith("/nodes") else ():
            for name in REBOOTED:
                node.pop(name, None)
    return dict(shown)


def at_rest(kept: Kept) -> None:
    """Wait until every node is idle and every pool steady."""
    nodes = [f"/pools/{pool['id']}/nodes" for pool in kept.get("/pools")["value"]]
    until(lambda: {node["state"] for path in nodes for node in kept.get(path)["value"]}, lambda seen: seen <= {"idle"})
    until(lambda: {pool["allocationState"] for pool in kept.get("/pools")["value"]}, lambda seen: seen <= {"steady"})


def test_all_that_was_told_is_told_again(kept: Kept) -> None:
    service, client = kept.service, kept.batch
    start = models.BatchStartTask(command_line="/bin/sh -c 'echo boot >> ../../shared/boots'", wait_for_success=True)
    pool = service.pool(nodes=2, slots=2, start_task=start, metadata=[models.BatchMetadataItem(name="a", value="ü")])
    service.pool(
        id="scaled",
        target_dedicated_nodes=None,
        enable_auto_scale=True,
        auto_scale_formula="$TargetDedicatedNodes = 1;",
        auto_scale_evaluation_interval=timedelta(minutes=5),
    )
    prep = models.BatchJobPreparationTask(id="ready", command_line="/bin/true")
    ended = service.job(pool, job_preparation_task=prep, uses_task_dependencies=True, priority=7)
    service.run(ended, "/bin/sh -c 'echo out; echo file > made.txt'", "good")
    service.run(ended, "/bin/sh -c 'exit 3'", "bad", constraints=models.BatchTaskConstraints(max_task_retry_count=1))
    service.run(ended, "/no/such/program", "absent")
    waits = models.BatchTaskDependencies(task_ids=["good", "never"])
    service.task(ended, "/bin/true", "blocked", depends_on=waits)
    limits = models.BatchJobConstraints(max_wall_clock_time=timedelta(hours=5))
    disabled = service.job(pool, constraints=limits, metadata=[models.BatchMetadataItem(name="b", value="c")])
    client.begin_disable_job(
        disabled, models.BatchJobDisableOptions(disable_tasks="requeue"), polling_interval=0
    ).wait()
    service.task(disabled, "/bin/true", "waits", required_slots=2)
    over = service.job(pool)
    service.task(over, "/bin/true")
    service.completed(over)
    client.begin_terminate_job(over, options={"terminateReason": "enough"}, polling_interval=0).wait()
    client.update_job(ended, models.BatchJobUpdateOptions(max_parallel_tasks=5))
    at_rest(kept)

    before = everything(kept)
    kept.restart()
    at_rest(kept)
    assert without_boots(everything(kept)) == without_boots(before)
    # The files of completed tasks are where they were, and the start task ran again in the same directories.
    assert service.output(ended, "good") == "out\n"
    assert service.output(ended, "good", "wd/made.txt") == "file\n"
    for node in client.list_nodes(pool):
        assert (kept.data / "nodes" / str(node.id) / "shared" / "boots").read_text() == "boot\nboot\n"
    # Counting goes on: no ETag comes twice.
    known = {entry["eTag"] for answer in before.values() for entry in answer.get("value", ()) if "eTag" in entry}
    service.task(ended, "/bin/true", "new")
    assert kept.get(f"/jobs/{ended}/tasks/new")["eTag"] not in known
    # The waiting task's job goes on, and it comes to its end.
    client.begin_enable_job(disabled, polling_interval=0).wait()
    assert service.completed(disabled, "waits").execution_info.exit_code == 0


def test_all_blobs_are_there_again(kept: Kept) -> None:
    blobs = kept.blobs
    first = blobs.create_container("first", metadata={"kind": "a"})
    first.upload_blob("small", b"content", metadata={"Case": "kept"})
    first.upload_blob("empty", b"", content_settings=ContentSettings(content_type="text/x", cache_control="none"))
    large = os.urandom(3_000_000)
    first.upload_blob("dir/large ü", large)
    parts = first.get_blob_client("of blocks")
    parts.stage_block("aa", os.urandom(100))
    parts.stage_block("bb", os.urandom(200_000))
    parts.commit_block_list([BlobBlock("bb"), BlobBlock("aa")])
    parts.stage_block("cc", b"uncommitted")
    first.get_blob_client("only staged").stage_block("dd", os.urandom(100_000))
    first.upload_blob("changed", b"one")
    first.upload_blob("changed", b"two", overwrite=True)
    first.get_blob_client("changed").set_blob_metadata({"new": "yes"})
    second = blobs.create_container("second")
    second.get_blob_client("copy").start_copy_from_url(first.get_blob_client("dir/large ü").url)
    second.upload_blob("gone", os.urandom(100_000))
    second.delete_blob("gone")
    blobs.create_container("third").upload_blob("old", b"old")
    blobs.delete_container("third")
    blobs.create_container("third").upload_blob("new", b"new")
    second.set_container_metadata({"later": "1"})

    before = all_blobs(blobs)
    files = {path.name for path in (kept.data / "blobs").iterdir()}
    (kept.data / "blobs" / "00ffffff.bin").write_bytes(b"written, and never told")
    for _ in range(2):
        kept.restart()
        assert all_blobs(blobs) == before
        assert {path.name for path in (kept.data / "blobs").iterdir()} == files
    assert len(files) == 3  # the large one, which its copy shares; a block of each blob of blocks

    # The first writer has won, whatever happened since.
    with pytest.raises(HttpResponseError) as error:
        first.upload_blob("small", b"another")
    assert error.value.error_code == "BlobAlreadyExists"
    etags = {value["etag"] for name, value in before.items() if name.endswith("properties")}
    assert first.get_blob_client("after").upload_blob(b"")["etag"] not in etags
    # Files go with what referred to them.
    parts.commit_block_list([BlobBlock("cc")])
    for container in ("first", "second"):
        blobs.delete_container(container)
    until(lambda: list((kept.data / "blobs").iterdir()), lambda left: not left)


def test_tasks_at_work_go_back_to_the_queue_and_run_again(kept: Kept, tmp_path: Path) -> None:
    service, client = kept.service, kept.batch
    pool = service.pool(nodes=1, slots=2)
    job = service.job(pool)
    mark = tmp_path / "mark"
    # The first time it stays; with a child in another session, which no process group has.
    script = f"echo run >> {mark}; [ $(wc -l < {mark}) = 1 ] && (setsid sleep 300 & sleep 300); echo done"
    service.task(job, f'/bin/sh -c "{script}"', "long")
    service.task(job, SLEEPS, "terminated")
    service.task(job, "/bin/true", "waiting", required_slots=2)
    until(mark.exists)
    service.running(job, "terminated")
    node = client.get_task(job, "long").node_info.node_id
    at_work = [SLEEPS, "sleep 300", "sleep 300"]
    processes = until(
        lambda: processes_of(str(kept.data / "nodes")),
        lambda found: sorted(line.strip() for line in found.values() if line.strip() in at_work) == at_work,
    )
    client.terminate_task(job, "terminated")
    # Whatever the launcher would do at the end of its emulator, it does no more.
    launchers = [pid for pid, command in processes.items() if "_forkserver" in command]
    for pid in launchers:
        os.kill(pid, signal.SIGSTOP)
    kept.restart()
    assert not set(processes) & set(processes_of(str(kept.data / "nodes")))
    again = service.completed(job, "long")
    assert (again.execution_info.exit_code, again.execution_info.result) == (0, "success")
    assert (again.execution_info.retry_count, again.execution_info.requeue_count) == (0, 0)
    assert again.node_info.node_id == node
    assert mark.read_text() == "run\nrun\n"
    # Its end was asked for, and told: it does not come back to life.
    ended = service.completed(job, "terminated").execution_info
    assert ended.failure_info is not None
    assert ended.failure_info.code == "TaskEnded"
    service.completed(job, "waiting")


def test_what_had_begun_comes_to_its_end(kept: Kept) -> None:
    service, client = kept.service, kept.batch
    pool, doomed = service.pool(nodes=1), service.pool(nodes=2)
    jobs = {name: service.job(pool) for name in ("deleted", "terminated", "disabled")}
    for job in jobs.values():
        service.task(job, SLEEPS)
    client.begin_delete_job(jobs["deleted"], polling_interval=60)
    client.begin_terminate_job(jobs["terminated"], options={"terminateReason": "over"}, polling_interval=60)
    client.begin_disable_job(
        jobs["disabled"], models.BatchJobDisableOptions(disable_tasks="requeue"), polling_interval=60
    )
    client.begin_delete_pool(doomed, polling_interval=60)
    client.begin_resize_pool(pool, models.BatchPoolResizeOptions(target_dedicated_nodes=2), polling_interval=60)
    kept.restart()
    until(
        lambda: {job["id"]: job["state"] for job in kept.get("/jobs")["value"]},
        lambda jobs_now: jobs_now == {jobs["terminated"]: "completed", jobs["disabled"]: "disabled"},
    )
    until(lambda: [found["id"] for found in kept.get("/pools")["value"]], lambda pools: pools == [pool])
    at_rest(kept)
    assert len(kept.get(f"/pools/{pool}/nodes")["value"]) == 2
    assert client.get_job(jobs["terminated"]).execution_info.termination_reason == "over"
    assert client.get_task(jobs["disabled"], "t").state == "active"
    nodes = {str(node.id) for node in client.list_nodes(pool)}
    until(lambda: {path.name for path in (kept.data / "nodes").iterdir()}, lambda found: found <= nodes)


def test_a_job_s_time_goes_on(kept: Kept) -> None:
    limits = models.BatchJobConstraints(max_wall_clock_time=timedelta(hours=1))
    job = kept.service.job(kept.service.pool(nodes=0), constraints=limits)
    begun = kept.batch.get_job(job).execution_info.start_time
    kept.kill()

    async def play() -> None:
        clock = ManualClock(begun + timedelta(minutes=59))
        async with emulated(kept.data, clock, data=DataDirectory(kept.data)) as here:
            clock.advance(59)
            assert (await here.client.get_job(job)).state == "active"
            clock.advance(1)
            found = await manual_service.until(lambda: here.client.get_job(job), lambda job: job.state == "completed")
            assert found.execution_info.termination_reason == "MaxWallClockTimeExpiry"
            assert found.execution_info.end_time - begun == timedelta(hours=1)

    asyncio.run(play())


def test_a_quiet_end_keeps_everything_too(kept: Kept) -> None:
    service = kept.service
    job = service.job(service.pool(nodes=1))
    service.task(job, SLEEPS)
    service.until(lambda: kept.batch.get_task(job, "t"), lambda task: task.state == "running")
    kept.blobs.create_container("box").upload_blob("a", b"a")
    assert kept.stop() == 0
    assert not processes_of(str(kept.data / "nodes"))
    kept.start()
    assert service.until(lambda: kept.batch.get_task(job, "t"), lambda task: task.state == "running").id == "t"
    assert kept.blobs.get_blob_client("box", "a").download_blob().readall() == b"a"


def started(data: Path, *options: str) -> tuple[int, str]:
    """What becomes of a service that is not to start: its exit code, and its last line on stderr."""
    command = [sys.executable, "-m", "batchexec.emulator", "--json", "--data-dir", str(data), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, stdin=subprocess.DEVNULL)
    assert (done.returncode == 1) == bool(done.stdout)  # that what was kept is damaged shows when clients know it
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.strip().splitlines()[-1]


def test_a_directory_that_cannot_be_used_is_refused(kept: Kept, tmp_path: Path) -> None:
    code, message = started(kept.data)
    assert code == 2
    assert f"is in use by another emulator (process {kept.process.pid})" in message

    assert started(kept.data, "--root", str(tmp_path))[0] == 2
    kept.kill()
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port = int(kept.ready["batch_endpoint"].rpartition(":")[2])
        taken.bind(("127.0.0.1", port))
        taken.listen()
        code, message = started(kept.data)
        assert (code, f"port {port}" in message, "--port" in message) == (2, True, True)

    database = sqlite3.connect(kept.data / "emulator.db")
    database.execute("PRAGMA user_version = 99")
    database.close()
    code, message = started(kept.data)
    assert (code, "later version" in message) == (2, True)

    database = sqlite3.connect(kept.data / "emulator.db")
    database.execute("PRAGMA user_version = 1")
    (first,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'resource'").fetchone()
    (size,) = database.execute("PRAGMA page_size").fetchone()
    database.close()
    with open(kept.data / "emulator.db", "r+b") as file:
        file.seek((first - 1) * size)
        file.write(b"?" * size)
    code, message = started(kept.data)
    assert (code, "damaged" in message) == (1, True)

    foreign = tmp_path / "foreign"
    foreign.mkdir()
    database = sqlite3.connect(foreign / "emulator.db")
    database.execute("CREATE TABLE other(x)")
    database.close()
    code, message = started(foreign)
    assert (code, "no database of the emulator" in message) == (2, True)

    (tmp_path / "file").write_text("")
    assert started(tmp_path / "file")[0] == 2


def test_keys_and_ports_are_kept_for_their_owner_alone(kept: Kept, tmp_path: Path) -> None:
    before = {**kept.ready, "pid": None}
    kept.restart()
    assert {**kept.ready, "pid": None} == before
    for path in [kept.data, *kept.data.glob("*.json"), *kept.data.glob("emulator.db*")]:
        assert path.stat().st_mode & 0o077 == 0, path
    kept.kill()
    # Who says otherwise is obeyed, and the next run knows it.
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"batch_key": "A" * 44}))
    keys.chmod(0o600)
    other = Kept(kept.data, "--keys", str(keys))
    assert other.ready["batch_key"] == "A" * 44
    assert other.ready["storage_key"] == before["storage_key"]
    assert other.stop() == 0
    kept.start()
    assert kept.ready["batch_key"] == "A" * 44

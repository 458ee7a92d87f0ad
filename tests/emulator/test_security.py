"""Attacks from within: links and pipes that a task, or a container that sees its node, puts in the service's way."""

from __future__ import annotations

import gzip
import os
import threading
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from azure.batch import models
from azure.storage.blob import BlobServiceClient, ContainerClient, ContentSettings
from batch_service import Service, emulator, refused, service
from helpers_http import serving
from kept_service import Kept
from raw_wire import Wire, batch_signature
from test_batch_output_files import blobs, box, output, sas

from batchexec.emulator.blob.containers import _after
from batchexec.emulator.identity.tls import give

__all__ = ["box", "service"]

AGAIN = models.BatchTaskConstraints(max_task_retry_count=1)


@pytest.fixture(scope="module")
def pool(service: Service) -> str:
    return service.pool()


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory of the user's, with a file; afterwards it must be as it was."""
    (tmp_path / "outside" / "t").mkdir(parents=True)
    (tmp_path / "outside" / "kept").write_text("mine")
    (tmp_path / "outside" / "t" / "kept").write_text("mine")
    return tmp_path / "outside"


def untouched(outside: Path) -> bool:
    names = sorted(str(path.relative_to(outside)) for path in outside.rglob("*"))
    return names == ["kept", "t", "t/kept"] and (outside / "kept").read_text() == "mine"


def code(task: models.BatchTask) -> str | None:
    assert task.execution_info is not None
    return task.execution_info.failure_info and str(task.execution_info.failure_info.code)


# What a first run leaves for the second


@pytest.mark.parametrize("trap", ["mkfifo", "ln -s {outside}/kept", "ln {outside}/kept"])
@pytest.mark.parametrize("name", ["wd/file", "stdout.txt", "stderr.txt", "fileuploadout.txt", "fileuploaderr.txt"])
def test_what_a_task_leaves_under_a_name_of_the_service_is_replaced(
    service: Service, pool: str, outside: Path, trap: str, name: str
) -> None:
    job = service.job(pool)
    file = models.ResourceFile(http_url=service.blob(b"content"), file_path="file")
    trap = trap.format(outside=outside)
    script = f"cd ..; [ -e tried ] && exit; touch tried; rm -f {name}; {trap} {name}; exit 1"
    outputs = [output(f"{service.info['blob_endpoint']}/absent?x", "../tried", when="tasksuccess")]
    task = service.run(job, f"/bin/sh -c '{script}'", resource_files=[file], constraints=AGAIN, output_files=outputs)
    if name == "wd/file" and "ln -s" in trap:  # followed as far as it stays inside
        assert code(task) == "ResourceFileCreateFailed"
    else:
        assert (task.execution_info.exit_code, code(task)) == (0, "FileUploadAccessDenied")  # type: ignore[union-attr]
    assert untouched(outside)


@pytest.mark.parametrize("level", ["wd", "t", "job-1", "."])
def test_a_directory_that_became_a_link_is_not_gone_through(
    service: Service, pool: str, outside: Path, level: str
) -> None:
    job = service.job(pool)
    directory = service.run(job, "true", "first") and service.node_root(job, "first") / "workitems" / job / "job-1"
    place = {"wd": "/t/wd", "t": "/t", "job-1": "", ".": "/.."}[level]
    target = outside if level != "." else outside / "t"
    script = f"cd /; mv {os.path.normpath(f'{directory}{place}')} {directory.parent.parent}/aside-{job}"
    script += f"; ln -s {target} {os.path.normpath(f'{directory}{place}')}; exit 1"
    task = service.run(job, f"/bin/sh -c '{script}'", constraints=AGAIN)
    assert code(task) == "ResourceDirectoryCreateFailed"
    if level != "wd":
        with refused("TaskFilesUnavailable", 409):
            list(service.client.list_task_files(job, "t"))
    service.client.delete_task(job, "t")
    service.client.begin_delete_job(job, polling_interval=0.01).result()
    assert untouched(outside)


def test_a_link_at_the_top_is_not_listed_through(service: Service, pool: str, outside: Path) -> None:
    job = service.job(pool)
    service.run(job, f"/bin/sh -c 'ln -s {outside} ../top'")
    names = [str(file.name) for file in service.client.list_task_files(job, "t", recursive=True)]
    assert "top" in names
    assert not [name for name in names if "kept" in name]


# Between two moments


def test_a_file_that_becomes_something_else_while_others_are_uploaded_is_not_followed(
    service: Service, pool: str, outside: Path
) -> None:
    came, goes_on, taken = threading.Event(), threading.Event(), []

    class Held(BaseHTTPRequestHandler):
        """Takes uploads; the first waits until it is told to go on."""

        def do_PUT(self) -> None:
            taken.append(self.rfile.read(int(self.headers["Content-Length"])))
            came.set()
            goes_on.wait(60)
            self.send_response(201)
            self.send_header("Content-Length", "0")
            self.end_headers()

    job = service.job(pool)
    with serving(Held) as url:
        service.task(
            job,
            "/bin/sh -c 'for name in a b c; do echo fine > $name.txt; done'",
            output_files=[output(f"{url}/box", "*.txt")],
        )
        assert came.wait(60)
        directory = service.node_root(job) / "workitems" / job / "job-1" / "t" / "wd"
        (directory / "b.txt").unlink()
        (directory / "b.txt").symlink_to(outside / "kept")
        (directory / "c.txt").unlink()
        os.mkfifo(directory / "c.txt")
        goes_on.set()
        assert code(service.completed(job)) == "FileUploadMiscError"
        assert taken == [b"fine\n"]


def test_a_device_or_pipe_is_no_zipapp(service: Service, pool: str) -> None:
    job = service.job(pool)
    for id, path in (("device", "/dev/zero"), ("pipe", "pipe")):
        setting = models.EnvironmentSetting(name="BATCHEXEC_FORK_SERVER", value=f"{path}:module:0")
        script = "[ -e pipe ] && exit; mkfifo pipe; exit 1"
        task = service.run(job, f"/bin/sh -c '{script}'", id, environment_settings=[setting], constraints=AGAIN)
        assert code(task) is None


# The node's own directory


def test_the_nodes_log_is_no_way_out(service: Service, outside: Path, box: ContainerClient) -> None:
    pool = service.pool()
    job = service.job(pool)
    service.run(job, "true", "first")
    logs = service.node_root(job, "first") / "sys"
    service.run(job, f"/bin/sh -c 'cd {logs}; rm agent.log; mkfifo agent.log; ln -s {outside}/kept secret.log'")
    (node,) = service.client.list_nodes(pool)
    service.client.begin_reboot_node(pool, node.id, options={"nodeRebootOption": "requeue"})
    service.until((logs / "agent.log").is_file, bool)
    sent = service.client.upload_node_logs(
        pool,
        node.id,
        models.UploadBatchServiceLogsOptions(
            container_url=sas(service, box),
            start_time=datetime.now(timezone.utc) - timedelta(hours=1),
        ),
    )
    service.until(lambda: blobs(box), lambda found: len(found) == sent.number_of_files_uploaded)
    assert b"mine" not in blobs(box).values()


def test_a_restart_deletes_nothing_behind_a_link(tmp_path: Path, outside: Path) -> None:
    kept = Kept(tmp_path / "data")
    try:
        kept.service.job(kept.service.pool())
        kept.service.run("job2", "true")
        job = kept.service.node_root("job2") / "workitems" / "job2"
        (job / "job-1").rename(tmp_path / "aside")
        (job / "job-1").symlink_to(outside)
        kept.restart()
        assert kept.batch.get_task("job2", "t").state == "completed"
    finally:
        assert kept.stop() == 0
        kept.batch.close()
        kept.blobs.close()
    assert untouched(outside)


def test_what_is_kept_is_for_its_owner_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with emulator(tmp_path) as (service, _):
        service.run(service.job(service.pool()), "true")
        assert {path.name for path in tmp_path.iterdir() if path.stat().st_mode & 0o077} == {"bin"}


def test_no_node_can_change_whom_clients_trust(tmp_path: Path) -> None:
    bundle = tmp_path / "ca-bundle.pem"
    bundle.write_text("authorities")
    (tmp_path / "node").mkdir()
    give(bundle, tmp_path / "node")
    (tmp_path / "node" / bundle.name).write_text("another")
    assert bundle.read_text() == "authorities"


# Requests


def test_a_name_and_password_in_an_address_are_not_shown(service: Service, pool: str) -> None:
    address = service.info["blob_endpoint"].replace("//", "//user:secret@")
    file = models.ResourceFile(http_url=f"{address}/absent/blob", file_path="file")
    outputs = [output(f"{address}/absent", "../stdout.txt")]
    job = service.job(pool)
    for id, more in (("in", {"resource_files": [file]}), ("out", {"output_files": outputs})):
        shown = str(service.run(job, "true", id, **more).execution_info.failure_info.as_dict())  # type: ignore[union-attr]
        assert service.info["blob_endpoint"] in shown
        assert "secret" not in shown
    assert "secret" not in service.output(job, "out", "fileuploaderr.txt")


def test_a_compressed_blob_is_not_blown_up(service: Service, pool: str) -> None:
    packed = gzip.compress(bytes(1 << 20))
    url = service.blob(None)
    storage = BlobServiceClient.from_connection_string(service.info["connection_string"])
    with storage, storage.get_blob_client(f"container{service.count}", "blob") as blob:
        blob.upload_blob(packed, content_settings=ContentSettings(content_encoding="gzip"))
    job = service.job(pool)
    service.run(job, "/bin/sh -c 'wc -c < file'", resource_files=[models.ResourceFile(http_url=url, file_path="file")])
    assert int(service.output(job)) == len(packed)


def batch(service: Service, method: str, path: str, body: bytes = b"", query: str = "", unsigned: str = "") -> int:
    """The status of a signed request; `unsigned` is added to the query afterwards."""
    wire = Wire(service.info["batch_endpoint"])
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Host": wire.host}
    account, key = service.info["account"], service.info["batch_key"]
    headers["Authorization"] = batch_signature(account, key, method, path, query, headers)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    reply = wire.exchange(f"{method} {path}?{query}{unsigned} HTTP/1.1\r\n{lines}\r\n".encode() + body)
    wire.close()
    assert reply is not None
    return reply.status


def test_bodies_that_cannot_be_are_refused(service: Service, pool: str) -> None:
    job, version = service.job(pool), "api-version=2025-06-01"
    assert batch(service, "POST", "/emulator/faults", b"[" * 100_000) == 400
    container = '{"containerUrl":"http://[x"}'
    condition = '"uploadOptions":{"uploadCondition":"taskcompletion"}'
    for more in (
        f'"outputFiles":[{{"filePattern":"x","destination":{{"container":{container}}},{condition}}}]',
        '"containerSettings":{"imageName":"--privileged"}',
        '"containerSettings":{"imageName":"a\\u0000b"}',
        '"containerSettings":{"imageName":"a","registry":"b"}',
        '"containerSettings":{"imageName":"a","containerHostBatchBindMounts":"Task"}',
    ):
        body = f'{{"id":"t","commandLine":"true",{more}}}'.encode()
        assert batch(service, "POST", f"/jobs/{job}/tasks", body, version) == 400, more


def test_a_parameter_added_to_a_signed_request_changes_nothing(service: Service) -> None:
    query = "$filter=id%20eq%20%27a%27&api-version=2025-06-01"
    assert batch(service, "GET", "/jobs", query=query) == 200
    assert batch(service, "GET", "/jobs", query=query, unsigned="&$filter=nonsense") == 200
    assert batch(service, "GET", "/jobs", query=query, unsigned="&more=nonsense") == 403


def test_a_body_with_two_lengths_is_not_taken(service: Service) -> None:
    for endpoint in (service.info["batch_endpoint"], service.info["blob_endpoint"]):
        wire = Wire(endpoint)
        head = f"POST / HTTP/1.1\r\nHost: {wire.host}\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
        reply = wire.exchange(f"{head}0\r\n\r\nGET /second HTTP/1.1\r\nHost: {wire.host}\r\n\r\n".encode())
        assert reply is not None
        assert reply.status == 400
        assert wire.exchange(b"") is None  # it hangs up: there is no second reply
        wire.close()


@pytest.mark.parametrize("delimiter", ["/", "\U0010ffff"])
def test_a_list_by_the_last_of_all_characters_ends(service: Service, box: ContainerClient, delimiter: str) -> None:
    last = "\U0010ffff"
    for name in (f"a{last}b", f"a{last}{last}", "a/b", f"{last}{last}c", "z"):
        box.upload_blob(name, b"")
    shown = sorted(item.name for item in box.walk_blobs(delimiter=delimiter))
    found = ["a/", f"a{last}b", f"a{last}{last}", "z", f"{last}{last}c"]
    assert shown == (found if delimiter == "/" else ["a/b", f"a{last}", "z", last])
    assert _after(f"a{last}{last}") == "b"

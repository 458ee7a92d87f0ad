"""Files of tasks and nodes: names, ranges, lists, deletion, and no way out of their directory."""

from __future__ import annotations

import base64
import hmac
import os
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from azure.batch import models
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from batch_service import Service, refused, service

__all__ = ["service"]

NAMES = ["a b.txt", "ü€😀", "per%20cent", "new\nline", "quote'\"", "plus+&=?#", "...", "back\\slash", "-"]


@pytest.fixture(scope="module")
def pool(service: Service) -> str:
    return service.pool()


@pytest.fixture(scope="module")
def done(service: Service, pool: str) -> tuple[str, Path]:
    """A job whose task `t` is done, and the directory of that task."""
    job = service.job(pool)
    service.run(job, "/bin/sh -c 'mkdir -p sub/deep; echo one > sub/one; echo two > sub/deep/two; echo out'")
    return job, service.node_root(job) / "workitems" / job / "job-1" / "t"


def code_of(error: HttpResponseError) -> tuple[str, int]:
    """Code and status of an error to a download, the body of which the SDK has not read."""
    assert error.response is not None
    error.response.read()  # type: ignore[attr-defined]
    return error.response.json()["code"], error.response.status_code or 0


def test_a_name_may_have_any_characters(service: Service, done: tuple[str, Path]) -> None:
    job, directory = done
    (directory / "wd" / "odd").mkdir()
    for name in NAMES:
        (directory / "wd" / "odd" / name).write_text(name)
    listed = [file.name for file in service.client.list_task_files(job, "t", recursive=True)]
    assert [name for name in listed if name.startswith("wd/odd/")] == sorted(f"wd/odd/{name}" for name in NAMES)
    for name in NAMES:
        assert service.output(job, name=f"wd/odd/{name}") == name
        assert service.client.get_task_file_properties(job, "t", f"wd/odd/{name}").content_length == len(name.encode())
        service.client.delete_task_file(job, "t", f"wd/odd/{name}")
    assert os.listdir(directory / "wd" / "odd") == []


def test_a_name_need_not_be_text(service: Service, done: tuple[str, Path]) -> None:
    job, directory = done
    path = os.fsencode(directory / "wd") + b"/\xff\xfe"
    Path(os.fsdecode(path)).write_text("bytes")
    (shown,) = [file for file in service.client.list_task_files(job, "t", recursive=True) if "\ufffd" in str(file.name)]
    assert str(shown.url).endswith("wd%2F%FF%FE")
    assert raw(service, "GET", str(shown.url)) == (200, b"bytes")
    os.unlink(path)


def raw(service: Service, method: str, url: str) -> tuple[int, bytes]:
    """A signed request to exactly this address: client libraries tidy it up first."""
    parts = urlsplit(url)
    date = format_datetime(datetime.now(timezone.utc), usegmt=True)
    length = "" if method in ("GET", "HEAD") else "0"
    lines = [method, "", "", length, *[""] * 8, f"ocp-date:{date}", f"/{service.info['account']}{parts.path}"]
    text = "\n".join([*lines, "api-version:2025-06-01"])
    mac = hmac.new(base64.b64decode(service.info["batch_key"]), text.encode(), "sha256")
    signature = base64.b64encode(mac.digest()).decode()
    connection = HTTPConnection(parts.netloc, timeout=60)
    connection.request(
        method,
        f"{parts.path}?api-version=2025-06-01",
        headers={"ocp-date": date, "Authorization": f"SharedKey {service.info['account']}:{signature}"},
    )
    reply = connection.getresponse()
    body = reply.read()
    connection.close()
    return reply.status, body


def test_slashes_may_be_encoded_or_not(service: Service, done: tuple[str, Path]) -> None:
    url = f"{service.info['batch_endpoint']}/jobs/{done[0]}/tasks/t/files/"
    for path in ("wd/sub/deep/two", "wd%2Fsub%2Fdeep%2Ftwo", "wd/sub%2Fdeep/two", "wd/sub/../sub/deep/two"):
        assert raw(service, "GET", url + path) == (200, b"two\n"), path


@pytest.mark.parametrize(
    ("asked", "content"),
    [("bytes=0-3", b"0123"), ("bytes=7-", b"789"), ("bytes=9-100", b"9"), (None, b"0123456789")],
)
def test_parts_of_a_file(service: Service, done: tuple[str, Path], asked: str | None, content: bytes) -> None:
    job, directory = done
    (directory / "wd" / "digits").write_text("0123456789")
    more = {"ocp_range": asked} if asked else {}
    assert b"".join(service.client.download_task_file(job, "t", "wd/digits", **more)) == content


@pytest.mark.parametrize(
    ("asked", "code", "status"),
    [
        ("bytes=10-12", "InvalidRange", 416),
        ("bytes=5-4", "InvalidRange", 416),
        ("bytes=-4", "InvalidHeaderValue", 400),
        ("lines=1-2", "InvalidHeaderValue", 400),
    ],
)
def test_parts_that_are_not_there(service: Service, done: tuple[str, Path], asked: str, code: str, status: int) -> None:
    job, directory = done
    (directory / "wd" / "digits").write_text("0123456789")
    with pytest.raises(HttpResponseError) as caught:
        b"".join(service.client.download_task_file(job, "t", "wd/digits", ocp_range=asked))
    assert code_of(caught.value) == (code, status)


def test_a_large_file_is_not_read_into_memory(service: Service, done: tuple[str, Path]) -> None:
    job, directory = done
    size = 150 << 20
    with open(directory / "wd" / "large", "wb") as file:
        file.truncate(size)
        file.seek(size - 3)
        file.write(b"end")
    before = memory(service.info["pid"])
    read, last = 0, b""
    for part in service.client.download_task_file(job, "t", "wd/large"):
        read, last = read + len(part), part
    assert (read, last[-3:]) == (size, b"end")
    assert memory(service.info["pid"]) - before < 60 << 20
    (directory / "wd" / "large").unlink()


def memory(pid: int) -> int:
    """Bytes of memory that a process has, at the most it ever had."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


def test_lists_are_filtered_and_paged(service: Service, done: tuple[str, Path]) -> None:
    job, _ = done

    def names(**how: Any) -> list[str]:
        return [str(file.name) for file in service.client.list_task_files(job, "t", **how)]

    assert names() == ["stderr.txt", "stdout.txt", "wd"]
    under = names(recursive=True, filter="startswith(name,'wd/sub')")
    assert under == ["wd/sub", "wd/sub/deep", "wd/sub/deep/two", "wd/sub/one"]
    pages = service.client.list_task_files(job, "t", recursive=True, max_results=2, filter="startswith(name,'wd/sub')")
    assert [[file.name for file in page] for page in pages.by_page()] == [under[:2], under[2:]]
    with refused("InvalidQueryParameterValue", 400):
        names(filter="name eq 'wd'")
    below = service.client.list_task_files(job, "t", recursive=True, filter="startswith(name,'wd/sub/')")
    directory, _, file = below
    assert (directory.is_directory, file.is_directory, directory.properties) == (True, False, None)
    assert file.properties.content_length == 4
    assert file.properties.file_mode.startswith("0o100")


def test_a_directory_has_properties_and_no_content(service: Service, done: tuple[str, Path]) -> None:
    job, _ = done
    seen: dict[str, str] = {}
    service.client.get_task_file_properties(
        job, "t", "wd/sub", raw_response_hook=lambda reply: seen.update(reply.http_response.headers)
    )
    assert seen["ocp-batch-file-isdirectory"] == "true"
    with pytest.raises(ResourceNotFoundError) as caught:
        service.output(job, name="wd/sub")
    assert code_of(caught.value) == ("FileNotFound", 404)


def test_files_and_directories_are_deleted(service: Service, done: tuple[str, Path]) -> None:
    job, directory = done
    for path in ("one", "two/three", "two/four/five"):
        (directory / "wd" / "gone" / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / "wd" / "gone" / path).write_text("x")
    service.client.delete_task_file(job, "t", "wd/gone/one")
    with refused("FileNotFound", 404):
        service.client.delete_task_file(job, "t", "wd/gone/one")
    with refused("OperationInvalidForCurrentState", 409):
        service.client.delete_task_file(job, "t", "wd/gone/two")
    service.client.delete_task_file(job, "t", "wd/gone/two", recursive=True)
    service.client.delete_task_file(job, "t", "wd/gone")
    assert not (directory / "wd" / "gone").exists()
    url = f"{service.info['batch_endpoint']}/jobs/{job}/tasks/t/files/"
    for path in (".", "..", "wd%2F..", "wd/../", "wd/sub/../..", "wd/%00", "%00", "x" * 3000):
        assert raw(service, "DELETE", url + path)[0] == 404
    assert directory.is_dir()


def test_a_condition_on_the_time_of_a_file(service: Service, done: tuple[str, Path]) -> None:
    job, _ = done
    now = datetime.now(timezone.utc)
    with pytest.raises(HttpResponseError) as caught:
        b"".join(service.client.download_task_file(job, "t", "stdout.txt", if_unmodified_since=now - timedelta(days=1)))
    assert code_of(caught.value) == ("ConditionNotMet", 412)
    with pytest.raises(HttpResponseError) as caught:
        service.client.get_task_file_properties(job, "t", "stdout.txt", if_modified_since=now + timedelta(days=1))
    assert caught.value.status_code == 304
    service.client.get_task_file_properties(job, "t", "stdout.txt", if_unmodified_since=now + timedelta(days=1))


# No way out


OUTSIDE = ["..", "../", "../x", "wd/../../t2/stdout.txt", "/etc/hostname", "//etc/hostname"]
OUTSIDE += [
    "wd/leak",
    "wd/leakdir/hostname",
    "wd/circle",
    "wd/pipe",
    "wd/dangling",
    "x" * 5000,
    "wd/\0",
    "wd/up/t2/stdout.txt",
]


@pytest.fixture(scope="module")
def hostile(service: Service, pool: str) -> tuple[str, Path]:
    """A task whose directory is full of traps, and another one in the same job."""
    job = service.job(pool)
    service.run(job, "echo secret", "t2")
    links = "ln -s /etc/hostname leak; ln -s /etc leakdir; ln -s circle circle; ln -s nothing dangling; ln -s ../.. up"
    service.run(job, f"/bin/sh -c '{links}; mkfifo pipe; echo fine > file; ln -s file good; ln -s ../wd here'")
    return job, service.node_root(job) / "workitems" / job / "job-1" / "t"


@pytest.mark.parametrize("path", OUTSIDE)
def test_no_name_leads_out_of_a_directory(service: Service, hostile: tuple[str, Path], path: str) -> None:
    job, _ = hostile
    url = f"{service.info['batch_endpoint']}/jobs/{job}/tasks/t/files/{quote(path, safe='')}"
    for method in ("GET", "HEAD"):
        status, body = raw(service, method, url)
        assert status == 404
        assert b"secret" not in body


def test_links_that_stay_inside_are_followed(service: Service, hostile: tuple[str, Path]) -> None:
    for path in ("wd/good", "wd/here/file", "wd/here/here/good"):
        assert service.output(hostile[0], name=path) == "fine\n"


def test_a_list_tells_nothing_of_what_is_outside(service: Service, hostile: tuple[str, Path]) -> None:
    job, _ = hostile
    found = {str(file.name): file for file in service.client.list_task_files(job, "t", recursive=True)}
    assert found["wd/leak"].properties.content_length == len("/etc/hostname"), "the link's own size"
    assert found["wd/leakdir"].is_directory is False
    assert found["wd/good"].properties.content_length == 5
    assert not [name for name in found if name.startswith(("wd/leakdir/", "wd/up/", "wd/here/"))]


def test_deleting_a_link_leaves_what_it_leads_to(service: Service, hostile: tuple[str, Path], tmp_path: Path) -> None:
    job, directory = hostile
    (tmp_path / "file").write_text("kept")
    (directory / "wd" / "victim").symlink_to(tmp_path)
    with refused("FileNotFound", 404):
        service.client.delete_task_file(job, "t", "wd/victim/file")
    service.client.delete_task_file(job, "t", "wd/victim", recursive=True)
    assert not (directory / "wd" / "victim").is_symlink()
    assert (tmp_path / "file").read_text() == "kept"


# Files of nodes, and when there are none


def test_files_of_a_node(service: Service) -> None:
    pool = service.pool(start_task=models.BatchStartTask(command_line="echo started"))
    job = service.job(pool)
    service.run(job, "/bin/sh -c 'echo here > $AZ_BATCH_NODE_SHARED_DIR/file'")
    node = next(iter(service.client.list_nodes(pool))).id
    top = [str(file.name) for file in service.client.list_node_files(pool, node)]
    assert top == ["applications", "fsmounts", "shared", "startup", "workitems"]
    every = {str(file.name) for file in service.client.list_node_files(pool, node, recursive=True)}
    assert {"shared/file", "startup/stdout.txt", f"workitems/{job}/job-1/t/stdout.txt"} <= every
    assert b"".join(service.client.download_node_file(pool, node, "startup/stdout.txt")) == b"started\n"
    assert service.client.get_node_file_properties(pool, node, "shared/file").content_length == 5
    for path in ("sys/agent.log", "shared/../sys/agent.log", "tmp", "../"):
        with pytest.raises(ResourceNotFoundError):
            service.client.get_node_file_properties(pool, node, path)
    service.client.delete_node_file(pool, node, "shared/file")
    with refused("OperationInvalidForCurrentState", 409):
        service.client.delete_node_file(pool, node, "shared", recursive=True)
    with refused("FileNotFound", 404):
        service.client.delete_node_file(pool, node, "sys", recursive=True)
    with refused("NodeNotFound", 404):
        list(service.client.list_node_files(pool, "tvmps_no"))


def test_files_that_are_not_there_yet_or_any_more(service: Service) -> None:
    pool = service.pool(nodes=0)
    job = service.job(pool)
    service.task(job, "true")
    with refused("OperationInvalidForCurrentState", 409):
        list(service.client.list_task_files(job, "t"))
    options = models.BatchPoolResizeOptions(target_dedicated_nodes=1)
    service.client.begin_resize_pool(pool, options, polling_interval=0.01).result()
    service.completed(job)
    with pytest.raises(ResourceNotFoundError):
        service.output(job, name="nothing")
    options = models.BatchPoolResizeOptions(target_dedicated_nodes=0)
    service.client.begin_resize_pool(pool, options, polling_interval=0.01).result()
    with refused("TaskFilesUnavailable", 409):
        list(service.client.list_task_files(job, "t"))
    with refused("TaskNotFound", 404):
        list(service.client.list_task_files(job, "other"))


def test_a_file_grows_while_its_task_runs(service: Service, pool: str) -> None:
    job = service.job(pool)
    service.task(job, "/bin/sh -c 'echo one; until [ -e go ]; do sleep 0.01; done; echo two; sleep 100'")
    service.until(lambda: service.client.get_task(job, "t"), lambda task: task.state == "running")
    directory = service.node_root(job) / "workitems" / job / "job-1" / "t"
    service.until(lambda: (directory / "stdout.txt").exists() and (directory / "stdout.txt").read_text(), bool)
    assert service.output(job) == "one\n"
    (directory / "wd" / "go").touch()
    service.until(lambda: service.output(job), lambda text: text == "one\ntwo\n")
    part = b"".join(service.client.download_task_file(job, "t", "stdout.txt", ocp_range="bytes=4-"))
    assert part == b"two\n"
    service.client.terminate_task(job, "t")

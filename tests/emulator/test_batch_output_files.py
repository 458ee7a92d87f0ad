"""Files that go to storage when a task has ended, and files that come from there before it starts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from azure.batch import models
from azure.storage.blob import BlobServiceClient, ContainerClient, generate_container_sas
from batch_service import Service, refused, service
from helpers_http import serving

from batchexec.emulator.node.patterns import OutsideError, find

__all__ = ["service"]


@pytest.fixture(scope="module")
def pool(service: Service) -> str:
    return service.pool()


@pytest.fixture
def box(service: Service) -> Iterator[ContainerClient]:
    service.count += 1
    storage = BlobServiceClient.from_connection_string(service.info["connection_string"])
    with storage, storage.create_container(f"box{service.count}") as container:
        yield container
        if container.exists():
            container.delete_container()


def sas(service: Service, container: ContainerClient, permission: str = "racwl") -> str:
    signature = generate_container_sas(
        service.info["storage_account"],
        container.container_name,
        account_key=service.info["storage_key"],
        permission=permission,
        expiry=datetime.now(timezone.utc) + timedelta(hours=1),
    )
    return f"{container.url}?{signature}"


def output(
    url: str, pattern: str, path: str | None = None, when: str = "taskcompletion", **more: Any
) -> models.OutputFile:
    container = models.OutputFileBlobContainerDestination(container_url=url, path=path, **more)
    return models.OutputFile(
        file_pattern=pattern,
        destination=models.OutputFileDestination(container=container),
        upload_options=models.OutputFileUploadConfiguration(upload_condition=when),
    )


def blobs(container: ContainerClient) -> dict[str, bytes]:
    return {name: container.download_blob(name).readall() for name in container.list_blob_names()}


def failure(service: Service, job: str, command: str, *files: models.OutputFile) -> tuple[int | None, str]:
    execution = service.run(job, command, output_files=list(files)).execution_info
    assert execution.failure_info, execution
    return execution.exit_code, execution.failure_info.code


# Output files


def test_files_are_uploaded_under_their_path_or_prefix(service: Service, pool: str, box: ContainerClient) -> None:
    job, url = service.job(pool), sas(service, box)
    files = [
        output(url, "one.txt", "renamed/$x y.txt"),
        output(url, "one.txt"),
        output(url, "out/*.txt", "flat"),
        output(url, "**/*.dat", "deep/"),
        output(url, "../std*.txt", "logs"),
        output(url, "$AZ_BATCH_TASK_WORKING_DIR/[ab]?.bin"),
    ]
    command = (
        "/bin/sh -c 'echo printed; mkdir -p out/in .hidden; echo 1 > one.txt; echo a > out/a.txt; echo b > out/.b.txt;"
        " echo c > out/in/c.dat; echo d > d.dat; echo h > .hidden/h.dat; echo z > a1.bin; echo z > c1.bin'"
    )
    assert service.run(job, command, output_files=files).execution_info.failure_info is None
    assert blobs(box) == {
        "renamed/$x y.txt": b"1\n",
        "one.txt": b"1\n",
        "flat/a.txt": b"a\n",
        "deep/out/in/c.dat": b"c\n",
        "deep/d.dat": b"d\n",
        "logs/stdout.txt": b"printed\n",
        "logs/stderr.txt": b"",
        "a1.bin": b"z\n",
    }
    log = service.output(job, name="fileuploadout.txt")
    assert "out/a.txt -> " in log
    assert "sig=" not in log
    assert service.output(job, name="fileuploaderr.txt") == ""


@pytest.mark.parametrize(
    ("command", "expected"),
    [("true", {"success", "completion"}), ("/bin/sh -c 'exit 3'", {"failure", "completion"})],
)
def test_conditions_say_when_files_are_uploaded(
    service: Service, pool: str, box: ContainerClient, command: str, expected: set[str]
) -> None:
    url = sas(service, box)
    files = [output(url, "../stdout.txt", when, f"task{when}") for when in ("success", "failure", "completion")]
    service.run(service.job(pool), command, output_files=files)
    assert set(blobs(box)) == expected


def test_a_large_file_goes_in_blocks_with_the_headers_asked_for(
    service: Service, pool: str, box: ContainerClient
) -> None:
    headers = [models.OutputFileUploadHeader(name="x-ms-blob-content-type", value="text/x-big")]
    files = [output(sas(service, box), name, upload_headers=headers) for name in ("big", "small")]
    command = "/bin/sh -c 'truncate -s 64M big; echo end >> big; echo small > small'"
    assert service.run(service.job(pool), command, output_files=files).execution_info.failure_info is None
    big = box.get_blob_client("big")
    assert big.get_blob_properties().size == (64 << 20) + 4
    assert big.download_blob((64 << 20) - 1).readall() == b"\0end\n"
    kinds = {blob.name: blob.content_settings.content_type for blob in box.list_blobs()}
    assert kinds == {"big": "text/x-big", "small": "text/x-big"}
    assert len(big.get_block_list("committed")[0]) > 1


def test_what_cannot_be_uploaded_fails_the_task_and_keeps_its_exit_code(
    service: Service, pool: str, box: ContainerClient
) -> None:
    job = service.job
    url, read_only = sas(service, box), sas(service, box, "r")
    assert failure(service, job(pool), "true", output(read_only, "../stdout.txt")) == (0, "FileUploadAccessDenied")
    assert failure(service, job(pool), "true", output(url, "missing.txt")) == (0, "FileUploadMiscError")
    assert failure(service, job(pool), "true", output(url, "../../*/stdout.txt")) == (0, "FileUploadMiscError")
    gone = "/bin/sh -c 'rm -rf $AZ_BATCH_TASK_DIR'"
    assert failure(service, job(pool), gone, output(url, "*")) == (0, "FileUploadMiscError")
    box.delete_container()
    name = job(pool)
    assert failure(service, name, "/bin/sh -c 'exit 5'", output(url, "../stdout.txt")) == (
        5,
        "FileUploadContainerNotFound",
    )
    assert "FileUploadContainerNotFound" in service.output(name, name="fileuploaderr.txt")


def test_a_pattern_that_matches_nothing_is_no_failure(service: Service, pool: str, box: ContainerClient) -> None:
    file = output(sas(service, box), "*.none")
    assert service.run(service.job(pool), "true", output_files=[file]).execution_info.result == "success"


def test_a_failed_upload_has_an_exit_condition_of_its_own(service: Service, pool: str, box: ContainerClient) -> None:
    job = service.job(pool, uses_task_dependencies=True)
    satisfy = models.ExitOptions(dependency_action="satisfy")
    service.task(
        job,
        "true",
        "parent",
        output_files=[output(sas(service, box), "missing.txt")],
        exit_conditions=models.ExitConditions(file_upload_error=satisfy),
    )
    depends = models.BatchTaskDependencies(task_ids=["parent"])
    assert service.run(job, "true", "child", depends_on=depends).execution_info.result == "success"


def test_an_identity_stands_for_a_signature(service: Service, pool: str, box: ContainerClient) -> None:
    identity = models.BatchNodeIdentityReference(resource_id="/subscriptions/s/identity")
    job = service.job(pool)
    box.upload_blob("in/a", b"content")
    source = models.ResourceFile(storage_container_url=box.url, blob_prefix="in/", identity_reference=identity)
    one = models.ResourceFile(http_url=f"{box.url}/in/a", file_path="b", identity_reference=identity)
    file = output(box.url, "b", "out", identity_reference=identity)
    found = service.run(job, "cmp in/a b", resource_files=[source, one], output_files=[file])
    assert found.execution_info.failure_info is None
    assert blobs(box)["out"] == b"content"


@pytest.mark.parametrize(
    "destination",
    [
        {"containerUrl": "container"},
        {"containerUrl": "http://127.0.0.1/"},
        {"containerUrl": "http://127.0.0.1/c", "uploadHeaders": [{"name": "a b"}]},
        {"containerUrl": "http://127.0.0.1/c", "uploadHeaders": [{"name": "a", "value": "b\r\nc: d"}]},
    ],
)
def test_destinations_that_cannot_be_are_refused(service: Service, pool: str, destination: Any) -> None:
    file = {"filePattern": "x", "destination": {"container": destination}}
    file["uploadOptions"] = {"uploadCondition": "taskCompletion"}
    body: Any = {"id": "t", "commandLine": "true", "outputFiles": [file]}
    with refused("InvalidPropertyValue", 400):
        service.client.create_task(service.job(pool), body)


# Patterns


def test_patterns_do_not_leave_the_task_directory(tmp_path: Path) -> None:
    root, outside = tmp_path / "task", tmp_path / "outside"
    for directory in (root / "wd" / "real", outside):
        directory.mkdir(parents=True)
    (outside / "secret").touch()
    (root / "wd" / "real" / "file").touch()
    os.symlink(outside / "secret", root / "wd" / "leak")
    os.symlink(outside, root / "wd" / "away")
    os.symlink(root / "wd" / "real", root / "wd" / "inner")
    os.symlink(root / "wd", root / "wd" / "real" / "loop")
    for pattern in ("*", "**/*", "away/*", "leak", "*/secret", "**/secret"):
        assert all("secret" not in path for path, _ in find(pattern, str(root), {}).files), pattern
        assert all("leak" not in path for path, _ in find(pattern, str(root), {}).files), pattern
    assert [name for _, name in find("inner/*", str(root), {}).files] == ["file"]
    for pattern in ("../../outside/*", "/etc/hostname", "$OUT/secret", "wd/\0", "../.."):
        with pytest.raises(OutsideError):
            find(pattern, str(root), {"OUT": str(outside)})


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*", ["[x].txt", "a.txt"]),
        ("a.*", ["a.txt"]),
        ("[[]x[]].txt", ["[x].txt"]),
        ("[!a]*", ["[x].txt"]),
        ("?.txt", ["a.txt"]),
        (".*", [".dot"]),
        ("**", ["[x].txt", "a.txt", "d/e/f.txt"]),
        ("d/**/*.txt", ["e/f.txt"]),
        ("d/*/f.txt", ["e/f.txt"]),
        ("$NOT/*", []),
        ("${DIR}/*/*", ["e/f.txt"]),
    ],
)
def test_patterns_match_as_documented(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    (tmp_path / "wd" / "d" / "e").mkdir(parents=True)
    for name in ("a.txt", "[x].txt", ".dot", "d/e/f.txt"):
        (tmp_path / "wd" / name).touch()
    found = find(pattern, str(tmp_path), {"DIR": "d"})
    assert not found.single
    assert sorted(name for _, name in found.files) == expected


# Resource files of containers


def test_a_container_comes_whole_or_by_prefix(service: Service, pool: str, box: ContainerClient) -> None:
    names = [f"many/{i:02}" for i in range(20)] + ["odd/a b%20c?#é.txt", "odd/deep/er", "top", "marker/"]
    for name in names:
        box.upload_blob(name, name.encode())
    job, url = service.job(pool), sas(service, box, "rl")
    show = "/bin/sh -c 'find . -type f | sort'"
    whole = models.ResourceFile(storage_container_url=url)
    service.run(job, show, "whole", resource_files=[whole])
    assert service.output(job, "whole").splitlines() == sorted(f"./{name}" for name in names[:-1])
    part = models.ResourceFile(storage_container_url=url, blob_prefix="od", file_path="in/", file_mode="0600")
    command = "/bin/sh -c 'cat \"in/odd/a b%20c?#é.txt\"; stat -c %a in/odd/deep/er'"
    service.run(job, command, "part", resource_files=[part])
    assert service.output(job, "part") == "odd/a b%20c?#é.txt600\n"
    own = models.ResourceFile(auto_storage_container_name=box.container_name, blob_prefix="top")
    service.run(job, show, "own", resource_files=[own])
    assert service.output(job, "own") == "./top\n"


@pytest.fixture
def evil_container() -> Iterator[str]:
    """The address of a container whose listing names a blob outside."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            names = b"<Blob><Name>../../escape</Name></Blob>"
            body = b"<EnumerationResults><Blobs>" + names + b"</Blobs><NextMarker/></EnumerationResults>"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with serving(Handler) as url:
        yield f"{url}/evil"


def test_a_container_that_cannot_be_had_says_why(
    service: Service, pool: str, box: ContainerClient, evil_container: str
) -> None:
    job = service.job(pool)
    sources = {
        "ResourceFileCreateFailed": models.ResourceFile(storage_container_url=evil_container),
        "BlobAccessDenied": models.ResourceFile(storage_container_url=sas(service, box, "r")),
        "BlobNotFound": models.ResourceFile(auto_storage_container_name="absent"),
    }
    for code, source in sources.items():
        execution = service.run(job, "true", code, resource_files=[source]).execution_info
        assert (execution.failure_info.code, execution.exit_code) == (code, None)


@pytest.mark.parametrize(
    "source",
    [
        {},
        {"httpUrl": "http://h/x", "storageContainerUrl": "http://h/c", "filePath": "x"},
        {"httpUrl": "http://h/x", "filePath": "x", "blobPrefix": "y"},
        {"httpUrl": "http://h/x", "filePath": "x", "fileMode": "rw"},
    ],
)
def test_resource_files_that_cannot_be_are_refused(service: Service, pool: str, source: Any) -> None:
    body: Any = {"id": "t", "commandLine": "true", "resourceFiles": [source]}
    with refused("InvalidPropertyValue", 400):
        service.client.create_task(service.job(pool), body)

"""Nodes of a service with HTTPS: what they and their tasks trust, download and upload; a service that comes back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from azure.batch import BatchClient, models
from azure.storage.blob import BlobServiceClient, ContainerClient, generate_container_sas
from batch_service import Service
from helpers_secure import BATCH, STORAGE, Secure, running


def now() -> datetime:
    return datetime.now(timezone.utc)


@pytest.fixture(scope="module")
def secure() -> Iterator[Secure]:
    with running("--tls") as service:
        yield service


@pytest.fixture(scope="module")
def service(secure: Secure) -> Iterator[Service]:
    """The service as its owner sees it, by token."""
    bundle = secure.info["ca_bundle"]
    with BatchClient(secure.info["batch_endpoint"], secure.credential(), connection_verify=bundle) as client:
        service = Service(client, secure.info, Path())
        service.pool(id="pool")
        service.job_named("job", "pool")
        yield service


@pytest.fixture(scope="module")
def box(secure: Secure) -> Iterator[ContainerClient]:
    bundle = secure.info["ca_bundle"]
    with BlobServiceClient(secure.info["blob_endpoint"], secure.credential(), connection_verify=bundle) as blobs:
        with blobs.create_container("box") as container:
            container.upload_blob("input", b"of the blob")
            yield container


@pytest.fixture(scope="module")
def signed(secure: Secure, box: ContainerClient) -> str:
    """What makes an address in the container good for reading and writing: a user delegation SAS."""
    bundle = secure.info["ca_bundle"]
    with BlobServiceClient(secure.info["blob_endpoint"], secure.credential(), connection_verify=bundle) as blobs:
        key = blobs.get_user_delegation_key(now() - timedelta(minutes=5), now() + timedelta(days=1))
    account, expiry = secure.info["storage_account"], now() + timedelta(hours=1)
    return generate_container_sas(account, "box", user_delegation_key=key, permission="racwl", expiry=expiry)


def test_a_node_downloads_and_uploads_by_https(service: Service, box: ContainerClient, signed: str) -> None:
    given = models.ResourceFile(http_url=f"{box.url}/input?{signed}", file_path="input")
    target = models.OutputFileBlobContainerDestination(container_url=f"{box.url}?{signed}", path="out")
    done = service.run(
        "job",
        "/bin/sh -c 'tr a-z A-Z < input > output'",
        "moving",
        resource_files=[given],
        output_files=[
            models.OutputFile(
                file_pattern="output",
                destination=models.OutputFileDestination(container=target),
                upload_options=models.OutputFileUploadConfiguration(upload_condition="tasksuccess"),
            )
        ],
    )
    assert done.execution_info is not None
    assert (done.execution_info.exit_code, done.execution_info.failure_info) == (0, None)
    assert box.download_blob("out").readall() == b"OF THE BLOB"


ASKING = "import sys, urllib.request; sys.stdout.buffer.write(urllib.request.urlopen(sys.argv[1]).read())"


@pytest.mark.parametrize("program", [f'python3 -c "{ASKING}"', "curl --silent --show-error"], ids=["python", "curl"])
def test_a_tasks_programs_trust_the_service(service: Service, box: ContainerClient, signed: str, program: str) -> None:
    id = program.split()[0]
    # The signature in a setting: a command line is shown to everyone.
    settings = [models.EnvironmentSetting(name="ADDRESS", value=f"{box.url}/input?{signed}")]
    done = service.run("job", f"""/bin/sh -c '{program} "$ADDRESS"'""", id, environment_settings=settings)
    assert done.execution_info is not None
    assert done.execution_info.exit_code == 0, service.output("job", id, "stderr.txt")
    assert service.output("job", id) == "of the blob"


def test_the_authorities_lie_in_the_nodes_directory_and_are_no_secret(service: Service, secure: Secure) -> None:
    names = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AZ_BATCH_NODE_ROOT_DIR")
    service.run("job", f"/bin/sh -c 'echo {' '.join(f'${name}' for name in names)}'", "env")
    first, second, root = service.output("job", "env").split()
    assert first == second == f"{root}/ca-bundle.pem"
    assert Path(first).read_bytes() == Path(secure.info["ca_bundle"]).read_bytes()
    assert "PRIVATE" not in Path(first).read_text()


def test_a_nodes_logs_are_uploaded_by_https(service: Service, box: ContainerClient, signed: str) -> None:
    service.run("job", "true", "any")
    (node,) = service.client.list_nodes("pool")
    sent = service.client.upload_node_logs(
        "pool",
        str(node.id),
        models.UploadBatchServiceLogsOptions(
            container_url=f"{box.url}?{signed}", start_time=now() - timedelta(hours=1)
        ),
    )
    prefix = sent.virtual_directory_name
    service.until(lambda: len(list(box.list_blob_names(name_starts_with=prefix))), sent.number_of_files_uploaded.__eq__)
    assert sent.number_of_files_uploaded


def test_a_service_that_comes_back_is_the_same_to_those_who_trusted_it(tmp_path: Path) -> None:
    def look(*tokens: str) -> tuple[dict[str, str], list[str], list[int]]:
        with running("--tls", "--data-dir", str(tmp_path)) as service:
            stays = {name: value for name, value in service.info.items() if name != "pid"}
            asked = [
                status
                for batch, blob in zip(tokens[::2], tokens[1::2], strict=True)
                for status in (
                    service.ask_batch("GET", "pools", batch).status,
                    service.ask_blob("GET", "/?comp=list", blob).status,
                )
            ]
            return stays, [service.token(BATCH), service.token(STORAGE)], asked

    first, tokens, _ = look()
    again, _, asked = look(*tokens)
    assert json.dumps(first) == json.dumps(again)
    assert asked == [200, 200]

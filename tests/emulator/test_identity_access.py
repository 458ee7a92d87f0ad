"""Who may reach the local service: keys that were given, names of hosts, limits of requests, and roles on Batch."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from azure.batch import BatchClient, models
from azure.core.credentials import AzureNamedKeyCredential
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import BlobServiceClient
from batch_service import IMAGE
from helpers_secure import BATCH, STORAGE, Secure, running
from helpers_service import until

BOTH = pytest.mark.parametrize("endpoint", ["batch_endpoint", "blob_endpoint"])


@pytest.fixture(scope="module")
def service() -> Iterator[Secure]:
    with running("--tls") as service:
        yield service


@pytest.fixture(scope="module")
def plain() -> Iterator[Secure]:
    with running() as service:
        yield service


# names of hosts


@BOTH
@pytest.mark.parametrize("host", ["example.com", "127.0.0.1.example.com", "", "[::2]", "localhost.", "192.0.2.1:80"])
def test_a_request_by_another_name_is_refused_before_its_key_is_looked_at(
    plain: Secure, endpoint: str, host: str
) -> None:
    answer = plain.ask("GET", plain.info[endpoint], Host=host)
    assert (answer.status, answer.code) == (400, "InvalidHeaderValue")


@BOTH
@pytest.mark.parametrize("host", ["localhost", "LocalHost:1234", "127.0.0.1", "[::1]", "[::1]:80"])
def test_the_names_of_loopback_are_served(plain: Secure, endpoint: str, host: str) -> None:
    answer = plain.ask("GET", plain.info[endpoint], Host=host)
    assert answer.status in (401, 403)  # as without a key


def test_a_name_of_its_own_is_printed_served_and_certified() -> None:
    with running("--tls", "--name", "batch.test") as service:
        where = urlsplit(service.info["batch_endpoint"])
        assert where.hostname == "batch.test"
        with socket.create_connection(("127.0.0.1", where.port or 0), timeout=60) as raw:
            with service.trust.wrap_socket(raw, server_hostname="batch.test") as secure:
                secure.sendall(b"GET /pools HTTP/1.1\r\nHost: batch.test\r\nConnection: close\r\n\r\n")
                assert secure.recv(4096).startswith(b"HTTP/1.1 403")


def test_on_every_interface_each_address_and_the_machines_name_are_served() -> None:
    with running("--host", "0.0.0.0") as everywhere:
        endpoint = everywhere.info["batch_endpoint"]
        assert urlsplit(endpoint).hostname == socket.gethostname().lower()
        local = f"http://127.0.0.1:{urlsplit(endpoint).port}/pools"
        for host, status in (("192.0.2.1", 403), (socket.gethostname(), 403), ("example.com", 400)):
            assert everywhere.ask("GET", local, Host=host).status == status


def test_alone_it_listens_on_loopback_only(plain: Secure) -> None:
    ports = {f"{urlsplit(plain.info[name]).port:04X}" for name in ("batch_endpoint", "blob_endpoint")}
    # Until both are seen: the list is not of one moment.
    until(lambda: listening(int(plain.info["pid"])), {f"0100007F:{port}" for port in ports}.__eq__)


def listening(pid: int) -> set[str]:
    """The addresses, in hexadecimal, on which a process listens."""
    own = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            own.add(os.readlink(file))
    tables = [table for name in ("tcp", "tcp6") if (table := Path("/proc/net", name)).exists()]
    fields = [line.split() for table in tables for line in table.read_text().splitlines()[1:]]
    return {found[1] for found in fields if found[3] == "0A" and f"socket:[{found[9]}]" in own}


# limits of requests


@BOTH
def test_the_body_of_an_unknown_client_is_not_waited_for(plain: Secure, endpoint: str) -> None:
    where = urlsplit(plain.info[endpoint])
    with socket.create_connection(("127.0.0.1", where.port or 0), timeout=60) as raw:
        head = f"POST {where.path}/jobs?api-version=2025-06-01 HTTP/1.1\r\nHost: localhost\r\n"
        raw.sendall(f"{head}Content-Length: 10000000000\r\n\r\n".encode())
        status = raw.recv(4096).split()[1]
    assert status in (b"401", b"403")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_batch_has_a_megabyte_at_most(service: Secure, chunked: bool) -> None:
    body = b" " * (1 << 20)
    for extra, status, code in ((0, 400, "InvalidRequestBody"), (1, 413, "RequestBodyTooLarge")):
        sent: Any = body + b" " * extra
        if chunked:
            sent = iter([sent[:70_000], sent[70_000:]])
        answer = service.ask_batch("POST", "jobs", service.token(BATCH), sent)
        assert (answer.status, answer.code) == (status, code)


# what roles allow on Batch


def outcomes(service: Secure, *roles: str) -> str:
    """Which of these requests are allowed: read and change pools, read and change jobs."""
    token, found = service.token(BATCH, *roles), []
    for method, path, kind in (
        ("GET", "pools", "pools/read"),
        ("GET", "nodecounts", "pools/read"),
        ("POST", "pools", "pools/write"),
        ("DELETE", "pools/none", "pools/write"),
        ("GET", "jobs", "jobs/read"),
        ("POST", "jobs", "jobs/write"),
        ("POST", "jobs/none/addtaskcollection", "jobs/write"),
    ):
        answer = service.ask_batch(method, path, token, b"{}" if method == "POST" else None)
        if answer.status != 403:
            found.append(kind)
            continue
        assert answer.code == "InsufficientAccountPermissions"
        assert f"Microsoft.Batch/batchAccounts/{kind}" in answer.body.decode()
    return " ".join(dict.fromkeys(found))


@pytest.mark.parametrize(
    ("roles", "allowed"),
    [
        ((), "pools/read pools/write jobs/read jobs/write"),
        (("Azure Batch Data Contributor",), "pools/read pools/write jobs/read jobs/write"),
        (("azure-batch-data-contributor",), "pools/read pools/write jobs/read jobs/write"),
        (("Azure Batch Job Submitter",), "pools/read jobs/read jobs/write"),
        (("Azure Batch Account Reader",), "pools/read jobs/read"),
        (("Azure Batch Account Reader", "Azure Batch Job Submitter"), "pools/read jobs/read jobs/write"),
        (("Storage Blob Data Owner",), ""),
    ],
)
def test_roles_limit_what_a_token_does_on_batch(service: Secure, roles: tuple[str, ...], allowed: str) -> None:
    assert outcomes(service, *roles) == allowed


def test_a_job_submitter_uses_the_pool_that_is_there(service: Secure) -> None:
    endpoint, bundle = service.info["batch_endpoint"], service.info["ca_bundle"]
    pool = models.BatchPoolCreateOptions(
        id="there", vm_size="Standard_D4s_v5", virtual_machine_configuration=IMAGE, target_dedicated_nodes=0
    )
    with BatchClient(endpoint, service.credential(), connection_verify=bundle) as owner:
        owner.create_pool(pool)
    submitter = service.credential("Azure Batch Job Submitter")
    with BatchClient(endpoint, submitter, connection_verify=bundle) as client:
        assert [found.id for found in client.list_pools()] == ["there"]
        client.create_job(models.BatchJobCreateOptions(id="j", pool_info=models.BatchPoolInfo(pool_id="there")))
        client.create_task("j", models.BatchTaskCreateOptions(id="t", command_line="true"))
        pool.id = "another"
        with pytest.raises(HttpResponseError) as refused:
            client.create_pool(pool)
    assert refused.value.status_code == 403
    assert refused.value.error is not None
    assert refused.value.error.code == "InsufficientAccountPermissions"


# keys that were given


KEYS = {name: base64.b64encode(name.encode() * 4).decode() for name in ("batch_key", "storage_key")}


def test_keys_and_names_come_from_a_file_of_its_owner(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({**KEYS, "account": "mybatch", "storage_account": "mystorage"}))
    file.chmod(0o600)
    with running("--keys", str(file)) as service:
        found = service.info
        assert {name: found[name] for name in KEYS} == KEYS
        assert found["blob_endpoint"].endswith("/mystorage")
        credential = AzureNamedKeyCredential("mybatch", KEYS["batch_key"])
        with BatchClient(found["batch_endpoint"], credential) as client:
            assert list(client.list_pools()) == []
        with BlobServiceClient.from_connection_string(found["connection_string"]) as blobs:
            assert list(blobs.list_containers()) == []


def test_names_of_accounts_may_be_arguments() -> None:
    with running("--account", "mybatch") as one, running("--account", "a12", "--storage-account", "b12") as two:
        assert (one.info["account"], one.info["storage_account"]) == ("mybatch", "mybatch")
        assert (two.info["account"], two.info["storage_account"]) == ("a12", "b12")


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [("--host", "192.0.2.9", "(192.0.2.9, port 0)"), ("--account", "No", "account 'No' is no name of an account")],
)
def test_what_cannot_be_is_one_line(option: str, value: str, complaint: str) -> None:
    command = [sys.executable, "-m", "batchexec.emulator", "--until-eof", option, value]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=100)
    assert done.returncode == 2
    assert complaint in done.stderr.splitlines()[-1]


def test_keys_come_from_the_environment_and_go_no_further(tmp_path: Path) -> None:
    given = {f"BATCHEXEC_EMULATOR_{name.upper()}": value for name, value in KEYS.items()}
    secret = {"BATCHEXEC_EMULATOR_CLIENT_SECRET": "a secret of the client's"}
    with running("--tls", "--root", str(tmp_path), env={**os.environ, **given, **secret}) as service:
        found = service.info
        assert {name: found[name] for name in KEYS} == KEYS
        assert found["client_secret"] == "a secret of the client's"
        arguments = Path(f"/proc/{found['pid']}/cmdline").read_text()
        assert not [value for value in (*KEYS.values(), found["client_secret"]) if value in arguments]


@pytest.mark.parametrize(
    ("text", "mode", "complaint"),
    [
        ("{}", 0o644, "others may read it: chmod 600"),
        ("{", 0o600, "is no JSON"),
        ('{"batch_key": 1}', 0o600, "an object of texts is expected"),
        ('{"batchkey": ""}', 0o600, "batchkey is not known; known are account, batch_key"),
        ('{"batch_key": "short"}', 0o600, "batch_key is not a key"),
        ('{"account": "My_Batch"}', 0o600, "account 'My_Batch' is no name of an account"),
        (None, 0, "No such file"),
    ],
)
def test_bad_keys_are_one_line(tmp_path: Path, text: str | None, mode: int, complaint: str) -> None:
    file = tmp_path / "keys.json"
    if text is not None:
        file.write_text(text)
        file.chmod(mode)
    command = [sys.executable, "-m", "batchexec.emulator", "--until-eof", "--keys", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=100)
    assert done.returncode == 2
    assert complaint in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


# what is told


def test_no_secret_comes_into_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w") as stderr, running("--tls", stderr=stderr) as service:
        token = service.token(STORAGE)
        sas = f"?sv=2021-12-02&sr=b&sp=r&se=2099-01-01&sig={'s1gnature' * 4}"
        for endpoint in ("batch_endpoint", "blob_endpoint"):
            for text in (
                f"GET /box/blob{sas} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n",
                f"GET /box/blob{sas} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\x01\r\n\r\n",
                f"GET /box/blob{sas}\x01 HTTP/1.1\r\nHost: localhost\r\n\r\n",
                f"Authorization: Bearer {token}\r\n\r\n",
                f"POST /adfs/oauth2/token HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\nCookie: {token}\r\n\r\n",
            ):
                with socket.create_connection(("127.0.0.1", urlsplit(service.info[endpoint]).port or 0), 60) as raw:
                    with service.trust.wrap_socket(raw, server_hostname="localhost") as secure:
                        secure.sendall(text.encode("latin-1"))
                        assert secure.recv(4096).startswith(b"HTTP/1.")
    assert log.read_text() == ""


# from one run to the next


def test_the_authority_stays_and_its_certificate_follows_the_names(tmp_path: Path) -> None:
    def look(*options: str) -> tuple[bytes, bytes, str, str]:
        with running("--tls", "--root", str(tmp_path), *options) as service:
            certificate = Path(service.info["token_key"]).with_name("server.pem")
            authority = Path(service.info["ca_certificate"])
            tenant = service.issuer() if not options else ""
            return authority.read_bytes(), certificate.read_bytes(), service.info["client_secret"], tenant

    first, again, named = look(), look(), look("--name", "batch.test")
    assert first == again
    assert (named[0], named[2]) == (first[0], first[2])
    assert named[1] != first[1]
    assert ssl.PEM_cert_to_DER_cert(named[1].decode())


def test_a_temporary_authority_goes_at_the_end() -> None:
    with running("--tls") as service:
        directory = Path(service.info["ca_certificate"]).parent
        assert directory.is_dir()
    assert not directory.exists()

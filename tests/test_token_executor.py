"""The executor over HTTPS with a login instead of keys: a map end to end, and what a login may not do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from azure.batch import BatchClient, models
from helpers_secure import Secure, running
from helpers_service import scrubbed, until

SCRIPT = """
import json, os, sys
import azure.identity, azure.identity.aio
from batchexec import BatchExecutor

def answer(value):
    print(json.dumps(value))

def attempt(work):
    try:
        return work()
    except Exception as error:
        return [type(error).__name__, str(error), getattr(error, "code", None)]

executor = BatchExecutor(
    where="azure", python=sys.executable, credential=CREDENTIAL, progress=False, **json.loads(sys.argv[1])
)
"""

DATA = ["Storage Blob Data Contributor"]


@pytest.fixture(scope="module")
def service() -> Iterator[Secure]:
    with running("--tls") as service:
        yield service


def run(
    service: Secure,
    text: str,
    *roles: str,
    settings: dict[str, Any] | None = None,
    credential: str = "azure.identity.EnvironmentCredential()",
    **env: str,
) -> Any:
    """What a user's script answers that logs in with azure-identity's variables and trusts the authority."""
    client_id = "+".join(role.lower().replace(" ", "-") for role in roles)
    given = {
        "batch_account": service.info["account"],
        "batch_endpoint": service.info["batch_endpoint"],
        "storage_account": service.info["storage_account"],
        "blob_endpoint": service.info["blob_endpoint"],
        **(settings or {}),
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", (SCRIPT + text).replace("CREDENTIAL", credential), json.dumps(given)],
        env=scrubbed(**{**service.environment(client_id), **env}),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    secrets = [service.info[name] for name in ("client_secret", "batch_key", "storage_key")]
    assert not [secret for secret in secrets if secret in done.stdout + done.stderr]
    return json.loads(done.stdout.splitlines()[-1])


def batch(service: Secure) -> BatchClient:
    return BatchClient(
        service.info["batch_endpoint"], service.credential(), connection_verify=service.info["ca_bundle"]
    )


MAP = """
def double(x):
    return x * 2

def fail(x):
    raise LookupError(x)

def seen():
    return sorted(name for name in os.environ if "AZURE" in name or "BATCHEXEC_" in name)

with executor:
    doubled = list(executor.map(double, range(30), chunksize=7))
    large = executor.submit(len, bytes(40_000_000)).result()  # in blocks, by the storage SDK
    larger = executor.submit(len, bytearray(b"x") * 70_000_000).result()
    error = attempt(lambda: executor.submit(fail, 3).result())
    told = executor.submit(print, "hello")
    told.result()
    answer([doubled, large, larger, error[:2], told.stdout(), executor.submit(seen).result()])
"""


FILES = """
import pathlib, tempfile
from azure.storage.blob import BlobServiceClient
from batchexec import BlobPath

with BlobServiceClient(json.loads(sys.argv[1])["blob_endpoint"], credential=CREDENTIAL) as blobs:
    blobs.create_container("inputs").upload_blob("set/there", b"there")
with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)
    pathlib.Path("small").write_text("small")
    pathlib.Path("large").write_bytes(bytes(20_000_000))
    executor = BatchExecutor(
        where="azure", python=sys.executable, credential=CREDENTIAL, progress=False, requirements=None,
        files={"a/small": "small", "large": "large", "b": BlobPath("inputs/set")}, **json.loads(sys.argv[1])
    )
    with executor:
        answer(list(executor.map(os.path.getsize, ["a/small", "large", "b/there"])))
"""


@pytest.mark.slow
def test_files_travel_by_token_alone(service: Secure) -> None:
    assert run(service, FILES, "Azure Batch Data Contributor", *DATA) == [5, 20_000_000, 5]


@pytest.mark.timeout(900)  # large objects over HTTPS
def test_a_map_runs_by_token_alone_with_the_roles_that_the_documentation_names(service: Secure) -> None:
    doubled, large, larger, error, told, seen = run(service, MAP, "Azure Batch Data Contributor", *DATA)
    assert doubled == [x * 2 for x in range(30)]
    assert (large, larger) == (40_000_000, 70_000_000)
    assert error == ["LookupError", "3"]
    assert told == "hello\n"
    assert not [name for name in seen if "SECRET" in name or "KEY" in name or "STORE" in name]
    with batch(service) as client:
        until(lambda: [job.id for job in client.list_jobs() if job.state != "deleting"], lambda left: not left)


ONE = """
with executor:
    answer(attempt(lambda: executor.submit(len, "abc").result()))
"""


@pytest.mark.parametrize("credential", ["None", "azure.identity.aio.EnvironmentCredential()"])
def test_the_default_credential_and_an_asynchronous_one_will_do(service: Secure, credential: str) -> None:
    assert run(service, ONE, credential=credential) == 3


def test_a_login_that_may_make_no_pool_is_told_so(service: Secure) -> None:
    error, text, code = run(service, ONE, "Azure Batch Job Submitter", *DATA, settings={"pool_id": "not-there"})
    assert (error, code) == ("AuthenticationError", "InsufficientAccountPermissions")
    assert "Microsoft.Batch/batchAccounts/pools/write" in text
    assert "role of the login" in text


def test_a_login_with_rights_on_jobs_alone_uses_the_pool_that_is_there(service: Secure) -> None:
    image = models.BatchVmImageReference(
        publisher="microsoft-dsvm", offer="ubuntu-hpc", sku="2404", version="latest"
    )
    machine = models.VirtualMachineConfiguration(image_reference=image, node_agent_sku_id="batch.node.ubuntu 24.04")
    with batch(service) as client:
        client.create_pool(
            models.BatchPoolCreateOptions(
                id="fixed",
                vm_size="Standard_D4s_v5",
                virtual_machine_configuration=machine,
                target_dedicated_nodes=1,
                task_slots_per_node=4,
            )
        )
    settings = {"pool_id": "fixed", "create_pool": False}
    assert run(service, ONE, "Azure Batch Job Submitter", *DATA, settings=settings) == 3


def test_a_login_without_rights_on_storage_is_told_so(service: Secure) -> None:
    for role in ("Storage Blob Data Reader", "Azure Batch Job Submitter"):  # the latter gets no key to sign with
        error, text, code = run(service, ONE, "Azure Batch Data Contributor", role)
        assert (error, code) == ("AuthenticationError", "AuthorizationPermissionMismatch")
        assert "Blob storage" in text


def test_a_wrong_secret_is_a_typed_error_without_the_secret(service: Secure) -> None:
    error, text, _ = run(service, ONE, AZURE_CLIENT_SECRET="mistyped-secret")
    assert error == "AuthenticationError"
    assert "AADSTS7000215" in text
    assert "mistyped-secret" not in text


FEW_TRIES = """
from batchexec._azure import faults
faults._TRIES = 2
"""


def test_an_authority_that_is_not_trusted_is_a_typed_error(service: Secure) -> None:
    # REQUESTS_CA_BUNDLE is azure-identity's own; SSL_CERT_FILE is that of all else.
    error, text, _ = run(service, FEW_TRIES + ONE, settings={"connect_timeout": 200}, SSL_CERT_FILE="")
    assert error == "ServiceUnreachableError"
    assert "CERTIFICATE_VERIFY_FAILED" in text

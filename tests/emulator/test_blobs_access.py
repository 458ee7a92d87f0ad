"""Who may do what with blobs: keys and shared access signatures, on the embedded service and on Azurite."""

from __future__ import annotations

import base64
from datetime import datetime, timedelta, timezone
from urllib.parse import quote

import pytest
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
)
from azure.storage.blob import (
    BlobClient,
    BlobServiceClient,
    ContainerClient,
    ResourceTypes,
    generate_account_sas,
)
from blob_servers import ODD_NAME, BlobServer, code
from blob_wire import ACCOUNT, KEY


@pytest.mark.azurite_departs("it says 403, AuthorizationFailure")
def test_an_anonymous_request_is_refused(blobs: BlobServer, box: ContainerClient) -> None:
    response, body = blobs.http("GET", "/box/b")
    assert (response.status, response.headers["x-ms-error-code"]) == (401, "NoAuthenticationInformation")
    assert b"<Code>NoAuthenticationInformation</Code>" in body


@pytest.mark.azurite_departs("it says AuthorizationFailure")
def test_a_wrong_key_is_refused(blobs: BlobServer) -> None:
    wrong = {"account_name": ACCOUNT, "account_key": base64.b64encode(b"wrong").decode()}
    with BlobServiceClient(blobs.url, credential=wrong, retry_total=0) as client:
        with pytest.raises(ClientAuthenticationError) as error:
            client.create_container("box")
    assert code(error) == (403, "AuthenticationFailed")


@pytest.mark.azurite_departs("it says AuthorizationFailure")
def test_each_signed_part_of_a_request_counts(blobs: BlobServer, box: ContainerClient) -> None:
    sas = blobs.sas("r", "b")
    box.upload_blob("b", b"1")
    box.upload_blob("c", b"1")
    assert blobs.http("GET", f"/box/b?{sas}")[0].status == 200
    forged = [
        f"/box/c?{sas}",
        f"/box/b?{sas.replace('sp=r', 'sp=rw')}",
        f"/box/b?{sas.replace('sr=b', 'sr=c')}",
    ]
    for target in [*forged, f"/box/b?{sas}AA", f"/box/b?{sas[:-9]}"]:
        response, _ = blobs.http("GET", target)
        assert (response.status, response.headers["x-ms-error-code"]) == (403, "AuthenticationFailed")


@pytest.mark.parametrize(
    ("permission", "allowed"),
    [
        ("r", {"read", "head"}),
        ("c", {"create"}),
        ("w", {"create", "overwrite", "block"}),
        ("d", {"delete"}),
        ("l", {"list"}),
        ("racwdl", {"read", "head", "create", "overwrite", "block", "delete", "list"}),
    ],
)
def test_a_sas_allows_what_its_permissions_say(
    blobs: BlobServer, box: ContainerClient, permission: str, allowed: set[str]
) -> None:
    box.upload_blob("there", b"1")
    sas = blobs.sas(permission)
    kind = {"x-ms-blob-type": "BlockBlob"}
    requests: dict[str, tuple[str, str, bytes | None, dict[str, str]]] = {
        "read": ("GET", "/box/there", None, {}),
        "head": ("HEAD", "/box/there", None, {}),
        "create": ("PUT", "/box/new", b"1", kind),
        "overwrite": ("PUT", "/box/there", b"1", kind),
        "block": ("PUT", "/box/blocks?comp=block&blockid=MQ==", b"1", {}),
        "list": ("GET", "/box?restype=container&comp=list", None, {}),
        "delete": ("DELETE", "/box/there", None, {}),
    }
    granted = set()
    for name, (method, target, body, headers) in requests.items():
        response, _ = blobs.http(method, f"{target}{'&' if '?' in target else '?'}{sas}", body, headers)
        assert response.status in (200, 201, 202, 403)
        if response.status < 300:
            granted.add(name)
    assert granted == allowed


@pytest.mark.azurite_departs("it says AuthorizationPermissionMismatch")
def test_a_create_only_sas_never_overwrites_and_says_so(blobs: BlobServer, box: ContainerClient) -> None:
    sas = blobs.sas("c", ODD_NAME)
    with BlobClient.from_blob_url(f"{box.url}/{quote(ODD_NAME)}?{sas}", retry_total=0) as blob:
        blob.upload_blob(b"first")
        with pytest.raises(HttpResponseError) as error:
            blob.upload_blob(b"second")  # with If-None-Match: *, yet the service looks at the right first
    assert code(error) == (403, "UnauthorizedBlobOverwrite")
    assert box.download_blob(ODD_NAME).readall() == b"first"


@pytest.mark.azurite_departs("it says AuthorizationPermissionMismatch")
def test_a_sas_of_a_container_does_not_manage_containers(blobs: BlobServer, box: ContainerClient) -> None:
    sas = blobs.sas("racwdl")
    for method in ("PUT", "GET", "DELETE"):
        response, _ = blobs.http(method, f"/box?restype=container&{sas}")
        assert (response.status, response.headers["x-ms-error-code"]) == (403, "AuthorizationFailure")


def test_an_account_sas_reaches_the_resource_types_it_names(blobs: BlobServer, box: ContainerClient) -> None:
    def client(permission: str, **types: bool) -> BlobServiceClient:
        expiry = datetime.now(timezone.utc) + timedelta(hours=1)
        sas = generate_account_sas(ACCOUNT, KEY, ResourceTypes(**types), permission, expiry)
        return BlobServiceClient(blobs.url, credential=sas, retry_total=0)

    with client("rwdlc", service=True, container=True, object=True) as all_types:
        assert "box" in [c.name for c in all_types.list_containers()]
        all_types.create_container("other").upload_blob("b", b"1")
        all_types.delete_container("other")
    with client("rwdlc", object=True) as objects:
        objects.get_blob_client("box", "b").upload_blob(b"1")
        with pytest.raises(HttpResponseError) as error:
            list(objects.get_container_client("box").list_blobs())
    assert code(error) == (403, "AuthorizationResourceTypeMismatch")


@pytest.mark.azurite_departs("it does not look at addresses")
def test_a_sas_can_be_bound_to_https_and_to_addresses(blobs: BlobServer, box: ContainerClient) -> None:
    box.upload_blob("b", b"1")
    for options, expected in (
        ({"protocol": "https"}, "AuthorizationProtocolMismatch"),
        ({"ip": "10.0.0.1-10.0.0.9"}, "AuthorizationSourceIPMismatch"),
        ({"ip": "127.0.0.1"}, None),
        ({"protocol": "https,http"}, None),
    ):
        response, _ = blobs.http("GET", f"/box/b?{blobs.sas('r', 'b', **options)}")
        assert response.headers["x-ms-error-code"] == expected


def test_a_sas_sets_headers_of_the_reply(blobs: BlobServer, box: ContainerClient) -> None:
    box.upload_blob("b", b"1")
    sas = blobs.sas("r", "b", content_disposition="attachment; filename=x.csv", content_type="text/csv")
    response, _ = blobs.http("GET", f"/box/b?{sas}")
    assert response.headers["Content-Disposition"] == "attachment; filename=x.csv"
    assert response.headers["Content-Type"] == "text/csv"

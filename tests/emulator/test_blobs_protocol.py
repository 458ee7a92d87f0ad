"""The words of the Blob protocol: refusals, headers, odd requests, on the embedded service and on Azurite."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from urllib.parse import urlsplit

import pytest
from azure.storage.blob import (
    ContainerClient,
)
from azure.storage.blob.aio import BlobServiceClient as AsyncBlobServiceClient
from blob_servers import ODD_NAME, BlobServer
from blob_wire import ACCOUNT, KEY

SERVED = pytest.mark.azurite_departs("it serves what the embedded server does not")


@pytest.mark.azurite_departs("its words are others, and some refusals have no code")
@pytest.mark.parametrize(
    ("method", "target", "status", "error"),
    [
        ("GET", "/box/b?comp=nonsense", 400, "InvalidQueryParameterValue"),
        ("PUT", "/box/b?comp=lease", 501, "NotImplemented"),
        ("GET", "/box?restype=container&comp=acl", 501, "NotImplemented"),
        ("PATCH", "/box/b", 405, "UnsupportedHttpVerb"),
        ("GET", "/box/b?snapshot=2020", 501, "NotImplemented"),
        ("GET", "/box/%ff", 400, "InvalidUri"),
        ("GET", f"/box/{'x' * 1025}", 400, "InvalidResourceName"),
        ("PUT", "/box/b", 400, "MissingRequiredHeader"),
    ],
)
def test_what_is_not_understood_is_refused_in_the_words_of_the_service(
    blobs: BlobServer, box: ContainerClient, method: str, target: str, status: int, error: str
) -> None:
    response, body = blobs.http(method, f"{target}{'&' if '?' in target else '?'}{blobs.sas('rcwdl')}")
    assert (response.status, response.headers["x-ms-error-code"]) == (status, error)
    assert f"<Code>{error}</Code>".encode() in body


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({"x-ms-copy-source": "http://[/"}, "InvalidHeaderValue"),
        ({"x-ms-copy-source": "https://other.blob.core.windows.net/c/b"}, "CannotVerifyCopySource"),
        pytest.param(
            {"x-ms-copy-source": f"http://x/{ACCOUNT}/box/secret"},
            "NoAuthenticationInformation",
            marks=pytest.mark.azurite_departs("it copies what the caller may not read"),
        ),
        pytest.param({"x-ms-blob-type": "PageBlob"}, "NotImplemented", marks=SERVED),
        pytest.param({"x-ms-blob-type": "BlockBlob", "x-ms-tags": "a=b"}, "NotImplemented", marks=SERVED),
        pytest.param({"x-ms-blob-type": "BlockBlob", "x-ms-access-tier": "Archive"}, "NotImplemented", marks=SERVED),
        ({"x-ms-blob-type": "BlockBlob", "x-ms-meta-a-b": "a"}, "InvalidMetadata"),
        pytest.param(
            {"x-ms-blob-type": "BlockBlob", "Content-MD5": "short"},
            "InvalidMd5",
            marks=pytest.mark.azurite_departs("it says InvalidOperation"),
        ),
        ({"x-ms-blob-type": "BlockBlob", "x-ms-access-tier": "Warm"}, "InvalidHeaderValue"),
    ],
)
def test_headers_that_cannot_be_obeyed_are_refused_and_store_nothing(
    blobs: BlobServer, box: ContainerClient, headers: dict[str, str], error: str
) -> None:
    box.upload_blob("secret", b"1")
    box.upload_blob("b", b"before")
    response, _ = blobs.http("PUT", f"/box/b?{blobs.sas('cw')}", b"after", headers)
    assert response.status >= 400
    assert response.headers["x-ms-error-code"] == error
    assert box.download_blob("b").readall() == b"before"


@pytest.mark.azurite_departs("it answers with 416, or 206")
def test_an_absurd_range_is_ignored(blobs: BlobServer, box: ContainerClient) -> None:
    box.upload_blob("b", b"1")
    for text in (f"bytes={'9' * 5000}-", "bytes=-1", "bytes=a-b", "lines=0-1"):
        response, body = blobs.http("GET", f"/box/b?{blobs.sas('r')}", headers={"x-ms-range": text})
        assert (response.status, body) == (200, b"1")


@pytest.mark.azurite_departs("its x-ms-version is always its own")
def test_replies_carry_the_headers_clients_rely_on(blobs: BlobServer, box: ContainerClient) -> None:
    box.upload_blob("b", b"12345")
    headers = {"x-ms-version": "2021-12-02", "x-ms-client-request-id": "mine"}
    response, body = blobs.http("HEAD", f"/box/b?{blobs.sas('r')}", headers=headers)
    found = response.headers
    assert (body, found["Content-Length"], found["Accept-Ranges"]) == (b"", "5", "bytes")
    assert (found["x-ms-version"], found["x-ms-client-request-id"]) == ("2021-12-02", "mine")
    assert found["x-ms-blob-type"] == "BlockBlob"
    assert found["ETag"].startswith('"0x')
    assert found["Content-MD5"] == base64.b64encode(hashlib.md5(b"12345").digest()).decode()
    assert {"Last-Modified", "x-ms-creation-time", "x-ms-request-id", "Date"} <= set(found)


@pytest.mark.azurite_departs("it cuts the boundary of a batch at an equals sign, and the SDK's has some")
def test_the_asynchronous_sdk_works_alike(blobs: BlobServer, box: ContainerClient) -> None:
    async def use() -> tuple[bytes, list[str | None], list[int]]:
        credential = {"account_name": ACCOUNT, "account_key": KEY}
        async with AsyncBlobServiceClient(blobs.url, credential=credential, retry_total=0) as client:
            container = client.get_container_client("box")
            await container.upload_blob(ODD_NAME, b"x" * 100_000, metadata={"a_b": "1", "ab": "2"})
            data = await (await container.download_blob(ODD_NAME)).readall()
            names = [b.name async for b in container.list_blobs(name_starts_with="dir one/ü+")]
            replies = [r.status_code async for r in await container.delete_blobs(ODD_NAME)]
            return data, names, replies

    assert asyncio.run(use()) == (b"x" * 100_000, [ODD_NAME], [202])


def test_account_information_and_properties_are_readable(blobs: BlobServer) -> None:
    with blobs.client() as client:
        assert client.get_account_information()["account_kind"] == "StorageV2"
        assert client.get_service_properties()["delete_retention_policy"].enabled is False
    assert urlsplit(blobs.url).path == f"/{ACCOUNT}"

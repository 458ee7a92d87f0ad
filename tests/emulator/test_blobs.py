"""Containers and whole blobs, by the real SDK and plain HTTP, on the embedded Blob service and on Azurite."""

from __future__ import annotations

import base64
import hashlib
import os

import pytest
from azure.core.exceptions import (
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
)
from azure.storage.blob import (
    ContainerClient,
    ContentSettings,
    StandardBlobTier,
)
from blob_servers import ODD_NAME, BlobServer, code

# containers


def test_a_container_is_created_once_and_then_reported_as_existing(box: ContainerClient) -> None:
    with pytest.raises(ResourceExistsError) as error:
        box.create_container()
    assert code(error) == (409, "ContainerAlreadyExists")


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("ab", "OutOfRangeInput"),
        ("a" * 64, "OutOfRangeInput"),
        ("Upper", "InvalidResourceName"),
        ("two--hyphens", "InvalidResourceName"),
        ("-front", "InvalidResourceName"),
        ("back-", "InvalidResourceName"),
        ("under_score", "InvalidResourceName"),
    ],
)
def test_container_names_follow_the_rules_of_the_service(blobs: BlobServer, name: str, error: str) -> None:
    with blobs.client() as client, pytest.raises(HttpResponseError) as refusal:
        client.create_container(name)
    assert code(refusal) == (400, error)


def test_container_metadata_is_kept_and_can_be_replaced(blobs: BlobServer) -> None:
    with blobs.client() as client:
        container = client.create_container("meta", metadata={"Owner": "me"})
        assert container.get_container_properties().metadata == {"Owner": "me"}
        container.set_container_metadata({"other": "x"})
        assert container.get_container_properties().metadata == {"other": "x"}
        listed = {c.name: c.metadata for c in client.list_containers(include_metadata=True)}
        assert listed["meta"] == {"other": "x"}
        container.delete_container()
        assert not container.exists()


def test_containers_are_listed_by_prefix_in_pages(blobs: BlobServer) -> None:
    with blobs.client() as client:
        names = [f"page-{i}" for i in range(5)]
        for name in [*names, "qage"]:
            client.create_container(name)
        pages = [
            [c.name for c in page]
            for page in client.list_containers(name_starts_with="page-", results_per_page=2).by_page()
        ]
        assert pages == [names[:2], names[2:4], names[4:]]
        for name in [*names, "qage"]:
            client.delete_container(name)


def test_a_blob_of_a_missing_container_is_container_not_found(blobs: BlobServer) -> None:
    with blobs.client() as client, pytest.raises(ResourceNotFoundError) as error:
        client.get_blob_client("nowhere", "x").upload_blob(b"1")
    assert code(error) == (404, "ContainerNotFound")


# whole blobs


@pytest.mark.parametrize("size", [0, 1, 64 * 1024, 64 * 1024 + 1, 3_000_000])
def test_what_is_put_is_what_is_got(box: ContainerClient, size: int) -> None:
    data = os.urandom(size)
    blob = box.upload_blob("b", data)
    assert blob.download_blob().readall() == data
    properties = blob.get_blob_properties()
    assert properties.size == size
    assert bytes(properties.content_settings.content_md5) == hashlib.md5(data).digest()


@pytest.mark.parametrize("name", [ODD_NAME, "/root", "a//b", "end/", "tab\there", "x" * 1024])
def test_any_name_is_a_key(box: ContainerClient, name: str) -> None:
    box.upload_blob(name, bytes(100_000))
    assert [b.name for b in box.list_blobs()] == [name]
    assert len(box.download_blob(name).readall()) == 100_000
    box.delete_blob(name)
    assert list(box.list_blobs()) == []


def test_properties_and_metadata_come_back_as_they_were_sent(blobs: BlobServer, box: ContainerClient) -> None:
    settings = ContentSettings(
        content_type="text/csv",
        content_encoding="gzip",
        content_language="da",
        content_disposition="attachment",
        cache_control="no-cache",
    )
    blob = box.upload_blob("b", b"1,2", metadata={"Step": "7"}, content_settings=settings)
    found = blob.get_blob_properties()
    assert found.metadata == {"Step": "7"}
    for name in ("content_type", "content_encoding", "content_language", "cache_control"):
        assert found.content_settings[name] == settings[name]
    assert found.creation_time == found.last_modified
    blob.set_blob_metadata({"step": "8"})
    assert blob.get_blob_properties().metadata == {"step": "8"}
    assert blob.get_blob_properties().etag != found.etag
    blob.set_http_headers(ContentSettings(content_type="a/b"))
    assert blob.get_blob_properties().content_settings.content_type == "a/b"
    assert blob.get_blob_properties().content_settings.content_encoding is None


@pytest.mark.azurite_departs("it forgets the Content-Encoding of a Put Blob")
def test_a_body_sent_compressed_is_stored_compressed(blobs: BlobServer, box: ContainerClient) -> None:
    headers = {"x-ms-blob-type": "BlockBlob", "Content-Encoding": "gzip"}
    response, _ = blobs.http("PUT", f"/box/z?{blobs.sas('c')}", b"not really gzip", headers)
    assert response.status == 201
    response, body = blobs.http("GET", f"/box/z?{blobs.sas('r')}")
    assert (response.headers["Content-Encoding"], body) == ("gzip", b"not really gzip")


@pytest.mark.azurite_departs("it says InvalidOperation")
def test_a_wrong_md5_stores_nothing(blobs: BlobServer, box: ContainerClient) -> None:
    headers = {"x-ms-blob-type": "BlockBlob", "Content-MD5": base64.b64encode(bytes(16)).decode()}
    response, _ = blobs.http("PUT", f"/box/b?{blobs.sas('c')}", b"data", headers)
    assert (response.status, response.headers["x-ms-error-code"]) == (400, "Md5Mismatch")
    assert list(box.list_blobs()) == []


@pytest.mark.azurite_departs("its HTTP server refuses the request without a code of the service")
def test_a_body_without_length_or_too_long_is_refused(blobs: BlobServer, box: ContainerClient) -> None:
    target, kind = f"/box/b?{blobs.sas('c')}", {"x-ms-blob-type": "BlockBlob"}
    response, _ = blobs.http("PUT", target, iter([b"chunked"]), kind)
    assert (response.status, response.headers["x-ms-error-code"]) == (411, "MissingContentLengthHeader")
    response, _ = blobs.http("PUT", target, b"", {**kind, "Content-Length": str(5000 * 2**20 + 1)})
    assert (response.status, response.headers["x-ms-error-code"]) == (413, "RequestBodyTooLarge")


def test_a_download_outlives_the_deletion_of_its_blob(box: ContainerClient) -> None:
    data = os.urandom(40_000_000)
    blob = box.upload_blob("b", data)
    chunks = blob.download_blob().chunks()  # the first 32 MiB are one request, sent as they are read
    blob.delete_blob()
    assert next(chunks) == data[: 4 * 2**20]


def test_deleting_what_is_not_there_is_blob_not_found(box: ContainerClient) -> None:
    box.upload_blob("b", b"1").delete_blob()
    with pytest.raises(ResourceNotFoundError) as error:
        box.delete_blob("b")
    assert code(error) == (404, "BlobNotFound")


def test_a_copy_within_the_account_has_the_content_and_properties_of_its_source(box: ContainerClient) -> None:
    data = os.urandom(100_000)
    source = box.upload_blob("from", data, metadata={"k": "v"})
    copy = box.get_blob_client("to")
    assert copy.start_copy_from_url(source.url)["copy_status"] == "success"
    source.delete_blob()
    assert copy.download_blob().readall() == data
    properties = copy.get_blob_properties()
    assert properties.metadata == {"k": "v"}
    assert (properties.copy.status, properties.copy.progress) == ("success", "100000/100000")
    assert [b.copy.status for b in box.list_blobs(include=["copy"])] == ["success"]
    with pytest.raises(ResourceExistsError) as error:  # which a 409 is to the SDK
        copy.abort_copy(properties.copy.id)
    assert code(error) == (409, "NoPendingCopyOperation")


def test_a_tier_is_set_with_a_blob_or_later(box: ContainerClient) -> None:
    blob = box.upload_blob("b", b"1", standard_blob_tier=StandardBlobTier.COOL)
    before = blob.get_blob_properties()
    assert (before.blob_tier, bool(before.blob_tier_inferred)) == ("Cool", False)
    blob.set_standard_blob_tier("Cold")
    after = blob.get_blob_properties()
    assert (after.blob_tier, after.etag) == ("Cold", before.etag)
    assert [(b.blob_tier, b.blob_tier_inferred) for b in box.list_blobs()] == [("Cold", None)]
    box.upload_blob("b", b"2", overwrite=True)
    assert [(b.blob_tier, b.blob_tier_inferred) for b in box.list_blobs()] == [("Hot", True)]

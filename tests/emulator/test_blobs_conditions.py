"""Ranges and conditional requests, on the embedded Blob service and on Azurite."""

from __future__ import annotations

import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from email.utils import formatdate
from typing import Any

import pytest
from azure.core import MatchConditions
from azure.core.exceptions import (
    ResourceExistsError,
    ResourceModifiedError,
)
from azure.storage.blob import (
    BlobClient,
    ContainerClient,
)
from blob_servers import BlobServer, code
from blob_wire import Request, Wire

ONE_TAG = pytest.mark.azurite_departs("it compares the list as one ETag")
NO_DATE = pytest.mark.azurite_departs("it takes what is no date for one in the future")


# ranges


@pytest.mark.parametrize("size", [1000, 200_000])
def test_a_range_is_answered_with_its_bytes(blobs: BlobServer, box: ContainerClient, size: int) -> None:
    data = os.urandom(size)
    box.upload_blob("b", data)
    target = f"/box/b?{blobs.sas('r')}"
    for header in ("Range", "x-ms-range"):
        response, body = blobs.http("GET", target, headers={header: "bytes=100-199"})
        assert (response.status, body) == (206, data[100:200])
        assert response.headers["Content-Range"] == f"bytes 100-199/{size}"
    _, body = blobs.http("GET", target, headers={"Range": "bytes=900-"})
    assert body == data[900:]
    response, body = blobs.http("GET", target, headers={"Range": f"bytes=10-{size * 2}"})
    assert (response.headers["Content-Range"], body) == (f"bytes 10-{size - 1}/{size}", data[10:])


@pytest.mark.azurite_departs("it answers with 206 and no bytes where the range begins at the very end")
def test_a_range_behind_the_end_is_refused(blobs: BlobServer, box: ContainerClient) -> None:
    box.upload_blob("b", b"123")
    for first in (4, 3):
        response, _ = blobs.http("GET", f"/box/b?{blobs.sas('r')}", headers={"Range": f"bytes={first}-"})
        assert (response.status, response.headers["x-ms-error-code"]) == (416, "InvalidRange")
        assert response.headers["Content-Range"] == "bytes */3"


def test_an_empty_blob_has_no_valid_range(blobs: BlobServer, box: ContainerClient) -> None:
    box.upload_blob("b", b"")
    response, _ = blobs.http("GET", f"/box/b?{blobs.sas('r')}", headers={"x-ms-range": "bytes=0-99"})
    assert response.status == 416
    assert response.headers["Content-Range"] == "bytes */0"


def test_a_validated_download_gets_the_md5_of_each_range(box: ContainerClient) -> None:
    data = os.urandom(5_000_000)
    blob = box.upload_blob("b", data)
    assert blob.download_blob(validate_content=True, max_concurrency=2).readall() == data


# conditions


def test_upload_without_overwrite_refuses_an_existing_blob(box: ContainerClient) -> None:
    box.upload_blob("b", b"first")
    with pytest.raises(ResourceExistsError) as error:
        box.upload_blob("b", b"second")
    assert code(error) == (409, "BlobAlreadyExists")
    assert box.download_blob("b").readall() == b"first"


@pytest.mark.parametrize("size", [10, 300_000])
def test_of_many_conditional_puts_exactly_one_wins(blobs: BlobServer, box: ContainerClient, size: int) -> None:
    target = f"/box/b?{blobs.sas('cw')}"
    headers = {"x-ms-blob-type": "BlockBlob", "If-None-Match": "*"}
    gate = threading.Barrier(8)

    def put(writer: int) -> int:
        gate.wait()
        return blobs.http("PUT", target, bytes([writer]) * size, headers)[0].status

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(put, range(8)))
    assert sorted(statuses) == [201] + [409] * 7
    assert box.download_blob("b").readall() == bytes([statuses.index(201)]) * size


def test_a_changed_etag_refuses_a_write_and_a_delete(box: ContainerClient) -> None:
    blob = box.upload_blob("b", b"1")
    old = blob.get_blob_properties().etag
    blob.upload_blob(b"2", overwrite=True, etag=old, match_condition=MatchConditions.IfNotModified)
    condition: dict[str, Any] = {"etag": old, "match_condition": MatchConditions.IfNotModified}
    with pytest.raises(ResourceModifiedError) as error:
        blob.upload_blob(b"3", overwrite=True, **condition)
    assert code(error) == (412, "ConditionNotMet")
    with pytest.raises(ResourceModifiedError):
        blob.delete_blob(**condition)
    assert blob.download_blob().readall() == b"2"


@pytest.mark.azurite_departs("its 304 has no ETag")
def test_a_read_of_an_unchanged_blob_is_not_modified(blobs: BlobServer, box: ContainerClient) -> None:
    etag = box.upload_blob("b", b"1").get_blob_properties().etag
    response, body = blobs.http("GET", f"/box/b?{blobs.sas('r')}", headers={"If-None-Match": etag})
    assert (response.status, body, response.headers["ETag"]) == (304, b"", etag)
    since = {"If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"}
    assert blobs.http("GET", f"/box/b?{blobs.sas('r')}", headers=since)[0].status == 304
    since = {"If-Unmodified-Since": "Sat, 01 Jan 2000 00:00:00 GMT"}
    assert blobs.http("GET", f"/box/b?{blobs.sas('r')}", headers=since)[0].status == 412


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If-Match": "{etag}", "If-Unmodified-Since": "{now}"}, 200),
        ({"If-Match": "{etag}", "If-Unmodified-Since": "{past}"}, 412),
        ({"If-None-Match": "{etag}", "If-Modified-Since": "{past}"}, 200),  # modified, if by one of the two
        ({"If-None-Match": "{etag}", "If-Modified-Since": "{now}"}, 304),
        ({"If-None-Match": '"0x1"', "If-Modified-Since": "{now}"}, 200),
        pytest.param({"If-Match": '"0x1", {etag}'}, 200, marks=ONE_TAG),
        pytest.param({"If-None-Match": '"0x1", {etag}'}, 304, marks=ONE_TAG),
        ({"If-None-Match": "*"}, 400),
        pytest.param({"If-Modified-Since": "yesterday"}, 200, marks=NO_DATE),
        pytest.param({"If-Modified-Since": "Mon, 01 Jan 99999999999 00:00:00 GMT"}, 200, marks=NO_DATE),
    ],
)
def test_a_read_can_have_several_conditions(
    blobs: BlobServer, box: ContainerClient, headers: dict[str, str], status: int
) -> None:
    given = conditions(box.upload_blob("b", b"1"), headers)
    assert blobs.http("GET", f"/box/b?{blobs.sas('r')}", headers=given)[0].status == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If-Match": "{etag}", "If-Unmodified-Since": "{past}"}, 201),  # the ETag decides
        ({"If-None-Match": '"0x1"', "If-Modified-Since": "{now}"}, 201),
        ({"If-Match": "{etag}", "If-Modified-Since": "{past}"}, 400),
        ({"If-Match": "{etag}", "If-None-Match": '"0x1"'}, 400),
        ({"If-Match": '"0x1", {etag}'}, 400),
        ({"If-Modified-Since": "{now}"}, 412),
        ({"If-Unmodified-Since": "{past}"}, 412),
    ],
)
def test_a_write_has_one_condition_or_a_pair_that_fits(
    blobs: BlobServer, box: ContainerClient, headers: dict[str, str], status: int
) -> None:
    given = {"x-ms-blob-type": "BlockBlob", **conditions(box.upload_blob("b", b"1"), headers)}
    assert blobs.http("PUT", f"/box/b?{blobs.sas('w')}", b"2", given)[0].status == status


@pytest.mark.azurite_departs("it compares ETags of containers, and the service does not")
def test_containers_are_compared_by_date_alone(blobs: BlobServer, box: ContainerClient) -> None:
    etag = box.get_container_properties().etag
    wire = Wire(blobs.port)  # the SDK leaves the header out
    reply = wire.send(Request("DELETE", "/box", {"restype": "container"}, {"If-Match": etag}))
    wire.close()
    assert (reply.status, reply.code) == (400, "ConditionHeadersNotSupported")
    with pytest.raises(ResourceModifiedError) as error:
        box.delete_container(if_unmodified_since=datetime(2000, 1, 1, tzinfo=timezone.utc))
    assert code(error) == (412, "ConditionNotMet")


def conditions(blob: BlobClient, headers: dict[str, str]) -> dict[str, str]:
    etag = blob.get_blob_properties().etag
    dates = {"{etag}": etag, "{now}": formatdate(usegmt=True), "{past}": "Sat, 01 Jan 2000 00:00:00 GMT"}
    return {name: re.sub(r"\{\w+\}", lambda found: dates[found[0]], value) for name, value in headers.items()}

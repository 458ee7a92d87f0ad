"""Blocks, lists and batches, on the embedded Blob service and on Azurite."""

from __future__ import annotations

import os

import pytest
from azure.core.exceptions import (
    HttpResponseError,
)
from azure.storage.blob import (
    BlobBlock,
    ContainerClient,
)
from blob_servers import ODD_NAME, BlobServer, Embedded, code

LENIENT = pytest.mark.azurite_departs("it takes a nonsensical page for the first, or for all")

# blocks


def test_a_large_upload_goes_up_in_blocks_and_comes_down_whole(blobs: BlobServer, box: ContainerClient) -> None:
    data = os.urandom(2_500_000)
    with blobs.client(max_single_put_size=500_000, max_block_size=500_000) as client:
        blob = client.get_blob_client("box", "b")
        blob.upload_blob(data, max_concurrency=3, metadata={"k": "v"})
        assert blob.download_blob().readall() == data
        assert blob.download_blob(offset=499_990, length=20).readall() == data[499_990:500_010]
        committed, uncommitted = blob.get_block_list("all")
        assert ([b.size for b in committed], uncommitted) == ([500_000] * 5, [])
        assert blob.get_blob_properties().metadata == {"k": "v"}


def test_staged_blocks_are_invisible_until_committed(box: ContainerClient) -> None:
    blob = box.get_blob_client("b")
    blob.stage_block("1", b"one")
    blob.stage_block("2", b"two")
    assert not blob.exists()
    assert list(box.list_blobs()) == []
    assert [(b.name, b.size) for b in box.list_blobs(include=["uncommittedblobs"])] == [("b", 0)]
    assert [b.id for b in blob.get_block_list("uncommitted")[1]] == ["1", "2"]
    blob.commit_block_list([BlobBlock("2"), BlobBlock("1"), BlobBlock("2")])
    assert blob.download_blob().readall() == b"twoonetwo"
    blob.stage_block("1", b"ONE")
    blob.commit_block_list([BlobBlock("1"), BlobBlock("2")])  # latest: staged first, then committed
    assert blob.download_blob().readall() == b"ONEtwo"


def test_a_block_list_with_an_unknown_block_changes_nothing(box: ContainerClient) -> None:
    blob = box.upload_blob("b", b"before")
    blob.stage_block("1", b"one")
    with pytest.raises(HttpResponseError) as error:
        blob.commit_block_list([BlobBlock("1"), BlobBlock("9")])
    assert code(error) == (400, "InvalidBlockList")
    assert blob.download_blob().readall() == b"before"


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<BlockList>",
        b"\xff",
        b"<?xml version='1.0' encoding='utf-7'?><BlockList/>",
        b"<?xml version='1.0' encoding='none'?><BlockList/>",
        b"<!DOCTYPE x [<!ENTITY a 'a'>]><BlockList><Latest>&a;</Latest></BlockList>",
    ],
)
def test_a_block_list_that_is_none_is_refused(ours: Embedded, our_box: ContainerClient, document: bytes) -> None:
    response, _ = ours.http("PUT", f"/box/b?comp=blocklist&{ours.sas('w')}", document)
    assert (response.status, response.headers["x-ms-error-code"]) == (400, "InvalidXmlDocument")
    assert list(our_box.list_blobs()) == []


def test_block_ids_of_different_length_are_refused(box: ContainerClient) -> None:
    blob = box.get_blob_client("b")
    blob.stage_block("1", b"one")
    with pytest.raises(HttpResponseError) as error:
        blob.stage_block("longer", b"two")
    assert code(error) == (400, "InvalidBlobOrBlock")


_NO_COPIES_OF_RANGES = pytest.mark.azurite_departs("it does not serve Put Block From URL")


@_NO_COPIES_OF_RANGES
def test_blocks_are_made_of_ranges_of_another_blob(blobs: BlobServer, box: ContainerClient) -> None:
    data = os.urandom(300_000)
    source = box.upload_blob("from", data)
    url = f"{source.url}?{blobs.sas('r', 'from')}"
    blob = box.get_blob_client("to")
    blob.stage_block_from_url("1", url, source_offset=100, source_length=200_000)
    blob.stage_block_from_url("2", url, source_offset=299_999, source_length=1)
    blob.stage_block("3", b"sent")
    source.delete_blob()
    blob.commit_block_list([BlobBlock("2"), BlobBlock("1"), BlobBlock("3")])
    assert blob.download_blob().readall() == data[-1:] + data[100:200_100] + b"sent"


@_NO_COPIES_OF_RANGES
@pytest.mark.parametrize(
    ("headers", "status", "error"),
    [
        ({"x-ms-copy-source": "{url}"}, 404, "CannotVerifyCopySource"),  # without a signature
        ({"x-ms-copy-source": "{url}?{write}"}, 403, "AuthorizationPermissionMismatch"),
        ({"x-ms-copy-source": "{other}?{read}"}, 403, "AuthenticationFailed"),
        ({"x-ms-copy-source": "{url}?{read}", "x-ms-source-range": "bytes=5-9"}, 416, "InvalidRange"),
        ({"x-ms-copy-source": "{url}?{read}", "x-ms-source-if-match": '"0x1"'}, 412, "SourceConditionNotMet"),
        (
            {"x-ms-copy-source": "{url}?{read}", "x-ms-source-content-md5": "AAAAAAAAAAAAAAAAAAAAAA=="},
            400,
            "Md5Mismatch",
        ),
        ({"x-ms-copy-source": "{url}?{read}", "body": "x"}, 400, "InvalidHeaderValue"),
    ],
)
def test_a_range_that_cannot_be_copied_makes_no_block(
    blobs: BlobServer, box: ContainerClient, headers: dict[str, str], status: int, error: str
) -> None:
    url = box.upload_blob("from", b"bytes").url
    signed = {"read": blobs.sas("r", "from"), "write": blobs.sas("w", "from"), "url": url, "other": url[:-1]}
    sent = {name: value.format(**signed) for name, value in headers.items()}
    body = sent.pop("body", "").encode()
    response, _ = blobs.http("PUT", f"/box/to?comp=block&blockid=AAAA&{blobs.sas('w')}", body, sent)
    assert (response.status, response.headers["x-ms-error-code"]) == (status, error)
    assert box.get_blob_client("from").download_blob().readall() == b"bytes"
    assert list(box.list_blobs(include=["uncommittedblobs"])) == list(box.list_blobs())


# lists


def test_names_are_listed_sorted_by_prefix_and_in_pages(box: ContainerClient) -> None:
    names = [f"j/{group}/{i:02}" for group in "ab" for i in range(5)]
    for name in [*reversed(names), "i", "k"]:
        box.upload_blob(name, b"1", metadata={"n": name})
    assert [b.name for b in box.list_blobs()] == ["i", *names, "k"]
    pages = box.list_blobs(name_starts_with="j/a/", results_per_page=2, include=["metadata"]).by_page()
    found = [[(b.name, b.metadata["n"]) for b in page] for page in pages]
    assert found == [[(n, n) for n in names[i : min(i + 2, 5)]] for i in (0, 2, 4)]
    assert [b.name for b in box.list_blobs(name_starts_with="j/c")] == []


def test_a_delimiter_folds_names_into_prefixes(box: ContainerClient) -> None:
    for name in ("a", "d/1", "d/2", "d/e/3", "d0", "f/4"):
        box.upload_blob(name, b"1")
    assert sorted(item.name for item in box.walk_blobs()) == ["a", "d/", "d0", "f/"]
    assert sorted(item.name for item in box.walk_blobs(name_starts_with="d/")) == ["d/1", "d/2", "d/e/"]
    pages = [[item.name for item in page] for page in box.walk_blobs(results_per_page=1).by_page()]
    assert pages == [["a"], ["d/"], ["d0"], ["f/"]]


def test_a_page_can_be_continued_after_deletions(box: ContainerClient) -> None:
    for name in "abcd":
        box.upload_blob(name, b"1")
    pages = box.list_blobs(results_per_page=2).by_page()
    assert [b.name for b in next(pages)] == ["a", "b"]
    box.delete_blob("c")
    assert [b.name for b in next(pages)] == ["d"]


@pytest.mark.parametrize(
    "query",
    [
        "maxresults=0",
        "maxresults=x",
        pytest.param(f"maxresults={'9' * 5000}", marks=LENIENT),
        pytest.param("marker=%21", marks=LENIENT),
        pytest.param("marker=abc", marks=LENIENT),
    ],
)
def test_a_nonsensical_page_is_refused(blobs: BlobServer, box: ContainerClient, query: str) -> None:
    response, _ = blobs.http("GET", f"/box?restype=container&comp=list&{query}&{blobs.sas('l')}")
    assert response.status == 400


# batches


def test_many_blobs_are_deleted_in_one_request(box: ContainerClient) -> None:
    names = ["a", ODD_NAME, "c"]
    for name in names:
        box.upload_blob(name, b"1")
    replies = list(box.delete_blobs(*names, "missing", raise_on_any_failure=False))
    assert [reply.status_code for reply in replies] == [202, 202, 202, 404]
    assert list(box.list_blobs()) == []


def test_each_part_of_a_batch_needs_its_own_right(blobs: BlobServer, box: ContainerClient) -> None:
    box.upload_blob("a", b"1")
    with ContainerClient.from_container_url(f"{box.url}?{blobs.sas('rl')}", retry_total=0) as reader:
        assert [r.status_code for r in reader.delete_blobs("a", raise_on_any_failure=False)] == [403]
    with ContainerClient.from_container_url(f"{box.url}?{blobs.sas('d')}", retry_total=0) as deleter:
        assert [r.status_code for r in deleter.delete_blobs("a")] == [202]

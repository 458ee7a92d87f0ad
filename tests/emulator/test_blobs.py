"""The Blob service of the local Azure, spoken to by the real SDK and by plain HTTP over loopback."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import http.client
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from aiohttp import web
from azure.core import MatchConditions
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.storage.blob import (
    BlobBlock,
    BlobClient,
    BlobServiceClient,
    ContainerClient,
    ContentSettings,
    ResourceTypes,
    generate_account_sas,
    generate_blob_sas,
    generate_container_sas,
)
from azure.storage.blob.aio import BlobServiceClient as AsyncBlobServiceClient

from batchexec.emulator.blobs import blob_app

ACCOUNT = "localacct"
KEY = base64.b64encode(bytes(range(64))).decode()
ODD_NAME = "dir one/ü+%41 &=?#~'\"<ä>/日本"


class Service:
    """The service under test on a loop of its own, with a clock that tests can move."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.skew = timedelta(0)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._runner = self._do(self._start())
        self.port: int = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self.port}/{ACCOUNT}"

    def now(self) -> datetime:
        return datetime.now(timezone.utc) + self.skew

    def _do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _start(self) -> web.AppRunner:
        app = blob_app(ACCOUNT, KEY, self.root, self.now)
        runner = web.AppRunner(app, access_log=None, auto_decompress=False)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner

    async def _end(self) -> None:
        await self._runner.cleanup()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:  # connections of refused uploads, on which the server still lingers
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def stop(self) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def client(self, **options: Any) -> BlobServiceClient:
        credential = {"account_name": ACCOUNT, "account_key": KEY}
        return BlobServiceClient(self.url, credential=credential, retry_total=0, **options)

    def http(
        self, method: str, target: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, f"/{ACCOUNT}{target}", body=body, headers=headers or {})
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()

    def sas(self, permission: str, blob: str | None = None, **options: Any) -> str:
        """A SAS of the container `box`, or of one blob in it."""
        options = {"expiry": datetime.now(timezone.utc) + timedelta(hours=1), **options}
        if blob is None:
            return generate_container_sas(ACCOUNT, "box", account_key=KEY, permission=permission, **options)
        return generate_blob_sas(ACCOUNT, "box", blob, account_key=KEY, permission=permission, **options)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("blobs"))
    yield service
    service.stop()


@pytest.fixture
def service(running: Service) -> Iterator[Service]:
    yield running
    running.skew = timedelta(0)


@pytest.fixture
def box(service: Service) -> Iterator[ContainerClient]:
    """The container `box`, empty, as the account's owner."""
    with service.client() as client:
        container = client.create_container("box")
        yield container
        container.delete_container()


def code(error: pytest.ExceptionInfo[HttpResponseError]) -> tuple[int | None, str]:
    found = error.value.error_code  # type: ignore[attr-defined]
    return error.value.status_code, getattr(found, "value", found)


# containers


def test_a_container_is_created_once_and_then_reported_as_existing(box: ContainerClient) -> None:
    with pytest.raises(ResourceExistsError) as error:
        box.create_container()
    assert code(error) == (409, "ContainerAlreadyExists")


@pytest.mark.parametrize("name", ["ab", "Upper", "two--hyphens", "-front", "back-", "a" * 64, "under_score"])
def test_container_names_follow_the_rules_of_the_service(service: Service, name: str) -> None:
    with service.client() as client, pytest.raises(HttpResponseError) as error:
        client.create_container(name)
    assert code(error) == (400, "InvalidResourceName")


def test_container_metadata_is_kept_and_can_be_replaced(service: Service) -> None:
    with service.client() as client:
        container = client.create_container("meta", metadata={"Owner": "me"})
        assert container.get_container_properties().metadata == {"Owner": "me"}
        container.set_container_metadata({"other": "x"})
        assert container.get_container_properties().metadata == {"other": "x"}
        listed = {c.name: c.metadata for c in client.list_containers(include_metadata=True)}
        assert listed["meta"] == {"other": "x"}
        container.delete_container()
        assert not container.exists()


def test_containers_are_listed_by_prefix_in_pages(service: Service) -> None:
    with service.client() as client:
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


def test_a_blob_of_a_missing_container_is_container_not_found(service: Service) -> None:
    with service.client() as client, pytest.raises(ResourceNotFoundError) as error:
        client.get_blob_client("nowhere", "x").upload_blob(b"1")
    assert code(error) == (404, "ContainerNotFound")


def test_deleting_a_container_deletes_its_files(service: Service) -> None:
    with service.client() as client:
        container = client.create_container("files")
        container.upload_blob("large", bytes(200_000))
        assert len(list(service.root.iterdir())) == 1
        container.delete_container()
        assert list(service.root.iterdir()) == []


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
def test_any_name_is_a_key_and_nothing_else(service: Service, box: ContainerClient, name: str) -> None:
    before = sorted(service.root.parent.rglob("*"))
    box.upload_blob(name, bytes(100_000))
    assert [b.name for b in box.list_blobs()] == [name]
    assert len(sorted(service.root.parent.rglob("*"))) == len(before) + 1
    assert [p.parent for p in service.root.iterdir()] == [service.root]
    assert len(box.download_blob(name).readall()) == 100_000
    box.delete_blob(name)
    assert list(box.list_blobs()) == []


def test_a_name_with_dots_stays_in_the_data_directory(service: Service, box: ContainerClient) -> None:
    kind = {"x-ms-blob-type": "BlockBlob"}  # plain HTTP: the SDK's transports would resolve the dots
    response, _ = service.http("PUT", f"/box/../../../up?{service.sas('c')}", bytes(100_000), kind)
    assert response.status == 201
    assert [b.name for b in box.list_blobs()] == ["../../../up"]
    assert [path.parent for path in service.root.iterdir()] == [service.root]


def test_properties_and_metadata_come_back_as_they_were_sent(service: Service, box: ContainerClient) -> None:
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


def test_a_body_sent_compressed_is_stored_compressed(service: Service, box: ContainerClient) -> None:
    headers = {"x-ms-blob-type": "BlockBlob", "Content-Encoding": "gzip"}
    response, _ = service.http("PUT", f"/box/z?{service.sas('c')}", b"not really gzip", headers)
    assert response.status == 201
    response, body = service.http("GET", f"/box/z?{service.sas('r')}")
    assert (response.headers["Content-Encoding"], body) == ("gzip", b"not really gzip")


def test_a_wrong_md5_stores_nothing(service: Service, box: ContainerClient) -> None:
    headers = {"x-ms-blob-type": "BlockBlob", "Content-MD5": base64.b64encode(bytes(16)).decode()}
    response, _ = service.http("PUT", f"/box/b?{service.sas('c')}", b"data", headers)
    assert (response.status, response.headers["x-ms-error-code"]) == (400, "Md5Mismatch")
    assert list(box.list_blobs()) == []


def test_a_body_that_ends_early_stores_nothing(service: Service, box: ContainerClient) -> None:
    target = f"/{ACCOUNT}/box/b?{service.sas('c')}"
    head = f"PUT {target} HTTP/1.1\r\nHost: x\r\nx-ms-blob-type: BlockBlob\r\nContent-Length: 200000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(head.encode() + bytes(150_000))
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass
    assert list(box.list_blobs()) == []
    assert list(service.root.iterdir()) == []


def test_a_body_without_length_or_too_long_is_refused(service: Service, box: ContainerClient) -> None:
    target, kind = f"/box/b?{service.sas('c')}", {"x-ms-blob-type": "BlockBlob"}
    response, _ = service.http("PUT", target, iter([b"chunked"]), kind)
    assert (response.status, response.headers["x-ms-error-code"]) == (411, "MissingContentLengthHeader")
    response, _ = service.http("PUT", target, b"", {**kind, "Content-Length": str(5000 * 2**20 + 1)})
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
    assert copy.get_blob_properties().metadata == {"k": "v"}


# ranges


@pytest.mark.parametrize("size", [1000, 200_000])
def test_a_range_is_answered_with_its_bytes(service: Service, box: ContainerClient, size: int) -> None:
    data = os.urandom(size)
    box.upload_blob("b", data)
    target = f"/box/b?{service.sas('r')}"
    for header in ("Range", "x-ms-range"):
        response, body = service.http("GET", target, headers={header: "bytes=100-199"})
        assert (response.status, body) == (206, data[100:200])
        assert response.headers["Content-Range"] == f"bytes 100-199/{size}"
    _, body = service.http("GET", target, headers={"Range": "bytes=900-"})
    assert body == data[900:]
    response, body = service.http("GET", target, headers={"Range": f"bytes=10-{size * 2}"})
    assert (response.headers["Content-Range"], body) == (f"bytes 10-{size - 1}/{size}", data[10:])
    response, body = service.http("GET", target, headers={"Range": f"bytes={size}-"})
    assert (response.status, response.headers["x-ms-error-code"]) == (416, "InvalidRange")


def test_an_empty_blob_has_no_valid_range(service: Service, box: ContainerClient) -> None:
    box.upload_blob("b", b"")
    response, _ = service.http("GET", f"/box/b?{service.sas('r')}", headers={"x-ms-range": "bytes=0-99"})
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
def test_of_many_conditional_puts_exactly_one_wins(service: Service, box: ContainerClient, size: int) -> None:
    target = f"/box/b?{service.sas('cw')}"
    headers = {"x-ms-blob-type": "BlockBlob", "If-None-Match": "*"}
    gate = threading.Barrier(8)

    def put(writer: int) -> int:
        gate.wait()
        return service.http("PUT", target, bytes([writer]) * size, headers)[0].status

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(put, range(8)))
    assert sorted(statuses) == [201] + [409] * 7
    assert box.download_blob("b").readall() == bytes([statuses.index(201)]) * size
    assert len(list(service.root.iterdir())) == (size > 64 * 1024)


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


def test_a_read_of_an_unchanged_blob_is_not_modified(service: Service, box: ContainerClient) -> None:
    etag = box.upload_blob("b", b"1").get_blob_properties().etag
    response, body = service.http("GET", f"/box/b?{service.sas('r')}", headers={"If-None-Match": etag})
    assert (response.status, body, response.headers["ETag"]) == (304, b"", etag)
    since = {"If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"}
    assert service.http("GET", f"/box/b?{service.sas('r')}", headers=since)[0].status == 304
    since = {"If-Unmodified-Since": "Sat, 01 Jan 2000 00:00:00 GMT"}
    assert service.http("GET", f"/box/b?{service.sas('r')}", headers=since)[0].status == 412


# blocks


def test_a_large_upload_goes_up_in_blocks_and_comes_down_whole(
    service: Service, box: ContainerClient
) -> None:
    data = os.urandom(2_500_000)
    with service.client(max_single_put_size=500_000, max_block_size=500_000) as client:
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


def test_block_ids_of_different_length_are_refused(box: ContainerClient) -> None:
    blob = box.get_blob_client("b")
    blob.stage_block("1", b"one")
    with pytest.raises(HttpResponseError) as error:
        blob.stage_block("longer", b"two")
    assert code(error) == (400, "InvalidBlobOrBlock")


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
    "query", ["maxresults=0", "maxresults=x", f"maxresults={'9' * 5000}", "marker=%21", "marker=abc"]
)
def test_a_nonsensical_page_is_refused(service: Service, box: ContainerClient, query: str) -> None:
    response, _ = service.http("GET", f"/box?restype=container&comp=list&{query}&{service.sas('l')}")
    assert response.status == 400


# batches


def test_many_blobs_are_deleted_in_one_request(box: ContainerClient) -> None:
    names = ["a", ODD_NAME, "c"]
    for name in names:
        box.upload_blob(name, b"1")
    replies = list(box.delete_blobs(*names, "missing", raise_on_any_failure=False))
    assert [reply.status_code for reply in replies] == [202, 202, 202, 404]
    assert list(box.list_blobs()) == []


def test_each_part_of_a_batch_needs_its_own_right(service: Service, box: ContainerClient) -> None:
    box.upload_blob("a", b"1")
    with ContainerClient.from_container_url(f"{box.url}?{service.sas('rl')}", retry_total=0) as reader:
        assert [r.status_code for r in reader.delete_blobs("a", raise_on_any_failure=False)] == [403]
    with ContainerClient.from_container_url(f"{box.url}?{service.sas('d')}", retry_total=0) as deleter:
        assert [r.status_code for r in deleter.delete_blobs("a")] == [202]


# who may do what


def test_an_anonymous_request_is_refused(service: Service, box: ContainerClient) -> None:
    response, body = service.http("GET", "/box/b")
    assert (response.status, response.headers["x-ms-error-code"]) == (401, "NoAuthenticationInformation")
    assert b"<Code>NoAuthenticationInformation</Code>" in body


def test_a_wrong_key_is_refused(service: Service) -> None:
    wrong = {"account_name": ACCOUNT, "account_key": base64.b64encode(b"wrong").decode()}
    with BlobServiceClient(service.url, credential=wrong, retry_total=0) as client:
        with pytest.raises(ClientAuthenticationError) as error:
            client.create_container("box")
    assert code(error) == (403, "AuthenticationFailed")


def test_each_signed_part_of_a_request_counts(service: Service, box: ContainerClient) -> None:
    sas = service.sas("r", "b")
    box.upload_blob("b", b"1")
    box.upload_blob("c", b"1")
    assert service.http("GET", f"/box/b?{sas}")[0].status == 200
    forged = [
        f"/box/c?{sas}",
        f"/box/b?{sas.replace('sp=r', 'sp=rw')}",
        f"/box/b?{sas.replace('sr=b', 'sr=c')}",
    ]
    for target in [*forged, f"/box/b?{sas}AA", f"/box/b?{sas[:-9]}"]:
        response, _ = service.http("GET", target)
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
    service: Service, box: ContainerClient, permission: str, allowed: set[str]
) -> None:
    box.upload_blob("there", b"1")
    sas = service.sas(permission)
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
        response, _ = service.http(method, f"{target}{'&' if '?' in target else '?'}{sas}", body, headers)
        assert response.status in (200, 201, 202, 403)
        if response.status < 300:
            granted.add(name)
    assert granted == allowed


def test_a_create_only_sas_never_overwrites_and_says_so(service: Service, box: ContainerClient) -> None:
    sas = service.sas("c", ODD_NAME)
    with BlobClient.from_blob_url(f"{box.url}/{quote(ODD_NAME)}?{sas}", retry_total=0) as blob:
        blob.upload_blob(b"first")
        with pytest.raises(HttpResponseError) as error:
            blob.upload_blob(b"second")  # with If-None-Match: *, yet the service looks at the right first
    assert code(error) == (403, "UnauthorizedBlobOverwrite")
    assert box.download_blob(ODD_NAME).readall() == b"first"


def test_a_sas_is_valid_between_its_times(service: Service, box: ContainerClient) -> None:
    box.upload_blob("b", b"1")
    now = datetime.now(timezone.utc)
    target = f"/box/b?{service.sas('r', 'b', start=now, expiry=now + timedelta(hours=1))}"
    for minutes, status in ((-5, 403), (5, 200), (55, 200), (65, 403)):
        service.skew = timedelta(minutes=minutes)
        assert service.http("GET", target)[0].status == status


def test_a_sas_of_a_container_does_not_manage_containers(service: Service, box: ContainerClient) -> None:
    sas = service.sas("racwdl")
    for method in ("PUT", "GET", "DELETE"):
        response, _ = service.http(method, f"/box?restype=container&{sas}")
        assert (response.status, response.headers["x-ms-error-code"]) == (403, "AuthorizationFailure")


def test_an_account_sas_reaches_the_resource_types_it_names(service: Service, box: ContainerClient) -> None:
    def client(permission: str, **types: bool) -> BlobServiceClient:
        expiry = datetime.now(timezone.utc) + timedelta(hours=1)
        sas = generate_account_sas(ACCOUNT, KEY, ResourceTypes(**types), permission, expiry)
        return BlobServiceClient(service.url, credential=sas, retry_total=0)

    with client("rwdlc", service=True, container=True, object=True) as all_types:
        assert "box" in [c.name for c in all_types.list_containers()]
        all_types.create_container("other").upload_blob("b", b"1")
        all_types.delete_container("other")
    with client("rwdlc", object=True) as objects:
        objects.get_blob_client("box", "b").upload_blob(b"1")
        with pytest.raises(HttpResponseError) as error:
            list(objects.get_container_client("box").list_blobs())
    assert code(error) == (403, "AuthorizationResourceTypeMismatch")


def test_a_sas_can_be_bound_to_https_and_to_addresses(service: Service, box: ContainerClient) -> None:
    box.upload_blob("b", b"1")
    for options, expected in (
        ({"protocol": "https"}, "AuthorizationProtocolMismatch"),
        ({"ip": "10.0.0.1-10.0.0.9"}, "AuthorizationSourceIPMismatch"),
        ({"ip": "127.0.0.1"}, None),
        ({"protocol": "https,http"}, None),
    ):
        response, _ = service.http("GET", f"/box/b?{service.sas('r', 'b', **options)}")
        assert response.headers["x-ms-error-code"] == expected


def test_a_sas_sets_headers_of_the_reply(service: Service, box: ContainerClient) -> None:
    box.upload_blob("b", b"1")
    sas = service.sas("r", "b", content_disposition="attachment; filename=x.csv", content_type="text/csv")
    response, _ = service.http("GET", f"/box/b?{sas}")
    assert response.headers["Content-Disposition"] == "attachment; filename=x.csv"
    assert response.headers["Content-Type"] == "text/csv"


# the protocol


@pytest.mark.parametrize(
    ("method", "target", "status", "error"),
    [
        ("GET", "/box/b?comp=nonsense", 400, "InvalidQueryParameterValue"),
        ("PUT", "/box/b?comp=lease", 400, "InvalidQueryParameterValue"),
        ("PATCH", "/box/b", 405, "UnsupportedHttpVerb"),
        ("GET", "/box/b?snapshot=2020", 501, "NotImplemented"),
        ("GET", "/box/%ff", 400, "InvalidUri"),
        ("GET", f"/box/{'x' * 1025}", 400, "InvalidResourceName"),
        ("PUT", "/box/b", 400, "MissingRequiredHeader"),
    ],
)
def test_what_is_not_understood_is_refused_in_the_words_of_the_service(
    service: Service, box: ContainerClient, method: str, target: str, status: int, error: str
) -> None:
    response, body = service.http(method, f"{target}{'&' if '?' in target else '?'}{service.sas('rcwdl')}")
    assert (response.status, response.headers["x-ms-error-code"]) == (status, error)
    assert f"<Code>{error}</Code>".encode() in body


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({"x-ms-copy-source": "http://[/"}, "InvalidHeaderValue"),
        ({"x-ms-copy-source": "https://other.blob.core.windows.net/c/b"}, "CannotVerifyCopySource"),
        ({"x-ms-copy-source": f"http://x/{ACCOUNT}/box/secret"}, "NoAuthenticationInformation"),
        ({"x-ms-blob-type": "PageBlob"}, "NotImplemented"),
        ({"x-ms-blob-type": "BlockBlob", "x-ms-tags": "a=b"}, "NotImplemented"),
        ({"x-ms-blob-type": "BlockBlob", "x-ms-meta-1<": "a"}, None),
        ({"x-ms-blob-type": "BlockBlob", "x-ms-meta-a-b": "a"}, "InvalidMetadata"),
        ({"x-ms-blob-type": "BlockBlob", "Content-MD5": "short"}, "InvalidMd5"),
        ({"x-ms-blob-type": "BlockBlob", "If-Unmodified-Since": "yesterday"}, "InvalidHeaderValue"),
    ],
)
def test_headers_that_cannot_be_obeyed_are_refused_and_store_nothing(
    service: Service, box: ContainerClient, headers: dict[str, str], error: str | None
) -> None:
    box.upload_blob("secret", b"1")
    box.upload_blob("b", b"before")
    response, _ = service.http("PUT", f"/box/b?{service.sas('cw')}", b"after", headers)
    assert response.status >= 400
    assert response.headers["x-ms-error-code"] == error  # none where HTTP itself forbids the header
    assert box.download_blob("b").readall() == b"before"


def test_an_absurd_range_is_ignored(service: Service, box: ContainerClient) -> None:
    box.upload_blob("b", b"1")
    for text in (f"bytes={'9' * 5000}-", "bytes=-1", "bytes=a-b", "lines=0-1"):
        response, body = service.http("GET", f"/box/b?{service.sas('r')}", headers={"x-ms-range": text})
        assert (response.status, body) == (200, b"1")


def test_replies_carry_the_headers_clients_rely_on(service: Service, box: ContainerClient) -> None:
    box.upload_blob("b", b"12345")
    headers = {"x-ms-version": "2021-12-02", "x-ms-client-request-id": "mine"}
    response, body = service.http("HEAD", f"/box/b?{service.sas('r')}", headers=headers)
    found = response.headers
    assert (body, found["Content-Length"], found["Accept-Ranges"]) == (b"", "5", "bytes")
    assert (found["x-ms-version"], found["x-ms-client-request-id"]) == ("2021-12-02", "mine")
    assert found["x-ms-blob-type"] == "BlockBlob"
    assert found["ETag"].startswith('"0x')
    assert found["Content-MD5"] == base64.b64encode(hashlib.md5(b"12345").digest()).decode()
    assert {"Last-Modified", "x-ms-creation-time", "x-ms-request-id", "Date"} <= set(found)


def test_times_come_from_the_clock_alone(service: Service, box: ContainerClient) -> None:
    service.skew = timedelta(days=400)
    properties = box.upload_blob("b", b"1").get_blob_properties()
    assert abs(properties.last_modified - service.now()) < timedelta(seconds=30)
    service.skew = timedelta(days=500)
    box.upload_blob("b", b"2", overwrite=True)
    again = box.get_blob_client("b").get_blob_properties()
    assert again.creation_time == properties.creation_time
    assert again.last_modified - properties.last_modified > timedelta(days=99)


def test_the_asynchronous_sdk_works_alike(service: Service, box: ContainerClient) -> None:
    async def use() -> tuple[bytes, list[str | None], list[int]]:
        credential = {"account_name": ACCOUNT, "account_key": KEY}
        async with AsyncBlobServiceClient(service.url, credential=credential, retry_total=0) as client:
            container = client.get_container_client("box")
            await container.upload_blob(ODD_NAME, b"x" * 100_000, metadata={"a_b": "1", "ab": "2"})
            data = await (await container.download_blob(ODD_NAME)).readall()
            names = [b.name async for b in container.list_blobs(name_starts_with="dir one/ü+")]
            replies = [r.status_code async for r in await container.delete_blobs(ODD_NAME)]
            return data, names, replies

    assert asyncio.run(use()) == (b"x" * 100_000, [ODD_NAME], [202])


def test_account_information_and_properties_are_readable(service: Service) -> None:
    with service.client() as client:
        assert client.get_account_information()["account_kind"] == "StorageV2"
        assert client.get_service_properties()["delete_retention_policy"].enabled is False
    assert urlsplit(service.url).path == f"/{ACCOUNT}"

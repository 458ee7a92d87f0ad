"""What only the embedded Blob service has: its directory, and a clock that can be moved."""

from __future__ import annotations

import gc
import gzip
import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone

import pytest
from azure.storage.blob import ContainerClient
from blob_servers import ODD_NAME, Embedded
from blob_wire import ACCOUNT
from helpers_service import service, until


def test_deleting_a_container_deletes_its_files(ours: Embedded) -> None:
    with ours.client() as client:
        container = client.create_container("files")
        container.upload_blob("large", bytes(200_000))
        assert len(list(ours.root.iterdir())) == 1
        container.delete_container()
        assert list(ours.root.iterdir()) == []


def test_a_name_with_dots_stays_in_the_data_directory(ours: Embedded, our_box: ContainerClient) -> None:
    kind = {"x-ms-blob-type": "BlockBlob"}  # plain HTTP: the SDK's transports would resolve the dots
    response, _ = ours.http("PUT", f"/box/../../../up?{ours.sas('c')}", bytes(100_000), kind)
    assert response.status == 201
    assert [b.name for b in our_box.list_blobs()] == ["../../../up"]
    assert [path.parent for path in ours.root.iterdir()] == [ours.root]


def test_a_body_that_ends_early_stores_nothing(ours: Embedded, our_box: ContainerClient) -> None:
    target = f"/{ACCOUNT}/box/b?{ours.sas('c')}"
    head = f"PUT {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nx-ms-blob-type: BlockBlob\r\nContent-Length: 200000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", ours.port)) as connection:
        connection.sendall(head.encode() + bytes(150_000))
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass
    until(lambda: list(ours.root.iterdir()), lambda left: not left)  # the connection may be gone before the request is
    assert list(our_box.list_blobs()) == []


def test_a_header_that_http_forbids_stores_nothing(ours: Embedded, our_box: ContainerClient) -> None:
    headers = {"x-ms-blob-type": "BlockBlob", "x-ms-meta-1<": "a"}
    response, _ = ours.http("PUT", f"/box/b?{ours.sas('c')}", b"data", headers)
    assert response.status == 400
    assert list(our_box.list_blobs()) == []


@pytest.mark.parametrize("name", [ODD_NAME, "/root", "a//b", "end/", "x" * 1024])
def test_a_name_is_never_a_path(ours: Embedded, our_box: ContainerClient, name: str) -> None:
    before = len(list(ours.root.parent.rglob("*")))
    our_box.upload_blob(name, bytes(100_000))
    assert [path.parent for path in ours.root.iterdir()] == [ours.root]
    assert len(list(ours.root.parent.rglob("*"))) == before + 1
    our_box.delete_blob(name)
    assert list(ours.root.iterdir()) == []


def test_of_many_conditional_puts_one_file_is_left(ours: Embedded, our_box: ContainerClient) -> None:
    target, headers = f"/box/b?{ours.sas('cw')}", {"x-ms-blob-type": "BlockBlob", "If-None-Match": "*"}
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: ours.http("PUT", target, bytes(300_000), headers)[0], range(8)))
    assert sorted(reply.status for reply in replies) == [201] + [409] * 7
    assert len(list(ours.root.iterdir())) == 1


def test_a_download_broken_off_keeps_no_file(ours: Embedded, our_box: ContainerClient) -> None:
    our_box.upload_blob("b", bytes(40_000_000))
    gc.disable()  # the file goes at once, not when rubbish is collected
    try:
        with socket.create_connection(("127.0.0.1", ours.port)) as connection:
            connection.sendall(f"GET /{ACCOUNT}/box/b?{ours.sas('r')} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        our_box.delete_blob("b")
        until(lambda: list(ours.root.iterdir()), lambda left: left == [])
    finally:
        gc.enable()


def test_a_sas_is_valid_between_its_times(ours: Embedded, our_box: ContainerClient) -> None:
    our_box.upload_blob("b", b"1")
    now = datetime.now(timezone.utc)
    target = f"/box/b?{ours.sas('r', 'b', start=now, expiry=now + timedelta(hours=1))}"
    for minutes, status in ((-5, 403), (5, 200), (55, 200), (65, 403)):
        ours.skew = timedelta(minutes=minutes)
        assert ours.http("GET", target)[0].status == status


def test_times_come_from_the_clock_alone(ours: Embedded, our_box: ContainerClient) -> None:
    ours.skew = timedelta(days=400)
    before = ours.now().replace(microsecond=0)
    properties = our_box.upload_blob("b", b"1").get_blob_properties()
    assert before <= properties.last_modified <= ours.now()
    ours.skew = timedelta(days=500)
    our_box.upload_blob("b", b"2", overwrite=True)
    again = our_box.get_blob_client("b").get_blob_properties()
    assert again.creation_time == properties.creation_time
    assert again.last_modified - properties.last_modified > timedelta(days=99)


def test_blocks_of_an_upload_given_up_go_after_a_week(ours: Embedded, our_box: ContainerClient) -> None:
    given_up, later = our_box.get_blob_client("a"), our_box.get_blob_client("b")
    given_up.stage_block("1", bytes(100_000))
    for days, left in ((6.9, ["a", "b"]), (7.1, ["b"])):
        ours.skew = timedelta(days=days)
        later.stage_block("1", b"1")
        assert [blob.name for blob in our_box.list_blobs(include=["uncommittedblobs"])] == left
    assert list(ours.root.iterdir()) == []


def test_the_whole_emulator_stores_compressed_content_as_it_is() -> None:
    content = gzip.compress(b"content" * 100)
    with service() as account:
        box = account.blobs.create_container("box")
        # The SDK names the encoding in a header of the blob; others, as azcopy or curl, in that of the request.
        box.upload_blob("b", content, headers={"Content-Encoding": "gzip"})
        downloaded = box.download_blob("b", decompress=False)
        assert downloaded.properties.content_settings.content_encoding == "gzip"
        assert downloaded.readall() == content

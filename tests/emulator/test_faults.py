"""Faults of requests: each kind does what it says, as often as it says, and to nothing else."""

from __future__ import annotations

import asyncio
import http.client
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from azure.batch import models
from azure.core.exceptions import HttpResponseError, ServiceRequestError, ServiceResponseError
from azure.storage.blob import BlobServiceClient, generate_blob_sas
from batch_service import emulator, refused
from faulty import Faulty, running, service, unrepeating
from manual_service import emulated

__all__ = ["running", "service"]  # fixtures


@pytest.fixture(scope="module")
def pool(running: Faulty) -> str:
    return running.pool(nodes=0, id="empty")


@pytest.fixture(scope="module")
def storage(running: Faulty) -> Iterator[BlobServiceClient]:
    client = BlobServiceClient.from_connection_string(running.info["connection_string"], retry_total=0)
    with client, client.create_container("faulty") as container:
        for number in range(5):
            container.upload_blob(f"blob{number}", bytes(1000))
        yield client


# -- the control route


def test_it_is_behind_the_authentication_of_the_service(service: Faulty) -> None:
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"{service.info['batch_endpoint']}/emulator/faults?api-version=2025-06-01")


def test_it_tells_what_is_armed_and_takes_it_away(service: Faulty, pool: str) -> None:
    service.arm({"kind": "delay", "seconds": 0, "seed": 1}, {"kind": "drop", "match": {"path": "/nothing"}, "seed": 2})
    service.client.get_pool(pool)
    first, second = service.armed()
    assert (first["kind"], first["matched"], first["fired"]) == ("delay", 1, 1)
    assert (second["match"], second["matched"], second["fired"]) == ({"path": "/nothing"}, 0, 0)
    service.control("DELETE", f"faults?id={first['id']}")
    assert service.armed() == [second]
    with refused("ResourceNotFound", 404):
        service.control("DELETE", f"faults?id={first['id']}")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"kind": "flood"}, "'flood' is not known; known are status"),
        ({"kind": "drop", "seconds": 1}, "has no 'seconds'; it may have kind"),
        ({"kind": "drop", "match": {"image": "x"}}, "cannot match by 'image'"),
        ({"kind": "drop", "when": "never"}, "when is 'before' or 'after'"),
        ({"kind": "drop", "probability": 2}, "probability is a number, 0 to 1"),
        ({"kind": "drop", "count": 1.5}, "count is a whole number"),
        ({"kind": "drop", "after": None}, "after is a whole number"),
        ({"kind": "delay", "seconds": "1"}, "seconds is a number"),
        ({"kind": "twice", "overlap": 1}, "overlap is true or false"),
        ({"kind": "status", "code": 5}, "code is a text"),
        ({"kind": "status", "status": 200}, "status is one of 400 to 599"),
        ("drop", "a list of faults"),
    ],
)
def test_what_cannot_be_armed_is_refused_with_the_reason_and_nothing_is(
    service: Faulty, fault: Any, words: str
) -> None:
    with pytest.raises(HttpResponseError, match="InvalidPropertyValue") as raised:
        service.control("POST", body=[{"kind": "drop"}, fault])
    assert words in json.dumps(raised.value.response.json())  # type: ignore[union-attr]
    assert service.armed() == []


def test_faults_come_from_a_file(tmp_path: Path) -> None:
    for name, text in (
        ("a.json", '{"faults": [{"kind": "status", "status": 500, "count": 1}]}'),
        ("b.toml", '[[faults]]\nkind = "status"\nstatus = 500\ncount = 1\nmatch = {operation = "GET pools"}\n'),
    ):
        file = tmp_path / name
        file.write_text(text)
        with emulator(None, "--faults", str(file)) as (service, _), unrepeating(service) as faulty:
            with refused("InternalError", 500):
                list(faulty.client.list_pools())
            assert faulty.fired() == [1]


def test_a_wrong_file_is_refused_at_the_start(tmp_path: Path) -> None:
    file = tmp_path / "faults.json"
    file.write_text('[{"kind": "flood"}]')
    command = [sys.executable, "-m", "batchexec.emulator", "--faults", str(file)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert found.returncode == 2
    assert f"{file}: kind 'flood' is not known" in found.stderr


# -- how often


def test_it_skips_the_first_and_ends_by_its_count(service: Faulty, pool: str) -> None:
    service.arm({"kind": "status", "status": 503, "after": 2, "count": 3})
    assert pattern(service, pool, 8) == "..xxx..."
    assert service.fired() == [3]


def test_a_seed_makes_chance_the_same_again(service: Faulty, pool: str) -> None:
    patterns = []
    for seed in (7, 7, 8):
        service.arm({"kind": "status", "probability": 0.5, "seed": seed})
        patterns.append(pattern(service, pool, 40))
        service.disarm()
    assert patterns[0] == patterns[1] != patterns[2]
    assert 8 < patterns[0].count("x") < 32


def pattern(service: Faulty, pool: str, requests: int) -> str:
    found = ""
    for _ in range(requests):
        try:
            service.client.get_pool(pool)
            found += "."
        except HttpResponseError:
            found += "x"
    return found


# -- requests


def test_a_status_with_and_without_a_time_to_wait(service: Faulty, pool: str) -> None:
    match = {"service": "batch", "method": "get", "operation": "GET pools/*", "pool": "EMP*"}
    service.arm({"kind": "status", "status": 429, "retry_after": 7, "count": 1, "match": match})
    with pytest.raises(HttpResponseError) as raised:
        service.client.get_pool(pool)
    assert raised.value.status_code == 429
    assert raised.value.error is not None
    assert raised.value.error.code == "TooManyRequests"
    assert raised.value.response.headers["Retry-After"] == "7"  # type: ignore[union-attr]
    service.arm({"kind": "status", "status": 429, "count": 1, "match": match})
    with pytest.raises(HttpResponseError) as raised:
        service.client.get_pool(pool)
    assert "Retry-After" not in raised.value.response.headers  # type: ignore[union-attr]
    service.client.get_pool(pool)


def test_a_page_of_something_in_between(service: Faulty, pool: str) -> None:
    service.arm({"kind": "status", "status": 502, "html": True, "count": 1})
    with pytest.raises(HttpResponseError) as raised:
        service.client.get_pool(pool)
    assert raised.value.response.headers["Content-Type"].startswith("text/html")  # type: ignore[union-attr]


def test_only_what_matches_is_struck(service: Faulty, pool: str) -> None:
    service.arm(
        {"kind": "status", "match": {"header": {"X-Mark": "y*"}}},
        {"kind": "status", "match": {"service": "blob"}},
        {"kind": "status", "match": {"pool": "other"}},
    )
    service.client.get_pool(pool)
    with pytest.raises(HttpResponseError, match="ServerBusy"):
        service.client.get_pool(pool, headers={"X-Mark": "yes"})
    assert service.fired() == [1, 0, 0]


def test_a_connection_dropped_before_the_commit_leaves_nothing(service: Faulty, pool: str) -> None:
    service.arm({"kind": "drop", "count": 1})
    with pytest.raises((ServiceRequestError, ServiceResponseError)):
        service.job_named("dropped", pool)
    with refused("JobNotFound", 404):
        service.client.get_job("dropped")


def test_a_connection_dropped_after_the_commit_leaves_what_was_made(service: Faulty, pool: str) -> None:
    service.arm({"kind": "drop", "when": "after", "count": 1})
    with pytest.raises((ServiceRequestError, ServiceResponseError)):
        service.job_named("made", pool)
    assert service.client.get_job("made").state == "active"


def test_a_reply_that_is_cut(service: Faulty, pool: str) -> None:
    service.arm({"kind": "truncate", "count": 1})
    with pytest.raises(HttpResponseError, match=r"[Ii]ncomplete"):
        service.client.get_pool(pool)
    service.arm({"kind": "truncate", "bytes": 10, "count": 1})
    # Not signed: the refusal is a reply as well.
    assert received(service.info["batch_endpoint"], "/pools") == 10


def test_a_delay(service: Faulty, pool: str) -> None:
    service.arm({"kind": "delay", "seconds": 0.3, "count": 1})
    begin = time.monotonic()
    service.client.get_pool(pool)
    assert time.monotonic() - begin >= 0.3


def test_short_pages_and_an_empty_first_one(service: Faulty, pool: str) -> None:
    for number in range(5):
        service.job_named(f"page{number}", pool)
    everything = [job.id for job in service.client.list_jobs()]
    for empty, expected in ((False, 2), (True, 0)):
        service.arm({"kind": "short-pages", "items": 2, "empty": empty})
        pages = [[job.id for job in page] for page in service.client.list_jobs().by_page()]
        service.disarm()
        assert len(pages[0]) == expected
        assert max(map(len, pages)) == 2
        assert [id for page in pages for id in page] == everything


# -- items of a collection


def collection(service: Faulty, job: str, ids: list[str]) -> dict[str, str]:
    tasks = [models.BatchTaskCreateOptions(id=id, command_line="true") for id in ids]
    found = service.client.create_task_collection(job, models.BatchTaskGroup(task_values=tasks))
    return {str(item.task_id): str(item["status"]) for item in found.result_values or ()}


def test_items_with_a_server_error_are_not_added_or_are_and_it_is_not_told(service: Faulty, pool: str) -> None:
    job = service.job(pool)
    service.arm(
        {"kind": "servererror", "match": {"task": "a"}, "count": 1},
        {"kind": "servererror", "match": {"task": "b"}, "count": 1, "when": "after"},
    )
    statuses = collection(service, job, ["a", "b", "c"])
    assert statuses == {"a": "servererror", "b": "servererror", "c": "success"}
    assert {task.id for task in service.client.list_tasks(job)} == {"b", "c"}


def test_the_items_of_a_reply_out_of_order(service: Faulty, pool: str) -> None:
    job = service.job(pool)
    ids = [f"t{number}" for number in range(20)]
    service.arm({"kind": "reorder", "seed": 3})
    found = list(collection(service, job, ids))
    assert found != ids
    assert sorted(found) == sorted(ids)


# -- lag


def test_lists_and_counts_that_lag(tmp_path: Path) -> None:
    async def play() -> None:
        async with emulated(tmp_path) as here:
            await here.pool(targetDedicatedNodes=0)
            await here.task("old")
            here.clock.advance(3)
            here.emulator.account.faults.arm({"kind": "lag", "match": {"job": "j"}, "seconds": 2})
            await here.task("new")

            async def seen() -> tuple[list[str], int]:
                counts = await here.client.get_job_task_counts("j")
                return sorted([task.id async for task in here.client.list_tasks("j")]), counts.task_counts.active

            async def completed() -> list[str]:
                return [task.id async for task in here.client.list_tasks("j", filter="state eq 'completed'")]

            here.clock.advance(1.9)
            assert await seen() == (["old"], 1)
            here.clock.advance(0.2)
            assert await seen() == (["new", "old"], 2)
            await here.client.terminate_task("j", "new")
            assert (await here.client.get_task("j", "new")).state == "completed"
            assert await completed() == []
            here.clock.advance(2)
            assert await completed() == ["new"]

    asyncio.run(play())


# -- blobs


def test_blobs_that_fail_are_slow_and_are_cut(service: Faulty, storage: BlobServiceClient) -> None:
    blob = storage.get_blob_client("faulty", "blob1")
    match = {"container": "faulty", "blob": "blob1"}
    service.arm({"kind": "status", "status": 503, "match": match, "count": 1, "retry_after": 1})
    with pytest.raises(HttpResponseError) as raised:
        blob.download_blob()
    assert raised.value.error_code == "ServerBusy"  # type: ignore[attr-defined]
    service.arm({"kind": "delay", "seconds": 0.2, "match": match, "count": 1})
    begin = time.monotonic()
    assert blob.download_blob().readall() == bytes(1000)
    assert time.monotonic() - begin >= 0.2
    # The SDK asks again by itself for what is missing, so one cut reply does it no harm.
    service.arm({"kind": "truncate", "bytes": 100, "match": {**match, "operation": "GET blob"}, "count": 1})
    assert blob.download_blob().readall() == bytes(1000)
    assert service.fired() == [1, 1, 1]


def test_a_large_blob_is_cut_as_well(service: Faulty, storage: BlobServiceClient) -> None:
    blob = storage.get_blob_client("faulty", "large")
    blob.upload_blob(bytes(8 << 20), overwrite=True)
    service.arm({"kind": "truncate", "bytes": 3 << 20, "match": {"blob": "large", "method": "GET"}})
    sas = generate_blob_sas(
        service.info["storage_account"],
        "faulty",
        "large",
        account_key=service.info["storage_key"],
        permission="r",
        expiry=datetime.now(timezone.utc) + timedelta(hours=1),
    )
    path = f"/{service.info['storage_account']}/faulty/large?{sas}"
    assert received(service.info["blob_endpoint"], path) == 3 << 20


def received(endpoint: str, path: str) -> int:
    """Bytes of a reply that is cut."""
    with closing(http.client.HTTPConnection(endpoint.split("/")[2], timeout=60)) as connection:
        connection.request("GET", path)
        with pytest.raises(http.client.IncompleteRead) as cut:
            connection.getresponse().read()
        return len(cut.value.partial)


def test_an_expired_signature_strikes_only_signed_addresses(service: Faulty, storage: BlobServiceClient) -> None:
    address = service.blob(b"here")
    service.arm({"kind": "expired-sas"})
    with pytest.raises(urllib.error.HTTPError, match="403") as raised:
        urllib.request.urlopen(address)
    assert raised.value.headers["x-ms-error-code"] == "AuthenticationFailed"
    raised.value.close()
    assert storage.get_blob_client("faulty", "blob1").download_blob().readall() == bytes(1000)
    assert service.fired() == [1]


def test_short_pages_of_blobs(service: Faulty, storage: BlobServiceClient) -> None:
    container = storage.get_container_client("faulty")
    service.arm({"kind": "short-pages", "items": 2, "empty": True})
    pages = [list(page) for page in container.list_blob_names(name_starts_with="blob").by_page()]
    assert [len(page) for page in pages] == [0, 2, 2, 1]


# -- resizing


@pytest.mark.parametrize(
    ("settings", "nodes"),
    [({"code": "AccountCoreQuotaReached"}, 0), ({"code": "AllocationFailed", "nodes": 1, "message": "no more"}, 1)],
)
def test_nodes_that_are_not_allocated(service: Faulty, settings: dict[str, Any], nodes: int) -> None:
    service.arm({"kind": "resize-error", **settings})
    id = service.pool(nodes=2)
    pool = service.until(lambda: service.client.get_pool(id), lambda found: found.allocation_state == "steady")
    (error,) = pool.resize_errors
    assert error.code == settings["code"]
    assert pool.current_dedicated_nodes == nodes
    service.client.begin_delete_pool(id, polling_interval=0.05).wait()

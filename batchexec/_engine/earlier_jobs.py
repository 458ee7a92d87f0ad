"""A job seen again, from its own records alone: the results that are there, and its removal."""

from __future__ import annotations

import asyncio
import base64
import os
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from batchexec._engine.account import azure_account
from batchexec._engine.packs import Record, of_pack
from batchexec._engine.results import outcomes
from batchexec._engine.results.collector import Brought, Collector, read
from batchexec._engine.results.destinations import template
from batchexec._engine.session import connected
from batchexec._wire import names
from batchexec.config import BatchConfig
from batchexec.errors import ConfigError
from batchexec.futures import Outcome

T = TypeVar("T")

_READS = 16


class Item(NamedTuple):
    """One item of a job and what came of it: its value, or the exception that it raised."""

    call: str
    number: int
    value: Any
    error: BaseException | None
    files: int = 0
    """How many files it left."""
    outputs: tuple[Path, ...] = ()
    """Where they are, if they were brought."""
    node_id: str = ""
    seconds: float = 0.0
    """How long it ran."""
    asked: dict[str, Any] | None = None
    """What a run of a Command was asked for (`batchexec._command.sweeps.keys`); None for a call of a function."""


class Found(NamedTuple):
    """What a job's storage tells of it."""

    items: list[Item]
    """Those that have an outcome, in the order of their submission."""
    unfinished: list[Item]
    """Runs of Commands that have none: they have not run yet, or were ended, or their worker died."""


def fetch(config: BatchConfig, job_id: str, outputs: str | None = None) -> Found:
    """What there is of the job's items.

    outputs: a directory to bring their files to, each item's into one with its number.
    Runs user code (unpickling), in this thread. Raises ServiceError, and ConfigError where no such job is.
    """
    results, records = _in_job(config, job_id, lambda job: _read_results(job, outputs))
    found: list[Item] = []
    for result in sorted(results, key=lambda result: result.record.first_item):
        record = result.record
        left = Counter(entry[0] for entry in result.header.get("attachments", ()))
        node = result.header.get("node") or ""
        paths: dict[int, list[Path]] = result.brought.paths if result.brought else {}
        sent = [index for index in range(record.size) if index not in record.failed]
        seconds = dict(zip(sent, result.header.get("seconds", ()), strict=False))
        for index, outcome in enumerate(_outcomes(result, job_id)):
            number = record.first_item + index
            found.append(
                Item(
                    record.call,
                    number,
                    *outcome,
                    files=left[number],
                    outputs=tuple(paths.get(number, ())),
                    node_id=node,
                    seconds=seconds.get(index, 0.0),
                    asked=record.asked.get(number),
                )
            )
    over = {item.number for item in found}
    asked = {number: (record.call, one) for record in records for number, one in record.asked.items()}
    unfinished = [
        Item(asked[number][0], number, None, None, asked=asked[number][1]) for number in sorted(asked.keys() - over)
    ]
    return Found(found, unfinished)


def clean(config: BatchConfig, job_id: str) -> None:
    """Delete the job, its tasks and everything of it in storage. Its pool, which other jobs may use, stays."""
    _in_job(config, job_id, _delete)


class _Job:
    """The services and the job's own settings."""

    def __init__(self, job_id: str, batch: Any, store: Any, key: bytes, own_container: bool) -> None:
        self.job_id = job_id
        self.batch = batch
        self.store = store
        self.key = key
        self.own_container = own_container


def _in_job(config: BatchConfig, job_id: str, work: Callable[[_Job], Coroutine[Any, Any, T]]) -> T:
    if config.resolved_where == "local":
        raise ConfigError(
            "no account is configured, and jobs of the local service end with the program that made them: "
            "set the account that the job belongs to"
        )
    return asyncio.run(_with_job(config, job_id, work))


async def _with_job(config: BatchConfig, job_id: str, work: Callable[[_Job], Coroutine[Any, Any, T]]) -> T:
    from batchexec._azure.batch import BatchService
    from batchexec._azure.blobs import BlobStore

    account = azure_account(config)
    async with connected(account, config.connect_timeout) as http:
        batch = BatchService(account, http, config.connect_timeout)
        try:
            found = await batch.get_job(job_id)
            if found is None:
                raise ConfigError(f"there is no job {job_id!r} in account {account.batch_account}")
            settings = {item["name"]: item["value"] for item in found.get("commonEnvironmentSettings") or ()}
            if names.ENV_STORE not in settings:
                raise ConfigError(f"job {job_id!r} was not made by batchexec")
            path = urlsplit(settings[names.ENV_STORE]).path.removeprefix(urlsplit(account.blob_endpoint).path)
            container, _, prefix = path.lstrip("/").partition("/")
            store = BlobStore(account, http, container, prefix, config.connect_timeout)
            await store.open(create=False)
            key = base64.b64decode(settings[names.ENV_KEY])
            return await work(_Job(job_id, batch, store, key, own_container=container == job_id))
        finally:
            await batch.close()


async def _delete(job: _Job) -> None:
    await job.batch.delete_job(job.job_id)
    await job.store.drop(whole_container=job.own_container)


class _Result(NamedTuple):
    """A chunk's result, opened, or why it cannot be."""

    record: Record
    header: dict[str, Any]
    frames: list[memoryview]
    failure: outcomes.Failure | None
    brought: Brought | None


def _outcomes(result: _Result, job_id: str) -> list[Outcome]:
    try:
        if result.failure is not None:
            raise result.failure
        return outcomes.delivery(result.header, result.frames, job_id, result.record, result.brought).outcomes
    except outcomes.Failure as failure:
        return [Outcome(None, failure.error)] * result.record.size


async def _read_results(job: _Job, outputs: str | None) -> tuple[list[_Result], list[Record]]:
    """The results that are there, and all chunks, which are in the signed indexes of the packs."""
    there = set(await job.store.names("out/"))
    records: list[Record] = []
    for pack in await job.store.names("in/"):
        records += await of_pack(job.store.get, job.key, job.job_id, pack)
    wanted = [record for record in records if names.result_blob(record.number, record.generation) in there]
    collector = Collector(job.store.get)
    places = asyncio.Semaphore(_READS)

    async def read_one(record: Record) -> _Result | None:
        blob = names.result_blob(record.number, record.generation)
        async with places:
            result = await read(job.store.get, blob)
            if result is None:
                return None
            try:
                header, frames = outcomes.opened(result.envelope, job.key, job.job_id, record)
            except outcomes.Failure as failure:
                return _Result(record, {}, [], failure, None)
            brought = None
            if outputs and header.get("attachments"):
                directory = template("{item}", os.path.abspath(outputs))
                offset = record.first_item - record.offset
                where = {"job_id": job.job_id, "task_id": record.task_id}
                brought = await collector.bring(blob, result, header, directory, False, offset, where)
            return _Result(record, header, frames, None, brought)

    results = await asyncio.gather(*map(read_one, wanted))
    return [result for result in results if result is not None], records

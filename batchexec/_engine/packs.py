"""What a job's packs tell of it, without its client: its chunks, and what the runs of its Commands were asked for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from batchexec._wire import envelope, names, payload
from batchexec.errors import BatchExecError, PayloadError

Get = Callable[[str, "tuple[int, int] | None"], Awaitable["bytes | None"]]  # a blob, or its bytes [start, stop)

_UNSENT = "the item could not be sent: its client was told why"
_INDEX_BYTES = 1024 * 1024  # of a pack: more than the index of 100 chunks takes


@dataclass(frozen=True)
class Record:
    """A chunk as its pack's index describes it."""

    number: int
    generation: int
    size: int
    call: str
    offset: int
    is_map: bool
    first_item: int
    sent_at: float = 0.0
    failed: dict[int, PayloadError] = field(default_factory=dict)
    asked: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Of a Command's runs, by the items' numbers: what its client wrote of them (`batchexec._command.sweeps.keys`)."""

    @property
    def task_id(self) -> str:
        return names.task_id(self.number, self.generation)


async def of_pack(get: Get, key: bytes, job: str, pack: str) -> list[Record]:
    """The chunks of one pack; none of a blob that has another name than packs have. Raises BatchExecError where it is
    not what the job's client signed."""
    number = pack.rpartition("/")[2]
    if not (number.isascii() and number.isdigit()) or pack != names.pack_blob(int(number)):
        return []  # somebody else's; a copy of ours would be counted twice
    data = await get(pack, (0, _INDEX_BYTES)) or b""
    try:
        start = envelope.headed_length(data)
        about = envelope.context("index", job, int(number))
        entries = envelope.unseal(key, about, data[:start])[0]["chunks"]
        if len(data) == _INDEX_BYTES and any("command" in entry for entry in entries):
            data = await get(pack, None) or b""
        return [_record(entry, key, job, memoryview(data)[start:]) for entry in entries]
    except envelope.BadEnvelope as error:
        raise BatchExecError(f"{pack} of job {job} is not what its client wrote: {error}") from error


def _record(entry: dict[str, Any], key: bytes, job: str, chunks: memoryview) -> Record:
    return Record(
        number=entry["chunk"],
        generation=entry["generation"],
        size=entry["items"],
        call=entry["call"],
        offset=entry["offset"],
        is_map=entry["map"],
        first_item=entry["first"],
        failed={index: PayloadError(_UNSENT) for index in entry.get("failed", ())},
        asked=_asked(entry, key, job, chunks[entry["at"] :]) if "command" in entry else {},
    )


def _asked(entry: dict[str, Any], key: bytes, job: str, data: memoryview) -> dict[int, dict[str, Any]]:
    """`data` begins with the chunk's envelope."""
    about = envelope.context("chunk", job, entry["chunk"], entry["generation"])
    header, frames = envelope.unseal(key, about, data[: envelope.length(data)])
    start = 0
    for name, where in header["parts"].items():
        if name == "items":
            items = payload.load(frames[start : start + where])
            return {number: args[0]["asked"] for number, (args, _) in zip(header["numbers"], items, strict=True)}
        start += where if isinstance(where, int) else 0
    raise envelope.BadEnvelope("a chunk without items")

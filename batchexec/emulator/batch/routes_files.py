"""Operations on the files of tasks and of nodes."""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import Awaitable, Callable
from datetime import datetime, timezone
from urllib.parse import quote, unquote_to_bytes

from aiohttp import web

from batchexec.emulator.clock import http_date, iso
from batchexec.emulator.errors import BatchError
from batchexec.emulator.node.agent import DIRECTORIES
from batchexec.emulator.node.directory import Absent, Directory, content, media_type
from batchexec.emulator.scheduling.scheduler import Scheduler
from batchexec.emulator.state import Account, Body

from .odata import Only
from .routes_nodes import refuse_unless_there
from .server import Call, Operation, chosen, done, listed

Find = Callable[[Call], Directory]
_NAME = {"name": Only(lambda item: item[1], "startswith")}


class FileRoutes:
    def __init__(self, account: Account, scheduler: Scheduler) -> None:
        self._account = account
        self._scheduler = scheduler

    def operations(self) -> dict[str, Operation]:
        found: dict[str, Operation] = {}
        for place, find in (("jobs/*/tasks/*", self._of_task), ("pools/*/nodes/*", self._of_node)):
            found[f"GET {place}/files"] = _with(find, list_files)
            found[f"GET {place}/files/*"] = _with(find, get_file)
            found[f"HEAD {place}/files/*"] = _with(find, head_file)
            found[f"DELETE {place}/files/*"] = _with(find, delete_file)
        return found

    def _of_task(self, call: Call) -> Directory:
        task = self._account.task(*call.ids[:2])
        if task.state in ("active", "preparing") and task.start_time is None:
            raise BatchError("OperationInvalidForCurrentState")
        if task.cleaned:
            raise BatchError("TaskFilesCleanedup")
        path = self._scheduler.directory_of(task)
        if path is None:
            raise BatchError("TaskFilesUnavailable")
        assert task.node_info is not None
        if self._account.node(task.node_info["poolId"], task.node_info["nodeId"]).state in ("unknown", "unusable"):
            raise BatchError("TaskFilesUnavailable")
        return Directory(path)

    def _of_node(self, call: Call) -> Directory:
        node = self._account.node(*call.ids[:2])
        refuse_unless_there(node)
        node.agent.make_directories()
        return Directory(node.agent.root, DIRECTORIES)


def _with(
    find: Find, operation: Callable[[Call, Directory], web.Response | Awaitable[web.StreamResponse]]
) -> Operation:
    return lambda call: operation(call, find(call))


async def list_files(call: Call, directory: Directory) -> web.StreamResponse:
    recursive = call.query.get("recursive", "false").lower() == "true"
    found = call.filter(_NAME)
    names = await asyncio.to_thread(lambda: sorted(directory.names(recursive)))

    def wire(item: tuple[int, str], select: frozenset[str] | None) -> Body:
        name = item[1]
        shown = os.fsencode(name).decode(errors="replace")
        status = directory.status(name)
        if status is None:  # gone since it was listed: a running task may remove its files
            return {"name": shown, "isDirectory": False}
        body: Body = {"name": shown, "url": f"{call.base}{call.path}/{quote(os.fsencode(name), safe='')}"}
        body["isDirectory"] = stat.S_ISDIR(status.st_mode)
        if not body["isDirectory"]:
            body["properties"] = {
                "creationTime": iso(_time(status.st_ctime)),
                "lastModified": iso(_time(status.st_mtime)),
                "contentLength": str(status.st_size),
                "contentType": media_type(name),
                "fileMode": f"0o{status.st_mode:o}",
            }
        return chosen(select, body)

    return listed(call, "files", list(enumerate(names, 1)), found, lambda item: item[0], wire)


def get_file(call: Call, directory: Directory) -> web.Response:
    handle, status = _open(call, directory)
    try:
        if stat.S_ISDIR(status.st_mode):
            raise BatchError("FileNotFound")
        call.check_times(_time(status.st_mtime), reading=True)
        start, end = _range(call.headers.get("ocp-range") or call.headers.get("Range"), status.st_size)
    except BaseException:
        os.close(handle)
        raise
    # 200 also for a range: the SDK takes nothing else.
    return web.Response(body=content(handle, start, end), headers=_headers(call, status))


def head_file(call: Call, directory: Directory) -> web.Response:
    handle, status = _open(call, directory)
    os.close(handle)
    call.check_times(_time(status.st_mtime), reading=True)
    headers = _headers(call, status)
    headers["Content-Length"] = str(0 if stat.S_ISDIR(status.st_mode) else status.st_size)
    return web.Response(headers=headers)


async def delete_file(call: Call, directory: Directory) -> web.StreamResponse:
    recursive = call.query.get("recursive", "false").lower() == "true"
    try:
        gone = await asyncio.to_thread(directory.remove, _path(call), recursive)
    except Absent:
        raise BatchError("FileNotFound") from None
    except OSError as error:
        raise BatchError("OperationInvalidForCurrentState", Reason=error.strerror or str(error)) from None
    if not gone:
        raise BatchError("OperationInvalidForCurrentState", Reason="the directory is not empty, or has to stay")
    return done(200, call)


def _path(call: Call) -> str:
    """The file's path as it is on disk: any bytes."""
    return os.fsdecode(unquote_to_bytes(call.path.strip("/").split("/", 5)[5]))


def _open(call: Call, directory: Directory) -> tuple[int, os.stat_result]:
    try:
        return directory.open(_path(call))
    except Absent:
        raise BatchError("FileNotFound") from None


def _headers(call: Call, status: os.stat_result) -> dict[str, str]:
    return {
        "Content-Type": media_type(_path(call)),
        "Last-Modified": http_date(_time(status.st_mtime)),
        "ETag": f"0x{status.st_mtime_ns:X}",
        "ocp-creation-time": http_date(_time(status.st_ctime)),
        "ocp-batch-file-url": call.base + call.path,
        "ocp-batch-file-isdirectory": str(stat.S_ISDIR(status.st_mode)).lower(),
        "ocp-batch-file-mode": f"0o{status.st_mode:o}",
    }


def _range(header: str | None, size: int) -> tuple[int, int]:
    """The bytes asked for, as a half-open range."""
    if not header:
        return 0, size
    match = re.fullmatch(r"bytes=(\d{1,18})-(\d{0,18})", header)
    if match is None:
        raise BatchError("InvalidHeaderValue", HeaderName="ocp-range", HeaderValue=header)
    start, end = int(match.group(1)), int(match.group(2) or size)
    if start >= size or end < start:
        raise BatchError("InvalidRange")
    return start, min(end + 1, size)


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)

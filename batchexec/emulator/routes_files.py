"""Operations on the files of tasks."""

from __future__ import annotations

import mimetypes
import os
import re
import stat
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import quote

from aiohttp import web

from .clock import http_date, iso
from .errors import BatchError
from .scheduler import Scheduler
from .server import Call, Operation, chosen, listed
from .state import Account, Body, Task


class FileRoutes:
    def __init__(self, account: Account, scheduler: Scheduler) -> None:
        self._account = account
        self._scheduler = scheduler

    def operations(self) -> dict[str, Operation]:
        return {
            "GET jobs/*/tasks/*/files": self.list,
            "GET jobs/*/tasks/*/files/*": self.get,
            "HEAD jobs/*/tasks/*/files/*": self.head,
        }

    def _directory(self, task: Task) -> Path:
        if task.state in ("active", "preparing") and task.start_time is None:
            raise BatchError("OperationInvalidForCurrentState")
        directory = self._scheduler.directory_of(task)
        if directory is None or not directory.is_dir():
            raise BatchError("TaskFilesUnavailable")
        return directory

    def list(self, call: Call) -> web.Response:
        directory = self._directory(self._account.task(*call.ids))
        recursive = call.query.get("recursive", "false").lower() == "true"
        found = call.filter({"name": lambda item: item[1]})
        entries = list(enumerate(sorted(_walk(directory, recursive)), 1))

        def wire(item: tuple[int, str], select: frozenset[str] | None) -> Body:
            path = directory / item[1]
            name = item[1]
            try:
                status = path.stat()
            except OSError:  # gone since it was listed: a running task may remove its files
                return {"name": name, "isDirectory": False}
            body: Body = {"name": name, "url": f"{call.base}{call.path}/{quote(name, safe='')}"}
            body["isDirectory"] = stat.S_ISDIR(status.st_mode)
            if not body["isDirectory"]:
                body["properties"] = {
                    "creationTime": iso(_time(status.st_ctime)),
                    "lastModified": iso(_time(status.st_mtime)),
                    "contentLength": str(status.st_size),
                    "contentType": _type(name),
                    "fileMode": f"0o{status.st_mode:o}",
                }
            return chosen(select, body)

        return listed(call, "files", entries, found, lambda item: item[0], wire)

    def get(self, call: Call) -> web.StreamResponse:
        path, headers, status = self._file(call)
        start, end = _range(call.headers.get("ocp-range") or call.headers.get("Range"), status.st_size)
        with open(path, "rb") as file:
            file.seek(start)
            content = file.read(end - start)
        # 200 also for a range: the SDK takes nothing else.
        return web.Response(body=content, headers=headers)

    def head(self, call: Call) -> web.Response:
        _, headers, status = self._file(call)
        headers["Content-Length"] = str(status.st_size)
        return web.Response(headers=headers)

    def _file(self, call: Call) -> tuple[Path, dict[str, str], os.stat_result]:
        directory = self._directory(self._account.task(*call.ids[:2]))
        path = directory / call.ids[2]
        try:
            real = path.resolve(strict=True)
            status = real.stat()
        except (OSError, ValueError):
            raise BatchError("FileNotFound") from None
        if not real.is_relative_to(directory.resolve()) or not stat.S_ISREG(status.st_mode):
            raise BatchError("FileNotFound")
        headers = {
            "Content-Type": _type(path.name),
            "Last-Modified": http_date(_time(status.st_mtime)),
            "ETag": f"0x{status.st_mtime_ns:X}",
            "ocp-creation-time": http_date(_time(status.st_ctime)),
            "ocp-batch-file-url": call.base + call.path,
            "ocp-batch-file-isdirectory": "false",
            "ocp-batch-file-mode": f"0o{status.st_mode:o}",
        }
        return real, headers, status


def _walk(directory: Path, recursive: bool) -> Iterator[str]:
    if not recursive:
        yield from os.listdir(directory)
        return
    for parent, directories, files in os.walk(directory):
        for name in directories + files:
            yield os.path.relpath(os.path.join(parent, name), directory)


def _range(header: str | None, size: int) -> tuple[int, int]:
    """The bytes asked for, as a half-open range."""
    if not header:
        return 0, size
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", header)
    if match is None:
        raise BatchError("InvalidHeaderValue", HeaderName="ocp-range", HeaderValue=header)
    start, end = int(match.group(1)), int(match.group(2) or size)
    if start >= size or end < start:
        raise BatchError("InvalidRange")
    return start, min(end + 1, size)


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)


def _type(name: str) -> str:
    return mimetypes.guess_type(name)[0] or "application/octet-stream"

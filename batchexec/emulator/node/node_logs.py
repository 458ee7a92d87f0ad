"""The node's own logs, uploaded to a container when a client asks for them."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import quote

from .agent import LOGS
from .directories import passes_link
from .transfers import Transfers

_log = logging.getLogger(__name__)


def since(root: Path, start: datetime) -> list[Path]:
    """The logs with a line of this time or a later one: whole files, more rather than less, as the service does it."""
    if passes_link(root, root / LOGS):
        return []
    logs = (path for path in sorted((root / LOGS).iterdir()) if path.is_file() and not path.is_symlink())
    return [path for path in logs if datetime.fromtimestamp(path.stat().st_mtime, timezone.utc) >= start]


async def upload(http: Transfers, files: list[Path], container_url: str, directory: str) -> None:
    """Put each file into the container, under this virtual directory; what fails is only logged."""
    import aiohttp

    container, _, signature = container_url.partition("?")
    for file in files:
        url = f"{container.rstrip('/')}/{quote(f'{directory}/{file.name}')}?{signature}"
        headers = {"x-ms-blob-type": "BlockBlob", "x-ms-version": "2021-08-06"}
        try:
            content = await asyncio.to_thread(file.read_bytes)
            async with http.request("PUT", url, data=content, headers=headers) as reply:
                if reply.status != 201:
                    _log.warning("%s was not uploaded: HTTP %s", file, reply.status)
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError) as error:
            _log.warning("%s was not uploaded: %s", file, type(error).__name__)

"""The log of the HTTP servers: our own faults, but no requests that are not HTTP, whose words may be secrets."""

from __future__ import annotations

import logging

from aiohttp.http import HttpProcessingError


class _OursOnly(logging.Filter):
    """aiohttp quotes the line that it cannot read, and that may be an Authorization header."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


log = logging.getLogger(__name__)
log.addFilter(_OursOnly())

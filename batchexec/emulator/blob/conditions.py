"""Conditional headers, evaluated as the Blob service does.

https://learn.microsoft.com/rest/api/storageservices/specifying-conditional-headers-for-blob-service-operations
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

from .errors import BlobError
from .store import Blob, Container

# If-Match, If-None-Match, If-Modified-Since, If-Unmodified-Since
_Conditions = tuple["str | None", "str | None", "datetime | None", "datetime | None"]


def check_satisfiable(headers: Mapping[str, str]) -> None:
    """No blob that can be read could meet If-None-Match: *."""
    if headers.get("If-None-Match") == "*":
        raise BlobError("UnsatisfiableCondition")


def check_read(headers: Mapping[str, str], blob: Blob) -> None:
    """If-Match and If-Unmodified-Since and (If-None-Match or If-Modified-Since)."""
    match, none_match, after, before = _conditions(headers)
    if match is not None and match != "*" and blob.etag not in _etags(match):
        raise BlobError("ConditionNotMet")
    if before is not None and _second(blob) > before:
        raise BlobError("ConditionNotMet")
    if none_match is None and after is None:
        return
    changed = none_match is not None and blob.etag not in _etags(none_match)
    if not changed and (after is None or _second(blob) <= after):
        raise BlobError("ConditionNotMet", status=304, headers={"ETag": blob.etag})


def check_write(headers: Mapping[str, str], blob: Blob | Container | None, *, puts: bool = False) -> None:
    """The conditions of a write against what is there (None: nothing). Few combinations are allowed.

    `puts`: the write makes the blob, and then `If-None-Match: *` has an answer of its own.
    """
    match, none_match, after, before = check_combination(headers)
    if match is not None:
        if blob is None or (match != "*" and blob.etag not in _etags(match)):
            raise BlobError("ConditionNotMet")
    elif none_match is not None:
        if blob is not None and none_match == "*":
            raise BlobError("BlobAlreadyExists" if puts else "ConditionNotMet")
        if blob is not None and blob.etag in _etags(none_match):
            raise BlobError("ConditionNotMet")
    elif blob is not None and (
        (after is not None and _second(blob) <= after) or (before is not None and _second(blob) > before)
    ):
        raise BlobError("ConditionNotMet")


def check_combination(headers: Mapping[str, str]) -> _Conditions:
    """The conditions of a write, if they may come together."""
    conditions = match, none_match, after, before = _conditions(headers)
    given = 4 - conditions.count(None)
    pair = (none_match is not None and after is not None) or (match is not None and before is not None)
    if given > (2 if pair else 1) or any("," in tag for tag in (match, none_match) if tag):
        raise BlobError("MultipleConditionHeadersNotSupported")
    return conditions


def check_container_write(headers: Mapping[str, str], container: Container) -> None:
    """Containers can be compared by their date only."""
    match, none_match, _, _ = _conditions(headers)
    if match is not None or none_match is not None:
        raise BlobError("ConditionHeadersNotSupported")
    check_write(headers, container)


def _conditions(headers: Mapping[str, str]) -> _Conditions:
    get = headers.get
    return get("If-Match"), get("If-None-Match"), _time(get("If-Modified-Since")), _time(get("If-Unmodified-Since"))


def _etags(header: str) -> list[str]:
    """ETags of a condition, quoted or bare, as clients send both."""
    return [f'"{tag.strip().strip(chr(34))}"' for tag in header.split(",")]


def _second(blob: Blob | Container) -> datetime:
    return blob.modified.replace(microsecond=0)


def _time(text: str | None) -> datetime | None:
    """None also for what is no date: the service ignores such a condition, as HTTP asks for."""
    if not text:
        return None
    try:
        time = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return time if time.tzinfo else time.replace(tzinfo=timezone.utc)

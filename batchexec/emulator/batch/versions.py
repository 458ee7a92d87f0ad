"""The versions of the REST API that are served, and what requests of the older ones may hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchexec.emulator.errors import BatchError

CURRENT = "2025-06-01"
_OLDER = (
    "2019-06-01.9.0",
    "2019-08-01.10.0",
    "2020-03-01.11.0",
    "2020-09-01.12.0",
    "2021-06-01.14.0",
    "2022-01-01.15.0",
    "2022-10-01.16.0",
    "2023-05-01.17.0",
    "2023-11-01.18.0",
    "2024-02-01.19.0",
    "2024-07-01.20.0",
)
# Properties of older versions that are gone: they are accepted there, do nothing and are not given back.
_RETIRED = frozenset(
    {
        "applicationLicenses",
        "authenticationTokenSettings",
        "certificateReferences",
        "resourceTags",
        "targetNodeCommunicationMode",
    }
)


def is_older(query: Mapping[str, str]) -> bool:
    """Whether a request is of an older version than the newest; 400 where its version is missing or not served."""
    version = query.get("api-version")
    if not version:
        raise BatchError("MissingRequiredQueryParameter", QueryParameterName="api-version")
    if version != CURRENT and version not in _OLDER:
        raise BatchError("UnsupportedRequestVersion", QueryParameterName="api-version", QueryParameterValue=version)
    return version != CURRENT


def without_retired(body: Any) -> Any:
    """A body of an older version without what is gone, on all levels."""
    if isinstance(body, dict):
        return {name: without_retired(value) for name, value in body.items() if name not in _RETIRED}
    return [without_retired(item) for item in body] if isinstance(body, list) else body


def check_timeout(query: Mapping[str, str]) -> None:
    """`timeOut` is in seconds; above 30, the default of 30 is used."""
    value = query.get("timeOut")
    if value is not None and not (value.isascii() and value.isdigit() and 0 < len(value) <= 10 and int(value) > 0):
        raise BatchError("InvalidQueryParameterValue", QueryParameterName="timeOut", QueryParameterValue=value)

"""User delegation keys and what is signed with them: pure functions of a key and a query.

https://learn.microsoft.com/rest/api/storageservices/create-user-delegation-sas
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping


def signed_text(query: Mapping[str, str], headers: Mapping[str, str], path: str) -> str:
    """The string to sign of a SAS with a user delegation key, which grew over the versions of the service."""
    version = query["sv"]
    get = query.get
    fields = ["sp", "st", "se", path, "skoid", "sktid", "skt", "ske", "sks", "skv"]
    parts = [field if field is path else get(field, "") for field in fields]
    if version >= "2020-02-10":
        parts += (get(field, "") for field in ("saoid", "suoid", "scid"))
    if version >= "2025-07-05":
        parts += (get(field, "") for field in ("skdutid", "sduoid"))
    parts += (get(field, "") for field in ("sip", "spr", "sv", "sr"))
    parts.append("")  # the time of a snapshot; there are none
    if version >= "2020-12-06":
        parts.append(get("ses", ""))
    if version >= "2026-04-06":
        parts += (_named(get("srh", ""), headers, "{}\n"), _named(get("srq", ""), query, "\n{}"))
    parts += (get(field, "") for field in ("rscc", "rscd", "rsce", "rscl", "rsct"))
    return "\n".join(parts)


def _named(names: str, values: Mapping[str, str], each: str) -> str:
    """The headers or parameters that a SAS demands, with the values that the request has for them."""
    return "".join(each.format(f"{name}:{values.get(name, '')}") for name in names.split(",") if name)


def derive(account_key: bytes, fields: tuple[str, ...]) -> bytes:
    """The key for one owner and time. It follows from the account's own, so that none need be kept."""
    return hmac.digest(account_key, "\n".join(("user delegation key", *fields)).encode(), "sha256")

"""User delegation keys of the Blob service: given to bearers of tokens, to sign SAS with.

https://learn.microsoft.com/rest/api/storageservices/get-user-delegation-key
"""

from __future__ import annotations

import base64
from datetime import datetime, timedelta, timezone
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from aiohttp import web

from .call import Call
from .errors import BlobError

_MOST_BYTES = 64 << 10
_LONGEST = timedelta(days=7)


async def get_user_delegation_key(call: Call) -> web.StreamResponse:
    """A key for the bearer of the token, good from Start to Expiry: at most seven days from now."""
    principal = call.access.principal
    if principal is None:
        raise BlobError("AuthenticationFailed", "Only authentication scheme Bearer is supported.")
    if not principal.rights.delegates:
        raise BlobError("AuthorizationPermissionMismatch")
    call.body_size(_MOST_BYTES)
    start, expiry = _asked(await call.request.read(), call.now)
    key = {
        "SignedOid": principal.object_id,
        "SignedTid": principal.tenant,
        "SignedStart": f"{start:%Y-%m-%dT%H:%M:%SZ}",
        "SignedExpiry": f"{expiry:%Y-%m-%dT%H:%M:%SZ}",
        "SignedService": "b",
        "SignedVersion": call.reply["x-ms-version"],
    }
    value = base64.b64encode(call.authority.delegation_key(*key.values())).decode()
    elements = "".join(f"<{name}>{escape(text)}</{name}>" for name, text in (key | {"Value": value}).items())
    return call.respond_xml(
        f'<?xml version="1.0" encoding="utf-8"?><UserDelegationKey>{elements}</UserDelegationKey>'.encode()
    )


def _asked(body: bytes, now: datetime) -> tuple[datetime, datetime]:
    try:
        root = ElementTree.fromstring(body)
    except (ElementTree.ParseError, ValueError, LookupError):
        raise BlobError("InvalidXmlDocument") from None
    if root.tag != "KeyInfo":
        raise BlobError("InvalidXmlDocument", "KeyInfo is expected.")
    times = {element.tag: _time(element.tag, element.text) for element in root if element.tag in ("Start", "Expiry")}
    if "Expiry" not in times:
        raise BlobError("InvalidXmlDocument", "Expiry is expected.")
    start, expiry = times.get("Start", now), times["Expiry"]
    if expiry <= max(start, now) or expiry > now + _LONGEST:
        raise BlobError("InvalidXmlNodeValue", "Expiry is after Start and now, and at most seven days from now.")
    if abs(start - now) > _LONGEST:
        raise BlobError("InvalidXmlNodeValue", "Start is within seven days of now.")
    return start, expiry


def _time(tag: str, text: str | None) -> datetime:
    try:
        time = datetime.fromisoformat((text or "").replace("Z", "+00:00"))
    except ValueError:
        raise BlobError("InvalidXmlNodeValue", f"{tag} is a time in ISO 8601.") from None
    return time.astimezone(timezone.utc) if time.tzinfo else time.replace(tzinfo=timezone.utc)

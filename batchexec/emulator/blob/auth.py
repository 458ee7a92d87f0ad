"""Who may do what: SharedKey signatures, bearer tokens, and SAS of all kinds, checked as the Blob service does."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus

from batchexec.emulator.identity import delegation

from .errors import BlobError

if TYPE_CHECKING:
    from batchexec.emulator.identity.tokens import Principal

_SIGNED_HEADERS = (
    "Content-Encoding",
    "Content-Language",
    "Content-Length",
    "Content-MD5",
    "Content-Type",
    "Date",
    "If-Modified-Since",
    "If-Match",
    "If-None-Match",
    "If-Unmodified-Since",
    "Range",
)
_OVERRIDES = ("rscc", "rscd", "rsce", "rscl", "rsct")  # reply headers a SAS may set, in signing order
_LETTERS = str.maketrans("_", "!", "-")
_FIRST_SAS = "2015-04-05"  # the first version with account SAS, sip and spr
_SAS_WITH_RESOURCE = "2018-11-09"  # from here on sr and the snapshot time are signed too
_SAS_WITH_SCOPE = "2020-12-06"  # from here on the encryption scope is signed too
_SAS_BY_USERS = "2018-11-09"  # the first version with user delegation keys
_FIRST_BEARER = "2017-11-09"  # the first version that takes tokens


@dataclass(frozen=True, slots=True)
class Signed:
    """The parts of a request that signatures cover."""

    method: str
    raw_path: str  # as sent: percent-encoded, without the query
    query: Mapping[str, str]
    headers: Mapping[str, str]
    account: str
    container: str
    blob: str
    scheme: str
    remote: str | None
    version: str = ""  # of the service, as asked for; a part of a batch has that of the batch


@dataclass(frozen=True, slots=True)
class Access:
    """What the caller was granted. `permissions` None: everything (the account key). `principal`: by a token."""

    permissions: str | None = None
    kinds: str = ""  # of s(ervice), c(ontainer), l(isting of blobs), o(bject)
    refusal: str = ""  # the error for another kind
    principal: Principal | None = None

    def need(self, permissions: str, kind: str) -> None:
        """Raise unless any of `permissions` is granted for things of `kind`."""
        if self.permissions is None:
            return
        if kind not in self.kinds:
            raise BlobError(self.refusal)
        if not any(letter in self.permissions for letter in permissions):
            raise BlobError("AuthorizationPermissionMismatch")

    def has(self, permission: str) -> bool:
        return self.permissions is None or permission in self.permissions


_OWNER = Access()


# Whose a token is: raises BlobError when it is not believed.
BearerCheck = Callable[[str, datetime], "Principal"]


class Authority:
    """Checks requests against the one key of the account, or by `tokens` where those are accepted."""

    def __init__(self, account: str, key: str, tokens: BearerCheck | None = None) -> None:
        self.account = account
        self._tokens = tokens
        self._key = base64.b64decode(key, validate=True)
        self._prefix = f"SharedKey {account}:"

    def check(self, request: Signed, now: datetime) -> Access:
        """What the caller may do; raises BlobError when the caller cannot be believed."""
        if "sig" in request.query:
            return self._check_sas(request, now)
        authorization = request.headers.get("Authorization")
        if authorization is None:
            raise BlobError("NoAuthenticationInformation", headers={"WWW-Authenticate": f"SharedKey {self.account}"})
        if authorization[:7].lower() == "bearer ":
            return self._check_bearer(request, authorization[7:], now)
        # The service also refuses a date more than 15 minutes off. Clients sign with the real time while our
        # clock may run through hours in a test, so the date is covered by the signature but not compared.
        if not authorization.startswith(self._prefix):
            raise BlobError("AuthenticationFailed", "Only SharedKey with the account's name is accepted.")
        self._compare(authorization[len(self._prefix) :], shared_key_text(self.account, request))
        return _OWNER

    def _check_bearer(self, request: Signed, token: str, now: datetime) -> Access:
        if self._tokens is None or request.scheme != "https":
            raise BlobError("AuthenticationFailed", "Authentication scheme Bearer is not supported over HTTP.")
        if request.version < _FIRST_BEARER:
            raise BlobError("InvalidAuthenticationInfo", "Tokens need x-ms-version 2017-11-09 or later.", status=400)
        principal = self._tokens(token, now)
        return Access(principal.rights.blobs, "sclo", "AuthorizationFailure", principal)

    def delegation_key(self, *fields: str) -> bytes:
        """The user delegation key of skoid, sktid, skt, ske, sks and skv."""
        return delegation.derive(self._key, fields)

    def _check_sas(self, request: Signed, now: datetime) -> Access:
        query = request.query
        version = query.get("sv", "")
        if version < _FIRST_SAS:
            raise BlobError("AuthenticationFailed", "sv is missing or of a version not supported.")
        account_wide = "ss" in query
        delegated = "skoid" in query and not account_wide
        text = self._account_sas_text(query) if account_wide else self._service_sas_text(request)
        self._compare(query["sig"], text, self._key_of(query, now) if delegated else self._key)
        _check_times(query, now)
        if query.get("spr", "https,http") != "https,http" and request.scheme != "https":
            raise BlobError("AuthorizationProtocolMismatch")
        if "sip" in query and not _in_range(request.remote, query["sip"]):
            raise BlobError("AuthorizationSourceIPMismatch")
        permissions = query.get("sp")
        if not permissions:
            raise BlobError("AuthenticationFailed", "sp is mandatory.")
        if delegated:
            permissions = _within_roles(permissions, query["skoid"])
        if not account_wide:
            return Access(permissions, "ol" if query["sr"] == "c" else "o", "AuthorizationFailure")
        if "b" not in query["ss"]:
            raise BlobError("AuthorizationServiceMismatch")
        kinds = query.get("srt", "")
        return Access(permissions, f"{kinds}l" if "c" in kinds else kinds, "AuthorizationResourceTypeMismatch")

    def _account_sas_text(self, query: Mapping[str, str]) -> str:
        fields = ["sp", "ss", "srt", "st", "se", "sip", "spr", "sv"]
        if query["sv"] >= _SAS_WITH_SCOPE:
            fields.append("ses")
        return "\n".join([self.account, *(query.get(field, "") for field in fields), ""])

    def _service_sas_text(self, request: Signed) -> str:
        query = request.query
        resource = query.get("sr")
        if resource == "b":
            path = f"/blob/{self.account}/{request.container}/{request.blob}"
        elif resource == "c":
            path = f"/blob/{self.account}/{request.container}"
        else:
            raise BlobError("AuthenticationFailed", "sr must be b or c.")
        if "si" in query:
            raise BlobError("AuthenticationFailed", "There are no stored access policies here.")
        if "skoid" in query:
            return delegation.signed_text(query, request.headers, path)
        get = query.get
        parts = [get("sp", ""), get("st", ""), get("se", ""), path, "", get("sip", ""), get("spr", "")]
        parts.append(query["sv"])
        if query["sv"] >= _SAS_WITH_RESOURCE:
            parts += (resource, "")
        if query["sv"] >= _SAS_WITH_SCOPE:
            parts.append(get("ses", ""))
        return "\n".join([*parts, *(get(field, "") for field in _OVERRIDES)])

    def _key_of(self, query: Mapping[str, str], now: datetime) -> bytes:
        """The user delegation key that a SAS says it is signed with, if that may be used now."""
        if self._tokens is None or query["sv"] < _SAS_BY_USERS:
            raise BlobError("AuthenticationFailed", "User delegation SAS need HTTPS and sv 2018-11-09 or later.")
        if "sduoid" in query:
            raise BlobError("AuthenticationFailed", "SAS for one user's tokens only (sduoid) are not served here.")
        fields = [query.get(name, "") for name in ("skoid", "sktid", "skt", "ske", "sks", "skv")]
        if not all(fields) or query["sks"] != "b":
            raise BlobError("AuthenticationFailed", "skoid, sktid, skt, ske, sks=b and skv are mandatory.")
        if not _time(query["skt"]) <= now < _time(query["ske"]):
            raise BlobError("AuthenticationFailed", "The user delegation key is not valid at this time.")
        return self.delegation_key(*fields)

    def _compare(self, signature: str, text: str, key: bytes | None = None) -> None:
        try:
            given = base64.b64decode(signature, validate=True)
        except ValueError:
            given = b""
        expected = hmac.digest(key or self._key, text.encode("utf-8", "surrogateescape"), "sha256")
        if not hmac.compare_digest(given, expected):
            raise BlobError("AuthenticationFailed", "Signature did not match.")


def _within_roles(permissions: str, object_id: str) -> str:
    """What of a SAS is left by the roles of its signer, whose id was signed."""
    from batchexec.emulator.identity.tokens import rights_of

    allowed = rights_of(object_id).blobs
    return "".join(letter for letter in permissions if letter in allowed)


def shared_key_text(account: str, request: Signed) -> str:
    """The string to sign of SharedKey for the Blob service, version 2015-02-21 and later.

    https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key
    """
    get = request.headers.get
    lines = [request.method, *(get(name, "") for name in _SIGNED_HEADERS)]
    if lines[3] == "0":
        lines[3] = ""
    custom = {lower: value for name, value in request.headers.items() if (lower := name.lower())[:5] == "x-ms-"}
    if "x-ms-date" in custom:
        lines[6] = ""
    lines += (f"{name}:{custom[name].strip()}" for name in _header_order(tuple(custom)))
    lines.append(f"/{account}{request.raw_path}")
    lines += sorted(f"{name.lower()}:{value}" for name, value in request.query.items())
    return "\n".join(lines)


@lru_cache(maxsize=256)
def _header_order(names: tuple[str, ...]) -> list[str]:
    return sorted(names, key=_collation)


def _collation(name: str) -> tuple[str, list[int]]:
    """The service's order of header names: underscores before digits and letters; hyphens count only when
    the rest is equal, and then the earlier hyphen comes later."""
    return name.translate(_LETTERS), [-index for index, letter in enumerate(name) if letter == "-"]


def parse_query(text: str) -> dict[str, str]:
    """Query parameters by name, decoded."""
    query: dict[str, str] = {}
    for part in text.split("&"):
        name, _, value = part.partition("=")
        try:
            query[name] = unquote_plus(value, errors="strict") if "%" in value or "+" in value else value
        except UnicodeDecodeError:
            raise BlobError("InvalidQueryParameterValue", name) from None
    query.pop("", None)
    return query


def _check_times(query: Mapping[str, str], now: datetime) -> None:
    if "se" not in query:
        raise BlobError("AuthenticationFailed", "se is mandatory.")
    if now >= _time(query["se"]):
        raise BlobError("AuthenticationFailed", f"Signature not valid after se={query['se']}.")
    if "st" in query and now < _time(query["st"]):
        raise BlobError("AuthenticationFailed", f"Signature not valid before st={query['st']}.")


@lru_cache(maxsize=1024)
def _time(text: str) -> datetime:
    """An ISO 8601 time of a SAS: a date, or with minutes, seconds or fractions, in UTC."""
    try:
        time = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise BlobError("AuthenticationFailed", f"{text!r} is not a valid time.") from None
    return time if time.tzinfo else time.replace(tzinfo=timezone.utc)


def _in_range(remote: str | None, allowed: str) -> bool:
    first, _, last = allowed.partition("-")
    try:
        return _address(first) <= _address(remote or "") <= _address(last or first)
    except ValueError:
        return False


def _address(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))

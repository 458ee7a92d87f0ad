"""The HTTP face of the Batch service: authentication, dispatch to operations, headers, the error envelope."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import parse_qsl, unquote, urlencode

from aiohttp import web

from batchexec.emulator.clock import Clock, http_date, iso, parse_time
from batchexec.emulator.errors import BatchError, NotSaved
from batchexec.emulator.identity.hosts import Hosts
from batchexec.emulator.identity.keys import SharedKey
from batchexec.emulator.state import Body, Resource

from . import odata, versions

if TYPE_CHECKING:
    from batchexec.emulator.identity.bearer import BearerTokens
    from batchexec.emulator.identity.entra import Entra
    from batchexec.emulator.persistence.journal import Journal

_log = logging.getLogger(__name__)
_JSON = "application/json;odata=minimalmetadata"
BODY_LIMIT = 1 << 20
T = TypeVar("T")
Wire = Callable[[T, "frozenset[str] | None"], Body]


class Call:
    """One request: its ids from the path, its query and its body."""

    __slots__ = ("_older", "base", "headers", "ids", "page", "path", "query", "raw_body")

    def __init__(
        self,
        base: str,
        path: str,
        ids: list[str],
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: bytes,
        older: bool = False,
    ) -> None:
        """`older`: of a version before the newest."""
        self._older = older
        self.base = base
        self.path = path
        self.ids = ids
        self.query = query
        self.headers = headers
        self.raw_body = body
        self.page: int | None = None  # most items in a page of the answer, where a fault makes pages short

    def body(self) -> Body:
        try:
            found = json.loads(self.raw_body)
        except (ValueError, RecursionError) as error:
            raise BatchError("InvalidRequestBody", Reason=str(error)) from None
        if not isinstance(found, dict):
            raise BatchError("InvalidRequestBody", Reason="an object is expected")
        return cast(Body, versions.without_retired(found)) if self._older else found

    def body_or_empty(self) -> Body:
        return self.body() if self.raw_body else {}

    def flag(self, name: str) -> bool:
        """A query parameter that is true or false; false where it is absent."""
        text = self.query.get(name, "false").lower()
        if text not in ("true", "false"):
            raise BatchError("InvalidQueryParameterValue", QueryParameterName=name, QueryParameterValue=text)
        return text == "true"

    def select(self) -> frozenset[str] | None:
        return odata.parse_select(self.query.get("$select"))

    def filter(self, properties: Mapping[str, odata.Getter]) -> odata.Filter | None:
        text = self.query.get("$filter")
        return odata.parse_filter(text, properties) if text else None

    def check_conditions(self, resource: Resource, reading: bool = False) -> None:
        """If-Match, If-None-Match, If-(Un)Modified-Since: 412 where they are not met, 304 for a read."""
        wanted, unwanted = self.headers.get("If-Match"), self.headers.get("If-None-Match")
        if wanted and wanted != "*" and wanted.strip('"') != resource.etag:
            raise BatchError("ConditionNotMet")
        if unwanted and (unwanted == "*" or unwanted.strip('"') == resource.etag):
            raise NotModified if reading else BatchError("ConditionNotMet")
        if "If-Modified-Since" in self.headers or "If-Unmodified-Since" in self.headers:
            self.check_times(resource.modified, reading)

    def check_times(self, modified: datetime, reading: bool = False) -> None:
        """If-Modified-Since and If-Unmodified-Since, which know whole seconds."""
        modified = modified.replace(microsecond=0)
        since, until = (self._moment(name) for name in ("If-Modified-Since", "If-Unmodified-Since"))
        if until is not None and modified > until:
            raise BatchError("ConditionNotMet")
        if since is not None and modified <= since:
            raise NotModified if reading else BatchError("ConditionNotMet")

    def _moment(self, name: str) -> datetime | None:
        text = self.headers.get(name)
        moment = parse_time(text) if text else None
        if text and moment is None:
            raise BatchError("InvalidHeaderValue", HeaderName=name, HeaderValue=text)
        return moment


class NotModified(Exception):
    """A conditional read found what the client has already."""


Operation = Callable[[Call], "web.StreamResponse | Awaitable[web.StreamResponse]"]


class BatchServer:
    """Serves operations named by method and path, as in `GET jobs/*/tasks`."""

    def __init__(
        self,
        key: SharedKey,
        clock: Clock,
        hosts: Hosts | None = None,
        tokens: BearerTokens | None = None,
        entra: Entra | None = None,
        journal: Journal | None = None,
    ) -> None:
        """`tokens` and `entra`: where tokens are accepted, and given. `journal`: where changes are written down."""
        self._journal = journal
        self._key = key
        self._hosts = hosts or Hosts()
        self._tokens = tokens
        self._entra = entra
        self._clock = clock
        self._operations: dict[str, Operation] = {}

    def add(self, operations: Mapping[str, Operation]) -> None:
        self._operations.update(operations)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        request_id = os.urandom(16).hex()
        try:
            response = await self._serve(request)
        except NotModified:
            response = web.Response(status=304)
        except BatchError as error:
            response = self._refusal(error, request, request_id)
        except ConnectionError:
            raise
        except Exception:  # noqa: BLE001 - the client gets an envelope and the log the cause
            _log.exception("%s %s", request.method, request.path)
            response = self._refusal(BatchError("InternalError"), request, request_id)
        if self._journal is not None and not response.prepared:
            try:
                self._journal.save()
            except NotSaved as error:  # nothing may be told that would be forgotten
                response = self._refusal(BatchError("ServerBusy", Reason=str(error)), request, request_id)
        if not response.prepared:
            response.headers["request-id"] = request_id
            response.headers["DataServiceVersion"] = "3.0"
            if "client-request-id" in request.headers and request.headers.get("return-client-request-id", "") == "true":
                response.headers["client-request-id"] = request.headers["client-request-id"]
        return response

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        raw_path, _, query = request.raw_path.partition("?")
        host = request.headers.get("Host", "")
        if not self._hosts.accepts(host):
            raise BatchError("InvalidHeaderValue", HeaderName="Host", HeaderValue=host)
        if self._entra is not None and raw_path.strip("/").partition("/")[0] in self._entra.tenants:
            return await self._entra.handle(request)
        self._authenticate(request, raw_path, query)
        body = await _body(request) if request.can_read_body else b""
        parts = raw_path.strip("/").split("/")
        if len(parts) > 6 and parts[4] == "files":
            parts[5:] = ["/".join(parts[5:])]
        shape = "/".join("*" if index % 2 else part for index, part in enumerate(parts))
        operation = self._operations.get(f"{request.method} {shape}")
        if operation is None:
            raise self._unknown(request.method, shape)
        ids = [unquote(part) for part in parts[1::2]]
        # Of a parameter given twice the first counts, as in what was signed.
        given = dict(reversed(parse_qsl(query, keep_blank_values=True)))
        older = False
        if parts[0] in _SERVICE:
            older = versions.is_older(given)
            versions.check_timeout(given)
        call = Call(f"{request.scheme}://{host}", raw_path, ids, given, request.headers, body, older)
        call.page = request.get("page")
        found = operation(call)
        return found if isinstance(found, web.StreamResponse) else await found

    def _authenticate(self, request: web.BaseRequest, raw_path: str, query: str) -> None:
        """Raise unless the request is signed with the key, or bears a token that allows it."""
        authorization = request.headers.get("Authorization", "")
        if self._tokens is not None and authorization[:7].lower() == "bearer ":
            self._tokens.check(request.method, raw_path, authorization[7:])
            return
        headers = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers)
        self._key.check(request.method, raw_path, query, headers)

    def _unknown(self, method: str, shape: str) -> BatchError:
        if any(known.partition(" ")[2] == shape for known in self._operations):
            return BatchError("UnsupportedHttpVerb")
        return BatchError("ResourceNotFound", Reason=f"{method} /{shape} is not served here")

    def _refusal(self, error: BatchError, request: web.BaseRequest, request_id: str) -> web.Response:
        if request.method == "HEAD":
            return web.Response(status=error.status, headers=error.headers)
        metadata = f"{request.scheme}://{request.headers.get('Host', '')}/$metadata#errors/@Element"
        body = error.envelope(metadata, request_id, iso(self._clock.now()))
        return web.Response(status=error.status, body=body, headers={"Content-Type": _JSON, **error.headers})


_SERVICE = (
    "pools",
    "jobs",
    "jobschedules",
    "applications",
    "poolusagemetrics",
    "supportedimages",
    "nodecounts",
)


async def _body(request: web.BaseRequest) -> bytes:
    """The body of a request that was believed. More than the limit is never read into memory."""
    try:
        if (request.content_length or 0) > BODY_LIMIT:
            raise web.HTTPRequestEntityTooLarge(BODY_LIMIT, request.content_length or 0)
        return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise BatchError("RequestBodyTooLarge", MaxLimit=str(BODY_LIMIT)) from None
    except web.RequestPayloadError as error:  # broken chunks, or not of the encoding it says it has
        raise BatchError("InvalidRequestBody", Reason=str(error)) from None


def answer(body: object, resource: Resource | None = None) -> web.Response:
    """200 with a JSON body."""
    return web.Response(body=json.dumps(body, separators=(",", ":")).encode(), headers=_headers(_JSON, resource))


def done(status: int, call: Call, resource: Resource | None = None, location: str = "") -> web.Response:
    """A reply without body."""
    headers = _headers("", resource)
    headers["DataServiceId"] = call.base + call.path
    if location:
        headers["Location"] = call.base + location
    return web.Response(status=status, headers=headers)


def _headers(content_type: str, resource: Resource | None) -> dict[str, str]:
    headers = {"Content-Type": content_type} if content_type else {}
    if resource is not None:
        headers["ETag"] = resource.etag
        headers["Last-Modified"] = http_date(resource.modified)
    return headers


def listed(
    call: Call,
    kind: str,
    items: Iterable[T],
    found: odata.Filter | None,
    seq: Callable[[T], int],
    wire: Wire[T],
    most: int = 1000,
) -> web.Response:
    """One page of a list, with the link to the next."""
    select = call.select()
    token = call.query.get("$skiptoken", "0")
    if not (token.isascii() and token.isdigit() and len(token) < 19):
        raise BatchError("InvalidQueryParameterValue", QueryParameterName="$skiptoken", QueryParameterValue=token)
    most = odata.max_results(call.query.get("maxresults"), most)
    if call.page is not None:
        most = min(most, call.page)
    shown = odata.page(items, found.test if found else None, seq, int(token), most)
    body: dict[str, Any] = {
        "odata.metadata": f"{call.base}/$metadata#{kind}",
        "value": [wire(item, select) for item in shown.items],
    }
    if shown.after is not None:
        query = {**call.query, "$skiptoken": str(shown.after)}
        body["odata.nextLink"] = f"{call.base}{call.path}?{urlencode(query)}"
    return answer(body)


def chosen(select: frozenset[str] | None, body: Body) -> Body:
    """The selected properties of a body."""
    return body if select is None else {name: value for name, value in body.items() if name in select}

"""The HTTP face of the Batch service: authentication, dispatch to operations, headers, the error envelope."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlencode

from aiohttp import web

from . import odata
from .clock import Clock, http_date, iso
from .errors import BatchError
from .keys import SharedKey
from .state import Body, Resource

_log = logging.getLogger(__name__)
_JSON = "application/json;odata=minimalmetadata"
BODY_LIMIT = 1 << 20
READ_LIMIT = 64 << 20
T = TypeVar("T")
Wire = Callable[[T, "frozenset[str] | None"], Body]


class Call:
    """One request: its ids from the path, its query and its body."""

    __slots__ = ("_body", "base", "headers", "ids", "path", "query")

    def __init__(
        self,
        base: str,
        path: str,
        ids: list[str],
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: bytes,
    ) -> None:
        self.base = base
        self.path = path
        self.ids = ids
        self.query = query
        self.headers = headers
        self._body = body

    def body(self) -> Body:
        try:
            found = json.loads(self._body)
        except ValueError as error:
            raise BatchError("InvalidRequestBody", Reason=str(error)) from None
        if not isinstance(found, dict):
            raise BatchError("InvalidRequestBody", Reason="an object is expected")
        return found

    def body_or_empty(self) -> Body:
        return self.body() if self._body else {}

    def select(self) -> frozenset[str] | None:
        return odata.parse_select(self.query.get("$select"))

    def filter(self, properties: Mapping[str, odata.Getter]) -> odata.Filter | None:
        text = self.query.get("$filter")
        return odata.parse_filter(text, properties) if text else None

    def check_conditions(self, resource: Resource, reading: bool = False) -> None:
        """If-Match and If-None-Match: 412 where they are not met."""
        wanted, unwanted = self.headers.get("If-Match"), self.headers.get("If-None-Match")
        if wanted and wanted != "*" and wanted.strip('"') != resource.etag:
            raise BatchError("ConditionNotMet")
        if unwanted and (unwanted == "*" or unwanted.strip('"') == resource.etag):
            raise NotModified if reading else BatchError("ConditionNotMet")


class NotModified(Exception):
    """A conditional read found what the client has already."""


Operation = Callable[[Call], "web.StreamResponse | Awaitable[web.StreamResponse]"]


class BatchServer:
    """Serves operations named by method and path, as in `GET jobs/*/tasks`."""

    def __init__(self, key: SharedKey, clock: Clock) -> None:
        self._key = key
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
        if not response.prepared:
            response.headers["request-id"] = request_id
            response.headers["DataServiceVersion"] = "3.0"
            if "client-request-id" in request.headers and request.headers.get("return-client-request-id", "") == "true":
                response.headers["client-request-id"] = request.headers["client-request-id"]
        return response

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        raw_path, _, query = request.raw_path.partition("?")
        body = await request.read() if request.can_read_body else b""
        host = request.headers.get("Host", "")
        if host.rpartition(":")[0] not in _LOOPBACK and host not in _LOOPBACK:
            raise BatchError("InvalidHeaderValue", HeaderName="Host", HeaderValue=host)
        headers = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers)
        self._key.check(request.method, raw_path, query, headers)
        if len(body) > BODY_LIMIT:
            raise BatchError("RequestBodyTooLarge", MaxLimit=str(BODY_LIMIT))
        parts = raw_path.strip("/").split("/")
        if len(parts) > 6 and parts[4] == "files":
            parts[5:] = ["/".join(parts[5:])]
        shape = "/".join("*" if index % 2 else part for index, part in enumerate(parts))
        operation = self._operations.get(f"{request.method} {shape}")
        if operation is None:
            raise self._unknown(request.method, shape, parts)
        ids = [unquote(part) for part in parts[1::2]]
        call = Call(f"http://{host}", raw_path, ids, dict(parse_qsl(query)), request.headers, body)
        found = operation(call)
        return found if isinstance(found, web.StreamResponse) else await found

    def _unknown(self, method: str, shape: str, parts: list[str]) -> BatchError:
        if any(known.partition(" ")[2] == shape for known in self._operations):
            return BatchError("UnsupportedHttpVerb")
        if parts[0] in _SERVICE:
            return BatchError("NotImplemented", Operation=f"{method} /{shape}")
        return BatchError("ResourceNotFound")

    def _refusal(self, error: BatchError, request: web.BaseRequest, request_id: str) -> web.Response:
        if request.method == "HEAD":
            return web.Response(status=error.status)
        metadata = f"http://{request.headers.get('Host', '')}/$metadata#errors/@Element"
        body = error.envelope(metadata, request_id, iso(self._clock.now()))
        return web.Response(status=error.status, body=body, headers={"Content-Type": _JSON})


_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_SERVICE = (
    "pools",
    "jobs",
    "jobschedules",
    "applications",
    "poolusagemetrics",
    "supportedimages",
    "nodecounts",
)


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
    if not token.isdigit():
        raise BatchError("InvalidQueryParameterValue", QueryParameterName="$skiptoken", QueryParameterValue=token)
    shown = odata.page(
        items,
        found.test if found else None,
        seq,
        int(token),
        odata.max_results(call.query.get("maxresults"), most),
    )
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

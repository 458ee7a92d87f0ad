"""Faults of HTTP: refusals, delays, replies that are lost, cut, short or out of order. For both services alike."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timezone
from typing import Any
from urllib.parse import unquote
from xml.sax.saxutils import escape

from aiohttp import web

from .faults import REQUEST, Fault, Faults

Handler = Callable[[Any], Awaitable[web.StreamResponse]]
CONTROL = "/emulator/"  # never struck: else nobody could take a fault away

_CODES: Mapping[str, Mapping[int, str]] = {
    "batch": {
        403: "AuthenticationFailed",
        404: "ResourceNotFound",
        408: "OperationTimedOut",
        409: "OperationInvalidForCurrentState",
        429: "TooManyRequests",
        500: "InternalError",
        503: "ServerBusy",
        504: "OperationTimedOut",
    },
    "blob": {
        403: "AuthenticationFailed",
        404: "BlobNotFound",
        409: "BlobAlreadyExists",
        429: "TooManyRequests",
        500: "InternalError",
        503: "ServerBusy",
    },
}
_EXPIRED = (
    "Server failed to authenticate the request. Make sure the value of Authorization header is formed correctly "
    "including the signature."
)


async def serve(faults: Faults, service: str, handler: Handler, request: web.BaseRequest) -> web.StreamResponse:
    """Answer a request of `service`, "batch" or "blob", as `handler` would but for what strikes it."""
    if service == "batch" and request.path.startswith(CONTROL):
        return await handler(request)
    seconds = faults.latency.round_trip(service) if faults.latency is not None else 0.0
    struck: dict[str, Fault] = {}
    if faults.armed_at(REQUEST):
        facts = _facts(service, request)
        for fault in faults.take_all(REQUEST, facts, _immune(request, facts["operation"])):
            struck.setdefault(fault.kind, fault)
    if "delay" in struck:
        seconds += struck["delay"]["seconds"]
    if seconds:
        await asyncio.sleep(seconds)  # the client's time, whatever the clock of the service
    if struck:
        return await _strike(service, handler, request, struck)
    return await handler(request)


async def _strike(
    service: str, handler: Handler, request: web.BaseRequest, struck: Mapping[str, Fault]
) -> web.StreamResponse:
    drop = struck.get("drop")
    if drop is not None and drop["when"] == "before":
        return _hang_up(request)
    if "status" in struck:
        return _refusal(service, request, struck["status"])
    if "expired-sas" in struck:
        return _blob_refusal(request, 403, "AuthenticationFailed", _EXPIRED, {})
    short, cut = struck.get("short-pages"), struck.get("truncate")
    if short is not None:
        begins = not {"$skiptoken", "marker"} & request.query.keys()
        request["page"] = 0 if short["empty"] and begins else max(1, short["items"])
    if cut is not None:
        _cut_body(request, cut["bytes"])
    response = await handler(request)
    if drop is not None:
        return _hang_up(request)
    if "reorder" in struck and isinstance(response, web.Response):
        _reorder(response, struck["reorder"])
    if cut is not None and not response.prepared and isinstance(response, web.Response):
        response = await _begin(request, response)
    return response


def _immune(request: web.BaseRequest, operation: str) -> frozenset[str]:
    """The kinds that cannot strike this request."""
    kinds = set()
    if "sig" not in request.query:
        kinds.add("expired-sas")
    if request.method != "GET":
        kinds.add("short-pages")
        if not operation.endswith("addtaskcollection"):
            kinds |= {"reorder", "truncate"}
    return frozenset(kinds)


def _facts(service: str, request: web.BaseRequest) -> dict[str, Any]:
    raw = request.raw_path.partition("?")[0]
    facts: dict[str, Any] = {
        "service": service,
        "method": request.method,
        "path": unquote(raw),
        "header": request.headers,
    }
    if service == "batch":
        parts = raw.strip("/").split("/")
        shape = "/".join("*" if index % 2 else part for index, part in enumerate(parts[:6]))
        facts["operation"] = f"{request.method} {shape}"
        for kind, id in zip(parts[::2], parts[1::2], strict=False):
            if kind in ("pools", "nodes", "jobs", "tasks"):
                facts[kind[:-1]] = unquote(id)
    else:
        _, _, container, blob = (*raw.split("/", 3), "", "", "", "")[:4]
        level = "blob" if blob else "container" if container else "account"
        facts["operation"] = f"{request.method} {level} {request.query.get('comp', '')}".strip()
        facts |= {kind: unquote(name) for kind, name in (("container", container), ("blob", blob)) if name}
    return facts


def _hang_up(request: web.BaseRequest) -> web.Response:
    """Break the connection; nothing is sent."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def _refusal(service: str, request: web.BaseRequest, fault: Fault) -> web.Response:
    status = fault["status"]
    code = fault["code"] or _CODES[service].get(status, "InternalError")
    message = fault["message"] or "The service was told to refuse this request."
    headers = {} if fault["retry_after"] is None else {"Retry-After": f"{fault['retry_after']:g}"}
    if fault["html"]:  # by something that stands in between
        page = f"<html><head><title>{status}</title></head><body><h1>{escape(message)}</h1></body></html>"
        return web.Response(status=status, text=page, content_type="text/html", headers=headers)
    if service == "blob":
        return _blob_refusal(request, status, code, message, headers)
    id, now = os.urandom(16).hex(), datetime.now(timezone.utc).isoformat()
    headers |= {"request-id": id, "DataServiceVersion": "3.0"}
    if request.method == "HEAD":
        return web.Response(status=status, headers=headers)
    body = {
        "odata.metadata": f"{request.scheme}://{request.host}/$metadata#errors/@Element",
        "code": code,
        "message": {"lang": "en-US", "value": f"{message}\nRequestId:{id}\nTime:{now}"},
    }
    headers["Content-Type"] = "application/json;odata=minimalmetadata"
    return web.Response(status=status, body=json.dumps(body).encode(), headers=headers)


def _blob_refusal(
    request: web.BaseRequest, status: int, code: str, message: str, headers: dict[str, str]
) -> web.Response:
    id = os.urandom(16).hex()
    version = request.headers.get("x-ms-version", "2026-10-06")
    headers |= {"x-ms-request-id": id, "x-ms-version": version, "x-ms-error-code": code}
    if request.method == "HEAD":
        return web.Response(status=status, headers=headers)
    now = datetime.now(timezone.utc).isoformat()
    body = (
        '<?xml version="1.0" encoding="utf-8"?>'
        f"<Error><Code>{escape(code)}</Code><Message>{escape(message)}\nRequestId:{id}\nTime:{now}</Message></Error>"
    )
    headers["Content-Type"] = "application/xml"
    return web.Response(status=status, body=body.encode(), headers=headers)


def _reorder(response: web.Response, fault: Fault) -> None:
    if response.content_type != "application/json" or not isinstance(response.body, bytes):
        return
    body = json.loads(response.body)
    if isinstance(body, dict) and isinstance(body.get("value"), list):
        fault.random.shuffle(body["value"])
        response.body = json.dumps(body, separators=(",", ":")).encode()


async def _begin(request: web.BaseRequest, response: web.Response) -> web.StreamResponse:
    """Send a whole reply as one that is streamed."""
    whole = response.body if isinstance(response.body, bytes) else b""
    headers = {name: value for name, value in response.headers.items() if name.lower() != "content-length"}
    streamed = web.StreamResponse(status=response.status, headers=headers)
    streamed.content_length = len(whole)
    await streamed.prepare(request)
    if whole:
        await streamed.write(whole)
    return streamed


def _cut_body(request: web.BaseRequest, size: int | None) -> None:
    """Close the connection once so many bytes of the body are sent; by default amid the first piece."""
    writer = request.writer
    write, left = writer.write, size

    async def cutting(chunk: Any, *more: Any, **named: Any) -> None:
        nonlocal left
        transport = request.transport
        if transport is None or transport.is_closing():
            return  # cut already
        room = len(chunk) // 2 if left is None else left
        left = max(0, room - len(chunk))
        await write(chunk[:room], *more, **named)
        if len(chunk) > room:
            transport.close()

    writer.write = cutting  # type: ignore[method-assign]

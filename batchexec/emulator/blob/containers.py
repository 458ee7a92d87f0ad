"""Operations on the account and on containers: create, read, delete, and the two lists."""

from __future__ import annotations

import base64
import re
import sys
from bisect import bisect_left

from aiohttp import web

from . import xml as blob_xml
from .call import Call, stamp
from .conditions import check_container_write
from .errors import BlobError

_PAGE = 5000  # most results in a page of the service
_DIGITS = 9  # longer numbers are out of any range
_CONTAINER_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\Z")


async def create_container(call: Call) -> web.StreamResponse:
    call.access.need("cw", "c")
    name = call.signed.container
    if not 3 <= len(name) <= 63:
        raise BlobError("OutOfRangeInput", "The name of a container has 3 to 63 characters.")
    if not _CONTAINER_NAME.match(name):
        raise BlobError("InvalidResourceName", "Lower-case letters, digits and single hyphens are allowed.")
    if "x-ms-blob-public-access" in call.headers:  # as in accounts of today, unless they are told otherwise
        raise BlobError("PublicAccessNotPermitted")
    container = call.store.create_container(name, call.metadata(), call.now)
    return call.respond(201, stamp(container))


async def container_properties(call: Call) -> web.StreamResponse:
    call.access.need("r", "c")
    container = call.container()
    reply = {f"x-ms-meta-{name}": value for name, value in container.metadata.items()}
    reply |= {
        "x-ms-lease-status": "unlocked",
        "x-ms-lease-state": "available",
        "x-ms-has-immutability-policy": "false",
        "x-ms-has-legal-hold": "false",
    }
    return call.respond(200, reply | stamp(container))


async def set_container_metadata(call: Call) -> web.StreamResponse:
    call.access.need("w", "c")
    metadata = call.metadata()
    container = call.container()
    if "If-Unmodified-Since" in call.headers:  # Set Container Metadata knows If-Modified-Since alone
        raise BlobError("ConditionHeadersNotSupported")
    check_container_write(call.headers, container)
    container.metadata = metadata
    container.etag, container.modified = call.store.new_etag(), call.now
    container.changed()
    return call.respond(200, stamp(container))


async def delete_container(call: Call) -> web.StreamResponse:
    call.access.need("d", "c")
    check_container_write(call.headers, call.container())
    call.store.delete_container(call.signed.container)
    return call.respond(202)


async def list_containers(call: Call) -> web.StreamResponse:
    call.access.need("l", "s")
    prefix, start, size = call.query.get("prefix", ""), _start(call), _page_size(call)
    metadata = "metadata" in call.query.get("include", "").split(",")
    names = sorted(call.store.containers)
    first = bisect_left(names, max(prefix, start))
    page = [name for name in names[first : first + size + 1] if name.startswith(prefix)]
    items = [blob_xml.container_item(call.store.containers[name], metadata=metadata) for name in page[:size]]
    return call.respond_xml(
        blob_xml.listing(
            "Containers",
            {"ServiceEndpoint": _endpoint(call)},
            _echo(call),
            items,
            _marker(page[size]) if len(page) > size else "",
        )
    )


async def list_blobs(call: Call) -> web.StreamResponse:
    """List Blobs, flat or by delimiter. Costs the names returned, not the names there are."""
    call.access.need("l", "l")
    container = call.container()
    size = min(_page_size(call), call.request.get("page", _PAGE))
    include = call.query.get("include", "").split(",")
    staged, metadata, copy = (name in include for name in ("uncommittedblobs", "metadata", "copy"))
    prefix, start = call.query.get("prefix", ""), _start(call)
    delimiter = call.query.get("delimiter", "")
    items: list[str] = []
    marker = ""
    names = container.names_from(prefix, start, staged=staged)
    while (name := next(names, None)) is not None:
        if len(items) == size:
            marker = _marker(name)
            break
        end = name.find(delimiter, len(prefix)) if delimiter else -1
        if end >= 0:
            folder = name[: end + len(delimiter)]
            items.append(blob_xml.prefix_item(folder))
            names = container.names_from(prefix, _after(folder), staged=staged)
            continue
        blob = container.blobs.get(name)
        items.append(
            blob_xml.blob_item(name, blob, metadata=metadata, copy=copy) if blob else blob_xml.uncommitted_item(name)
        )
    attributes = {"ServiceEndpoint": _endpoint(call), "ContainerName": container.name}
    return call.respond_xml(blob_xml.listing("Blobs", attributes, _echo(call), items, marker))


async def account_information(call: Call) -> web.StreamResponse:
    kind = {"x-ms-sku-name": "Standard_LRS", "x-ms-account-kind": "StorageV2", "x-ms-is-hns-enabled": "false"}
    return call.respond(200, kind)


async def service_properties(call: Call) -> web.StreamResponse:
    call.access.need("r", "s")
    return call.respond_xml(blob_xml.service_properties())


def _endpoint(call: Call) -> str:
    return f"{call.request.scheme}://{call.request.host}/{call.signed.account}/"


def _echo(call: Call) -> dict[str, str]:
    names = {"Prefix": "prefix", "Marker": "marker", "MaxResults": "maxresults", "Delimiter": "delimiter"}
    return {element: call.query.get(parameter, "") for element, parameter in names.items()}


def _page_size(call: Call) -> int:
    text = call.query.get("maxresults")
    if text is None:
        return _PAGE
    if not text.isdecimal() or len(text) > _DIGITS or int(text) == 0:
        raise BlobError("OutOfRangeQueryParameterValue", "maxresults")
    return min(int(text), _PAGE)


def _marker(name: str) -> str:
    """The name to go on with, opaque to clients."""
    return base64.urlsafe_b64encode(name.encode()).decode()


def _start(call: Call) -> str:
    marker = call.query.get("marker", "")
    try:
        return base64.b64decode(marker, altchars=b"-_", validate=True).decode()
    except ValueError:  # not Base64, or not UTF-8
        raise BlobError("InvalidQueryParameterValue", "marker") from None


def _after(folder: str) -> str:
    """The first name behind all names that begin with `folder`."""
    last = chr(sys.maxunicode)
    short = folder.rstrip(last)  # nothing comes after such a character
    return short[:-1] + chr(ord(short[-1]) + 1) if short else last * 1025

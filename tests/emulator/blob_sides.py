"""The same calls to two Blob services, and what differs in their replies."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

from azure.storage.blob import ResourceTypes, generate_account_sas, generate_blob_sas, generate_container_sas
from blob_wire import ACCOUNT, KEY, Reply, Request, Wire, blob_path

# Headers with meaning for a client, whose values are the same in any implementation. Transfer and connection
# headers are not among them, nor is what names the implementation (Server, x-ms-version).
_COMPARED = (
    "Accept-Ranges",
    "Cache-Control",
    "Content-Disposition",
    "Content-Encoding",
    "Content-Language",
    "Content-Length",
    "Content-MD5",
    "Content-Range",
    "Content-Type",
    "x-ms-access-tier",
    "x-ms-access-tier-inferred",
    "x-ms-blob-content-length",
    "x-ms-blob-content-md5",
    "x-ms-blob-type",
    "x-ms-client-request-id",
    "x-ms-copy-progress",
    "x-ms-copy-status",
    "x-ms-creation-time",
    "x-ms-delete-type-permanent",
    "x-ms-lease-state",
    "x-ms-lease-status",
    "x-ms-request-server-encrypted",
    "x-ms-server-encrypted",
)
_TIMES = ("Last-Modified", "x-ms-creation-time")
_NOTHING = '"0x0"'


@dataclass(frozen=True)
class Op:
    """One call, the same for both sides.

    In values, `{etag}`, `{stale}` and `{modified}` stand for what the side itself last said of this blob (`{stale}`:
    before that), `{run}` for the prefix of the names of containers, `{url:container/blob}` for a blob's address.
    `sas`: (kind, permissions[, resource types]), kind one of container, blob, account. `paged`: follow the markers.
    """

    method: str
    container: str = ""
    blob: str = ""
    query: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    sas: tuple[str, ...] = ()
    paged: bool = False
    parts: tuple[Op, ...] = ()  # of a batch

    def asks(self, name: str) -> str | None:
        return dict(self.query).get(name)

    def says(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


@dataclass
class Side:
    """One server, and what it said so far of each blob and container."""

    port: int
    name: str
    run: str = ""
    etags: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    modified: dict[tuple[str, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.wire = Wire(self.port)

    def begin(self, run: str) -> None:
        self.run = run
        self.etags.clear()
        self.modified.clear()

    def do(self, op: Op) -> list[dict[str, Any]]:
        """What the replies to `op` say, in a form that can be compared: one for each page."""
        request = self._request(op)
        found = [self._seen(op, self.wire.send(request))]
        while op.paged and isinstance(listing := found[-1]["body"], dict) and (marker := listing.pop("NextMarker", "")):
            assert len(found) < 50, f"{self.name} pages without end"
            query = {**request.query, "marker": marker}
            again = Request(request.method, request.path, query, request.headers, request.body, request.sas)
            found.append(self._seen(op, self.wire.send(again)))
        if op.paged:
            pages = [page["body"]["items"] for page in found if isinstance(page["body"], dict)]
            found[-1]["all listed"] = sorted(item[:2] for page in pages for item in page)
        return found

    def _request(self, op: Op) -> Request:
        container = self.run + op.container if op.container else ""
        headers = {name: self._filled(op, value) for name, value in op.headers}
        query = {name: self._filled(op, value) for name, value in op.query}
        path = blob_path(container, op.blob) if container else "/"
        body = op.body
        if op.parts:
            headers["Content-Type"] = "multipart/mixed; boundary=batch_b"
            body = self._batch(op.parts)
        return Request(op.method, path, query, headers, body, _sas(container, op.blob, op.sas) if op.sas else "")

    def _batch(self, parts: Iterable[Op]) -> bytes:
        lines = []
        for number, part in enumerate(parts):
            assert part.sas
            request = self._request(part)
            lines += ["--batch_b", "Content-Type: application/http", "Content-Transfer-Encoding: binary"]
            lines += [f"Content-ID: {number}", "", f"{part.method} /{ACCOUNT}{request.path}?{request.sas} HTTP/1.1"]
            lines += [*(f"{name}: {value}" for name, value in request.headers.items()), "Content-Length: 0", "", ""]
        return "\r\n".join([*lines, "--batch_b--", ""]).encode()

    def _filled(self, op: Op, text: str) -> str:
        key = op.container, op.blob
        tags = self.etags.get(key, [])
        text = text.replace("{etag}", tags[-1] if tags else _NOTHING)
        text = text.replace("{stale}", tags[-2] if len(tags) > 1 else _NOTHING)
        text = text.replace("{modified}", self.modified.get(key, "Sat, 01 Jan 2000 00:00:00 GMT"))
        text = text.replace("{run}", self.run)
        if found := re.fullmatch(r"\{url:(\w+)/(.*)\}", text, re.DOTALL):
            path = blob_path(self.run + found[1], found[2])
            return f"http://127.0.0.1:{self.port}/{ACCOUNT}{path}"
        return text

    def _seen(self, op: Op, reply: Reply) -> dict[str, Any]:
        headers = reply.headers
        seen: dict[str, Any] = {"status": reply.status, "code": reply.code}
        for name in _COMPARED:
            seen[name] = headers.get(name)
        for name in _TIMES:
            seen[name] = _age(headers.get(name))
        for name, value in headers.items():
            if name.lower().startswith("x-ms-meta-"):
                seen[name] = value
        key = op.container, op.blob
        known = self.etags.setdefault(key, [])
        etag = headers.get("ETag")
        seen["ETag"] = etag and ("same" if known and etag == known[-1] else "new")
        if etag and etag not in known[-1:]:
            assert re.fullmatch(r'"[^"]+"', etag), etag
            assert etag not in known, f"{self.name} uses an ETag again"
            known.append(etag)
        if "Last-Modified" in headers:
            self.modified[key] = headers["Last-Modified"]
        seen["body"] = self._body(op, reply)
        if op.method != "HEAD":
            # Of documents and of messages, the words and the white space are each server's own.
            seen.pop("Content-Length") if isinstance(seen["body"], dict) or reply.status >= 400 else None
        if reply.status >= 400 or op.parts:
            seen.pop("Content-Type")  # application/xml; or with a boundary of the server's own
        return seen

    def _body(self, op: Op, reply: Reply) -> Any:
        if op.method == "HEAD" or reply.status == 304:
            assert reply.body == b""
            return b""
        if reply.status >= 400:
            return "an error"
        if op.parts:
            assert (reply.headers["Content-Type"] or "").startswith("multipart/mixed; boundary=batch")
            return {"parts": re.findall(rb"\nHTTP/1.1 (\d+) ", reply.body)}
        if reply.body and op.asks("comp") in ("list", "blocklist"):
            return self._listed(ElementTree.fromstring(reply.body.removeprefix(b"\xef\xbb\xbf")))
        return reply.body

    def _listed(self, root: ElementTree.Element) -> dict[str, Any]:
        """A listing as names with their properties; times as their age."""
        found: dict[str, Any] = {"NextMarker": root.findtext("NextMarker") or ""}
        for name in ("Prefix", "Delimiter", "MaxResults"):
            found[name] = (root.findtext(name) or "").replace(self.run, "")
        items = []
        for element in root.iter():
            if element.tag in ("Blob", "BlobPrefix", "Container"):
                items.append((element.tag, self._name(element), self._properties(element)))
            elif element.tag in ("CommittedBlocks", "UncommittedBlocks"):
                blocks = [(block.findtext("Name"), block.findtext("Size")) for block in element]
                # Of uncommitted blocks the service promises no order.
                found[element.tag] = blocks if element.tag == "CommittedBlocks" else sorted(blocks, key=str)
        found["items"] = items
        return found

    def _name(self, element: ElementTree.Element) -> str:
        name = element.find("Name")
        assert name is not None
        text = name.text or ""
        return (unquote(text) if name.get("Encoded") == "true" else text).removeprefix(self.run)

    def _properties(self, element: ElementTree.Element) -> Mapping[str, Any]:
        found: dict[str, Any] = {}
        for child in element.findall("Properties/*"):
            found[child.tag] = child.text or ""
        for child in element.findall("Metadata/*"):
            found[f"metadata {child.tag}"] = child.text or ""
        for name in ("Last-Modified", "Creation-Time", "AccessTierChangeTime"):
            if found.get(name):
                found[name] = _age(found[name])
        if "Etag" in found:
            key = ("" if element.tag == "Container" else "*", self._name(element))
            tags = [tags[-1] for at, tags in self.etags.items() if tags and self._same(at, key)]
            found["Etag"] = "as last seen" if f'"{found["Etag"].strip(chr(34))}"' in tags else "another"
        return found

    @staticmethod
    def _same(at: tuple[str, str], key: tuple[str, str]) -> bool:
        return at == (key[1], "") if key[0] == "" else at[1] == key[1]


def _age(text: str | None) -> str | None:
    """Times differ by the moments between the two calls: what is compared is whether they are of now."""
    if text is None:
        return None
    age = datetime.now(timezone.utc) - parsedate_to_datetime(text)
    return "now" if abs(age) < timedelta(minutes=2) else text


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs, by the name of the header, or status, code, body; of listings `listed property@item`."""
    found: dict[str, tuple[Any, Any]] = {}
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        mine, yours = ours.get(name), theirs.get(name)
        if mine == yours:
            continue
        if name == "body" and isinstance(mine, dict) and isinstance(yours, dict):
            found |= _listing_differences(mine, yours)
        else:
            found[name] = mine, yours
    return found


def _listing_differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    found = {name: (ours[name], theirs.get(name)) for name in ours if ours[name] != theirs.get(name)}
    mine, yours = found.pop("items", ((), ()))
    if [item[:2] for item in mine] != [item[:2] for item in yours]:
        found["listed"] = [item[:2] for item in mine], [item[:2] for item in yours]
        return found
    for (_, item, left), (_, _, right) in zip(mine, yours, strict=True):
        for name in {**left, **right}:
            if left.get(name) != right.get(name):
                found[f"listed {name}@{item}"] = left.get(name), right.get(name)
    return found


@lru_cache(maxsize=1024)
def _sas(container: str, blob: str, grant: tuple[str, ...]) -> str:
    kind, permissions, *types = grant
    expiry = datetime.now(timezone.utc) + timedelta(hours=1)
    if kind == "account":
        resources = ResourceTypes.from_string("".join(types))
        return generate_account_sas(ACCOUNT, KEY, resources, permissions, expiry)
    if kind == "container":
        return generate_container_sas(ACCOUNT, container, account_key=KEY, permission=permissions, expiry=expiry)
    return generate_blob_sas(ACCOUNT, container, blob, account_key=KEY, permission=permissions, expiry=expiry)

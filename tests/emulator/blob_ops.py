"""Strategies for random calls to a Blob service, on few containers and blobs so that they meet."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from xml.sax.saxutils import escape

from blob_sides import Op
from hypothesis import strategies as st

LONGEST = "n" * 1024
NAMES = ("a", "b", "d/e", "d/f", "d/g/h", "e f", "p%20q", "ü/日本", "a+b&c=d?#", "x//y", "~(')*!", "<&>", LONGEST)
EMPTY, SMALL, LARGE = b"", b"0123456789", bytes(range(256)) * 300  # the last goes to a file in the embedded server
_EVERYTHING = "metadata,copy,uncommittedblobs"
_PAST, _FUTURE = "Sat, 01 Jan 2000 00:00:00 GMT", "Fri, 01 Jan 2100 00:00:00 GMT"
_BLOCKS = tuple(base64.b64encode(text).decode() for text in (b"block-1", b"block-2", b"block-3", b"longer-block"))

containers = st.sampled_from(("one", "one", "one", "one", "two", "gone"))
blobs = st.one_of(st.sampled_from(NAMES[:3]), st.sampled_from(NAMES))
bodies = st.sampled_from((SMALL, EMPTY, LARGE, b"other"))
_tags = st.sampled_from(("{etag}", "{etag}", "{stale}", '"0x123"', "*"))
_times = st.sampled_from((_PAST, _FUTURE, "{modified}"))
_condition = st.one_of(
    st.tuples(st.just("If-Match"), _tags),
    st.tuples(st.just("If-None-Match"), _tags),
    st.tuples(st.just("If-Modified-Since"), _times),
    st.tuples(st.just("If-Unmodified-Since"), _times),
)
conditions = st.one_of(
    st.just(()),
    st.just(()),
    st.tuples(_condition),
    st.lists(_condition, max_size=3, unique_by=lambda pair: pair[0]).map(tuple),
)
metadata = st.sampled_from(
    ((), (), (("x-ms-meta-Step", "7"), ("x-ms-meta-k", "v w")), (("x-ms-meta-other", "1"),), (("x-ms-meta-a-b", "1"),))
)
content = st.sampled_from(
    (
        (),
        (),
        (("Content-Type", "text/csv"),),
        (("x-ms-blob-content-type", "a/b"), ("Content-Type", "text/plain")),
        (
            ("x-ms-blob-content-encoding", "gzip"),
            ("x-ms-blob-content-language", "da"),
            ("x-ms-blob-content-disposition", "attachment"),
            ("x-ms-blob-cache-control", "no-cache"),
        ),
    )
)
_letters = st.lists(st.sampled_from("racwdl"), min_size=1, max_size=4, unique=True)
grants = st.one_of(
    st.just(()),
    st.just(()),
    st.just(()),
    _letters.map(lambda found: ("container", "".join(letter for letter in "racwdl" if letter in found))),
    _letters.map(lambda found: ("blob", "".join(letter for letter in "racwd" if letter in found) or "r")),
    st.tuples(
        st.just("account"),
        _letters.map(lambda found: "".join(letter for letter in "rwdlac" if letter in found)),
        st.lists(st.sampled_from("sco"), min_size=1, unique=True).map(lambda found: "".join(sorted(found))),
    ),
)


def _md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data).digest()).decode()


@st.composite
def digests(draw: st.DrawFn, body: bytes, names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """None, the right one or a wrong one, in any of the headers `names`."""
    kind = draw(st.sampled_from(("", "", "", "right", "wrong", "nonsense")))
    if not kind:
        return ()
    value = {"right": _md5(body), "wrong": _md5(body + b"!"), "nonsense": "bm9uc2Vuc2U="}[kind]
    return ((draw(st.sampled_from(names)), value),)


tiers = st.sampled_from((*("",) * 6, "Hot", "Cool", "Cold", "Warm")).map(
    lambda tier: (("x-ms-access-tier", tier),) if tier else ()
)
_TYPE = ("x-ms-blob-type", "BlockBlob")


@st.composite
def put_blob(draw: st.DrawFn) -> Op:
    body = draw(bodies)
    md5 = draw(digests(body, ("Content-MD5", "x-ms-blob-content-md5")))
    headers = (_TYPE, *draw(content), *draw(metadata), *draw(conditions), *draw(tiers), *md5)
    return Op("PUT", draw(containers), draw(blobs), (), headers, body, draw(grants))


_spans = st.sampled_from(
    ["0-3", "0-0", "2-", "0-", "3-100000", "9-9", "65530-65540", "10-", "10-20", "5-3", "76800-", "-4", "x-y"]
)


@st.composite
def read(draw: st.DrawFn) -> Op:
    method = draw(st.sampled_from(("GET", "GET", "HEAD")))
    headers = draw(conditions)
    if draw(st.booleans()):
        headers += ((draw(st.sampled_from(("x-ms-range", "Range"))), f"bytes={draw(_spans)}"),)
        if draw(st.integers(0, 3)) == 0:
            headers += (("x-ms-range-get-content-md5", "true"),)
    return Op(method, draw(containers), draw(blobs), (), headers, sas=draw(grants))


@st.composite
def change(draw: st.DrawFn) -> Op:
    kind = draw(st.sampled_from(("metadata", "properties")))
    headers = draw(metadata if kind == "metadata" else content) + draw(conditions)
    return Op("PUT", draw(containers), draw(blobs), (("comp", kind),), headers, sas=draw(grants))


@st.composite
def get_metadata(draw: st.DrawFn) -> Op:
    method = draw(st.sampled_from(("GET", "HEAD")))
    return Op(method, draw(containers), draw(blobs), (("comp", "metadata"),), draw(conditions))


@st.composite
def delete(draw: st.DrawFn) -> Op:
    return Op("DELETE", draw(containers), draw(blobs), (), draw(conditions), sas=draw(grants))


@st.composite
def copy(draw: st.DrawFn) -> Op:
    source = f"{{url:{draw(containers)}/{draw(blobs)}}}"
    headers = (("x-ms-copy-source", source), *draw(metadata), *draw(conditions), *draw(tiers))
    return Op("PUT", draw(containers), draw(blobs), (), headers)


@st.composite
def set_tier(draw: st.DrawFn) -> Op:
    headers = draw(tiers)
    return Op("PUT", draw(containers), draw(blobs), (("comp", "tier"),), headers, sas=draw(grants) if headers else ())


@st.composite
def put_block(draw: st.DrawFn) -> Op:
    body = draw(bodies)
    md5 = draw(digests(body, ("Content-MD5",)))
    block = draw(st.one_of(st.sampled_from(_BLOCKS[:3]), st.sampled_from((*_BLOCKS, "no base64!", ""))))
    query = (("comp", "block"), ("blockid", block))
    return Op("PUT", draw(containers), draw(blobs), query, md5, body, draw(grants))


@st.composite
def put_block_list(draw: st.DrawFn) -> Op:
    kinds = st.sampled_from(("Latest", "Latest", "Uncommitted", "Committed"))
    entries = draw(st.lists(st.tuples(kinds, st.sampled_from(_BLOCKS[:3])), max_size=4))
    inner = "".join(f"<{kind}>{escape(block)}</{kind}>" for kind, block in entries)
    body = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{inner}</BlockList>'.encode()
    md5 = draw(digests(SMALL, ("x-ms-blob-content-md5",)))
    headers = (*draw(content), *draw(metadata), *draw(conditions), *draw(tiers), *md5)
    return Op("PUT", draw(containers), draw(blobs), (("comp", "blocklist"),), headers, body, draw(grants))


@st.composite
def get_block_list(draw: st.DrawFn) -> Op:
    kind = draw(st.sampled_from(((), (("blocklisttype", "all"),), (("blocklisttype", "uncommitted"),))))
    return Op("GET", draw(containers), draw(blobs), (("comp", "blocklist"), *kind), sas=draw(grants))


_page = st.sampled_from(((), (), (("maxresults", "1"),), (("maxresults", "2"),), (("maxresults", "5000"),)))


@st.composite
def list_blobs(draw: st.DrawFn) -> Op:
    query = [("restype", "container"), ("comp", "list"), *draw(_page)]
    if prefix := draw(st.sampled_from(("", "", "d", "d/", "x/", "ü", "zz"))):
        query.append(("prefix", prefix))
    if delimiter := draw(st.sampled_from(("", "", "/", "/", "g/"))):
        query.append(("delimiter", delimiter))
    if include := draw(st.sampled_from(("", "", "metadata", "uncommittedblobs", "copy", _EVERYTHING))):
        query.append(("include", include))
    return Op("GET", draw(containers), "", tuple(query), sas=draw(grants), paged=True)


@st.composite
def list_containers(draw: st.DrawFn) -> Op:
    query = (("comp", "list"), ("prefix", "{run}" + draw(st.sampled_from(("", "o", "two", "x")))), *draw(_page))
    return Op("GET", "", "", query + draw(st.sampled_from(((), (("include", "metadata"),)))), paged=True)


@st.composite
def container_call(draw: st.DrawFn) -> Op:
    where, grant = draw(st.sampled_from(("one", "two"))), draw(grants)
    query = (("restype", "container"),)
    kind = draw(st.sampled_from(("create", "create", "properties", "metadata", "read metadata", "delete")))
    if kind == "create":
        return Op("PUT", where, "", query, draw(metadata), sas=grant)
    if kind == "properties":
        return Op(draw(st.sampled_from(("GET", "HEAD"))), draw(containers), "", query, sas=grant)
    if kind == "metadata":
        since = draw(st.sampled_from(((), (), (("If-Modified-Since", _PAST),), (("If-Modified-Since", _FUTURE),))))
        return Op("PUT", draw(containers), "", (*query, ("comp", "metadata")), draw(metadata) + since, sas=grant)
    if kind == "read metadata":
        return Op("GET", draw(containers), "", (*query, ("comp", "metadata")), sas=grant)
    return Op("DELETE", draw(st.sampled_from(("two", "two", "one", "gone"))), "", query, sas=grant)


@st.composite
def batch(draw: st.DrawFn) -> Op:
    where = draw(st.sampled_from(("one", "one", "two", "gone")))
    grant = st.sampled_from((("container", "d"), ("container", "d"), ("container", "rl")))
    part = st.builds(lambda blob, sas: Op("DELETE", where, blob, sas=sas), blobs, grant)
    parts = draw(st.lists(part, min_size=1, max_size=4, unique_by=lambda one: one.blob))
    return Op("POST", where, "", (("restype", "container"), ("comp", "batch")), parts=tuple(parts))


calls = st.one_of(
    put_blob(),
    put_blob(),
    put_blob(),
    read(),
    read(),
    read(),
    change(),
    get_metadata(),
    delete(),
    copy(),
    set_tier(),
    put_block(),
    put_block(),
    put_block_list(),
    put_block_list(),
    get_block_list(),
    list_blobs(),
    list_blobs(),
    list_containers(),
    container_call(),
    batch(),
)
BEGINNING = (
    Op("PUT", "one", "", (("restype", "container"),)),
    Op("PUT", "one", "a", (), (_TYPE,), SMALL),
    Op("PUT", "one", "d/e", (), (_TYPE,), LARGE),
)


def inspection(ops: Iterable[Op]) -> list[Op]:
    """Calls that show all there is after `ops`."""
    touched = {(op.container, op.blob) for op in (*BEGINNING, *ops) if op.blob and op.method == "PUT"}
    shown = [Op("GET", "", "", (("comp", "list"), ("prefix", "{run}"), ("include", "metadata")))]
    for container in ("one", "two"):
        query = (("restype", "container"), ("comp", "list"), ("include", _EVERYTHING))
        shown.append(Op("GET", container, "", query))
    for container, blob in sorted(touched):
        shown.append(Op("GET", container, blob))
        shown.append(Op("GET", container, blob, (("comp", "blocklist"), ("blocklisttype", "all"))))
    return shown

"""Thousands of malformed requests to the Batch service: none is answered 5xx, hangs, or makes the service grow."""

from __future__ import annotations

import copy
import json
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from batch_service import Service, emulator
from raw_wire import Wire, batch_signature

# Read as the module is: no test sees a variable that begins as those of an account do.
SEED = int(os.environ.get("MALFORMED_SEED") or random.randrange(10**6))
VERSION = "2025-06-01"
COMMAND = "/bin/true"
MACHINE = {
    "imageReference": {"publisher": "canonical", "offer": "ubuntu-24_04-lts", "sku": "server", "version": "latest"},
    "nodeAgentSKUId": "batch.node.ubuntu 24.04",
}
POOL = {
    "id": "p1",
    "vmSize": "Standard_D2s_v5",
    "virtualMachineConfiguration": MACHINE,
    "taskSlotsPerNode": 2,
    "startTask": {"commandLine": COMMAND, "waitForSuccess": True},
    "metadata": [{"name": "a", "value": "b"}],
}
JOB = {
    "id": "j1",
    "poolInfo": {"poolId": "p1"},
    "priority": 1,
    "constraints": {"maxWallClockTime": "PT1H", "maxTaskRetryCount": 1},
    "jobPreparationTask": {"commandLine": COMMAND},
    "jobReleaseTask": {"commandLine": COMMAND},
    "usesTaskDependencies": True,
    "commonEnvironmentSettings": [{"name": "A", "value": "1"}],
}
TASK = {
    "id": "t1",
    "commandLine": COMMAND,
    "requiredSlots": 1,
    "constraints": {"maxWallClockTime": "PT1M", "retentionTime": "P1D", "maxTaskRetryCount": 0},
    "environmentSettings": [{"name": "A", "value": "1"}],
    "resourceFiles": [{"httpUrl": "http://127.0.0.1:9/none", "filePath": "f"}],
    "outputFiles": [
        {
            "filePattern": "*.txt",
            "destination": {"container": {"containerUrl": "http://127.0.0.1:9/c?sig=x", "path": "p"}},
            "uploadOptions": {"uploadCondition": "taskcompletion"},
        }
    ],
    "dependsOn": {"taskIds": ["t2"], "taskIdRanges": [{"start": 1, "end": 3}]},
    "exitConditions": {"exitCodes": [{"code": 1, "exitOptions": {"jobAction": "none"}}]},
    "userIdentity": {"autoUser": {"scope": "pool", "elevationLevel": "admin"}},
    "affinityInfo": {"affinityId": "TVM:x"},
}
FORMULA = {"autoScaleFormula": "$TargetDedicatedNodes = min(0, $PendingTasks.GetSample(1));"}
OPERATIONS: list[tuple[str, str, Any]] = [
    ("POST", "/pools", POOL),
    ("GET", "/pools", None),
    ("GET", "/pools/p1", None),
    ("HEAD", "/pools/p1", None),
    ("PATCH", "/pools/p1", {"metadata": [{"name": "a", "value": "c"}]}),
    ("POST", "/pools/p1/updateproperties", {"metadata": [], "applicationPackageReferences": []}),
    ("POST", "/pools/p1/resize", {"targetDedicatedNodes": 0, "resizeTimeout": "PT10M"}),
    ("POST", "/pools/p1/stopresize", None),
    ("POST", "/pools/p1/enableautoscale", {**FORMULA, "autoScaleEvaluationInterval": "PT5M"}),
    ("POST", "/pools/p1/evaluateautoscale", FORMULA),
    ("POST", "/pools/p1/disableautoscale", None),
    ("POST", "/pools/p1/removenodes", {"nodeList": ["tvmps_1"]}),
    ("GET", "/pools/p1/nodes", None),
    ("GET", "/pools/p1/nodes/n1", None),
    ("POST", "/pools/p1/nodes/n1/reboot", {"nodeRebootOption": "requeue"}),
    ("POST", "/pools/p1/nodes/n1/disablescheduling", {"nodeDisableSchedulingOption": "requeue"}),
    ("GET", "/pools/p1/nodes/n1/files", None),
    ("GET", "/pools/p1/nodes/n1/files/startup%2Fstdout.txt", None),
    ("GET", "/nodecounts", None),
    ("GET", "/supportedimages", None),
    ("POST", "/jobs", JOB),
    ("GET", "/jobs", None),
    ("GET", "/jobs/j1", None),
    ("PATCH", "/jobs/j1", {"priority": 2, "constraints": {"maxTaskRetryCount": 2}}),
    ("PUT", "/jobs/j1", {"poolInfo": {"poolId": "p1"}, "priority": 3}),
    ("POST", "/jobs/j1/disable", {"disableTasks": "requeue"}),
    ("POST", "/jobs/j1/enable", None),
    ("POST", "/jobs/j2/terminate", {"terminateReason": "enough"}),
    ("DELETE", "/jobs/j2", None),
    ("GET", "/jobs/j1/taskcounts", None),
    ("GET", "/jobs/j1/jobpreparationandreleasetaskstatus", None),
    ("POST", "/jobs/j1/tasks", TASK),
    ("POST", "/jobs/j1/addtaskcollection", {"value": [TASK, {"id": "t2", "commandLine": COMMAND}]}),
    ("GET", "/jobs/j1/tasks", None),
    ("GET", "/jobs/j1/tasks/t1", None),
    ("PUT", "/jobs/j1/tasks/t1", {"constraints": {"maxTaskRetryCount": 1}}),
    ("POST", "/jobs/j1/tasks/t1/terminate", None),
    ("POST", "/jobs/j1/tasks/t1/reactivate", None),
    ("DELETE", "/jobs/j1/tasks/t1", None),
    ("GET", "/jobs/j1/tasks/t1/subtasksinfo", None),
    ("GET", "/jobs/j1/tasks/t1/files", None),
    ("GET", "/jobs/j1/tasks/t1/files/wd%2Fa.txt", None),
    ("HEAD", "/jobs/j1/tasks/t1/files/stdout.txt", None),
    ("GET", "/applications", None),
    ("GET", "/jobschedules", None),
]
VALUES = [
    None,
    [],
    {},
    "",
    "x",
    "P",
    "PT5M",
    -1,
    0,
    1,
    2**31,
    2**63,
    1e300,
    True,
    "\0",
    "a" * 100,
    "é",
    [[]],
    [{}],
    {"a": 1},
]
IDS = [
    "p1",
    "j1",
    "j2",
    "t1",
    "t2",
    "none",
    "",
    "..",
    "%2e%2e",
    "%00",
    "a" * 65,
    "%C3%A9",
    "%FF",
    "%",
    "a%2Fb",
    "*",
    "'",
    " ",
]
FILTERS = [
    "state eq 'active'",
    "state eq",
    "id eq 'x' and (",
    "startswith(id,'x') or not id",
    "creationTime ge DateTime'2026-01-01T00:00:00Z'",
    "creationTime ge DateTime'x'",
    "executionInfo/exitCode lt 1e999",
    "nodeInfo/x eq 1",
    "(" * 300 + "id eq 'x'" + ")" * 300,
    "id eq '" + "y" * 3000 + "'",
    "\x01",
    "'",
]
QUERIES = {
    "api-version": [VERSION, "2019-08-01.10.0", "2018-01-01", "x", ""],
    "maxresults": ["1", "0", "-1", "x", "99999999999999999999", "²"],
    "$filter": FILTERS,
    "$select": ["id", "id,,state", "none", "executionInfo/exitCode"],
    "$expand": ["stats", "x"],
    "$skiptoken": ["0", "1", "x", "99999999999999999999999999", "²"],
    "timeOut": ["30", "-1", "x"],
    "recursive": ["true", "maybe"],
    "force": ["true", "x"],
}
HEADERS = {
    "If-Match": ["*", "x", '"0x8DD000000000001"', "é"],
    "If-None-Match": ["*", "x", ""],
    "If-Modified-Since": ["Sat, 01 Jan 2028 00:00:00 GMT", "x", "Sat, 99 Jan 2028 00:00:00 GMT"],
    "If-Unmodified-Since": ["Sat, 01 Jan 2000 00:00:00 GMT", "-1"],
    "ocp-range": ["bytes=0-3", "bytes=9-1", "bytes=-", "x", "bytes=0-99999999999999999999999"],
    "Content-Type": ["text/plain", "application/json; charset=nonsense", ""],
    "Content-Encoding": ["gzip", "x"],
    "client-request-id": ["x" * 500, "a\x01b"],
    "ocp-date": ["x", "Sat, 01 Jan 2000 00:00:00 GMT"],
    "Expect": ["100-continue", "x"],
    "Host": ["example.com", ""],
    "Transfer-Encoding": ["chunked", "x"],
    "X-Long": ["y" * 9000],
}
BROKEN = [
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET /jobs HTTP/1.1\r\nno colon\r\n\r\n",
    b"GET /jobs HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    b"GET /jobs HTTP/1.1\r\n: empty\r\n\r\n",
    b"POST /jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -5\r\n\r\n",
    b"POST /jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: x\r\n\r\n",
    b"POST /jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcde",
    b"POST /jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 500\r\n\r\n{",
    b"POST /jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
    b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\n\r\n",
    b"GET http://[/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"CONNECT x:1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"\0\0\0\0\r\n\r\n",
    b"\r\n\r\n\r\n",
]


class Maker:
    """Makes requests, each from one that is well-formed."""

    def __init__(self, seed: int, ready: dict[str, Any]) -> None:
        self._random = random.Random(seed)
        self._ready = ready
        self._host = ready["batch_endpoint"].partition("//")[2]

    def request(self) -> tuple[bytes, bool, bool]:
        """The bytes, whether their reply has no body, and whether the client has nothing to add to them."""
        pick = self._random
        if pick.random() < 0.03:
            return pick.choice(BROKEN), False, True
        method, path, body = pick.choice(OPERATIONS)
        if pick.random() < 0.1:
            method = pick.choice(["GET", "PUT", "POST", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "PURGE"])
        if pick.random() < 0.25:
            parts = path.split("/")
            parts[pick.randrange(1, len(parts))] = pick.choice(IDS)
            path = "/".join(parts)
        if pick.random() < 0.03:
            path = pick.choice(
                ["/", "//", "/pools//nodes", "/jobs/j1/tasks/t1/files/..%2F..%2Fx", "/jobs/" + "a/" * 50]
            )
        path = path.replace(" ", "%20").replace("'", "%27")
        query = {"api-version": VERSION}
        while pick.random() < 0.3:
            name = pick.choice(list(QUERIES))
            query[name] = pick.choice(QUERIES[name])
        text = "&".join(f"{name}={quote(value, safe='$,/')}" for name, value in query.items())
        data = self._body(body)
        headers = {"Host": self._host, "ocp-date": "Sat, 21 Nov 2026 12:00:00 GMT"}
        if data or method not in ("GET", "HEAD"):
            headers["Content-Length"] = str(len(data))
        if data:
            headers["Content-Type"] = "application/json; odata=minimalmetadata"
        while pick.random() < 0.25:
            name = pick.choice(list(HEADERS))
            headers[name] = pick.choice(HEADERS[name])
        if "Transfer-Encoding" in headers:
            del headers["Content-Length" if "Content-Length" in headers else "ocp-date"]
            data = b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
        if pick.random() < 0.95:
            given = {name: value.encode().decode("latin-1") for name, value in headers.items()}
            key = self._ready["batch_key"]
            headers["Authorization"] = batch_signature(self._ready["account"], key, method, path, text, given)
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"{method} {path}?{text} HTTP/1.1\r\n{lines}\r\n".encode() + data, method == "HEAD", False

    def _body(self, body: Any) -> bytes:
        pick = self._random
        if pick.random() < 0.05:
            return pick.choice(
                [
                    b"{",
                    b"[]",
                    b"null",
                    b"\xff\xfe",
                    b'{"id":',
                    b"1",
                    b'"',
                    b"[" * 5000,
                    b'{"a":NaN}',
                    b'{"id":"j1","id":2}',
                ]
            )
        if body is None:
            return b""
        body = copy.deepcopy(body)
        while pick.random() < 0.7:
            _spoil(body, pick)
        data = json.dumps(body).encode()
        return data[: pick.randrange(len(data))] if pick.random() < 0.03 else data


def _spoil(body: Any, pick: random.Random) -> None:
    """Change one place of a body: another value, one more property, or one less."""
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        items: Any = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for name, value in items:
            places.append((node, name))
            walk(value)

    walk(body)
    if not places:
        return
    node, name = pick.choice(places)
    if name in ("commandLine", "targetDedicatedNodes") and isinstance(node.get(name), str | int):
        return  # nothing is run that a dice has written, and no thousand nodes are made
    deed = pick.random()
    if deed < 0.7:
        node[name] = copy.deepcopy(pick.choice(VALUES))
    elif deed < 0.85 and isinstance(node, dict):
        node[pick.choice(["extra", "odata.x", "ID", "displayName", "constraints"])] = copy.deepcopy(pick.choice(VALUES))
    else:
        del node[name]


@pytest.fixture(scope="module")
def small() -> Iterator[tuple[Service, int]]:
    """A service whose pool has no node, with the pool, the job and the tasks that most requests are about."""
    with emulator(None, "--core-quota", "0", "--spot-quota", "0", "--job-quota", "50", "--pool-quota", "50") as (
        service,
        process,
    ):
        yield service, process.pid


def _footprint(pid: int) -> tuple[int, int]:
    """Open files, and MiB of memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return len(os.listdir(f"/proc/{pid}/fd")), pages * os.sysconf("SC_PAGE_SIZE") >> 20


def _storm(service: Service, pid: int, count: int, seed: int) -> Counter[int]:
    maker, wire = Maker(seed, service.info), Wire(service.info["batch_endpoint"])
    seen: Counter[int] = Counter()
    codes: Counter[str] = Counter()
    for _ in range(count):
        data, head_only, end = maker.request()
        reply = wire.exchange(data, head_only, end)
        seen[reply.status if reply else 0] += 1
        if reply is not None and reply.status >= 500:
            code = str(json.loads(reply.body)["code"]) if reply.body else f"{reply.status}"
            codes[code] += 1
            # The service's own, for a second enabling within 30 s.
            assert code == "TooManyEnableAutoScaleRequests", (seed, data, reply)
    wire.close()
    print(dict(seen), dict(codes))
    return seen


def test_malformed_requests_are_refused_and_nothing_else(small: tuple[Service, int]) -> None:
    seen = _storm(*small, count=1500, seed=1)
    assert {200, 400, 403, 404, 409} <= set(seen), seen
    assert list(small[0].client.list_supported_images())


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ten_thousand_malformed_requests_leave_the_service_as_small_as_it_was(small: tuple[Service, int]) -> None:
    service, pid = small
    _storm(service, pid, 2000, SEED)
    files, memory = _footprint(pid)
    _storm(service, pid, 8000, SEED + 1)
    print(f"seed {SEED}: {files} files, {memory} MiB")
    # What is open for the connections of the storm goes when the service comes to it.
    after = service.until(lambda: _footprint(pid), lambda found: found[0] <= files + 5)
    assert after[1] <= memory + 20, (SEED, memory, after)

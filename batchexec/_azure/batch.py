"""Azure Batch: the requests that the engine makes, each with retries and typed errors. Bodies are wire JSON."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from email.utils import formatdate
from functools import partial
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import aiohttp
from azure.batch.aio import BatchClient
from azure.core.credentials import AzureNamedKeyCredential
from azure.core.pipeline import PipelineRequest
from azure.core.pipeline.policies import SansIOHTTPPolicy
from azure.core.rest import HttpRequest

from batchexec.errors import ServiceError

from . import faults
from .account import Account, sdk_transport

Json = dict[str, Any]
T = TypeVar("T")

# Without a handler, each HTML page of a gateway would print a traceback of the SDK on standard error.
logging.getLogger("azure.batch").addHandler(logging.NullHandler())
_API_VERSION = "2025-06-01"  # the one that azure-batch 15.1 speaks
TASKS_PER_REQUEST = 100
BYTES_PER_REQUEST = 900_000  # the service's limit is 1 MB


class Added(NamedTuple):
    """What came of adding tasks: those refused for good (id, error) and those to send again, with the reason."""

    refused: list[tuple[str, ServiceError]]
    again: dict[str, ServiceError]


class BatchService:
    """One account's data plane. `requests` counts what was sent."""

    def __init__(self, account: Account, session: aiohttp.ClientSession, patience: float) -> None:
        self._endpoint = account.batch_endpoint
        self._name = f"Azure Batch ({urlsplit(account.batch_endpoint).netloc})"
        self._patience: float | None = patience
        self.requests = 0
        credential = (
            AzureNamedKeyCredential(account.batch_account, account.batch_key)
            if account.batch_key
            else account.token_credential()
        )
        self._client = BatchClient(
            account.batch_endpoint,
            credential,
            transport=sdk_transport(session, account.batch_endpoint),
            per_call_policies=[_Dated()],
            retry_total=0,  # retries are faults.persistently's alone
        )

    async def close(self) -> None:
        await self._client.close()

    # pools

    async def get_pool(self, pool_id: str) -> Json | None:
        return await self._found(lambda: self._client.get_pool(pool_id), "PoolNotFound")

    async def create_pool(self, body: Json) -> bool:
        """False when a pool of this id exists already."""
        return await self._created(lambda: self._client.create_pool(body), "PoolExists")  # type: ignore[arg-type]

    async def delete_pool(self, pool_id: str) -> None:
        await self._gone(lambda: self._client.begin_delete_pool(pool_id), "PoolNotFound", "PoolBeingDeleted")

    async def enable_autoscale(self, pool_id: str, body: Json) -> None:
        await self._call(lambda: self._client.enable_pool_auto_scale(pool_id, body))  # type: ignore[arg-type]

    async def nodes(self, pool_id: str) -> list[Json]:
        select = ["id", "state", "errors", "startTaskInfo", "schedulingState"]
        return [node async for node in self._pages(lambda: self._client.list_nodes(pool_id, select=select))]

    async def node_file_end(self, pool_id: str, node_id: str, path: str, size: int) -> bytes:
        """The last `size` bytes of a file on a node. Raises ServiceError."""
        properties = await self._call(lambda: self._client.get_node_file_properties(pool_id, node_id, path))
        return await self._end_of(properties, size, partial(self._client.download_node_file, pool_id, node_id, path))

    # jobs

    async def create_job(self, body: Json) -> None:
        # A retry after an answer that was lost meets its own job: ids are random, so it is ours.
        await self._created(lambda: self._client.create_job(body), "JobExists")  # type: ignore[arg-type]

    async def get_job(self, job_id: str) -> Json | None:
        return await self._found(lambda: self._client.get_job(job_id), "JobNotFound")

    async def update_job(self, job_id: str, body: Json) -> None:
        await self._call(lambda: self._client.update_job(job_id, body))  # type: ignore[arg-type]

    async def terminate_job(self, job_id: str, reason: str) -> None:
        # A bare begin_terminate_job raises ValueError in azure-batch 15.1; a dict of options works.
        await self._gone(
            lambda: self._client.begin_terminate_job(job_id, {"terminateReason": reason}),  # type: ignore[arg-type]
            "JobNotFound",
            "JobCompleted",
            "JobBeingTerminated",
            "JobBeingDeleted",
        )

    async def delete_job(self, job_id: str) -> None:
        await self._gone(lambda: self._client.begin_delete_job(job_id, force=True), "JobNotFound", "JobBeingDeleted")

    async def preparation_status(self, job_id: str) -> list[Json]:
        pages = self._pages(lambda: self._client.list_job_preparation_and_release_task_status(job_id))
        return [status async for status in pages]

    # tasks

    async def add_tasks(self, job_id: str, tasks: list[Json]) -> Added:
        """Add up to 100 tasks of under 900 kB in one request. A task that is there already counts as added: its id
        is one that we made, and an answer may have been lost."""
        answer = await self._send("POST", f"/jobs/{job_id}/addtaskcollection", {"value": tasks})
        added = Added([], {})
        for item in answer["value"]:
            error = item.get("error") or {}
            if item["status"].lower() == "success" or error.get("code") == "TaskExists":
                continue
            text = _with_values((error.get("message") or {}).get("value", ""), error)
            if item["status"].lower() == "servererror":
                added.again[item["taskId"]] = faults.refusal(self._name, 503, error.get("code"), text)
            else:
                refused = faults.refusal(self._name, 400, error.get("code"), text)
                added.refused.append((item["taskId"], refused))
        return added

    async def tasks_changed_since(self, job_id: str, since: str) -> list[Json]:
        """Tasks not active any more that changed their state at or after `since` (ISO 8601, UTC)."""
        path: str | None = f"/jobs/{job_id}/tasks"
        query: dict[str, str] | None = {
            "$filter": f"state ne 'active' and stateTransitionTime ge DateTime'{since}'",
            "$select": "id,state,stateTransitionTime,executionInfo,nodeInfo",
        }
        tasks: list[Json] = []
        while path:
            page = await self._send("GET", path, query=query)
            tasks += page["value"]
            path, query = page.get("odata.nextLink"), None
        return tasks

    async def get_task(self, job_id: str, task_id: str) -> Json | None:
        return await self._found(lambda: self._client.get_task(job_id, task_id), "TaskNotFound")

    async def terminate_task(self, job_id: str, task_id: str) -> None:
        await self._gone(
            lambda: self._client.terminate_task(job_id, task_id),
            "TaskNotFound",
            "TaskCompleted",
            "JobNotFound",
            "JobCompleted",
            "JobBeingTerminated",
            "JobBeingDeleted",
        )

    async def task_file_end(self, job_id: str, task_id: str, path: str, size: int) -> bytes:
        """The last `size` bytes of a file of a task. Raises ServiceError."""
        properties = await self._call(lambda: self._client.get_task_file_properties(job_id, task_id, path))
        return await self._end_of(properties, size, partial(self._client.download_task_file, job_id, task_id, path))

    # the ways to call

    async def _end_of(self, file: Any, size: int, download: Callable[..., Awaitable[AsyncIterator[bytes]]]) -> bytes:
        length = file.content_length
        if not length:
            return b""
        span = f"bytes={max(0, length - size)}-{length - 1}"

        async def read() -> bytes:
            return b"".join([piece async for piece in await download(ocp_range=span)])

        return await self._call(read)  # a reply that is cut is asked for again

    async def _send(self, verb: str, path: str, body: Json | None = None, query: dict[str, str] | None = None) -> Json:
        """One request whose answer is left as JSON: the SDK's models cost several times all else on the hot path."""
        headers = {"Accept": "application/json"}
        content = None
        if body is not None:
            headers["Content-Type"] = "application/json; odata=minimalmetadata"
            content = json.dumps(body, separators=(",", ":")).encode()
        params = None if path.startswith("http") else {"api-version": _API_VERSION, **(query or {})}

        async def send() -> Json:
            request = HttpRequest(verb, path, params=params, headers=headers, content=content)
            response = await self._client.send_request(request)
            response.raise_for_status()
            answer: Json = response.json()
            return answer

        return await self._call(send)

    async def _call(self, call: Callable[[], Awaitable[T]]) -> T:
        async def once() -> T:
            self.requests += 1
            try:
                return await call()
            except Exception as error:
                raise self._typed(error) from error

        answer = await faults.persistently(once, service=self._name, patience=self._patience)
        self._patience = None  # from the first answer on, the account is known to be there
        return answer

    def _typed(self, error: Exception) -> Exception:
        return faults.translate(self._name, self._endpoint, error) or error

    async def _found(self, call: Callable[[], Awaitable[Any]], missing: str) -> Json | None:
        try:
            return dict(await self._call(call))
        except ServiceError as error:
            if error.code != missing:
                raise
            self._patience = None
            return None

    async def _created(self, call: Callable[[], Awaitable[Any]], exists: str) -> bool:
        try:
            await self._call(call)
        except ServiceError as error:
            if error.code != exists:
                raise
            return False
        return True

    async def _gone(self, call: Callable[[], Awaitable[Any]], *already: str) -> None:
        try:
            await self._call(call)
        except ServiceError as error:
            if error.code not in already:
                raise

    async def _pages(self, call: Callable[[], Any]) -> AsyncIterator[Json]:
        pages = call().by_page()
        while True:
            try:
                page = await self._call(pages.__anext__)
            except StopAsyncIteration:
                return
            async for item in page:
                yield item


class _Dated(SansIOHTTPPolicy[Any, Any]):
    """Dates each request, as the SDK's shared-key policy would, but by utcnow(): where warnings are errors, that
    fails every request from Python 3.12 on."""

    def on_request(self, request: PipelineRequest[Any]) -> None:
        request.http_request.headers["ocp-date"] = formatdate(usegmt=True)


def _with_values(text: str, error: Json) -> str:
    details = "; ".join(f"{value.get('key')}: {value.get('value')}" for value in error.get("values") or ())
    return f"{text} ({details})" if details else text

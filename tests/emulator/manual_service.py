"""An emulator in the test's own process, whose clock the test moves: for what takes hours, and what merely happens."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from azure.batch.aio import BatchClient
from azure.core.credentials import AzureNamedKeyCredential

from batchexec.emulator.clock import ManualClock
from batchexec.emulator.options import Options
from batchexec.emulator.service import Access, Emulator, listen
from batchexec.emulator.state import Node

COUNTED = "/bin/sh -c 'echo >> {0}/runs; until [ -e {0}/go ]; do sleep 0.01; done'"


@dataclass
class Here:
    """An emulator in this process, whose clock and nodes the test moves by hand."""

    client: BatchClient
    emulator: Emulator
    clock: ManualClock
    root: Path

    async def pool(self, id: str = "p", **more: Any) -> None:
        body: Any = {"id": id, "vmSize": "Standard_D4s_v5", **more}
        await self.client.create_pool(body)

    async def task(self, id: str = "t", **more: Any) -> None:
        """A task that counts its starts and ends when the file `go` is there, unless `more` says otherwise."""
        if not self.emulator.account.jobs:
            job: Any = {"id": "j", "poolInfo": {"poolId": "p"}}
            await self.client.create_job(job)
        body: Any = {"id": id, "commandLine": COUNTED.format(self.root), **more}
        await self.client.create_task("j", body)

    async def sleeper_out_of_time(self, settings: Any, lines: int) -> str:
        """What the task `sleeps` of a zipapp wrote, with the job's settings: once these are so many lines, the clock is
        moved to the end of its time."""
        job: Any = {"id": "j", "poolInfo": {"poolId": "p"}, "commonEnvironmentSettings": settings}
        await self.client.create_job(job)
        await self.task(commandLine=f"{sys.executable} sleeps", constraints={"maxWallClockTime": "PT10S"})
        output = await self.directory() / "stdout.txt"
        await until(output.exists)
        await until(output.read_text, lambda text: text.count("\n") == lines)
        self.clock.advance(10)
        task = await self.task_in("completed")
        assert task.execution_info.failure_info.code == "TaskEnded"
        return output.read_text()

    def go(self) -> None:
        (self.root / "go").touch()

    def runs(self) -> int:
        path = self.root / "runs"
        return path.read_text().count("\n") if path.exists() else 0

    @property
    def nodes(self) -> list[Node]:
        return list(self.emulator.account.pools["p"].nodes.values())

    async def task_in(self, *states: str) -> Any:
        return await until(lambda: self.client.get_task("j", "t"), lambda task: task.state in states)

    async def directory(self) -> Path:
        """The directory of the task, which runs or ran."""
        node = (await self.task_in("running", "completed")).node_info
        return self.root / "nodes" / node.node_id / node.task_root_directory

    async def node_in(self, *states: str) -> Any:
        node = self.nodes[0].id
        return await until(lambda: self.client.get_node("p", node), lambda found: found.state in states)

    async def steady(self) -> Any:
        return await until(lambda: self.client.get_pool("p"), lambda pool: pool.allocation_state == "steady")


async def until(look: Callable[[], Any], good: Callable[[Any], bool] = bool) -> Any:
    """What `look` finds, at once or when it is awaited, as soon as it is good."""

    async def seen() -> Any:
        while True:
            found = look()
            if inspect.isawaitable(found):
                found = await found
            if good(found):
                return found
            await asyncio.sleep(0.002)

    return await asyncio.wait_for(seen(), 60)


@asynccontextmanager
async def emulated(root: Path, clock: ManualClock | None = None, **options: Any) -> AsyncIterator[Here]:
    """`options` as in Options."""
    clock, batch, blobs = clock or ManualClock(), listen(0), listen(0)
    access = Access.create(batch, blobs)
    credential = AzureNamedKeyCredential(access.account, access.batch_key)
    async with (
        Emulator(batch, blobs, access, Options(root, **options), clock) as emulator,
        BatchClient(access.batch_endpoint, credential) as client,
    ):
        yield Here(client, emulator, clock, root)


def scenario(play: Callable[[Here], Awaitable[None]]) -> Callable[[Path], None]:
    """A test that plays in an emulator of its own."""

    def test(tmp_path: Path) -> None:
        async def run() -> None:
            async with emulated(tmp_path) as here:
                await play(here)

        asyncio.run(run())

    test.__doc__ = play.__doc__
    return test

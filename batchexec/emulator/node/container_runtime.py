"""The container runtime of this machine: podman or docker, driven by its command line."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import secrets
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from .container_reaper import Reaper, remove_labelled
from .container_secrets import credentials, full_name, in_memory, split
from .containers import invalid, no_image

if TYPE_CHECKING:
    from batchexec.emulator.options import Containers
    from batchexec.emulator.state import Body

_log = logging.getLogger(__name__)
LABEL = "batchexec.emulator"
_TRIES = 3  # at the removal of one container
_SAID = 2000  # characters of what the runtime said that are handed on
# What the runtime itself needs of our environment. The rest is nobody's business: `--env NAME` in a task's run options
# would hand it to the task.
_OWN = ("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "DBUS_SESSION_BUS_ADDRESS")
_OWN_PREFIXES = ("DOCKER_", "CONTAINER", "XDG_", "REGISTRY_", "STORAGE_", "BUILDAH_", "SSL_CERT_")
_OWN_PROXIES = ("http_proxy", "https_proxy", "no_proxy")


@dataclass(frozen=True)
class Said:
    """What one call of the runtime came to."""

    status: int
    output: str
    error: str


@dataclass(frozen=True)
class Ending:
    was_started: bool
    is_running: bool
    exit_code: int


class ContainerRuntime:
    """What the `given` runtime does for the service of this `root`.

    Containers carry labels of the root and of this run: what earlier runs in the root have left behind goes before
    the first container is created, and what this one leaves goes when it ends, even by a kill.
    """

    def __init__(self, given: Containers, root: Path) -> None:
        self._is_podman = given.kind == "podman"
        self.command = list(given.command)
        self.env = {name: value for name, value in os.environ.items() if _is_own(name)}
        self._options = list(given.options)
        self._root_label = f"{LABEL}.root={hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]}"
        self._label = f"{LABEL}.run={secrets.token_hex(8)}"
        self._force = ["--force", "--time", "0"] if self._is_podman else ["--force"]
        self._ready: asyncio.Future[None] | None = None
        self._reaper: Reaper | None = None
        self._images: dict[str, str] = {}  # names by which images are there, by the names they were asked for
        self._fetching: dict[str, asyncio.Task[str]] = {}
        self._turns = asyncio.Semaphore(2 * (os.cpu_count() or 1))  # each client takes some 50 MB for 50 ms
        self._pulls: set[asyncio.subprocess.Process] = set()
        self._removals: set[asyncio.Task[None]] = set()
        self._stopping = False

    # -- images

    async def image(self, name: str, registries: Sequence[Body]) -> str:
        """Have an image here, pulled if need be, by one call however many ask; the name it has here.

        Raises CannotStart where it cannot be had.
        """
        await self._prepare()
        if name in self._images:
            return self._images[name]
        fetching = self._fetching.get(name)
        if fetching is None:
            fetching = self._fetching[name] = asyncio.ensure_future(self._fetch(name, registries))
            fetching.add_done_callback(lambda _: self._fetching.pop(name))
        return await asyncio.shield(fetching)

    async def _fetch(self, name: str, registries: Sequence[Body]) -> str:
        if not await self._has(name):
            reference = full_name(name) if self._is_podman else name
            with credentials(reference, registries) as directory:
                if directory is None:
                    pull = ["pull", "--quiet"]
                elif self._is_podman:
                    pull = ["pull", "--quiet", "--authfile", f"{directory}/config.json"]
                else:
                    pull = ["--config", directory, "pull", "--quiet"]
                said = await self._client([*pull, reference], is_pull=True)
            if said.status:
                raise no_image(f"{name}: {without_warnings(said.error)}")
            self._images[name] = reference
        else:
            self._images[name] = name
        return self._images[name]

    async def _has(self, name: str) -> bool:
        return (await self._call(["image", "inspect", "--format", "{{.Id}}", name])).status == 0

    # -- containers

    async def create(
        self,
        name: str,
        image: str,
        registries: Sequence[Body],
        options: Sequence[str],
        arguments: Sequence[str],
        env: Mapping[str, str],
    ) -> str:
        """Create a container, whose image is fetched if need be; its id. Raises CannotStart."""
        lines, inherited = split(env)
        own = {name: env[name] for name in inherited}
        clash = [name for name in own if _is_own(name)]
        if clash:
            raise invalid(f"the value of the environment variable {clash[0]} is too long, or has more than one line")
        variables = [word for name in inherited for word in ("--env", name)]
        for is_last in (False, True):
            reference = await self.image(image, registries)
            with in_memory(lines) as stdin:
                said = await self._call(
                    [
                        "create",
                        *("--name", name, "--pull", "never", "--log-driver", "none"),
                        *("--label", self._root_label, "--label", self._label),
                        *self._defaults(options),
                        *("--env-file", "/dev/stdin", *variables),
                        *self._options,
                        *options,
                        reference,
                        *arguments,
                    ],
                    env=own,
                    stdin=stdin,
                    holds_reaper=True,
                )
            if said.status == 0:
                return said.output.split()[-1]
            if is_last or await self._has(reference):
                break
            self._images.pop(image, None)  # somebody has removed it
        raise invalid(without_warnings(said.error))

    def _defaults(self, options: Sequence[str]) -> list[str]:
        """The host's network, by which the service on its loopback is reached, unless the task asks for another.

        Podman would set limits that it may not be allowed to set: a container has ours instead.
        """
        given = {option.partition("=")[0] for option in options}
        found = [] if given & {"--network", "--net"} else ["--network", "host"]
        if self._is_podman:
            found += ["--http-proxy=false"]
            for name, limit in _limits().items():
                found += ["--ulimit", f"{name}={limit}:{limit}"]
        return found

    def start_command(self, id: str) -> list[str]:
        """What starts a container and stays until it ends, with its streams and its exit code."""
        return [*self.command, "start", "--attach", id]

    async def look_at(self, id: str) -> Ending | None:
        """How a container stands after its client has ended; None where it is gone."""
        state = "{{.State.StartedAt}}|{{.State.Running}}|{{.State.ExitCode}}"
        said = await self._call(["inspect", "--format", state, id])
        started_at, _, rest = said.output.strip().partition("|")
        is_running, _, code = rest.partition("|")
        if said.status or not code.isdigit():
            return None
        return Ending(not started_at.startswith("0001"), is_running == "true", int(code))

    def remove(self, id: str) -> None:
        """Kill all that runs in a container, and remove it; goes on beside."""
        removal = asyncio.ensure_future(self._remove(id))
        self._removals.add(removal)
        removal.add_done_callback(self._removals.discard)

    async def _remove(self, id: str) -> None:
        for _ in range(_TRIES):  # it may be in the middle of its start or end
            said = await self._call(["rm", *self._force, id])
            if said.status == 0 or "no such container" in said.error.lower():
                return
        _log.warning("container %s cannot be removed: %s", id, said.error)

    # -- beginning and end

    async def _prepare(self) -> None:
        """Once: remove what an earlier run has left, and have the reaper stand by."""
        if self._ready is None:
            self._ready = asyncio.ensure_future(self._begin())
        await asyncio.shield(self._ready)

    async def _begin(self) -> None:
        await remove_labelled(self._root_label, self.command, self._force, self.env)
        self._reaper = Reaper(self._label, self.command, self._force, self.env)

    async def stop(self) -> None:
        """Kill and remove all containers."""
        self._stopping = True
        for pull in self._pulls:
            pull.kill()
        if self._ready is not None:
            await asyncio.wait([self._ready])
        while self._removals:
            await asyncio.wait(set(self._removals))
        if self._reaper is not None:
            await self._reaper.stop()

    async def _call(
        self,
        arguments: Sequence[str],
        env: Mapping[str, str] | None = None,
        stdin: IO[bytes] | int = subprocess.DEVNULL,
        holds_reaper: bool = False,
    ) -> Said:
        """Run the runtime's client for what takes no time to speak of, when its turn comes."""
        async with self._turns:
            return await self._client(arguments, env, stdin, holds_reaper)

    async def _client(
        self,
        arguments: Sequence[str],
        env: Mapping[str, str] | None = None,
        stdin: IO[bytes] | int = subprocess.DEVNULL,
        holds_reaper: bool = False,
        is_pull: bool = False,
    ) -> Said:
        """Run the runtime's client. One that holds the reaper has it wait until it is done, should we die meanwhile."""
        if self._stopping and arguments[0] != "rm":
            return Said(1, "", "the service is ending")
        held = [self._reaper.fileno()] if holds_reaper and self._reaper is not None else []
        try:
            process = await asyncio.create_subprocess_exec(
                *self.command,
                *arguments,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**self.env, **(env or {})},
                pass_fds=held,
                start_new_session=True,
            )
        except OSError as failed:  # arguments or environment that are too long, no memory, no such program any more
            return Said(126, "", str(failed))
        if is_pull:
            self._pulls.add(process)
        try:
            output, error = await process.communicate()
        finally:
            self._pulls.discard(process)
        assert process.returncode is not None
        said = error.decode(errors="replace").strip()
        return Said(process.returncode, output.decode(errors="replace"), said or f"exit code {process.returncode}")


def without_warnings(said: str) -> str:
    """What a runtime said of an error, without what it logged on the way to it."""
    lines = [line for line in said.splitlines() if not line.startswith('time="')]
    return "\n".join(lines)[-_SAID:] or said[-_SAID:]


def _is_own(name: str) -> bool:
    return name in _OWN or name.startswith(_OWN_PREFIXES) or name.lower() in _OWN_PROXIES


def _limits() -> dict[str, int]:
    """Our own hard limits, within which a runtime without the right to raise them stays; it counts no more processes
    than the kernel has numbers for."""
    import resource

    files, processes = resource.getrlimit(resource.RLIMIT_NOFILE)[1], resource.getrlimit(resource.RLIMIT_NPROC)[1]
    try:
        most = int(Path("/proc/sys/kernel/pid_max").read_text())
    except OSError:
        most = processes
    return {"nofile": files, "nproc": most if processes < 0 else min(processes, most)}

"""The command `python -m batchexec.emulator`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shlex
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from batchexec.emulator.errors import Unusable
from batchexec.emulator.scheduling.quotas import Quotas

from .access import HOST, Access, BadKeys, forget_keys, given_keys, listen, tls_directory
from .options import Containers, Options
from .running import exports, registered
from .service import Emulator

if TYPE_CHECKING:
    from batchexec.emulator.faults.latency import Latency
    from batchexec.emulator.persistence.datadir import DataDirectory


def main(argv: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] == ["env"]:
        from .shell import main as env

        return env(arguments[1:])
    parser = _parser()
    options = parser.parse_args(arguments)
    python = shutil.which(options.python)
    if python is None:
        parser.error(f"--python: {options.python!r} is no program")
    if not 0 <= options.nodes <= 1000 or not 1 <= options.slots <= 256:
        parser.error("--nodes: 0 to 1000, --slots: 1 to 256")
    try:
        data = _data_directory(options.data_dir)
        given = given_keys(options.keys, os.environ, options.account, options.storage_account)
        if data is not None:
            given = data.saved_access() | given
            batch, blobs = data.listen(options.port, options.blob_port, options.host)
        else:
            batch, blobs = (listen(port, options.host) for port in (options.port, options.blob_port))
    except (BadKeys, OSError, Unusable) as error:
        parser.error(str(error))
    try:
        latency = _latency(options.latency, options.seed)
        faults = _faults(options.faults)
        boxed = _containers(options.containers, options.container_command, options.container_option)
    except ValueError as error:
        parser.error(str(error))
    root = data.path if data else options.root
    forget_keys(os.environ)
    most = Quotas(options.core_quota, options.spot_quota, options.pool_quota, options.job_quota)
    chosen = Options(
        root,
        os.path.abspath(python),
        most,
        options.host,
        inline=options.runner == "inline",
        data=data,
        containers=boxed,
        faults=faults,
        nodes=options.nodes,
        slots=options.slots,
        latency=latency,
    )
    with tls_directory(root) if options.tls else contextlib.nullcontext() as tls:
        access = Access.create(batch, blobs, given=given, host=options.host, more_names=options.name, tls=tls)
        if data is not None:
            data.keep_access(access, batch, blobs)
        try:
            _run(Emulator(batch, blobs, access, chosen), options.json, options.until_eof)
        except Unusable as error:
            print(f"{parser.prog}: {error}", file=sys.stderr)
            return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="batchexec emulator",
        description="Azure Batch and Blob storage on this machine, for any client.",
        epilog='`batchexec emulator env` prints what a shell exports to use it: eval "$(batchexec emulator env)"',
    )
    parser.add_argument("--port", type=int, default=0, help="of the Batch service; 0 takes a free one")
    parser.add_argument("--blob-port", type=int, default=0, help="of the Blob service; 0 takes a free one")
    parser.add_argument("--json", action="store_true", help="print the endpoints and keys as one line of JSON")
    parser.add_argument("--until-eof", action="store_true", help="end at the end-of-file of standard input")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--root", type=Path, help="directory of the nodes and blobs; default: a temporary one")
    where.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="keep everything here, and go on where the last run ended, with its ports and keys; default: keep nothing",
    )
    parser.add_argument(
        "--python", metavar="PATH", default=sys.executable, help="what `python` and `python3` mean on the nodes"
    )
    parser.add_argument(
        "--runner",
        choices=["process", "inline"],
        default="process",
        help="inline: tasks of the fork-server contract share processes that stay; fast, and without isolation",
    )
    ready = parser.add_argument_group("a pool `local` that is there from the start")
    ready.add_argument("--nodes", type=int, default=0, metavar="N", help="its nodes; default: 0, there is no pool")
    ready.add_argument("--slots", type=int, default=1, metavar="N", help="slots of each node; default: %(default)s")
    boxes = parser.add_argument_group("containers")
    boxes.add_argument(
        "--containers",
        choices=["process", "docker", "podman"],
        default="process",
        help="what runs tasks that ask for a container; process: the node itself, without an image",
    )
    boxes.add_argument(
        "--container-command", metavar="COMMAND", help="how it is called here, as in 'podman --runtime runc'"
    )
    boxes.add_argument(
        "--container-option",
        action="append",
        default=[],
        metavar="OPTION",
        help="for every container that is created, as in --container-option=--userns=host; may be repeated",
    )
    doors = parser.add_argument_group("who may reach it, and how")
    doors.add_argument(
        "--host",
        default=HOST,
        metavar="ADDRESS",
        help="address to listen on; default: %(default)s, for this machine alone; 0.0.0.0: every one of it. Who can "
        "reach it and has a key runs programs here",
    )
    doors.add_argument(
        "--name", action="append", default=[], help="a further host name that clients use; the first is printed"
    )
    doors.add_argument("--tls", action="store_true", help="HTTPS by an authority of its own, and Entra tokens")
    doors.add_argument("--account", metavar="NAME", help="of the Batch account; default: local")
    doors.add_argument("--storage-account", metavar="NAME", help="of the storage account; default: as --account")
    doors.add_argument(
        "--keys",
        type=Path,
        metavar="FILE",
        help="JSON with account, batch_key, storage_account, storage_key or client_secret, for its owner alone (600); "
        "or BATCHEXEC_EMULATOR_BATCH_KEY and so on in the environment; default: random keys",
    )
    quotas = parser.add_argument_group("quotas of the account; default: none")
    quotas.add_argument("--core-quota", type=int, metavar="N", help="cores of dedicated nodes")
    quotas.add_argument("--spot-quota", type=int, metavar="N", help="cores of spot nodes")
    quotas.add_argument("--pool-quota", type=int, metavar="N", help="pools")
    quotas.add_argument("--job-quota", type=int, metavar="N", help="active jobs")
    wrong = parser.add_argument_group("what goes wrong, and how slowly; default: nothing, and not (docs/faults.md)")
    wrong.add_argument(
        "--faults", type=Path, action="append", default=[], metavar="FILE", help="JSON or TOML with faults to arm"
    )
    wrong.add_argument(
        "--latency",
        metavar="azure[:SCALE]",
        help="take the time that Azure takes for round trips, tasks and nodes; azure:0.01 a hundredth of it",
    )
    wrong.add_argument("--seed", type=int, metavar="N", help="of the latency; default: a random one")
    return parser


def _data_directory(path: Path | None) -> DataDirectory | None:
    if path is None:
        return None
    from batchexec.emulator.persistence.datadir import DataDirectory

    return DataDirectory(path)


def _containers(kind: str, command: str | None, options: list[str]) -> Containers | None:
    """Raises ValueError where there is no such runtime."""
    if kind == "process":
        return None
    words = shlex.split(command or kind)
    if not words or shutil.which(words[0]) is None:
        raise ValueError(f"--containers {kind}: there is no program {words[0] if words else command!r}")
    return Containers(kind, words, options)


def _faults(paths: list[Path]) -> list[object]:
    """What stands in files of faults. Raises ValueError where it cannot be armed."""
    if not paths:
        return []
    from batchexec.emulator.faults.faults import Faults, read

    found = [read(path) for path in paths]
    for path, specs in zip(paths, found, strict=True):
        Faults().arm(specs, str(path))
    return found


def _latency(text: str | None, seed: int | None) -> Latency | None:
    """Raises ValueError where no latency is called so."""
    if text is None:
        return None
    from batchexec.emulator.faults.latency import Latency

    return Latency.parse(text, seed)


def _run(emulator: Emulator, as_json: bool, until_eof: bool) -> None:
    line = emulator.access.line()
    # One that ends with its parent is the parent's own.
    with contextlib.nullcontext() if until_eof else registered(line):
        # Before the servers are loaded: who connects now waits in the backlog, and loads its own part meanwhile.
        print(line if as_json else exports(json.loads(line)), flush=True)
        _load_http_server()
        asyncio.run(_serve(emulator, until_eof))


def _load_http_server() -> None:
    """Import aiohttp without the system's certificates, which it would read at once, for 45 ms.

    Where one is needed, for resource files from elsewhere, they are read then (node/transfers.py).
    """
    given = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    os.environ["SSL_CERT_FILE"] = os.environ["SSL_CERT_DIR"] = os.devnull
    try:
        import aiohttp.web  # noqa: F401
    finally:
        for name, value in zip(("SSL_CERT_FILE", "SSL_CERT_DIR"), given, strict=True):
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


async def _serve(emulator: Emulator, until_eof: bool) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    if until_eof:
        # A Ctrl-C in the terminal reaches this process too, but it is the parent's to decide what it means.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=_await_eof, args=(loop, ended), daemon=True).start()
    else:
        loop.add_signal_handler(signal.SIGINT, ended.set)
    async with emulator:
        await ended.wait()


def _await_eof(loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
    while os.read(0, 4096):
        pass
    loop.call_soon_threadsafe(ended.set)


if __name__ == "__main__":
    sys.exit(main())

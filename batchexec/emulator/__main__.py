"""The command `python -m batchexec.emulator`."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import sys
import threading
from pathlib import Path

from .options import Options
from .quotas import Quotas
from .service import Access, Emulator, listen


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="batchexec emulator", description="Azure Batch and Blob storage on this machine."
    )
    parser.add_argument("--port", type=int, default=0, help="of the Batch service; 0 takes a free one")
    parser.add_argument("--blob-port", type=int, default=0, help="of the Blob service; 0 takes a free one")
    parser.add_argument("--json", action="store_true", help="print the endpoints and keys as one line of JSON")
    parser.add_argument("--until-eof", action="store_true", help="end at the end-of-file of standard input")
    parser.add_argument("--root", type=Path, help="directory of the nodes and blobs; default: a temporary one")
    parser.add_argument(
        "--python", metavar="PATH", default=sys.executable, help="what `python` and `python3` mean on the nodes"
    )
    quotas = parser.add_argument_group("quotas of the account; default: none")
    quotas.add_argument("--core-quota", type=int, metavar="N", help="cores of dedicated nodes")
    quotas.add_argument("--spot-quota", type=int, metavar="N", help="cores of spot nodes")
    quotas.add_argument("--pool-quota", type=int, metavar="N", help="pools")
    quotas.add_argument("--job-quota", type=int, metavar="N", help="active jobs")
    options = parser.parse_args(argv)
    python = shutil.which(options.python)
    if python is None:
        parser.error(f"--python: {options.python!r} is no program")
    batch, blobs = listen(options.port), listen(options.blob_port)
    access = Access.create(batch, blobs)
    # Before the servers are loaded: who connects now waits in the backlog, and loads its own part meanwhile.
    print(access.line() if options.json else _greeting(access), flush=True)
    _load_http_server()
    most = Quotas(options.core_quota, options.spot_quota, options.pool_quota, options.job_quota)
    chosen = Options(options.root, os.path.abspath(python), most)
    asyncio.run(_serve(Emulator(batch, blobs, access, chosen), options.until_eof))
    return 0


def _load_http_server() -> None:
    """Import aiohttp without the system's certificates, which it would read at once, for 45 ms.

    Where one is needed, for resource files from elsewhere, they are read then (resources.py).
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


def _greeting(access: Access) -> str:
    return (
        f"export AZURE_BATCH_ACCOUNT={access.account} AZURE_BATCH_ENDPOINT={access.batch_endpoint}\n"
        f"export AZURE_BATCH_ACCESS_KEY='{access.batch_key}'\n"
        f"export AZURE_STORAGE_CONNECTION_STRING='{access.connection_string}'"
    )


if __name__ == "__main__":
    sys.exit(main())

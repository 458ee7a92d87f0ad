"""Azurite, Microsoft's emulator of Azure Storage: the other implementation that ours is compared with."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MAIN = Path(__file__).parents[2] / ".venvs/azurite/node_modules/azurite/dist/src/blob/main.js"
# The shell ends the server at the end-of-file of its standard input, which comes even when the tests are killed.
_TIED = '"$@" </dev/null & cat >/dev/null; kill -9 $!; wait'


def missing() -> str:
    """Why Azurite cannot be run here; "" when it can."""
    if shutil.which("node") is None:
        return "Azurite needs node, which is not on the path"
    if not _MAIN.exists():
        return "Azurite is not installed: make tools"
    return ""


@contextmanager
def azurite(account: str, key: str, folder: Path) -> Iterator[int]:
    """The port of an Azurite of its own on loopback, with one account; it keeps everything in memory."""
    options = ("--silent", "--disableTelemetry", "--skipApiVersionCheck", "--inMemoryPersistence")
    place = ("--blobHost", "127.0.0.1", "--blobPort", "0", "--blobKeepAliveTimeout", "60")
    command = ["sh", "-c", _TIED, "sh", "node", str(_MAIN), *options, *place]
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "AZURITE_ACCOUNTS": f"{account}:{key}"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            lines = []
            while not (found := re.search(r"listens on http://127\.0\.0\.1:(\d+)", line := process.stdout.readline())):
                assert line, f"Azurite ended: {''.join(lines)}"
                lines.append(line)
            yield int(found[1])
        finally:
            process.stdin.close()
            process.wait(60)

"""An emulator as a child process, and what it and its nodes have cost so far."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import processes
from .raw_batch import RawBatch


class EmulatorProcess:
    """Started at once, with `client` for its account. Ended, with all its nodes, at the end of the block."""

    def __init__(self, directory: Path, options: Sequence[str]) -> None:
        command = [sys.executable, "-m", "batchexec.emulator", "--json", "--until-eof", *options]
        log = directory / "emulator.txt"
        with log.open("wb") as output:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._end()
            *_, reason = log.read_text().splitlines() or ["no word"]
            raise RuntimeError(f"the emulator did not start: {reason}")
        access: dict[str, Any] = json.loads(line)
        self.client = RawBatch(access["batch_endpoint"], access["account"], access["batch_key"])

    def __enter__(self) -> EmulatorProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._end()

    def kill(self) -> None:
        """As a power cut would end the process; its nodes see it gone."""
        self._process.kill()
        self._process.wait()

    def _end(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def rss_mb(self) -> float:
        """Resident memory of the emulator itself."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise RuntimeError("the emulator is gone")

    def spent(self) -> dict[str, float]:
        """Milliseconds so far: on the wall, and of CPU by the emulator, by what runs on its nodes, and by us."""
        service = processes.read(self._process.pid)
        if service is None:
            raise RuntimeError("the emulator is gone")
        nodes = processes.descendants(self._process.pid)
        return {
            "wall": time.perf_counter() * 1000,
            "service": service.own_ms,
            "nodes": service.children_ms + sum(process.own_ms + process.children_ms for process in nodes),
            "client": time.process_time() * 1000,
        }

"""`batchexec emulator`: the local service as a program of its own."""

from __future__ import annotations

import runpy
import sys


def main(argv: list[str]) -> int:
    # By name, as `python -m` does: the client's rooms and the emulator share no code.
    sys.argv = ["batchexec emulator", *argv]
    runpy.run_module("batchexec.emulator", run_name="__main__", alter_sys=True)
    return 0

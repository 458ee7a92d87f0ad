"""`batchexec emulator env`: what a shell exports to use an emulator that is running."""

from __future__ import annotations

import argparse
import sys

from .running import exports, find


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="batchexec emulator env",
        description='Print shell exports for a running emulator: eval "$(batchexec emulator env)". They hold its keys.',
    )
    parser.add_argument("--pid", type=int, help="of which emulator; default: the one started last")
    options = parser.parse_args(argv)
    ready = find(options.pid)
    if ready is None:
        which = f"with process id {options.pid} " if options.pid else ""
        print(f"no emulator {which}of this user is running: start one with `batchexec emulator`", file=sys.stderr)
        return 1
    print(exports(ready))
    return 0

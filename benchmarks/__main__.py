"""The command `python -m benchmarks`: a table of times and ratios, with `profile` where the time goes, with
`control-plane` how many tasks the emulator takes, with `files` what files cost that travel."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections.abc import Sequence
from pathlib import Path

from . import control_plane, measure, profile, staging, table
from .cases import CASES, QUICK, Sizes

_PRELOADED = ["multiprocessing.pool", "operator", "benchmarks.work"]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("mode", nargs="?", choices=["compare", "profile", "control-plane", "files"], default="compare")
    parser.add_argument("--quick", action="store_true", help="one small round, to see that everything runs")
    parser.add_argument("--repetitions", type=int, default=9, metavar="N")
    parser.add_argument("--chunks", type=int, default=500, metavar="N", help="of the profile")
    parser.add_argument("--tasks", type=int, default=100_000, metavar="N", help="of the control plane")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there too")
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES], help="only these")
    parser.add_argument(
        "--preload",
        action="store_true",
        help="let the standard library's fork server import what its workers need beforehand (not its default)",
    )
    options = parser.parse_args(argv)
    repetitions = 1 if options.quick else options.repetitions
    if options.preload:
        multiprocessing.set_forkserver_preload(_PRELOADED)
    if options.mode == "profile":
        report = profile.profile(repetitions, 10 if options.quick else options.chunks)
        shown = profile.lines(report)
    elif options.mode == "control-plane":
        report = control_plane.measure(200 if options.quick else options.tasks, measure.to_stderr)
        shown = control_plane.lines(report)
    elif options.mode == "files":
        report = staging.measure(staging.QUICK if options.quick else staging.Load(), measure.to_stderr)
        shown = staging.lines(report)
    else:
        names = options.case or [case.name for case in CASES]
        report = measure.measure(repetitions, QUICK if options.quick else Sizes(), names, measure.to_stderr)
        shown = table.lines(report)
    print("\n".join(shown))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

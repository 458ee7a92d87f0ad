"""`batchexec fetch`: the results of a job whose client was interrupted or lost."""

from __future__ import annotations

import argparse
import sys

import cloudpickle

from batchexec.config import BatchConfig


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="batchexec fetch",
        description="Write the results of a job that are there to a pickle file: a list of (call, item number, value, "
        "exception), of which value or exception is None. Reading them runs code of the job's own modules: run this "
        "where they can be imported.",
    )
    parser.add_argument("job", help="the job's id")
    parser.add_argument("--to", metavar="FILE", help="default: JOB.pickle in the current directory")
    options = parser.parse_args(argv)
    from batchexec._engine import jobs

    items = jobs.fetch(BatchConfig.load(), options.job)
    path = options.to or f"{options.job}.pickle"
    with open(path, "wb") as file:
        cloudpickle.dump([tuple(item) for item in items], file)
    failed = sum(item.error is not None for item in items)
    print(f"{len(items)} items ({failed} with an exception) written to {path}", file=sys.stderr)
    return 0

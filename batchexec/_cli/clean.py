"""`batchexec clean`: a job and everything of it in storage, deleted."""

from __future__ import annotations

import argparse
import sys

from batchexec.config import BatchConfig


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="batchexec clean",
        description="Delete a job, its tasks and everything of it in storage, unread results too. The pool stays: it "
        "shrinks to nothing by itself.",
    )
    parser.add_argument("job", help="the job's id")
    options = parser.parse_args(argv)
    from batchexec._engine import earlier_jobs

    earlier_jobs.clean(BatchConfig.load(), options.job)
    print(f"job {options.job} is deleted", file=sys.stderr)
    return 0

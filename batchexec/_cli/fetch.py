"""`batchexec fetch`: the results of a job whose client was interrupted or lost."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cloudpickle

from batchexec.config import BatchConfig
from batchexec.errors import OutputError


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="batchexec fetch",
        description="Write the results of a job that are there to a pickle file: a list of (call, item number, value, "
        "exception), of which value or exception is None. The value of a Command's run is a CommandResult, whatever "
        "its exit code; a table of all runs (CSV) is written beside it. Reading them runs code of the job's own "
        "modules: run this where they can be imported.",
    )
    parser.add_argument("job", help="the job's id")
    parser.add_argument("--to", metavar="FILE", help="default: JOB.pickle in the current directory")
    parser.add_argument(
        "--outputs",
        metavar="DIR",
        help="also bring the files that items left, each item's to DIR/NUMBER; the table of a Command's runs is then "
        "DIR/sweep.csv, and a map with resume=DIR runs what is missing",
    )
    options = parser.parse_args(argv)
    if options.to and Path(options.to).suffix == ".csv":
        parser.error("--to names the pickle file; the table is written beside it, with the ending .csv")
    from batchexec._command.sweeps import fetched, table
    from batchexec._engine import earlier_jobs

    found = earlier_jobs.fetch(BatchConfig.load(), options.job, options.outputs)
    path = Path(options.to or f"{options.job}.pickle")
    listing = Path(options.outputs, table.NAME) if options.outputs else path.with_suffix(".csv")
    try:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            cloudpickle.dump([(item.call, item.number, fetched.value(item), item.error) for item in found.items], file)
        runs = fetched.write_table(listing.absolute(), found.items, found.unfinished, bool(options.outputs))
    except OSError as error:
        raise OutputError(f"{str(error.filename or path)!r} cannot be written: {error.strerror or error}") from error
    failed = sum(item.error is not None for item in found.items)
    print(f"{len(found.items)} items ({failed} with an exception) written to {path}", file=sys.stderr)
    if runs:
        lacking = f" ({len(found.unfinished)} without a result)" if found.unfinished else ""
        print(f"{runs} runs{lacking} listed in {listing}", file=sys.stderr)
    left = sum(item.files for item in found.items)
    if options.outputs:
        brought = sum(len(item.outputs) for item in found.items)
        print(f"{brought} files written to {options.outputs}", file=sys.stderr)
        if brought < left:
            print(f"{left - brought} files could not be written: see the exceptions of their items", file=sys.stderr)
            return 1
    elif left:
        print(f"{left} files of these items were left in storage: --outputs DIR brings them", file=sys.stderr)
    return 0

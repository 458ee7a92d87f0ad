"""`batchexec doctor`: what would go wrong on nodes, found here."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from batchexec.config import BatchConfig
from batchexec.errors import RequirementsError

if TYPE_CHECKING:
    from batchexec._cli.trial import Listing


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="batchexec doctor",
        description="Find what would go wrong on nodes before they cost money. --requirements reads what SCRIPT "
        "imports (it is not run), installs that as a node does, in an environment that is removed again, and imports "
        "it. Exit code 0 means that all went well.",
    )
    parser.add_argument("--requirements", metavar="SCRIPT", required=True, help="the script whose packages are tried")
    parser.add_argument(
        "--add", metavar="LINE", action="append", help="a requirement beside those found, as in requirements=[...]"
    )
    parser.add_argument(
        "--pip-option",
        metavar="OPTION",
        action="append",
        help="an option of the nodes' installer, as in pip_options=[...]: --pip-option=--index-url=URL",
    )
    parser.add_argument("--list", action="store_true", help="only list what nodes would install")
    options = parser.parse_args(argv)
    fields: dict[str, object] = {}
    if options.add:
        fields["requirements"] = [*(BatchConfig.load().requirements or ("auto",)), *options.add]
    if options.pip_option:
        fields["pip_options"] = options.pip_option
    config = BatchConfig.load(**fields)  # type: ignore[arg-type]
    from batchexec._cli.trial import Trial

    trial = Trial(config, options.requirements)
    if config.requirements == ("none",):
        print("requirements is none: nodes install nothing, and their image must have all of this", file=sys.stderr)
    _show(trial.listing)
    if options.list:
        return 0
    if sys.platform != "linux":
        print("nothing was installed: nodes are Linux, which only Linux can try", file=sys.stderr)
        return 1
    try:
        failed = trial.run(lambda text: print(f"{text} ...", file=sys.stderr))
    except RequirementsError as error:
        print(f"the packages cannot be installed{f' ({error.kind})' if error.kind else ''}:\n{error}", file=sys.stderr)
        if error.kind == "network":
            print("Nodes know nothing of your own pip's configuration.", file=sys.stderr)
        return 1
    for name, reason in sorted(failed.items()):
        print(f"cannot be imported there: {name}: {reason}", file=sys.stderr)
    if failed or trial.listing.missing:
        return 1
    print("all of it can be installed and imported")
    return 0


def _show(listing: Listing) -> None:
    width = max((len(line) for line, _ in listing.lines), default=0)
    for line, reason in listing.lines:
        print(f"{line:<{width}}  {reason}".rstrip())
    if not listing.lines:
        print("nothing but the standard library, and your own modules, is needed")
    if listing.versions:
        print(f"with {len(listing.versions)} more that these need, in the versions that are installed here:")
        print("  " + " ".join(listing.versions))
    for text in listing.warnings:
        print(f"warning: {text}", file=sys.stderr)
    for name in listing.missing:
        print(f"not found here, so not on nodes either: module {name}", file=sys.stderr)

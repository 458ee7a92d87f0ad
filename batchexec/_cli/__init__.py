"""The command `batchexec`: finds the subcommand, loads only that, and turns its end into an exit code."""

from __future__ import annotations

import argparse
import difflib
import importlib
import sys
from typing import NamedTuple

from batchexec._version import VERSION


class Command(NamedTuple):
    """A subcommand: `module` of this package defines `main(argv: list[str]) -> int`."""

    module: str
    help: str


COMMANDS: dict[str, Command] = {
    "demo": Command("demo", "a real loop, serial and then with BatchExecutor: see that it works, and what it gains"),
    "doctor": Command("doctor", "what would go wrong on nodes, found here: packages installed and imported"),
    "fetch": Command("fetch", "the results of a job whose client was interrupted or lost"),
    "clean": Command("clean", "delete a job and everything of it in storage"),
    "image": Command("image", "build the generic worker image by docker, podman or buildah"),
    "emulator": Command("emulator", "Azure Batch and Blob storage on this machine, for any client"),
}


def main(argv: list[str] | None = None) -> int:
    """Run the command line; its exit code. 2 is a wrong command line, 1 a failure, 130 a Ctrl-C."""
    arguments = sys.argv[1:] if argv is None else argv
    parser = _parser()
    # Only what stands before the subcommand is ours: everything after it belongs to the subcommand.
    options = parser.parse_args(arguments[:1])
    if options.command is None:
        parser.print_help()
        return 2
    if options.command not in COMMANDS:
        near = difflib.get_close_matches(options.command, COMMANDS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(COMMANDS)}"
        parser.error(f"unknown command {options.command!r}: {hint}")
    from batchexec.errors import BatchExecError

    command = importlib.import_module(f"{__name__}.{COMMANDS[options.command].module}")
    try:
        return int(command.main(arguments[1:]))
    except BatchExecError as error:
        print(f"batchexec {options.command}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="batchexec",
        usage="batchexec [-h] [--version] COMMAND ...",
        description="Run an ordinary Python loop on Azure Batch, or on this machine.",
        epilog=f"commands:\n{listing}\n\n`batchexec COMMAND --help` shows the options of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"batchexec {VERSION}")
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    return parser

"""Why an index had nothing to offer, which installers say only when they are asked in another way."""

from __future__ import annotations

import os
import re

from .install_failures import InstallError, failure_in, last_words, not_fetched
from .runs import Runs, plain

_LOG = 1 << 24  # characters of pip's log that are looked at


def by_pip(run: Runs, command: list[str], error: InstallError) -> InstallError:
    """Its log says so, else it does only when it tried several times: it looks once more for what it did not find.

    `command`: of `error`, without what was to be installed.
    """
    missing = re.search(r"No matching distribution found for ([A-Za-z0-9][^\s;]*)", str(error))
    if missing is None:
        return error
    log = os.path.join(run.work.scratch, "pip.log")
    _fails(Runs({**run.env, "PIP_LOG": log}, run.work, _not_told), "pip", [*command, "--no-deps", missing[1]])
    try:
        with open(log, encoding="utf-8", errors="replace") as file:
            lines = not_fetched(file.read(_LOG))
    except FileNotFoundError:  # the user's options send it elsewhere
        return error
    return _joined(error, run.work.settings.masked(plain("\n".join(lines)))) if lines else error


def by_uv(run: Runs, command: list[str], error: InstallError) -> InstallError:
    """It says nothing of refused logins where it looks into all indexes: `command` lets it choose where to look."""
    said = _fails(Runs(run.env, run.work, _not_told), "uv", command)
    # Some indexes say 403 of what they do not have.
    refused = said is not None and (run.work.settings.has_one_index() or "403 Forbidden" not in str(said))
    hints = re.findall(r"^\s*hint: .*(?:\n +\S.*)*", str(said), re.MULTILINE)
    text = "\n".join(" ".join(hint.split()) for hint in hints)
    return _joined(error, text) if refused and failure_in(text).kind == "network" else error


def _fails(run: Runs, installer: str, command: list[str]) -> InstallError | None:
    try:
        run(installer, command)
    except InstallError as error:
        return error
    return None


def _joined(error: InstallError, text: str) -> InstallError:
    kind, reason = failure_in(text)
    return InstallError(kind, last_words(f"{error}\n{text}"), error.installer, reason)


def _not_told(line: str) -> None:
    """Who waits has heard it before."""

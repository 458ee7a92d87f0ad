"""The layers that settings come from: keywords and mappings, environment, TOML file with its profiles."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .given import ENVIRONMENT, FILE, Given, Origin
from .table import Table, variables
from .wording import quoted, unknown

_FOREIGN = ("BATCHEXEC_EMULATOR",)  # prefix of the emulator's own variables


def add(given: dict[str, Given], settings: Table, values: Mapping[str, Any], origin: Origin) -> list[str]:
    """Add what no higher layer gave; return what was wrong."""
    problems = []
    for name, value in values.items():
        if name not in settings:
            problems.append(unknown("field", str(name), settings) + f" ({origin.source})")
            continue
        if value is None:
            value = settings[name].metadata["none"]
        if value is not None:
            given.setdefault(name, Given(value, origin))
    return problems


def add_environment(given: dict[str, Given], settings: Table, environ: Mapping[str, str]) -> list[str]:
    present = {name: text for name, raw in environ.items() if (text := _unquoted(raw))}
    names = {name: variables(row) for name, row in settings.items()}
    for name, candidates in names.items():
        for variable in candidates:
            if variable in present:
                origin = Origin(ENVIRONMENT, f"environment {variable}")
                given.setdefault(name, Given(present[variable], origin))
                break
    ours = {candidates[0] for candidates in names.values() if candidates}
    return [
        unknown("environment variable", name, ours)
        for name in present
        if name.startswith("BATCHEXEC_") and not name.startswith(_FOREIGN) and name not in ours
    ]


def add_file(given: dict[str, Given], settings: Table, path: Path | None, start: Path) -> list[str]:
    profile = given["profile"].value if "profile" in given else None
    try:
        found = _read(path) if path is not None else _nearest(_there(start))
    except (OSError, ValueError) as error:
        return [str(error)]
    if path is not None and found is None:
        return [f"{path} has no table [tool.batchexec]"]
    if found is None:
        where = f"no batchexec.toml or [tool.batchexec] in {start.resolve()} or above"
        return [f"unknown profile {quoted(profile)}: {where}"] if profile else []
    file, table, top = found
    profiles = top.get("profile", {})
    if not isinstance(profiles, dict) or not all(isinstance(p, dict) for p in profiles.values()):
        return [f"profile: expected tables [{table + '.' if table else ''}profile.NAME] ({file})"]
    problems: list[str] = []
    layers = [(table or "default", {name: value for name, value in top.items() if name != "profile"})]
    if isinstance(profile, str):
        if profile in profiles:
            layers.insert(0, (f"{table + '.' if table else ''}profile.{profile}", profiles[profile]))
        else:
            known = ", ".join(sorted(profiles)) or "none"
            problems.append(f"unknown profile {quoted(profile)}: known are {known} ({file})")
    for label, values in layers:
        for name in ("credential", "profile"):
            if name in values:
                problems.append(f"{name}: cannot be set here ({file}:[{label}])")
        usable = {name: value for name, value in values.items() if name not in ("credential", "profile")}
        problems += add(given, settings, usable, Origin(FILE, f"{file.name}:[{label}] ({file})"))
    return problems


def _there(start: Path) -> Path:
    """The directory, absolute. Raises FileNotFoundError where it is the current one, and was removed."""
    try:
        return start.resolve()
    except FileNotFoundError as error:
        raise FileNotFoundError("the current directory was removed: change to another one") from error


def _nearest(directory: Path) -> tuple[Path, str, dict[str, Any]] | None:
    """The settings of the first directory from here up, to the home directory or the root, that holds any."""
    home = Path(os.path.expanduser("~")).resolve()
    for place in (directory, *directory.parents):
        for name in ("batchexec.toml", "pyproject.toml"):
            if (place / name).is_file() and (found := _read(place / name)):
                return found
        if place == home:
            break
    return None


def _read(path: Path) -> tuple[Path, str, dict[str, Any]] | None:
    """File, table name and settings; None for a pyproject.toml that does not speak of us."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error
    shared = path.name == "pyproject.toml"
    if shared and "batchexec" not in text:  # somebody else's file, perhaps a broken one
        return None
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        document: dict[str, Any] = toml.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from error
    if not shared:
        return path, "", document
    tools = document.get("tool")
    table = tools.get("batchexec") if isinstance(tools, dict) else None
    return (path, "tool.batchexec", table) if isinstance(table, dict) else None


def _unquoted(text: str) -> str:
    text = text.strip()
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1].strip()
    return text

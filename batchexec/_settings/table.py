"""The table of settings: how a row is written, what can be read from it, and how the documentation shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, field
from types import MappingProxyType
from typing import Any, TypeAlias

Row: TypeAlias = Field[Any]
Table: TypeAlias = Mapping[str, Row]


def setting(
    default: Any, text: str, environ: str = "", *, secret: bool = False, check: Any = None, none: str | None = None
) -> Any:
    """One row of the table: default, meaning, environment names besides BATCHEXEC_<FIELD>, and its check.

    `none` is what an explicit None stands for, where that is not the same as no value at all.
    """
    meta = {"help": text, "environ": environ.split(), "secret": secret, "check": check, "none": none}
    if isinstance(default, Mapping):
        return field(default_factory=lambda: MappingProxyType(default), hash=False, metadata=meta)
    return field(default=default, metadata=meta)


def kind(row: Row) -> str:
    """The row's type as the table writes it, without `| None`."""
    return str(row.type).removesuffix(" | None")


def default(row: Row) -> Any:
    return row.default if row.default_factory is MISSING else row.default_factory()


def variables(row: Row) -> tuple[str, ...]:
    """Names in the environment, the first one asked first; none for `credential`, an object."""
    return () if row.name == "credential" else (f"BATCHEXEC_{row.name.upper()}", *row.metadata["environ"])


def markdown(settings: Table) -> str:
    lines = ["| Field | Type | Default | Environment | Meaning |", "|---|---|---|---|---|"]
    for name, row in settings.items():
        value = default(row)
        shown = "" if value is None else f"`{dict(value) if isinstance(value, Mapping) else value!r}`"
        type_name = str(row.type).replace("|", "\\|")
        secret = " (secret)" if row.metadata["secret"] else ""
        names = ", ".join(f"`{v}`" for v in variables(row))
        lines.append(f"| `{name}` | `{type_name}` | {shown} | {names} | {row.metadata['help']}{secret} |")
    return "\n".join(lines) + "\n"

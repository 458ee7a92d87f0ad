"""What code imports and which files it names, read from code objects and source, never executed."""

from __future__ import annotations

import ast
import dis
import functools
import itertools
import types
import warnings
from collections.abc import Iterator
from typing import NamedTuple

from batchexec._source.conditions import When, statements

# A call of one of these with a constant name imports a module as surely as a statement does.
_IMPORT_CALLS = frozenset({"import_module", "__import__"})
# Source that uses none of these has no way to find a file that lies beside it.
_LOCATION_NAMES = frozenset({"__file__", "__spec__", "__path__", "get_data", "getfile", "files"})


class Import(NamedTuple):
    """`from {level dots}{module} import {names}`; names are empty for a plain `import module`."""

    module: str
    names: tuple[str, ...] = ()
    level: int = 0
    when: When = When.ALWAYS

    @property
    def on_nodes(self) -> bool:
        """Whether a node that imports the module comes by here."""
        return self.when < When.AS_SCRIPT

    def absolute(self, package: str) -> str | None:
        """The module's full name seen from `package`, or None when the dots lead out of it."""
        if not self.level:
            return self.module or None
        parents = package.split(".") if package else []
        if len(parents) < self.level:
            return None
        base = parents[: len(parents) - self.level + 1]
        return ".".join([*base, self.module] if self.module else base)


@functools.lru_cache(maxsize=4096)
def code_imports(code: types.CodeType) -> tuple[Import, ...]:
    """Imports in a function's body and in the functions and classes nested in it."""
    found: dict[Import, None] = {}
    loaded: list[object] = [None, None]
    again = 0  # the place where that ends which is for type checkers
    for step in dis.get_instructions(code):
        if step.offset < again:
            continue
        if loaded[1] == "TYPE_CHECKING" and "JUMP" in step.opname and step.opname.endswith("IF_FALSE"):
            again = step.argval
        elif step.opname == "IMPORT_NAME":  # level and names were loaded just before
            level, names = loaded
            found[
                Import(
                    str(step.argval),
                    tuple(names) if isinstance(names, tuple) else (),
                    level if isinstance(level, int) else 0,
                )
            ] = None
        elif step.opname not in ("EXTENDED_ARG", "TO_BOOL"):
            loaded = [loaded[1], step.argval]
    calls = not _IMPORT_CALLS.isdisjoint(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found.update(dict.fromkeys(code_imports(constant)))
        elif calls and isinstance(constant, str):
            found.update(dict.fromkeys(_called(constant)))
    return tuple(found)


@functools.lru_cache(maxsize=16384)
def source_imports(path: str, mtime_ns: int, size: int) -> tuple[Import, ...]:
    """Imports in a Python file, lazy ones too, but none that never runs; read again only after a change.

    Raises OSError.
    """
    found: dict[Import, None] = {}
    for node, when in statements(_parsed(path)):
        if isinstance(node, ast.Import):
            found.update((Import(alias.name, when=when), None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found[Import(node.module or "", tuple(a.name for a in node.names), node.level, when)] = None
        elif isinstance(node, ast.Call) and _name(node.func) in _IMPORT_CALLS:
            named = [*node.args[:1], *(word.value for word in node.keywords if word.arg == "name")]
            found.update((one._replace(when=when), None) for value in named for one in _called(_text(value) or ""))
    return tuple(found)


@functools.lru_cache(maxsize=1024)
def source_paths(path: str, mtime_ns: int, size: int) -> tuple[bool, tuple[str, ...]]:
    """Whether a Python file asks where it lies, and the relative paths it spells out. Raises OSError."""
    tree = _parsed(path)
    asks = any(
        _name(node) in _LOCATION_NAMES if isinstance(node, (ast.Name, ast.Attribute)) else node.name in _LOCATION_NAMES
        for node in ast.walk(tree)
        if isinstance(node, (ast.Name, ast.Attribute, ast.alias))
    )
    return asks, tuple(dict.fromkeys(_spelt_paths(tree)))


def _parsed(path: str) -> ast.Module:
    with open(path, "rb") as file:
        source = file.read()
    try:
        with warnings.catch_warnings():  # the user's import of the file has shown them already
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except (SyntaxError, ValueError):  # a template, or Python 2: it travels as data and imports nothing
        return ast.Module([], [])


def _called(name: str) -> Iterator[Import]:
    bare = name.lstrip(".")
    if bare and all(part.isidentifier() for part in bare.split(".")):
        yield Import(bare, (), len(name) - len(bare))


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _spelt_paths(node: ast.AST) -> Iterator[str]:
    """Relative paths spelt by constants; `a / "data" / "x.csv"` and `join(a, "data", "x.csv")` are one."""
    joiner = "/"
    parts: list[ast.expr] = []
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            yield from _relative(node.value)
        return
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Div, ast.Add)):
        joiner = "/" if isinstance(node.op, ast.Div) else ""
        parts = list(_operands(node, type(node.op)))
    elif isinstance(node, ast.Call) and _name(node.func) in {"join", "joinpath", "get_data"}:
        yield from _spelt_paths(node.func)
        parts = list(node.args)
    elif isinstance(node, ast.JoinedStr):
        joiner, parts = "", list(node.values)
    if not parts:
        for child in ast.iter_child_nodes(node):
            yield from _spelt_paths(child)
    for known, run in itertools.groupby(parts, key=lambda part: _text(part) is not None):
        if known:
            yield from _relative(joiner.join(_text(part) or "" for part in run).lstrip("/"))
        else:
            for part in run:
                yield from _spelt_paths(part)


def _text(node: ast.expr) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _operands(node: ast.expr, operator: type[ast.operator]) -> Iterator[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, operator):
        yield from _operands(node.left, operator)
        yield from _operands(node.right, operator)
    else:
        yield node


def _relative(text: str) -> Iterator[str]:
    if not 0 < len(text) < 256 or not text.isprintable():
        return
    parts = [part for part in text.replace("\\", "/").split("/") if part != "."]
    # Neither absolute (an empty first part, a drive) nor hidden nor upwards.
    if parts and all(parts) and not any(part.startswith(".") for part in parts) and ":" not in parts[0]:
        yield "/".join(parts)

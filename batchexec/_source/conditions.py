"""When the statements of a module run on a node: in the branches of an `if` that nodes take, and within a `try`."""

from __future__ import annotations

import ast
import enum
from collections.abc import Iterator
from typing import NamedTuple


class When(enum.IntEnum):
    """What stands above a statement, the strongest of it."""

    ALWAYS = 0
    IF_IT_CAN = 1  # within a try that lives with an ImportError
    AS_SCRIPT = 2  # where its file is the one that is run
    ELSEWHERE = 3  # on systems that nodes do not have
    NEVER = 4  # for type checkers


class _Known(NamedTuple):
    """What a test comes to on a node, and what that is known by."""

    holds: bool
    when: When


# Nodes are Linux. A module is there under its own name.
_TEXTS = {
    "sys.platform": ("linux", When.ELSEWHERE),
    "os.name": ("posix", When.ELSEWHERE),
    "platform.system()": ("Linux", When.ELSEWHERE),
    "__name__": ("", When.AS_SCRIPT),
}
_SPECIAL = (ast.If, ast.Try, ast.With)
_TYPES = frozenset({"TYPE_CHECKING", "typing.TYPE_CHECKING"})
_CATCH = frozenset({"ImportError", "ModuleNotFoundError", "Exception", "BaseException"})


def statements(module: ast.Module) -> Iterator[tuple[ast.AST, When]]:
    """All nodes below a module, in no order. What never runs is left out."""
    # A module that makes its names when they are asked for (PEP 562) says for type checkers what it will import.
    lazy = any("__getattr__" in _bound(statement) for statement in module.body)
    pending: list[tuple[ast.AST, When]] = [(child, When.ALWAYS) for child in module.body]
    while pending:
        node, when = pending.pop()
        yield node, when
        within = _within(node) if isinstance(node, _SPECIAL) else None
        if within is None:
            pending += [(child, when) for child in ast.iter_child_nodes(node)]
            continue
        for child in ast.iter_child_nodes(node):
            stronger = within.get(id(child), when)
            if stronger is When.NEVER and lazy:
                stronger = when
            if stronger is not When.NEVER:
                pending.append((child, max(when, stronger)))


def _within(node: ast.AST) -> dict[int, When]:
    """What the statement says of its children, by their id()."""
    if isinstance(node, ast.If):
        known = _evaluated(node.test)
        return {id(child): known.when for child in (node.orelse if known.holds else node.body)} if known else {}
    if isinstance(node, ast.Try):
        catches = any(_catches(handler.type) for handler in node.handlers)
        return dict.fromkeys(map(id, node.body), When.IF_IT_CAN) if catches else {}
    if isinstance(node, ast.With) and any(_suppresses(item.context_expr) for item in node.items):
        return dict.fromkeys(map(id, node.body), When.IF_IT_CAN)
    return {}


def _evaluated(test: ast.expr) -> _Known | None:
    """What the test of an `if` comes to on a node, as far as that can be told from its words."""
    if isinstance(test, ast.Constant):
        return _Known(bool(test.value), When.NEVER)
    if _words(test) in _TYPES:
        return _Known(False, When.NEVER)
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        known = _evaluated(test.operand)
        return known and _Known(not known.holds, known.when)
    if isinstance(test, ast.BoolOp):
        return _joined(test)
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        return _compared(test.left, test.ops[0], test.comparators[0])
    if isinstance(test, ast.Call) and len(test.args) == 1 and _words(test.func) == "sys.platform.startswith":
        begins = _constant(test.args[0])
        return _Known("linux".startswith(begins), When.ELSEWHERE) if isinstance(begins, (str, tuple)) else None
    return None


def _joined(test: ast.BoolOp) -> _Known | None:
    """Of `and` and `or`: one operand may decide, or all of them together."""
    decides = isinstance(test.op, ast.Or)
    known = [_evaluated(value) for value in test.values]
    deciding = [one for one in known if one is not None and one.holds is decides]
    if deciding:
        return max(deciding, key=lambda one: one.when)
    if None in known:
        return None
    return _Known(not decides, min(one.when for one in known if one is not None))


def _compared(left: ast.expr, operator: ast.cmpop, right: ast.expr) -> _Known | None:
    value = _constant(right)
    text, when = _TEXTS.get(_words(left), (None, When.ALWAYS))
    if text is None:
        return None
    if isinstance(operator, (ast.Eq, ast.NotEq)) and isinstance(value, str):
        equal = value == text
    elif isinstance(operator, (ast.In, ast.NotIn)) and isinstance(value, (tuple, list, set)):
        equal = text in value
    else:
        return None
    if when is When.AS_SCRIPT and not (value == "__main__" or (not isinstance(value, str) and "__main__" in value)):
        return None  # any other name may be the module's own
    return _Known(equal is isinstance(operator, (ast.Eq, ast.In)), when)


def _catches(caught: ast.expr | None) -> bool:
    """Whether an `except` of these classes lives with an import that fails."""
    if isinstance(caught, ast.Tuple):
        return any(map(_catches, caught.elts))
    return caught is None or _words(caught).rpartition(".")[2] in _CATCH


def _suppresses(context: ast.expr) -> bool:
    return (
        isinstance(context, ast.Call)
        and _words(context.func).rpartition(".")[2] == "suppress"
        and any(map(_catches, context.args))
    )


def _bound(statement: ast.stmt) -> set[str]:
    """Names that a statement gives to a function or by an assignment."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return {statement.name}
    if isinstance(statement, ast.Assign):
        return {node.id for target in statement.targets for node in ast.walk(target) if isinstance(node, ast.Name)}
    return set()


def _words(node: ast.expr) -> str:
    """The source of a name, of what is looked up in it, and of its call; nothing for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_words(node.value)}.{node.attr}"
    if isinstance(node, ast.Call) and not node.args:
        return f"{_words(node.func)}()"
    return ""


def _constant(node: ast.expr) -> object:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        return None

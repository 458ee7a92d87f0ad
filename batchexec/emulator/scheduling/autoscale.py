"""Autoscale formulas: read and evaluated in one pass.

https://learn.microsoft.com/azure/batch/batch-automatic-scaling
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone

from .autoscale_values import (
    COMPARISONS,
    FUNCTIONS,
    INTERVALS,
    FormulaError,
    Stop,
    Value,
    apply,
    call,
    member,
    negative,
    scalar,
    show,
)

Samples = Callable[[str, str, "list[Value]"], "Value"]  # (variable, method, arguments)
_TOKEN = re.compile(
    r"\s+|//[^\n]*|/\*.*?\*/|(?P<number>\d+(?:\.\d+)?)|(?P<text>\"[^\"\n]*\")"
    r"|(?P<name>\$?[A-Za-z_]\w*)|(?P<op>&&|\|\||[<>=!]=|[-+*/<>!?:;=(),.])",
    re.DOTALL,
)
_OPTIONS = ("requeue", "terminate", "taskcompletion", "retaineddata")
_ALIASES = {"$TargetDedicated": "$TargetDedicatedNodes", "$TargetLowPriority": "$TargetLowPriorityNodes"}
_LEVELS: tuple[tuple[str, ...], ...] = (("||",), ("&&",), tuple(COMPARISONS), ("+", "-"), ("*", "/"))
_MOST_STATEMENTS = 100
METHODS = ("GetSample", "GetSamplePercent", "GetSamplePeriod", "Count", "HistoryBeginTime")
_METRICS = """ActiveTasks RunningTasks PendingTasks SucceededTasks FailedTasks CurrentDedicatedNodes
    CurrentLowPriorityNodes PreemptedNodeCount SampleNodeCount UsableNodeCount TaskSlotsPerNode CPUPercent
    WallClockSeconds MemoryBytes DiskBytes DiskReadBytes DiskWriteBytes DiskReadOps DiskWriteOps NetworkInBytes
    NetworkOutBytes TargetDedicatedNodes TargetLowPriorityNodes"""
VARIABLES = frozenset(f"${name}" for name in _METRICS.split())


def evaluate(
    formula: str, given: Mapping[str, float], samples: Samples, now: datetime | None = None
) -> dict[str, Value]:
    """The variables that a formula assigns. `given` are the service's scalar variables. Raises FormulaError."""
    try:
        return _Evaluation(formula, given, samples, now or datetime.now(timezone.utc)).run()
    except ZeroDivisionError:
        raise FormulaError("division by zero") from None
    except OverflowError:
        raise FormulaError("a number out of range") from None
    except RecursionError:
        raise FormulaError("it is nested too deeply") from None


def check_syntax(formula: str) -> None:
    """Raise FormulaError for what cannot even be read. What depends on numbers shows when it is evaluated."""
    try:
        _Evaluation(formula, dict.fromkeys(VARIABLES, 0.0), _none, datetime.now(timezone.utc), live=False).run()
    except RecursionError:
        raise FormulaError("it is nested too deeply") from None


def _none(variable: str, method: str, arguments: list[Value]) -> Value:
    return 0.0


def results_text(assigned: Mapping[str, Value]) -> str:
    """As `autoScaleRun.results` has it: `$TargetDedicatedNodes=1;$NodeDeallocationOption=requeue`."""
    return ";".join(f"{name}={show(value)}" for name, value in assigned.items())


class _Evaluation:
    """Parses and evaluates in one pass; `live` is off in the branch of a ternary that is not taken."""

    def __init__(
        self, formula: str, given: Mapping[str, float], samples: Samples, now: datetime, live: bool = True
    ) -> None:
        self._tokens = list(_scan(formula))
        self._at = 0
        self._given = given
        self._samples = samples
        self._now = now
        self._assigned: dict[str, Value] = {}
        self._live = live

    def run(self) -> dict[str, Value]:
        statements = 0
        try:
            while self._peek():
                if self._takes(";"):
                    continue
                statements += 1
                if statements > _MOST_STATEMENTS:
                    raise FormulaError(f"it has more than {_MOST_STATEMENTS} statements")
                self._statement()
        except Stop:
            pass
        for alias, name in _ALIASES.items():
            if alias in self._assigned:
                self._assigned.setdefault(name, self._assigned[alias])
        return self._assigned

    def _statement(self) -> None:
        name = self._next()
        if name in FUNCTIONS and self._takes("("):  # as in `stop();`
            self._function(name)
        else:
            if not re.fullmatch(r"\$?[A-Za-z_]\w*", name):
                raise FormulaError(f"{name!r} is no variable")
            self._expect("=")
            self._assigned[name] = self._ternary()
        if self._peek():
            self._expect(";")

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _next(self) -> str:
        token = self._peek()
        if not token:
            raise FormulaError("unexpected end")
        self._at += 1
        return token

    def _takes(self, token: str) -> bool:
        found = self._peek() == token
        self._at += found
        return found

    def _expect(self, token: str) -> None:
        if not self._takes(token):
            raise FormulaError(f"expected {token!r} before {self._peek()!r}")

    def _ternary(self) -> Value:
        condition = self._binary(0)
        if not self._takes("?"):
            return condition if self._live else 0.0
        live = self._live
        holds = live and bool(scalar(condition))
        self._live = live and holds
        yes = self._ternary()
        self._expect(":")
        self._live = live and not holds
        no = self._ternary()
        self._live = live
        return yes if holds else no

    def _binary(self, level: int) -> Value:
        if level == len(_LEVELS):
            return self._unary()
        left = self._binary(level + 1)
        while self._peek() in _LEVELS[level]:
            operator = self._next()
            right = self._binary(level + 1)
            left = apply(operator, left, right) if self._live else 0.0
        return left

    def _unary(self) -> Value:
        if self._takes("-"):
            value = self._unary()
            return negative(value) if self._live else 0.0
        if self._takes("!"):
            value = self._unary()
            return float(not scalar(value)) if self._live else 0.0
        value = self._primary()
        while self._takes("."):  # of a time: `time().hour`
            name = self._next()
            value = member(value, name) if self._live else 0.0
        return value

    def _primary(self) -> Value:
        if self._takes("("):
            value = self._ternary()
            self._expect(")")
            return value
        token = self._next()
        if token[0].isdigit():
            return float(token)
        if token[0] == '"':
            return token[1:-1]
        if token in FUNCTIONS and self._takes("("):
            return self._function(token)
        if token[0] == "$" and self._takes("."):
            return self._method(token)
        return self._variable(token)

    def _arguments(self) -> list[Value]:
        """The arguments of a call, the parenthesis of which is open."""
        if self._takes(")"):
            return []
        found = [self._ternary()]
        while self._takes(","):
            found.append(self._ternary())
        self._expect(")")
        return found

    def _function(self, name: str) -> Value:
        arguments = self._arguments()
        return call(name, arguments, self._now) if self._live else 0.0

    def _method(self, variable: str) -> Value:
        name = self._next()
        if variable not in VARIABLES or name not in METHODS:
            raise FormulaError(f"unknown method {variable}.{name}")
        self._expect("(")
        arguments = self._arguments()
        return self._samples(variable, name, arguments) if self._live else 0.0

    def _variable(self, name: str) -> Value:
        for known in (self._assigned, self._given, INTERVALS):
            if name in known:
                return known[name]
        if name in _OPTIONS:
            return name
        raise FormulaError(f"unknown name {name!r}")


def _scan(formula: str) -> Iterable[str]:
    at = 0
    while at < len(formula):
        match = _TOKEN.match(formula, at)
        if match is None:
            raise FormulaError(f"unexpected {formula[at]!r}")
        at = match.end()
        if match.lastgroup:
            yield match.group()

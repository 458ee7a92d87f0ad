"""Autoscale formulas: assignments, arithmetic, comparison, ternaries, and functions of samples.

https://learn.microsoft.com/azure/batch/batch-automatic-scaling
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from statistics import fmean

Samples = Callable[[str, str, float], "float | list[float]"]  # (variable, method, argument) -> samples
_TOKEN = re.compile(
    r"\s+|//[^\n]*|/\*.*?\*/|(?P<number>\d+(?:\.\d+)?)|(?P<name>\$?[A-Za-z_]\w*)|(?P<op>&&|\|\||[<>=!]=|[-+*/<>!?:;=(),.])",
    re.DOTALL,
)
_INTERVALS = {
    "TimeInterval_Zero": 0.0,
    "TimeInterval_Second": 1.0,
    "TimeInterval_Minute": 60.0,
    "TimeInterval_Hour": 3600.0,
    "TimeInterval_Day": 86400.0,
    "TimeInterval_Week": 604800.0,
}
_FUNCTIONS: dict[str, Callable[[list[float]], float]] = {
    "min": min,
    "max": max,
    "avg": fmean,
    "sum": sum,
    "len": lambda values: float(len(values)),
}
_OPTIONS = ("requeue", "terminate", "taskcompletion", "retaineddata")
_BINARY: tuple[dict[str, Callable[[float, float], float]], ...] = (
    {"||": lambda a, b: float(bool(a) or bool(b))},
    {"&&": lambda a, b: float(bool(a) and bool(b))},
    {
        "<": lambda a, b: float(a < b),
        "<=": lambda a, b: float(a <= b),
        ">": lambda a, b: float(a > b),
        ">=": lambda a, b: float(a >= b),
        "==": lambda a, b: float(a == b),
        "!=": lambda a, b: float(a != b),
    },
    {"+": lambda a, b: a + b, "-": lambda a, b: a - b},
    {"*": lambda a, b: a * b, "/": lambda a, b: a / b},
)


class FormulaError(Exception):
    """The formula is not one, or cannot be evaluated now."""


class NoSamples(FormulaError):
    """Samples are asked for that are not there yet."""


def evaluate(formula: str, given: Mapping[str, float], samples: Samples) -> dict[str, float | list[float] | str]:
    """The variables that a formula assigns. `given` are the service's scalar variables."""
    try:
        return _Evaluation(formula, given, samples).run()
    except ZeroDivisionError:
        raise FormulaError("division by zero") from None


def results_text(assigned: Mapping[str, float | list[float] | str]) -> str:
    """As `autoScaleRun.results` has it: `$TargetDedicatedNodes=1;$NodeDeallocationOption=requeue`."""
    return ";".join(f"{name}={_show(value)}" for name, value in assigned.items())


def _show(value: float | list[float] | str) -> str:
    if isinstance(value, list):
        return "[" + ",".join(map(_show, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else value


class _Evaluation:
    """Parses and evaluates in one pass; `live` is off in the branch of a ternary that is not taken."""

    def __init__(self, formula: str, given: Mapping[str, float], samples: Samples) -> None:
        self._tokens = list(_scan(formula))
        self._at = 0
        self._given = given
        self._samples = samples
        self._assigned: dict[str, float | list[float] | str] = {}
        self._live = True

    def run(self) -> dict[str, float | list[float] | str]:
        while self._peek():
            if self._takes(";"):
                continue
            name = self._next()
            self._expect("=")
            self._assigned[name] = self._ternary()
            if self._peek():
                self._expect(";")
        return self._assigned

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

    def _ternary(self) -> float | list[float] | str:
        condition = self._binary(0)
        if not self._takes("?"):
            return condition
        live, holds = self._live, bool(_scalar(condition))
        self._live = live and holds
        yes = self._ternary()
        self._expect(":")
        self._live = live and not holds
        no = self._ternary()
        self._live = live
        return yes if holds else no

    def _binary(self, level: int) -> float | list[float] | str:
        if level == len(_BINARY):
            return self._unary()
        left = self._binary(level + 1)
        while self._peek() in _BINARY[level]:
            operator = _BINARY[level][self._next()]
            right = self._binary(level + 1)
            left = operator(_scalar(left), _scalar(right)) if self._live else 0.0
        return left

    def _unary(self) -> float | list[float] | str:
        if self._takes("-"):
            return -_scalar(self._unary())
        if self._takes("!"):
            return float(not _scalar(self._unary()))
        if self._takes("("):
            value = self._ternary()
            self._expect(")")
            return value
        token = self._next()
        if token[0].isdigit():
            return float(token)
        if token in _FUNCTIONS and self._takes("("):
            return self._call(token)
        if self._takes("."):
            return self._method(token)
        return self._variable(token)

    def _arguments(self) -> list[float | list[float] | str]:
        found = [self._ternary()]
        while self._takes(","):
            found.append(self._ternary())
        self._expect(")")
        return found

    def _call(self, name: str) -> float:
        values: list[float] = []
        for argument in self._arguments():
            values += argument if isinstance(argument, list) else [_scalar(argument)]
        if not self._live:
            return 0.0
        if not values:
            raise FormulaError(f"{name} of no samples")
        return float(_FUNCTIONS[name](values))

    def _method(self, variable: str) -> float | list[float]:
        name = self._next()
        self._expect("(")
        interval = _scalar(self._arguments()[0])
        return self._samples(variable, name, interval) if self._live else 0.0

    def _variable(self, name: str) -> float | list[float] | str:
        for known in (self._assigned, self._given, _INTERVALS):
            if name in known:
                return known[name]
        if name in _OPTIONS:
            return name
        raise FormulaError(f"unknown name {name!r}")


def _scalar(value: float | list[float] | str) -> float:
    if isinstance(value, float | int):
        return float(value)
    raise FormulaError(f"a number is expected, not {_show(value)}")


def _scan(formula: str) -> Iterable[str]:
    at = 0
    while at < len(formula):
        match = _TOKEN.match(formula, at)
        if match is None:
            raise FormulaError(f"unexpected {formula[at]!r}")
        at = match.end()
        if match.lastgroup:
            yield match.group()

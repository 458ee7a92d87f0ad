"""Values of autoscale formulas: numbers, vectors, intervals, times and text, what can be done with them, and functions.

https://learn.microsoft.com/azure/batch/batch-automatic-scaling
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from batchexec.emulator.clock import parse_time


class FormulaError(Exception):
    """The formula is not one, or cannot be evaluated now."""


class NoSamples(FormulaError):
    """Samples are asked for that are not there yet."""


class Stop(Exception):
    """The formula says that it ends here."""


class Interval(float):
    """A span of time, in seconds."""


Value = float | list[float] | str | datetime
Operation = Callable[[float, float], float]
INTERVALS = {
    f"TimeInterval_{name}": Interval(seconds)
    for name, seconds in {
        "Zero": 0.0,
        "100ns": 1e-7,
        "Microsecond": 1e-6,
        "Millisecond": 1e-3,
        "Second": 1.0,
        "Minute": 60.0,
        "Hour": 3600.0,
        "Day": 86400.0,
        "Week": 604800.0,
        "Year": 365 * 86400.0,
    }.items()
}
ARITHMETIC: dict[str, Operation] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
}
COMPARISONS: dict[str, Operation] = {
    "<": lambda a, b: float(a < b),
    "<=": lambda a, b: float(a <= b),
    ">": lambda a, b: float(a > b),
    ">=": lambda a, b: float(a >= b),
    "==": lambda a, b: float(a == b),
    "!=": lambda a, b: float(a != b),
}
LOGIC: dict[str, Operation] = {
    "||": lambda a, b: float(bool(a) or bool(b)),
    "&&": lambda a, b: float(bool(a) and bool(b)),
}
_MEMBERS: dict[str, Callable[[datetime], int]] = {
    "year": lambda moment: moment.year,
    "month": lambda moment: moment.month,
    "day": lambda moment: moment.day,
    "weekday": lambda moment: moment.isoweekday() % 7,  # 1 for Monday; 0 for Sunday, as .NET counts
    "hour": lambda moment: moment.hour,
    "minute": lambda moment: moment.minute,
    "second": lambda moment: moment.second,
}


def scalar(value: Value) -> float:
    if isinstance(value, float):
        return value
    raise FormulaError(f"a number is expected, not {show(value)}")


def member(value: Value, name: str) -> float:
    """As in `time().hour`."""
    if isinstance(value, datetime) and name in _MEMBERS:
        return float(_MEMBERS[name](value))
    raise FormulaError(f"{show(value)} has no {name!r}")


def apply(name: str, left: Value, right: Value) -> Value:
    """A binary operator. Vectors are taken component by component."""
    if name in LOGIC:
        return LOGIC[name](scalar(left), scalar(right))
    if name in COMPARISONS:
        return _compare(COMPARISONS[name], left, right)
    if isinstance(left, datetime) or isinstance(right, datetime):
        return _shift(name, left, right)
    operation = ARITHMETIC[name]
    if isinstance(left, list) or isinstance(right, list):
        return _by_component(operation, left, right)
    result = operation(scalar(left), scalar(right))
    spans = isinstance(left, Interval) + isinstance(right, Interval)
    return Interval(result) if spans and not (name == "/" and spans == 2) else result


def _compare(operation: Operation, left: Value, right: Value) -> float:
    for kind in (float, str, datetime):
        if isinstance(left, kind) and isinstance(right, kind):
            return operation(left, right)  # type: ignore[arg-type]
    raise FormulaError(f"{show(left)} cannot be compared with {show(right)}")


def _shift(name: str, left: Value, right: Value) -> Value:
    try:
        if isinstance(left, datetime) and isinstance(right, datetime) and name == "-":
            return Interval((left - right).total_seconds())
        if isinstance(left, datetime) and isinstance(right, Interval) and name in "+-":
            return left + timedelta(seconds=right if name == "+" else -right)
        if isinstance(left, Interval) and isinstance(right, datetime) and name == "+":
            return right + timedelta(seconds=left)
    except OverflowError:
        raise FormulaError("a time out of range") from None
    raise FormulaError(f"{name} is not for {show(left)} and {show(right)}")


def _by_component(operation: Operation, left: Value, right: Value) -> list[float]:
    first = left if isinstance(left, list) else [scalar(left)] * (len(right) if isinstance(right, list) else 1)
    second = right if isinstance(right, list) else [scalar(right)] * len(first)
    if len(first) != len(second):
        raise FormulaError("the vectors have different lengths")
    return [operation(a, b) for a, b in zip(first, second, strict=True)]


def negative(value: Value) -> Value:
    if isinstance(value, list):
        return [-item for item in value]
    number = scalar(value)
    return Interval(-number) if isinstance(number, Interval) else -number


def call(name: str, arguments: Sequence[Value], now: datetime) -> Value:
    """A function of the language. Raises FormulaError, and Stop for `stop()`."""
    if name == "stop":
        raise Stop
    if name == "time":
        return _time(arguments, now)
    if name == "rand":
        return random.random()
    if name in _LOGARITHMS:
        (value,) = _exactly(1, arguments)
        found = [_logarithm(name, item) for item in (value if isinstance(value, list) else [scalar(value)])]
        return found if isinstance(value, list) else found[0]
    if name in _OF_VECTOR:
        vector, place = _exactly(2, arguments)
        return _OF_VECTOR[name](vector if isinstance(vector, list) else [scalar(vector)], scalar(place))
    values: list[float] = []
    for argument in arguments:
        values += argument if isinstance(argument, list) else [scalar(argument)]
    if name == "vec":
        return values
    if not values and name != "len":
        raise FormulaError(f"{name} of no samples")
    return float(_FUNCTIONS[name](values))


def _exactly(count: int, arguments: Sequence[Value]) -> Sequence[Value]:
    if len(arguments) != count:
        raise FormulaError(f"{count} arguments are expected")
    return arguments


def _time(arguments: Sequence[Value], now: datetime) -> datetime:
    if not arguments or arguments[0] == "":
        return now
    moment = parse_time(arguments[0]) if isinstance(arguments[0], str) else None
    if moment is None:
        raise FormulaError(f"{show(arguments[0])} is no time")
    return moment


def _logarithm(name: str, value: float) -> float:
    if value <= 0:
        raise FormulaError(f"{name} of {value:g}")
    return _LOGARITHMS[name](value)


def _percentile(values: list[float], percent: float) -> float:
    if not values or not 0 <= percent <= 100:
        raise FormulaError("percentile of no samples, or beyond 0 to 100")
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def _deviation(values: list[float]) -> float:
    """Of a sample; not by the `statistics` module, the import of which takes longer than all of this service's own."""
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / max(1, len(values) - 1))


def _component(values: list[float], place: float) -> float:
    if not 0 <= place < len(values):
        raise FormulaError(f"a vector of {len(values)} has no element {place:g}")
    return values[int(place)]


_LOGARITHMS: dict[str, Callable[[float], float]] = {"lg": math.log2, "ln": math.log, "log": math.log10}
_OF_VECTOR: dict[str, Callable[[list[float], float], float]] = {"percentile": _percentile, "val": _component}
_FUNCTIONS: dict[str, Callable[[list[float]], float]] = {
    "min": min,
    "max": max,
    "avg": lambda values: math.fsum(values) / len(values),
    "sum": math.fsum,
    "len": lambda values: float(len(values)),
    "norm": lambda values: math.hypot(*values),
    "range": lambda values: max(values) - min(values),
    "std": lambda values: _deviation(values),
}
FUNCTIONS = frozenset((*_FUNCTIONS, *_OF_VECTOR, *_LOGARITHMS, "rand", "stop", "time", "vec"))


def show(value: Value) -> str:
    if isinstance(value, list):
        return "[" + ",".join(map(show, value)) + "]"
    if isinstance(value, datetime):
        return value.isoformat()
    return f"{value:.15g}" if isinstance(value, float) else value

"""OData as the Batch service speaks it: $filter, $select, and pages with an absolute odata.nextLink."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from batchexec.emulator.clock import parse_time
from batchexec.emulator.errors import BatchError

T = TypeVar("T")
Getter = Callable[[Any], Any]
Test = Callable[[Any], bool]

_TOKEN = re.compile(
    r"\s*(?:(?P<paren>[()]|,)|DateTime'(?P<date>[^']*)'|'(?P<text>(?:[^']|'')*)'"
    r"|(?P<number>-?[0-9]{1,18})(?![\w/])|(?P<name>[A-Za-z_][\w/]*))"
)
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "gt": lambda a, b: a is not None and a > b,
    "ge": lambda a, b: a is not None and a >= b,
    "lt": lambda a, b: a is not None and a < b,
    "le": lambda a, b: a is not None and a <= b,
}


class Only:
    """A property that can be compared in these ways only: some of `eq`, `ne`, `startswith`."""

    def __init__(self, get: Getter, *operators: str) -> None:
        self._get = get
        self.operators = operators

    def __call__(self, item: Any) -> Any:
        return self._get(item)


@dataclass(frozen=True)
class Filter:
    """A compiled $filter: `test` tells whether an object matches; nothing before `since` can."""

    test: Test
    since: datetime | None = None


def parse_filter(text: str, properties: Mapping[str, Getter]) -> Filter:
    """Compile a $filter over these properties; 400 for what the service would refuse."""
    parser = _Parser(text, properties)
    try:
        test = parser.disjunction()
        parser.end()
    except RecursionError:
        raise parser.refuse("it is nested too deeply") from None
    return Filter(test, parser.since if parser.conjunctive else None)


class _Parser:
    def __init__(self, text: str, properties: Mapping[str, Getter]) -> None:
        self._text = text
        self._properties = properties
        self._tokens = list(self._scan())
        self._at = 0
        self.since: datetime | None = None
        self.conjunctive = True

    def refuse(self, reason: str) -> BatchError:
        return BatchError(
            "InvalidQueryParameterValue",
            QueryParameterName="$filter",
            QueryParameterValue=self._text,
            Reason=reason,
        )

    def _scan(self) -> Iterator[tuple[str, str]]:
        at = 0
        text = self._text.rstrip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None or match.lastgroup is None:
                raise self.refuse(f"unexpected text at {at}")
            yield match.lastgroup, match.group(match.lastgroup)
            at = match.end()

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("end", "")

    def _next(self, kind: str, value: str | None = None) -> str:
        found = self._peek()
        if found[0] != kind or value not in (None, found[1]):
            raise self.refuse(f"expected {value or kind}")
        self._at += 1
        return found[1]

    def _takes(self, kind: str, value: str) -> bool:
        if self._peek() == (kind, value):
            self._at += 1
            return True
        return False

    def end(self) -> None:
        self._next("end")

    def disjunction(self) -> Test:
        tests = [self._conjunction()]
        while self._takes("name", "or"):
            self.conjunctive = False
            tests.append(self._conjunction())
        return tests[0] if len(tests) == 1 else lambda item: any(test(item) for test in tests)

    def _conjunction(self) -> Test:
        tests = [self._comparison()]
        while self._takes("name", "and"):
            tests.append(self._comparison())
        if len(tests) == 2:
            first, second = tests
            return lambda item: first(item) and second(item)
        return tests[0] if len(tests) == 1 else lambda item: all(test(item) for test in tests)

    def _comparison(self) -> Test:
        if self._takes("paren", "("):
            test = self.disjunction()
            self._next("paren", ")")
            return test
        name = self._next("name")
        if name == "startswith":
            return self._startswith()
        get = self._property(name)
        operator = self._next("name")
        compare = _OPERATORS.get(operator)
        if compare is None or (isinstance(get, Only) and operator not in get.operators):
            raise self.refuse(f"operator {operator} is not for {name}")
        value = self._literal()
        if name == "stateTransitionTime" and operator in ("ge", "gt") and isinstance(value, datetime):
            self.since = value

        def compared(item: Any) -> bool:
            found = get(item)
            if type(found) is str:
                found = found.lower()
            if found is not None and type(found) is not type(value):
                raise self.refuse(f"{name} cannot be compared with this value")
            return compare(found, value)

        return compared

    def _startswith(self) -> Test:
        self._next("paren", "(")
        name = self._next("name")
        get = self._property(name)
        if isinstance(get, Only) and "startswith" not in get.operators:
            raise self.refuse(f"startswith is not for {name}")
        self._next("paren", ",")
        prefix = str(self._literal()) if self._peek()[0] == "text" else self._next("text")
        self._next("paren", ")")
        return lambda item: str(_lower(get(item)) or "").startswith(prefix)

    def _property(self, name: str) -> Getter:
        get = self._properties.get(name)
        if get is None:
            raise self.refuse(f"{name} is no property that can be filtered on")
        return get

    def _literal(self) -> object:
        kind, value = self._peek()
        self._at += 1
        if kind == "text":
            return value.replace("''", "'").lower()
        if kind == "number":
            return int(value)
        if kind == "date":
            return self._date(value)
        if kind == "name" and value in ("true", "false"):
            return value == "true"
        raise self.refuse("expected a value")

    def _date(self, text: str) -> datetime:
        moment = parse_time(text)
        if moment is None:
            raise self.refuse("invalid date")
        return moment


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


@dataclass(frozen=True)
class Page(Generic[T]):
    """Part of a list; `after` is where the next page goes on, None at the end."""

    items: list[T]
    after: int | None


def page(items: Iterable[T], test: Test | None, seq: Callable[[T], int], after: int, limit: int) -> Page[T]:
    """The first `limit` matching items behind `after`, in the order of `seq`, in which `items` must come."""
    found: list[T] = []
    for item in items:
        if seq(item) <= after or (test is not None and not test(item)):
            continue
        if len(found) == limit:
            return Page(found, seq(found[-1]) if found else after)
        found.append(item)
    return Page(found, None)


def parse_select(text: str | None) -> frozenset[str] | None:
    return frozenset(part.strip() for part in text.split(",") if part.strip()) if text else None


def max_results(text: str | None, most: int = 1000) -> int:
    """The page size asked for, 1..`most`."""
    if text is None:
        return most
    if not re.fullmatch(r"-?\d{1,9}", text):
        raise BatchError("InvalidQueryParameterValue", QueryParameterName="maxresults", QueryParameterValue=text)
    if not 1 <= int(text) <= most:
        raise BatchError("OutOfRangeQueryParameterValue", QueryParameterName="maxresults", QueryParameterValue=text)
    return int(text)

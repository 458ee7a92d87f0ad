"""Faults: what goes wrong on purpose, for whom, and how often (docs/faults.md).

A fault is armed with a file, or by the control route. Each place where one can strike asks `Faults.take` under the name
of its point, with the facts at hand.
"""

from __future__ import annotations

import importlib
import itertools
import json
import random
import sys
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiohttp import web

    from .latency import Latency

REQUEST, ITEM, LAG, ALLOCATION, COMMAND, NODE = "request", "item", "lag", "allocation", "command", "node"


class BadFault(ValueError):
    """A fault that cannot be armed; the text says why."""


@dataclass(frozen=True)
class Kind:
    """Where faults of a kind strike, and what may be set about them: the default, or None where there is none."""

    point: str
    settings: Mapping[str, Any] = field(default_factory=dict)


_WHEN = "before"  # the fault strikes before or after the request was carried out
KINDS: dict[str, Kind] = {
    "status": Kind(REQUEST, {"status": 503, "code": "", "message": "", "retry_after": None, "html": False}),
    "drop": Kind(REQUEST, {"when": _WHEN}),
    "truncate": Kind(REQUEST, {"bytes": None}),
    "delay": Kind(REQUEST, {"seconds": 1.0}),
    "expired-sas": Kind(REQUEST),
    "short-pages": Kind(REQUEST, {"items": 1, "empty": False}),
    "reorder": Kind(REQUEST),
    "servererror": Kind(ITEM, {"when": _WHEN, "code": "ServerBusy", "message": ""}),
    "lag": Kind(LAG, {"seconds": 5.0}),
    "resize-error": Kind(ALLOCATION, {"code": "AllocationFailed", "message": "", "nodes": 0}),
    "fail": Kind(COMMAND, {"code": "CommandLaunchFailed", "message": "", "category": "usererror"}),
    "exit": Kind(COMMAND, {"exit_code": 1, "stderr": ""}),
    "end": Kind(COMMAND, {"seconds": 0.0}),
    "twice": Kind(COMMAND, {"overlap": False, "seconds": 0.0}),
    "image-pull": Kind(COMMAND, {"message": ""}),
    "no-network": Kind(COMMAND),
    "disk-full": Kind(COMMAND, {"bytes": 65536}),
    "preempt": Kind(NODE, {"seconds": 0.0, "at": None, "back": None}),
    "reboot": Kind(NODE, {"seconds": 0.0, "at": None}),
    "unusable": Kind(NODE, {"seconds": 0.0, "at": None, "code": "NodeUnusable", "message": ""}),
    "offline": Kind(NODE, {"seconds": 0.0, "at": None, "given_up": None, "back": None}),
}
_COMMON: dict[str, Any] = {"kind": "", "match": {}, "probability": 1.0, "count": None, "after": 0, "seed": None}
_WHOLE = ("count", "after", "seed", "items", "nodes", "bytes", "exit_code", "status")
_SECONDS = ("seconds", "retry_after", "at", "given_up", "back")
_PLACES: dict[str, tuple[str, ...]] = {
    REQUEST: ("service", "method", "path", "operation", "header", "pool", "node", "job", "task", "container", "blob"),
    ITEM: ("job", "task"),
    LAG: ("of", "job", "pool"),
    ALLOCATION: ("pool", "dedicated"),
    COMMAND: ("role", "pool", "node", "job", "task"),
    NODE: ("pool", "node", "job", "task"),
}
_EXACT = frozenset(("blob", "container"))  # all other names are case-insensitive in Batch


class Fault:
    """One armed fault. `matched` counts what it could have struck, `fired` what it struck."""

    __slots__ = ("_random", "_settings", "fired", "id", "kind", "matched", "point", "spec")

    def __init__(self, id: int, spec: Mapping[str, Any]) -> None:
        known = _check(spec)
        self.id = id
        self.kind: str = spec["kind"]
        self.point = known.point
        self.spec = {**_COMMON, **spec}
        if self.spec["seed"] is None:
            self.spec["seed"] = random.getrandbits(32)
        self._settings = {**known.settings, **spec}
        self._random = random.Random(self.spec["seed"])
        self.matched = 0
        self.fired = 0

    def __getitem__(self, name: str) -> Any:
        """A setting, as given or by default."""
        return self._settings[name]

    @property
    def timed(self) -> bool:
        """Whether it strikes at a time of the clock, and not when it is asked for."""
        return self._settings.get("at") is not None

    @property
    def random(self) -> random.Random:
        return self._random

    def fits(self, facts: Mapping[str, Any]) -> bool:
        return all(_fits(pattern, facts.get(name), name) for name, pattern in self.spec["match"].items())

    def strikes(self, facts: Mapping[str, Any]) -> bool:
        """Whether it strikes here and now; counts."""
        spec = self.spec
        if (spec["count"] is not None and self.fired >= spec["count"]) or not self.fits(facts):
            return False
        self.matched += 1
        if self.matched <= spec["after"] or self._random.random() >= spec["probability"]:
            return False
        self.fired += 1
        return True

    def error(self) -> dict[str, Any]:
        """An error object of Batch, as the fault words it."""
        message = self["message"] or "The service was told to refuse this."
        return {"code": self["code"], "message": {"lang": "en-US", "value": message}}

    def shown(self) -> dict[str, Any]:
        return {"id": self.id, **self.spec, "matched": self.matched, "fired": self.fired}


class Faults:
    """All that are armed. `active` is False while there are none and no latency: then nobody need ask."""

    def __init__(self, latency: Latency | None = None) -> None:
        self.latency = latency
        self.active = latency is not None
        self._points: dict[str, list[Fault]] = {}
        self._ids = itertools.count(1)

    def arm(self, specs: object, source: str = "") -> list[Fault]:
        """Arm one fault, a list of them, or an object whose `faults` is one. Raises BadFault and then arms none."""
        try:
            armed = [Fault(next(self._ids), spec) for spec in _listed(specs)]
        except BadFault as error:
            raise BadFault(f"{source}: {error}" if source else str(error)) from None
        for fault in armed:
            self._points.setdefault(fault.point, []).append(fault)
        self._look()
        return armed

    def disarm(self, id: int | None = None) -> bool:
        """Drop one fault, or all; False where there is no such fault."""
        before = len(self.all())
        for point, faults in self._points.items():
            self._points[point] = [fault for fault in faults if id is not None and fault.id != id]
        self._look()
        return id is None or len(self.all()) < before

    def all(self) -> list[Fault]:
        return sorted((fault for faults in self._points.values() for fault in faults), key=lambda fault: fault.id)

    def take(self, point: str, **facts: Any) -> Fault | None:
        """The first fault that strikes at this point, if any does."""
        for fault in self._points.get(point, ()):
            if fault.strikes(facts):
                return fault
        return None

    def take_all(self, point: str, facts: Mapping[str, Any], immune: Collection[str] = ()) -> list[Fault]:
        """All that strike at this point, in the order in which they were armed, but those of the kinds `immune`."""
        return [
            fault
            for fault in self._points.get(point, ())
            if fault.kind not in immune and not fault.timed and fault.strikes(facts)
        ]

    def armed_at(self, point: str) -> bool:
        return bool(self._points.get(point))

    def lag(self, of: str, **facts: Any) -> float:
        """Seconds by which a list or count lags behind the truth, now."""
        fault = self.take(LAG, of=of, **facts)
        if fault is not None:
            return float(fault["seconds"])
        return self.latency.lag() if self.latency is not None else 0.0

    def _look(self) -> None:
        self._points = {point: faults for point, faults in self._points.items() if faults}
        self.active = self.latency is not None or bool(self._points)


def around(
    faults: Faults, service: str, handler: Callable[[Any], Awaitable[web.StreamResponse]]
) -> Callable[[Any], Awaitable[web.StreamResponse]]:
    """The handler of `service`, "batch" or "blob", struck by what is armed."""

    async def handle(request: Any) -> web.StreamResponse:
        if not faults.active:
            return await handler(request)
        from .http import serve

        return await serve(faults, service, handler, request)

    return handle


def read(path: Path) -> object:
    """What stands in a file of faults: TOML by its name's end, else JSON. Raises BadFault."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() != ".toml":
            return json.loads(text)
        toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
        found: object = toml.loads(text)
        return found
    except OSError as error:
        raise BadFault(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise BadFault(f"{path}: {error}") from None


def _listed(specs: object) -> list[Mapping[str, Any]]:
    if isinstance(specs, Mapping) and "faults" in specs:
        if len(specs) > 1:
            raise BadFault("beside `faults` nothing else is expected")
        specs = specs["faults"]
    listed = [specs] if isinstance(specs, Mapping) else specs
    if not isinstance(listed, list) or not all(isinstance(spec, Mapping) for spec in listed):
        raise BadFault("a fault, a list of faults, or an object with `faults` is expected")
    return listed


def _check(spec: Mapping[str, Any]) -> Kind:
    kind = KINDS.get(str(spec.get("kind")))
    if kind is None:
        raise BadFault(f"kind {spec.get('kind')!r} is not known; known are {', '.join(KINDS)}")
    what = f"a fault of kind {spec['kind']}"
    names = (*_COMMON, *kind.settings)
    for name in spec:
        if name not in names:
            raise BadFault(f"{what} has no {name!r}; it may have {', '.join(names)}")
    match = spec.get("match", {})
    if not isinstance(match, Mapping):
        raise BadFault(f"{what}: match is an object")
    for name, pattern in match.items():
        if name not in _PLACES[kind.point]:
            raise BadFault(f"{what} cannot match by {name!r}; it can by {', '.join(_PLACES[kind.point])}")
        texts = list(pattern.values()) if name == "header" and isinstance(pattern, Mapping) else [pattern]
        if not all(isinstance(text, str) for text in texts):
            raise BadFault(f"{what}: match.{name} is a pattern" + (" by name" if name == "header" else ""))
    for name, value in spec.items():
        _check_value(what, name, value, kind.settings.get(name, _COMMON.get(name)))
    if spec.get("status") is not None and not 400 <= spec["status"] <= 599:
        raise BadFault(f"{what}: status is one of 400 to 599")
    return kind


def _check_value(what: str, name: str, value: Any, default: Any) -> None:
    """None is good where it is the default; else names tell what is expected."""
    if name in ("kind", "match") or (value is None and default is None):
        return
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0
    if name == "when":
        good, expected = value in ("before", "after"), "'before' or 'after'"
    elif name == "probability":
        good, expected = number and value <= 1, "a number, 0 to 1"
    elif name in _WHOLE:
        good, expected = number and isinstance(value, int), "a whole number, at least 0"
    elif name in _SECONDS:
        good, expected = number, "a number, at least 0"
    elif isinstance(default, bool):
        good, expected = isinstance(value, bool), "true or false"
    else:
        good, expected = isinstance(value, str), "a text"
    if not good:
        raise BadFault(f"{what}: {name} is {expected}")


def _fits(pattern: Any, fact: Any, name: str) -> bool:
    if name == "header":
        headers = fact or {}
        return all(fnmatchcase(headers.get(header, ""), text) for header, text in pattern.items())
    if fact is None:
        return False
    if name in _EXACT:
        return fnmatchcase(fact, pattern)
    return fnmatchcase(str(fact).lower(), pattern.lower())

"""Runs the cases: contenders take turns, so that a drift of the machine's speed meets all of them alike."""

from __future__ import annotations

import contextlib
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterable
from typing import Any

from .cases import CASES, Case, Sizes, warm_up
from .contenders import BATCHEXEC, NAMES, Contender, opened

Report = dict[str, Any]


def measure(repetitions: int, sizes: Sizes, names: Iterable[str], tell: Callable[[str], None]) -> Report:
    """All cases called `names`, each `repetitions` times with each of its contenders."""
    wanted = set(names)
    cases = [case for case in CASES if case.name in wanted]
    before = os.getloadavg()
    with contextlib.ExitStack() as stack:
        warm: dict[str, Contender] = {}
        for name in NAMES:
            if any(case.run and name in case.contenders for case in cases):
                warm[name] = stack.enter_context(opened(name))
                warm_up(warm[name])
        warm_cases = {case.name: _rounds(case, repetitions, sizes, warm, tell) for case in cases if case.run}
    # With the warm executors gone: idle ones are not quite still.
    lone_cases = {case.name: _rounds(case, repetitions, sizes, {}, tell) for case in cases if case.alone}
    return {
        "machine": {
            "cpus": os.cpu_count(),
            "usable_cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "python": platform.python_version(),
            "implementation": platform.python_implementation(),
            "system": f"{platform.system()} {platform.release()}",
            "load_before": before[0],
            "load_after": os.getloadavg()[0],
        },
        "repetitions": repetitions,
        "sizes": dict(sizes.__dict__),
        "contenders": NAMES,
        "cases": {case.name: ({**warm_cases, **lone_cases})[case.name] for case in cases},
    }


def _rounds(
    case: Case, repetitions: int, sizes: Sizes, warm: dict[str, Contender], tell: Callable[[str], None]
) -> Report:
    tell(f"{case.name}: {case.what}")
    rounds: dict[str, list[list[float]]] = {name: [] for name in case.contenders}
    for turn in range(repetitions):
        # Each round begins with another contender: none always follows the same one.
        start = turn % len(case.contenders)
        for name in (*case.contenders[start:], *case.contenders[:start]):
            if case.run is not None:
                rounds[name].append(case.run(warm[name], sizes))
            elif case.alone is not None:
                rounds[name].append(case.alone(name, sizes))
    return {
        "what": case.what,
        "unit": case.per,
        "contenders": {name: _summary(taken) for name, taken in rounds.items()},
        "ratios": {
            name: _ratio(rounds[BATCHEXEC], taken) for name, taken in rounds.items() if name != BATCHEXEC
        },
    }


def _summary(rounds: list[list[float]]) -> Report:
    samples = [sample for taken in rounds for sample in taken]
    return {"median": statistics.median(samples), "least": min(samples), "most": max(samples), "rounds": rounds}


def _ratio(ours: list[list[float]], theirs: list[list[float]]) -> Report:
    """How many times as long ours took: by the medians of all, and round by round."""
    of_medians = _middle(ours) / _middle(theirs)
    by_round = [statistics.median(a) / statistics.median(b) for a, b in zip(ours, theirs, strict=True)]
    return {
        "of_medians": of_medians,
        "paired": statistics.median(by_round),
        "least": min(by_round),
        "most": max(by_round),
    }


def _middle(rounds: list[list[float]]) -> float:
    return statistics.median(sample for taken in rounds for sample in taken)


def to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

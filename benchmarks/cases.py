"""What is measured: each case times one contender once and gives a number of milliseconds."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from . import search
from .contenders import BATCHEXEC, FLOOR, FORKSERVER, LOKY, NOOP, OWN, PROCESSES, Contender, Function, opened
from .errors import WrongResultError

EXECUTORS = (BATCHEXEC, PROCESSES, FORKSERVER)
ALL = (*EXECUTORS, FLOOR)
_COLD_START = Path(__file__).with_name("cold_start.py")
_SCRIPT = Path(__file__).with_name("script.py")
_IDLE_SECONDS = 0.05  # longer than any of the contenders needs to settle down after a result


@dataclass(frozen=True)
class Sizes:
    """How much each case does."""

    chunks: int = 50
    items: int = 1000
    item_chunks: int = 100
    round_trips: int = 20
    search_points: int = 4  # of each of two parameters


QUICK = Sizes(chunks=4, items=20, item_chunks=4, round_trips=2, search_points=1)


@dataclass(frozen=True)
class Case:
    """One row of the table. `run` is for cases on a warm executor, `alone` for those that make their own."""

    name: str
    what: str
    contenders: tuple[str, ...]
    run: Callable[[Contender, Sizes], list[float]] | None = None
    alone: Callable[[str, Sizes], list[float]] | None = None
    per: str = field(default="ms")


def dispatch(contender: Contender, sizes: Sizes) -> list[float]:
    return [_timed(contender.submit_each, NOOP, range(sizes.chunks)) / sizes.chunks]


def dispatch_map(contender: Contender, sizes: Sizes) -> list[float]:
    return [_timed(_in_single_items(contender), NOOP, range(sizes.chunks)) / sizes.chunks]


def dispatch_own(contender: Contender, sizes: Sizes) -> list[float]:
    return [_timed(_in_single_items(contender), OWN, range(sizes.chunks)) / sizes.chunks]


def chunked_map(contender: Contender, sizes: Sizes) -> list[float]:
    size = sizes.items // sizes.item_chunks
    return [_timed(lambda f, numbers: contender.map(f, numbers, size), NOOP, range(sizes.items))]


def round_trip(contender: Contender, sizes: Sizes) -> list[float]:
    times = []
    for number in range(sizes.round_trips):
        time.sleep(_IDLE_SECONDS)  # the case is a call from idle
        times.append(_timed(contender.submit_each, NOOP, range(number, number + 1)))
    return times


def another_executor(name: str, sizes: Sizes) -> list[float]:
    begin = time.perf_counter()
    with opened(name) as contender:
        results = contender.submit_each(NOOP, [1])
        taken = (time.perf_counter() - begin) * 1000
    _check(results, NOOP, range(1, 2))
    return [taken]


def cold_start(name: str, sizes: Sizes) -> list[float]:
    begin = time.perf_counter()
    command = [sys.executable, str(_COLD_START), name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        taken = (time.perf_counter() - begin) * 1000
    if line != "-1\n" or process.returncode:
        raise WrongResultError(f"{name}: {line!r}, exit code {process.returncode}")
    return [taken]


def whole_program(name: str, sizes: Sizes) -> list[float]:
    begin = time.perf_counter()
    subprocess.run([sys.executable, str(_COLD_START), name], check=True, stdout=subprocess.DEVNULL)
    return [(time.perf_counter() - begin) * 1000]


def dispatch_script(name: str, sizes: Sizes) -> list[float]:
    command = [sys.executable, str(_SCRIPT), name, str(sizes.chunks)]
    return [float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)]


def grid_search(name: str, sizes: Sizes) -> list[float]:
    return [search.search(name, sizes.search_points)]


CASES = (
    Case("dispatch", "one-item no-op chunks by submit", ALL, dispatch, per="ms per chunk"),
    Case("dispatch-map", "the same by map(chunksize=1)", ALL, dispatch_map, per="ms per chunk"),
    Case("dispatch-own", "the same with a function of an own module", ALL, dispatch_own, per="ms per chunk"),
    Case("map", "no-op map of 1,000 items in 100 chunks", ALL, chunked_map),
    Case("round-trip", "one no-op from idle", ALL, round_trip),
    Case(
        "dispatch-script",
        "the same as a program: a function of the script itself",
        EXECUTORS,
        alone=dispatch_script,
        per="ms per chunk",
    ),
    Case("another", "a further executor in the same process: to its first result", EXECUTORS, alone=another_executor),
    Case("cold-start", "interpreter start to first result", EXECUTORS, alone=cold_start),
    Case("program", "interpreter start to the end of that program", EXECUTORS, alone=whole_program),
    Case("joblib", "GridSearchCV of an SVM over the digits, by joblib", (BATCHEXEC, LOKY), alone=grid_search),
)


def warm_up(contender: Contender) -> None:
    """Bring up its processes, and load what it loads at first use."""
    for function in (NOOP, OWN):
        contender.submit_each(function, range(4))
        contender.map(function, range(8), 2)


def _in_single_items(contender: Contender) -> Callable[[Function, range], list[int]]:
    return lambda function, numbers: contender.map(function, numbers, 1)


def _timed(run: Callable[[Function, range], list[int]], function: Function, numbers: range) -> float:
    begin = time.perf_counter()
    results = run(function, numbers)
    taken = (time.perf_counter() - begin) * 1000
    _check(results, function, numbers)
    return taken


def _check(results: list[int], function: Function, numbers: range) -> None:
    if results != [function(number) for number in numbers]:
        raise WrongResultError(f"{results!r} for {function.__name__} over {numbers}")

"""The same random calls to the embedded Blob service and to Azurite: what they answer, and what is there then.

BLOB_PARITY_SEED and BLOB_PARITY_EXAMPLES choose others, and more. A difference is shrunk to the shortest sequence that
shows it. Either the embedded server is wrong, or azurite_departures.py says why it is not.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator

import pytest
from azurite_departures import DEPARTURES, Departure, unexplained
from blob_ops import BEGINNING, calls, inspection
from blob_servers import Azurite, Embedded
from blob_sides import Op, Side, differences
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.slow
_EXAMPLES = int(os.environ.get("BLOB_PARITY_EXAMPLES", "250"))
_SEED = int(os.environ.get("BLOB_PARITY_SEED", "3"))
_runs = itertools.count()


class Pair:
    """Both servers, asked the same."""

    def __init__(self, ours: Embedded, theirs: Azurite) -> None:
        self.sides = Side(ours.port, ours.name), Side(theirs.port, theirs.name)

    def begin(self) -> None:
        run = f"r{next(_runs)}-"
        for side in self.sides:
            side.begin(run)
        for op in BEGINNING:
            assert self.do(op) == ({}, True)

    def do(self, op: Op) -> tuple[dict[str, tuple[object, object]], bool]:
        """What differs in the replies to `op`, and whether the same is stored in both now."""
        ours, theirs = (side.do(op) for side in self.sides)
        found: dict[str, tuple[object, object]] = {}
        if len(ours) != len(theirs):
            found["pages"] = len(ours), len(theirs)
        together = True
        for mine, yours in zip(ours, theirs, strict=False):
            left, right = ((seen["status"], seen["code"]) for seen in (mine, yours))
            if left == right:
                found |= differences(mine, yours)
                together = together and "parts" not in found
                continue
            found["status"] = left, right
            together = together and (op.method in ("GET", "HEAD") or (left[0] < 300) == (right[0] < 300))
        return found, together

    def end(self) -> None:
        for side in self.sides:
            for container in ("one", "two"):
                side.do(Op("DELETE", container, "", (("restype", "container"),)))

    def close(self) -> None:
        for side in self.sides:
            side.wire.close()


@pytest.fixture(scope="module")
def pair(embedded: Embedded, azurite: Azurite) -> Iterator[Pair]:
    pair = Pair(embedded, azurite)
    yield pair
    pair.close()


def check(pair: Pair, ops: Iterable[Op]) -> bool:
    """Whether the stored things are still the same in both, after calls that are answered alike."""
    for op in ops:
        found, together = pair.do(op)
        assert not unexplained(op, found), op
        if not together:
            return False
    return True


@pytest.mark.timeout(600)
def test_random_calls_are_answered_alike(pair: Pair) -> None:
    @seed(_SEED)
    @settings(max_examples=_EXAMPLES, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(calls, min_size=1, max_size=30))
    def compare(ops: list[Op]) -> None:
        pair.begin()
        try:
            if check(pair, ops):
                check(pair, inspection(ops))
        finally:
            pair.end()

    compare()


@pytest.mark.parametrize("departure", DEPARTURES, ids=lambda departure: departure.name)
def test_a_known_departure_is_still_one(pair: Pair, departure: Departure) -> None:
    pair.begin()
    try:
        *before, last = departure.shown
        check(pair, before)
        found, _ = pair.do(last)
        shown = [pair for key, pair in found.items() if key.partition("@")[0] == departure.key]
        assert any(departure.explains(last, departure.key, *pair) for pair in shown), found
        assert not unexplained(last, found)
    finally:
        pair.end()

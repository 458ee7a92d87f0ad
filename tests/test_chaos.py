"""Chance against exactness: many faults at once, drawn by a seed (CHAOS_SEED=... repeats one)."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest
from helpers_service import processes_of, service, until
from helpers_work import unsteady

from batchexec import BatchExecutor, errors
from batchexec._engine import health

SEED = int(os.environ.get("CHAOS_SEED") or random.randrange(1 << 32))
SECONDS = 45
CHUNKS = 150  # of each map


def faults(chance: random.Random) -> list[dict[str, object]]:
    """Each with a seed and a probability of its own."""
    requests = [
        {"kind": "status", "status": 429, "match": {"method": "POST"}},
        {"kind": "status", "status": 503, "retry_after": 1},
        {"kind": "status", "status": 500},
        {"kind": "status", "status": 502, "html": True},
        {"kind": "drop"},
        {"kind": "drop", "when": "after"},
        {"kind": "truncate"},
        {"kind": "delay", "seconds": 0.3},
        {"kind": "servererror"},
        {"kind": "servererror", "when": "after"},
        {"kind": "twice"},
        {"kind": "twice", "overlap": True, "seconds": 0.02},
    ]
    always = [
        {"kind": "reorder", "probability": 0.5},
        {"kind": "short-pages", "items": 9, "empty": True, "probability": 0.3},
        {"kind": "lag", "seconds": 2, "probability": 0.7},
    ]
    nodes: list[dict[str, object]] = []
    for second in range(3, SECONDS, 5):
        kind = chance.choice(["preempt", "reboot", "offline"])
        more = {"preempt": {"back": 1}, "reboot": {}, "offline": {"given_up": 0.5, "back": 2}}[kind]
        nodes.append({"kind": kind, "at": second, **more})
    drawn = [{"probability": chance.uniform(0.005, 0.03), **fault} for fault in requests]
    return [{"seed": chance.getrandbits(32), **fault} for fault in (*drawn, *always, *nodes)]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_chaos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    print(f"CHAOS_SEED={SEED}")
    chance = random.Random(SEED)
    monkeypatch.setattr(health, "_EVERY", 2.0)
    with service(root=tmp_path) as account:
        account.pool("chaos", nodes=3, slots=2, spot=True)
        account.arm(*faults(chance))
        begin = time.monotonic()
        with BatchExecutor(**account.settings, pool_id="chaos", retries=2) as executor:
            try:
                rounds = 0
                while time.monotonic() - begin < SECONDS:
                    rounds += 1
                    numbers = [chance.randrange(1000) for _ in range(CHUNKS)]
                    found = executor.map(unsteady, numbers, chunksize=1, timeout=900, return_exceptions=True)
                    for number, outcome in zip(numbers, found, strict=True):
                        check(number, outcome)
            except BaseException:
                executor.terminate_workers()  # leaving must not wait for what failed to come
                raise
            tasks = f"{executor.stats().job_id}/job-1/c"  # in the path of the directory that each works in
        fired = {f"{fault['id']} {fault['kind']}": fault["fired"] for fault in account.faults()}
        print(f"{rounds * CHUNKS} chunks; fired: {fired}")
        account.disarm()
        until(account.jobs, lambda jobs: not jobs)
        until(lambda: processes_of(tasks), lambda found: not found)
    assert rounds > 0
    assert sum(count > 0 for count in fired.values()) > len(fired) / 2


def check(number: int, outcome: object) -> None:
    """What `unsteady` does with a number, and nothing else."""
    if number % 50 == 1:
        assert isinstance(outcome, KeyError), (number, outcome)
    elif number % 50 == 2:
        assert isinstance(outcome, errors.WorkerCrashedError), (number, outcome)
    else:
        assert outcome == 2 * number, (number, outcome)

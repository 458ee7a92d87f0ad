"""The temporary directory of an emulator that was killed goes with the next one; others are left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from batch_service import Service, emulator


def test_the_next_emulator_removes_what_a_killed_one_left_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    foreign = tmp_path / "batchexec-emulator-without-a-lock"
    foreign.mkdir()
    with emulator(None) as (living, _):
        living.pool()
        (in_use,) = set(tmp_path.iterdir()) - {outside, foreign}
        with emulator(None) as (service, process):
            service.pool()
            (left,) = set(tmp_path.iterdir()) - {outside, foreign, in_use}
            (left / "way out").symlink_to(outside)
            process.kill()
            process.wait()
        with emulator(None) as (service, _):
            service.pool()
            Service.until(left.exists, lambda there: not there)
            living.pool()
    assert sorted(tmp_path.iterdir()) == sorted([outside, foreign])
    assert (outside / "file").exists()

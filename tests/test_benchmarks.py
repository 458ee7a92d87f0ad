"""The benchmarks run to their end and report every case, contender and ratio; no time is judged here."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
CONTENDERS = {"batchexec", "processes", "forkserver", "floor"}
OF_JOBLIB = {"batchexec", "loky"}
WARM = {"dispatch", "dispatch-map", "dispatch-own", "map", "round-trip"}
ALONE = {"dispatch-script", "another", "cold-start", "program"}


pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # whole runs of it, each with interpreters of its own


def benchmark(file: Path, *arguments: str) -> tuple[str, dict[str, Any]]:
    """What `python -m benchmarks` prints and what it writes."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments, "--quick", "--json", str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout, json.loads(file.read_text())


def test_a_run_of_all_cases_is_told_whole(tmp_path: Path) -> None:
    """One test: such a run takes its time."""
    text, report = benchmark(tmp_path / "report.json")
    assert set(report["cases"]) == WARM | ALONE | {"joblib"}
    for name, case in report["cases"].items():
        _meets_its_contenders(name, case)
        _tells_plausible_times(case)
    assert report["repetitions"] == 1
    assert report["machine"]["python"] == platform.python_version()
    assert report["machine"]["cpus"] >= report["machine"]["usable_cpus"] >= 1
    assert report["machine"]["load_before"] >= 0
    for name in (*WARM, *ALONE, "joblib", *CONTENDERS, *OF_JOBLIB):
        assert name in text


def _meets_its_contenders(name: str, case: dict[str, Any]) -> None:
    expected = CONTENDERS if name in WARM else CONTENDERS - {"floor"}
    if name == "joblib":
        expected = OF_JOBLIB
    assert set(case["contenders"]) == expected
    assert set(case["ratios"]) == expected - {"batchexec"}


def _tells_plausible_times(case: dict[str, Any]) -> None:
    """Each is positive, and each ratio is that of the medians."""
    times = case["contenders"]
    for taken in times.values():
        assert 0 < taken["least"] <= taken["median"] <= taken["most"]
    for name, ratio in case["ratios"].items():
        assert ratio["of_medians"] == pytest.approx(times["batchexec"]["median"] / times[name]["median"])


def test_only_the_cases_asked_for_are_run(tmp_path: Path) -> None:
    _, report = benchmark(tmp_path / "one.json", "--case", "cold-start")
    assert set(report["cases"]) == {"cold-start"}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="CPU times of other processes are read from /proc")
def test_the_profile_says_where_the_time_of_a_chunk_goes(tmp_path: Path) -> None:
    text, report = benchmark(tmp_path / "profile.json", "profile")
    taken = report["ms_per_chunk"]
    assert set(taken) == {"wall", "client", "service", "fork_server", "tasks"}
    assert taken["wall"] > 0
    assert taken["client"] > 0
    assert all(value >= 0 for value in taken.values())
    for part in taken:
        assert part in text


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="memory and CPU times are read from /proc")
def test_the_control_plane_takes_and_completes_every_task(tmp_path: Path) -> None:
    text, report = benchmark(tmp_path / "control-plane.json", "control-plane")
    assert set(report["loads"]) == {"inline", "inline with --data-dir", "process"}
    for name, load in report["loads"].items():
        assert name in text
        for phase in ("accepted", "completed"):
            assert phase in text
            assert load[phase]["per_second"] > 0
            assert load[phase]["rss_mb"] > 10
    assert report["loads"]["inline with --data-dir"]["restart_seconds"] > 0


def test_each_content_of_files_moves_once(tmp_path: Path) -> None:
    text, report = benchmark(tmp_path / "files.json", "files")
    counted = report["counted"]
    for what in ("contents to storage", "contents to the node"):
        assert counted[what]["bytes"] == report["distinct_bytes"]
        assert what in text
    assert counted["contents to storage"]["requests"] == 1
    assert counted["contents to the node"]["requests"] < report["files"]
    assert report["seconds"] > 0

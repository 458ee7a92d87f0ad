"""The executor's own suite on services as they run for other people: see tests/places.py."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from places import PLACES

SUITE = Path(__file__).parent / "conformance"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", PLACES)
def test_the_executors_suite_passes(name: str) -> None:
    options = ["--place", name, "-k", "not threads", "-q", "-s", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", SUITE, *options]
    done = subprocess.run(command, cwd=SUITE.parents[1], env={**os.environ}, capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    disturbed = re.search(rf"{name}: disturbed (\d+) times", done.stdout)
    assert disturbed, done.stdout
    assert (int(disturbed[1]) > 5) is (name == "restarted")

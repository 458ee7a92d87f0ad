"""Clients that are not ours, each in an environment of its own, with the local service."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from helpers_service import scrubbed

from batchexec.testing import local_azure

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parents[1] / ".venvs"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def environment(name: str) -> Path:
    """The programs of an environment, which the slow tests' make target installs."""
    if not (ENVIRONMENTS / name / ".installed").exists():
        assert not os.environ.get("CI"), f"{name} is missing"
        pytest.skip(f"{name} is missing: `make tools` installs it")
    return ENVIRONMENTS / name / "bin"


def test_az_batch_has_a_whole_session() -> None:
    programs = environment("az")
    with local_azure() as azure:
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        env = scrubbed(**azure.environment, PATH=path)
        done = subprocess.run([HERE / "az_session.sh"], env=env, capture_output=True, text=True)
    assert done.stdout.endswith("az session: all as expected\n"), done.stdout + done.stderr


def test_the_previous_sdk_has_a_whole_session_over_tls() -> None:
    programs = environment("legacy")
    with local_azure("--tls") as azure:
        env = scrubbed(**azure.environment)
        command = [programs / "python", HERE / "legacy_session.py"]
        done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.stdout == "legacy session: all as expected\n", done.stdout + done.stderr

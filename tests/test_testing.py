"""The fixtures for other projects: used by a project of another's, as pytest runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from helpers_service import scrubbed

CONFTEST = 'pytest_plugins = ["batchexec.testing"]\n'
TESTS = """
import os

from azure.batch import models

from batchexec import BatchExecutor


def test_clients_see_an_account(azure_batch):
    with azure_batch.batch_client() as batch, azure_batch.blob_service_client() as blobs:
        assert list(batch.list_pools()) == []
        assert blobs.create_container("mine").exists()


def test_what_reads_the_environment_finds_it(azure_batch_environment):
    assert os.environ["AZURE_BATCH_ENDPOINT"] == azure_batch_environment.ready["batch_endpoint"]
    with BatchExecutor(echo=False, python=os.environ["THIS_PYTHON"]) as executor:
        assert executor.submit(pow, 2, 5).result() == 32
        assert executor.where == "azure"


def test_it_is_the_session_s_and_the_environment_the_test_s(azure_batch):
    with azure_batch.blob_service_client() as blobs:
        assert "mine" in [container.name for container in blobs.list_containers()]
    assert "AZURE_BATCH_ENDPOINT" not in os.environ
"""
RUNS = """
from batchexec.testing import local_azure

with local_azure("--job-quota", "1") as azure:
    print(azure.process.pid == azure.ready["pid"], azure.process.poll())
print(azure.process.poll())
try:
    with local_azure("--no-such-option"):
        pass
except RuntimeError as error:
    print(error)
"""


def run(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = scrubbed(THIS_PYTHON=sys.executable)
    return subprocess.run([sys.executable, *words], cwd=directory, env=env, capture_output=True, text=True)


def test_a_project_s_tests_use_the_fixtures(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_project.py").write_text(TESTS)
    done = run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error")
    assert "3 passed" in done.stdout, done.stdout + done.stderr


def test_the_context_manager_takes_options_and_says_when_they_are_wrong(tmp_path: Path) -> None:
    (tmp_path / "use.py").write_text(RUNS)
    done = run(tmp_path, "use.py")
    assert done.stdout.splitlines() == ["True None", "0", "the emulator ended with code 2 before it was ready"]
    assert "--no-such-option" in done.stderr

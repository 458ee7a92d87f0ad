"""On a bare node, user modules that import batchexec find its face in the worker's zip."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from batchexec._engine import workerzip


@pytest.fixture(scope="module")
def zipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("worker") / "worker.pyz"
    path.write_bytes(workerzip.build()[1])
    return path


def bare(zipped: Path, code: str) -> str:
    """What an interpreter prints that has the standard library and the zip, nothing else."""
    script = f"import sys\nsys.path.append({str(zipped)!r})\n{code}"
    command = [sys.executable, "-I", "-S", "-c", script]
    done = subprocess.run(command, cwd=zipped.parent, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_public_names_can_be_imported_from_the_zip_alone(zipped: Path) -> None:
    code = (
        "from batchexec import BatchConfig, BatchExecutor, BatchFuture, errors\n"
        "for name, module in sys.modules.items():\n"
        "    if name.partition('.')[0] == 'batchexec': print(module.__file__)"
    )
    files = bare(zipped, code).splitlines()
    assert len(files) > 4
    assert [file for file in files if not Path(file).is_relative_to(zipped)] == []


def test_a_config_works_from_the_zip_alone(zipped: Path) -> None:
    code = "from batchexec import BatchConfig\nprint(BatchConfig(vm_size='Standard_D8s_v5').slots_per_node)"
    assert bare(zipped, code) == "8\n"


def test_the_rest_of_the_client_is_not_in_the_zip(zipped: Path) -> None:
    code = (
        "import importlib.util\n"
        "print([room for room in ('_azure', '_cli', '_engine', '_source', 'emulator')"
        " if importlib.util.find_spec('batchexec.' + room)])"
    )
    assert bare(zipped, code) == "[]\n"

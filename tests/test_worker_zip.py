"""On a bare node, user modules that import batchexec find its face in the worker's zip."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from batchexec._engine.sending import workerzip


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


def test_a_task_finds_what_it_imports_late_when_the_archive_has_gone_with_its_job(tmp_path: Path) -> None:
    archive = tmp_path / "worker.pyz"
    archive.write_bytes(workerzip.build()[1])
    code = (
        "import importlib, os, batchexec._worker.forked\n"  # as a fork server does, which stays
        f"os.unlink({str(archive)!r})\n"
        "import batchexec._worker.files.placing\n"
        "importlib.invalidate_caches()\n"
        "import batchexec._worker.programs.program, batchexec._settings.sizes\n"
        "print(batchexec._worker.files.placing.NodeFiles.__name__)"
    )
    assert bare(archive, code) == "NodeFiles\n"


@pytest.mark.parametrize("magic", ["", "importlib.util.MAGIC_NUMBER = b'none'"], ids=["byte code", "source"])
def test_what_a_task_imports_late_is_there_when_the_zip_is_gone(zipped: Path, tmp_path: Path, magic: str) -> None:
    """A fork server serves later jobs too, and its zip goes with the job that brought it."""
    copy = tmp_path / "worker.pyz"
    copy.write_bytes(zipped.read_bytes())
    code = (
        "import importlib.util, os\n"
        "from batchexec._worker import kept_archive\n"
        f"{magic}\n"
        "kept_archive.keep('batchexec', kept_archive.__loader__)\n"
        "os.unlink(sys.path[-1])\n"
        "import batchexec._worker.logs, batchexec._wire.seeds\n"
        "print(batchexec._worker.logs.tail(sys.argv[0]))\n"
        "print([importlib.util.find_spec(name) for name in ('batchexec.nothing', 'batchexec._engine')])\n"
        "from batchexec._worker import nothing"
    )
    command = [sys.executable, "-I", "-S", "-c", f"import sys\nsys.path.append({str(copy)!r})\n{code}"]
    done = subprocess.run(command, cwd=zipped.parent, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["b''", "[None, None]"], done.stderr
    assert done.stderr.splitlines()[-1].startswith("ImportError: cannot import name 'nothing'")

"""Packages on a node whose interpreter is one of a virtual environment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from helpers_packages import installed_as, use_large
from helpers_venv import Interpreter
from helpers_wheels import installed, options, wheel

from batchexec import BatchExecutor

pytestmark = pytest.mark.slow  # 6 s of pip


def only_in_base() -> str:
    """A distribution of the interpreter that virtual environments are made from: it has pip at least."""
    script = "import importlib.metadata as m; print(*{one.metadata['Name'] for one in m.distributions()})"
    base = Path(sys.base_prefix, "bin", f"python{sys.version_info[0]}.{sys.version_info[1]}")
    found = subprocess.run([base, "-I", "-c", script], capture_output=True, text=True, check=True).stdout.split()
    return min(set(found) - {"pip"}, default="pip")


def test_what_only_its_base_has_is_installed_and_wheels_go_before_what_it_has(tmp_path: Path) -> None:
    worker = Interpreter(tmp_path / "venv")
    installed(worker.site_packages, wheel(tmp_path / "old", "mine", "1.0"))
    installed(worker.site_packages, wheel(tmp_path / "old", "under-work", "0.1"))
    under_work = wheel(tmp_path / "new", "under-work", "0.1", {"under_work.py": "VERSION = 'the newest'\n"})
    extra = "Provides-Extra: plot\nRequires-Dist: second; extra == 'plot'\n"
    mine = wheel(tmp_path / "mine", "mine", "1.1", metadata=extra)
    base = only_in_base()
    wheel(tmp_path / "links", "second", "3.0")
    wheel(tmp_path / "links", base, "77.0")
    with BatchExecutor(
        max_workers=1,
        python=worker.python,
        requirements=[base, f"{mine}[plot]", str(under_work)],
        pip_options=options(tmp_path / "links"),
        echo=False,
    ) as executor:
        found = executor.submit(installed_as, base, "mine", "second", "under-work").result()
        assert executor.submit(use_large, "under_work").result() == "the newest"
    new = {base: "77.0", "mine": "1.1", "second": "3.0", "under-work": "0.1"}
    assert found == {name: (version, True) for name, version in new.items()}

"""Interpreters without batchexec and without the user's packages, for workers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pip
from helpers_wheels import installed


class Interpreter:
    """An empty virtual environment."""

    def __init__(self, folder: Path, base: str = sys.executable) -> None:
        subprocess.run([base, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
        self.python = str(folder / "bin" / "python")
        (self.site_packages,) = folder.glob("lib/python*/site-packages")

    def fails_to_import(self, module: str) -> bool:
        found = subprocess.run([self.python, "-I", "-c", f"import {module}"], capture_output=True, text=True)
        return f"No module named '{module}'" in found.stderr


def interpreter(folder: Path, *packages: Path, with_pip: bool = True) -> str:
    """Its path, with these wheels installed: one of its own for each test, so that no environment of another fits."""
    made = Interpreter(folder)
    if with_pip:
        (made.site_packages / "pip").symlink_to(Path(str(pip.__file__)).parent)
    for package in packages:
        installed(made.site_packages, package)
    return made.python

"""Runs smoke.py in every other Python minor found here, each with batchexec installed as users install it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 10)


def candidates() -> list[Path]:
    """Interpreters on the path and in pyenv; the newest of a minor last."""
    found = []
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        found += [path for path in Path(folder or ".").glob("python3.*") if re.fullmatch(r"python3\.\d+", path.name)]
    pyenv = shutil.which("pyenv")
    if pyenv:
        root = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=True).stdout.strip()
        found += sorted(Path(root, "versions").glob("*/bin/python3"), key=_numbers)
    return found


def _numbers(path: Path) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", path.parent.parent.name)]


def minor(python: Path) -> tuple[int, int] | None:
    """Its version; None for what is no working CPython (such as a pyenv shim of a version that is not chosen)."""
    code = "import sys; print(sys.implementation.name, *sys.version_info[:2])"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd="/", check=False)
    name, _, version = done.stdout.strip().partition(" ")
    if done.returncode != 0 or name != "cpython":
        return None
    major, least = version.split()
    return int(major), int(least)


def smoke(python: Path, version: tuple[int, int]) -> None:
    place = ROOT / ".venvs" / f"smoke-{version[0]}.{version[1]}"
    inner = place / "bin" / "python"
    if not inner.exists():
        shutil.rmtree(place, ignore_errors=True)
        subprocess.run([python, "-m", "venv", place], check=True)
    pip = [inner, "-m", "pip", "-qq", "--disable-pip-version-check", "install"]
    with tempfile.TemporaryDirectory() as elsewhere:
        source = Path(elsewhere, "source")  # building leaves traces
        for folder in ("batchexec", "worker_image"):
            shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md", "LICENSE", "Dockerfile"):
            shutil.copy(ROOT / name, source)
        subprocess.run([*pip, source], check=True)
        # As strict as a user's own tests may be: no warning may come from within.
        strict = [inner, "-I", "-W", "error", ROOT / "tests" / "smoke.py"]
        subprocess.run(strict, check=True, cwd=elsewhere, timeout=600)


def main() -> int:
    pythons: dict[tuple[int, int], Path] = {}
    for python in candidates():
        version = minor(python)
        if version and version >= OLDEST and version != sys.version_info[:2]:
            pythons[version] = python
    if not pythons:
        print("no other Python found: nothing more to try")
    failed = []
    for version, python in sorted(pythons.items()):
        started = time.monotonic()
        name = ".".join(map(str, version))
        print(f"Python {name} ({python})", flush=True)
        try:
            smoke(python, version)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            failed.append(name)
            print(f"Python {name}: {error}", file=sys.stderr)
        print(f"Python {name}: {time.monotonic() - started:.0f} s", flush=True)
    if failed:
        print(f"failed in Python {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

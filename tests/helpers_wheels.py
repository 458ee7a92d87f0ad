"""Tiny packages for tests: wheels made here, and the directories that installers look into."""

from __future__ import annotations

import base64
import contextlib
import csv
import hashlib
import importlib
import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path


def wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    files: Mapping[str, str] | None = None,
    requires: Iterable[str] = (),
    *,
    tag: str = "py3-none-any",
    metadata: str = "",
    scripts: Mapping[str, str] | None = None,
) -> Path:
    """Put a wheel into `folder`. `files`: text by path; by default one module, of the package's name, which knows its
    version. `metadata`: further lines of METADATA. `scripts`: console scripts, as "module:function" by their names."""
    stem = f"{name.replace('-', '_')}-{version}"
    module = name.replace("-", "_")
    content = dict(files or {f"{module}.py": f"VERSION = {version!r}\n"})
    head = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + metadata
    about = f"{stem}.dist-info"
    content[f"{about}/METADATA"] = head + "".join(f"Requires-Dist: {line}\n" for line in requires)
    pure = "true" if tag.endswith("-none-any") else "false"
    content[f"{about}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: {pure}\nTag: {tag}\n"
    if scripts:
        lines = "".join(f"{script} = {target}\n" for script, target in scripts.items())
        content[f"{about}/entry_points.txt"] = f"[console_scripts]\n{lines}"
    record = io.StringIO()
    writer = csv.writer(record, lineterminator="\n")
    for path, text in content.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        writer.writerow([path, f"sha256={digest}", len(text.encode())])
    writer.writerow([f"{about}/RECORD", "", ""])
    content[f"{about}/RECORD"] = record.getvalue()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{stem}-{tag}.whl"
    with zipfile.ZipFile(target, "w") as archive:
        for path, text in content.items():
            archive.writestr(path, text)
    return target


def large_wheel(folder: Path, name: str, megabytes: int) -> None:
    """Put a wheel of noise into `folder`, which does not shrink."""
    noise = os.urandom(megabytes << 19).hex()
    wheel(folder, name, files={f"{name}.py": "VERSION = '1.0'\n", f"{name}_noise.txt": noise})


def installed(site_packages: Path, made: Path, **origin: str) -> None:
    """Unpack a wheel as an installer does; `origin` are further files of its .dist-info, such as INSTALLER."""
    with zipfile.ZipFile(made) as archive:
        archive.extractall(site_packages)
        (about,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
    for name, text in origin.items():
        path = site_packages / about / name.replace("direct_url", "direct_url.json")
        path.write_text(text)
        with (site_packages / about / "RECORD").open("a") as record:
            record.write(f"{about}/{path.name},,\n")


def options(folder: Path) -> list[str]:
    """What has an installer find wheels in `folder`, and look nowhere else."""
    return ["--no-index", "--find-links", str(folder)]


@contextlib.contextmanager
def on_path(folder: Path) -> Iterator[None]:
    """Have the directory on sys.path in the block. What was imported from it goes again."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]


_BACKEND = """
import glob, os, zipfile
def build_wheel(folder, config_settings=None, metadata_directory=None):
    stem = {stem!r}
    metadata = "Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\nRequires-Dist: batchexec\\n"
    with zipfile.ZipFile(os.path.join(folder, stem + "-py3-none-any.whl"), "w") as archive:
        for path in glob.glob("**/*.py", recursive=True):
            if path != "backend_of_it.py":
                archive.write(path)
        archive.writestr(stem + ".dist-info/METADATA", metadata)
        archive.writestr(stem + ".dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        archive.writestr(stem + ".dist-info/RECORD", "")
    return stem + "-py3-none-any.whl"
"""


def project(folder: Path, name: str, version: str = "1.0", files: Mapping[str, str] | None = None) -> Path:
    """A project that requires batchexec, with a build backend of its own, which needs no network. `files` as for
    `wheel`."""
    stem = f"{name.replace('-', '_')}-{version}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend_of_it"\nbackend-path = ["."]\n'
        f'[project]\nname = "{name}"\nversion = "{version}"\n'
    )
    (folder / "backend_of_it.py").write_text(_BACKEND.format(stem=stem, name=name, version=version))
    for path, text in (files or {f"{name.replace('-', '_')}.py": f"VERSION = {version!r}\n"}).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def pip(*words: str, python: str = sys.executable) -> None:
    """Run pip, which must do as it is told."""
    done = subprocess.run(
        [python, "-m", "pip", "--quiet", "--disable-pip-version-check", *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr

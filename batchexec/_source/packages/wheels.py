"""Wheels made here: of installed distributions that no index has, of local projects, and pip's own."""

from __future__ import annotations

import base64
import csv
import functools
import glob
import hashlib
import importlib
import importlib.util
import io
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import Version

from batchexec._logins import masked
from batchexec._source.packages.distributions import Installed, find
from batchexec.errors import RequirementsError

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip archive can tell
_BUILD_SECONDS = 600
_NOT_REPACKED = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
_COMPILED_ADVICE = (
    "it has compiled code, so what is installed here may not run on a node: publish a manylinux wheel of it on an "
    "index that nodes reach (pip_options=), give the path of one in requirements=, or use an image that has it"
)


class Wheel:
    """A wheel: file name as an installer reads it, and its bytes, the same for the same content."""

    def __init__(self, file_name: str, data: bytes) -> None:
        self.file_name = file_name
        self.data = data
        self.name = str(parse_wheel_filename(file_name)[0])


def repacked(one: Installed) -> Wheel:
    """The wheel that this pure distribution was installed from, remade from its files."""
    if one.compiled:
        raise RequirementsError(f"{one.title} {one.version} {_came_from(one)}, and {_COMPILED_ADVICE}")
    if not one.files:
        raise RequirementsError(
            f"{one.title} {one.version} {_came_from(one)}, and keeps no list of its files to make a wheel from: "
            "install it again by pip, or use an image that has it"
        )
    stem = f"{re.sub(r'[-_.]+', '_', one.name)}-{one.version}"
    entries: dict[str, bytes] = {}
    for file in one.files:
        name = str(file).replace("\\", "/")
        if name.endswith(".pyc") or (".dist-info/" in name and name.rpartition("/")[2] in _NOT_REPACKED):
            continue
        try:
            content = Path(one.located(file)).read_bytes()
        except OSError as error:
            raise RequirementsError(
                f"{one.title} {one.version} {_came_from(one)}; of its files {name} cannot be read "
                f"({error.strerror or error}): install it again"
            ) from error
        target = _in_wheel(name, stem, one)
        if target is not None:
            entries[target] = _plain_script(content) if "/scripts/" in target else content
    tags = [line.split(":", 1)[1].strip() for line in (one.text("WHEEL") or "").splitlines() if line.startswith("Tag:")]
    pythons = sorted({tag.split("-")[0] for tag in tags}) or ["py3"]
    return Wheel(f"{stem}-{'.'.join(pythons)}-none-any.whl", _archived(entries, f"{stem}.dist-info"))


def built(path: str) -> Wheel:
    """The wheel of a project's directory or archive on this disk: as it is, or built by the project's own backend."""
    if path.endswith(".whl"):
        return _given(path)
    if os.path.isdir(path) and not any(os.path.exists(os.path.join(path, n)) for n in ("pyproject.toml", "setup.py")):
        raise RequirementsError(f"{path} has neither pyproject.toml nor setup.py: it is no project to build a wheel of")
    with tempfile.TemporaryDirectory(prefix="batchexec-wheel-") as scratch:
        attempts = [_build(path, scratch, isolated) for isolated in ([False, True] if _backend_here(path) else [True])]
        made = glob.glob(os.path.join(scratch, "*.whl"))
        if not made:
            raise RequirementsError(f"a wheel of {path} cannot be built:\n{attempts[-1]}")
        wheel = _reread(made[0])
    if not wheel.file_name.endswith("-none-any.whl"):
        raise RequirementsError(f"{path}: {_COMPILED_ADVICE}")
    return wheel


@functools.cache
def installer() -> dict[str, bytes]:
    """A wheel of pip, by file name, for nodes whose interpreter has no installer; empty when there is none here."""
    ensurepip = importlib.util.find_spec("ensurepip")
    places = [os.path.join(os.path.dirname(ensurepip.origin), "_bundled")] if ensurepip and ensurepip.origin else []
    for place in [*places, "/usr/share/python-wheels"]:
        for path in sorted(glob.glob(os.path.join(place, "pip-*.whl"))):
            return {os.path.basename(path): Path(path).read_bytes()}
    pip = find("pip")
    if pip is None or not pip.files:
        return {}
    wheel = repacked(pip)
    return {wheel.file_name: wheel.data}


def _given(path: str) -> Wheel:
    name = os.path.basename(path)
    try:
        tags = parse_wheel_filename(name)[3]
        data = Path(path).read_bytes()
    except InvalidWheelFilename as error:
        raise RequirementsError(f"{path}: {error}") from error
    except OSError as error:
        raise RequirementsError(f"cannot read {path}: {error.strerror or error}") from error
    if not any(tag.platform == "any" or "linux" in tag.platform for tag in tags):
        systems = ", ".join(sorted({tag.platform for tag in tags}))
        raise RequirementsError(f"{path} is for {systems}, nodes are Linux: give the wheel for manylinux")
    return Wheel(name, data)


def _came_from(one: Installed) -> str:
    origin = one.origin
    url = masked(str(origin.get("url", "")))
    if "vcs_info" in origin:
        return f"was installed from {origin['vcs_info'].get('vcs', 'a repository')} ({url})"
    return f"was installed from {one.directory or url}" if origin else "is on no index"


def _in_wheel(name: str, stem: str, one: Installed) -> str | None:
    """Where an installed file stands in a wheel; None for what installing makes anew."""
    if ".dist-info/" in name:
        return f"{stem}.dist-info/{name.partition('.dist-info/')[2]}"
    if not name.startswith("../"):
        return name
    relative = re.sub(r"^(\.\./)+", "", name)
    folder, _, rest = relative.partition("/")
    if folder in ("bin", "Scripts"):
        script = rest.removesuffix(".exe")
        made = {line.partition("=")[0].strip() for line in (one.text("entry_points.txt") or "").splitlines()}
        return None if script in made else f"{stem}.data/scripts/{rest}"
    return None if folder == "include" else f"{stem}.data/data/{relative}"


def _plain_script(content: bytes) -> bytes:
    """With the first line that an installer replaces by the interpreter's path."""
    return re.sub(rb"\A#!.*python[^\r\n]*", b"#!python", content)


def _archived(entries: dict[str, bytes], metadata: str) -> bytes:
    """A wheel's bytes, with a RECORD of its own. A worker brings batchexec itself, so it is not required."""
    about = entries[f"{metadata}/METADATA"]
    entries[f"{metadata}/METADATA"] = re.sub(rb"(?m)^Requires-Dist:\s*batchexec\b(?![.\w-]).*\n", b"", about)
    record = io.StringIO()
    writer = csv.writer(record, lineterminator="\n")
    for name in sorted(entries):
        digest = base64.urlsafe_b64encode(hashlib.sha256(entries[name]).digest()).rstrip(b"=").decode()
        writer.writerow([name, f"sha256={digest}", len(entries[name])])
    writer.writerow([f"{metadata}/RECORD", "", ""])
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in [*sorted(entries.items()), (f"{metadata}/RECORD", record.getvalue().encode())]:
            info = zipfile.ZipInfo(name, _EPOCH)
            info.create_system = 3  # Unix, wherever this runs: part of the bytes
            info.external_attr = (0o100755 if ".data/scripts/" in name else 0o100644) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content, compresslevel=6)
    return out.getvalue()


def _reread(path: str) -> Wheel:
    """A wheel that was just built, without the times of its files."""
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist() if not info.is_dir()}
    (metadata,) = {name.partition("/")[0] for name in entries if re.match(r"[^/]+\.dist-info/METADATA$", name)}
    entries = {name: data for name, data in entries.items() if name != f"{metadata}/RECORD"}
    return Wheel(os.path.basename(path), _archived(entries, metadata))


def _backend_here(path: str) -> bool:
    """Whether this interpreter has what builds the project, so that nothing needs to be downloaded."""
    if not os.path.isdir(path):
        return False
    needed = _build_requires(path)
    setuptools = find("setuptools")
    makes_wheels = setuptools is not None and Version(setuptools.version) >= Version("70.1")
    if not makes_wheels and any(requirement.name == "setuptools" for requirement in needed):
        needed.append(Requirement("wheel"))
    for requirement in needed:
        one = find(requirement.name)
        fits = one is not None and requirement.specifier.contains(one.version, prereleases=True)
        if not fits and not (requirement.name == "wheel" and makes_wheels):
            return False
    return True


def _build_requires(directory: str) -> list[Requirement]:
    """What a project's build backend needs (PEP 518)."""
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        with open(os.path.join(directory, "pyproject.toml"), "rb") as file:
            lines = toml.load(file).get("build-system", {}).get("requires", ["setuptools"])
        return [Requirement(line) for line in lines]
    except (OSError, ValueError, AttributeError):
        return [Requirement("setuptools")]


def _build(path: str, target: str, isolated: bool) -> str:
    """Have pip build the wheel into `target`, unless it is there; the end of what was said."""
    if glob.glob(os.path.join(target, "*.whl")):
        return ""
    words = [*_pip(target), "wheel", "--quiet", "--disable-pip-version-check", "--no-deps", "--wheel-dir", target]
    words += ([] if isolated else ["--no-build-isolation"]) + [path]
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, errors="replace", timeout=_BUILD_SECONDS, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return f"no end within {_BUILD_SECONDS} s"
    except OSError as error:
        return str(error)
    return (done.stderr + done.stdout)[-2000:]


def _pip(scratch: str) -> list[str]:
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    for name, data in installer().items():
        path = os.path.join(scratch, f"{name}.zip")  # not by its own name: the wheel that is built is looked for
        Path(path).write_bytes(data)
        return [sys.executable, os.path.join(path, "pip")]
    raise RequirementsError("a wheel can be built by pip only, which is missing here: install pip")

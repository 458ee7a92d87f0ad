"""Packages into a virtual environment that sees those of its interpreter: by uv, by pip, or by a pip that was sent."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
import sysconfig
import tempfile
import zipfile
from typing import Mapping, NamedTuple

from .install_failures import InstallError
from .runs import Runs, Say, Work

_IMAGE_PATHS = "_batchexec_image.pth"


class Made(NamedTuple):
    """An environment, or that none is needed: `directory`, `site` and `bin` are None then, and `python` is the
    interpreter that runs."""

    directory: str | None
    site: str | None
    python: str
    bin: str | None


NOT_NEEDED = Made(None, None, sys.executable, None)


def made_in(directory: str) -> Made:
    """The environment in that directory."""
    names = {"base": directory, "platbase": directory}
    scheme = "nt" if os.name == "nt" else "posix_prefix"
    site = sysconfig.get_path("purelib", scheme, names)
    scripts = sysconfig.get_path("scripts", scheme, names)
    python = os.path.join(scripts, "python.exe" if os.name == "nt" else "python")
    return Made(directory, site, python, scripts)


def has_all(check: list[list[str]]) -> bool:
    """Whether this interpreter has every one of these distributions: [name, version], no version meaning any."""
    for name, version in check:
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return False
        if version and (found or "").partition("+")[0] != version.partition("+")[0]:
            return False
    return True


def install(work: Work, directory: str, say: Say) -> None:
    """Make the environment in `directory`, which is empty. Raises InstallError, and OSError where the disk is full."""
    made = _create(directory)
    env = work.settings.environment(work.scratch, work.cache)
    run = Runs(env, work, say)
    lines = _lines(work)
    beside = os.path.dirname(sys.executable)  # of a virtual environment that need not be on PATH
    uv = shutil.which("uv", path=os.pathsep.join([beside, env.get("PATH", os.defpath)]))
    if uv is not None and work.settings.uv_will_do():
        _by_uv(run, uv, made.python, lines)
    else:
        _by_pip(run, made.python, lines)


def _create(directory: str) -> Made:
    """A virtual environment without pip, in which all is visible that the running interpreter has."""
    try:
        import venv
    except ImportError as error:
        raise InstallError("other", f"the interpreter lacks the standard library's venv: {error}") from error
    sees_base = _sees_base()
    venv.EnvBuilder(system_site_packages=sees_base, symlinks=os.name != "nt", with_pip=False).create(directory)
    made = made_in(directory)
    assert made.site is not None
    # The new one is then beside that virtual environment, not above it.
    with open(os.path.join(made.site, _IMAGE_PATHS), "w", encoding="utf-8") as file:
        file.writelines(f"{path}\n" for path in image_paths())
    return made


def _sees_base() -> bool:
    """Whether the running interpreter sees the packages of the one that virtual environments are made from. What it
    does not see, as one of a virtual environment, must not count as installed."""
    if sys.prefix == sys.base_prefix:
        return True
    own, base = os.path.join(sys.prefix, ""), os.path.join(sys.base_prefix, "")
    return any(path.startswith(base) and not path.startswith(own) for path in image_paths())


def image_paths() -> list[str]:
    """The directories of the running interpreter's own packages."""
    ends = ("site-packages", "dist-packages")
    return [path for path in sys.path if os.path.basename(path) in ends and os.path.isdir(path)]


def _by_pip(run: Runs, python: str, lines: list[str]) -> None:
    if importlib.util.find_spec("pip") is not None:
        pip = [python, "-I", "-m", "pip"]
    elif run.work.pip is not None:
        pip = [python, "-I", os.path.join(_unpacked(run.work.pip(), run.work.cache), "pip")]
    else:
        raise InstallError("other", "there is neither uv nor pip to install packages with, and none was sent")
    command = [*pip, "install", "--no-warn-script-location", "--progress-bar", "off", *run.work.settings.arguments()]
    try:
        run("pip", [*command, "-r", run.file("requirements.txt", lines), *run.constraints])
    except InstallError as error:
        if error.kind == "resolution":
            from . import asked_again

            raise asked_again.by_pip(run, command, error) from error
        raise
    there = _installed_here()
    same = [_direct(path, "", True) for name, path in _wheels(run.work).items() if name in there]
    if same:  # the version that the image has is enough for pip, whatever its content
        run("pip", [*command, "--no-deps", "--force-reinstall", "-r", run.file("same.txt", same)])


def _unpacked(wheel: str, cache: str) -> str:
    """The directory that holds what the wheel does, kept for others. From an archive pip could not start itself again,
    as it does for builds; and byte code stays, without which it takes seconds to start."""
    target = os.path.join(cache, f"unpacked-{_sha256(wheel)}")
    if not os.path.isdir(target):
        os.makedirs(cache, exist_ok=True)
        scratch = tempfile.mkdtemp(dir=cache)
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(scratch)
        try:
            os.rename(scratch, target)
        except OSError:
            if not os.path.isdir(target):
                raise
            shutil.rmtree(scratch)  # somebody was faster
    return target


def _by_uv(run: Runs, uv: str, python: str, lines: list[str]) -> None:
    own = ["--python", python, *run.work.settings.arguments()]
    requirements = run.file("requirements.txt", lines)
    try:
        _resolve_and_install(run, uv, requirements, lines, [*own, "--index-strategy", "unsafe-best-match"])
    except InstallError as error:
        if error.kind == "resolution":
            from . import asked_again

            raise asked_again.by_uv(run, [uv, "pip", "compile", requirements, *run.constraints, *own], error) from error
        raise


def _resolve_and_install(run: Runs, uv: str, requirements: str, lines: list[str], options: list[str]) -> None:
    """uv does not look at what the environment sees of the image: what has to be installed is resolved first, with
    preference for the versions there, and those that are there are left out."""
    there = _installed_here()
    install = [uv, "pip", "install", "--compile-bytecode", *options]
    if not there or any("--hash" in line for line in lines):
        run("uv", [*install, "-r", requirements, *run.constraints])
        return
    resolved = run.file("resolved.txt", [f"{name}=={version}" for name, version in there.items()])
    compile = [uv, "pip", "compile", requirements, *run.constraints, "-o", resolved, "--no-annotate"]
    run("uv", [*compile, "--no-header", *options])
    with open(resolved, encoding="utf-8") as file:
        lacking = [line for line in file.read().splitlines() if line.strip() and not _is_there(line, there)]
    if lacking:
        run("uv", [*install, "--no-deps", "-r", run.file("lacking.txt", lacking)])


def _installed_here() -> dict[str, str]:
    """Name and version of what the interpreter has, but for the tools that come with any."""
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions(path=image_paths()):
        name, version = distribution.metadata["Name"], distribution.version
        if name and version and normalised(name) not in ("pip", "setuptools", "uv", "wheel"):
            found.setdefault(normalised(name), version)
    return found


def _is_there(line: str, there: Mapping[str, str]) -> bool:
    found = re.match(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;]+)", line)
    return found is not None and there.get(normalised(found[1])) == found[2]


def normalised(name: str) -> str:
    """A distribution's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _lines(work: Work) -> list[str]:
    """All that is to be installed. Extras of a wheel stand with it: by its name, installers take what the image has."""
    wheels = _wheels(work)
    extras: dict[str, str] = {}
    lines = []
    for line in work.requirements:
        found = re.fullmatch(r"([A-Za-z0-9._-]+)(\[[^\]]*\])", line)
        if found is not None and normalised(found[1]) in wheels:
            extras[normalised(found[1])] = found[2]
        else:
            lines.append(line)
    hashed = any("--hash" in line for line in lines)
    return lines + [_direct(path, extras.get(name, ""), hashed) for name, path in wheels.items()]


def _wheels(work: Work) -> dict[str, str]:
    """The paths of wheels by the names of their distributions."""
    return {normalised(os.path.basename(path).partition("-")[0]): path for path in work.wheels.values()}


def _direct(path: str, extras: str, hashed: bool) -> str:
    """The requirement that is this very wheel."""
    from pathlib import Path

    line = f"{os.path.basename(path).partition('-')[0]}{extras} @ {Path(path).as_uri()}"
    return f"{line} --hash=sha256:{_sha256(path)}" if hashed else line


def _sha256(path: str) -> str:
    from batchexec._wire.envelope import sha256

    with open(path, "rb") as file:
        return sha256(file.read())

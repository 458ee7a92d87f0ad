"""Packages into a virtual environment that sees those of its interpreter: by uv, by pip, or by a pip that was sent."""

from __future__ import annotations

import collections
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import zipfile
from typing import Callable, Mapping, NamedTuple

from .install_failures import InstallError, kind_of, last_words
from .pip_settings import PipSettings

TIME_LIMIT = 3600.0  # seconds that one run of an installer may take
_KEPT_OUTPUT = 1 << 18  # characters of it that are looked at after a failure
_IMAGE_PATHS = "_batchexec_image.pth"

Say = Callable[[str], None]


class Made(NamedTuple):
    """An environment, or that none is needed: `directory`, `site` and `bin` are None then, and `python` is the
    interpreter that runs."""

    directory: str | None
    site: str | None
    python: str
    bin: str | None


NOT_NEEDED = Made(None, None, sys.executable, None)


class Work(NamedTuple):
    """What one environment is made of."""

    requirements: list[str]
    constraints: list[str]
    wheels: dict[str, str]  # by file name: path
    pip: str | None  # a wheel of pip, for where there is none
    settings: PipSettings
    cache: str  # what was downloaded is kept there
    scratch: str  # an empty directory, for this alone


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
    run = _Runs(env, work, say)
    wheels = [_direct(path, any("--hash" in line for line in work.requirements)) for path in work.wheels.values()]
    lines = [*work.requirements, *wheels]
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
    venv.EnvBuilder(system_site_packages=True, symlinks=os.name != "nt", with_pip=False).create(directory)
    made = made_in(directory)
    assert made.site is not None
    # Where the running interpreter is itself one of a virtual environment, the new one is beside it, not above it.
    with open(os.path.join(made.site, _IMAGE_PATHS), "w", encoding="utf-8") as file:
        file.writelines(f"{path}\n" for path in image_paths())
    return made


def image_paths() -> list[str]:
    """The directories of the running interpreter's own packages."""
    ends = ("site-packages", "dist-packages")
    return [path for path in sys.path if os.path.basename(path) in ends and os.path.isdir(path)]


class _Runs:
    """Runs of installers for one environment."""

    def __init__(self, env: dict[str, str], work: Work, say: Say) -> None:
        self.env = env
        self.work = work
        self.say = say
        self.constraints = ["-c", self.file("constraints.txt", work.constraints)] if work.constraints else []

    def file(self, name: str, lines: list[str]) -> str:
        path = os.path.join(self.work.scratch, name)
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
        return path

    def __call__(self, installer: str, command: list[str]) -> None:
        """Run it to its end. Raises InstallError when it fails."""
        masked = self.work.settings.masked
        said: collections.deque[str] = collections.deque()
        length = 0
        with subprocess.Popen(
            command,
            cwd=self.work.scratch,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        ) as process:
            late = threading.Event()

            def end() -> None:
                late.set()
                process.kill()

            timer = threading.Timer(TIME_LIMIT, end)
            timer.daemon = True
            timer.start()
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    line = masked(line)
                    said.append(line)
                    length += len(line)
                    while length > _KEPT_OUTPUT and len(said) > 1:
                        length -= len(said.popleft())
                    if line.strip():
                        self.say(line.strip())
                status = process.wait()
            except BaseException:
                process.kill()
                raise
            finally:
                timer.cancel()
        if status == 0:
            return
        text = "".join(said)
        if late.is_set():
            text += f"\n{installer} had not finished after {TIME_LIMIT / 60:.0f} minutes"
            raise InstallError("timeout", last_words(text), installer)
        if status < 0:
            text += f"\n{installer} was ended by signal {-status}"
        raise InstallError(kind_of(text), last_words(text) or f"{installer} ended with {status}", installer)


def _by_pip(run: _Runs, python: str, lines: list[str]) -> None:
    if importlib.util.find_spec("pip") is not None:
        pip = [python, "-I", "-m", "pip"]
    elif run.work.pip is not None:
        pip = [python, "-I", os.path.join(_unpacked(run.work.pip, run.work.cache), "pip")]
    else:
        raise InstallError("other", "there is neither uv nor pip to install packages with, and none was sent")
    command = [*pip, "install", "--no-warn-script-location", "--progress-bar", "off"]
    command += ["-r", run.file("requirements.txt", lines), *run.constraints]
    run("pip", [*command, *run.work.settings.arguments()])


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


def _by_uv(run: _Runs, uv: str, python: str, lines: list[str]) -> None:
    """uv does not look at what the environment sees of the image: what has to be installed is resolved first, with
    preference for the versions there, and those that are there are left out."""
    options = ["--python", python, "--index-strategy", "unsafe-best-match", *run.work.settings.arguments()]
    requirements = run.file("requirements.txt", lines)
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


def _direct(path: str, hashed: bool) -> str:
    """The requirement that is this very wheel."""
    from pathlib import Path

    line = f"{os.path.basename(path).partition('-')[0]} @ {Path(path).as_uri()}"
    return f"{line} --hash=sha256:{_sha256(path)}" if hashed else line


def _sha256(path: str) -> str:
    from batchexec._wire.envelope import sha256

    with open(path, "rb") as file:
        return sha256(file.read())


def _die_with_parent() -> None:
    """In the installer: be killed when the worker is, however it ends."""
    import ctypes
    import signal

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG

"""`batchexec image build`: the generic worker image, by docker, podman or buildah."""

from __future__ import annotations

import argparse
import importlib.metadata
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from batchexec.config import host_of
from batchexec.errors import BatchExecError, ConfigError

_TOOLS = ("docker", "podman", "buildah")
_BUILD = {"docker": "build", "podman": "build", "buildah": "bud"}
_HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="batchexec image", description="The container image of the nodes.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    build = commands.add_parser(
        "build",
        help="build the generic worker image",
        description="Build the generic worker image: slim Python with numpy, scipy, pandas, scikit-learn, pyarrow, "
        "joblib and uv. Options behind a -- go to the tool that builds it.",
    )
    build.add_argument("--tag", help="its name (default: batchexec-worker:PYTHON)")
    build.add_argument("--python", default=_HERE, help="Python minor, that of your client (default: %(default)s)")
    build.add_argument("--base", help="image to build on, with Python and pip (default: python:PYTHON-slim)")
    build.add_argument("--tool", help="docker, podman or buildah, with options if need be (default: what is there)")
    build.add_argument(
        "--build-arg", action="append", default=[], metavar="NAME=VALUE", help="such as PIP_INDEX_URL=https://..."
    )
    build.add_argument("--ca", metavar="FILE", help="certificate authorities (PEM) to trust while building")
    build.add_argument("--pip-config", metavar="FILE", help="pip.conf to use while building; it does not stay")
    build.add_argument("--push", action="store_true", help="push it to the registry that its name begins with")
    end = argv.index("--") if "--" in argv else len(argv)
    options, rest = parser.parse_args(argv[:end]), argv[end + 1 :]
    tag = options.tag or f"batchexec-worker:{options.python}"
    if options.push and "/" not in tag:
        raise ConfigError(f"--push: {tag!r} names no registry: --tag REGISTRY/NAME:TAG")
    tool = _tool(options.tool)
    _build(tool, tag, options, rest)
    if options.push:
        _run([*tool, "push", tag])
    print(f'image = "{tag}"')
    if not options.push and not host_of(tag):
        print("Nodes on Azure pull it from a registry: build it with --tag REGISTRY/NAME:TAG --push.", file=sys.stderr)
    return 0


def _tool(given: str | None) -> list[str]:
    """The command that builds. Raises ConfigError where there is none."""
    if given:
        words = shlex.split(given)
        if not words or Path(words[0]).name not in _TOOLS:
            raise ConfigError(f"--tool: expected {', '.join(_TOOLS)}, got {given!r}")
        if shutil.which(words[0]) is None:
            raise ConfigError(f"--tool: there is no {words[0]} here: {_install(Path(words[0]).name)}")
        return words
    silent = []
    for name in _TOOLS:
        if shutil.which(name) is None:
            continue
        # The client of docker alone builds nothing.
        if name != "docker" or subprocess.run([name, "version"], capture_output=True).returncode == 0:
            return [name]
        silent.append(name)
    lacking = "the docker here reaches no daemon: start it, or" if silent else "nothing here builds images:"
    raise ConfigError(f"{lacking} install docker (https://docs.docker.com/engine/install), or `apt install podman`")


def _install(name: str) -> str:
    return "see https://docs.docker.com/engine/install" if name == "docker" else f"`apt install {name}` or the like"


def _build(tool: list[str], tag: str, options: argparse.Namespace, rest: list[str]) -> None:
    arguments = {"PYTHON": options.python}
    if options.base:
        arguments["BASE"] = options.base
    words = [f"{name}={value}" for name, value in arguments.items()] + options.build_arg
    command = [*tool, _BUILD[Path(tool[0]).name], "--tag", tag]
    for word in words:
        command += ["--build-arg", word]
    for id, file in (("ca", options.ca), ("pip", options.pip_config)):
        if file:
            if not Path(file).is_file():
                raise ConfigError(f"there is no file {file}")
            command += ["--secret", f"id={id},src={Path(file).resolve()}"]
    # Nothing but what the build needs: a source tree holds environments that would all be sent to a daemon.
    with tempfile.TemporaryDirectory() as context:
        dockerfile, sources = _recipe()
        shutil.copy(dockerfile, context)
        shutil.copytree(sources, Path(context, "worker_image"), ignore=shutil.ignore_patterns("__pycache__"))
        _run([*command, *rest, context])


def _run(command: list[str]) -> None:
    """With its output to standard error: standard output is for what goes into the configuration."""
    status = subprocess.run(command, stdout=sys.stderr).returncode
    if status:
        raise BatchExecError(f"{command[0]} failed with exit code {status}; its own words are above")


def _recipe() -> tuple[Path, Path]:
    """Dockerfile and worker_image/: beside the package in a source tree, else among what was installed with it."""
    root = Path(__file__).resolve().parents[2]
    if (root / "Dockerfile").is_file() and (root / "worker_image").is_dir():
        return root / "Dockerfile", root / "worker_image"
    for file in importlib.metadata.files("batchexec") or ():
        if file.parts[-3:] == ("share", "batchexec", "Dockerfile"):
            dockerfile = Path(str(file.locate())).resolve()
            return dockerfile, dockerfile.parent / "worker_image"
    raise ConfigError("this installation has no Dockerfile: install batchexec anew, or build from its source tree")

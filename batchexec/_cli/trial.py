"""Packages tried before money is spent: installed by the worker's own code into an environment that goes again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from batchexec._engine.results import unmet
from batchexec._engine.sending import command, workerzip
from batchexec._engine.sending.packages import Packages
from batchexec._source.packages import needed, scripts
from batchexec._wire import names
from batchexec.config import BatchConfig
from batchexec.errors import RequirementsError

_IMPORT_SECONDS = 300

# Run by an interpreter that has nothing, as on a node: worker.pyz, a directory of blobs, and what to make of them.
_INSTALL = """
import json, os, sys
pyz, blobs, digest, root = sys.argv[1:]
sys.path.insert(0, pyz)
from batchexec._worker.packages import environment
def blob(digest):
    with open(os.path.join(blobs, digest), "rb") as file:
        return file.read()
try:
    made = environment.prepare(json.loads(blob(digest)), blob, json.loads(blob("pip")), root)
except environment.InstallError as error:
    print(json.dumps({"kind": error.kind, "reason": error.reason, "text": str(error)}))
else:
    print(json.dumps({"python": made.python}))
"""
# Each name as it is tried, then what came of it: where a module kills the process, its name is the last.
_IMPORT = """
import importlib, json, sys
for name in json.load(sys.stdin):
    print(name, flush=True)
    try:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            parent, _, last = name.rpartition(".")
            if error.name != name or not hasattr(importlib.import_module(parent), last):
                raise
    except BaseException as error:
        print(json.dumps(f"{type(error).__name__}: {error}"), flush=True)
    else:
        print("null", flush=True)
"""


class Listing(NamedTuple):
    """What nodes would install: requirements (or file names of wheels) with the reasons for them, and what to know."""

    lines: list[tuple[str, str]]
    versions: list[str]  # of what these require in turn
    warnings: list[str]
    missing: list[str]  # modules that are not found here either


class Trial:
    """The packages that a script needs under a configuration. Raises RequirementsError for what no node can have."""

    def __init__(self, config: BatchConfig, script: str) -> None:
        self._needed = scripts.needed_by(script)
        needed.refuse_foreign(self._needed.local)
        entries = config.requirements if config.requirements not in (None, ("none",)) else ("auto",)
        self._packages = Packages(config, "azure", entries or ("auto",), lambda text: None)
        self._plan = self._packages.plan(self._needed.third_party, self._needed.local)

    @property
    def listing(self) -> Listing:
        plan = self._plan
        reasons = {needed.name_of(line): line for line in plan.requirements}
        lines = [(line, plan.reasons.get(name, plan.reasons.get(line, ""))) for name, line in sorted(reasons.items())]
        lines += [(name, plan.reasons.get(name, "travels as a wheel")) for name in sorted(plan.wheels)]
        return Listing(lines, plan.constraints, plan.warnings, sorted(self._needed.missing))

    def run(self, say: Callable[[str], None]) -> dict[str, str]:
        """Install them, and import all modules: the errors of those that cannot be imported.

        Raises RequirementsError where the installation fails.
        """
        with tempfile.TemporaryDirectory(prefix="batchexec-doctor-") as scratch:
            python = _bare_interpreter(os.path.join(scratch, "bare"))
            if self._plan:
                say("installing")
                python = self._install(python, scratch)
            say("importing")
            return _import(python, self._needed.third_party.difference(self._plan.without), scratch)

    def _install(self, bare: str, scratch: str) -> str:
        """The interpreter of the environment."""
        blobs = Path(scratch, "blobs")
        blobs.mkdir()
        environment = self._packages.of_plan(self._plan, check=False)
        for digest, data in environment.blobs.items():
            (blobs / digest).write_bytes(data)
        (blobs / "pip").write_text(self._packages.settings.get(names.ENV_PIP, "{}"), encoding="utf-8")
        worker = Path(scratch, command.WORKER_FILE)
        worker.write_bytes(workerzip.build()[1])
        words = [bare, "-I", "-c", _INSTALL, str(worker), str(blobs), environment.digest, os.path.join(scratch, "made")]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, env=_node_environment(scratch), cwd=scratch)
        answer = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 and done.stdout else {}
        if "python" not in answer:
            text = answer.get("text", f"the installer ended with exit code {done.returncode}")
            kind = answer.get("kind", "")
            text = unmet.with_advice(kind, answer.get("reason", ""), text)
            raise environment.explained(RequirementsError(text, kind=kind))
        return str(answer["python"])


def _bare_interpreter(folder: str) -> str:
    """One that has nothing: what this one has would be found by the installer, and taken as being there already."""
    done = subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], capture_output=True, text=True)
    if done.returncode:
        raise RequirementsError(f"a virtual environment cannot be made here: {done.stderr or done.stdout}")
    return os.path.join(folder, "bin", "python")


def _import(python: str, modules: Iterable[str], scratch: str) -> dict[str, str]:
    done = subprocess.run(
        [python, "-I", "-c", _IMPORT],
        input=json.dumps(sorted(modules)),
        stdout=subprocess.PIPE,
        text=True,
        env=_node_environment(scratch),
        cwd=scratch,
        timeout=_IMPORT_SECONDS,
    )
    lines = done.stdout.splitlines()
    results = dict(zip(lines[::2], map(json.loads, lines[1::2]), strict=False))
    failed = {name: error for name, error in results.items() if error is not None}
    if len(lines) % 2:
        failed[lines[-1]] = f"the interpreter died (exit code {done.returncode})"
    return failed


def _node_environment(scratch: str) -> dict[str, str]:
    """As little as a node has: nothing that configures an installer on this machine."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TMPDIR") if name in os.environ}
    return {**kept, "HOME": scratch}

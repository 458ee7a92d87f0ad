"""Who may import whom, what `import batchexec` costs, and what is public."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import batchexec

ROOT = Path(batchexec.__file__).parent
STANDARD = sys.stdlib_module_names | {"__future__"}
FACE = {"batchexec", "batchexec._version"}
COMMON = {"config", "errors"}

# Room (a module or folder of the package): the rooms it may import, and the packages from elsewhere. Imports for
# type checkers only are not in the way of anything and not looked at.
ROOMS: dict[str, tuple[set[str], set[str]]] = {
    "__init__": ({"command", "config", "errors", "executor", "futures"}, set()),
    "_version": (set(), set()),
    "errors": (set(), set()),
    "config": ({"errors", "_settings"}, set()),
    "_logins": (set(), set()),
    "_settings": ({"errors", "_logins"}, {"packaging", "tomli"}),
    "futures": (COMMON, set()),
    "executor": (
        {*COMMON, "command", "futures", "_calls", "_command", "_exits", "_engine", "_wire"},
        set(),
    ),
    "command": ({"errors", "_command"}, set()),
    # `_worker`, as a command can be run on this machine too.
    "_command": ({*COMMON, "futures", "_calls", "_engine", "_inline", "_source", "_wire", "_worker"}, set()),
    "_calls": ({*COMMON, "futures", "_exits", "_inline", "_engine", "_report", "_source"}, set()),
    "_exits": ({"_engine"}, set()),
    "_inline": ({*COMMON, "futures", "_engine", "_wire"}, set()),
    "_engine": ({*COMMON, "futures", "_azure", "_wire", "_source", "_report"}, {"cloudpickle"}),
    "_azure": ({*COMMON, "_wire"}, {"aiohttp", "azure", "tenacity", "yarl"}),
    "_source": ({"errors", "_logins"}, {"cloudpickle", "packaging", "tomli"}),
    "_report": (set(), set()),
    "_wire": (set(), {"cloudpickle", "numpy"}),
    "joblib": ({"executor", "_joblib", "_worker"}, {"joblib"}),
    "_joblib": ({*COMMON, "futures", "_calls"}, set()),
    "_worker": ({"_wire"}, {"cloudpickle", "joblib"}),  # joblib: where the user's own code brought it
    "_cli": ({*COMMON, "executor", "_command", "_engine", "_source", "_wire"}, {"cloudpickle", "numpy", "sklearn"}),
    # For other projects' tests: of the emulator, not of the client.
    "testing": ({"emulator"}, {"azure", "pytest"}),
    "emulator": (set(), {"aiohttp", "cryptography", "jwt", "multidict", "yarl"}),
}

# The same within the emulator: the rooms that each may import. All may import `errors` and `clock`.
BASE = {"errors", "clock"}
EMULATOR: dict[str, set[str]] = {
    "__init__": set(),
    "errors": set(),
    "clock": set(),
    "http_log": set(),
    "temporary": set(),
    "running": set(),
    "state": set(),
    "identity": set(),
    "faults": {"state"},
    "node": {"faults", "identity", "state"},
    "scheduling": {"faults", "node", "state"},
    "batch": {"faults", "identity", "node", "scheduling", "state"},
    "blob": {"faults", "identity"},
    "access": {"identity"},
    "persistence": {"access", "blob", "identity", "node", "state"},
    "options": {"scheduling"},
    "service": {
        *("access", "batch", "blob", "faults", "http_log", "identity", "node", "options", "persistence", "scheduling"),
        *("state", "temporary"),
    },
    "shell": {"running"},
    "__main__": {"access", "faults", "options", "persistence", "running", "scheduling", "service", "shell"},
}


class Import(ast.NodeVisitor):
    """Full names of the modules that one file imports when it runs."""

    def __init__(self, path: Path) -> None:
        self.found: list[str] = []
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        self._package = parts[:-1]
        self.visit(ast.parse(path.read_text(encoding="utf-8")))

    def visit_If(self, node: ast.If) -> None:
        for_types = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for child in node.orelse if for_types else (node.test, *node.body, *node.orelse):
            self.visit(child)

    def visit_Import(self, node: ast.Import) -> None:
        self.found += [alias.name for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = self._package[: len(self._package) - node.level + 1] if node.level else ()
        module = ".".join((*base, *([node.module] if node.module else [])))
        for alias in node.names:
            inner = ROOT.parent.joinpath(*module.split("."), alias.name)
            is_module = inner.is_dir() or inner.with_suffix(".py").is_file()
            self.found.append(f"{module}.{alias.name}" if is_module else module)


def modules(room: str) -> list[Path]:
    folder = ROOT / room
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


def rooms_present(folder: Path = ROOT) -> Iterator[str]:
    for path in folder.iterdir():
        if path.suffix == ".py":
            yield path.stem
        elif any(path.rglob("*.py")):
            yield path.name


def test_every_room_has_its_arrows() -> None:
    assert set(rooms_present()) <= set(ROOMS), "a new room: say in ROOMS what it may import"


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_room_imports_only_what_lies_below_it(room: str) -> None:
    rooms, foreign = ROOMS[room]
    wrong = []
    for path in modules(room):
        for name in Import(path).found:
            top, _, rest = name.partition(".")
            if top == "batchexec":
                allowed = not rest or rest.partition(".")[0] in {room, "_version", *rooms}
            else:
                allowed = top in STANDARD or top in foreign
            if not allowed:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_no_module_of_ours_needs_itself_in_a_circle_not_even_later() -> None:
    below = {}
    for path in ROOT.rglob("*.py"):
        name = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
        if not name.startswith("batchexec.emulator"):  # its rooms have arrows of their own
            below[name] = {found for found in Import(path).found if found != name}
    order = TopologicalSorter(below)
    assert set(order.static_order()) >= set(below)  # CycleError where there is one


def test_every_room_of_the_emulator_has_its_arrows() -> None:
    assert set(rooms_present(ROOT / "emulator")) == set(EMULATOR), "say in EMULATOR what it may import"


@pytest.mark.parametrize("room", sorted(EMULATOR))
def test_a_room_of_the_emulator_imports_only_what_lies_below_it(room: str) -> None:
    allowed = {room, *EMULATOR[room], *(() if room in BASE else BASE)}
    wrong = []
    for path in modules(f"emulator/{room}"):
        for name in Import(path).found:
            inner = name.removeprefix("batchexec.emulator.")
            if inner != name and inner.partition(".")[0] not in allowed:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_the_arrows_of_the_emulator_make_no_circle() -> None:
    order = TopologicalSorter({room: {*below, *(() if room in BASE else BASE)} for room, below in EMULATOR.items()})
    assert set(order.static_order()) == set(EMULATOR)  # CycleError where there is one


def test_the_emulator_shares_no_code_with_the_client() -> None:
    assert not ROOMS["emulator"][0]
    assert [room for room, (rooms, _) in ROOMS.items() if "emulator" in rooms] == ["testing"]


def test_only_one_room_of_the_client_may_import_the_azure_sdks() -> None:
    assert [room for room, (_, foreign) in ROOMS.items() if "azure" in foreign] == ["_azure", "testing"]


def test_every_module_opens_with_one_line_that_says_what_lives_in_it() -> None:
    bad = []
    for path in ROOT.rglob("*.py"):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        first, *others = text.splitlines() or [""]
        if not first or (others and others[0]):
            bad.append(str(path.relative_to(ROOT)))
    assert not bad


def run(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_by(statement: str) -> set[str]:
    return set(json.loads(run(f"{statement}\nimport json, sys\nprint(json.dumps(list(sys.modules)))")))


def test_importing_the_package_loads_nothing_but_its_face() -> None:
    ours = {name for name in loaded_by("import batchexec") if name.partition(".")[0] == "batchexec"}
    assert ours == FACE


def test_importing_the_executor_loads_no_sdk_no_http_and_no_event_loop() -> None:
    tops = {name.partition(".")[0] for name in loaded_by("from batchexec import BatchExecutor, BatchConfig")}
    assert not tops & {"aiohttp", "asyncio", "azure", "numpy", "pydantic", "requests", "ssl", "tenacity"}


def test_the_command_loads_only_what_its_subcommand_needs() -> None:
    code = "from batchexec._cli import main\ntry: main(['--version'])\nexcept SystemExit: pass"
    loaded = run(f"{code}\nimport json, sys\nprint(json.dumps(list(sys.modules)))").splitlines()
    assert loaded[0] == f"batchexec {batchexec.__version__}"
    ours = {name for name in json.loads(loaded[1]) if name.startswith("batchexec")}
    assert ours == FACE | {"batchexec._cli"}


# Rooms that run in the client: the worker and the emulator run on nodes, and the command's demo needs scikit-learn.
CLIENT = sorted(set(ROOMS) - {"_worker", "emulator", "_cli"})

HIDE_POSIX = """
import os, signal, sys
import socket, subprocess, multiprocessing  # these choose their own platform when they are imported
class Hidden:
    names = {"fcntl", "grp", "posix_ipc", "pty", "pwd", "resource", "syslog", "termios", "tty"}
    def find_spec(self, name, path=None, target=None):
        if name in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None
sys.meta_path.insert(0, Hidden())
for name in Hidden.names:
    sys.modules.pop(name, None)
for name in ("fork", "forkpty", "register_at_fork", "getuid", "geteuid", "getgid", "setsid", "getpgid", "killpg",
             "mkfifo", "wait4", "waitid", "posix_spawn", "uname", "sched_getaffinity", "O_CLOEXEC", "WNOHANG"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGKILL", "SIGHUP", "SIGALRM", "SIGUSR1", "pthread_sigmask", "setitimer", "alarm"):
    if hasattr(signal, name):
        delattr(signal, name)
"""


def test_client_rooms_import_without_what_only_posix_has() -> None:
    names = [
        ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
        for room in CLIENT
        for path in modules(room)
    ]
    # What they build on is loaded first: how the Azure SDKs find their platform is not at stake.
    code = (
        "import aiohttp, asyncio, azure.batch, azure.batch.aio, azure.identity.aio, azure.storage.blob, "
        f"cloudpickle, joblib, tenacity\n{HIDE_POSIX}\nimport importlib\n"
        f"for name in {names!r}: importlib.import_module(name)\nprint('ok')"
    )
    assert run(code) == "ok\n"


def test_the_public_names_are_exactly_those_listed_and_sorted() -> None:
    assert list(batchexec.__all__) == sorted(batchexec.__all__)
    shown = {name for name in dir(batchexec) if not name.startswith("_")}
    submodules = {path.stem for path in ROOT.iterdir()}
    helpers = {"TYPE_CHECKING", "Any", "annotations", "importlib"}
    assert shown - submodules - helpers == set(batchexec.__all__) - {"__version__", "errors"}
    for name in batchexec.__all__:
        assert getattr(batchexec, name) is not None


def test_a_name_that_is_not_there_is_refused_as_by_any_module() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'BatchExecuter'"):
        _ = batchexec.BatchExecuter


def test_the_version_is_the_same_everywhere() -> None:
    text = (ROOT.parent / "pyproject.toml").read_text(encoding="utf-8")
    stated = re.search(r'^version = "(.+)"$', text, re.MULTILINE)
    assert stated is not None
    assert stated[1] == batchexec.__version__

"""The user's own modules travel: to workers in an interpreter that has neither them nor batchexec, nor any package."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers_scripts import Script
from helpers_venv import Interpreter

from batchexec import BatchExecutor
from batchexec.errors import MissingModuleError, PythonMismatchError, SourceError

Write = Callable[[dict[str, str]], ModuleType]


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Interpreter:
    return Interpreter(tmp_path_factory.mktemp("worker") / "venv")


@pytest.fixture
def executor(worker: Interpreter) -> Iterator[BatchExecutor]:
    with BatchExecutor(max_workers=2, python=worker.python, echo=False) as executor:
        yield executor


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes files into a directory on sys.path and imports the first."""
    before = set(sys.modules)
    folder = tmp_path / "project"

    def write(files: dict[str, str]) -> ModuleType:
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        monkeypatch.syspath_prepend(str(folder))
        first = next(iter(files)).removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        return importlib.import_module(first)

    yield write
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_the_worker_is_bare(worker: Interpreter, executor: BatchExecutor) -> None:
    for module in ("batchexec", "cloudpickle", "numpy", "helpers_work"):
        assert worker.fails_to_import(module)

    def look() -> tuple[str, bool, str]:
        import os
        import sys

        return sys.prefix, bool(sys.flags.isolated), os.getcwd()

    prefix, isolated, directory = executor.submit(look).result(60)
    assert prefix == str(Path(worker.python).parent.parent)
    assert isolated
    assert directory != os.getcwd()


# modules, in process


def test_a_package_finds_the_data_beside_it(executor: BatchExecutor, write: Write) -> None:
    package = write(
        {
            "with_data/__init__.py": "from .reader import read\n",
            "with_data/reader.py": (
                "from pathlib import Path\n\n\ndef read(name):\n"
                "    return (Path(__file__).parent / 'tables' / name).read_text()\n"
            ),
            "with_data/tables/a.csv": "1,2,3\n",
        }
    )
    assert executor.submit(package.read, "a.csv").result(60) == "1,2,3\n"


def test_a_single_module_finds_the_data_it_names(executor: BatchExecutor, write: Write) -> None:
    module = write(
        {
            "weights.py": (
                "import os\n\n\ndef read():\n"
                "    with open(os.path.join(os.path.dirname(__file__), 'weights.txt')) as f:\n"
                "        return f.read()\n"
            ),
            "weights.txt": "0.5",
        }
    )
    assert executor.submit(module.read).result(60) == "0.5"


def test_submodules_imported_late_are_there(executor: BatchExecutor, write: Write) -> None:
    package = write(
        {
            "lazy/__init__.py": (
                "import importlib\n\n\ndef work(x):\n"
                "    from .deep import late\n"
                "    import lazy_neighbour\n"
                "    named = importlib.import_module('lazy.deep.named')\n"
                "    return late.twice(x) + named.ONE + lazy_neighbour.HUNDRED\n"
            ),
            "lazy/deep/__init__.py": "",
            "lazy/deep/late.py": "def twice(x):\n    return 2 * x\n",
            "lazy/deep/named.py": "ONE = 1\n",
            "lazy_neighbour.py": "HUNDRED = 100\n",
        }
    )
    assert "lazy.deep" not in sys.modules
    assert list(executor.map(package.work, [1, 2])) == [103, 105]
    assert "lazy.deep" not in sys.modules


def test_a_package_under_development_elsewhere_travels(
    executor: BatchExecutor, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "repository" / "src" / "developed"
    source.mkdir(parents=True)
    (source / "__init__.py").write_text("from developed.core import work\n")
    (source / "core.py").write_text("def work(x):\n    return x + 1\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(source.parent)])
    user = write({"uses_developed.py": "import developed\n\n\ndef work(x):\n    return developed.work(x)\n"})
    assert executor.submit(user.work, 1).result(60) == 2
    del sys.modules["developed"], sys.modules["developed.core"]


def test_objects_of_own_classes_travel_both_ways(executor: BatchExecutor, write: Write) -> None:
    module = write(
        {
            "shapes.py": (
                "class Square:\n    def __init__(self, side):\n        self.side = side\n\n"
                "    def doubled(self):\n        return Square(2 * self.side)\n\n\n"
                "class TooSmall(Exception):\n    pass\n\n\n"
                "def grow(square):\n    assert type(square) is Square\n"
                "    if square.side < 0:\n        raise TooSmall(square)\n    return square.doubled()\n"
            )
        }
    )
    grown = executor.submit(module.grow, module.Square(2)).result(60)
    assert type(grown) is module.Square
    assert grown.side == 4
    assert executor.submit(module.Square(3).doubled).result(60).side == 6
    with pytest.raises(module.TooSmall) as caught:
        executor.submit(module.grow, module.Square(-1)).result(60)
    assert type(caught.value.args[0]) is module.Square


def test_modules_are_unpacked_once_for_all_tasks_of_a_node(executor: BatchExecutor, write: Write) -> None:
    module = write(
        {
            "once.py": (
                "import os\n\n\ndef where(_):\n"
                "    kept = os.path.join(os.environ['AZ_BATCH_JOB_PREP_WORKING_DIR'], 'cache/kept')\n"
                "    return __file__, os.listdir(kept), os.getpid()\n"
            )
        }
    )
    found: list[Any] = list(executor.map(module.where, range(4), chunksize=1))
    assert len({file for file, _, _ in found}) == 1
    assert found[0][0] != module.__file__
    assert len({pid for _, _, pid in found}) == 4
    last: Any = executor.submit(module.where, 0).result(60)
    assert [name.partition("-")[0] for name in last[1]] == ["source"]


def test_what_changes_between_two_executors_arrives_changed(worker: Interpreter, write: Write) -> None:
    for text in ("one", "two"):
        module = write({"versioned.py": f"def text():\n    return {text!r}\n"})
        importlib.invalidate_caches()
        with BatchExecutor(max_workers=1, python=worker.python, echo=False) as executor:
            assert executor.submit(module.text).result(60) == text
        del sys.modules["versioned"]


def test_too_much_to_ship_is_refused_with_the_largest_files(worker: Interpreter, write: Write) -> None:
    package = write(
        {
            "heavy/__init__.py": "def work():\n    return 1\n",
            "heavy/huge.bin": "x" * 300_000,
            "heavy/big.bin": "x" * 200_000,
        }
    )
    with BatchExecutor(max_workers=1, python=worker.python, echo=False, source_limit_mb=0.1) as executor:
        error = executor.submit(package.work).exception(60)
        assert executor.submit(abs, -1).result(60) == 1
    assert isinstance(error, SourceError)
    text = str(error)
    assert "source_limit_mb" in text
    assert 0 < text.index("0.3 MB") < text.index("huge.bin") < text.index("big.bin")


# interpreters and packages that do not fit


def other_minors() -> list[str]:
    """Interpreters of other minors that stand beside this one."""
    ours = f"{sys.version_info[0]}.{sys.version_info[1]}"
    found = Path(sys.base_prefix).parent.glob("3.*/bin/python")
    paths = {path.parent.parent.name: str(path) for path in found}
    wanted = {name: path for name, path in paths.items() if not name.startswith(ours + ".")}
    return [path for name, path in wanted.items() if name.split(".")[1] in ("8", "10", "13")]


@pytest.mark.skipif(not other_minors(), reason="no Python of another minor is here")
@pytest.mark.parametrize("python", other_minors(), ids=lambda path: Path(path).parent.parent.name)
def test_another_minor_is_refused_before_any_user_code(python: str, write: Write, tmp_path: Path) -> None:
    trace = tmp_path / "imported"
    module = write(
        {
            "leaves_trace.py": (
                "import os\n\nif 'AZ_BATCH_TASK_ID' in os.environ:\n"
                f"    open({str(trace)!r}, 'w').close()\n\n\ndef work(x):\n    return x\n"
            )
        }
    )
    with BatchExecutor(max_workers=1, python=python, echo=False) as executor:
        error = executor.submit(module.work, 1).exception(60)
        assert isinstance(error, PythonMismatchError)
        with pytest.raises(PythonMismatchError):
            executor.submit(module.work, 1)
    assert f"this is CPython {sys.version_info[0]}.{sys.version_info[1]}" in str(error)
    minor = ".".join(Path(python).parent.parent.name.split(".")[:2])
    assert f"the worker runs CPython {minor}" in str(error)
    assert not trace.exists()


def test_a_package_that_the_worker_lacks_is_named(executor: BatchExecutor) -> None:
    numpy = pytest.importorskip("numpy")
    with pytest.raises(MissingModuleError, match="the worker has no module 'numpy'") as caught:
        executor.submit(numpy.linalg.norm, [3.0, 4.0]).result(60)
    assert caught.value.module == "numpy"
    assert "image" in str(caught.value)
    with pytest.raises(MissingModuleError, match="the arguments"):
        executor.submit(len, numpy.arange(3)).result(60)
    assert executor.submit(abs, -1).result(60) == 1


def test_a_package_that_own_code_lacks_there_arrives_as_python_tells_it(
    executor: BatchExecutor, write: Write
) -> None:
    pytest.importorskip("numpy")
    module = write({"wants_numpy.py": "def work():\n    import numpy\n    return numpy.pi\n"})
    with pytest.raises(ModuleNotFoundError, match="numpy"):
        executor.submit(module.work).result(60)
    early = write({"needs_numpy.py": "import numpy\n\n\ndef work():\n    return numpy.pi\n"})
    with pytest.raises(MissingModuleError, match="numpy"):
        executor.submit(early.work).result(60)


# scripts, as users write them


@pytest.fixture
def run(tmp_path: Path, worker: Interpreter) -> Callable[[str, dict[str, str]], list[str]]:
    """Runs a script, with files beside it, in another directory; the lines it prints."""

    def run(text: str, files: dict[str, str]) -> list[str]:
        for name, content in files.items():
            (tmp_path / name).write_text(content)
        script = Script(tmp_path, text, BATCHEXEC_PYTHON=worker.python)
        code, out, err = script.end()
        assert (code, err) == (0, "")
        script.leaves_nothing()
        return out.splitlines()

    return run


HELPER = {"my_helper.py": "SCALE = 10\n\n\ndef scaled(x):\n    return SCALE * x\n"}


def test_a_script_without_guard_runs_once(run: Callable[[str, dict[str, str]], list[str]]) -> None:
    lines = run(
        """
import my_helper
print("begin")

def work(x):
    return my_helper.scaled(x) + 1

class Point:
    def __init__(self, x): self.x = x

def move(point):
    return Point(my_helper.scaled(point.x))

ex = BatchExecutor(max_workers=2)
print(list(ex.map(my_helper.scaled, [1, 2])))
print(list(ex.map(work, [1, 2])))
moved = ex.submit(move, Point(3)).result()
print(isinstance(moved, Point), moved.x)
""",
        HELPER,
    )
    assert lines == ["begin", "[10, 20]", "[11, 21]", "True 30"]


def test_cells_of_a_notebook_run_as_they_are(run: Callable[[str, dict[str, str]], list[str]]) -> None:
    lines = run(
        '''
cells = ["""
from my_helper import scaled
offset = 1
def work(x):
    return scaled(x) + offset
""", """
offset = 5
ex = BatchExecutor(max_workers=1)
print(list(ex.map(work, [1, 2])))
print(ex.submit(lambda: sum(map(work, range(3)))).result())
"""]
for number, cell in enumerate(cells):
    exec(compile(cell, f"<ipython-input-{number}>", "exec"), globals())
''',
        HELPER,
    )
    assert lines == ["[15, 25]", "45"]

"""The user's own modules: what is found, what is shipped, and that it runs where only that exists."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import io
import os
import pickle
import shutil
import subprocess
import sys
import textwrap
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batchexec._source import Archive, Reached, bundle, dumps_recording
from batchexec.errors import SourceError

LIMIT = 10_000_000

# Isolated: neither the current directory nor any environment setting leads back to the client's files.
WORKER = """
import pickle, sys
sys.path.insert(0, sys.argv[1])
function, args = pickle.load(sys.stdin.buffer)
result = function(*args)
print(repr(result))
"""

# What a client does, at the end of a script of its own: pickle `fn`, write pickle and archive.
CLIENT = """
import pathlib, sys
from batchexec._source import bundle, dumps_recording
data, reached = dumps_recording((fn, ()))
out = pathlib.Path(sys.argv[1])
(out / "call.pickle").write_bytes(data)
archive = bundle(reached.local, limit_bytes=10_000_000)
if archive is not None:
    (out / "source.zip").write_bytes(archive.data)
print(sorted(reached.local), [name for name in reached.third_party])
"""


class Project:
    """A directory of user code on this process's `sys.path`, and a place where workers unpack."""

    def __init__(self, root: Path) -> None:
        self.code = root / "code"
        self.node = root / "node"
        self.code.mkdir()
        self.node.mkdir()

    def write(self, **files: str) -> None:
        """Write files; in a keyword `__` stands for / and the suffix is .py."""
        self.files({name.replace("__", "/") + ".py": text for name, text in files.items()})

    def files(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            path = self.code / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))

    def load(self, name: str) -> types.ModuleType:
        importlib.invalidate_caches()
        return importlib.import_module(name)

    def on_worker(self, function: Callable[..., Any], *args: object) -> Any:
        """Run on a worker that has the archive only; the value must have a repr that Python reads."""
        data, reached = dumps_recording((function, args))
        return self.run(data, bundle(reached.local, limit_bytes=LIMIT))

    def run(self, data: bytes, archive: Archive | None) -> Any:
        if archive is not None:
            with zipfile.ZipFile(io.BytesIO(archive.data)) as opened:
                opened.extractall(self.node)
        command = [sys.executable, "-I", "-c", WORKER, str(self.node)]
        done = subprocess.run(command, input=data, capture_output=True, cwd=self.node, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return eval(done.stdout.decode())

    def client(self, *command: str) -> tuple[str, Any]:
        """Run a client script in `code`; what it printed, and what its call gives on a worker."""
        out = self.node.parent / "out"
        out.mkdir()
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        run = subprocess.run(
            [sys.executable, *command, str(out)], cwd=self.code, env=env, capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
        if (out / "source.zip").exists():
            with zipfile.ZipFile(out / "source.zip") as opened:
                opened.extractall(self.node)
        return run.stdout.strip(), self.run((out / "call.pickle").read_bytes(), None)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    made = Project(tmp_path)
    monkeypatch.setattr(sys, "path", [str(made.code), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield made
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)) or name.startswith("t_"):
            del sys.modules[name]


def names_in(archive: Archive | None) -> list[str]:
    assert archive is not None
    return zipfile.ZipFile(io.BytesIO(archive.data)).namelist()


def test_a_package_runs_from_the_archive_with_its_data_and_lazy_submodules(project: Project) -> None:
    project.files(
        {
            "t_model/__init__.py": "",
            "t_model/data/weights.txt": "42",
            "t_model/late.py": "from pathlib import Path\n"
            "def read(): return int((Path(__file__).parent / 'data' / 'weights.txt').read_text())\n",
            "t_model/sub.py": """
                def fit(x):
                    from . import late
                    return x + late.read(), late.__file__, __file__
            """,
        }
    )
    value, late, sub = project.on_worker(project.load("t_model.sub").fit, 1)
    assert value == 43
    assert late == str(project.node / "t_model/late.py")
    assert sub == str(project.node / "t_model/sub.py")


def test_a_single_file_takes_along_the_data_it_names_beside_itself_and_nothing_else(project: Project) -> None:
    project.files(
        {
            "t_table.py": """
                import os
                from pathlib import Path
                HERE = Path(__file__).parent
                PARTS = HERE / "t_parts"
                def total():
                    one = (HERE / "t_a" / "one.csv").read_text()
                    two = open(os.path.join(os.path.dirname(__file__), "two.csv")).read()
                    three = open(f"{HERE}/three.csv").read() + open(str(HERE) + "/four.csv").read()
                    return one + two + three + "".join(sorted(p.read_text() for p in PARTS.iterdir()))
            """,
            "t_a/one.csv": "1",
            "t_a/unnamed.csv": "x",
            "two.csv": "2",
            "three.csv": "3",
            "four.csv": "4",
            "t_parts/five.csv": "5",
            "t_parts/six.csv": "6",
            "secret.csv": "x",
        }
    )
    total = project.load("t_table").total
    assert project.on_worker(total) == "123456"
    shipped = {str(p.relative_to(project.node)) for p in project.node.rglob("*.*") if p.suffix != ".pyc"}
    assert shipped == {
        *(
            "t_table.py",
            "t_a/one.csv",
            "two.csv",
            "three.csv",
            "four.csv",
            "t_parts/five.csv",
            "t_parts/six.csv",
        )
    }


def test_a_single_file_that_never_asks_where_it_is_takes_no_data(project: Project) -> None:
    project.files({"t_blind.py": "def f(): return {'t_big': 1}", "t_big/huge.bin": "x"})
    _, reached = dumps_recording(project.load("t_blind").f)
    assert names_in(bundle(reached.local, limit_bytes=LIMIT)) == ["t_blind.py"]


def test_a_directory_held_by_one_module_serves_the_file_names_of_its_neighbour(project: Project) -> None:
    project.files(
        {
            "t_paths.py": "from pathlib import Path\nHERE = Path(__file__).parent",
            "t_reader.py": "from t_paths import HERE\ndef f(): return (HERE / 'note.txt').read_text()",
            "note.txt": "found",
        }
    )
    assert project.on_worker(project.load("t_reader").f) == "found"


CALLABLES: dict[str, Callable[[types.ModuleType], Callable[..., Any]]] = {
    "function": lambda m: m.double,
    "partial": lambda m: functools.partial(m.add, 4),
    "bound method": lambda m: m.Adder(4).add,
    "class method": lambda m: m.Adder.four,
    "callable object": lambda m: m.Adder(4),
    "class": lambda m: m.Number,
    "decorated": lambda m: m.decorated,
    "lambda": lambda m: lambda x: m.double(x),
    "closure": lambda m: m.adder(4),
    "inside a container": lambda m: functools.partial(m.first, {"f": [m.double]}),
    "late import": lambda m: lambda x: importlib.import_module("t_kinds").double(x),
}


@pytest.mark.parametrize("kind", CALLABLES)
def test_every_kind_of_callable_finds_its_module(project: Project, kind: str) -> None:
    project.write(
        t_kinds="""
            import functools, t_kinds_base
            def double(x): return t_kinds_base.times(x, 2)
            def add(a, b): return a + b
            def first(functions, x): return functions["f"][0](x)
            def adder(n): return lambda x: add(n, x)
            class Adder:
                def __init__(self, n): self.n = n
                def add(self, x): return self.n + x
                __call__ = add
                @classmethod
                def four(cls, x): return cls(4).add(x)
            class Number(int): pass
            def traced(f):
                @functools.wraps(f)
                def inner(*args): return f(*args)
                return inner
            @traced
            def decorated(x): return double(x)
        """,
        t_kinds_base="def times(x, n): return x * n",
    )
    assert project.on_worker(CALLABLES[kind](project.load("t_kinds")), 4) in (8, 4)


def test_local_imports_are_followed_through_every_form_and_round_circles(project: Project) -> None:
    project.files(
        {
            "t_start.py": """
                import t_circle
                from t_pack import inner
                def f():
                    import importlib
                    import t_lazy
                    return t_lazy.N + inner.N + importlib.import_module("t_named").N
            """,
            "t_circle.py": "import t_start",
            "t_pack/__init__.py": "",
            "t_pack/inner.py": "from . import other\nfrom .other import N",
            "t_pack/other.py": "import t_far\nN = t_far.N",
            "t_far.py": "N = 1",
            "t_lazy.py": "N = 10",
            "t_named.py": "N = 100",
            "t_unrelated.py": "",
        }
    )
    function = project.load("t_start").f
    assert dumps_recording(function)[1].local == {
        "t_start",
        "t_circle",
        "t_pack",
        "t_far",
        "t_lazy",
        "t_named",
    }
    assert project.on_worker(function) == 111


def test_installed_modules_are_named_and_neither_they_nor_the_standard_library_are_shipped(
    project: Project,
) -> None:
    project.write(t_uses="import json, yarl\ndef f(): return json.dumps(str(yarl.URL('a')))")
    _, reached = dumps_recording(project.load("t_uses").f)
    assert reached.local == {"t_uses"}
    assert reached.third_party == ("yarl",)


def test_a_function_passed_by_value_names_what_its_body_imports_even_if_not_loaded(project: Project) -> None:
    body = "def fn():\n    def nested():\n        from aiohttp.web_log import X\n    import sys, t_late\n"
    project.files({"t_late.py": "", "script.py": body + "    return 'aiohttp' in sys.modules\n" + CLIENT})
    assert project.client("script.py") == ("['t_late'] ['aiohttp.web_log']", False)


def test_arrays_and_classes_of_installed_packages_name_their_modules() -> None:
    numpy = pytest.importorskip("numpy")
    _, reached = dumps_recording({"x": numpy.arange(3), "f": numpy.linalg.norm})
    assert "numpy" in reached.third_party
    assert reached.local == frozenset()
    assert all(name in sys.modules for name in reached.third_party)


@pytest.mark.parametrize("plain", [None, 3, "text", [1, {"a": (2.5, b"x")}], range(3)])
def test_plain_data_reaches_nothing(plain: object) -> None:
    data, reached = dumps_recording(plain)
    assert pickle.loads(data) == plain
    assert reached == Reached()
    assert bundle(reached.local, limit_bytes=0) is None


def test_buffers_go_out_of_band() -> None:
    content = bytearray(b"a" * 100_000)
    buffers: list[pickle.PickleBuffer] = []
    data, _ = dumps_recording(pickle.PickleBuffer(content), buffer_callback=buffers.append)
    assert len(data) < 100
    assert pickle.loads(data, buffers=buffers) == content


def test_a_script_ships_the_modules_its_functions_use_but_not_itself(project: Project) -> None:
    project.files(
        {
            "t_helpers.py": "def help(): return __file__",
            "t_quiet.py": "def name(): return __name__",
            "script.py": """
                import t_helpers, t_quiet as quiet
                class Local:
                    def run(self):
                        import t_helpers
                        return t_helpers.help(), quiet.name()
                def fn(): return Local().run()
            """
            + textwrap.indent(CLIENT, " " * 16),
        }
    )
    printed, (file, quiet) = project.client("script.py")
    assert printed == "['t_helpers', 't_quiet'] []"
    assert (file, quiet) == (str(project.node / "t_helpers.py"), "t_quiet")


def test_a_module_run_with_dash_m_ships_its_package_for_relative_imports(project: Project) -> None:
    project.files(
        {
            "t_app/__init__.py": "",
            "t_app/inner.py": "def where(): return __file__",
            "t_app/tool.py": "def fn():\n    from . import inner\n    return inner.where()\n" + CLIENT,
        }
    )
    printed, file = project.client("-m", "t_app.tool")
    assert printed == "['t_app'] []"
    assert file == str(project.node / "t_app/inner.py")


def test_a_local_package_named_like_an_installed_one_is_shipped_when_it_is_the_one_imported(
    project: Project,
) -> None:
    project.files(
        {"yarl/__init__.py": "def f(): return 'mine'", "script.py": "from yarl import f as fn\n" + CLIENT}
    )
    printed, value = project.client("script.py")
    assert printed == "['yarl'] []"
    assert value == "mine"


def test_an_editable_install_found_by_a_hook_is_local(project: Project) -> None:
    project.files(
        {
            "elsewhere/src/t_edit/__init__.py": "def f(): return __file__",
            "script.py": """
                import importlib.machinery, importlib.util, pathlib, sys
                class Finder:
                    def find_spec(self, name, path=None, target=None):
                        if name == "t_edit":
                            file = pathlib.Path("elsewhere/src/t_edit/__init__.py").resolve()
                            return importlib.util.spec_from_file_location(name, file)
                sys.meta_path.append(Finder())
                def fn():
                    import t_edit
                    return t_edit.f()
            """
            + textwrap.indent(CLIENT, " " * 16),
        }
    )
    printed, file = project.client("script.py")
    assert printed == "['t_edit'] []"
    assert file == str(project.node / "t_edit/__init__.py")


def test_namespace_packages_ship_their_local_portions_only(project: Project, tmp_path: Path) -> None:
    installed = tmp_path / "site-packages"
    (installed / "t_space" / "theirs").mkdir(parents=True)
    (installed / "t_space" / "theirs" / "__init__.py").write_text("def g(): return 1")
    sys.path.append(str(installed))
    project.files({"t_space/mine.py": "import t_space.theirs\ndef f(): return __file__"})
    _, reached = dumps_recording(project.load("t_space.mine").f)
    assert reached == Reached(frozenset({"t_space"}), ("t_space.theirs",))
    assert names_in(bundle(reached.local, limit_bytes=LIMIT)) == ["t_space/mine.py"]
    assert dumps_recording(project.load("t_space.theirs").g)[1] == (frozenset(), ("t_space.theirs",))


@pytest.mark.parametrize("name", ["t_by_path", "t_plugins.alpha"])
def test_a_module_loaded_by_path_is_shipped_under_the_name_it_was_given(project: Project, name: str) -> None:
    project.files({"odd/script-v2.py": "def f(): return __name__, __file__"})
    if "." in name:  # a plugin loader's, or pytest's, empty parent
        sys.modules["t_plugins"] = types.ModuleType("t_plugins")
    spec = importlib.util.spec_from_file_location(name, project.code / "odd/script-v2.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    assert project.on_worker(module.f) == (name, str(project.node / f"{name.replace('.', '/')}.py"))


def test_a_test_module_of_pytest_is_shipped() -> None:
    _, reached = dumps_recording(Project)
    assert __name__.partition(".")[0] in reached.local
    archive = bundle(reached.local, limit_bytes=LIMIT)
    assert any(name.endswith("test_source.py") for name in names_in(archive))


def test_nothing_is_imported_to_look_at_it(project: Project) -> None:
    project.files(
        {
            "t_calm/__init__.py": "def f():\n    import t_explosive\n",
            "t_calm/bad.py": "raise RuntimeError('imported')",
            "t_calm/template.py": "{{ not python }}",
            "t_explosive.py": "raise RuntimeError('imported')",
        }
    )
    _, reached = dumps_recording(project.load("t_calm").f)
    assert reached.local == {"t_calm", "t_explosive"}
    assert "t_explosive" not in sys.modules
    names = names_in(bundle(reached.local, limit_bytes=LIMIT))
    assert names == ["t_calm/__init__.py", "t_calm/bad.py", "t_calm/template.py", "t_explosive.py"]


UNWANTED = (
    "t_full/.env",
    "t_full/.git/config",
    "t_full/__pycache__/x.pyc",
    "t_full/old.pyc",
    "t_full/venv/pyvenv.cfg",
    "t_full/venv/x.py",
    "t_full/node_modules/x.js",
    "t_full/x.egg-info/PKG-INFO",
    "t_full/x.dist-info/METADATA",
)


def test_a_package_travels_without_caches_hidden_files_environments_and_links_that_lead_out(
    project: Project, tmp_path: Path
) -> None:
    (tmp_path / "outside.txt").write_text("private")
    (tmp_path / "linked.py").write_text("N = 1")
    project.files(
        {
            "t_full/__init__.py": "def f(): return 1",
            "t_full/data/a.txt": "a",
            **dict.fromkeys(UNWANTED, ""),
        }
    )
    package = project.code / "t_full"
    (package / "out.txt").symlink_to(tmp_path / "outside.txt")
    (package / "linked.py").symlink_to(tmp_path / "linked.py")
    (package / "again.txt").symlink_to(package / "data/a.txt")
    (package / "data" / "up").symlink_to(package)
    (package / "itself").symlink_to(package / "itself")
    (package / "more").symlink_to(package / "data")
    _, reached = dumps_recording(project.load("t_full").f)
    assert names_in(bundle(reached.local, limit_bytes=LIMIT)) == [
        *(
            "t_full/__init__.py",
            "t_full/again.txt",
            "t_full/data/a.txt",
            "t_full/linked.py",
            "t_full/more/a.txt",
        )
    ]


def test_compiled_extensions_go_along(project: Project) -> None:
    compiled = importlib.util.find_spec("_heapq")
    if compiled is None or not compiled.has_location or compiled.origin is None:
        pytest.skip("this Python has its extensions built in")
    project.files(
        {"t_fast/__init__.py": "def f():\n    from t_fast import _heapq\n    return _heapq.__file__"}
    )
    target = project.code / "t_fast" / Path(compiled.origin).name
    shutil.copy(compiled.origin, target)
    assert project.on_worker(project.load("t_fast").f) == str(project.node / "t_fast" / target.name)


def test_the_same_content_has_the_same_hash_wherever_and_whenever_it_was_written(project: Project) -> None:
    hashes: list[str] = []
    for place, text in [("one", "1"), ("two", "1"), ("three", "2")]:
        project.files({f"{place}/t_same/__init__.py": "", f"{place}/t_same/data.txt": text})
        os.utime(project.code / place / "t_same" / "data.txt", (0, len(hashes)))
        sys.path.insert(0, str(project.code / place))
        importlib.invalidate_caches()
        archive = bundle(["t_same"], limit_bytes=LIMIT)
        assert archive is not None
        assert (archive.names, archive.size) == (("t_same",), 1)
        hashes.append(archive.sha256)
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_changed_file_changes_the_archive(project: Project) -> None:
    project.files({"t_edit2.py": "N = 1"})
    first = bundle(["t_edit2"], limit_bytes=LIMIT)
    assert first == bundle(["t_edit2"], limit_bytes=LIMIT)
    project.files({"t_edit2.py": "N = 12"})
    assert bundle(["t_edit2"], limit_bytes=LIMIT) != first


def test_too_much_source_names_the_limit_the_setting_and_the_five_largest_files(project: Project) -> None:
    project.files({"t_large/__init__.py": ""} | {f"t_large/{n}.bin": "x" * 1000 * n for n in range(1, 8)})
    with pytest.raises(SourceError, match="source_limit_mb") as failed:
        bundle(["t_large"], limit_bytes=20_000)
    message = str(failed.value)
    assert "28.0 kB" in message
    assert "20.0 kB" in message
    assert [f"{n}.bin" in message for n in range(1, 8)] == [False, False, True, True, True, True, True]


def test_data_files_of_two_directories_that_would_meet_are_refused(project: Project, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    sys.path.append(str(other))
    source = "from pathlib import Path\nX = Path(__file__).parent / 'table.csv'"
    project.files({"t_left.py": source, "table.csv": "1"})
    (other / "t_right.py").write_text(source)
    (other / "table.csv").write_text("2")
    with pytest.raises(SourceError) as failed:
        bundle(["t_left", "t_right"], limit_bytes=LIMIT)
    assert str(project.code / "table.csv") in str(failed.value)
    assert str(other / "table.csv") in str(failed.value)


def test_a_module_made_in_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("t_memory")
    exec("def f(): pass", module.__dict__)
    monkeypatch.setitem(sys.modules, "t_memory", module)
    with pytest.raises(SourceError, match="'t_memory' was made in this process"):
        dumps_recording(module.f)


def test_a_module_inside_a_zip_archive_is_refused(project: Project) -> None:
    archive = project.code / "lib.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("t_zipped.py", "def f(): pass")
    sys.path.insert(0, str(archive))
    with pytest.raises(SourceError, match=r"lib\.zip.*t_zipped\.py.*zip archive"):
        dumps_recording(project.load("t_zipped").f)


def test_a_module_whose_file_has_gone_is_refused_by_name(project: Project) -> None:
    project.write(t_gone="def f(): pass")
    function = project.load("t_gone").f
    (project.code / "t_gone.py").unlink()
    with pytest.raises(SourceError, match=r"t_gone\.py"):
        dumps_recording(function)


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="needs a file whose reading always fails")
def test_an_unreadable_file_is_refused_by_name(project: Project) -> None:
    project.files({"t_sealed/__init__.py": ""})
    (project.code / "t_sealed/sealed.py").symlink_to("/proc/self/mem")
    with pytest.raises(SourceError, match=r"cannot read .*sealed\.py"):
        bundle(["t_sealed"], limit_bytes=LIMIT)


def test_a_module_that_hides_a_standard_one_is_refused(project: Project) -> None:
    project.files({"this.py": "def f(): return 1"})
    with pytest.raises(SourceError, match=r"'this'.*standard-library.*rename"):
        dumps_recording(project.load("this").f)

"""Which imports of a module count: those that a node comes by, and what is known of the others."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers_wheels import installed, on_path, wheel

from batchexec._source import dumps_recording
from batchexec._source.conditions import When
from batchexec._source.imports import code_imports, source_imports
from batchexec._source.packages import needed as packages
from batchexec._source.packages import requirements_files, scripts
from batchexec.errors import RequirementsError


def imports(folder: Path, source: str) -> dict[str, When]:
    path = folder / "source.py"
    path.write_text(textwrap.dedent(source))
    state = path.stat()
    return {item.module: item.when for item in source_imports(str(path), state.st_mtime_ns, state.st_size)}


def branches(folder: Path, test: str) -> str:
    """Of `if test: one` and `else: other`, what becomes of their imports."""
    found = imports(folder, f"import platform\nif {test}:\n    import one\nelse:\n    import other\n")
    return " ".join(f"{name}:{found[name].name}" for name in ("one", "other") if name in found)


@pytest.mark.parametrize(
    ("test", "told"),
    [
        ("TYPE_CHECKING", "other:ALWAYS"),
        ("typing.TYPE_CHECKING", "other:ALWAYS"),
        ("not TYPE_CHECKING", "one:ALWAYS"),
        ("TYPE_CHECKING and unknown", "other:ALWAYS"),
        ("TYPE_CHECKING or unknown", "one:ALWAYS other:ALWAYS"),
        ("not TYPE_CHECKING or unknown", "one:ALWAYS"),
        ("False", "other:ALWAYS"),
        ("1", "one:ALWAYS"),
        ("unknown", "one:ALWAYS other:ALWAYS"),
        ("checker.TYPE_CHECKING_TOO", "one:ALWAYS other:ALWAYS"),
        ("__name__ == '__main__'", "one:AS_SCRIPT other:ALWAYS"),
        ("__name__ != '__main__'", "one:ALWAYS other:AS_SCRIPT"),
        ("__name__ in ('__main__', 'cell')", "one:AS_SCRIPT other:ALWAYS"),
        ("__name__ == 'package.module'", "one:ALWAYS other:ALWAYS"),
        ("sys.platform == 'win32'", "one:ELSEWHERE other:ALWAYS"),
        ("sys.platform.startswith('win')", "one:ELSEWHERE other:ALWAYS"),
        ("sys.platform.startswith(('lin', 'win'))", "one:ALWAYS other:ELSEWHERE"),
        ("sys.platform in ['win32', 'darwin']", "one:ELSEWHERE other:ALWAYS"),
        ("sys.platform not in {'win32', 'darwin'}", "one:ALWAYS other:ELSEWHERE"),
        ("os.name == 'nt'", "one:ELSEWHERE other:ALWAYS"),
        ("os.name != 'nt' and not TYPE_CHECKING", "one:ALWAYS other:ELSEWHERE"),
        ("os.name == 'nt' or TYPE_CHECKING", "one:ELSEWHERE other:ALWAYS"),
        ("os.name == 'nt' and TYPE_CHECKING", "other:ALWAYS"),
        ("platform.system() == 'Windows'", "one:ELSEWHERE other:ALWAYS"),
        ("platform.system() == unknown", "one:ALWAYS other:ALWAYS"),
    ],
)
def test_the_branches_that_a_node_takes(tmp_path: Path, test: str, told: str) -> None:
    assert branches(tmp_path, test) == told


def test_one_condition_within_another(tmp_path: Path) -> None:
    found = imports(
        tmp_path,
        """
        if a:
            import b
        elif TYPE_CHECKING:
            import c
        elif os.name == "nt":
            try:
                import d
            except ImportError:
                d = None
        else:
            def e():
                if __name__ == "__main__":
                    import f
                import g
        """,
    )
    assert found == {"b": When.ALWAYS, "d": When.ELSEWHERE, "f": When.AS_SCRIPT, "g": When.ALWAYS}


def test_what_is_only_tried(tmp_path: Path) -> None:
    found = imports(
        tmp_path,
        """
        try:
            import a
            def f():
                import b
        except (AttributeError, ModuleNotFoundError):
            import c
        else:
            import d
        try:
            import e
        except ValueError:
            import f
        try:
            import g
        finally:
            import h
        with contextlib.suppress(ImportError):
            import i
        with contextlib.suppress(KeyError), open("x"):
            import j
        try:
            import k
        except:
            pass
        """,
    )
    assert {name for name, when in found.items() if when is When.IF_IT_CAN} == {"a", "b", "i", "k"}
    assert set(found) == set("abcdefghijk")


def test_modules_that_are_imported_by_calls(tmp_path: Path) -> None:
    found = imports(
        tmp_path,
        """
        importlib.import_module("a.b")
        import_module(name="c")
        __import__("d", globals())
        importlib.import_module(unknown)
        importlib.import_module("not a name")
        if TYPE_CHECKING:
            importlib.import_module("e")
        """,
    )
    assert found == dict.fromkeys(["a.b", "c", "d"], When.ALWAYS)


def test_a_module_that_makes_its_names_later_imports_what_it_tells_type_checkers(tmp_path: Path) -> None:
    declared = "if TYPE_CHECKING:\n    from .late import thing\n"
    assert imports(tmp_path, declared) == {}
    assert imports(tmp_path, f"{declared}def __getattr__(name):\n    ...\n") == {"late": When.ALWAYS}
    assert imports(tmp_path, f"__getattr__, *_ = lazy.attach(__name__, [])\n{declared}") == {"late": When.ALWAYS}


def test_the_same_within_functions_of_a_script() -> None:
    def function(unknown: bool) -> None:
        import typing
        from typing import TYPE_CHECKING

        if TYPE_CHECKING:
            import a  # type: ignore[import-not-found]
        elif unknown:
            import b  # type: ignore[import-not-found]
        if typing.TYPE_CHECKING and unknown:
            from c import d  # type: ignore[import-not-found]
        if not TYPE_CHECKING:
            import e

            print(e)
        print(a, b, d)

    assert [item.module for item in code_imports(function.__code__)] == ["typing", "typing", "b", "e"]


# and so the packages


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Path]:
    """A directory for modules, on the path, beside one of installed packages."""
    site, own = tmp_path / "site-packages", tmp_path / "own"
    own.mkdir()
    windows = {"win-c": "Classifier: Operating System :: Microsoft :: Windows\n"}
    for name in ("used-c", "typed-c", "shown-c", "behind-c", "tried-c", *windows):
        installed(site, wheel(tmp_path / "made", name, metadata=windows.get(name, "")))
    with on_path(site), on_path(own):
        yield own


def requirements_of(function: Any) -> packages.Plan:
    reached = dumps_recording(function)[1]
    wanted = requirements_files.read(("auto",), local=False)
    return packages.plan(wanted, packages.modules_of(reached), reached.local, False)


def test_only_what_a_node_runs_is_required(here: Path) -> None:
    (here / "typed_only_c.py").write_text("import behind_c\n")
    (here / "work_c.py").write_text(
        "import used_c\nfrom typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import typed_c, typed_only_c\n"
        "import sys\nif sys.platform == 'win32':\n    import win_c\n"
        "try:\n    import absent_c, tried_c\nexcept ImportError:\n    import tried_c\n"
        "def work():\n    return used_c.VERSION\n"
        "if __name__ == '__main__':\n    import shown_c\n"
    )
    work = importlib.import_module("work_c").work
    for name in ("typed_c", "typed_only_c", "shown_c", "win_c"):  # loaded by something else
        importlib.import_module(name)
    plan = requirements_of(work)
    assert plan.requirements == ["tried-c==1.0", "used-c==1.0"]
    assert not plan.warnings


def test_what_is_only_tried_and_not_to_be_had_is_left_out_with_a_warning(here: Path) -> None:
    (here / "tries_c.py").write_text("try:\n    import win_c\nexcept ImportError:\n    win_c = None\ndef f(): pass\n")
    plan = requirements_of(importlib.import_module("tries_c").f)
    assert plan.requirements == []
    assert plan.without == ["win_c"]
    (text,) = plan.warnings
    assert text.startswith("nodes do without win_c, which your modules only try to import: win-c 1.0 (module win_c)")
    (here / "needs_c.py").write_text("import tries_c\ndef f():\n    import win_c\n")
    with pytest.raises(RequirementsError, match=r"win-c 1\.0 .* is for Windows"):
        requirements_of(importlib.import_module("needs_c").f)


def test_what_a_package_needs_that_is_left_out_is_left_out_too(here: Path, tmp_path: Path) -> None:
    url = '{"url": "https://example.org/x.git", "vcs_info": {"vcs": "git"}}'
    for name, requires in (("core-c", ["below-c"]), ("below-c", [])):
        module = name.replace("-", "_")
        made = wheel(tmp_path / "made", name, files={f"{module}.py": "", f"{module}_fast.so": ""}, requires=requires)
        installed(tmp_path / "site-packages", made, direct_url=url)
    (here / "faster_c.py").write_text(
        "import used_c\ntry:\n    import core_c\nexcept ImportError:\n    pass\ndef f(): pass\n"
    )
    plan = requirements_of(importlib.import_module("faster_c").f)
    assert (plan.requirements, plan.constraints, plan.without) == (["used-c==1.0"], [], ["core_c"])
    assert len(plan.warnings) == 1


def test_a_script_that_is_run_needs_what_it_imports_as_a_script(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    script = here / "script_c.py"
    script.write_text(
        "from typing import TYPE_CHECKING\nimport missing_c\nif TYPE_CHECKING:\n    import typed_c\n"
        "try:\n    import absent_c, tried_c\nexcept ImportError:\n    pass\n"
        "if __name__ == '__main__':\n    import shown_c\n"
    )
    needed = scripts.needed_by(str(script))
    assert needed.third_party == {"tried_c", "shown_c"}
    assert needed.missing == {"missing_c"}

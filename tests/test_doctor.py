"""`batchexec doctor --requirements`: packages tried before a node is started."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest
from helpers_wheels import installed, options, wheel

from batchexec._cli import main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Here: packages on the path, an index that has some of them, and a script with a module of its own."""
    site, index = tmp_path / "site-packages", tmp_path / "index"
    for name in ("sound-d", "broken-d", "hidden-d", "pinned-d"):
        files = {"broken_d.py": "import absent_d\n"} if name == "broken-d" else None
        requires = ["pinned-d"] if name == "sound-d" else []
        installed(site, wheel(index, name, "1.5", files, requires))
    (index / "hidden_d-1.5-py3-none-any.whl").unlink()
    wheel(index, "pinned-d", "2.0")
    (tmp_path / "own_d.py").write_text("def use():\n    from sound_d import VERSION\n    return VERSION\n")
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    return tmp_path


def doctor(folder: Path, script: str, *more: str) -> int:
    path = folder / "script.py"
    path.write_text(f"{script}\nraise SystemExit('this was run')\n")
    tried = [f"--pip-option={word}" for word in options(folder / "index")]
    return main(["doctor", "--requirements", str(path), *tried, *more])


@pytest.mark.slow
@pytest.mark.here
def test_what_a_script_needs_is_installed_and_imported_as_on_a_node_and_goes_again(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert doctor(folder, "import own_d, broken_d, nowhere_d\nfrom os import path\n") == 1
    out, err = capfd.readouterr()
    assert out.splitlines() == [
        "broken-d==1.5  module broken_d",
        "sound-d==1.5   module sound_d",
        "with 1 more that these need, in the versions that are installed here:",
        "  pinned-d==1.5",
    ]
    assert "not found here, so not on nodes either: module nowhere_d" in err
    assert "cannot be imported there: broken_d: ModuleNotFoundError: No module named 'absent_d'" in err
    assert "sound_d:" not in err
    assert list((folder / "scratch").iterdir()) == []


@pytest.mark.slow
@pytest.mark.here
def test_what_the_index_lacks_ends_with_the_resolvers_words(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert doctor(folder, "import hidden_d") == 1
    err = capfd.readouterr().err
    assert "the packages cannot be installed (resolution)" in err
    assert "hidden-d==1.5" in err
    assert list((folder / "scratch").iterdir()) == []


def test_a_list_installs_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert doctor(folder, "import own_d", "--list", "--add", "pinned-d>=2") == 0
    assert capfd.readouterr().out.splitlines() == ["pinned-d>=2   asked for", "sound-d==1.5  module sound_d"]
    assert doctor(folder, "import os", "--list") == 0
    assert "nothing but the standard library" in capfd.readouterr().out


def test_a_script_that_cannot_be_read_is_named(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--requirements", str(folder / "none.py")]) == 1
    assert "cannot read" in capfd.readouterr().err
    (folder / "wrong.py").write_text("import os\ndef f(: pass\n")
    (folder / "a.ipynb").write_text('{"cells": []}')
    for name, told in (("wrong.py", "wrong.py, line 2: invalid syntax"), ("a.ipynb", "nbconvert --to script")):
        assert main(["doctor", "--requirements", str(folder / name), "--list"]) == 1
        assert told in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.here
def test_what_can_be_had_ends_well(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert doctor(folder, "import own_d") == 0
    assert "all of it can be installed and imported" in capfd.readouterr().out

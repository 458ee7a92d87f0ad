"""What is said of modules that a node lacks and that are here: what to add to requirements=."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers_wheels import installed, on_path, wheel

from batchexec._engine.results import lacking

CHAINED = (
    "Traceback (most recent call last):\nModuleNotFoundError: No module named '{}'\n\n"
    "The above exception was the direct cause of the following exception:\n\nTraceback ...\n"
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path) -> Iterator[None]:
    """Here: a distribution whose module has another name, a module of the user's own, and no fastparquet."""
    installed(
        tmp_path / "site-packages", wheel(tmp_path / "made", "Some-Tables", "1.5+cpu", {"tables_l.py": "A = 1\n"})
    )
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "own_l.py").write_text("")
    with on_path(tmp_path / "site-packages"), on_path(tmp_path / "own"):
        yield


@pytest.mark.parametrize(
    "text",
    [
        "No module named 'tables_l'",
        "No module named 'tables_l.inner'",
        "Missing optional dependency 'tables_l'.  Use pip or conda to install tables_l.",
        "Missing optional dependency 'Some-Tables'.",
        "Unable to find a usable engine ...\n - `Import tables_l` failed.  Use pip\n - `Import nowhere_l` failed.",
        "plot_it requires tables_l. You can install tables_l with `pip install tables_l`",
        'tables_l is required for plotting when the default backend "tables_l" is selected.',
        "Please install tables_l to do so",
        "Setting output container to 'tables_l' requires tables_l to be installed",
    ],
)
def test_what_a_library_says_that_it_needs_is_named_as_it_is_listed(text: str) -> None:
    told = lacking.advice_on(text, f"Traceback ...\nImportError: {text}", True)
    assert told is not None
    assert 'add "Some-Tables" to requirements=, as in requirements=["auto", "Some-Tables"]' in told


def test_the_cause_of_a_librarys_error_goes_before_its_words() -> None:
    both = CHAINED.format("tables_l") + CHAINED.format("fastparquet_l")
    told = lacking.advice_on("Unable to find a usable engine", both, True)
    assert told is not None
    assert told.startswith("tables_l is installed here, by Some-Tables")
    assert lacking.advice_on("failed", CHAINED.format("tables_l"), False) == told
    assert (
        lacking.advice_on("failed", "ModuleNotFoundError: No module named 'tables_l'\n\nDuring handling", False) is None
    )
    own = lacking.advice_on("failed", CHAINED.format("own_l"), True)
    assert own is not None
    assert "own_l is your own" in own


@pytest.mark.parametrize(
    "text", ["No module named 'nowhere_l'", "nothing_l is required", "circular import", "install it with care"]
)
def test_of_what_is_not_here_nothing_is_said(text: str) -> None:
    assert lacking.advice_on(text, text, True) is None


def test_another_version_is_told_by_what_is_lacking() -> None:
    importlib.import_module("tables_l")
    told = lacking.advice_on("cannot import name 'A' from 'tables_l' (/there/tables_l.py)", "", True)
    assert told is not None
    assert 'requirements=["auto", "Some-Tables==1.5"]' in told
    assert lacking.advice_on("cannot import name 'B' from 'tables_l' (/there/tables_l.py)", "", True) is None


def test_a_library_of_the_system_is_the_images() -> None:
    text = "libGL.so.1: cannot open shared object file: No such file or directory"
    told = lacking.advice_on(text, text, True)
    assert told is not None
    assert told.startswith("libGL.so.1 is a library of the system")

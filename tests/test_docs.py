"""What the documentation says holds: its programs run, its links lead somewhere, its commands exist."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import fields
from inspect import signature
from pathlib import Path

import pytest

from batchexec import BatchConfig, BatchExecutor, Command, _cli

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("docs/*.md")), ROOT / "examples" / "README.md"]
README = PAGES[0].read_text(encoding="utf-8")


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


SNIPPETS = [
    pytest.param(code, id=f"{page.stem}-{number}")
    for page in PAGES[2:]
    for number, code in enumerate(blocks("python", page.read_text(encoding="utf-8")))
]
PROGRAMS = [snippet for snippet in SNIPPETS if "with BatchExecutor(" in str(snippet.values[0])]


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.splitlines()[-1].strip())
def test_a_program_in_the_readme_runs_as_it_is(code: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("code", PROGRAMS)
def test_a_program_in_the_pages_runs_as_it_is(code: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "settings.ini").write_text("[model]")
    (tmp_path / "script.py").write_text(code, encoding="utf-8")
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("code", SNIPPETS)
def test_what_the_pages_give_to_executors_and_commands_can_be_given(code: str) -> None:
    known = {
        "BatchExecutor": {field.name for field in fields(BatchConfig)} | {*signature(BatchExecutor).parameters},
        "Command": {*signature(Command).parameters},
    }
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            names = {keyword.arg for keyword in node.keywords}
            assert names <= known.get(node.func.id, names)


def test_the_commands_in_the_readme_exist() -> None:
    shell = "\n".join(blocks("sh"))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^make ([\w-]+)", shell, re.MULTILINE)
    commands = re.findall(r"^batchexec ([\w-]+)", shell, re.MULTILINE) + re.findall(r"`batchexec ([\w-]+)", README)
    assert targets
    assert commands
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
    assert set(commands) <= set(_cli.COMMANDS)


def test_the_variables_in_the_readme_are_read() -> None:
    table = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    exported = re.findall(r"^export (\w+)=", "\n".join(blocks("sh")), re.MULTILINE)
    assert exported
    assert all(f"`{name}`" in table for name in exported)


def anchors(page: Path) -> set[str]:
    """What `page#...` may name: its headings, as GitHub writes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{link} in {page.name}"
        assert target.is_relative_to(ROOT), f"{link} in {page.name} leaves the project"
        if anchor:
            assert anchor in anchors(target), f"{link} in {page.name}"

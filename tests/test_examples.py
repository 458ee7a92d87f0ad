"""Every example runs as it is, from anywhere, says that its results are those of its serial twin, and is short."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest
from helpers_service import scrubbed
from helpers_wheels import options, wheel

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
LINES = {
    **{"kfold.py": 12, "sum_of_powers.py": 12, "sparse_grid.py": 12},
    **{"files_app.py": 15, "parameter_sweep.py": 20, "split_merge.py": 20},
}
OURS = "With BatchExecutor"
NOT_OURS = ("Model", "Data", "Serial twin")
QUICK = ("sum_of_powers.py",)


def cells(path: Path) -> dict[str, str]:
    """The text of each cell by the first words of its title."""
    _, *found = re.split(r"^# %% ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.split("[:,\n]", cell)[0]: cell.partition("\n")[2] for cell in found}


def code_lines(text: str) -> int:
    """Lines that hold more than blanks and comments."""
    empty = {tokenize.NL, tokenize.NEWLINE, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in empty:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines)


RUNS = [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in LINES]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", RUNS)
def test_an_example_runs_and_its_results_are_those_of_its_serial_twin(name: str, tmp_path: Path) -> None:
    work, temporary, wheels = (tmp_path / part for part in ("work", "tmp", "wheels"))
    work.mkdir()
    temporary.mkdir()
    inflection(wheels)
    environment = scrubbed(TMPDIR=str(temporary), BATCHEXEC_PIP_OPTIONS=json.dumps(options(wheels)))
    command = [sys.executable, str(EXAMPLES / name)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=work, timeout=280, env=environment)
    assert done.returncode == 0, done.stderr
    assert "same as the serial loop: True" in done.stdout, done.stdout
    if name == "sum_of_powers.py":
        assert done.stdout.splitlines()[0] == "9.532962532158818"
    assert not list(work.iterdir()), "it leaves files behind"
    assert not list(temporary.iterdir()), "it leaves temporary files behind"


def inflection(folder: Path) -> None:
    """What programs/transform requires, for nodes that can reach no index: as much of it as the program uses."""
    text = 'import re\ndef underscore(word):\n    return re.sub(r"([a-z\\d])([A-Z])", r"\\1_\\2", word).lower()\n'
    wheel(folder, "inflection", "0.5.1", {"inflection.py": text})


@pytest.mark.parametrize("name", LINES)
def test_an_example_takes_few_lines_of_the_user(name: str) -> None:
    titles = cells(EXAMPLES / name)
    assert OURS in titles
    assert set(titles) <= {OURS, *NOT_OURS}
    assert 0 < code_lines(titles[OURS]) <= LINES[name]
    others = "\n".join(text for title, text in titles.items() if title != OURS)
    assert "batchexec" not in others.replace("BatchExecutor", "batchexec"), "ours is in its own cell"


def test_no_example_has_an_image_a_worker_script_or_a_config_file() -> None:
    # Modules and programs that were there before, with the requirements of one of them.
    there = {path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("*") if path.is_file()}
    there = {name for name in there if "__pycache__" not in name}
    modules = {"example_data.py", "sparse_fit.py", "stations.py"}
    programs = {"programs/decay.c", "programs/transform/transform.py", "programs/transform/requirements.txt"}
    assert there == {"README.md", *LINES, *modules, *programs}
    for name in modules | programs:
        assert "batchexec import" not in (EXAMPLES / name).read_text(encoding="utf-8")


def test_every_example_is_in_the_list() -> None:
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert all(f"({name})" in listed for name in LINES)

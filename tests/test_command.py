"""A Command: its words, its parameters and its files, by programs that run on this machine."""

from __future__ import annotations

import itertools
import math
import os
import pickle
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from helpers_commands import HOSTILE, WORDS, here, words
from hypothesis import given, settings
from hypothesis import strategies as st

from batchexec import BatchExecutor, BlobPath, Command
from batchexec.errors import ConfigError, FilesError

__all__ = ["here"]


# words


@pytest.mark.parametrize("value", HOSTILE)
def test_a_value_stays_one_word_whatever_is_in_it(value: str) -> None:
    assert words(Command(f"{WORDS} {{x}} --x={{x}}"), x=value) == [value, f"--x={value}"]
    assert words(Command(["printf", "%s\\0", "{x}", "b c"]), x=value) == [value, "b c"]
    assert words(Command(f"{WORDS} {{x}} --x={{x}}", shell=True), x=value) == [value, f"--x={value}"]


@settings(max_examples=30)
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",))))
def test_any_text_arrives_by_word_and_by_shell(value: str) -> None:
    bound = Command("printf %s {x}", shell=True)
    done = subprocess.run(["/bin/sh", "-c", spec_of(bound, x=value)["shell"]], capture_output=True, check=True)
    assert done.stdout.decode() == value
    assert spec_of(Command("printf %s a{x}"), x=value)["argv"] == ["printf", "%s", f"a{value}"]


def spec_of(command: Command, *args: Any, **kwargs: Any) -> dict[str, Any]:
    from batchexec._command.binding import Bound

    return Bound(command).run(args, kwargs).spec


def test_placeholders_take_formats_and_braces_are_doubled() -> None:
    command = Command(f"{WORDS} {{n:03d}} {{x:.2f}} {{{{n}}}} '{{n}} {{x}}'")
    assert words(command, {"n": 7, "x": 1.5}) == ["007", "1.50", "{n}", "7 1.5"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("prog {x.real}", "no placeholder"),
        ("prog {0}", "no placeholder"),
        ("prog {}", "no placeholder"),
        ("prog {x!r}", "takes a format"),
        ("prog {x:{y}}", "takes a format"),
        ("prog {x", "braces that are meant"),
        ("prog 'x", "cannot be split"),
        ("a | b", "shell=True"),
        ("a > b", "shell=True"),
        ("a && b", "shell=True"),
        ("a 2>&1", "shell=True"),
        ("a; b", "shell=True"),
        ("a $HOME", "shell=True"),
        ("a ${{HOME}} $(b)", "shell=True"),
        ("a `b`", "shell=True"),
        ("RATE=1 ./a", "env={'RATE': '1'}"),
        ("{app}/prog", "give app="),
    ],
)
def test_a_text_that_cannot_be_meant_is_refused_where_it_is_written(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Command(text)


def test_what_a_shell_would_do_may_be_quoted() -> None:
    assert words(Command(f"{WORDS} '|' 'a > b' '$HOME' \"`b`\" \\$HOME 'a;' \\; 5$ $")) == [
        *("|", "a > b", "$HOME", "`b`", "$HOME", "a;", ";", "5$", "$")
    ]
    assert Command("printf x | tr x y", shell=True)().stdout == "y"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"when": "never"}, "when"),
        ({"timeout": 0}, "timeout"),
        ({"outputs": "../x"}, "below"),
        ({"outputs": "/tmp/x"}, "below"),
        ({"outputs": {"a b": "x"}}, "placeholder's name"),
        ({"inputs": {"x": "a"}, "outputs": {"x": "b"}}, "one thing only"),
        ({"env": {"A=B": "x"}}, "env"),
        ({"env": ["NOBODY_SET_THIS"]}, "not set here"),
        ({"env": {"NOBODY_SET_THIS": None}}, "not set here"),
        ({"timeout": math.inf}, "timeout"),
    ],
)
def test_options_that_cannot_be_meant_are_refused_where_they_are_written(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Command("prog", **options)


@pytest.mark.parametrize(
    ("command", "options", "says"),
    [
        (None, {}, "one text or a list of words"),
        (b"ls", {}, "one text or a list of words"),
        (["ls", 3], {}, "give '3'"),
        ("prog", {"inputs": 3}, "inputs=3"),
        ("prog", {"inputs": [3]}, "inputs: expected paths"),
        ("prog", {"outputs": 3}, "outputs=3"),
        ("prog", {"outputs": {"out": 3}}, "outputs: expected patterns"),
        ("prog", {"env": 3}, "env=3"),
        ("prog", {"timeout": "5"}, "timeout='5': expected a number"),
        ("prog", {"memory": True}, "memory=True"),
        ("prog", {"cores": 1.5}, "cores=1.5: expected a whole number"),
    ],
)
def test_values_of_another_type_are_refused_by_name(command: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(TypeError, match=re.escape(says)):
        Command(command, **options)


@pytest.mark.parametrize(
    ("args", "kwargs", "says"),
    [
        ((), {}, r"nothing is given for \{a\}, \{b\}"),
        (({"a": 1},), {"c": 2}, r"nothing is given for \{b\} of the command: there is a, c, out"),
        (({"a": 1},), {"a": 2}, "a: given twice"),
        ((1, 2), {}, "one value without a name"),
        ((1,), {}, r"there is input, out \(what is given without a name; with one: a=\.\.\.\)"),
        ((), {"a": 1, "b": 2, "out": 3}, "out: the command has"),
        (({1: 2},), {}, "names of parameters"),
    ],
)
def test_parameters_that_do_not_fit_are_refused_at_the_call(args: Any, kwargs: Any, says: str) -> None:
    command = Command("prog {a} {b} {out}", outputs={"out": "x"})
    with pytest.raises(TypeError, match=says):
        command(*args, **kwargs)
    with pytest.raises(TypeError, match=says), BatchExecutor(where="inline") as ex:
        ex.submit(command, *args, **kwargs)


class Frame:
    """As much of a frame of pandas as a map asks for: it is gone over by its columns' names."""

    def __iter__(self) -> Iterator[str]:
        return iter(("n", "m"))

    def itertuples(self) -> Iterator[Any]:
        return itertools.starmap(NamedTuple("Row", [("n", int), ("m", str)]), [(1, "a"), (2, "b")])

    def to_dict(self, orient: str) -> list[dict[str, Any]]:
        assert orient == "records"
        return [row._asdict() for row in self.itertuples()]


def test_rows_of_tables_are_mappings_too() -> None:
    command = Command(f"{WORDS} {{n}} {{m}}")
    with BatchExecutor(where="inline") as ex:
        for rows in (Frame(), Frame().itertuples(), [{"n": 1, "m": "a"}, {"n": 2, "m": "b"}]):
            assert [result.parameters for result in ex.map(command, rows)] == [{"n": 1, "m": "a"}, {"n": 2, "m": "b"}]


@pytest.mark.parametrize("buffersize", [None, 2])
def test_what_is_no_row_of_a_map_is_refused(buffersize: int | None) -> None:
    command = Command("prog {n}")
    with BatchExecutor(where="inline") as ex:
        for given, says in (("cases/*.txt", "give a list"), (Path("a"), "give a list"), ({"n": 1}, "got one mapping")):
            with pytest.raises(TypeError, match=says):
                ex.map(command, given, buffersize=buffersize)
        with pytest.raises(TypeError, match=r"item 1: nothing is given for \{n\} of the command: there is m"):
            list(ex.map(Command("true {n}"), [{"n": 1}, {"m": 1}], buffersize=buffersize))


def test_a_value_that_no_word_can_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="null character"):
        Command("prog {x}")(x="a\0b")
    with pytest.raises(ValueError, match="cannot show"):
        Command("prog {x:d}")(x="a")


# files


def test_inputs_are_in_the_run_s_directory_under_their_relative_paths(here: Path, tmp_path: Path) -> None:
    (here / "data").mkdir()
    (here / "data/a b.txt").write_text("one")
    (tmp_path / "far.txt").write_text("two")
    command = Command(f"{WORDS} {{input}} {{far}} {{more}}", inputs={"more": "data/*.txt"})
    assert words(command, "data/a b.txt", far=tmp_path / "far.txt") == ["data/a b.txt", "far.txt", "data/a b.txt"]
    shown = Command("cat {input} far.txt", inputs=[tmp_path / "far.txt"])(Path("data/a b.txt"))
    assert shown.stdout == "onetwo"
    assert Command("find . -type f", inputs="data")().stdout.strip() == "./data/a b.txt"


@pytest.mark.parametrize("name", [*HOSTILE[:-1], "x" * 200, ".hidden", "..dots", os.fsdecode(b"\xff\xfe")])
def test_hostile_names_arrive_intact(here: Path, name: str) -> None:
    Path(name).write_text(name.encode("utf-8", "surrogateescape").hex())
    result = Command("cp {input} {out}", outputs={"out": "c-{n}"})(Path(name), n=name)
    assert result.outputs[0].read_text() == name.encode("utf-8", "surrogateescape").hex()
    assert result.outputs[0].name == f"c-{name}"
    assert Command("cat {input}", shell=True)(Path(name)).stdout == name.encode("utf-8", "surrogateescape").hex()


def test_a_glob_is_as_many_words_as_it_has_files(here: Path) -> None:
    for name in "abc":
        Path(f"{name}.x").touch()
    assert words(Command(f"{WORDS} {{input}}"), "*.x") == ["a.x", "b.x", "c.x"]
    assert words(Command(f"{WORDS} {{input}}"), [Path("a.x"), Path("c.x")]) == ["a.x", "c.x"]
    with pytest.raises(ValueError, match="stands for 3 files"):
        Command("prog --in={input}")("*.x")


@pytest.mark.parametrize("given", ["nothing", "*.nothing", Path("nothing")])
def test_an_input_that_is_not_here_is_an_error_before_anything_runs(given: Any) -> None:
    with pytest.raises(FilesError, match="nothing"):
        Command("touch /nowhere/x {input}")(given)
    with pytest.raises(FilesError, match="nothing"):
        Command("touch /nowhere/x", inputs=given)()


def test_inputs_in_each_other_s_way_are_refused(here: Path, tmp_path: Path) -> None:
    for folder in ("p", "q"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same").write_text(folder)
    with pytest.raises(FilesError, match="both be 'same'"):
        Command("prog", inputs=[tmp_path / "p/same", tmp_path / "q/same"])()
    with pytest.raises(FilesError, match="other content in this one"):
        Command("prog {input}", inputs=tmp_path / "p/same")(tmp_path / "q/same")


def test_a_plain_value_is_no_file_and_a_path_is() -> None:
    Path("7").write_text("seven")
    assert words(Command(f"{WORDS} {{input}}"), 7) == ["7"]
    assert Command("cat {input}")("7").stdout == "seven"
    assert Command("ls")(label="7").stdout == ""


def test_inputs_may_have_placeholders() -> None:
    for n in (1, 2):
        Path(f"mesh_{n}.txt").write_text(f"mesh {n}")
    command = Command("cat {mesh}", inputs={"mesh": "mesh_{n}.txt"})
    assert [command(n=n).stdout for n in (1, 2)] == ["mesh 1", "mesh 2"]


# where="inline"


def test_inline_runs_it_here_and_puts_outputs_where_they_belong(here: Path) -> None:
    command = Command("cp {input} out.txt", outputs="*.txt")
    Path("a").write_text("A")
    Path("b").write_text("B")
    with BatchExecutor(where="inline", output_dir="results/{item}") as ex:
        first, second = ex.map(command, ["a", "b"])
        third = ex.submit(command, "a")
        missing = ex.submit(command, "c")
    assert first.outputs == [here / "results/0/out.txt"]
    assert second.outputs[0].read_text() == "B"
    assert third.result().outputs == [here / "results/2/out.txt"]
    assert isinstance(missing.exception(), FilesError)
    lines = (here / "results/sweep.csv").read_text().splitlines()
    assert [line.split(",")[:3] for line in lines] == [["item", "input", "exit_code"], ["0", "a", "0"], ["1", "b", "0"]]
    assert third.rerun_locally().outputs[0].read_text() == "A"


def test_inline_leaves_nothing_in_storage() -> None:
    with BatchExecutor(where="inline", output_dir=BlobPath("data/x")) as ex:
        assert ex.submit(Command("true")).result().exit_code == 0
        with pytest.raises(ConfigError, match="output_dir"):
            ex.submit(Command("true", outputs="*"))


def test_only_commands_resume(here: Path) -> None:
    with BatchExecutor(where="inline") as ex:
        with pytest.raises(TypeError, match="Command"):
            ex.map(len, ["a"], resume="x")
        with pytest.raises(TypeError, match="buffersize"):
            ex.map(Command("true"), [{}], resume="x", buffersize=1)


# BlobPath


def test_a_blob_path_is_a_container_and_a_prefix() -> None:
    path = BlobPath("data/some/prefix/")
    assert (path.container, path.prefix, str(path)) == ("data", "some/prefix", "data/some/prefix")
    assert path / "x" == BlobPath("data/some/prefix/x")
    assert len({path, BlobPath("data/some/prefix")}) == 1
    assert pickle.loads(pickle.dumps(path)) == path
    for bad in ("https://a.blob.core.windows.net/x", "AB/x", "", "x/y"):
        with pytest.raises(ValueError, match="BlobPath"):
            BlobPath(bad)
    with pytest.raises(AttributeError, match="cannot be changed"):
        path.prefix = "other"
    with pytest.raises(FilesError, match="read by the nodes"):
        Command("cat {input}")(BlobPath("data/x"))

"""A Command: its words, its parameters, its files and its results, by programs that run on this machine."""

from __future__ import annotations

import itertools
import math
import os
import pickle
import re
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from helpers_service import until
from hypothesis import given, settings
from hypothesis import strategies as st

from batchexec import BatchExecutor, BlobPath, Command
from batchexec._source.programs import executables as programs
from batchexec.errors import CommandFailed, ConfigError, FilesError, OutputError

HOSTILE = ["a b", "quote'quote", 'quote"quote', "$HOME", "`id`", "new\nline", "-n", "*", "{x}", "\\", "é", ";rm -rf /"]
WORDS = "printf '%s\\0'"  # a program that tells its words


def words(command: Command, *args: Any, **kwargs: Any) -> list[str]:
    return command(*args, **kwargs).stdout.split("\0")[:-1]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory of its own, and one for temporary files beside it."""
    (tmp_path / "here").mkdir()
    (tmp_path / "tmp").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    return tmp_path / "here"


def script(path: str, text: str, interpreter: str = "/bin/sh") -> str:
    Path(path).write_text(f"#!{interpreter}\n{textwrap.dedent(text)}")
    os.chmod(path, 0o755)
    return path


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


# programs


def test_a_program_of_ours_is_sent_and_others_are_found(here: Path) -> None:
    (here / "bin").mkdir()
    script("bin/tell", 'echo "$0: $1"')
    assert Command("bin/tell x")().stdout == "bin/tell: x\n"
    assert Command("./bin/tell x")().stdout.endswith("bin/tell: x\n")
    assert Command([here / "bin/tell", "x"])().stdout == "bin/tell: x\n"
    script("tell", "echo top")
    assert Command("./tell")().stdout == "top\n"
    assert Command("{input}")("tell").stdout == "top\n"
    with pytest.raises(FilesError, match=r"write './tell'"):
        Command("tell")()
    with pytest.raises(FilesError, match=r"no program '\./other' here"):
        Command("./other")()


def test_python_is_this_interpreter_and_its_script_is_sent(here: Path) -> None:
    (here / "code").mkdir()
    Path("code/say.py").write_text("import sys; print(sys.executable, sys.argv)")
    assert Command("python code/say.py {n}")(n=3).stdout == f"{sys.executable} ['code/say.py', '3']\n"
    assert Command("python -c code/say.py say.py", check=False)().exit_code == 1
    assert Command("python -u")().stdout == ""


@pytest.mark.parametrize(
    "command",
    [
        *("python code/say.py", "code/say.py", ["code/say.py"], ["python3", Path("code/say.py")]),
        *("python3 -uB -W ignore code/say.py", ["python", "-u", Path("code/say.py")]),
    ],
)
def test_modules_beside_a_script_are_sent(here: Path, command: Any) -> None:
    """And those that they import; nothing else that lies there."""
    for path, text in {
        "code/say.py": "#!/usr/bin/env python3\nimport os, first, pack.sub\n"
        "print(sorted(os.listdir('code')), pack.sub.y)",
        "code/first.py": "def later():\n    import second",
        "code/second.py": "",
        "code/third.py": "",
        "code/pack/__init__.py": "from .deep import y",
        "code/pack/sub.py": "from . import y",
        "code/pack/deep/__init__.py": "from ..other import y",
        "code/pack/other.py": "y = 7",
        "code/json/data.txt": "",
    }.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)
    os.chmod("code/say.py", 0o755)
    assert Command(command)().stdout == "['first.py', 'pack', 'say.py', 'second.py'] 7\n"


def test_a_module_that_is_run_by_its_name_is_sent_with_what_it_imports(here: Path) -> None:
    (here / "model/parts").mkdir(parents=True)
    Path("model/run.py").write_text("import sys, common\nfrom .parts.one import twice\nprint(twice(common.X))")
    Path("model/parts/one.py").write_text("def twice(n): return 2 * n")
    Path("common.py").write_text("X = 21")
    Path("single.py").write_text("import common; print(common.X)")
    assert Command("python -u -m model.run")().stdout == "42\n"
    assert Command("python -m single")().stdout == "21\n"
    Path("in.json").write_text("[1]")
    assert Command("python -m json.tool {input}")("in.json").stdout == "[\n    1\n]\n"
    with pytest.raises(CommandFailed, match=r"'common\.py' is here and was not sent: inputs=\['common\.py'\]"):
        Command("python -c 'import common'")()
    with pytest.raises(CommandFailed, match=r"requirements=.* with 'nobody_has_it'"):
        Command("python -m nobody_has_it.run")()


def test_a_script_that_is_not_here_is_refused(here: Path) -> None:
    with pytest.raises(FilesError, match=r"no script 'other/model\.py' here"):
        Command("python -u other/model.py")()
    (here / "pack").mkdir()
    Path("pack/model.py").write_text("print('in the app')")
    with pytest.raises(FilesError, match=r"The app has \{app\}/model\.py"):
        Command("python model.py", app="pack")()
    assert Command("python {app}/model.py", app="pack")().stdout == "in the app\n"
    Path("late.sh").write_text("echo late")
    assert Command("sh late.sh", inputs="{which}.sh")(which="late").stdout == "late\n"


def test_a_text_that_names_a_file_is_explained(here: Path) -> None:
    (here / "data").mkdir()
    Path("data/a.dat").write_text("a")
    command = Command("cat {mesh}")
    with pytest.raises(CommandFailed, match=r"given as a text, which is not sent: mesh=Path\('data/a\.dat'\) is"):
        command(mesh="data/a.dat")
    assert command(mesh=Path("data/a.dat")).stdout == "a"
    with pytest.raises(CommandFailed) as failure:
        Command("sh -c 'cat \"$0\"; exit 1' {mesh}", inputs="data")(mesh="data/a.dat")
    assert "Path(" not in str(failure.value)


def test_a_pattern_that_no_shell_reads_is_explained(here: Path) -> None:
    Path("a.dat").write_text("a")
    with pytest.raises(CommandFailed, match=r"name them, inputs=\{'files': '\*\.dat'\}, and write \{files\}"):
        Command("cat *.dat", inputs="*.dat")()
    assert Command("cat {files}", inputs={"files": "*.dat"})().stdout == "a"


@pytest.mark.parametrize("kind", ["directory", "zip", "tar.gz", "topped.tar"])
def test_an_app_is_on_the_path_of_its_programs(here: Path, kind: str) -> None:
    app = here / ("pack/tool-1.2" if kind == "topped.tar" else "pack")
    (app / "bin").mkdir(parents=True)
    (app / "share").mkdir()
    script(str(app / "bin/tool"), 'cat "$(dirname "$0")/../share/data"; cat "$1/share/data"; helper')
    script(str(app / "helper"), "echo help")
    (app / "share/data").write_text("data ")
    given = str(here / "pack")
    if kind != "directory":
        form = {"zip": "zip", "tar.gz": "gztar", "topped.tar": "tar"}[kind]
        given = shutil.make_archive("packed", form, "pack")
        if kind == "zip":
            given = zipped_with_modes(given, here / "pack")
    command = Command("tool {app}", app=given)
    assert command().stdout == "data data help\n"
    assert Command("tool {app}", app=given, shell=True)().stdout == "data data help\n"
    assert Command("{app}/helper", app=given)().stdout == "help\n"
    with pytest.raises(FilesError, match=r"no 'bin/helper' in the app 'pack"):
        Command("{app}/bin/helper", app=given)()
    for text, shell in (("helper {app}/bin 'a b'; exit 3", True), ("sh -c 'exit 3' {app}/x", False)):
        with pytest.raises(CommandFailed, match=f"^{re.escape(text)} ended with exit code 3"):
            Command(text, app=given, shell=shell)()


def zipped_with_modes(path: str, folder: Path) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.rglob("*"):
            archive.write(file, file.relative_to(folder))
    return path


def test_an_app_that_leads_outside_is_refused(here: Path) -> None:
    import io
    import tarfile

    def tar(name: str, **fields: Any) -> str:
        with tarfile.open("bad.tar", "w") as archive:
            info = tarfile.TarInfo(name)
            for field, value in fields.items():
                setattr(info, field, value)
            archive.addfile(info, io.BytesIO(b""))
        return "bad.tar"

    for name, fields in [
        ("../x", {}),
        ("/etc/x", {}),
        ("a/../../x", {}),
        ("link", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}),
        ("a/link", {"type": tarfile.SYMTYPE, "linkname": "../../x"}),
        ("hard", {"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"}),
        ("pipe", {"type": tarfile.FIFOTYPE}),
    ]:
        with pytest.raises(FilesError, match="cannot be unpacked"):
            Command("prog", app=tar(name, **fields))()
        Path("bad.tar").unlink()
        with zipfile.ZipFile("bad.zip", "w") as archive:
            archive.writestr("../x", "")
        with pytest.raises(FilesError, match="cannot be unpacked"):
            Command("prog", app="bad.zip")()
        os.utime("bad.zip", ns=(1, 1))
    for path, says in (("missing", "not there"), ("bad.zip.txt", "neither a directory nor")):
        Path("bad.zip.txt").touch()
        with pytest.raises(FilesError, match=says):
            Command("prog", app=path)()


def test_programs_of_an_archive_made_on_windows_can_be_run(here: Path) -> None:
    with zipfile.ZipFile("app.zip", "w") as archive:
        for name, text in (("bin/tool", "#!/bin/sh\ncat $1/data"), ("data", "text")):
            info = zipfile.ZipInfo(name)
            info.create_system = 0
            archive.writestr(info, text)
    assert Command("tool {app}", app="app.zip")().stdout == "text"


def test_what_is_unpacked_here_is_bounded_and_a_failed_run_leaves_nothing(here: Path) -> None:
    def left() -> int:
        return len(os.listdir(here.parent / "tmp"))

    for number in range(12):
        with zipfile.ZipFile(f"{number}.zip", "w") as archive:
            archive.writestr("tool", f"#!/bin/sh\necho {number}")
        assert Command("/bin/sh {app}/tool", app=f"{number}.zip")().stdout == f"{number}\n"
    assert left() == 8
    with pytest.raises(FilesError, match="not on this machine"):
        Command("cat {input}")(BlobPath("data/x"))
    assert left() == 8


def test_nothing_is_written_through_a_link_of_an_archive(here: Path) -> None:
    import io
    import tarfile

    from batchexec._wire import archives

    (here / "outside").mkdir()
    with tarfile.open("bad.tar", "w") as archive:
        link = tarfile.TarInfo("in/link")
        link.type, link.linkname = tarfile.SYMTYPE, "sub"
        archive.addfile(link)
        file = tarfile.TarInfo("in/link/x")
        archive.addfile(file, io.BytesIO(b""))
    with pytest.raises(archives.BadArchive, match="twice"):
        archives.unpack("bad.tar", "target")
    assert not list((here / "outside").iterdir())


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        (b"MZ\x90\0", 0o755, "for Windows"),
        (bytes.fromhex("cffaedfe") + b"\0" * 60, 0o755, "for macOS"),
        (b"#!/bin/sh\r\necho\r\n", 0o755, "CR LF"),
        (b"#!/home/me/miniconda/bin/python\n", 0o755, "/home/me/miniconda/bin/python"),
        (b"#!\n", 0o755, "names no interpreter"),
        (b"print(1)\n", 0o755, "begins with '#!'"),
        (b"#!/bin/sh -e\n", 0o644, r"chmod \+x it, .* as in 'sh "),
        (b"#!/usr/bin/env -S A=/b perl -w\n", 0o644, r"chmod \+x it, .* as in 'perl "),
        (b"\x7fELF\x02\x01\x01" + b"\0" * 9 + b"\x02\0\xb7\0" + b"\0" * 44, 0o755, "for aarch64"),
        (b"\x7fELF\x02\x01", 0o755, "a broken ELF file"),
        (b"", 0o755, "neither a program"),
    ],
    ids=["pe", "macho", "crlf", "interpreter", "none", "text", "mode", "mode-env", "arch", "broken", "empty"],
)
def test_a_program_that_cannot_run_is_named_before_anything_is_sent(content: bytes, mode: int, says: str) -> None:
    Path("prog").write_bytes(content)
    os.chmod("prog", mode)
    with pytest.raises(FilesError, match=says):
        Command("./prog")()
    os.makedirs("app/bin")
    os.rename("prog", "app/bin/prog")
    with pytest.raises(FilesError, match=says):
        Command("prog", app="app")()


def test_libraries_that_lie_beside_a_program_are_named(here: Path) -> None:
    if shutil.which("cc") is None:
        assert "CI" not in os.environ, "a C compiler is part of the tests' machine"
        pytest.skip("no C compiler")
    (here / "lib").mkdir()
    Path("lib/f.c").write_text("int f(void) { return 3; }")
    Path("main.c").write_text("int f(void); int main() { return f(); }")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", "lib/libf.so", "lib/f.c"], check=True)
    subprocess.run(["cc", "-o", "prog", "main.c", "-Llib", "-lf", "-Wl,-rpath,$ORIGIN/lib"], check=True)
    (said,) = programs.check("prog", programs.this_machine(), sent=["prog"])
    assert "inputs=['lib/libf.so'] sends them along" in said
    assert Command("./prog", inputs=["lib/libf.so"], check=False)().exit_code == 3
    assert programs.check("prog", programs.this_machine(), sent=["prog", "libf.so"]) == []


def test_interpreters_are_judged_by_where_nodes_have_them() -> None:
    nodes = programs.target_of("Standard_D4s_v5")
    for line, says in (("/usr/bin/env python3", []), ("/opt/conda/bin/python", ["must be in image="])):
        found = programs.check(script("prog", "", interpreter=line), nodes)
        assert [says[0] in text for text in found] == [True] * len(says)
    for line in ("/home/me/bin/python", f"{sys.prefix}/bin/python"):
        with pytest.raises(FilesError, match=r"write|is found on any"):
            programs.check(script("prog", "", interpreter=line), nodes)


@pytest.mark.parametrize(
    ("size", "machine"),
    [
        ("Standard_D4s_v5", "x86_64"),
        ("Standard_D4ps_v5", "aarch64"),
        ("Standard_E2pds_v6", "aarch64"),
        ("Standard_NP10s", "x86_64"),
        ("Standard_E64-16s_v5", "x86_64"),
        ("Standard_PB6s", "x86_64"),
    ],
)
def test_the_processor_of_a_node_is_read_from_its_size(size: str, machine: str) -> None:
    assert programs.target_of(size).machine == machine


# environment


def test_the_environment_is_what_is_given_and_values_may_be_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSED_ON", "{braces}")
    command = Command("sh -c 'echo $A-$B-$PASSED_ON; echo $HOME; pwd'", env={"A": "{n:02d}", "B": 5})
    first, home, cwd = command(n=3).stdout.splitlines()
    assert first == "03-5-{braces}"
    assert home == cwd != os.getcwd()
    assert Command("printenv PASSED_ON", env=["PASSED_ON"])().stdout == "{braces}\n"
    assert Command("printenv PASSED_ON", env={"PASSED_ON": None})().stdout == "{braces}\n"
    assert Command("cat")().stdout == ""  # its standard input is empty


# results


def test_a_result_has_what_the_program_left() -> None:
    started = time.perf_counter()
    result = Command(
        "sh -c 'echo out; echo err >&2; echo x > a.csv; mkdir d; echo y > d/b.csv; echo z > c'", outputs="**/*.csv"
    )()
    assert (result.exit_code, result.stdout, result.stderr) == (0, "out\n", "err\n")
    assert [path.name for path in result.outputs] == ["a.csv", "b.csv"]
    assert result.seconds > 0
    assert result.staging_seconds > 0
    assert result.seconds + result.staging_seconds < time.perf_counter() - started
    assert not result.cut
    assert not result.timed_out
    assert result.parameters == {}
    assert pickle.loads(pickle.dumps(result)) == result
    assert "out\\n" not in repr(result)


def test_named_outputs_are_files_or_directories_made_for_them() -> None:
    result = Command(
        'sh -c \'echo 1 > "$0"; echo 2 > "$1/x.dat"; echo 3 > "$1/y.txt"\' {log} {data}',
        outputs={"log": "logs/run_{n}.txt", "data": "*.dat"},
    )(n=4)
    (log,), (data,) = result.named["log"], result.named["data"]
    assert str(log).endswith("logs/run_4.txt")
    assert str(data).endswith("data/x.dat")
    assert sorted(result.outputs) == sorted([log, data])


def test_a_named_pattern_that_the_command_does_not_use_is_looked_for_where_the_program_runs() -> None:
    result = Command("echo a > a.csv; echo b > b.txt", shell=True, outputs={"tables": "*.csv", "notes": "*.txt"})()
    assert [[path.name for path in result.named[name]] for name in ("tables", "notes")] == [["a.csv"], ["b.txt"]]


def test_a_value_in_a_pattern_means_itself() -> None:
    result = Command("touch a1 'a*1'", outputs="{x}1")(x="a*")
    assert [path.name for path in result.outputs] == ["a*1"]
    with pytest.raises(ValueError, match="below the run's directory"):
        Command("true", outputs="{x}/y")(x="..")


def test_inputs_that_did_not_change_are_no_outputs() -> None:
    Path("a.txt").write_text("a")
    Path("b.txt").write_text("b")
    result = Command("sh -c 'echo more >> b.txt; touch c.txt'", inputs="*.txt", outputs="*")()
    assert sorted(path.name for path in result.outputs) == ["b.txt", "c.txt"]
    assert Path("b.txt").read_text() == "b"


def test_outputs_cannot_lead_outside() -> None:
    with pytest.raises(OutputError, match="outside"):
        Command("ln -s /etc/passwd x", outputs="*")()
    result = Command("sh -c 'echo 1 > a; ln -s a b'", outputs="*")()
    assert [path.read_text() for path in result.outputs] == ["1\n", "1\n"]


def test_an_output_that_is_missing_is_an_error_unless_it_is_a_pattern() -> None:
    with pytest.raises(OutputError, match=r"left no 'x\.csv'"):
        Command("true", outputs="x.csv")()
    assert Command("true", outputs="*.csv")().outputs == []
    assert Command("true", outputs="x.csv", check=False)().outputs == []


@pytest.mark.parametrize(
    ("when", "good", "bad"), [("success", 1, 0), ("failure", 0, 1), ("always", 1, 1)], ids=lambda value: str(value)
)
def test_when_says_after_which_ends_outputs_are_collected(when: str, good: int, bad: int) -> None:
    command = Command("sh -c 'touch x; exit {code}'", outputs="*", when=when, check=False)
    assert [len(command(code=code).outputs) for code in (0, 3)] == [good, bad]
    failing = Command("sh -c 'touch x; exit 3'", outputs="*", when=when)
    with pytest.raises(CommandFailed) as failure:
        failing()
    assert len(failure.value.result.outputs) == bad  # type: ignore[attr-defined]


def test_a_failure_tells_exit_code_and_the_end_of_standard_error() -> None:
    with pytest.raises(CommandFailed, match=r"exit code 3\nIts standard error ends:\n(  .*\n)*  line 30$") as failure:
        Command("sh -c 'echo said; for i in $(seq 30); do echo line $i >&2; done; exit 3'")()
    error = failure.value
    assert (error.exit_code, error.stdout) == (3, "said\n")
    assert "line 10\n" not in str(error)
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error)
    assert copy.result.exit_code == 3


def test_a_failure_says_which_files_were_not_sent() -> None:
    Path("data.csv").touch()
    with pytest.raises(CommandFailed, match=r"were not sent: 'data\.csv'"):
        Command("cat data.csv")()


def test_a_failure_says_how_a_script_gets_its_packages() -> None:
    Path("say.py").write_text("import nobody_has_this")
    with pytest.raises(CommandFailed, match=r"requirements=\[\.\.\.\]\) with 'nobody_has_this'"):
        Command("python say.py")()


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        (Command("nobody-has-this"), 127, "no program 'nobody-has-this'"),
        (Command("/nobody/has/this"), 127, "a path of the node"),
        (Command("sh -c 'kill -SEGV $$'"), 139, "SIGSEGV"),
        (Command("sh -c 'kill -9 $$'"), 137, "ran out of memory"),
        (Command("sh -c 'sleep 600'", timeout=0.2), 143, r"longer than timeout=0\.2 s"),
    ],
    ids=["missing", "absolute", "segv", "killed", "timeout"],
)
def test_other_ends_are_told_apart(command: Command, code: int, says: str) -> None:
    with pytest.raises(CommandFailed, match=says) as failure:
        command()
    assert failure.value.exit_code == code


def test_a_program_that_does_not_start_fails_even_unchecked() -> None:
    with pytest.raises(CommandFailed, match="could not be started"):
        Command("nobody-has-this", check=False)()
    assert Command("false", check=False)().exit_code == 1


def test_a_timeout_ends_all_that_the_program_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit, wait = 1234.0, subprocess.Popen.wait

    def over_when_it_is_deaf(process: Any, timeout: float | None = None) -> int:
        if timeout != limit:
            return wait(process, timeout)
        until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        raise subprocess.TimeoutExpired(process.args, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", over_when_it_is_deaf)
    # The process that it waits for tells its number itself: one that still is the shell's copy has the shell's trap.
    deaf = "trap : TERM; sh -c 'echo $$ > {pid}; exec sleep 600' & wait; wait"
    with pytest.raises(CommandFailed, match="timeout") as failure:
        Command(["sh", "-c", deaf], timeout=limit)(pid=str(tmp_path / "pid"))
    assert failure.value.exit_code == 124
    assert not is_alive(int((tmp_path / "pid").read_text()))


def test_what_a_program_leaves_running_ends_with_it(tmp_path: Path) -> None:
    Command("sh -c 'sleep 600 & echo $! > {pid}'")(pid=str(tmp_path / "pid"))
    pid = int((tmp_path / "pid").read_text())
    until(lambda: not is_alive(pid))


@pytest.mark.parametrize("dies", ["as it starts", "while it runs"])
def test_a_program_ends_with_its_worker_however_that_ends(tmp_path: Path, dies: str) -> None:
    """The guard, in a process that is killed: as soon as there is a program, or when told."""
    here = str(tmp_path)
    at_once = "os.kill(os.getpid(), signal.SIGKILL)" if dies == "as it starts" else ""
    code = (
        "import os, signal, subprocess\n"
        "from batchexec._worker.programs import processes, streams\n"
        "class Popen(subprocess.Popen):\n"
        "    def __init__(self, *args, **kwargs):\n"
        "        super().__init__(*args, **kwargs)\n"
        f"        if {here!r} in str(args):\n"
        f"            open({here + '/program'!r}, 'w').write(str(self.pid))\n"
        f"            {at_once}\n"
        "subprocess.Popen = Popen\n"
        f"processes.run(['sh', '-c', 'touch {here}/runs; exec sleep 600'], '/bin/sh', '.', {{}}, "
        "(streams.Stream(), streams.Stream()), None, True)"
    )
    worker = subprocess.Popen([sys.executable, "-c", code])
    if dies == "while it runs":
        until((tmp_path / "runs").exists)
        until(lambda: (tmp_path / "program").exists() and (tmp_path / "program").read_text())
        worker.send_signal(signal.SIGKILL)
    assert worker.wait() == -signal.SIGKILL
    pid = int((tmp_path / "program").read_text())
    until(lambda: not is_alive(pid))


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_only_the_end_of_much_output_is_kept() -> None:
    result = Command("sh -c 'head -c 3000000 /dev/zero | tr \"\\0\" x; echo end'")()
    assert result.cut
    assert len(result.stdout) == 1024 * 1024
    assert result.stdout.endswith("xend\n")
    assert Command(["printf", "\\377"])().stdout == "\ufffd"


def test_a_command_can_be_sent_itself() -> None:
    command = pickle.loads(pickle.dumps(Command(f"{WORDS} {{x:02d}}", outputs={"o": "*"}, env={"A": "{x}"})))
    assert words(command, x=3) == ["03"]
    assert repr(command) == f"Command({WORDS + ' {x:02d}'!r})"


def test_a_run_leaves_nothing_but_its_outputs(tmp_path: Path) -> None:
    Path("in.txt").touch()
    Command("sh -c 'mkdir d; touch d/x; chmod 500 d'", inputs="in.txt")()
    with pytest.raises(CommandFailed):
        Command("false")()
    assert list((tmp_path / "tmp").iterdir()) == []
    (kept,) = Command("sh -c 'touch x; chmod 400 x'", outputs="x")().outputs
    assert kept.stat().st_mode & stat.S_IWUSR
    assert [path.name for path in (tmp_path / "tmp").rglob("*") if path.is_file()] == ["x"]


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

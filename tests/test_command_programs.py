"""What a Command runs: programs, scripts with what they import, and apps; each found, judged and sent."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from helpers_commands import here, script

from batchexec import BlobPath, Command
from batchexec._source.programs import executables as programs
from batchexec.errors import CommandFailed, FilesError

__all__ = ["here"]


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

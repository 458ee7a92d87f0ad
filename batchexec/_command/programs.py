"""The program of a command: found among the user's files, sent with what belongs to it, and looked at before."""

from __future__ import annotations

import functools
import os
import posixpath
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from batchexec._source.programs import executables
from batchexec._source.programs.siblings import of_module, of_script
from batchexec.errors import FilesError

from .apps import App
from .files import Gathered
from .templates import Names, Text

_PYTHONS = frozenset(("python", "python3"))
# Programs whose first word is a file of the user's, as a rule.
_INTERPRETERS = _PYTHONS | frozenset(("sh", "bash", "perl", "ruby", "Rscript", "julia", "node", "octave"))
_OPTION = re.compile(r"-[bBdEiIOPqRsSuvx]+|-[WX].*")  # of Python, before its script; not -c and -m


class Program:
    """What the first of a command's words stands for; the words are changed to what it is called on the node."""

    def __init__(
        self, words: list[Text | Names], shared: Gathered, app: App | None, target: executables.Target, unknown: bool
    ) -> None:
        """`shared` takes what is sent with it. `unknown`: there are inputs of which it is not known yet what they hold.
        Raises FilesError."""
        self.warnings: list[str] = []
        self.modules: frozenset[str] = frozenset()
        self._words = words
        self._shared = shared
        self._app = app
        self._target = target
        self._in_app: tuple[str, bool] | None = None  # what it is called there, and whether by its very path
        self._file: tuple[str, str] | None = None  # of the user's, and what it is called
        self._lacking: str | None = None  # a script that is not here
        self._sent: frozenset[str] = frozenset()
        if words:
            self._find(unknown)
        if unknown:
            self._lacking = None

    def check(self, sent: Iterable[str]) -> None:
        """See whether a node could run it; `sent` are the paths of all that is sent. Raises FilesError."""
        sent = frozenset(sent)
        beside = (*sent, *(self._app.names if self._app is not None else ()))
        if self._lacking is not None and posixpath.normpath(self._lacking) not in sent:
            in_app = self._app is not None and self._app.has(self._lacking, direct=True)
            raise FilesError(
                f"there is no script {self._lacking!r} here (at {os.path.abspath(self._lacking)!r}): a relative path "
                f"is one of yours, which is sent along{f'. The app has {{app}}/{self._lacking}' if in_app else ''}"
            )
        self._sent = frozenset(os.path.basename(name) for name in beside)
        if self._in_app is not None and self._app is not None:
            name, direct = self._in_app
            self.warnings += self._app.check(name, self._target, self._sent, direct=direct)
        elif self._file is not None:
            self.check_file(*self._file)

    def check_file(self, path: str, called: str) -> None:
        """The same for a file. Raises FilesError."""
        if os.path.isfile(path):
            state = os.stat(path)
            stamp = (state.st_mtime_ns, state.st_size, state.st_mode)
            self.warnings += _checked(path, stamp, self._target, called, self._sent)

    def _find(self, unknown: bool) -> None:
        first = self._words[0]
        if isinstance(first, Names):  # given as a Path
            if len(first) != 1:
                raise ValueError("the command's first word is one program")
            self._send(self._shared.source(first[0]) or "", first[0])
            return
        if self._app is not None and not first.names - {"app"}:
            direct = first.text.startswith("{app}/")
            name = first.text.removeprefix("{app}/")
            if (direct or "/" not in name) and self._app.has(name, direct=direct):
                self._in_app = name, direct
                return
            if direct and self._app.lacks(name):
                raise FilesError(f"there is no {name!r} in the app {os.path.basename(self._app.path)!r}")
        if first.names:
            return
        word = first.fill({})
        if "/" not in word:
            self._find_script(word)
        elif os.path.isabs(word):
            return  # a path of the node
        elif os.path.isfile(word):
            (name,) = self._shared.take(Path(word))
            self._send(word, name)
        elif not unknown:
            raise FilesError(
                f"there is no program {word!r} here (at {os.path.abspath(word)!r}): a relative path is one of yours, "
                "which is sent along"
            )

    def _send(self, path: str, name: str) -> None:
        """The program is the file `path`, which is taken already, and called `name`."""
        self._words[0] = Names([name if "/" in name else f"./{name}"])
        self._file = path, name
        self._take_modules(path)

    def _find_script(self, word: str) -> None:
        """The program is one of the node's own. Where it is an interpreter, its script is sent."""
        place = _after_options(self._words) if word in _PYTHONS else 1
        second = self._words[place] if len(self._words) > place else None
        if isinstance(second, Names) and len(second) == 1:  # given as a Path
            self._take_modules(self._shared.source(second[0]) or "", is_python=word in _PYTHONS)
        elif word in _INTERPRETERS and isinstance(second, Text) and not second.names:
            script = second.fill({})
            if script == "-m" and word in _PYTHONS:
                self._find_module(place + 1)
            elif script.startswith("-") or os.path.isabs(script):
                pass
            elif os.path.isfile(script):
                self._words[place] = self._shared.take(Path(script))
                self._take_modules(script, is_python=word in _PYTHONS)
            elif posixpath.splitext(script)[1] and not os.path.exists(script):
                self._lacking = script
        if self._target.here and shutil.which(word) is None and os.path.isfile(word):
            raise FilesError(f"there is no program {word!r} on the PATH; write './{word}' to have the file here sent")

    def _find_module(self, place: int) -> None:
        """Have the module of `python -m module` sent, if it is one of the current directory."""
        word = self._words[place] if len(self._words) > place else None
        if isinstance(word, Text) and not word.names:
            found = of_module(word.fill({}), os.getcwd())
            if found is not None:
                for module in found.beside:
                    self._shared.put(os.path.relpath(module).replace(os.sep, "/"), module)
                self.modules = found.third_party

    def _take_modules(self, path: str, *, is_python: bool = False) -> None:
        """Where the file is a Python script, have the modules beside it sent, and note which packages it needs."""
        if not os.path.isfile(path) or not (is_python or _is_python(path)):
            return
        found = of_script(path)
        folder = os.path.dirname(os.path.abspath(path))
        there = posixpath.dirname(self._shared.target(path))
        for module in found.beside:
            self._shared.put(posixpath.join(there, os.path.relpath(module, folder)), module)
        self.modules = found.third_party


def _after_options(words: list[Text | Names]) -> int:
    """Where Python's own options end, and the script may be."""
    place = 1
    while place < len(words):
        word = words[place]
        if not isinstance(word, Text) or word.names or not _OPTION.fullmatch(word.text):
            break
        place += 2 if word.text in ("-W", "-X") else 1
    return place


def _is_python(path: str) -> bool:
    with open(path, "rb") as file:
        line = file.readline(200)
    return line.startswith(b"#!") and b"python" in line


@functools.lru_cache(maxsize=256)
def _checked(
    path: str, stamp: tuple[int, ...], target: executables.Target, called: str, sent: frozenset[str]
) -> tuple[str, ...]:
    return tuple(executables.check(path, target, called=called, sent=sent))

"""A command bound to what it is given: checked, its files gathered, its words made, before anything is sent."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from batchexec._source.files.sets import FileSet
from batchexec._source.programs import executables
from batchexec.errors import FilesError

from .apps import App
from .checks import check_pattern
from .files import Gathered, merged
from .parameters import parameters_of
from .programs import Program
from .templates import APP, Names, Text
from .values import BlobPath

if TYPE_CHECKING:
    from batchexec.command import Command


class Run(NamedTuple):
    """One run: what it was given, what the worker is told (`program`), and the files that only it has."""

    parameters: dict[str, Any]
    spec: dict[str, Any]
    own: FileSet | None
    key: str = ""
    """What was asked (`sweeps.keys`), of a run of an executor."""


class Bound:
    """A command with all that its runs share. Raises FilesError when that cannot be sent.

    `files` are those of the executor, `outputs` its patterns, for a command that has none.
    """

    def __init__(
        self,
        command: Command,
        *,
        target: executables.Target | None = None,
        files: FileSet | None = None,
        outputs: Sequence[str] = (),
    ) -> None:
        self.command = command
        self._texts = command._templates
        self._app = App(command.app) if command.app is not None else None
        shared = Gathered()
        self._names: dict[str, Any] = {"app": APP} if self._app is not None else {}
        for one in self._texts.inputs:
            if one.shared:
                names = shared.take(one.where.fill({}) if isinstance(one.where, Text) else one.where)
                if one.name is not None:
                    self._names[one.name] = names
        self._words: list[Text | Names] = [
            word if isinstance(word, Text) else shared.take(word) for word in self._texts.words
        ]
        # What the others hold is known later.
        unknown = any(not one.shared or isinstance(one.where, BlobPath) for one in self._texts.inputs)
        unknown = unknown or (files is not None and bool(files.blobs))
        self._program = Program(self._words, shared, self._app, target or executables.this_machine(), unknown)
        self.shared = merged((files, shared.set() if shared else None))
        self._shared_paths = {entry.path: entry.sha256 for entry in self.shared.entries} if self.shared else {}
        self._program.check(self._shared_paths)
        self._per_run = [one for one in self._texts.inputs if not one.shared]
        self._outputs = [(one.name, one.pattern, one.wild) for one in self._texts.outputs]
        if command.outputs is None:
            self._outputs = [(None, _literally(pattern), True) for pattern in outputs]
        self._constant: dict[str, Any] = {
            "app": self._app.files.id if self._app is not None else None,
            "archive": self._app.archive if self._app is not None else "",
            "when": command.when,
            "timeout": command.timeout,
        }

    @property
    def warnings(self) -> list[str]:
        """What may keep the program from running on a node."""
        return self._program.warnings

    @property
    def modules(self) -> frozenset[str]:
        """Third-party modules that the program imports, where it is a Python script of the user's."""
        return self._program.modules

    @property
    def app(self) -> App | None:
        return self._app

    @property
    def sets(self) -> tuple[FileSet, ...]:
        """The file sets that all runs need."""
        return tuple(one for one in (self.shared, self._app.files if self._app else None) if one is not None)

    def run(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Run:
        """One run with these parameters. Raises TypeError or ValueError for parameters that do not fit the command,
        FilesError for files that cannot be sent."""
        parameters = _parameters(args, kwargs or {})
        self._texts.check_known(parameters, self._app is not None)
        own = Gathered()
        values: dict[str, Any] = dict(self._names)
        for name, value in parameters.items():
            values[name] = _value(name, value, own)
        for one in self._per_run:
            assert isinstance(one.where, Text)
            names = own.take(one.where.fill(values))
            if one.name is not None:
                values[one.name] = names
        files = own.set() if own else None
        if files is not None:
            self._check_beside(files)
        outputs, make = self._outputs_of(values)
        spec = {
            **self._constant,
            "sets": [one.id for one in (self.shared, files) if one],
            "env": {name: text.fill(values) for name, text in self._texts.env.items()},
            "outputs": outputs,
            "make": make,
            "shell": self._texts.shell.fill(values, quoted=True) if self._texts.shell is not None else None,
            "argv": self._argv(values, own),
        }
        return Run(parameters, spec, files)

    def unsent(self) -> list[str]:
        """Words of the command that are files here and were not sent: where it failed, that is why, as a rule."""
        found = []
        for word in self._words[1:]:
            if isinstance(word, Text) and not word.names:
                text = word.fill({})
                if text not in self._shared_paths and not text.startswith("-") and _is_file(text):
                    found.append(text)
        return found

    def texts_of_files(self, run: Run) -> list[tuple[str, str]]:
        """Parameters that name a file here which was not sent, as they are texts."""
        sent = {*self._shared_paths, *(entry.path for entry in run.own.entries)} if run.own else self._shared_paths
        texts = [(name, value) for name, value in run.parameters.items() if isinstance(value, str) and name != "input"]
        return [(name, value) for name, value in texts if value not in sent and _is_file(value)]

    def patterns(self) -> list[str]:
        """Words of the command that match files here, as a shell would have it."""
        texts = [word.fill({}) for word in self._words[1:] if isinstance(word, Text) and not word.names]
        return [text for text in texts if not text.startswith("-") and glob.has_magic(text) and glob.glob(text)]

    # inside

    def _argv(self, values: dict[str, Any], own: Gathered) -> list[str]:
        argv: list[str] = []
        for word in self._words:
            argv += word if isinstance(word, Names) else word.words(values)
        if self._words and not argv:
            raise ValueError("the command has no words")
        first = self._words[0] if self._words else None
        if isinstance(first, Text) and first.names and "/" not in argv[0]:
            source = own.source(argv[0])
            if source is not None:  # a file of the run is the program
                self._program.check_file(source, argv[0])
                argv[0] = f"./{argv[0]}"
        return argv

    def _outputs_of(self, values: dict[str, Any]) -> tuple[list[list[Any]], list[str]]:
        """What to collect, as the worker is told, and the directories to make. Names go into `values`."""
        found: list[list[Any]] = []
        make = []
        for name, text, wild in self._outputs:
            plain = text.fill(values)
            check_pattern(plain)
            pattern = text.fill({key: _escaped(value) for key, value in values.items()})
            if name is None:
                found.append([None, pattern, "", not wild])
                continue
            inside = name if wild and name in self._texts.used else ""
            found.append([name, pattern, inside, not wild])
            directory = inside or ("" if wild else os.path.dirname(plain))
            if directory:
                make.append(directory)
            if directory in self._shared_paths:
                raise FilesError(f"outputs: {directory!r} is a file among the inputs: give the output another name")
            target = inside or plain
            values[name] = Names([f"./{target}" if target.startswith("-") else target])
        return found, make

    def _check_beside(self, own: FileSet) -> None:
        for entry in own.entries:
            if self._shared_paths.get(entry.path, entry.sha256) != entry.sha256:
                raise FilesError(f"{entry.path!r} is among the inputs of all runs, and other content in this one")


def _parameters(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What a run is given, by name."""
    if len(args) > 1:
        raise TypeError(
            f"a Command takes one value without a name (its input) or a mapping of all, got {len(args)}: give keywords "
            "to submit, rows such as dict(n=1, mesh=Path('a.msh')) to map"
        )
    parameters = parameters_of(args[0]) if args else {}
    twice = parameters.keys() & kwargs.keys()
    if twice:
        raise TypeError(f"{', '.join(sorted(twice))}: given twice")
    parameters.update(kwargs)
    for name in parameters:
        if not isinstance(name, str):
            raise TypeError(f"names of parameters are texts, got {name!r}")
    return parameters


def _value(name: str, value: Any, own: Gathered) -> Any:
    """A parameter's value, or the names of the files that it is."""
    if isinstance(value, (Path, BlobPath)) or (name == "input" and isinstance(value, (str, os.PathLike))):
        return own.take(value if isinstance(value, (str, Path, BlobPath)) else Path(value))
    several = isinstance(value, (list, tuple)) and len(value) > 0
    if several and all(
        isinstance(one, (Path, BlobPath)) or (name == "input" and isinstance(one, str)) for one in value
    ):
        return Names(found for one in value for found in own.take(one))
    return value


def _escaped(value: Any) -> Any:
    """A value in a pattern means itself."""
    if isinstance(value, Names):
        return Names(glob.escape(one) for one in value)
    return glob.escape(value) if isinstance(value, str) else value


def _literally(pattern: str) -> Text:
    return Text(pattern.replace("{", "{{").replace("}", "}}"))


def _is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False

"""The texts of a command with their placeholders: read once, when the command is made, and filled for each run."""

from __future__ import annotations

import functools
import re
import shlex
import string
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from batchexec._wire import names

from .values import BlobPath

if TYPE_CHECKING:
    from batchexec.command import Command

APP = names.APP_PLACE
NAME = re.compile(r"[A-Za-z_]\w*\Z")
_SHELL_WORDS = re.compile(r"\d*[<>|&;].*|.*[^\\];")
_QUOTED = re.compile(r"'[^']*'|\"(?:\\.|[^\"\\])*\"|\\.", re.DOTALL)
_SHELL_VALUES = re.compile(r"\$(?:\w+|[{(])|`")
_SHELL_VARIABLE = re.compile(r"(\w+)=(.*)")
_PLAIN = re.compile(r"[\w@%+=:,./-]+\Z", re.ASCII)  # means itself wherever a shell meets it
_WILD = re.compile(r"[*?\[]")


class Names(tuple[str, ...]):
    """What files are called in the run's directory; the value of a placeholder."""


class Text:
    """A text with placeholders `{name}` and `{name:format}`."""

    def __init__(self, text: str) -> None:
        """Raises ValueError for what is no such text."""
        self.text = text
        self.pieces: list[tuple[str, str | None, str]] = []
        try:
            parsed = list(string.Formatter().parse(text))
        except ValueError as error:
            raise ValueError(f"{text!r}: {error} (braces that are meant are written {{{{ and }}}})") from None
        for literal, name, spec, conversion in parsed:
            if name is not None and not NAME.match(name):
                raise ValueError(f"{text!r}: {{{name}}} is no placeholder: a name is, such as {{input}} or {{n:03d}}")
            if conversion or "{" in (spec or ""):
                raise ValueError(f"{text!r}: a placeholder takes a format such as {{n:03d}}, and nothing else")
            self.pieces.append((literal, name, spec or ""))

    @property
    def names(self) -> set[str]:
        return {name for _, name, _ in self.pieces if name is not None}

    def fill(self, values: Mapping[str, Any], *, quoted: bool = False) -> str:
        """The text, each value `quoted` for a shell or as it is. Raises ValueError."""
        filled = []
        shell_places = iter(self._shell_places if quoted else ())
        for literal, name, spec in self.pieces:
            filled.append(literal)
            if name is not None:
                value = _formatted(self.text, name, values[name], spec, quoted)
                place = next(shell_places, "")
                if place and value != APP and not _PLAIN.match(value):
                    raise ValueError(
                        f"{{{name}}} stands {place}, where {value} cannot be quoted for the shell. Values are quoted "
                        "already: give it a place of its own, without quotes, or pass it on by "
                        f"env={{'X': '{{{name}}}'}}"
                    )
                filled.append(value)
        return "".join(filled)

    @functools.cached_property
    def _shell_places(self) -> list[str]:
        """Of each placeholder, "" where a value can be quoted for the shell, else where it stands."""
        from .shell_texts import PLACE, places  # nodes, which read this module, have no use for it

        parts = [literal.replace(PLACE, " ") + (PLACE if name is not None else "") for literal, name, _ in self.pieces]
        return places("".join(parts))

    def words(self, values: Mapping[str, Any]) -> list[str]:
        """The text as one word, or as many as there are files where it is a placeholder of files alone."""
        if len(self.pieces) == 1 and not self.pieces[0][0] and self.pieces[0][1]:
            value = values[self.pieces[0][1]]
            if isinstance(value, Names):
                return list(value)
        return [self.fill(values)]


def _formatted(text: str, name: str, value: Any, spec: str, quoted: bool) -> str:
    if isinstance(value, Names):
        if quoted:
            return " ".join(shlex.quote(one) for one in value)
        if len(value) != 1:
            raise ValueError(
                f"{{{name}}} stands for {len(value)} files, so that it has to be a word of its own; "
                f"it is part of {text!r}"
            )
        return value[0]
    if value == APP:
        return APP
    try:
        one = format(value, spec)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{{{name}:{spec}}} cannot show {name}={value!r}: {error}") from None
    if "\0" in one:
        raise ValueError(f"{name}={value!r} holds a null character, which no word of a command can")
    return shlex.quote(one) if quoted else one


class Input(NamedTuple):
    """One of `inputs=`: a text is a path or glob, and may have placeholders."""

    name: str | None
    where: Text | Path | BlobPath

    @property
    def shared(self) -> bool:
        return not (isinstance(self.where, Text) and self.where.names)


class Output(NamedTuple):
    name: str | None
    pattern: Text

    @property
    def wild(self) -> bool:
        """Whether it may stand for several files."""
        return any(_WILD.search(literal) for literal, _, _ in self.pattern.pieces)


class Templates:
    """All texts of one command."""

    def __init__(self, command: Command) -> None:
        """Raises ValueError for a text that cannot be meant."""
        self.shell = Text(str(command.command)) if command.shell else None
        self.words: list[Text | Path] = []
        if not command.shell:
            split = _split(command.command) if isinstance(command.command, str) else command.command
            self.words = [word if isinstance(word, Path) else Text(word) for word in split]
        self.env = {name: Text(text) for name, text in command.env.items()}
        self.inputs = [Input(name, _where(one)) for name, one in command.inputs]
        self.outputs = [Output(name, Text(pattern)) for name, pattern in command.outputs or ()]
        named = [name for name, _ in (*command.inputs, *(command.outputs or ())) if name is not None]
        twice = {name for name in named if named.count(name) > 1 or name == "app"}
        if twice:
            raise ValueError(f"{', '.join(sorted(twice))}: a name for one thing only, please")
        self.named = frozenset(named)
        self._fitting: frozenset[frozenset[str]] = frozenset()
        if "app" in self.used and command.app is None:
            raise ValueError("{app} stands for the directory of the app: give app=")

    @functools.cached_property
    def used(self) -> set[str]:
        """Names of all placeholders."""
        texts = [self.shell, *self.words, *self.env.values(), *(one.where for one in self.inputs)]
        texts += [one.pattern for one in self.outputs]
        return set().union(*(text.names for text in texts if isinstance(text, Text)))

    def check_known(self, parameters: Iterable[str], app: bool) -> None:
        """Raises TypeError when there is a placeholder that nothing is given for, or a parameter by the name of an
        input or output."""
        given = frozenset(parameters)
        if given in self._fitting:
            return
        clash = given & {*self.named, "app"}
        if clash:
            raise TypeError(f"{', '.join(sorted(clash))}: the command has an input, an output or an app of that name")
        known = given | self.named | ({"app"} if app else set())
        unknown = sorted(self.used - known)
        if unknown:
            has = f"there is {', '.join(sorted(known))}" if known else "no parameters are given"
            if given == {"input"}:
                has += f" (what is given without a name; with one: {unknown[0]}=...)"
            what = ", ".join(f"{{{name}}}" for name in unknown)
            texts = [text.text for text in (self.shell, *self.words) if isinstance(text, Text)]
            variables = [name for name in unknown if any(f"${{{name}}}" in text for text in texts)]
            shell = f"; a variable of a shell is written ${{{{{variables[0]}}}}}" if variables else ""
            raise TypeError(f"nothing is given for {what} of the command: {has}{shell}")
        self._fitting = frozenset((given,))  # as a rule, all runs have the same parameters


def _where(one: Any) -> Any:
    return Text(one) if isinstance(one, str) else one


def _split(text: str) -> list[str]:
    """The words of a text, as a shell would split it. Raises ValueError for what only a shell could do."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"the command cannot be split into words ({error}): {text!r}") from None
    try:
        unquoted = shlex.split(text, posix=False)
    except ValueError:
        unquoted = []  # a quotation mark after a backslash
    bare = [word for word in unquoted if _SHELL_WORDS.fullmatch(word)]
    bare += _SHELL_VALUES.findall(_QUOTED.sub(" ", text))
    if bare:
        raise ValueError(
            f"{bare[0]!r} in the command is for a shell, and it is run without one: give shell=True, or quote it"
        )
    variable = _SHELL_VARIABLE.fullmatch(words[0]) if words else None
    if variable is not None:
        raise ValueError(
            f"the command begins with {words[0]!r}: variables are given by env={{{variable[1]!r}: {variable[2]!r}}}"
        )
    return words

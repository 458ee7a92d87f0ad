"""Which packages the tasks of an executor need: the environment that nodes make for them, as JSON in a blob."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from batchexec._source import Reached
from batchexec._wire import envelope, names
from batchexec.config import BatchConfig
from batchexec.errors import RequirementsError

if TYPE_CHECKING:
    from batchexec._source.packages.plans import Plan
    from batchexec._source.packages.requirements_files import Wanted


@dataclass(eq=False)
class Environment:
    """What a node is to install, under its content hash; `blobs` are the contents that it is made from, by hash."""

    digest: str
    blobs: Mapping[str, bytes] = field(repr=False)
    hints: tuple[str, ...] = ()  # what may be the matter when it cannot be made
    proven: bool = False  # a task has run in it

    def explained(self, error: RequirementsError) -> RequirementsError:
        """The error with what is known here of packages that the resolver did not find."""
        hints = "".join(f"\n{hint}" for hint in self.hints) if error.kind == "resolution" else ""
        return RequirementsError(f"{error}{hints}", kind=error.kind) if hints else error


def packages_for(config: BatchConfig, where: str, warn: Callable[[str], None]) -> Packages | None:
    """None where nodes are said to have all packages: asked for by `none`, and on this machine unless told otherwise.

    `warn` is told once of each version that cannot be had on nodes as it is here.
    """
    entries = config.requirements or (("auto",) if where == "azure" else ("none",))
    return None if entries == ("none",) else Packages(config, where, entries, warn)


class _Needs(NamedTuple):
    """Third-party modules, and modules of the user's own, whose projects may require more."""

    modules: frozenset[str] = frozenset()
    own: frozenset[str] = frozenset()

    def cover(self, other: _Needs) -> bool:
        return self.modules >= other.modules and self.own >= other.own

    def joined(self, other: _Needs) -> _Needs:
        return _Needs(self.modules | other.modules, self.own | other.own)


class Packages:
    """The packages of one executor. Calls that differ share environments, but none waits for what another cannot have.

    Not for several threads at once: the submitter asks for one chunk after the other.
    """

    def __init__(self, config: BatchConfig, where: str, entries: tuple[str, ...], warn: Callable[[str], None]) -> None:
        self._entries = entries
        self._options = config.pip_options
        self._proxy = config.proxy
        self._ca_bundle = config.ca_bundle
        self._local = where == "local"
        self._warn = warn
        self._warned: set[str] = set()
        self._read: Wanted | RequirementsError | None = None
        self._needs: dict[Reached, _Needs | RequirementsError] = {}
        self._made: dict[_Needs, Environment | None] = {}
        self._call: object = None  # the last one, and what its chunks needed so far
        self._together = _Needs()
        self._environments: dict[str, Environment] = {}

    @property
    def settings(self) -> dict[str, str]:
        """Settings of the job by which installers on its nodes reach the indexes. Secret: they may hold credentials."""
        try:
            options = self._wanted().options
            authorities = self._authorities()
        except RequirementsError:  # which every call will get
            return {}
        about = {
            "options": [*_words(self._options), *options],
            "proxy": self._proxy,
            "ca": envelope.sha256(authorities) if authorities else None,
        }
        return {names.ENV_PIP: json.dumps(about)} if any(about.values()) else {}

    def environment(self, reached: Reached, call: object) -> Environment | None:
        """What the node must make for a chunk that reaches so much; None for nothing. Raises RequirementsError.

        An environment that has served is used again, and added to; the chunks of one `call` share what they need.
        """
        needs = self._needs_of(reached)
        if isinstance(needs, RequirementsError):
            raise needs
        if not self._made_for(needs):
            return None
        if call is not self._call:
            self._call, self._together = call, _Needs()
        proven = [held for held, made in self._made.items() if made is not None and made.proven]
        for held in (*proven, self._together):
            if held.cover(needs):
                return self._made_for(held)
        self._together = functools.reduce(_Needs.joined, (*proven, self._together), needs)
        return self._made_for(self._together)

    def pending(self, reached: Reached) -> bool:
        """Whether asking for it may take a while: files and metadata are read, wheels built."""
        return reached not in self._needs

    def _needs_of(self, reached: Reached) -> _Needs | RequirementsError:
        """What it needs, of which is known that a node can have it."""
        from batchexec._source.packages import needed as packages

        if reached not in self._needs:
            try:
                auto = self._wanted().auto
                if not self._local:
                    packages.refuse_foreign(reached.local)
                needs = _Needs(packages.modules_of(reached), reached.local) if auto else _Needs()
                self._made_for(needs)
                self._needs[reached] = needs
            except RequirementsError as error:
                self._needs[reached] = error
            except Exception as error:  # noqa: BLE001 - metadata is anybody's; this call fails, others go on
                failed = RequirementsError(
                    f"the packages cannot be found out here ({type(error).__name__}: {error}): list them, as in "
                    "requirements=['numpy', ...]"
                )
                failed.__cause__ = error
                self._needs[reached] = failed
        return self._needs[reached]

    def _made_for(self, needs: _Needs) -> Environment | None:
        if needs not in self._made:
            plan = self.plan(needs.modules, needs.own)
            for text in plan.warnings:
                if text not in self._warned:
                    self._warned.add(text)
                    self._warn(text)
            self._made[needs] = self.of_plan(plan) if plan else None
        return self._made[needs]

    def plan(self, modules: frozenset[str], own: frozenset[str]) -> Plan:
        """What nodes must have for these third-party modules, and for the projects of the user's `own`."""
        from batchexec._source.packages import needed as packages

        return packages.plan(self._wanted(), modules, own, self._local)

    def of_plan(self, plan: Plan, check: bool = True) -> Environment:
        """The environment that a plan describes. Without `check`, also where an interpreter has it all."""
        from batchexec._source.packages import wheels

        installer = wheels.installer()
        contents = [*plan.wheels.values(), *installer.values()]
        if authorities := self._authorities():
            contents.append(authorities)
        spec: dict[str, Any] = {
            "requirements": plan.requirements,
            "constraints": plan.constraints,
            "wheels": {name: envelope.sha256(data) for name, data in plan.wheels.items()},
            "installer": {name: envelope.sha256(data) for name, data in installer.items()} or None,
            "check": plan.check if check else None,
        }
        data = json.dumps(spec, sort_keys=True, separators=(",", ":")).encode()
        digest = envelope.sha256(data)
        if digest not in self._environments:
            blobs = {envelope.sha256(content): content for content in [data, *contents]}
            self._environments[digest] = Environment(digest, blobs, plan.hints)
        return self._environments[digest]

    def _wanted(self) -> Wanted:
        """What the settings ask for, with the files that they name read once."""
        from batchexec._source.packages import requirements_files

        if self._read is None:
            try:
                self._read = requirements_files.read(self._entries, local=self._local)
            except RequirementsError as error:
                self._read = error
        if isinstance(self._read, RequirementsError):
            raise self._read
        return self._read

    def _authorities(self) -> bytes:
        if not self._ca_bundle:
            return b""
        try:
            with open(self._ca_bundle, "rb") as file:
                return file.read()
        except OSError as error:
            raise RequirementsError(f"ca_bundle: cannot read {self._ca_bundle}: {error.strerror or error}") from error


def _words(options: tuple[str, ...]) -> list[str]:
    """Options as words of a command line, whether given as '--index-url URL', as two, or several in one text."""
    words: list[str] = []
    for text in options:
        if text.startswith("-"):
            for option in re.split(r"\s+(?=-)", text):  # what is behind the first blank of one is its value
                words += option.split(None, 1)
        else:
            words.append(text)
    return words

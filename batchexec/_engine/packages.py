"""Which packages the tasks of an executor need: the environment that nodes make for them, as JSON in a blob."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from batchexec._source import Reached
from batchexec._wire import envelope, names
from batchexec.config import BatchConfig
from batchexec.errors import RequirementsError

if TYPE_CHECKING:
    from batchexec._source.packages import Plan
    from batchexec._source.requirements_files import Wanted


@dataclass(frozen=True, eq=False)
class Environment:
    """What a node is to install, under its content hash; `blobs` are the contents that it is made from, by hash."""

    digest: str
    blobs: Mapping[str, bytes] = field(repr=False)
    hints: tuple[str, ...] = ()  # what may be the matter when it cannot be made

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


class Packages:
    """The packages of one executor. What `auto` finds only grows, so that calls which differ share environments.

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
        self._modules: frozenset[str] = frozenset()  # of all calls so far
        self._own: frozenset[str] = frozenset()  # the user's modules, whose projects may require more
        self._reached: dict[Reached, Environment | RequirementsError | None] = {}
        self._environments: dict[str, Environment] = {}

    @property
    def settings(self) -> dict[str, str]:
        """Settings of the job by which installers on its nodes reach the indexes. Secret: they may hold credentials."""
        try:
            options = self._wanted().options
        except RequirementsError:  # which every call will get
            options = []
        authorities = self._authorities()
        about = {
            "options": [*_words(self._options), *options],
            "proxy": self._proxy,
            "ca": envelope.sha256(authorities) if authorities else None,
        }
        return {names.ENV_PIP: json.dumps(about)} if any(about.values()) else {}

    def environment(self, reached: Reached) -> Environment | None:
        """What the node must make for a chunk that reaches so much; None for nothing. Raises RequirementsError."""
        if reached not in self._reached:
            try:
                self._reached[reached] = self._made(reached)
            except RequirementsError as error:
                self._reached[reached] = error
        made = self._reached[reached]
        if isinstance(made, RequirementsError):
            raise made
        return made

    def pending(self, reached: Reached) -> bool:
        """Whether asking for it may take a while: files and metadata are read, wheels built."""
        return reached not in self._reached

    def _made(self, reached: Reached) -> Environment | None:
        from batchexec._source import packages

        wanted = self._wanted()
        modules = packages.modules_of(reached) if wanted.auto else frozenset()
        own = reached.local if wanted.auto else frozenset()
        plan = self.plan(modules, own)
        if not plan:
            return None  # though other calls need some
        if not (modules >= self._modules and own >= self._own):
            plan = self.plan(modules | self._modules, own | self._own)
        self._modules |= modules
        self._own |= own
        for text in plan.warnings:
            if text not in self._warned:
                self._warned.add(text)
                self._warn(text)
        return self.of_plan(plan)

    def plan(self, modules: frozenset[str], own: frozenset[str]) -> Plan:
        """What nodes must have for these third-party modules, and for the projects of the user's `own`."""
        from batchexec._source import packages

        return packages.plan(self._wanted(), modules, own, self._local)

    def of_plan(self, plan: Plan, check: bool = True) -> Environment:
        """The environment that a plan describes. Without `check`, also where an interpreter has it all."""
        from batchexec._source import wheels

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
        from batchexec._source import requirements_files

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
        with open(self._ca_bundle, "rb") as file:
            return file.read()


def _words(options: tuple[str, ...]) -> list[str]:
    """Options as words of a command line, whether given as '--index-url URL' or as two."""
    words: list[str] = []
    for option in options:
        words += option.split(None, 1) if option.startswith("-") else [option]
    return words

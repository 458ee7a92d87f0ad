"""The worker's archive in the memory of a fork server, which outlives the job that the archive came with."""

from __future__ import annotations

import importlib.util
import io
import marshal
import sys
import zipfile
from importlib.machinery import ModuleSpec
from typing import Any

_HEAD_BYTES = 16  # of a .pyc, before its code


class KeptModules:
    """Finds our modules that are first imported in a task, when the archive's file may be gone."""

    def __init__(self, archive: str, package: str) -> None:
        self._archive = archive
        self._package = package
        with open(archive, "rb") as file:
            self._zip = zipfile.ZipFile(io.BytesIO(file.read()))

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name.partition(".")[0] != self._package:
            return None
        place = name.replace(".", "/")
        for file, is_package in ((f"{place}.py", False), (f"{place}/__init__.py", True)):
            try:
                self._zip.getinfo(f"{file}c")
            except KeyError:
                continue
            spec = ModuleSpec(name, self, origin=f"{self._archive}/{file}", is_package=is_package)  # type: ignore[arg-type]
            spec.has_location = True
            return spec
        return None

    def create_module(self, spec: object) -> None:
        """None: a module as all others are."""

    def exec_module(self, module: Any) -> None:
        file = module.__spec__.origin[len(self._archive) + 1 :]
        data = self._zip.read(f"{file}c")
        same = data[:4] == importlib.util.MAGIC_NUMBER  # else it is of the client's Python, which is another one
        code = marshal.loads(data[_HEAD_BYTES:]) if same else compile(self._zip.read(file), module.__file__, "exec")
        exec(code, module.__dict__)


def keep(package: str, loader: object) -> None:
    """Where the package came from an archive, by `loader`, have all its modules at hand for good."""
    archive = getattr(loader, "archive", None)
    if archive is not None:
        sys.meta_path.insert(0, KeptModules(archive, package))

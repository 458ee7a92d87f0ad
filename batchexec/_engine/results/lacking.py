"""What to do about modules that a node lacks and this machine has."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

_NO_MODULE = re.compile(r"No module named '([\w.]+)'")
_CANNOT = re.compile(r"cannot import name '(\w+)' from '([\w.]+)'")
_LIBRARY = re.compile(r"(lib\S+?\.so[\d.]*): cannot open shared object file")
_CAUSE = "direct cause of the following exception"
# How libraries name what they import when it is wanted: pandas, scikit-learn, matplotlib, dask, and pip's own command.
_NAME = r"[`'\"]?([A-Za-z][\w.-]*\w)[`'\"]?"
_WANTED = re.compile(
    rf"dependency {_NAME}|Import {_NAME} failed|\binstall(?:ing)? {_NAME}|\brequires {_NAME}|"
    rf"{_NAME} (?:(?:is|are) (?:required|needed|not installed)|to be installed)"
)


def advice(module: str) -> str | None:
    """For a module that was not found on a node; None where it cannot be imported on this machine either."""
    from batchexec._source.modules import Kind, kind

    what = kind(module)
    if what is Kind.LOCAL:
        return (
            f"{module} is your own, and here: it travels when it is seen to be used. Import it by a statement, in the "
            "callable or in the module that uses it."
        )
    return _listed(module, package_of(module)) if what is Kind.INSTALLED else None


def advice_on(text: str, traceback: str, is_import: bool) -> str | None:
    """For an exception with that text and traceback (as text) from a node, if it is about such a module.

    `is_import`: it is an ImportError. Libraries import what only some of their functions need when these are called,
    and raise errors of their own, which name it.
    """
    if not is_import and _CAUSE not in traceback:
        return None
    for module in reversed(_NO_MODULE.findall(traceback)):
        if (found := advice(module)) is not None:
            return found
    if not is_import:
        return None
    if library := _LIBRARY.search(text):
        return (
            f"{library[1]} is a library of the system, which the node's image lacks: use one that has it (image=). "
            "On a pool without one, start_command= can install it."
        )
    return next(filter(None, (*_other_versions(text), *map(_advice_on_name, _wanted(text)))), None)


def package_of(module: str) -> str:
    """The distribution here that has the module, else the module's own first name."""
    from batchexec._source.modules import locate
    from batchexec._source.packages.distributions import owners

    file = locate(module)
    owner = owners([file])[file] if file else None
    return owner.title if owner is not None else module.partition(".")[0]


def _advice_on_name(name: str) -> str | None:
    """For the name of a module or of a distribution, in a library's own words."""
    from batchexec._source.modules import Kind, kind
    from batchexec._source.packages.distributions import find

    if kind(name) is Kind.INSTALLED:
        return _listed(name, package_of(name))
    one = find(name)
    return _listed(name, one.title) if one is not None else None


def _listed(what: str, package: str) -> str:
    return (
        f"{what} is installed here, by {package}, and nodes get what is listed or seen to be imported: add "
        f'"{package}" to requirements=, as in requirements=["auto", "{package}"]. An image that has it (image=) will '
        "do, too."
    )


def _wanted(text: str) -> Iterator[str]:
    for found in _WANTED.finditer(text):
        yield next(filter(None, found.groups()))


def _other_versions(text: str) -> Iterator[str]:
    """A name that the module has here, as it is loaded, and that of the node has not."""
    from batchexec._source.modules import Kind, kind
    from batchexec._source.packages.distributions import find

    for name, module in _CANNOT.findall(text):
        if hasattr(sys.modules.get(module), name) and kind(module) is Kind.INSTALLED:
            one = find(package_of(module))
            if one is not None:
                yield (
                    f"{module} has {name} here, by {one.title} {one.version}; the node has another version. "
                    f'requirements=["auto", "{one.title}=={one.public_version}"] has this one installed there.'
                )

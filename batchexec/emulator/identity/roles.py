"""Built-in roles of Azure for Batch and Blob storage: what a principal that has only these may do.

https://learn.microsoft.com/azure/role-based-access-control/built-in-roles
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

_EVERY_LETTER = "racwdxyltmeopfi"
_ALL = frozenset(("read", "write"))
_READ = frozenset(("read",))


@dataclass(frozen=True, slots=True)
class Role:
    """`pools` and `jobs`: of read and write. `blobs`: the letters of a SAS that would allow as much."""

    name: str
    pools: frozenset[str] = frozenset()
    jobs: frozenset[str] = frozenset()
    blobs: str = ""
    delegates: bool = False  # may get a user delegation key


# Their order is kept: the place of a role is its bit in the ids of principals.
_ROLES = (
    Role("Contributor", _ALL, _ALL, "", True),
    Role("Azure Batch Account Contributor", _ALL, _ALL),
    Role("Azure Batch Data Contributor", _ALL, _ALL),
    Role("Azure Batch Job Submitter", _READ, _ALL),
    Role("Azure Batch Account Reader", _READ, _READ),
    Role("Storage Blob Data Owner", blobs=_EVERY_LETTER, delegates=True),
    Role("Storage Blob Data Contributor", blobs="racwdxyltmi", delegates=True),
    Role("Storage Blob Data Reader", blobs="rl", delegates=True),
    Role("Storage Blob Delegator", delegates=True),
)
_SLUGS = {role.name.lower().replace(" ", "-"): role for role in _ROLES}
EVERYTHING = 0xFFFF


class UnknownRole(Exception):
    """No role is called so; the text lists those that are known."""


class Rights:
    """What all the roles together allow; `mask` says which they are, EVERYTHING that nothing is forbidden."""

    __slots__ = ("blobs", "delegates", "jobs", "mask", "pools")

    def __init__(self, mask: int) -> None:
        held = [role for bit, role in enumerate(_ROLES) if mask >> bit & 1]
        unlimited = mask == EVERYTHING
        self.mask = mask
        self.pools: Collection[str] = _ALL if unlimited else frozenset().union(*(role.pools for role in held))
        self.jobs: Collection[str] = _ALL if unlimited else frozenset().union(*(role.jobs for role in held))
        self.blobs = _EVERY_LETTER if unlimited else "".join(role.blobs for role in held)
        self.delegates = unlimited or any(role.delegates for role in held)

    @classmethod
    def of(cls, names: Iterable[str]) -> Rights:
        """Those of roles by name, written as Azure does or in lower case with hyphens. No name: everything."""
        mask = 0
        for name in names:
            role = _SLUGS.get(name.lower().replace(" ", "-"))
            if role is None:
                raise UnknownRole(f"{name!r} is no role known here; known are {', '.join(_SLUGS)}")
            mask |= 1 << _ROLES.index(role)
        return cls(mask or EVERYTHING)

"""Azure VM sizes, read from their names: vCPUs, memory, GPUs.

The form of the names: https://learn.microsoft.com/azure/virtual-machines/vm-naming-conventions
The figures: the series' pages below https://learn.microsoft.com/azure/virtual-machines/sizes/overview
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

from batchexec.errors import ConfigError

from .wording import quoted


class _Name(NamedTuple):
    """Standard_NC24ads_A100_v4: family nc, number 24, features ads, more a100, version 4."""

    family: str
    number: int
    constrained: int  # vCPUs left of `number`: 16 of Standard_E64-16s_v5; else 0
    features: str
    more: str
    version: int


def _parsed(vm_size: str) -> _Name | None:
    match = re.fullmatch(r"(?:standard|basic)_([a-z]+)(\d+)(?:-(\d+))?([a-z]*)((?:_\w+)*)", vm_size.lower())
    if not match:
        return None
    family, number, constrained, features, rest = match.groups()
    version = re.fullmatch(r"(.*)_v(\d+)(?:_promo)?", rest)
    more, generation = (version[1], int(version[2])) if version else (rest, 1)
    return _Name(family, int(number), int(constrained or 0), features, more.strip("_"), generation)


def _key(name: _Name) -> str:
    """What the patterns of the tables are for: `nc:ads/a100:4`."""
    more = f"/{name.more}" if name.more else ""
    return f"{name.family}:{name.features}{more}:{name.version}"


# Sizes of the first series have numbers that count nothing.
_NUMBERED = {
    "a": {0: 1, 1: 1, 2: 2, 3: 4, 4: 8, 5: 2, 6: 4, 7: 8, 8: 8, 9: 16, 10: 8, 11: 16},
    "d": {1: 1, 2: 2, 3: 4, 4: 8, 5: 16, 11: 2, 12: 4, 13: 8, 14: 16, 15: 20},
    "g": {1: 2, 2: 4, 3: 8, 4: 16, 5: 32},
}
_LAST_NUMBERED = {"a": 1, "d": 2, "ds": 2, "g": 1, "gs": 1}


def vcpus(vm_size: str) -> int:
    """vCPUs of a size; ConfigError for a name that does not tell. A constrained size counts what it has left."""
    name = _parsed(vm_size)
    count = (name.constrained or _full(name)) if name else 0
    if not count:
        raise ConfigError(f"vm_size: cannot read the vCPUs from {quoted(vm_size)}: set slots (tasks a node)")
    return count


def _full(name: _Name) -> int:
    """vCPUs of the size, or of the one that it is a constrained form of; 0 where there is no such size."""
    if name.version <= _LAST_NUMBERED.get(name.family, 0):
        return _NUMBERED[name.family[0]].get(name.number, 0)
    return name.number


# GiB for each vCPU, by patterns of family, features, what stands behind them, version; the first that fits counts.
_MEMORY = {
    r"a:m:2": 8,
    r"a::1": 1.75,
    r"a::2": 2,
    r"b:[ap]*ts:2": 0.5,
    r"b:[ap]*ls:2": 2,
    r"b:[ap]*s:2|b:ms:1": 4,
    r"dc:d?s:3": 8,
    r"dc:.*:.*": 4,
    r"ds?::[12]": 3.5,
    r"d:[a-z]*l[a-z]*:.*": 2,
    r"d:[a-z]*:.*": 4,
    r"ec?:[a-z]*:.*": 8,
    r"fx:.*:.*": 21,
    r"f:s?:[12]|f:al[a-z]*:.*": 2,
    r"f:am[a-z]*:.*": 8,
    r"f:a[a-z]*:.*": 4,
    r"gs?::1": 14,
    r"h:r?:1": 7,
    r"h:mr?:1": 14,
    r"l:.*:.*|hc:rs:1|hx:rs:.*": 8,
    r"n[cv]:r?:1": 56 / 6,
    r"n[cdv]:r?s:[12]|nc:r?s:3": 112 / 6,
    r"nc:as/t4:3": 6.875,
    r"nc:.*/a100:4": 220 / 24,
    r"ncc?:.*/h100:5": 8,
    r"nd:asr:4": 900 / 96,
    r"nd:.*/a100:4|nd:.*/(h100|h200|mi300x):5": 1850 / 96,
    r"nv:s:3": 112 / 12,
    r"nv:as:4": 3.5,
    r"nv:adms/a10:5": 880 / 36,
    r"nv:.*/a10:5": 55 / 6,
}
# Sizes that are not as the others of their family: GiB of the whole size.
_MEMORY_OF = {
    "b1ls": 0.5, "b1s": 1, "b1ms": 2, "b2s": 4, "d15_v2": 140, "ds15_v2": 140,
    "hb60rs": 228, "hb120rs_v2": 456, "hb120rs_v3": 448, "hb176rs_v4": 704, "hb368rs_v5": 432, "nd40rs_v2": 672,
    "nd128isr_ndr_gb200_v6": 900,
}  # fmt: skip
_E_LARGE = {(64, 3): 432, (64, 4): 504, (80, 4): 504, (96, 4): 672, (96, 5): 672, (104, 5): 672, (112, 5): 672}


def memory(vm_size: str) -> float | None:
    """GiB of a size; None for a family that is not in the tables."""
    name = _parsed(vm_size)
    full = _full(name) if name else 0
    if name is None or not full:
        return None
    unconstrained = re.sub(r"^(?:standard|basic)_|-\d+", "", vm_size.lower())
    if unconstrained in _MEMORY_OF:
        return _MEMORY_OF[unconstrained]
    is_amd_64 = full == 64 and name.version == 4 and "a" in name.features  # regular, unlike Intel's
    if name.family in ("e", "ec") and (full, name.version) in _E_LARGE and not is_amd_64:
        return _E_LARGE[full, name.version]
    if name.family[0] in "da" and name.version <= _LAST_NUMBERED.get(name.family, 0):
        is_large = name.number >= 5 if name.family == "a" else 11 <= name.number <= 14
        if is_large:
            return 7.0 * full
    return next((gib * full for pattern, gib in _MEMORY.items() if re.fullmatch(pattern, _key(name))), None)


# vCPUs for each GPU; sizes with fewer have a part of one.
_GPUS = {
    r"n[cv]:r?:1|n[cv]:r?s:2|nd:r?s:1|nc:r?s:3": 6,
    r"nd:rs:2": 5,
    r"nc:as/t4:3": 16,
    r"nc:.*/a100:4": 24,
    r"ncc?:.*/h100:5": 40,
    r"nd:asr:4|nd:.*/a100:4|nd:.*/(h100|h200|mi300x):5": 12,
    r"nd:.*/.*gb200:6": 32,
    r"nv:s:3": 12,
    r"nv:as:4|ng:.*/v620:1": 32,
    r"nv:.*/a10:5": 36,
    r"nv:.*/v710:5": 28,
}


def gpus(vm_size: str) -> int | None:
    """GPUs of a size, 1 also where it has a part of one; None for a size of the GPU families that no table has."""
    name = _parsed(vm_size)
    if name is None or not re.fullmatch(r"n[cdgv]c?", name.family):
        return 0
    counts = (max(1, name.number // cores) for pattern, cores in _GPUS.items() if re.fullmatch(pattern, _key(name)))
    return next(counts, None)


@functools.lru_cache
def slots(vm_size: str) -> int:
    """Task slots of a node where nothing else is said: one for each GPU, else for each vCPU. ConfigError where the
    name does not tell."""
    count = gpus(vm_size)
    if count is None:
        raise ConfigError(f"vm_size: cannot read the GPUs from {quoted(vm_size)}: set slots (tasks a node)")
    return count or vcpus(vm_size)

"""What an ELF file says of itself: for which machine, by which loader, with which shared libraries."""

from __future__ import annotations

import struct
from typing import BinaryIO, NamedTuple

_MACHINES = {
    3: "i386",
    8: "mips",
    20: "ppc",
    21: "ppc64",
    22: "s390x",
    40: "arm",
    62: "x86_64",
    183: "aarch64",
    243: "riscv",
}
_LOAD, _DYNAMIC, _INTERP = 1, 2, 3  # program header types
_NEEDED, _STRTAB, _STRSZ = 1, 5, 10  # dynamic tags
_MOST = 1 << 20  # bytes of a table that is believed


class Elf(NamedTuple):
    """`machine` is named as `platform.machine()` names it on Linux; `loader` is "" for a static executable."""

    machine: str
    loader: str
    needed: tuple[str, ...]


def read(file: BinaryIO) -> Elf:
    """Raises ValueError for a file that is no ELF, or a broken one."""
    try:
        return _read(file)
    except (struct.error, IndexError, UnicodeDecodeError, OverflowError) as error:
        raise ValueError(f"a broken ELF file: {error}") from error


def _read(file: BinaryIO) -> Elf:
    ident = file.read(16)
    if ident[:4] != b"\x7fELF":
        raise ValueError("no ELF file")
    wide = ident[4] == 2
    order = "<" if ident[5] == 1 else ">"
    head = struct.unpack(order + ("HHIQQQIHHHHHH" if wide else "HHIIIIIHHHHHH"), file.read(48 if wide else 36))
    number, table, size, count = head[1], head[4], head[8], head[9]
    machine = _MACHINES.get(number, f"machine {number}")
    if machine == "ppc64" and order == "<":
        machine = "ppc64le"
    file.seek(table)
    entry = 56 if wide else 32
    headers = file.read(min(size * count, _MOST)) if size >= entry else b""
    segments = []
    for start in range(0, len(headers) - entry + 1, size or 1):
        if wide:
            kind, _, offset, address, _, length, _, _ = struct.unpack_from(order + "IIQQQQQQ", headers, start)
        else:
            kind, offset, address, _, length, _, _, _ = struct.unpack_from(order + "IIIIIIII", headers, start)
        segments.append((kind, offset, address, length))
    loader = ""
    tags: list[tuple[int, int]] = []
    for kind, offset, _, length in segments:
        if kind == _INTERP:
            loader = _at(file, offset, length).split(b"\0")[0].decode()
        elif kind == _DYNAMIC:
            tags = list(struct.iter_unpack(order + ("qQ" if wide else "iI"), _whole(_at(file, offset, length), wide)))
    strings = _strings(file, tags, segments)

    def text(start: int) -> str:
        return strings[start : strings.index(b"\0", start)].decode("utf-8", "surrogateescape")

    return Elf(machine, loader, tuple(text(value) for tag, value in tags if tag == _NEEDED) if strings else ())


def _strings(file: BinaryIO, tags: list[tuple[int, int]], segments: list[tuple[int, int, int, int]]) -> bytes:
    found = dict(tags)
    address, length = found.get(_STRTAB), found.get(_STRSZ, 0)
    for kind, offset, start, size in segments:
        if kind == _LOAD and address is not None and start <= address < start + size:
            return _at(file, offset + address - start, length)
    return b""


def _at(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset)
    return file.read(min(length, _MOST))


def _whole(table: bytes, wide: bool) -> bytes:
    entry = 16 if wide else 8
    return table[: len(table) // entry * entry]

"""Archives of programs (zip, tar): what is in them, and unpacking them so that nothing leaves the directory."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from typing import IO, Callable, Iterator, NamedTuple, Optional

_ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_LINK_BYTES = 4096  # PATH_MAX
_UNIX = 3  # in a zip: the system it was made on

_BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError, RuntimeError)


class BadArchive(Exception):
    """No archive that can be unpacked, or one whose members would lead outside."""


class Member(NamedTuple):
    """`kind` is "file", "directory" or "link"; `link` is where a link leads, relative to where it lies."""

    name: str
    kind: str
    executable: bool
    link: str
    content: Optional[IO[bytes]]
    size: int = 0  # of the content


def is_archive(path: str) -> bool:
    """By its name."""
    return path.lower().endswith(_ENDINGS)


def members(path: str) -> Iterator[Member]:
    """The members in their order; `content` can be read until the next one is asked for. Raises BadArchive."""
    try:
        for member in _zipped(path) if path.lower().endswith(".zip") else _tarred(path):
            yield member._replace(name=_checked(member))
    except _BROKEN as error:
        raise BadArchive(f"it cannot be read: {error}") from error


def root_of(directory: str) -> str:
    """The directory that an unpacked archive is about: itself, or the only thing in it, a directory."""
    entries = os.listdir(directory)
    only = os.path.join(directory, entries[0]) if len(entries) == 1 else ""
    return only if only and os.path.isdir(only) and entries[0] != "bin" else directory


def unpack(path: str, target: str, announce: Callable[[int], object] = lambda size: None) -> None:
    """Unpack into the new directory `target`, to be read only. Links are made last, so that nothing is written through
    one. `announce` hears how many bytes the next member takes.

    Raises BadArchive and OSError; what was unpacked until then is left there.
    """
    os.makedirs(target)
    links = []
    for member in members(path):
        place = os.path.join(target, *member.name.split("/"))
        announce(member.size)
        if member.kind == "directory":
            os.makedirs(place, exist_ok=True)
        elif member.kind == "link":
            links.append((place, member.link))
        else:
            os.makedirs(os.path.dirname(place), exist_ok=True)
            assert member.content is not None
            with contextlib.suppress(FileNotFoundError):
                os.unlink(place)  # in a tar that was added to, the last of a name counts
            with open(place, "xb") as file:
                try:
                    shutil.copyfileobj(member.content, file, 1 << 20)
                except _BROKEN as error:
                    raise BadArchive(f"its member {member.name!r} cannot be read: {error}") from error
            os.chmod(place, 0o555 if member.executable else 0o444)
    top = os.path.realpath(target)
    for place, link in links:
        name = os.path.relpath(place, target)
        if os.path.realpath(os.path.dirname(place)) != os.path.dirname(os.path.join(top, name)):
            raise BadArchive(f"its member {name!r} is below a link")
        os.makedirs(os.path.dirname(place), exist_ok=True)
        if os.path.lexists(place):
            raise BadArchive(f"{name!r} is in it twice")
        os.symlink(link, place)
    for place, link in links:  # by way of other links, one may lead elsewhere than its text says
        if os.path.commonpath([top, os.path.realpath(place)]) != top:
            raise BadArchive(f"its link {os.path.relpath(place, target)!r} leads outside, to {link!r}")


def _checked(member: Member) -> str:
    name = member.name.rstrip("/")
    parts = [part for part in name.split("/") if part != "."]
    if not parts:
        return "."
    if name.startswith("/") or ".." in parts or "" in parts or "\\" in name or "\0" in name or ":" in parts[0]:
        raise BadArchive(f"its member {member.name!r} would be outside of the directory it is unpacked into")
    if member.kind == "link":
        way = os.path.normpath("/".join([*parts[:-1], member.link]))
        if member.link.startswith("/") or way.split("/")[0] == "..":
            raise BadArchive(f"its link {member.name!r} leads outside, to {member.link!r}")
    return "/".join(parts)


def _zipped(path: str) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            mode = info.external_attr >> 16
            if info.is_dir():
                yield Member(info.filename, "directory", False, "", None)
            elif stat.S_ISLNK(mode):
                with archive.open(info) as content:
                    link = content.read(_LINK_BYTES + 1)
                if len(link) > _LINK_BYTES or b"\0" in link:
                    raise BadArchive(f"its link {info.filename!r} leads to no path")
                yield Member(info.filename, "link", False, os.fsdecode(link), None)
            elif stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                raise BadArchive(f"its member {info.filename!r} is no file, directory or link")
            else:
                executable = bool(mode & 0o100)
                if info.create_system != _UNIX:  # it was made where files have no such mode
                    with archive.open(info) as content:
                        head = content.read(4)
                    executable = head[:2] == b"#!" or head == b"\x7fELF"
                with archive.open(info) as content:
                    yield Member(info.filename, "file", executable, "", content, info.file_size)


def _tarred(path: str) -> Iterator[Member]:
    with tarfile.open(path) as archive:
        for info in archive:
            if info.isdir():
                yield Member(info.name, "directory", False, "", None)
            elif info.issym():
                yield Member(info.name, "link", False, info.linkname, None)
            elif info.islnk() or info.isreg():  # a hard link is read as the file that it names
                try:
                    content = archive.extractfile(info)
                except KeyError:
                    raise BadArchive(f"its link {info.name!r} names {info.linkname!r}, which is not in it") from None
                if content is None:
                    raise BadArchive(f"its link {info.name!r} names {info.linkname!r}, which is no file")
                yield Member(info.name, "file", bool(info.mode & 0o100), "", content, info.size)
            else:
                raise BadArchive(f"its member {info.name!r} is no file, directory or link")

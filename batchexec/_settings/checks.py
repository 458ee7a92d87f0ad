"""Checks of single values: each gives back the valid form, or raises ValueError saying what is expected."""

from __future__ import annotations

import base64
import math
import os
import re
import shlex
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from batchexec._logins import has_login, is_cut

from .wording import quoted


def like(pattern: str, expected: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(expected)
        return value

    return check


def between(low: int, high: float = math.inf) -> Callable[[int], int]:
    def check(value: int) -> int:
        if not low <= value <= high:
            raise ValueError(f"{low} or more" if high == math.inf else f"{low} to {high}")
        return value

    return check


def above_zero(high: float = math.inf) -> Callable[[float], float]:
    def check(value: float) -> float:
        if not 0 < value <= high:
            raise ValueError("more than 0" + ("" if high == math.inf else f", at most {high:g}"))
        return value

    return check


def place(value: str) -> str:
    return like("auto|local|azure", "'auto', 'local' or 'azure'")(value.lower())


def url(value: str) -> str:
    text = (value if "://" in value else f"https://{value}").rstrip("/")
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("https", "http") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, a bracket that does not close
        valid = False
    if not valid or re.search(r"\s", text):
        raise ValueError("an https URL")
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError("a URL without query, SAS or user name")
    return text


def key(value: str) -> str:
    try:
        decoded = base64.b64decode(value, validate=True)
    except ValueError:
        decoded = b""
    if not decoded:
        raise ValueError("an account key in base64")
    return value


def slashless(value: str) -> str:
    return like(r"(?!.*//)[^?#\\\s]{0,256}", "a blob name prefix without '?', '#', blanks or backslashes")(
        value.strip("/")
    )


def variables(value: Mapping[str, str | None]) -> Mapping[str, str]:
    """Names without a value are passed on from this process."""
    missing = [name for name, text in value.items() if text is None and name not in os.environ]
    if missing:
        raise ValueError(f"names of variables that are set here ({', '.join(missing)} is not)")
    found = {name: os.environ[name] if text is None else text for name, text in value.items()}
    for name, text in found.items():
        if not re.fullmatch(r"[^=\s\0]+", name) or name.upper().startswith("AZ_BATCH_"):
            raise ValueError("names without '=', blanks or the service's own prefix AZ_BATCH_")
        if not isinstance(text, str):
            raise ValueError(f"a text for every name ({name} has a value of type {type(text).__name__})")
        if "\0" in text:
            raise ValueError(f"a text for every name ({name} has one with a NUL character)")
    return MappingProxyType(found)


def files(value: tuple[Any, ...]) -> tuple[Any, ...]:
    for one in value:
        for part in one if isinstance(one, tuple) else (one,):
            if isinstance(part, (bytes, tuple)) or (isinstance(part, str) and not part.strip()):
                raise ValueError("paths or BlobPaths, or a mapping of paths there to these")
    return value


def patterns(value: tuple[str, ...]) -> tuple[str, ...]:
    """Of files below a working directory."""
    for one in value:
        parts = one.replace("\\", "/").split("/")
        if one.startswith(("/", "\\")) or ".." in parts or ":" in parts[0] or "\0" in one:
            raise ValueError("patterns of files below the working directory, such as '*.png' or 'plots/**/*.png'")
    return value


def is_blob(value: Any) -> bool:
    """Whether it is a BlobPath, whose room lies above this one."""
    return hasattr(value, "container") and hasattr(value, "prefix")


def output_dir(value: Any) -> Any:
    """A template of directories as text, or a BlobPath as it is."""
    if is_blob(value):
        return value
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str):
        raise ValueError("a directory, or a BlobPath")
    try:
        text.format(item=0)
    except (ValueError, KeyError, IndexError, AttributeError):
        raise ValueError("a directory, in which {item} may stand for the item's number") from None
    if not text.strip():
        raise ValueError("a directory")
    return text


def requirements(value: tuple[str, ...]) -> tuple[str, ...]:
    """`auto`, `none`, or what packages are to be had; paths become absolute, as the user may go elsewhere."""
    found = tuple(_requirement(one.strip()) for one in value)
    if "none" in found and len(found) > 1:
        raise ValueError("'none' alone, or packages")
    return found


def _requirement(text: str) -> str:
    if text.lower() in ("auto", "none"):
        return text.lower()
    option = re.fullmatch(r"(-[rce]|--requirement|--constraint|--editable)[\s=]*(.+)", text)
    if option and option[1] in ("-c", "--constraint"):
        return f"-c {shlex.quote(_file(option[2]))}"
    if option:
        return _requirement(option[2])
    if text.startswith("-"):
        raise ValueError("packages (options of the installer, such as indexes, are pip_options)")
    file = re.fullmatch(r"(.*(?:\.txt|pyproject\.toml))(\[[^\]]*\])?", text)
    if file:
        return _file(file[1]) + (file[2] or "")
    # Else they would be names of packages, as discord.py and web.py are.
    if re.search(r"\.(?:ya?ml|lock|in|cfg)$|(?:^|/)Pipfile$", text) or (text.endswith(".py") and os.path.isfile(text)):
        raise ValueError(f"a requirements.txt or a pyproject.toml ({quoted(text)} is neither)")
    if has_login(text):
        raise ValueError("lines without logins, which would lie in storage: those of indexes belong into pip_options")
    bare = re.sub(r"\[[^\]]*\]$", "", text)
    is_path = "://" not in text and (bare in (".", "..") or "/" in bare or os.sep in bare or bare.endswith(".whl"))
    if is_path and not os.path.exists(os.path.expanduser(bare)):
        raise ValueError(f"a project or a wheel that is there ({quoted(bare)} is not)")
    if is_path:
        return os.path.abspath(os.path.expanduser(bare)) + text[len(bare) :]
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        Requirement(text.partition(" --hash")[0])
    except InvalidRequirement as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            "'auto', 'none', a requirements.txt, a pyproject.toml, or requirements such as 'numpy>=2' "
            f"({quoted(text)} is none: {reason})"
        ) from None
    return text


def _file(path: str) -> str:
    if "://" in path:
        raise ValueError("files of this machine, not URLs")
    if not os.path.isfile(os.path.expanduser(path)):
        raise ValueError(f"a file that is there ({quoted(path)} is not, seen from {quoted(os.getcwd())})")
    return os.path.abspath(os.path.expanduser(path))


def pip_options(value: tuple[str, ...]) -> tuple[str, ...]:
    """None that say what is installed, or where to: a node's environment would be without its packages."""
    names = {name for text in value for name in re.findall(r"(?:^|\s)(--?[a-z][a-z-]*)", text)}
    if what := sorted(names & {"-r", "-c", "-e", "--requirement", "--constraint", "--editable"}):
        raise ValueError(f"options of the installer ({what[0]} belongs into requirements)")
    if where := sorted(names & {"-t", "--target", "--prefix", "--root", "--user", "--python", "--dry-run"}):
        raise ValueError(f"options that leave it to the node where packages are installed ({where[0]} does not)")
    for text in value:
        _whole_login(text)
    return value


def proxy(value: str) -> str:
    _whole_login(value)
    return like(r"[a-z][a-z0-9]*://\S+", "a URL, such as http://proxy.example.org:3128")(value.strip())


def _whole_login(text: str) -> None:
    if is_cut(text):
        raise ValueError("a login with %2F, %3F and %23 in the place of '/', '?' and '#'")


def certificates(value: str) -> str:
    """The path of a PEM file, absolute."""
    path = os.path.abspath(os.path.expanduser(value))
    try:
        with open(path, "rb") as file:
            found = b"-----BEGIN CERTIFICATE-----" in file.read()
    except OSError:
        found = False
    if not found:
        raise ValueError("a file of certificates (PEM)")
    return path


account_name = like("[a-z0-9]{3,24}", "an account name: 3 to 24 lower case letters and digits")


def connection_parts(text: str) -> dict[str, str]:
    """Account, key and blob endpoint of a storage connection string, by the names of our fields."""
    parts = {name.strip().lower(): value.strip() for name, _, value in (p.partition("=") for p in text.split(";"))}
    if parts.get("usedevelopmentstorage", "").lower() == "true":  # Azurite's documented, public account
        name = "devstoreaccount1"
        secret = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
        return {
            "storage_account": name,
            "storage_key": secret,
            "blob_endpoint": f"http://127.0.0.1:10000/{name}",
        }
    name, secret = parts.get("accountname", ""), parts.get("accountkey", "")
    if not name or not secret:
        raise ValueError("a connection string with AccountName and AccountKey (one with a SAS cannot serve)")
    protocol = parts.get("defaultendpointsprotocol") or "https"
    suffix = parts.get("endpointsuffix") or "core.windows.net"
    return {
        "storage_account": account_name(name),
        "storage_key": key(secret),
        "blob_endpoint": url(parts.get("blobendpoint") or f"{protocol}://{name}.blob.{suffix}"),
    }


def connection_string(value: str) -> str:
    connection_parts(value)
    return value

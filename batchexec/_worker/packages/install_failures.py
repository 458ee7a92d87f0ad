"""Why packages could not be installed: the kind of failure and its reason, read from what uv or pip said."""

from __future__ import annotations

import errno
import re
from typing import NamedTuple

TEXT_LIMIT = 2000  # characters of the installer's own words that go back to the client

# Kind, reason and words, looked for in this order. A package that could not be looked up is in the end "not found" to
# pip, and a build may fail because its own requirements cannot be fetched: what says more of the cause comes first. A
# proxy that cannot be reached has its reasons too, and a connection that fails is the end of each.
SIGNS = (
    ("disk", "", r"no space left on device|errno 28\b|os error 28\b|disk quota exceeded|os error 122\b|errno 122\b"),
    (
        "network",
        "proxy",
        r"proxyerror|connect to proxy|proxy connection error|tunnel connection failed|tunnel error|unsuccessful tunnel|"
        r"407 proxy auth|407 client error",
    ),
    (
        "network",
        "tls",
        r"certificate_verify_failed|certificate verify failed|confirming the ssl certificate|ssl(?:error|: )|"
        r"invalid peer certificate|received corrupt message",
    ),
    (
        "network",
        "dns",
        r"name or service not known|temporary failure in name resolution|nodename nor servname|name does not resolve|"
        r"no address associated|dns error|failed to (?:lookup address|resolve)",
    ),
    (
        "network",
        "login",
        r"\b40[13] client error|client error \(40[13]|\berror 40[13]\b|could not be queried due to|"
        r"returned a 40[13]\b",
    ),
    ("network", "plain", r"is not a trusted or secure host"),
    (
        "network",
        "busy",
        r"\b(?:429|5\d\d) (?:client|server) error|(?:client|server) error \((?:429|5\d\d)|\berror (?:429|5\d\d)\b|"
        r"too many (?:429|5\d\d) error responses",
    ),
    (
        "network",
        "connection",
        r"failed to establish a new connection|newconnectionerror|max retries exceeded|connection error|"
        r"connection (?:refused|reset|aborted)|connecttimeout|read timed out|readtimeout|operation timed out|"
        r"network is unreachable|no route to host|tcp connect error|error sending request|failed to fetch|"
        r"client error \(connect\)|could not connect|incompleteread|remote end closed connection",
    ),
    (
        "build",
        "",
        r"failed to build|failed building wheel|could not build wheels|metadata-generation-failed|"
        r"subprocess-exited-with-error|build backend|error: command '?\S+'? failed|unable to find a compiler",
    ),
    (
        "resolution",
        "conflict",
        r"resolutionimpossible|conflicting dependencies",
    ),
    (
        "resolution",
        "unknown",
        r"\(from versions: none\)|was not found in the|not found in the package registry|\b404 client error|"
        r"\berror 404\b|client error \(404",
    ),
    (
        "resolution",
        "",
        r"no matching distribution|could not find a version|no solution found|unsatisfiable|"
        r"requires a different python|requires-python|no compatible (?:wheel|tag|version)|invalid requirement|"
        r"couldn't parse requirement|failed to parse|is not a supported wheel|hash(?:es)? (?:mismatch|are required)|"
        r"do not match the hashes|in --require-hashes mode|is not available|no versions of",
    ),
)
# Of pip's log, which says this of one index after the other.
_NOT_FETCHED = re.compile(r"^\S* ?(Could not fetch URL (\S+): (.*?))(?: - skipping)?$", re.MULTILINE)
_PLACES = re.compile(r"(\d+) location\(s\) to search for versions")


class Failure(NamedTuple):
    """`kind` as in RequirementsError; `reason`: proxy, tls, dns, login, plain (HTTP), busy or connection of a network,
    conflict or unknown (to every index) of a resolution, else nothing."""

    kind: str
    reason: str = ""


class InstallError(Exception):
    """An environment could not be made. `kind`: resolution, network, disk, build, timeout or other; `reason` as in
    Failure. The text is what the installer said last, without credentials. `installer`: uv, pip, or nothing where it
    did not come to that."""

    def __init__(self, kind: str, text: str, installer: str = "", reason: str = "") -> None:
        super().__init__(text)
        self.kind = kind
        self.installer = installer
        self.reason = reason

    @classmethod
    def of(cls, error: OSError) -> InstallError:
        """The failure of our own dealing with the node's disk."""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return cls("disk" if full else "other", f"{type(error).__name__}: {error}")


def failure_in(said: str) -> Failure:
    """The failure that an installer's output speaks of."""
    said = said.lower()
    for kind, reason, signs in SIGNS:
        if re.search(signs, said):
            return Failure(kind, reason)
    return Failure("other")


def not_fetched(log: str) -> list[str]:
    """What pip's log says of the indexes that it could not ask, in lines. Not those that have no such package: they say
    404, and some 403, which counts where no other was asked."""
    places = _PLACES.search(log)
    found = {url: (line, why) for line, url, why in _NOT_FETCHED.findall(log)}
    refused = [url for url, (_, why) in found.items() if why.startswith("403 ")]
    if places is not None and len(refused) < int(places[1]):
        found = {url: said for url, said in found.items() if url not in refused}
    return [line for line, why in found.values() if not why.startswith("404 ")]


def last_words(said: str) -> str:
    """The end of an installer's output, in whole lines where they are short enough."""
    said = said.strip()
    if len(said) <= TEXT_LIMIT:
        return said
    end = said[-TEXT_LIMIT:]
    _, line_end, rest = end.partition("\n")
    return rest if line_end else end

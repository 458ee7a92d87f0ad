"""Why packages could not be installed: the kind of failure, read from what uv or pip said."""

from __future__ import annotations

import errno
import re

TEXT_LIMIT = 2000  # characters of the installer's own words that go back to the client

# Looked for in this order. A package that could not be looked up is in the end "not found" to pip, and a build may fail
# because its own requirements cannot be fetched: what says more of the cause comes first.
_SIGNS = (
    ("disk", r"no space left on device|errno 28\b|os error 28\b|disk quota exceeded|os error 122\b|errno 122\b"),
    (
        "network",
        r"failed to establish a new connection|newconnectionerror|max retries exceeded|name or service not known|"
        r"temporary failure in name resolution|nodename nor servname|connection (?:refused|reset|aborted)|"
        r"connecttimeout|read timed out|readtimeout|operation timed out|network is unreachable|no route to host|"
        r"cannot connect to proxy|unable to connect to proxy|tunnel connection failed|proxyerror|"
        r"certificate_verify_failed|ssl(?:error|: )|invalid peer certificate|dns error|tcp connect error|"
        r"error sending request|failed to fetch|client error \(connect\)|could not connect|incompleteread|"
        r"remote end closed connection|(?:401|403|407|429|5\d\d) (?:client|server) error|"
        r"status client error \((?:401|403|407|429)|status server error \(5|could not be queried due to|"
        r"\b(?:http )?error (?:401|403|407|429|5\d\d)\b",
    ),
    (
        "build",
        r"failed to build|failed building wheel|could not build wheels|metadata-generation-failed|"
        r"subprocess-exited-with-error|build backend|error: command '?\S+'? failed|unable to find a compiler",
    ),
    (
        "resolution",
        r"no matching distribution|could not find a version|resolutionimpossible|conflicting dependencies|"
        r"no solution found|unsatisfiable|was not found in the|not found in the package registry|"
        r"requires a different python|requires-python|no compatible (?:wheel|tag|version)|invalid requirement|"
        r"couldn't parse requirement|failed to parse|is not a supported wheel|hash(?:es)? (?:mismatch|are required)|"
        r"do not match the hashes|in --require-hashes mode|is not available|no versions of",
    ),
)


class InstallError(Exception):
    """An environment could not be made. `kind`: resolution, network, disk, build, timeout or other; the text is what
    the installer said last, without credentials. `installer`: uv, pip, or nothing where it did not come to that."""

    def __init__(self, kind: str, text: str, installer: str = "") -> None:
        super().__init__(text)
        self.kind = kind
        self.installer = installer

    @classmethod
    def of(cls, error: OSError) -> InstallError:
        """The failure of our own dealing with the node's disk."""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return cls("disk" if full else "other", f"{type(error).__name__}: {error}")


def kind_of(said: str) -> str:
    """The kind of failure that an installer's output speaks of."""
    said = said.lower()
    for kind, signs in _SIGNS:
        if re.search(signs, said):
            return kind
    return "other"


def last_words(said: str) -> str:
    """The end of an installer's output, in whole lines where they are short enough."""
    said = said.strip()
    if len(said) <= TEXT_LIMIT:
        return said
    end = said[-TEXT_LIMIT:]
    _, line_end, rest = end.partition("\n")
    return rest if line_end else end

"""Logins in URLs within a line of text: whether there is one, and the line without it."""

from __future__ import annotations

import re

# Of a repository's URL a name alone is none: ssh://git@host has no secret.
_LOGIN = re.compile(r"https?://[^/\s]*@|://[^/\s@]*:[^/\s]*@")
# A password with / ? or # in it, as one would type it: what follows the host's colon is no port.
_CUT = r"//[^/\s@:?#\[]+:(?!\d*(?:[/?#]|\s|\Z))[^\s@/?#]*[/?#]\S*@"
_USER = re.compile(rf"{_CUT}|//[^/\s]*@")


def has_login(line: str) -> bool:
    return _LOGIN.search(line) is not None or is_cut(line)


def is_cut(line: str) -> bool:
    """Whether a URL's login has a character that ends it too early, which must be %2F, %3F or %23: no installer takes
    it, and their words show it."""
    return re.search(f":{_CUT}", line) is not None


def masked(line: str) -> str:
    return _USER.sub("//****@", line)

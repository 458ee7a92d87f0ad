"""Logins in URLs within a line of text: whether there is one, and the line without it."""

from __future__ import annotations

import re

# Of a repository's URL a name alone is none: ssh://git@host has no secret.
_LOGIN = re.compile(r"https?://[^/\s]*@|://[^/\s@]*:[^/\s]*@")
_USER = re.compile(r"//[^/\s]*@")


def has_login(line: str) -> bool:
    return _LOGIN.search(line) is not None


def masked(line: str) -> str:
    return _USER.sub("//****@", line)

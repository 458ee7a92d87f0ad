"""The names under which the service may be asked for, checked in every request's Host header."""

from __future__ import annotations

import socket
from collections.abc import Iterable

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Hosts:
    """Which Host headers are believed.

    A page in a browser can have its own name resolve to 127.0.0.1, and would then ask this service with that name in
    the header: only names that are known to be ours are served. `any_address`: the socket listens on all interfaces,
    so that every address may be ours. An address cannot be made to mean another machine, so it is no danger.
    """

    def __init__(self, names: Iterable[str] = LOOPBACK, any_address: bool = False) -> None:
        self._names = frozenset(name.lower() for name in names)
        self._any_address = any_address
        self._known: set[str] = set()  # whole headers, as clients repeat them

    def accepts(self, header: str) -> bool:
        """Whether this is one of our names or addresses, with any port or none."""
        if header in self._known:
            return True
        name = header.lower()
        if name.startswith("["):
            name = name[1:].partition("]")[0]
        else:
            name = name.partition(":")[0]
        accepted = name in self._names or (self._any_address and _is_address(name))
        if accepted and len(self._known) < 64:
            self._known.add(header)
        return accepted


def _is_address(name: str) -> bool:
    import ipaddress

    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_wildcard(host: str) -> bool:
    """Whether listening on this address means listening on every interface."""
    return host in ("", "0.0.0.0", "::")


def names_for(host: str, more: Iterable[str] = ()) -> list[str]:
    """Names and addresses of a service that listens on `host`, the one to print first."""
    own = [socket.gethostname(), *LOOPBACK] if is_wildcard(host) else [host]
    return list(dict.fromkeys([*more, *own, *LOOPBACK]))

"""What is said of packages that could not be installed: the installer's words, and what to do about them."""

from __future__ import annotations

_IMAGE = "or use an image that has the packages (image=, requirements=None)"
# By kind, and by the reason that a worker read from the installer's words.
_ADVICE = {
    ("network", ""): "Nodes reach indexes as pip_options=, proxy= and ca_bundle= tell them; a pool in a closed network "
    "needs one of these, or an image that has the packages (requirements=None).",
    ("network", "connection"): "The node cannot reach the index. In a closed network name a proxy (proxy=) or an index "
    f"within it (pip_options=['--index-url', 'https://...']), {_IMAGE}.",
    ("network", "dns"): "The node does not find the index by its name. Correct it in pip_options=; in a closed network "
    f"name a proxy (proxy=) or an index within it, {_IMAGE}.",
    ("network", "proxy"): "The proxy cannot be reached, or refuses: correct proxy= ('http://user:password@host:3128'); "
    f"without proxy= it is the one of the image's variables HTTP_PROXY and HTTPS_PROXY. Or do without one, {_IMAGE}.",
    ("network", "tls"): "The node does not trust who answers for the index. Give the certificate of its authority, or "
    "of the proxy's that opens the connection, by ca_bundle= (a PEM file). Where the words are of a wrong version or a "
    "corrupt message, no HTTPS is spoken there at all.",
    ("network", "login"): "The index refuses the login, or wants one: pip_options=['--index-url', "
    "'https://user:token@host/simple']. Your own pip's login is not passed on. Some indexes refuse so what they do not "
    "have.",
    ("network", "plain"): "pip takes nothing from a host without HTTPS unless it is told to: use its https:// address, "
    "or pip_options=['--trusted-host', 'HOST'].",
    ("network", "busy"): "The index answers, but cannot serve now. Submit again later.",
    ("resolution", ""): "Correct requirements=, or name an index that has them (pip_options=).",
    ("resolution", "unknown"): "The index has nothing of that name, or nothing for this Python on Linux: correct it in "
    "requirements= (a package may have another name than its module), or name an index that has it (pip_options=[...]; "
    "its address mostly ends in /simple).",
    ("resolution", "conflict"): "The packages want versions that exclude each other: allow others in requirements=.",
    ("disk", ""): f"Use a larger disk or VM size, {_IMAGE}.",
    ("build", ""): "A package without a wheel for Linux needs a compiler: choose a version that has a wheel, or use an "
    "image that has a compiler, or the package.",
    ("timeout", ""): "A task's timeout= counts the installation, too: give it more, or use an image that has the "
    "packages.",
}


def told(kind: str, reason: str, text: str, node: str | None) -> str:
    """The message; `kind` and `reason` are the worker's."""
    place = f" on node {node}" if node else ""
    return f"the packages could not be installed{place}, so nothing was run:\n{with_advice(kind, reason, text)}"


def with_advice(kind: str, reason: str, text: str) -> str:
    advice = _ADVICE.get((kind, reason)) or _ADVICE.get((kind, ""))
    return f"{text}\n{advice}" if advice else text

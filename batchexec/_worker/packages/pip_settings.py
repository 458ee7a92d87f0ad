"""Options, proxy, certificates and credentials of package indexes: how an installer gets them, and nobody else."""

from __future__ import annotations

import importlib.util
import os
import re
import ssl
from typing import Any, Mapping
from urllib.parse import quote, unquote

MASK = "****"

_USER = re.compile(r"(?P<head>://)(?P<user>[^/\s'\"]*)@")
_OWN_USER = re.compile(r"(?P<head>://)(?P<user>[^/\s]*)@")  # of what is no text, but a URL alone: it may have quotes
# Bounded, as whoever answers for an index decides what the texts are in which it is looked for.
_QUERY = re.compile(r"(?P<head>://[^\s?'\"]{0,2000}\?)(?P<query>[^\s#'\"]+)")
_NO_PASSWORDS = ("", "x-oauth-basic")  # the user's name is the secret then
# What can stand in a netrc file without quotes, whose rules differ between readers.
_PLAIN = re.compile(r"[^\s\"'\\#]+\Z")
_PLAIN_HOST = re.compile(r"[A-Za-z0-9.-]+\Z")
# By environment where it cannot be a netrc file: arguments are for all to see.
_INDEXES = {
    "-i": "INDEX_URL",
    "--index-url": "INDEX_URL",
    "--pypi-url": "INDEX_URL",
    "--extra-index-url": "EXTRA_INDEX_URL",
    "-f": "FIND_LINKS",
    "--find-links": "FIND_LINKS",
}
# Options that mean the same to uv, and whether a value follows.
_UV_KNOWS = {
    **dict.fromkeys(("-i", "--index-url", "--extra-index-url", "-f", "--find-links"), True),
    **dict.fromkeys(("--no-binary", "--only-binary", "--trusted-host"), True),
    **dict.fromkeys(("--no-index", "--pre", "--require-hashes", "--no-build-isolation", "--no-deps"), False),
}
_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
_NOT_PASSED_ON = re.compile(
    r"PYTHON.*|VIRTUAL_ENV|(?:PIP|UV)_(?:TARGET|PREFIX|USER|ROOT|PYTHON|SYSTEM_PYTHON|DRY_RUN|REQUIRE_VIRTUALENV)"
)


class PipSettings:
    """What the client's pip_options, proxy and ca_bundle say. `given`: options (words), proxy, ca (PEM text)."""

    def __init__(self, given: Mapping[str, Any], ca: str | None = None) -> None:
        self._given: list[str] = _separated(given.get("options") or [])
        self._proxy: str | None = given.get("proxy")
        self._ca = ca
        self._secrets: list[str] = []
        self._logins: dict[str, str] = {}  # host: line of a netrc file
        self._by_environment = False
        self.words = [self._without_credentials(word) for word in self._given]
        for text in (*self._given, self._proxy or ""):
            self._remember(text)
        self._secrets.sort(key=len, reverse=True)

    def identity(self) -> list[str]:
        """What of the options decides what is installed: all but credentials."""
        return [_QUERY.sub(r"\g<head>", _without_user(word)) for word in self._given]

    def uv_will_do(self) -> bool:
        """Whether uv understands every option."""
        words = iter(self.words)
        for word in words:
            name, equals, _ = word.partition("=")
            if name not in _UV_KNOWS or (equals and not _UV_KNOWS[name]):
                return False
            if _UV_KNOWS[name] and not equals:
                next(words, None)
        return True

    def has_one_index(self) -> bool:
        """Whether packages are looked for in one place only, as far as the options tell."""
        found = self._indexes()
        return sum(map(len, found.values())) + ("INDEX_URL" not in found) <= 1

    def arguments(self) -> list[str]:
        """The options, for a command line: no credentials in them."""
        if not self._by_environment:
            return self.words
        kept = []
        words = iter(self.words)
        for word in words:
            name = word.partition("=")[0]
            if name not in _INDEXES:
                kept.append(word)
            elif "=" not in word:
                next(words, None)
        return kept

    def environment(self, scratch: str, cache: str) -> dict[str, str]:
        """The environment of an installer. Files that it names are written to `scratch`, for their owner alone."""
        env = {name: text for name, text in os.environ.items() if not _NOT_PASSED_ON.match(name)}
        home, temporary = os.path.join(scratch, "home"), os.path.join(scratch, "tmp")
        for directory in (home, temporary):
            os.makedirs(directory, mode=0o700, exist_ok=True)
        env.update(HOME=home, TMPDIR=temporary, NO_COLOR="1")
        env.update(PIP_CACHE_DIR=os.path.join(cache, "pip"), UV_CACHE_DIR=os.path.join(cache, "uv"))
        env.update(PIP_NO_INPUT="1", PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_ROOT_USER_ACTION="ignore")
        env.update(UV_PYTHON_DOWNLOADS="never", UV_NO_PROGRESS="1")
        for name in ("INDEX_URL", "EXTRA_INDEX_URL", "FIND_LINKS"):  # an image's own settings of pip hold for uv
            if f"PIP_{name}" in env and name != "FIND_LINKS":
                env.setdefault(f"UV_{name}", env[f"PIP_{name}"])
        if self._by_environment:  # all of them: what an installer learns of one host it may try for its other paths
            for name, values in self._indexes().items():
                env[f"PIP_{name}"] = " ".join(values)
                env[f"UV_{name}"] = ("," if name == "FIND_LINKS" else " ").join(values)
        elif self._logins:
            env["NETRC"] = _private(os.path.join(home, ".netrc"), "".join(self._logins.values()))
        if self._proxy:
            for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"):
                env[name] = self._proxy
        if self._ca:
            bundle = _private(os.path.join(scratch, "authorities.pem"), f"{_known_authorities()}\n{self._ca}")
            for name in ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO"):
                env[name] = bundle
        return env

    def masked(self, text: str) -> str:
        """The text without credentials, those of anybody: user names and queries of URLs go as a whole."""
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        text = _USER.sub(rf"\g<head>{MASK}@", text)
        return _QUERY.sub(rf"\g<head>{MASK}", text)

    def _remember(self, text: str) -> None:
        for found in _OWN_USER.finditer(text):
            user, _, password = found["user"].partition(":")
            secret = user if password in _NO_PASSWORDS else password
            plain = unquote(secret)
            parts = (found["user"], secret, plain, quote(plain, safe=""))
            self._secrets += [part for part in parts if len(part) > 3]
        for found in _QUERY.finditer(text):
            values = [part.partition("=")[2] for part in found["query"].split("&")]
            self._secrets += [
                found["query"],
                *(one for value in values for one in (value, unquote(value)) if len(one) > 7),
            ]

    def _without_credentials(self, word: str) -> str:
        found = _OWN_USER.search(word)
        if found is None:
            self._by_environment = self._by_environment or bool(_QUERY.search(word))
            return word
        bare = _without_user(word)
        host = re.split(r"[:/?#]", bare[found.end("head") :])[0]
        user, _, password = (unquote(part) for part in found["user"].partition(":"))
        line = f"machine {host} login {user} password {password}\n"
        plain = _PLAIN.match(user) and _PLAIN.match(password) and _PLAIN_HOST.match(host) and not _QUERY.search(word)
        if plain and self._logins.setdefault(host, line) == line:
            return bare
        self._by_environment = True
        return word

    def _indexes(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        words = iter(self._given)
        for word in words:
            name, equals, value = word.partition("=")
            if name in _INDEXES:
                found.setdefault(_INDEXES[name], []).append(value if equals else next(words, ""))
        return found


def _separated(options: list[str]) -> list[str]:
    """`-iURL` and `-fURL` as two words; others as they are."""
    words: list[str] = []
    for option in options:
        glued = re.match(r"(-[if])=?([^-\s].*)\Z", option)
        words += glued.groups() if glued else [option]
    return words


def _without_user(word: str) -> str:
    return _OWN_USER.sub(r"\g<head>", word)


def _private(path: str, text: str) -> str:
    """Write a file that only its owner can read; its path."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    return path


def _known_authorities() -> str:
    """The certificates that are trusted without ours: named by the environment, the system's, or pip's own."""
    candidates = [os.environ.get("PIP_CERT"), os.environ.get("SSL_CERT_FILE")]
    candidates += [ssl.get_default_verify_paths().cafile, *_BUNDLES]
    pip = importlib.util.find_spec("pip")
    if pip is not None and pip.submodule_search_locations:
        candidates.append(os.path.join(pip.submodule_search_locations[0], "_vendor", "certifi", "cacert.pem"))
    for path in candidates:
        if path and os.path.isfile(path):
            with open(path, encoding="utf-8", errors="replace") as file:
                return file.read()
    return ""

"""A running emulator with HTTPS and tokens for the tests of both, and the requests that no SDK would send."""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import jwt
from azure.core.credentials import AccessToken

from batchexec.testing import local_azure

BATCH = "https://batch.core.windows.net/"
STORAGE = "https://storage.azure.com"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def code(self) -> str:
        """The error's code, of either service."""
        if "x-ms-error-code" in self.headers:
            return self.headers["x-ms-error-code"]
        return str(json.loads(self.body)["code"])


@dataclass
class Secure:
    """What the emulator printed, and tokens in its documented form."""

    info: dict[str, Any]

    @property
    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.info["ca_certificate"])

    def environment(self, client_id: str = "") -> dict[str, str]:
        """What azure-identity, requests, OpenSSL and the storage SDK read."""
        return {
            "SSL_CERT_FILE": self.info["ca_bundle"],
            "REQUESTS_CA_BUNDLE": self.info["ca_bundle"],
            "AZURE_AUTHORITY_HOST": self.info["authority_host"],
            "AZURE_TENANT_ID": self.info["tenant_id"],
            "AZURE_CLIENT_ID": client_id or self.info["client_id"],
            "AZURE_CLIENT_SECRET": self.info["client_secret"],
        }

    def issuer(self) -> str:
        url = f"{self.info['authority_host']}/{self.info['tenant_id']}/.well-known/openid-configuration"
        with urllib.request.urlopen(url, context=self.trust) as answer:
            return str(json.load(answer)["issuer"])

    def claims(self, audience: str, **changed: Any) -> dict[str, Any]:
        now = int(datetime.now(timezone.utc).timestamp())
        object_id = "11111111-2222-3333-4444-555555555555"
        return {"aud": audience, "iss": self.issuer(), "exp": now + 600, "oid": object_id, **changed}

    def token(self, audience: str, *roles: str, **changed: Any) -> str:
        claims = self.claims(audience, **changed) | ({"roles": list(roles)} if roles else {})
        return jwt.encode(claims, Path(self.info["token_key"]).read_text(), algorithm="RS256")

    def credential(self, *roles: str) -> Credential:
        return Credential(self, roles)

    def ask(self, method: str, url: str, token: str = "", body: bytes | None = None, **headers: str) -> Answer:
        """One request; the names of headers have underscores for hyphens."""
        where = urlsplit(url)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if token:
            sent["Authorization"] = f"Bearer {token}"
        kind = http.client.HTTPConnection
        more: dict[str, Any] = {}
        if where.scheme == "https":
            kind, more = http.client.HTTPSConnection, {"context": self.trust}
        connection = kind(where.hostname or "", where.port, timeout=60, **more)
        try:
            connection.request(method, f"{where.path or '/'}?{where.query}", body, sent)
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def ask_batch(self, method: str, path: str, token: str = "", body: bytes | None = None, **headers: str) -> Answer:
        url = f"{self.info['batch_endpoint']}/{path}?api-version=2025-06-01"
        return self.ask(method, url, token, body, **headers)

    def ask_blob(self, method: str, path: str, token: str = "", body: bytes | None = None, **headers: str) -> Answer:
        url = self.info["blob_endpoint"] + path
        return self.ask(method, url, token, body, **{"x_ms_version": "2021-12-02", **headers})


@dataclass
class Credential:
    """A credential of azure-core's kind whose tokens the test signs, with these roles."""

    service: Secure
    roles: tuple[str, ...]

    def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        audience = scopes[0].removesuffix("/.default")
        expires = int((datetime.now(timezone.utc) + timedelta(minutes=9)).timestamp())
        return AccessToken(self.service.token(audience, *self.roles), expires)


@contextmanager
def running(*options: str, env: dict[str, str] | None = None, stderr: IO[str] | None = None) -> Iterator[Secure]:
    """An emulator as a child process, in the block."""
    with local_azure(*options, env=env, stderr=stderr) as azure:
        yield Secure(azure.ready)
    assert azure.process.returncode == 0

"""The token service on the Batch port: as much of Entra ID as client credentials need.

https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow
"""

from __future__ import annotations

import hmac
import json
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from urllib.parse import parse_qsl

from aiohttp import web

from .identity import Identity
from .roles import UnknownRole
from .tokens import BATCH, LIFETIME, STORAGE

_MOST_BYTES = 64 << 10
_DEFAULT = "/.default"


class _Refused(Exception):
    """An OAuth error: its name, Entra's number for it, and words."""

    def __init__(self, status: int, error: str, number: int, words: str) -> None:
        super().__init__(f"AADSTS{number}: {words}")
        self.status, self.error, self.number = status, error, number


class Entra:
    """Gives tokens to the tenant's application, and to applications named after the roles that limit them.

    Such a client id is one or more names of roles, joined by `+`, as in `azure-batch-job-submitter` or
    `azure-batch-data-contributor+storage-blob-data-reader`; the secret is the same for all.
    """

    def __init__(self, identity: Identity, storage_account: str, now: Callable[[], datetime]) -> None:
        self._identity = identity
        self._now = now
        self.tenants = identity.tenants
        self._audiences = {BATCH, BATCH[:-1], STORAGE, f"{STORAGE}/"}
        self._audiences.add(f"https://{storage_account}.blob.core.windows.net")

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """Answer a request whose path begins with one of the tenants. It needs no authorization header."""
        tenant, _, rest = request.raw_path.partition("?")[0].lstrip("/").partition("/")
        route = f"{request.method} {rest}"
        base = f"{request.scheme}://{request.host}/{tenant}"
        try:
            if route in ("GET .well-known/openid-configuration", "GET v2.0/.well-known/openid-configuration"):
                return _answer(self._discovery(base, versioned="v2.0" in rest))
            if route in ("GET discovery/keys", "GET discovery/v2.0/keys"):
                return _answer(self._identity.issuer.public_keys())
            if route in ("POST oauth2/token", "POST oauth2/v2.0/token"):
                return _answer(self._token(await _form(request)))
        except _Refused as error:
            body = {
                "error": error.error,
                "error_description": f"{error} Timestamp: {self._now():%Y-%m-%d %H:%M:%SZ}",
                "error_codes": [error.number],
                "trace_id": str(uuid.uuid4()),
                "correlation_id": request.headers.get("client-request-id", str(uuid.uuid4())),
            }
            return _answer(body, error.status)
        return _answer({"error": "not_found", "error_description": f"There is no {route} here."}, 404)

    def _discovery(self, base: str, *, versioned: bool) -> dict[str, object]:
        version = "v2.0/" if versioned else ""
        return {
            "issuer": self._identity.issuer.name,
            "token_endpoint": f"{base}/oauth2/{version}token",
            "authorization_endpoint": f"{base}/oauth2/{version}authorize",
            "jwks_uri": f"{base}/discovery/{version}keys",
            "token_endpoint_auth_methods_supported": ["client_secret_post"],
            "response_types_supported": ["token"],
            "grant_types_supported": ["client_credentials"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["RS256"],
        }

    def _token(self, form: Mapping[str, str]) -> dict[str, object]:
        identity = self._identity
        if form.get("grant_type") != "client_credentials":
            raise _Refused(400, "unsupported_grant_type", 70003, "Only client_credentials are accepted here.")
        client = form.get("client_id", "")
        roles = [] if client == identity.client_id else client.split("+")
        if not hmac.compare_digest(form.get("client_secret", "").encode(), identity.client_secret.encode()):
            raise _Refused(401, "invalid_client", 7000215, "Invalid client secret provided.")
        try:
            token = identity.issuer.mint(self._audience(form), client, self._now(), roles=roles)
        except UnknownRole as error:
            raise _Refused(
                400, "unauthorized_client", 700016, f"No application has this identifier, and {error}."
            ) from None
        seconds = int(LIFETIME.total_seconds())
        return {"token_type": "Bearer", "expires_in": seconds, "ext_expires_in": seconds, "access_token": token}

    def _audience(self, form: Mapping[str, str]) -> str:
        scope = form.get("scope", "")
        audience = form.get("resource") or scope.removesuffix(_DEFAULT)
        if "resource" not in form and not scope.endswith(_DEFAULT):
            raise _Refused(400, "invalid_scope", 1002012, f"The scope must end in {_DEFAULT}.")
        if audience not in self._audiences:
            raise _Refused(400, "invalid_resource", 500011, f"The resource {audience} is not served here.")
        return audience


async def _form(request: web.BaseRequest) -> dict[str, str]:
    if (request.content_length or _MOST_BYTES + 1) > _MOST_BYTES:
        raise _Refused(400, "invalid_request", 900144, "A short form with its length is expected.")
    body = await request.read()
    return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))


def _answer(body: object, status: int = 200) -> web.Response:
    headers = {"Content-Type": "application/json; charset=utf-8", "Cache-Control": "no-store"}
    return web.Response(status=status, body=json.dumps(body).encode(), headers=headers)

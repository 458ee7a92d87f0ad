"""Tokens in the form of Entra ID's: made and believed by an issuer of our own. Roles in a token limit its bearer."""

from __future__ import annotations

import hashlib
import json
import secrets
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from .roles import Rights, UnknownRole
from .secret_files import write_secret

# As the SDK asks for it, with the slash: the scope is https://batch.core.windows.net//.default.
BATCH = "https://batch.core.windows.net/"
STORAGE = "https://storage.azure.com"
LIFETIME = timedelta(hours=1)
_REMEMBERED = 64  # tokens whose signature need not be checked again


class BadToken(Exception):
    """A token that is not believed; the text says why, in the words of the services."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who bears a token: its object in the tenant, and what it may do."""

    object_id: str
    tenant: str
    rights: Rights


class Issuer:
    """Signs tokens (RS256) with the key in a file, which is made when it is missing, and checks them.

    `tenant` is the id (GUID) of the directory that all its principals are in.
    """

    def __init__(self, key: Path, tenant: str) -> None:
        if not key.exists():
            _make_key(key)
        private = serialization.load_pem_private_key(key.read_bytes(), None)
        assert isinstance(private, rsa.RSAPrivateKey)
        self.tenant = tenant
        self.name = f"https://sts.windows.net/{tenant}/"
        self._private = private
        self._public = private.public_key()
        self._key_id = hashlib.sha256(str(self._public.public_numbers().n).encode()).hexdigest()[:27]
        self._seen: dict[str, dict[str, Any]] = {}

    def mint(
        self,
        audience: str,
        subject: str,
        now: datetime,
        *,
        roles: Iterable[str] = (),
        lifetime: timedelta = LIFETIME,
    ) -> str:
        """A token for the application `subject`, good for one service. No roles: everything is allowed.

        Raises UnknownRole.
        """
        roles = list(roles)
        start = int(now.timestamp())
        rights = Rights.of(roles)
        claims: dict[str, Any] = {
            "aud": audience,
            "iss": self.name,
            "iat": start,
            "nbf": start,
            "exp": start + int(lifetime.total_seconds()),
            "appid": subject,
            "oid": self._object_id(subject, rights),
            "sub": self._object_id(subject, rights),
            "tid": self.tenant,
            "idtyp": "app",
            "ver": "1.0",
        }
        if roles:
            claims["roles"] = roles
        return jwt.encode(claims, self._private, algorithm="RS256", headers={"kid": self._key_id})

    def principal(self, token: str, audiences: Iterable[str], now: datetime) -> Principal:
        """Whose token it is, if it is ours, in time, and for one of these audiences. Raises BadToken."""
        claims = self._seen.get(token)
        if claims is None:
            claims = self._verified(token)
            if len(self._seen) >= _REMEMBERED:
                self._seen.clear()
            self._seen[token] = claims
        if claims["aud"] not in audiences:
            raise BadToken("Audience validation failed. Audience did not match.")
        time = now.timestamp()
        if not claims.get("nbf", 0) <= time < claims["exp"]:
            raise BadToken("Lifetime validation failed. The token is expired or not yet valid.")
        try:
            rights = Rights.of(claims["roles"])
        except UnknownRole as error:
            raise BadToken(str(error)) from None
        return Principal(self._object_id(str(claims["oid"]), rights), self.tenant, rights)

    def public_keys(self) -> dict[str, Any]:
        """What signatures can be checked with, as a JSON Web Key Set."""
        key = jwt.algorithms.RSAAlgorithm.to_jwk(self._public, as_dict=True)
        return {"keys": [key | {"kid": self._key_id, "use": "sig", "alg": "RS256", "issuer": self.name}]}

    def _verified(self, token: str) -> dict[str, Any]:
        if not token.isascii():
            raise BadToken("The token is malformed: it is not of Base64.")
        # Times are compared with the service's clock, which may be another than the system's, by the caller.
        options: Any = {
            "verify_aud": False,
            "verify_exp": False,
            "verify_nbf": False,
            "verify_iat": False,
            "require": ["aud", "exp", "iss", "oid"],
        }
        try:
            claims = jwt.decode(token, self._public, algorithms=["RS256"], issuer=self.name, options=options)
        except jwt.InvalidIssuerError:
            raise BadToken("Issuer validation failed. Issuer did not match.") from None
        except jwt.InvalidSignatureError:
            raise BadToken("Signature validation failed. The signature is not of this issuer.") from None
        except jwt.PyJWTError as error:
            raise BadToken(f"The token is malformed: {error}") from None
        roles = claims.setdefault("roles", [])
        times = [claims["exp"], claims.get("nbf", 0)]
        if (
            not isinstance(claims["aud"], str)
            or not all(isinstance(time, int) for time in times)
            or not (isinstance(roles, list) and all(isinstance(role, str) for role in roles))
        ):
            raise BadToken("The token is malformed: one audience, whole seconds and a list of roles are expected.")
        return claims

    def _object_id(self, subject: str, rights: Rights) -> str:
        """A GUID that ends in the mask of the roles.

        User delegation keys name their owner by it alone: so their signatures can be limited to the owner's roles
        without a register of principals.
        """
        if subject.endswith(f"-{0:08x}{rights.mask:04x}") and len(subject) == 36:
            return subject  # is one already
        digest = hashlib.sha256(f"{self.tenant}/{subject}".encode()).hexdigest()
        return str(uuid.UUID(f"{digest[:20]}{0:08x}{rights.mask:04x}"))


def rights_of(object_id: str) -> Rights:
    """What the owner of a user delegation key may do, who has this id."""
    return Rights(int(object_id[-4:], 16))


@dataclass(frozen=True)
class Login:
    """What azure-identity needs for a token: its variables AZURE_AUTHORITY_HOST, AZURE_TENANT_ID and so on."""

    authority_host: str
    tenant_id: str
    client_id: str
    client_secret: str
    token_key: str  # path of the key that signs tokens, for tests that make their own


def application(path: Path) -> dict[str, str]:
    """The tenant and its one application, with its secret: from the file, which is made when it is missing."""
    if not path.exists():
        made = {"tenant": str(uuid.uuid4()), "client_id": str(uuid.uuid4()), "client_secret": secrets.token_urlsafe(30)}
        write_secret(path, json.dumps(made).encode())
    found: dict[str, str] = json.loads(path.read_bytes())
    return found


def _make_key(path: Path) -> None:
    made = rsa.generate_private_key(65537, 2048)
    write_secret(
        path,
        made.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )

"""What HTTPS and tokens need, in one directory: certificates, the tenant with its application, the issuer's key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .tls import Certificates, certificates
from .tokens import Issuer, Login, application

# A tenant id that MSAL takes for a server of the user's own. Of any other it asks login.microsoftonline.com whether
# the host is known there.
_TENANT_FOR_MSAL = "adfs"


@dataclass(frozen=True)
class Identity:
    """`client_id` and `client_secret` are of the tenant's one application, which may do everything."""

    certificates: Certificates
    issuer: Issuer
    client_id: str
    client_secret: str
    token_key: Path

    @classmethod
    def open(cls, directory: Path, names: Sequence[str], client_secret: str | None = None) -> Identity:
        """From what is in the directory; what is missing there is made, for a service with these names."""
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o755)  # the certificates are for all; each secret is a file for its owner alone
        registered = application(directory / "application.json")
        token_key = directory / "token-key.pem"
        return cls(
            certificates(directory, names),
            Issuer(token_key, registered["tenant"]),
            registered["client_id"],
            client_secret or registered["client_secret"],
            token_key,
        )

    def login(self, authority_host: str) -> Login:
        return Login(authority_host, _TENANT_FOR_MSAL, self.client_id, self.client_secret, str(self.token_key))

    @property
    def tenants(self) -> frozenset[str]:
        """First parts of the paths under which tokens are given."""
        return frozenset((_TENANT_FOR_MSAL, self.issuer.tenant))

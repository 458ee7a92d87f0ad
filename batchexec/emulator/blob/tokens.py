"""Bearer tokens of requests to the Blob service."""

from __future__ import annotations

from datetime import datetime

from batchexec.emulator.identity.tokens import STORAGE, BadToken, Issuer, Principal

from .errors import BlobError


class BlobTokens:
    """Checks bearer tokens of requests to one storage account."""

    def __init__(self, issuer: Issuer, authority: str, account: str) -> None:
        self._issuer = issuer
        self._audiences = (STORAGE, f"{STORAGE}/", f"https://{account}.blob.core.windows.net")
        uri = f"{authority}/{issuer.tenant}/oauth2/authorize"
        self._challenge = {"WWW-Authenticate": f"Bearer authorization_uri={uri} resource_id={STORAGE}"}

    def principal(self, token: str, now: datetime) -> Principal:
        """Whose token it is. Raises BlobError InvalidAuthenticationInfo (401)."""
        try:
            return self._issuer.principal(token, self._audiences, now)
        except BadToken as error:
            raise BlobError("InvalidAuthenticationInfo", str(error), headers=self._challenge) from None

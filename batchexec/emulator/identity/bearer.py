"""Bearer tokens of requests to the Batch service: believed or not, and what their roles allow."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from batchexec.emulator.errors import BatchError

from .tokens import BATCH, BadToken, Issuer

_READING = ("GET", "HEAD")
_OF_JOBS = ("jobs", "jobschedules")


class BearerTokens:
    """Checks `Authorization: Bearer ...` of requests to one Batch account."""

    def __init__(self, issuer: Issuer, authority: str, now: Callable[[], datetime]) -> None:
        self._issuer = issuer
        self._challenge = f'Bearer authorization_uri="{authority}/{issuer.tenant}"'
        self._now = now

    def check(self, method: str, path: str, token: str) -> None:
        """Raise AuthenticationFailed (401) where the token is not believed, and (403) where its roles do not allow
        the request. The service's code for the latter is not known: this is the one that its table of errors has."""
        try:
            principal = self._issuer.principal(token, (BATCH,), self._now())
        except BadToken as error:
            raise unauthorized(str(error), f'{self._challenge}, error="invalid_token"') from None
        kind = path.strip("/").partition("/")[0]
        held = principal.rights.jobs if kind in _OF_JOBS else principal.rights.pools
        evaluation = method == "POST" and path.endswith("/evaluateautoscale")  # changes nothing
        needed = "read" if method in _READING or evaluation else "write"
        if needed not in held:
            resource = "jobs" if kind in _OF_JOBS else "pools"
            raise BatchError(
                "InsufficientAccountPermissions",
                Reason="The user identity used for this operation does not have the required privilege "
                f"Microsoft.Batch/batchAccounts/{resource}/{needed}",
            )


def unauthorized(reason: str, challenge: str) -> BatchError:
    """AuthenticationFailed with 401, as tokens are refused; a wrong key is refused with 403."""
    error = BatchError("AuthenticationFailed", Reason=reason)
    error.status = 401
    error.headers = {"WWW-Authenticate": challenge}
    return error

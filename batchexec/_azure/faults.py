"""What can go wrong with a request, as typed errors; and the one retry table."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeVar

import aiohttp
import tenacity
from azure.core import exceptions as azure_errors

from batchexec.errors import AuthenticationError, QuotaError, ServiceError, ServiceUnreachableError

T = TypeVar("T")

_RETRIED = frozenset((408, 429, 500, 502, 503, 504))
_TRIES = 10
_FIRST_WAIT = 0.25
_BACKOFF = tenacity.wait_random_exponential(multiplier=0.5, min=0.25, max=90)
_QUOTA_CODES = frozenset(
    ("PoolQuotaReached", "ActiveJobAndScheduleQuotaReached", "AccountCoreQuotaReached", "JobQuotaReached")
)
_NOT_YET = "TooManyEnableAutoScaleRequests"  # 503 for half a minute: nobody waits for that
_NO_RIGHTS = frozenset(
    (
        None,
        "AuthenticationFailed",
        "AuthorizationFailed",
        "AuthorizationFailure",
        "AuthorizationPermissionMismatch",
        "InsufficientAccountPermissions",
        "PermissionDenied",
    )
)


async def persistently(call: Callable[[], Awaitable[T]], *, service: str, patience: float | None = None) -> T:
    """Await `call()` again while its ServiceError is transient: 10 tries, 0.25-90 s apart, Retry-After honoured.

    `patience` (seconds) bounds the whole, for the first contact with an account; `service` is what errors call it.
    """
    if patience is None:
        return await _retried(call, [])
    errors: list[ServiceError] = []
    try:
        return await asyncio.wait_for(_retried(call, errors), patience)
    except asyncio.TimeoutError:
        if errors:
            raise errors[-1] from None
        raise ServiceUnreachableError(f"{service} gives no answer within {patience:g} s", transient=True) from None


async def _retried(call: Callable[[], Awaitable[T]], errors: list[ServiceError]) -> T:
    """`errors` collects the transient ones."""
    try:
        return await call()
    except ServiceError as error:
        if not error.transient:
            raise
        errors.append(error)

    async def again() -> T:
        try:
            return await call()
        except ServiceError as error:
            errors.append(error)
            raise

    retrying = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception(lambda error: getattr(error, "transient", False)),
        stop=tenacity.stop_after_attempt(_TRIES - 1),
        wait=_wait,
        reraise=True,
    )
    await asyncio.sleep(max(_FIRST_WAIT, errors[-1].retry_after or 0))
    return await retrying(again)


def _wait(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    return max(_BACKOFF(state), getattr(error, "retry_after", None) or 0)


def refusal(service: str, status: int, code: str | None, message: str, retry_after: str | None = None) -> ServiceError:
    """The typed error for an answer with this HTTP status and the service's own code."""
    text = f"{service} answered {status} {code or ''}: {message.strip() or 'no text'}".replace(" :", ":")
    wait = float(retry_after) if retry_after and retry_after.isdigit() else None
    if code in _QUOTA_CODES:
        return QuotaError(text, code=code, status=status)
    if status == 401 or (status == 403 and code in _NO_RIGHTS):
        hint = " Check the account's name and key, or the role of the login (docs/configuration.md)."
        return AuthenticationError(text + hint, code=code, status=status)
    transient = status in _RETRIED and code != _NOT_YET
    return ServiceError(text, code=code, status=status, transient=transient, retry_after=wait)


def not_the_service(service: str, endpoint: str, detail: str) -> ServiceUnreachableError:
    return ServiceUnreachableError(
        f"What answers at {endpoint} is not {service}: {detail}. Check the endpoint; a proxy or a login page may "
        "stand between."
    )


def unreachable(service: str, endpoint: str, error: BaseException) -> ServiceUnreachableError:
    detail = str(error) or type(error).__name__
    text = f"{service} at {endpoint} cannot be reached: {detail}"
    return ServiceUnreachableError(text, transient=True)


def translate(service: str, endpoint: str, error: Exception) -> ServiceError | None:
    """The typed error for an exception of an SDK or of aiohttp; None for any other."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, azure_errors.IncompleteReadError):  # an answer that was cut; the SDK calls it a DecodeError
        return unreachable(service, endpoint, error)
    if isinstance(error, azure_errors.DecodeError | json.JSONDecodeError):
        return not_the_service(service, endpoint, "it does not answer in JSON")
    if isinstance(error, azure_errors.TooManyRedirectsError):
        return not_the_service(service, endpoint, "it redirects without end")
    if isinstance(error, azure_errors.HttpResponseError):
        return _from_response(service, endpoint, error)
    if isinstance(error, azure_errors.ClientAuthenticationError):
        return AuthenticationError(f"{service}: {error}")
    if isinstance(error, azure_errors.AzureError | aiohttp.ClientError | OSError | asyncio.TimeoutError):
        return unreachable(service, endpoint, error)
    return None


def _from_response(service: str, endpoint: str, error: azure_errors.HttpResponseError) -> ServiceError:
    response = error.response
    status = error.status_code or 0
    headers = getattr(response, "headers", {})
    code = getattr(error.error, "code", None) or headers.get("x-ms-error-code")
    if code is None and "html" in headers.get("Content-Type", "").lower():
        if status in _RETRIED:
            return refusal(service, status, None, "an HTML page", headers.get("Retry-After"))
        return not_the_service(service, endpoint, f"it answers {status} with an HTML page")
    if status == 0:
        if isinstance(error, azure_errors.ClientAuthenticationError):
            return AuthenticationError(f"{service}: {error}")
        return unreachable(service, endpoint, error)
    message = str(getattr(error.error, "message", None) or error.message)
    details = [f"{value['key']}: {value['value']}" for value in _values(error)]
    first, _, rest = message.partition("\n")  # what follows names the request and the time
    words = "; ".join([first, *details]) + (f" [{rest.replace(chr(10), ', ')}]" if rest else "")
    return refusal(service, status, code, words, headers.get("Retry-After"))


def _values(error: azure_errors.HttpResponseError) -> Iterable[Any]:
    """The details of a Batch error: pairs of key and value."""
    model = getattr(error, "model", None)
    return (model.get("values") or ()) if isinstance(model, Mapping) else ()

"""Token credentials: those of the user, synchronous or not, for the asynchronous clients."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

from azure.core.credentials import AccessToken
from azure.core.pipeline import PipelineContext, PipelineRequest
from azure.core.pipeline.policies import AsyncBearerTokenCredentialPolicy, AsyncHTTPPolicy
from azure.core.rest import HttpRequest

from batchexec._azure.account import Account

SCOPE = "https://batch.core.windows.net//.default"


class Synchronous:
    """What azure.identity's credentials are by default."""

    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        return AccessToken(f"{threading.current_thread().name} {scopes[0]}", int(time.time()) + 3600)


class Asynchronous(Synchronous):
    """What those of azure.identity.aio are."""

    async def get_token(self, *scopes: str, **options: Any) -> AccessToken:  # type: ignore[override]
        return AccessToken("asynchronous", int(time.time()) + 3600)


class Answer:
    """Enough of a response for the policy to look at."""

    class http_response:
        status_code = 200


class Sent(AsyncHTTPPolicy[Any, Any]):
    """The end of the SDK's own pipeline: keeps what would go out."""

    header = ""

    async def send(self, request: Any) -> Any:
        self.header = request.http_request.headers["Authorization"]
        return Answer()


def authorization(credential: Any) -> str:
    """The header that the SDK's own policy makes of the account's credential."""
    account = Account("https://a.example", "a", "https://b.example", "b", credential=credential)
    sent = Sent()

    async def send() -> None:
        policy: Any = AsyncBearerTokenCredentialPolicy(account.token_credential(), SCOPE)
        policy.next = sent
        request = HttpRequest("GET", "https://a.example/jobs")
        await policy.send(PipelineRequest(request, PipelineContext(None)))

    asyncio.run(send())
    return sent.header


def test_a_synchronous_credential_is_asked_in_a_thread_of_its_own() -> None:
    header = authorization(Synchronous())
    assert header.startswith("Bearer ")
    assert header.endswith(SCOPE)
    assert threading.current_thread().name not in header


def test_an_asynchronous_credential_is_used_as_it_is() -> None:
    assert authorization(Asynchronous()) == "Bearer asynchronous"


def test_without_one_azures_default_chain_is_used() -> None:
    account = Account("https://a.example", "a", "https://b.example", "b")
    assert "DefaultAzureCredential" in repr(vars(account.token_credential()))

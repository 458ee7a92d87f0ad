"""User delegation keys of the local Blob service, the SAS signed with them, and what roles leave of both."""

from __future__ import annotations

import base64
import hmac
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

import pytest
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError
from azure.storage.blob import (
    BlobClient,
    BlobServiceClient,
    ContainerClient,
    UserDelegationKey,
    generate_blob_sas,
    generate_container_sas,
)
from helpers_secure import STORAGE, Credential, Secure, running

NAME = "folder/ä b+c.txt"


@pytest.fixture(scope="module")
def service() -> Iterator[Secure]:
    with running("--tls") as service:
        token, kind = service.token(STORAGE), {"x_ms_blob_type": "BlockBlob"}
        assert service.ask_blob("PUT", "/box?restype=container", token).status == 201
        assert service.ask_blob("PUT", f"/box/{quote(NAME)}", token, b"content", **kind).status == 201
        yield service


def now() -> datetime:
    return datetime.now(timezone.utc)


def blobs(service: Secure, credential: Credential) -> BlobServiceClient:
    return BlobServiceClient(service.info["blob_endpoint"], credential, connection_verify=service.info["ca_bundle"])


def key(service: Secure, *roles: str, start: datetime | None = None, hours: float = 1) -> UserDelegationKey:
    with blobs(service, service.credential(*roles)) as client:
        return client.get_user_delegation_key(start or now(), (start or now()) + timedelta(hours=hours))


def blob_sas(service: Secure, signer: UserDelegationKey, permission: str = "r", **more: Any) -> str:
    given = {"expiry": now() + timedelta(minutes=10), **more}
    account = service.info["storage_account"]
    return generate_blob_sas(account, "box", NAME, user_delegation_key=signer, permission=permission, **given)


def get(service: Secure, sas: str, name: str = NAME, **headers: str) -> tuple[int, str]:
    answer = service.ask_blob("GET", f"/box/{quote(name)}?{sas}", **headers)
    return answer.status, "" if answer.status == 200 else answer.code


def test_a_key_names_its_owner_and_its_time(service: Secure) -> None:
    found = key(service)
    assert found.signed_tid == service.issuer().split("/")[-2]
    assert (found.signed_service, found.signed_version) == ("b", "2026-10-06")
    assert len(base64.b64decode(found.value or "")) == 32
    assert key(service, start=now() - timedelta(hours=1), hours=2).value != found.value


def test_a_sas_for_one_blob_opens_that_one(service: Secure) -> None:
    sas = blob_sas(service, key(service))
    assert get(service, sas) == (200, "")
    assert get(service, sas, "another") == (403, "AuthenticationFailed")
    url = f"{service.info['blob_endpoint']}/box/{quote(NAME)}?{sas}"
    with BlobClient.from_blob_url(url, connection_verify=service.info["ca_bundle"]) as blob:
        assert blob.download_blob().readall() == b"content"
        with pytest.raises(HttpResponseError) as refused:
            blob.upload_blob(b"more", overwrite=True)
        assert refused.value.error_code == "AuthorizationPermissionMismatch"


def test_a_sas_for_a_container_lists_and_writes_there(service: Secure) -> None:
    signer, account = key(service), service.info["storage_account"]
    sas = generate_container_sas(account, "box", signer, permission="rwl", expiry=now() + timedelta(minutes=5))
    url = f"{service.info['blob_endpoint']}/box?{sas}"
    with ContainerClient.from_container_url(url, connection_verify=service.info["ca_bundle"]) as box:
        box.upload_blob("new", b"1")
        assert {blob.name for blob in box.list_blobs()} == {NAME, "new"}
        with pytest.raises(HttpResponseError) as refused:
            box.delete_blob("new")
        assert refused.value.error_code == "AuthorizationPermissionMismatch"


def test_a_sas_may_demand_headers_and_parameters(service: Secure) -> None:
    demanded: Any = {"request_headers": {"x-ms-client-request-id": "me"}, "request_query_params": {"timeout": "20"}}
    sas = blob_sas(service, key(service), **demanded)
    assert get(service, sas + "&timeout=20", x_ms_client_request_id="me") == (200, "")
    assert get(service, sas + "&timeout=20", x_ms_client_request_id="you") == (403, "AuthenticationFailed")
    assert get(service, sas, x_ms_client_request_id="me") == (403, "AuthenticationFailed")


# What is signed, in order, from each version on; see "Create a user delegation SAS" in the service's reference.
_FIRST = ["sp", "st", "se", "path", "skoid", "sktid", "skt", "ske", "sks", "skv"]
_LAST = ["rscc", "rscd", "rsce", "rscl", "rsct"]
_AGENTS, _DELEGATED = ["saoid", "suoid", "scid"], ["skdutid", "sduoid"]
_SIGNED = {
    "2018-11-09": [*_FIRST, "sip", "spr", "sv", "sr", "snapshot", *_LAST],
    "2020-02-10": [*_FIRST, *_AGENTS, "sip", "spr", "sv", "sr", "snapshot", *_LAST],
    "2020-10-02": [*_FIRST, *_AGENTS, "sip", "spr", "sv", "sr", "snapshot", *_LAST],
    "2020-12-06": [*_FIRST, *_AGENTS, "sip", "spr", "sv", "sr", "snapshot", "ses", *_LAST],
    "2025-05-05": [*_FIRST, *_AGENTS, "sip", "spr", "sv", "sr", "snapshot", "ses", *_LAST],
    "2025-07-05": [*_FIRST, *_AGENTS, *_DELEGATED, "sip", "spr", "sv", "sr", "snapshot", "ses", *_LAST],
    "2026-04-06": [*_FIRST, *_AGENTS, *_DELEGATED, "sip", "spr", "sv", "sr", "snapshot", "ses", "srh", "srq", *_LAST],
}


@pytest.mark.parametrize("version", _SIGNED)
def test_each_version_of_the_service_signs_its_own_fields(service: Secure, version: str) -> None:
    signer = key(service)
    query = {
        "sp": "r",
        "st": f"{now() - timedelta(minutes=1):%Y-%m-%dT%H:%M:%SZ}",
        "se": f"{now() + timedelta(minutes=50):%Y-%m-%dT%H:%M:%SZ}",
        "skoid": str(signer.signed_oid),
        "sktid": str(signer.signed_tid),
        "skt": str(signer.signed_start),
        "ske": str(signer.signed_expiry),
        "sks": "b",
        "skv": str(signer.signed_version),
        "spr": "https",
        "sv": version,
        "sr": "b",
        "rsct": "text/x-test",
    }
    values = {**query, "path": f"/blob/{service.info['storage_account']}/box/{NAME}"}
    text = "\n".join(values.get(name, "") for name in _SIGNED[version])
    digest = hmac.digest(base64.b64decode(signer.value or ""), text.encode(), "sha256")
    sas = urlencode({**query, "sig": base64.b64encode(digest).decode()})
    answer = service.ask_blob("GET", f"/box/{quote(NAME)}?{sas}")
    assert (answer.status, answer.headers["content-type"], answer.body) == (200, "text/x-test", b"content")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sp", "rwd"),
        ("se", "2099-01-01T00:00:00Z"),
        ("ske", "2099-01-01T00:00:00Z"),
        ("skoid", "00000000-0000-0000-0000-00000000ffff"),
        ("sktid", "00000000-0000-0000-0000-000000000000"),
        ("skv", "2019-02-02"),
        ("sks", "q"),
        ("sv", "2018-03-28"),
        ("sr", "c"),
        ("spr", "https,http"),
        ("sig", base64.b64encode(bytes(32)).decode()),
        ("skt", ""),
        ("sduoid", "00000000-0000-0000-0000-000000000000"),
        ("si", "policy"),
    ],
)
def test_a_sas_that_was_changed_is_refused(service: Secure, field: str, value: str) -> None:
    query = dict(parse_qsl(blob_sas(service, key(service))))
    assert get(service, urlencode(query)) == (200, "")
    assert get(service, urlencode({**query, field: value})) == (403, "AuthenticationFailed")


def test_a_sas_lives_no_longer_than_it_says_nor_than_its_key(service: Secure) -> None:
    signer = key(service)
    over = blob_sas(service, signer, expiry=now() - timedelta(seconds=1))
    assert get(service, over) == (403, "AuthenticationFailed")
    early = blob_sas(service, signer, start=now() + timedelta(minutes=50), expiry=now() + timedelta(minutes=55))
    assert get(service, early) == (403, "AuthenticationFailed")
    of_tomorrow = key(service, start=now() + timedelta(days=1))
    assert get(service, blob_sas(service, of_tomorrow)) == (403, "AuthenticationFailed")
    # On a busy machine a short life may be over before the first request.
    assert any(lives_as_long_as_its_key(service, seconds) for seconds in (2, 8, 30))


def lives_as_long_as_its_key(service: Secure, seconds: float) -> bool:
    """Whether a SAS was good before the end of its key, and was seen to be; after the end it must not be."""
    try:
        short = key(service, hours=seconds / 3600)
    except HttpResponseError:  # it was over before the service was asked for it
        return False
    sas, seen = blob_sas(service, short), False
    end = datetime.fromisoformat(str(short.signed_expiry).replace("Z", "+00:00"))
    while now() <= end:
        answer = get(service, sas)
        if now() < end:
            assert answer == (200, "")
            seen = True
        time.sleep(0.05)
    assert get(service, sas) == (403, "AuthenticationFailed")
    return seen


def ask_for_a_key(service: Secure, body: bytes, token: str | None = None) -> tuple[int, str]:
    token = service.token(STORAGE) if token is None else token
    answer = service.ask_blob("POST", "/?restype=service&comp=userdelegationkey", token, body)
    return answer.status, "" if answer.status == 200 else answer.code


def asked(start: timedelta, expiry: timedelta) -> bytes:
    times = (f"{now() + offset:%Y-%m-%dT%H:%M:%SZ}" for offset in (start, expiry))
    return "<KeyInfo><Start>{}</Start><Expiry>{}</Expiry></KeyInfo>".format(*times).encode()


def test_a_key_lives_for_seven_days_at_most(service: Secure) -> None:
    day = timedelta(days=1)
    assert ask_for_a_key(service, asked(-day, 7 * day)) == (200, "")
    for start, expiry in ((0 * day, 7.01 * day), (2 * day, day), (-2 * day, -day), (-8 * day, day)):
        assert ask_for_a_key(service, asked(start, expiry)) == (400, "InvalidXmlNodeValue")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "InvalidXmlDocument"),
        (b"<KeyInfo>", "InvalidXmlDocument"),
        (b"<Other/>", "InvalidXmlDocument"),
        (b"<KeyInfo/>", "InvalidXmlDocument"),
        (b"<KeyInfo><Expiry>soon</Expiry></KeyInfo>", "InvalidXmlNodeValue"),
        (b"<KeyInfo><Expiry/></KeyInfo>", "InvalidXmlNodeValue"),
        (b'<!DOCTYPE k [<!ENTITY a "b">]><KeyInfo>&a;&c;</KeyInfo>', "InvalidXmlDocument"),
    ],
)
def test_a_key_is_asked_for_in_good_xml(service: Secure, body: bytes, code: str) -> None:
    assert ask_for_a_key(service, body) == (400, code)


def test_a_key_is_not_given_to_the_account_key_nor_to_nobody(service: Secure) -> None:
    credential = {"account_name": service.info["storage_account"], "account_key": service.info["storage_key"]}
    endpoint, bundle = service.info["blob_endpoint"], service.info["ca_bundle"]
    with BlobServiceClient(endpoint, credential, connection_verify=bundle) as client:
        with pytest.raises(ClientAuthenticationError) as refused:
            client.get_user_delegation_key(now(), now() + timedelta(hours=1))
    assert refused.value.error_code == "AuthenticationFailed"
    assert ask_for_a_key(service, asked(timedelta(), timedelta(hours=1)), "") == (401, "NoAuthenticationInformation")


READER, WRITER, DELEGATOR = "Storage Blob Data Reader", "Storage Blob Data Contributor", "Storage Blob Delegator"


@pytest.mark.parametrize(
    ("roles", "reads", "writes", "delegates"),
    [
        ((READER,), True, False, True),
        ((WRITER,), True, True, True),
        (("Storage Blob Data Owner",), True, True, True),
        ((DELEGATOR,), False, False, True),
        (("Azure Batch Data Contributor",), False, False, False),
        (("Azure Batch Data Contributor", READER), True, False, True),
    ],
)
def test_roles_limit_a_token_and_the_sas_of_its_bearer(
    service: Secure, roles: tuple[str, ...], reads: bool, writes: bool, delegates: bool
) -> None:
    token = service.token(STORAGE, *roles)
    kind = {"x_ms_blob_type": "BlockBlob"}
    refused = "AuthorizationPermissionMismatch"

    def outcomes(sas: str, bearer: str) -> tuple[int, int, int]:
        answers = (
            service.ask_blob("GET", f"/box/{quote(NAME)}{sas}", bearer),
            service.ask_blob("GET", f"/box?restype=container&comp=list{sas.replace('?', '&')}", bearer),
            service.ask_blob("PUT", f"/box/{quote(NAME)}{sas}", bearer, b"content", **kind),
        )
        assert all(answer.status < 300 or answer.code == refused for answer in answers)
        return answers[0].status, answers[1].status, answers[2].status

    expected = 200 if reads else 403, 200 if reads else 403, 201 if writes else 403
    assert outcomes("", token) == expected
    if not delegates:
        assert ask_for_a_key(service, asked(timedelta(), timedelta(hours=1)), token) == (403, refused)
        return
    account = service.info["storage_account"]
    signer, expiry = key(service, *roles), now() + timedelta(minutes=5)
    sas = generate_container_sas(account, "box", signer, permission="racwdl", expiry=expiry)
    assert outcomes(f"?{sas}", "") == expected

"""HTTPS and Entra tokens of the local service: what is believed, what is refused, and with which words."""

from __future__ import annotations

import base64
import hmac
import json
import socket
import ssl
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import jwt
import pytest
from azure.batch import BatchClient
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import ClientSecretCredential, DefaultAzureCredential, EnvironmentCredential
from azure.storage.blob import BlobServiceClient
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from helpers_secure import BATCH, STORAGE, Secure, running


@pytest.fixture(scope="module")
def service() -> Iterator[Secure]:
    with running("--tls") as service:
        yield service


@pytest.fixture
def login(service: Secure, monkeypatch: pytest.MonkeyPatch) -> Secure:
    """The service, with the variables of azure-identity set for it."""
    for name, value in service.environment().items():
        monkeypatch.setenv(name, value)
    return service


def tls_version(service: Secure, endpoint: str, context: ssl.SSLContext, name: str) -> str | None:
    where = urlsplit(service.info[endpoint])
    with socket.create_connection(("127.0.0.1", where.port or 0), timeout=60) as raw:
        with context.wrap_socket(raw, server_hostname=name) as secure:
            return secure.version()


@pytest.mark.parametrize("endpoint", ["batch_endpoint", "blob_endpoint"])
@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "::1"])
def test_both_services_have_a_certificate_for_their_names(service: Secure, endpoint: str, name: str) -> None:
    assert service.info[endpoint].startswith("https://127.0.0.1:")
    context = service.trust
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # Python's default from 3.13 on
    assert tls_version(service, endpoint, context, name) == "TLSv1.3"


def test_the_certificate_is_for_no_other_name_and_not_trusted_by_others(service: Secure) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        tls_version(service, "batch_endpoint", service.trust, "example.com")
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
        tls_version(service, "batch_endpoint", ssl.create_default_context(), "127.0.0.1")


def test_the_bundle_holds_the_systems_authorities_too(service: Secure) -> None:
    context = ssl.create_default_context(cafile=service.info["ca_bundle"])
    assert tls_version(service, "blob_endpoint", context, "127.0.0.1")
    system = ssl.get_default_verify_paths().cafile
    if system:
        assert Path(system).read_bytes().strip() in Path(service.info["ca_bundle"]).read_bytes()


def test_nobody_else_can_read_what_is_secret(service: Secure) -> None:
    directory = Path(service.info["token_key"]).parent
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in directory.iterdir()}
    assert modes == {
        "application.json": 0o600,
        "ca-key.pem": 0o600,
        "server-key.pem": 0o600,
        "token-key.pem": 0o600,
        "ca.pem": 0o644,
        "ca-bundle.pem": 0o644,
        "server.pem": 0o644,
    }


@pytest.mark.parametrize("endpoint", ["batch_endpoint", "blob_endpoint"])
def test_plain_http_to_the_secure_port_is_cut_off_at_once(service: Secure, endpoint: str) -> None:
    # Well before the minute that asyncio waits for a handshake.
    with socket.create_connection(("127.0.0.1", urlsplit(service.info[endpoint]).port or 0), timeout=40) as raw:
        raw.sendall(b"GET /pools HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        received = b""
        try:
            while data := raw.recv(4096):
                received += data
        except ConnectionResetError:
            pass
    assert b"HTTP" not in received


def test_azure_identity_logs_in_from_the_environment(login: Secure) -> None:
    with EnvironmentCredential() as credential, BatchClient(login.info["batch_endpoint"], credential) as client:
        assert list(client.list_pools()) == []
    with DefaultAzureCredential() as default, BlobServiceClient(login.info["blob_endpoint"], default) as blobs:
        container = blobs.create_container("by-token")
        container.upload_blob("a/b c", b"content")
        assert container.download_blob("a/b c").readall() == b"content"
        container.upload_blob("d", b"")
        assert [answer.status_code for answer in container.delete_blobs("a/b c", "d")] == [202, 202]


def test_a_tenant_by_its_id_serves_clients_that_ask_no_one_about_the_host(login: Secure) -> None:
    info = login.info
    tenant = login.issuer().split("/")[-2]
    given = (tenant, info["client_id"], info["client_secret"])
    with ClientSecretCredential(*given, disable_instance_discovery=True) as credential:
        token = credential.get_token(f"{BATCH}/.default").token
    assert login.ask_batch("GET", "pools", token).status == 200


def test_tokens_can_be_checked_with_the_published_keys(login: Secure) -> None:
    with EnvironmentCredential() as credential:
        token = credential.get_token(f"{STORAGE}/.default").token
    keys = jwt.PyJWKClient(f"{login.info['authority_host']}/adfs/discovery/v2.0/keys", ssl_context=login.trust)
    claims = jwt.decode(token, keys.get_signing_key_from_jwt(token), algorithms=["RS256"], audience=STORAGE)
    assert claims["iss"] == login.issuer()
    assert claims["exp"] - claims["iat"] == 3600


@pytest.mark.parametrize(
    ("given", "scope", "error"),
    [
        ({"client_secret": "wrong"}, f"{BATCH}/.default", "AADSTS7000215"),
        ({"client_id": "nobody"}, f"{BATCH}/.default", "AADSTS700016"),
        ({}, "https://graph.microsoft.com/.default", "AADSTS500011"),
        ({}, "User.Read", "AADSTS1002012"),
    ],
)
def test_a_login_that_is_refused_says_why(login: Secure, given: dict[str, str], scope: str, error: str) -> None:
    known = {name: login.info[name] for name in ("tenant_id", "client_id", "client_secret")}
    with ClientSecretCredential(**{**known, **given}) as credential:
        with pytest.raises(ClientAuthenticationError, match=error) as refused:
            credential.get_token(scope)
    assert login.info["client_secret"] not in str(refused.value)


def bad_token(service: Secure, audience: str, fault: str) -> str:
    now = int(time.time())
    if fault == "unsigned":
        return jwt.encode(service.claims(audience), "", algorithm="none")
    if fault == "of another key":
        other = rsa.generate_private_key(65537, 2048)
        return jwt.encode(service.claims(audience), other, algorithm="RS256")
    if fault == "signed with the public key":
        # The old trick: a server that takes the algorithm from the token would check an HMAC with its public key.
        key = serialization.load_pem_private_key(Path(service.info["token_key"]).read_bytes(), None)
        pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        parts = [{"alg": "HS256", "typ": "JWT"}, service.claims(audience)]
        text = b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts)
        signature = base64.urlsafe_b64encode(hmac.digest(pem, text, "sha256")).rstrip(b"=")
        return (text + b"." + signature).decode()
    changes = {
        "expired": {"exp": now - 1},
        "not yet valid": {"nbf": now + 3600},
        "of another issuer": {"iss": "https://sts.windows.net/another/"},
        "for another service": {"aud": STORAGE if audience == BATCH else BATCH},
        "without its end": {"exp": None},
        "with an odd end": {"exp": "tomorrow"},
        "for many services": {"aud": [BATCH, STORAGE]},
        "with an unknown role": {"roles": ["Emperor"]},
        "with odd roles": {"roles": "Contributor"},
    }
    garbage = {"garbage": "no.token.at-all", "of odd bytes": "é.\xff.\x80"}
    return garbage[fault] if fault in garbage else service.token(audience, **changes[fault])


FAULTS = [
    "garbage",
    "of odd bytes",
    "unsigned",
    "of another key",
    "signed with the public key",
    "expired",
    "not yet valid",
    "of another issuer",
    "for another service",
    "without its end",
    "with an odd end",
    "for many services",
    "with an unknown role",
    "with odd roles",
]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_token_that_is_not_good_is_refused_by_batch(service: Secure, fault: str) -> None:
    refused = service.ask_batch("GET", "pools", bad_token(service, BATCH, fault))
    assert (refused.status, refused.code) == (401, "AuthenticationFailed")
    assert refused.headers["www-authenticate"].startswith("Bearer authorization_uri=")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_token_that_is_not_good_is_refused_by_storage(service: Secure, fault: str) -> None:
    refused = service.ask_blob("GET", "/?comp=list", bad_token(service, STORAGE, fault))
    assert (refused.status, refused.code) == (401, "InvalidAuthenticationInfo")
    assert f"resource_id={STORAGE}" in refused.headers["www-authenticate"]


def test_batch_wants_its_audience_with_the_slash(service: Secure) -> None:
    assert service.ask_batch("GET", "pools", service.token(BATCH)).status == 200
    assert service.ask_batch("GET", "pools", service.token(BATCH[:-1])).status == 401


def test_storage_takes_its_audience_with_and_without_the_slash_and_by_account(service: Secure) -> None:
    for audience in (STORAGE, f"{STORAGE}/", "https://local.blob.core.windows.net"):
        assert service.ask_blob("GET", "/?comp=list", service.token(audience)).status == 200
    other = service.token("https://other.blob.core.windows.net")
    assert service.ask_blob("GET", "/?comp=list", other).status == 401


def test_storage_takes_tokens_from_version_2017_on(service: Secure) -> None:
    refused = service.ask_blob("GET", "/?comp=list", service.token(STORAGE), x_ms_version="2016-05-31")
    assert (refused.status, refused.code) == (400, "InvalidAuthenticationInfo")


def test_the_storage_sdk_follows_the_challenge_to_the_right_audience(login: Secure) -> None:
    with EnvironmentCredential() as credential:
        with BlobServiceClient(login.info["blob_endpoint"], credential, audience=BATCH) as blobs:
            assert list(blobs.list_containers(name_starts_with="none")) == []


def test_keys_open_the_secure_service_too(login: Secure) -> None:
    with BlobServiceClient.from_connection_string(login.info["connection_string"]) as blobs:
        assert list(blobs.list_containers(name_starts_with="none")) == []
    for refused in (
        login.ask_batch("GET", "pools", Authorization="SharedKey local:d3Jvbmc="),
        login.ask_blob("GET", "/?comp=list", Authorization="SharedKey local:d3Jvbmc="),
    ):
        assert (refused.status, refused.code) == (403, "AuthenticationFailed")


def test_without_https_no_token_is_taken(service: Secure) -> None:
    with running() as plain:
        batch = plain.ask_batch("GET", "pools", service.token(BATCH))
        blob = plain.ask_blob("GET", "/?comp=list", service.token(STORAGE))
        nothing = plain.ask_batch("GET", "adfs/.well-known/openid-configuration")
    assert (batch.status, batch.code) == (403, "AuthenticationFailed")
    assert (blob.status, blob.code) == (403, "AuthenticationFailed")
    assert nothing.status == 403
    assert "ca_certificate" not in plain.info

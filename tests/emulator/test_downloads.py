"""Resource files from servers with TLS: the system's certificates decide, as SSL_CERT_FILE names them."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from azure.batch import models
from batch_service import emulator
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from helpers_http import serving

HUNDRED_YEARS = datetime.timedelta(days=36525)


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate of 127.0.0.1, with its key."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "here")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + HUNDRED_YEARS)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "certificate.pem"
    plain = serialization.NoEncryption(), serialization.PrivateFormat.PKCS8, serialization.Encoding.PEM
    path.write_bytes(key.private_bytes(*plain[::-1]) + made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def url(certificate: Path) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with serving(_Answer, context) as address:
        yield f"{address}/file"


@pytest.mark.parametrize("known", [True, False])
def test_a_file_comes_from_a_server_that_the_system_believes(
    known: bool, certificate: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if known:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with emulator(tmp_path / "root") as (service, _):
        file = models.ResourceFile(http_url=url, file_path="file")
        task = service.run(service.job(service.pool()), "cat file", "t", resource_files=[file])
        if known:
            assert task.execution_info.result == "success"
        else:
            assert task.execution_info.failure_info.code == "BlobDownloadMiscError"

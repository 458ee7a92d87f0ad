"""HTTPS: an authority of our own, the certificate that it issues for this service, and whom nodes then trust."""

from __future__ import annotations

import ipaddress
import os
import shutil
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .secret_files import write_secret

_AUTHORITY_DAYS = 3650
_DAYS = 800  # clients of some systems refuse certificates of more than 825 days
_RENEWED = timedelta(days=30)  # before the end
_SYSTEM_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")


@dataclass(frozen=True)
class Certificates:
    """Files in PEM. `authority` is what a client must trust, `bundle` the same behind the system's authorities."""

    authority: Path
    bundle: Path
    certificate: Path
    key: Path

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2  # as the services do
        context.load_cert_chain(self.certificate, self.key)
        return context


def certificates(directory: Path, names: Sequence[str]) -> Certificates:
    """Those of a service with these names and addresses, kept in `directory` from one run to the next.

    The authority is made once. The service's certificate is made anew where a name is missing or its end is near.
    """
    directory.mkdir(parents=True, exist_ok=True)
    found = Certificates(*(directory / name for name in ("ca.pem", "ca-bundle.pem", "server.pem", "server-key.pem")))
    authority_key = directory / "ca-key.pem"
    if not (found.authority.exists() and authority_key.exists()):
        _make_authority(found.authority, authority_key)
        found.certificate.unlink(missing_ok=True)
    if not _serves(found, names):
        _issue(found, authority_key, names)
    # Written at every start: the system's authorities change.
    _write(found.bundle, _system_authorities() + found.authority.read_bytes())
    return found


def trusting(bundle: Path, node: Path) -> dict[str, str]:
    """The environment of a node's programs that has OpenSSL (and so Python and curl) and `requests` trust the bundle,
    once that was given to the node."""
    return dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"), str(node / bundle.name))


def give(bundle: Path, node: Path) -> None:
    """Put the bundle into the node's directory, where containers see it too."""
    here = node / bundle.name
    here.unlink(missing_ok=True)
    shutil.copyfile(bundle, here)  # no hard link: a task that writes to it must not change whom our clients trust


def _make_authority(path: Path, key_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    # A number of its own: clients that meet two authorities of one name tell them apart by it.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"batchexec emulator {os.urandom(4).hex()}")])
    usage = _usage(key_cert_sign=True, crl_sign=True)
    built = (
        _certificate(name, name, key.public_key(), _AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    write_secret(key_path, _private(key))
    _write(path, built.public_bytes(serialization.Encoding.PEM))


def _issue(found: Certificates, authority_key: Path, names: Sequence[str]) -> None:
    authority = x509.load_pem_x509_certificate(found.authority.read_bytes())
    signer = serialization.load_pem_private_key(authority_key.read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)  # made above
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    parent = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    built = (
        _certificate(subject, authority.subject, key.public_key(), _DAYS)
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(parent), critical=False)
        .sign(signer, hashes.SHA256())
    )
    write_secret(found.key, _private(key))
    _write(found.certificate, built.public_bytes(serialization.Encoding.PEM))


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # for clocks that are behind
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _serves(found: Certificates, names: Sequence[str]) -> bool:
    """Whether the certificate there is good for all the names, and for some time."""
    if not (found.certificate.exists() and found.key.exists()):
        return False
    certificate = x509.load_pem_x509_certificate(found.certificate.read_bytes())
    there = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    lasting = certificate.not_valid_after_utc - _RENEWED > datetime.now(timezone.utc)
    return lasting and all(_general(name) in there for name in names)


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _system_authorities() -> bytes:
    """What this machine trusts; nothing where that is not kept in one file."""
    chosen = ssl.get_default_verify_paths().cafile
    for path in (chosen, *_SYSTEM_BUNDLES):
        if path and os.path.isfile(path):
            return Path(path).read_bytes().rstrip() + b"\n"
    return b""


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes) -> None:
    write_secret(path, content)
    path.chmod(0o644)

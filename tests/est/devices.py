"""What EST's tests share: requests as devices send them, and client certificates, good and forged."""

from __future__ import annotations

import base64
import functools
import socket
import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from service.keystore import ca_directory
from service.pki import keys
from service.pki.issuer import Issuer
from tests import csrs, factories
from tests.servers import Server

EST = "/.well-known/est"
PKCS10 = "application/pkcs10"
CURL_RETRY = ["--retry", "20", "--retry-connrefused", "--retry-delay", "1"]  # curl's, as a server starts


def encode_body(request: x509.CertificateSigningRequest) -> bytes:
    """Base64 of the DER, in one line."""
    return base64.b64encode(csrs.encode_der(request))


def parse_certificates(answer: bytes) -> list[x509.Certificate]:
    """What an answer holds: base64, in one line, of PKCS#7."""
    assert b"\n" not in answer
    return pkcs7.load_der_pkcs7_certificates(base64.b64decode(answer, validate=True))


def load_issuer(directory: Path) -> Issuer:
    """The CA of a directory, with its key."""
    return ca_directory.load_issuer(directory, None)


def forge_certificate(
    by: Issuer,
    profile: str = "peer",
    request: x509.CertificateSigningRequest | None = None,
    age: timedelta = timedelta(),
    **change: Any,
) -> x509.Certificate:
    """A certificate as the service issues them, signed so many days ago, or with members changed."""
    context = factories.context(profile, by, now=datetime.now(UTC))
    spec = factories.evaluate(request or csrs.build("device.example.com"), context)
    period = {"not_before": spec.not_before - age, "not_after": spec.not_after - age}
    builder = replace(spec, **(period | change), evaluated_digest=b"").builder(x509.random_serial_number())
    key = by._private_key
    return builder.issuer_name(by.certificate.subject).sign(key, keys.signature_hash(key.public_key()))


def pem(certificate: x509.Certificate) -> str:
    """One certificate in PEM."""
    return certificate.public_bytes(Encoding.PEM).decode()


@functools.cache
def foreign_certificate() -> x509.Certificate:
    """A certificate of another CA that says the same."""
    root, signing = keys.generate_private_key("p-256"), keys.generate_private_key("p-256")
    now = {"start": datetime.now(UTC) - timedelta(days=1), "end": datetime.now(UTC) + timedelta(days=365)}
    ski = x509.SubjectKeyIdentifier(b"1")
    ca = factories.ca(public_key=signing.public_key(), signer=root, ski=ski, **now)
    top = factories.root(public_key=root.public_key(), signer=root, **now)
    return forge_certificate(Issuer(ca, [top], signing))


def root_path(server: Server) -> Path:
    """The file with the root that everybody trusts."""
    return server.log.parent / "ca" / "root-ca.crt"


def client_context(server: Server, client: x509.Certificate | None = None) -> ssl.SSLContext:
    """A client's TLS, with a certificate of its own perhaps."""
    context = ssl.create_default_context(cafile=str(root_path(server)))
    if client is not None:
        context.load_cert_chain(
            write_key_and_certificate(server.log.parent, client, csrs.private_key("p-256"))
        )
    return context


def write_key_and_certificate(
    directory: Path, certificate: x509.Certificate, key: CertificateIssuerPrivateKeyTypes
) -> Path:
    """A file with a certificate and its key."""
    path = directory / f"{certificate.serial_number}.pem"
    path.write_text(pem(certificate) + keys.encode_private_key(key).decode())
    return path


def basic_auth(password: str, user: str = "device") -> str:
    """An Authorization header."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def server_certificate(server: Server, version: ssl.TLSVersion | None = None) -> x509.Certificate:
    """The certificate that the server shows now."""
    context = client_context(server)
    if version:
        context.maximum_version = version
    host, port = urlsplit(server.url).hostname, urlsplit(server.url).port
    with (
        socket.create_connection((str(host), int(port or 0)), 10) as plain,
        context.wrap_socket(plain, server_hostname=host) as connection,
    ):
        return x509.load_der_x509_certificate(connection.getpeercert(binary_form=True) or b"")

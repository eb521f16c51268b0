"""Helpers for the EST tests: CSRs of devices, and valid or forged client certificates."""

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
# curl waits with these options until a server has started.
CURL_RETRY = ["--retry", "20", "--retry-connrefused", "--retry-delay", "1"]


def encode_body(request: x509.CertificateSigningRequest) -> bytes:
    """Encode a CSR as base64 of its DER, in one line."""
    return base64.b64encode(csrs.encode_der(request))


def parse_certificates(response: bytes) -> list[x509.Certificate]:
    """Parse a response: PKCS#7 in base64, in one line."""
    assert b"\n" not in response
    return pkcs7.load_der_pkcs7_certificates(base64.b64decode(response, validate=True))


def load_issuer(directory: Path) -> Issuer:
    """Load the CA in a directory, with its key."""
    return ca_directory.load_issuer(directory, None)


def forge_certificate(
    issuer: Issuer,
    profile: str = "peer",
    request: x509.CertificateSigningRequest | None = None,
    age: timedelta = timedelta(),
    **change: Any,
) -> x509.Certificate:
    """Create a certificate like those of the service, of a certain age or with changed fields."""
    context = factories.context(profile, issuer, now=datetime.now(UTC))
    spec = factories.evaluate(request or csrs.build("device.example.com"), context)
    period = {"not_before": spec.not_before - age, "not_after": spec.not_after - age}
    builder = replace(spec, **(period | change), evaluated_digest=b"").builder(x509.random_serial_number())
    key = issuer._private_key
    return builder.issuer_name(issuer.certificate.subject).sign(key, keys.signature_hash(key.public_key()))


def pem(certificate: x509.Certificate) -> str:
    """Encode one certificate as PEM."""
    return certificate.public_bytes(Encoding.PEM).decode()


@functools.cache
def foreign_certificate() -> x509.Certificate:
    """Create a certificate with the same names, from another CA."""
    root_key, ca_key = keys.generate_private_key("p-256"), keys.generate_private_key("p-256")
    validity = {
        "start": datetime.now(UTC) - timedelta(days=1),
        "end": datetime.now(UTC) + timedelta(days=365),
    }
    ski = x509.SubjectKeyIdentifier(b"1")
    ca = factories.ca(public_key=ca_key.public_key(), signing_key=root_key, ski=ski, **validity)
    root = factories.root(public_key=root_key.public_key(), signing_key=root_key, **validity)
    return forge_certificate(Issuer(ca, [root], ca_key))


def root_path(server: Server) -> Path:
    """Return the path of the server's root certificate."""
    return server.log.parent / "ca" / "root-ca.crt"


def client_context(server: Server, client: x509.Certificate | None = None) -> ssl.SSLContext:
    """Create the TLS context of a client, with or without a client certificate."""
    context = ssl.create_default_context(cafile=str(root_path(server)))
    if client is not None:
        context.load_cert_chain(
            write_key_and_certificate(server.log.parent, client, csrs.private_key("p-256"))
        )
    return context


def write_key_and_certificate(
    directory: Path, certificate: x509.Certificate, key: CertificateIssuerPrivateKeyTypes
) -> Path:
    """Write a certificate and its key to one file."""
    path = directory / f"{certificate.serial_number}.pem"
    path.write_text(pem(certificate) + keys.encode_private_key(key).decode())
    return path


def basic_auth(password: str, user: str = "device") -> str:
    """Create the value of an Authorization header for HTTP Basic."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def server_certificate(server: Server, version: ssl.TLSVersion | None = None) -> x509.Certificate:
    """Return the current certificate of the server."""
    context = client_context(server)
    if version:
        context.maximum_version = version
    host, port = urlsplit(server.url).hostname, urlsplit(server.url).port
    with (
        socket.create_connection((str(host), int(port or 0)), 10) as plain,
        context.wrap_socket(plain, server_hostname=host) as connection,
    ):
        return x509.load_der_x509_certificate(connection.getpeercert(binary_form=True) or b"")

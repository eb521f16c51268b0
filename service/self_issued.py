"""`certlet serve --tls`: the key of the server, and the event that issues its certificate from the CA."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import secrets
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from service import atomic_write
from service.credentials import SERVER_PRINCIPAL
from service.pki import keys


@contextlib.contextmanager
def self_issued_tls(names: Sequence[str], profile: str | None) -> Iterator[dict[str, Any]]:
    """Create a P-256 key for the gateway's HTTPS, and the event that issues a certificate for it.

    The key is in a directory that only this user can read and that is removed at the end of the block. Its
    password is in no file, so the key that a killed process leaves behind is useless.

    Args:
        names: DNS names and IP addresses of the server.
        profile: the certificate profile; None for the default profile.

    Yields:
        Fields of the gateway's configuration: the files, the password, and the event.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    san = x509.SubjectAlternativeName([_general_name(name) for name in names])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    csr = builder.add_extension(san, critical=False).sign(key, hashes.SHA256())
    body = {"csr": csr.public_bytes(Encoding.PEM).decode(), "text": False}
    body |= {"profile": profile} if profile else {}
    with tempfile.TemporaryDirectory(prefix="certlet-tls-") as directory:
        key_file = Path(directory) / "server.key"
        password = secrets.token_urlsafe()
        atomic_write.write_atomically(key_file, keys.encode_private_key(key, password.encode()), 0o600)
        yield {
            "tls_certificate": str(Path(directory) / "server.crt"),
            "tls_key": str(key_file),
            "tls_key_password": password,
            "tls_signing_event": internal_event("POST", "/sign", body),
        }


def internal_event(method: str, path: str, body: Mapping[str, object] | None = None) -> dict[str, Any]:
    """Return a Lambda proxy event whose caller is the server itself."""
    return {
        "resource": path,
        "path": path,
        "httpMethod": method,
        "headers": {"Content-Type": "application/json", "X-Forwarded-Proto": "https"},
        "queryStringParameters": None,
        "requestContext": {"identity": {"apiKeyId": SERVER_PRINCIPAL}},
        "body": json.dumps(body) if body else None,
        "isBase64Encoded": False,
    }


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)

"""The operations that are measured, and the certificate signing requests that they get."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tests.servers import API_KEY

BATCH: Final = 100


@dataclass(frozen=True)
class Endpoint:
    """One operation that issues certificates.

    Attributes:
        name: its name in the figures.
        path: the path of the URL.
        headers: the headers of each request.
        bodies: the bodies, sent in turn.
        csrs: the CSRs in the bodies, in their order, PEM.
        certificates: returns the certificates in a response's body, PEM.
        batch: the number of certificates in a response.
    """

    name: str
    path: str
    headers: Mapping[str, str]
    bodies: tuple[bytes, ...]
    csrs: tuple[bytes, ...]
    certificates: Callable[[bytes], list[str]]
    batch: int = 1


@functools.cache
def requests() -> tuple[bytes, ...]:
    """Create a hundred CSRs of the same form and size, each with its own key and name, PEM."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(BATCH)]
    return tuple(request(f"n{number:02}.example.com", key) for number, key in enumerate(keys))


def request(name: str, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    """Create a CSR for a name, PEM."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    names = x509.SubjectAlternativeName([x509.DNSName(name)])
    builder = x509.CertificateSigningRequestBuilder(subject).add_extension(names, critical=False)
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM)


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def sign(csrs: Sequence[bytes], key: str = "") -> Endpoint:
    """Certlet's `POST /sign`, without text; the name contains the kind of key, unless it is P-256."""
    bodies = tuple(_json({"csr": csr.decode(), "text": False}) for csr in csrs)
    headers = {"x-api-key": API_KEY, "Content-Type": "application/json"}
    name = f"POST /sign of {key}" if key else "POST /sign"

    def certificate(response: bytes) -> list[str]:
        return [json.loads(response)["crt_pem"]]

    return Endpoint(name, "/sign", headers, bodies, tuple(csrs), certificate)


def sign_pem(csrs: Sequence[bytes]) -> Endpoint:
    """Certlet's `POST /sign.pem`."""
    headers = {"x-api-key": API_KEY, "Content-Type": "application/pkcs10"}

    def first(response: bytes) -> list[str]:
        return [x509.load_pem_x509_certificates(response)[0].public_bytes(Encoding.PEM).decode()]

    return Endpoint("POST /sign.pem", "/sign.pem", headers, tuple(csrs), tuple(csrs), first)


def sign_batch(csrs: Sequence[bytes]) -> Endpoint:
    """Certlet's `POST /sign/batch`, without text: one request for all CSRs."""
    body = _json({"requests": [{"csr": csr.decode()} for csr in csrs], "text": False})
    headers = {"x-api-key": API_KEY, "Content-Type": "application/json"}

    def certificates(response: bytes) -> list[str]:
        return [result["certificate"]["crt_pem"] for result in json.loads(response)["results"]]

    name = f"POST /sign/batch of {len(csrs)}"
    return Endpoint(name, "/sign/batch", headers, (body,), tuple(csrs), certificates, len(csrs))


def cfssl_sign(csrs: Sequence[bytes]) -> Endpoint:
    """cfssl's `sign`, one CSR per request."""
    bodies = tuple(_json({"certificate_request": csr.decode()}) for csr in csrs)
    headers = {"Content-Type": "application/json"}

    def certificate(response: bytes) -> list[str]:
        return [json.loads(response)["result"]["certificate"]]

    return Endpoint("cfssl", "/api/v1/cfssl/sign", headers, bodies, tuple(csrs), certificate)

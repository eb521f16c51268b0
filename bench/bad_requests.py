"""Send both servers requests that should be refused, and compare their responses."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from http import HTTPStatus

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from bench.contenders import Server
from bench.endpoints import Endpoint, cfssl_sign, request, requests, sign


@dataclass(frozen=True)
class Difference:
    """The two servers' responses to a request that should be refused.

    Attributes:
        request: what is wrong with it.
        cfssl, certlet: a summary of the response.
    """

    request: str
    cfssl: str
    certlet: str


def differences(certlet: Server, cfssl: Server) -> list[Difference]:
    """Send both servers bad requests."""
    key = ec.generate_private_key(ec.SECP256R1())
    valid = x509.load_pem_x509_csr(request("a.example.com", key)).public_bytes(Encoding.DER)
    forged = x509.load_der_x509_csr(valid[:-1] + bytes([valid[-1] ^ 1])).public_bytes(Encoding.PEM)
    short = rsa.generate_private_key(65537, 1024)  # noqa: S505 - the servers must refuse it
    cases = {
        "a signature by another key": forged,
        "an RSA key of 1,024 bits": request("a.example.com", short),
        "an RSA key of two close primes (CVE-2022-26320)": request("a.example.com", _close_primes()),
        "the name `not a name`": request("not a name", key),
    }
    responses = [
        Difference(defect, _summary(cfssl, cfssl_sign([csr])), _summary(certlet, sign([csr])))
        for defect, csr in cases.items()
    ]
    without_key = replace(sign(requests()[:1]), headers={"Content-Type": "application/json"})
    cfssl_response = _summary(cfssl, cfssl_sign(requests()[:1]))
    return [*responses, Difference("no API key", cfssl_response, _summary(certlet, without_key))]


def _close_primes() -> rsa.RSAPrivateKey:
    """Create a key that Fermat's factorisation method breaks at once."""
    p = rsa.generate_private_key(65537, 2048).private_numbers().p
    q = p + 2
    while (
        pow(2, q - 1, q) != 1
    ):  # Fermat's primality test; no composite number of this size passes it by chance
        q += 2
    d = pow(65537, -1, (p - 1) * (q - 1))
    public = rsa.RSAPublicNumbers(65537, p * q)
    return rsa.RSAPrivateNumbers(p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), public).private_key()


def _summary(server: Server, endpoint: Endpoint) -> str:
    response = server.post(endpoint, endpoint.bodies[0])
    if response.status == HTTPStatus.OK:
        return "signed"
    document = json.loads(response.body)
    errors = document.get("errors") or [document]
    return (
        f"{response.status} {', '.join(sorted({error.get('message') or error['code'] for error in errors}))}"
    )

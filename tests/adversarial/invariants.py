"""Invariants of every response. They use only the bytes of the CSR and of the certificate."""

from __future__ import annotations

import ipaddress
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from service.web.app import MAX_BODY_BYTES
from tests import servers
from tests.adversarial import der, request_strategies
from tests.adversarial.request_strategies import GeneratedRequest

MAX_CPU_SECONDS: Final = 1.0  # per response
REFUSAL_CODES: Final = {
    "badCSR",
    "badPublicKey",
    "badSignatureAlgorithm",
    "rejectedIdentifier",
    "rejectedValidity",
}
# Permitted GeneralName tags, by profile.
SAN_TAGS: Final = {"server": b"\x82\x87", "client": b"\x82\x87\x81\x86", "peer": b"\x82\x87\x86"}
# The forms that verifiers rely on: DNS name, IP address, email address, URI.
_HOST: Final = rb"(\*\.)?([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]*[a-z0-9])?"
_FORMS: Final = {
    0x82: re.compile(_HOST),
    0x87: re.compile(rb".{4}|.{16}", re.DOTALL),
    0x81: re.compile(rb"[!-?A-~]+@" + _HOST),
    0x86: re.compile(rb"[a-z][a-z0-9+.-]*:[!#-;=?-~]+"),
}
_SAN, _BASIC, _USAGE = "2.5.29.17", "2.5.29.19", "2.5.29.15"
_EXTENSION_REQUESTS: Final = (der.oid("1.2.840.113549.1.9.14"), der.oid("1.3.6.1.4.1.311.2.1.14"))
_COMMON_NAME: Final = der.oid("2.5.4.3")
_ENCODINGS: Final = {b"\x1e": "utf-16-be", b"\x1c": "utf-32-be"} | dict.fromkeys(
    (b"\x12", b"\x13", b"\x14", b"\x16", b"\x1a"), "latin-1"
)
_HASHES: Final = {
    dotted: algorithm()
    for algorithms in request_strategies.SIGNATURES.values()
    for dotted, algorithm in algorithms
}
_NOT_A_CA: Final = b"\x30\x00"
_KEY_USAGES: Final = (
    b"\x03\x02\x07\x80",
    b"\x03\x02\x05\xa0",
)  # digitalSignature; with keyEncipherment for RSA


@dataclass
class Checker:
    """Checks responses, and counts them.

    Attributes:
        issuer: the certificate of the issuing CA.
        counts: the number of responses by status, and of errors by code.
        issued: the certificates, PEM.
    """

    issuer: x509.Certificate
    counts: Counter[str] = field(default_factory=Counter)
    issued: list[str] = field(default_factory=list)

    def check(self, request: GeneratedRequest, status: int, body: bytes, seconds: float) -> None:
        """Check one response."""
        assert seconds <= MAX_CPU_SECONDS, (seconds, request)
        document: dict[str, Any] = json.loads(body) if body.startswith(b"{") else {"crt_pem": body.decode()}
        if status == 200 and "results" in document:
            result = document["results"][0]
            status = 200 if "certificate" in result else result["problem"]["status"]
            document = result.get("certificate") or result["problem"]
        self.counts[str(status)] += 1
        if status == 200:
            self._check_certificate(request, document["crt_pem"])
        elif status == 413:
            assert len(str(request.body)) > MAX_BODY_BYTES, request
            assert document["detail"], document
        else:
            assert status in (400, 422), (status, document, request)
            self._check_problem(status, document)

    def _check_problem(self, status: int, problem: dict[str, Any]) -> None:
        assert problem["errors"], problem
        for reason in problem["errors"]:
            self.counts[reason["code"]] += 1
            assert reason["code"] in (REFUSAL_CODES if status == 422 else {"malformed"}), problem
            assert reason["detail"].isprintable(), problem
            assert reason["detail"].strip(), problem
            assert status == 400 or reason["field"].isprintable(), problem
            assert status == 400 or reason["field"], problem

    def _check_certificate(self, request: GeneratedRequest, pem: str) -> None:
        self.issued.append(pem)
        certificate = x509.load_pem_x509_certificate(pem.encode())
        verify_possession(request.der, certificate.public_key())
        certificate.verify_directly_issued_by(self.issuer)
        assert len(list(certificate.extensions)) >= 6
        octets = certificate.public_bytes(Encoding.DER)
        csr_subject, csr_key, attributes = der.request_parts(request.der)
        subject, key, extensions = der.certificate_parts(octets)
        assert der.key_parts(key) == der.key_parts(csr_key), request
        assert extension_value(extensions, _BASIC) == _NOT_A_CA, request
        assert extension_value(extensions, _USAGE) in _KEY_USAGES, request
        csr_common_names, names = common_names(csr_subject), general_names(extensions)
        assert common_names(subject) in ([], csr_common_names), request
        assert len(subject.children or []) == len(common_names(subject)), request
        assert len(names) == len(set(names)), request
        requested = set(general_names(extension_request(attributes)))
        assert requested <= set(names), (requested, names, request)
        implied = {implied_name(text) for text in csr_common_names}
        assert set(names) - requested <= implied, (requested, names, request)
        assert all(tag in SAN_TAGS[request.profile] for tag, _ in names), (names, request)
        assert all(_FORMS[tag].fullmatch(octets) for tag, octets in names), (names, request)


def verify_possession(request: bytes, key: Any) -> None:
    """Verify that a key signed a CSR's octets as sent."""
    info, algorithm, bit_string = der.split(der.content(request))
    signature = der.content(bit_string)[1:]
    dotted = asn1.decode_der(x509.ObjectIdentifier, der.split(der.content(algorithm))[0]).dotted_string
    hash_algorithm = _HASHES.get(dotted)
    if isinstance(key, rsa.RSAPublicKey):
        assert hash_algorithm
        key.verify(signature, info, padding.PKCS1v15(), hash_algorithm)
    elif isinstance(key, ec.EllipticCurvePublicKey):
        assert hash_algorithm
        key.verify(signature, info, ec.ECDSA(hash_algorithm))
    else:
        key.verify(signature, info)


def extension_value(root: der.Node, dotted: str) -> bytes | None:
    """Return the value of an extension, DER."""
    octet_string = der.extension(root, dotted)
    if octet_string is None:
        return None
    return b"".join(child.encode() for child in octet_string.children or ()) or octet_string.content


def general_names(root: der.Node) -> list[tuple[int, bytes]]:
    """Return the subject alternative names, as tag and octets, in lower case."""
    san = der.extension(root, _SAN)
    if san is None:
        return []
    assert san.children is not None
    assert len(san.children) == 1
    return [
        (name.tag[0], name.content if name.tag == b"\x87" else name.content.lower())
        for name in san.children[0].children or ()
    ]


def extension_request(attributes: der.Node) -> der.Node:
    """Return the extensionRequest attribute; ignore similar values in other attributes."""
    for attribute in attributes.children or ():
        if attribute.children and attribute.children[0].encode() in _EXTENSION_REQUESTS:
            return attribute
    return der.Node(der.SEQUENCE, children=[])


def common_names(subject: der.Node) -> list[str]:
    """Return the common names of a subject."""
    texts = []
    for node in subject.walk():
        parts = node.children or []
        if len(parts) == 2 and parts[0].encode() == _COMMON_NAME:
            texts.append(parts[1].content.decode(_ENCODINGS.get(parts[1].tag, "utf-8")))
    return texts


def implied_name(common_name: str) -> tuple[int, bytes]:
    """Return the DNS name or IP address in a common name."""
    try:
        return 0x87, ipaddress.ip_address(common_name).packed
    except ValueError:
        return 0x82, common_name.lower().encode()


def verify_with_openssl(issued: list[str], chain: str, root: str, folder: Path) -> int:
    """Verify all certificates whose keys OpenSSL supports; return their number."""
    (folder / "chain.pem").write_text(chain)
    (folder / "root.pem").write_text(root)
    files = []
    for number, pem in enumerate(issued):
        key = x509.load_pem_x509_certificate(pem.encode()).public_key_algorithm_oid
        if not key.dotted_string.startswith("2.16.840.1.101.3.4.3."):  # OpenSSL 3.0 does not support ML-DSA
            files.append(str(folder / f"{number}.pem"))
            (folder / files[-1]).write_text(pem)
    command = ["openssl", "verify", "-x509_strict", "-CAfile", "root.pem", "-untrusted", "chain.pem"]
    assert servers.run(*command, *files, cwd=folder).stdout.count(": OK") == len(files)
    return len(files)

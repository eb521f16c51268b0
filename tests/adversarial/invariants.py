"""What holds of every answer, whatever was sent; told by the octets of request and certificate alone."""

from __future__ import annotations

import ipaddress
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from service.web.app import MAX_BODY_BYTES
from tests import servers
from tests.adversarial import der
from tests.adversarial.request_strategies import Sent

SECONDS: Final = 1.0  # of a processor, at most, for one answer
CODES: Final = {"badCSR", "badPublicKey", "badSignatureAlgorithm", "rejectedIdentifier", "rejectedValidity"}
# GeneralName tags.
KINDS: Final = {"server": b"\x82\x87", "client": b"\x82\x87\x81\x86", "peer": b"\x82\x87\x86"}
# Their form, as a verifier relies on it: a host, an address, a mailbox, a URI.
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
_ENCODINGS: Final = {b"\x1e": "utf-16-be", b"\x1c": "utf-32-be", b"\x14": "latin-1"}
_NO_CA: Final = b"\x30\x00"
_KEY_USAGES: Final = (b"\x03\x02\x07\x80", b"\x03\x02\x05\xa0")  # to sign; and to encipher keys, for RSA


@dataclass
class Judge:
    """Holds answers to the laws, and counts them.

    Attributes:
        issuer: the issuing CA.
        seen: how often there was each status, and each code of a reason.
        issued: the certificates, PEM.
    """

    issuer: x509.Certificate
    seen: Counter[str] = field(default_factory=Counter)
    issued: list[str] = field(default_factory=list)

    def hear(self, sent: Sent, status: int, body: bytes, seconds: float) -> None:
        """Hold one answer to the laws."""
        assert seconds <= SECONDS, (seconds, sent)
        found: dict[str, Any] = json.loads(body) if body.startswith(b"{") else {"crt_pem": body.decode()}
        if status == 200 and "results" in found:
            found = found["results"][0]
            status = 200 if "certificate" in found else found["problem"]["status"]
            found = found.get("certificate") or found["problem"]
        self.seen[str(status)] += 1
        if status == 200:
            self._certificate(sent, found["crt_pem"])
        elif status == 413:
            assert len(str(sent.body)) > MAX_BODY_BYTES, sent
            assert found["detail"], found
        else:
            assert status in (400, 422), (status, found, sent)
            self._refusal(status, found)

    def _refusal(self, status: int, problem: dict[str, Any]) -> None:
        assert problem["errors"], problem
        for reason in problem["errors"]:
            self.seen[reason["code"]] += 1
            assert reason["code"] in (CODES if status == 422 else {"malformed"}), problem
            assert reason["detail"].isprintable(), problem
            assert reason["detail"].strip(), problem
            assert status == 400 or reason["field"].isprintable(), problem
            assert status == 400 or reason["field"], problem

    def _certificate(self, sent: Sent, pem: str) -> None:
        self.issued.append(pem)
        assert x509.load_der_x509_csr(sent.der).is_signature_valid, sent
        certificate = x509.load_pem_x509_certificate(pem.encode())
        certificate.verify_directly_issued_by(self.issuer)
        assert len(list(certificate.extensions)) >= 6
        octets = certificate.public_bytes(Encoding.DER)
        asked_subject, asked_key, attributes = der.request_parts(sent.der)
        subject, key, extensions = der.certificate_parts(octets)
        assert key.encode() == asked_key.encode(), sent
        assert value(extensions, _BASIC) == _NO_CA, sent
        assert value(extensions, _USAGE) in _KEY_USAGES, sent
        common_names, given = texts(asked_subject), general_names(extensions)
        assert texts(subject) in ([], common_names), sent
        assert len(subject.children or []) == len(texts(subject)), sent
        assert len(given) == len(set(given)), sent
        asked = set(general_names(requested(attributes)))
        assert asked <= set(given), (asked, given, sent)
        assert set(given) - asked <= {spelt(each) for each in common_names}, (asked, given, sent)
        assert all(tag in KINDS[sent.profile] for tag, _ in given), (given, sent)
        assert all(_FORMS[tag].fullmatch(octets) for tag, octets in given), (given, sent)


def value(within: der.Node, dotted: str) -> bytes | None:
    """What stands in an extension, DER."""
    found = der.extension(within, dotted)
    return None if found is None else b"".join(each.encode() for each in found.children or ()) or found.content  # fmt: skip


def general_names(within: der.Node) -> list[tuple[int, bytes]]:
    """The subject alternative names, as tag and octets, without regard to case."""
    found = der.extension(within, _SAN)
    if found is None:
        return []
    assert found.children is not None
    assert len(found.children) == 1
    return [
        (each.tag[0], each.content if each.tag == b"\x87" else each.content.lower())
        for each in found.children[0].children or ()
    ]


def requested(attributes: der.Node) -> der.Node:
    """What stands in the extensionRequest attribute; nothing counts that merely looks like it elsewhere."""
    for each in attributes.children or ():
        if each.children and each.children[0].encode() in _EXTENSION_REQUESTS:
            return each
    return der.Node(der.SEQUENCE, children=[])


def texts(subject: der.Node) -> list[str]:
    """The common names."""
    found = []
    for each in subject.walk():
        parts = each.children or []
        if len(parts) == 2 and parts[0].encode() == _COMMON_NAME:
            found.append(parts[1].content.decode(_ENCODINGS.get(parts[1].tag, "utf-8")))
    return found


def spelt(common_name: str) -> tuple[int, bytes]:
    """The DNS name or IP address that a common name spells."""
    try:
        return 0x87, ipaddress.ip_address(common_name).packed
    except ValueError:
        return 0x82, common_name.lower().encode()


def verify(issued: list[str], chain: str, root: str, folder: Path) -> int:
    """OpenSSL's verdict on all certificates whose key it knows; how many those were."""
    (folder / "chain.pem").write_text(chain)
    (folder / "root.pem").write_text(root)
    files = []
    for number, pem in enumerate(issued):
        key = x509.load_pem_x509_certificate(pem.encode()).public_key_algorithm_oid
        if not key.dotted_string.startswith("2.16.840.1.101.3.4.3."):  # OpenSSL 3.0 knows no ML-DSA
            files.append(str(folder / f"{number}.pem"))
            (folder / files[-1]).write_text(pem)
    command = ["openssl", "verify", "-x509_strict", "-CAfile", "root.pem", "-untrusted", "chain.pem"]
    assert servers.run(*command, *files, cwd=folder).stdout.count(": OK") == len(files)
    return len(files)

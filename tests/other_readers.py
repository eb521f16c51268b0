"""How OpenSSL reads CSRs, and the corpus of CSRs that it is compared over."""

from __future__ import annotations

import base64
import importlib.resources
import ipaddress
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

from cryptography import x509

from service.pki import csr, pem
from service.pki.csr import CertificateSigningRequest
from service.pki.errors import RequestError
from tests import csrs

CASES: Final = Path(__file__).parent / "csr_cases"
VECTORS: Final = Path(str(importlib.resources.files("cryptography_vectors"))) / "x509/requests"

_TEXT: Final = ("-text", "-reqopt", "no_header,no_version,no_subject,no_pubkey,no_sigdump,no_attributes")
_SUBJECT: Final = ("-subject", "-nameopt", "oid,utf8,esc_ctrl,sep_multiline")
_KINDS: Final = {
    x509.DNSName: "DNS",
    x509.IPAddress: "IP Address",
    x509.RFC822Name: "email",
    x509.UniformResourceIdentifier: "URI",
}
# A refusal of the field `csr` must name what is malformed; words of libraries and Python must not occur.
_NAMED: Final = re.compile(
    r"trailing octets after the CSR|has an indefinite length|has a length of"
    r"|the tags in [Ca]|is truncated|The algorithm of the"
)
_JARGON: Final = re.compile(
    r"[Pp]arse ?[Ee]rror|asn1|netmask|[a-z]+_[a-z]+ must|Only single|does not appear|<|object at|Error|None|DER$"
)


class Reading(NamedTuple):
    """What a program reads in a CSR: the subject and the names as OpenSSL prints them, and the key."""

    subject: str
    names: str
    public_key: bytes


def corpus() -> Iterator[bytes]:
    """Yield the DER of the CSRs in files."""
    for path in sorted([*CASES.iterdir(), *VECTORS.iterdir()]):
        for block in pem.parse(path.read_bytes()):
            if block.der:
                yield block.der


def mutations(count: int, seed: int = 0) -> Iterator[bytes]:
    """Yield CSRs with changed octets, signed again with their key; few of them are DER."""
    rng = Random(seed)  # noqa: S311 - reproducible
    common_names = [csrs.tlv(tag, b"a.example") for tag in (0x0C, 0x13, 0x14, 0x16)]
    others = csrs.attribute("1.2.840.113549.1.9.7", csrs.tlv(12, b"x"))
    extensions = csrs.extension_request(
        csrs.extension("2.5.29.19", b"\x30\0", b"\1\1\0"),
        csrs.extension("2.5.29.17", csrs.tlv(0x30, csrs.tlv(0x82, b"www.example.com"), csrs.tlv(0x87, b"\x0a\0\0\1"))),
    )  # fmt: skip
    for _ in range(count):
        parts: dict[str, Any] = {
            "version": b"\2\1" + bytes([rng.choice([0, 1, 2])]),
            "subject": csrs.subject(*rng.sample(common_names, rng.randint(0, 3))),
            "attributes": rng.choice([extensions, extensions, csrs.tlv(0xA0, extensions[2:], others), b""]),
        }
        for name in rng.sample(sorted(parts), rng.choice([0, 1, 1, 2])):
            octets = bytearray(parts[name])
            if octets:
                octets[rng.randrange(len(octets))] = rng.choice(
                    [0, 1, 5, 0x13, 0x2A, 0x80, 0xFF, rng.randrange(256)]
                )
            parts[name] = bytes(octets)
        yield csrs.sign_parts(
            **parts, algorithm=csrs.tlv(0x30, csrs.oid("1.2.840.10045.4.3.2"), rng.choice([b"", b"\5\0"]))
        )


def read_with_openssl(der: bytes) -> Reading | None:
    """Read a CSR with `openssl req -verify`; None if it refuses it."""
    command = ["openssl", "req", "-inform", "DER", "-noout", "-verify", "-pubkey", *_SUBJECT, *_TEXT]
    process = subprocess.run(command, input=der, capture_output=True, timeout=60, check=False)
    if process.returncode or b"verify OK" not in process.stderr:
        return None
    key, _, text = process.stdout.decode("utf-8", "backslashreplace").partition("-----END PUBLIC KEY-----")
    text, _, subject = text.partition("subject=")
    names = re.search(r"X509v3 Subject Alternative Name: *(?:critical)?\n *(.*)\n", text)
    octets = base64.b64decode(key.removeprefix("-----BEGIN PUBLIC KEY-----"))
    lines = "\n".join(line.removeprefix("    ") for line in subject.strip("\n").split("\n"))
    return Reading(lines.replace(" + ", "\n"), names[1].removeprefix("<EMPTY>") if names else "", octets)


def format_reading(request: CertificateSigningRequest) -> Reading:
    """Format what `csr.read` reads as OpenSSL does."""
    subject = "\n".join(f"{oid.dotted_string}={_escape(text)}" for oid, text in request.subject)
    names = ", ".join(map(_format_name, request.general_names or ()))
    return Reading(subject.replace(" + ", "\n"), names, request.subject_public_key_info)


def is_comparable(request: CertificateSigningRequest) -> bool:
    """Whether OpenSSL prints the names unambiguously: of the supported kinds, in ASCII."""
    return all(
        type(name) in _KINDS and str(name.value).isprintable() and str(name.value).isascii()
        for name in request.general_names or ()
    )


def assert_named(error: RequestError) -> None:
    """Assert that each reason of a refusal names the field that it is about, in the words of the RFCs."""
    for reason in error.subproblems:
        assert reason.field
        assert reason.field != "csr" or _NAMED.search(reason.detail), reason.detail
        assert not _JARGON.search(reason.detail), reason.detail


def compare(der: bytes) -> str:
    """Compare `csr.read` with OpenSSL: the law for each CSR that OpenSSL accepts. Return the outcome."""
    theirs = read_with_openssl(der)
    try:
        ours = csr.parse(der)
    except RequestError as error:
        if theirs:
            assert_named(error)
        return "refused" if theirs else "refused by both"
    if theirs and is_comparable(ours):
        assert format_reading(ours) == theirs
        return "read leniently" if ours.notes else "read"
    return "not compared"


def _escape(text: str) -> str:
    return "".join(
        "\\\\" if character == "\\" else f"\\{ord(character):02X}" if ord(character) < 32 or character == "\x7f" else character
        for character in text
    )  # fmt: skip


def _format_name(name: x509.GeneralName) -> str:
    value = name.value
    if isinstance(value, ipaddress.IPv6Address):
        value = ":".join(f"{int(group, 16):X}" for group in value.exploded.split(":"))
    return f"{_KINDS[type(name)]}:{value}"

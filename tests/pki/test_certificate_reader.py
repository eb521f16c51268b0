from __future__ import annotations

import re
import ssl
import warnings
from pathlib import Path
from random import Random
from typing import Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from service.keystore import ca_directory
from service.pki import certificate_reader, encoding, keys, names
from service.pki.errors import CAError
from tests import csrs, factories
from tests.adversarial import request_strategies
from tests.cli import certlet
from tests.cli.test_show import NAMES, leaf
from tests.factories import ca, root

VALID: Final = leaf().public_bytes(Encoding.DER)


def replace_octets(old: bytes, new: bytes) -> bytes:
    """The valid certificate with the first occurrence of these octets replaced."""
    assert len(old) == len(new)
    assert old in VALID
    return VALID.replace(old, new, 1)


POINT: Final = keys.encode_public_key(csrs.private_key().public_key())[-64:]
MALFORMED: Final[dict[str, tuple[bytes, str]]] = {
    "version": (
        replace_octets(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07"),
        "the certificate cannot be parsed",
    ),
    "subject": (
        replace_octets(b"\x0c\x0da.example.com", b"\x0c\x0d\xff.example.com"),
        "the subject cannot be parsed",
    ),
    "issuer": (replace_octets(b"\x0c\x07Signing", b"\x0c\x07\xffigning"), "the issuer cannot be parsed"),
    "validity": (replace_octets(b"\x17\x0d26", b"\x17\x0dx6"), "the certificate cannot be parsed"),
    "names": (replace_octets(NAMES.public_bytes(), b"\xff" * 17), "the extensions cannot be parsed"),
    "duplicate extension": (
        replace_octets(b"\x06\x03\x55\x1d\x0e", b"\x06\x03\x55\x1d\x13"),
        "the extensions cannot be parsed: Duplicate",
    ),
    "key": (replace_octets(POINT, b"\x01" * 64), "the public key cannot be parsed"),
    "curve": (
        replace_octets(bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce3d030177")),
        "the public key cannot be parsed",
    ),
    "signature algorithm": (
        VALID.replace(bytes.fromhex("2a8648ce3d040302"), bytes.fromhex("2a8648ce3d040377")),
        "the signature algorithm cannot be parsed",
    ),
}


PARTIAL: Final = ("names", "duplicate extension", "key", "curve", "signature algorithm")


def pem(*ders: bytes) -> bytes:
    return b"".join(ssl.DER_cert_to_PEM_cert(der).encode() for der in ders)


@pytest.mark.parametrize("field", MALFORMED)
def test_malformed_field_raises_value_error(field: str) -> None:
    """The parser raises a ValueError that names the field, whichever error the library raises and when."""
    der, problem = MALFORMED[field]
    with pytest.raises(ValueError, match=f"^{problem}"):
        certificate_reader.parse_der(der)
    with pytest.raises(ValueError, match=f"^{problem}"):
        certificate_reader.parse_pem(pem(der, VALID))
    with pytest.raises(ValueError, match=problem.replace(" cannot", "( of certificate 2)? cannot")):
        certificate_reader.parse_pem_chain(pem(VALID, der))
    if field in PARTIAL:
        assert certificate_reader.parse_der(der, whole=False).subject == leaf().subject
    else:
        with pytest.raises(ValueError, match=problem):
            certificate_reader.parse_der(der, whole=False)


def test_valid_certificate_is_parsed() -> None:
    """A valid certificate is parsed from DER, PEM and a PEM chain."""
    certificate = x509.load_der_x509_certificate(VALID)
    assert [certificate_reader.parse_der(VALID, whole=whole) for whole in (True, False)] == [certificate] * 2
    assert certificate_reader.parse_pem(pem(VALID, b"0")) == certificate
    assert certificate_reader.parse_pem_chain(pem(VALID, VALID)) == [certificate] * 2
    for junk in (b"", b"junk", pem(b"0")):
        with pytest.raises(ValueError, match=r"^the certificate cannot be parsed: "):
            certificate_reader.parse_pem_chain(junk)


def test_mutated_certificate_is_refused_or_usable() -> None:
    """The parser refuses each mutated certificate with a ValueError, or every use of it succeeds."""
    originals = [
        VALID,
        *(
            certificate.public_bytes(Encoding.DER)
            for certificate in (ca(), root(), factories.create_issuer("rsa-2048").root)
        ),
    ]
    random, counts = Random(22), [0, 0]  # noqa: S311 - reproducible from the seed
    warnings.simplefilter("ignore")  # the library warns of negative serial numbers
    for _ in range(4000):
        der = random.choice((request_strategies.mutate, request_strategies.mutate_bytes))(
            random, random.choice(originals)
        )
        try:
            certificate = certificate_reader.parse_der(der)
        except ValueError as error:
            assert re.fullmatch(r"the [a-z ]+ cannot be parsed: [ -~]+", str(error)), str(error)
            counts[0] += 1
            continue
        certificate.subject.rfc4514_string()
        for name in certificate_reader.extension_value(certificate, x509.SubjectAlternativeName) or ():
            names.describe(name)
        certificate_reader.is_issued_by(certificate, certificate)
        assert encoding.format_timestamp(certificate.not_valid_after_utc)
        assert encoding.format_serial(certificate.serial_number)
        counts[1] += 1
    assert min(counts) > 500, counts


@pytest.mark.parametrize("field", MALFORMED)
def test_commands_name_the_malformed_field(
    field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`show`, `renew`, `revoke` and the start of the server report the malformed field in one line."""
    monkeypatch.chdir(tmp_path)
    der, problem = MALFORMED[field]
    Path("bad.crt").write_bytes(pem(der))
    assert not certlet("init", "ca").returncode
    for command in ("renew bad.crt --api-key x", "revoke bad.crt --ca ca", "show bad.crt"):
        run = certlet(*command.split())
        message = (run.stdout if command.startswith("show") and field in PARTIAL else run.stderr).decode()
        if command.startswith("show") and field in ("curve", "signature algorithm"):  # unknown, not malformed
            assert message.startswith("Certificate\n  Subject   CN=a.example.com\n")
        else:
            assert (run.returncode, problem in message) == (1, True), message
    Path("ca/signing-ca.crt").write_bytes(pem(der))
    with pytest.raises(CAError, match=f"signing-ca.crt: {problem}"):
        ca_directory.load_chain(Path("ca"))

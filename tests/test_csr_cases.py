"""CSRs with the structure of real ones that strict readers refuse, with example names, in csr_cases/."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from service.pki import names, pem
from tests.assertions import assert_documented, assert_problem
from tests.servers import Server

_SAN: Final = ExtensionOID.SUBJECT_ALTERNATIVE_NAME
CASES: Final = Path(__file__).parent / "csr_cases"


class Signed(NamedTuple):
    """The certificate's names and common name, and fragments of the notes."""

    names: tuple[str, ...]
    notes: tuple[str, ...]
    common_name: str = ""
    profile: str = "server"


class Refused(NamedTuple):
    """The code and field of each reason, and fragments of the details."""

    reasons: tuple[tuple[str, str], ...]
    fragments: tuple[str, ...]


WWW: Final = ("dns:www.example.com",)
RIGHT_ANSWERS: Final[dict[str, Signed | Refused]] = {
    "A01.csr": Signed(("dns:charger.example.com",), ("there is no attributes field",), "charger.example.com"),
    "A18.csr": Signed((), ("CN is a PrintableString",), "8F5E0F2B-1C2D!AAD.Device", "client"),
    "A24.der": Refused((("badCSR", "csr"),), ("trailing octet",)),
    "A32.csr": Refused((("badCSR", "signature"),), ("signature is not DER-encoded (r, s)",)),
    "A66.csr": Refused(
        (("rejectedIdentifier", "subject_alt_name[0]"),),
        ("profile 'server' permits only names of kind dns, ip; use profile 'client' or 'peer'",),
    ),
    "C04.csr": Refused(
        (("rejectedIdentifier", "subject.common_name"),),
        ("'printer'", "-addext subjectAltName=DNS:printer, or use profile 'client'"),
    ),
    "C26.csr": Refused(
        (("rejectedIdentifier", "subject_alt_name[0]"),), ("iPAddress has 8 octets; 4 or 16",)
    ),
    "C46.csr": Signed(WWW, ("O is a TeletexString", "O='M\\xfcller' left out"), "www.example.com"),
    "D13.csr": Refused(
        (("badPublicKey", "public_key"),), ("explicit parameters", "-pkeyopt ec_param_enc:named_curve")
    ),
    "E18.csr": Signed(WWW, ("subjectAltName has critical FALSE",), "www.example.com"),
    "P02.csr": Signed(
        ("dns:test.domain.com", "dns:other.domain.com", "dns:example.org"),
        ("the attributes are not in the order of DER", "challengePassword ignored", "O='Test' left out"),
        "example.org",
    ),
    "P03.csr": Signed(("dns:*.example.com",), ("CN is a PrintableString",), "*.example.com"),
    "Q03.csr": Signed(
        ("dns:dev1.example.com",),
        ("signature algorithm ecdsa-with-SHA256 has NULL parameters (RFC 5758 3.2)",),
        "dev1.example.com",
    ),
    "Q08.csr": Signed(WWW, ("not in the order of DER", "O='Z' left out"), "www.example.com"),
    "Q11.csr": Refused(
        (("badPublicKey", "public_key"), ("badSignatureAlgorithm", "signature_algorithm")),
        ("Curve secp256k1 is not accepted", "ecdsa-with-SHA1 is not accepted"),
    ),
    "Q12.csr": Signed(WWW, ("basicConstraints has pathLen without CA:TRUE",), "www.example.com"),
}


def test_every_case_has_a_right_answer() -> None:
    """The table has a row for each file."""
    assert sorted(path.name for path in CASES.iterdir()) == sorted(RIGHT_ANSWERS)


@pytest.mark.parametrize(("file", "answer"), RIGHT_ANSWERS.items(), ids=RIGHT_ANSWERS)
def test_case_gets_the_right_answer(server: Server, file: str, answer: Signed | Refused) -> None:
    """A request that others accept is signed with its names and notes, or refused with every reason."""
    der = pem.parse((CASES / file).read_bytes())[0].der
    assert der
    profile = answer.profile if isinstance(answer, Signed) else "server"
    response = server.sign({"csr": base64.b64encode(der).decode(), "profile": profile})
    if isinstance(answer, Refused):
        codes = [code for code, _ in answer.reasons]
        problem = assert_problem(response, 422, codes[0] if len(codes) == 1 else "compound")
        assert tuple((error["code"], error["field"]) for error in problem["errors"]) == answer.reasons
        texts, fragments = " ".join(error["detail"] for error in problem["errors"]), answer.fragments
    else:
        assert response.status == 200, response.body
        signed = assert_documented("/sign", "post", response)
        certificate = x509.load_pem_x509_certificate(signed["crt_pem"].encode())
        sans = [extension.value for extension in certificate.extensions if extension.oid == _SAN]
        assert tuple(names.describe(name) for san in sans for name in san) == answer.names
        assert [attribute.value for attribute in certificate.subject] == (
            [answer.common_name] if answer.common_name else []
        )
        texts, fragments = " ".join(signed["notes"]), answer.notes
    for fragment in fragments:
        assert fragment in texts

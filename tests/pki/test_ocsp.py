from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp as library
from cryptography.x509.ocsp import OCSPCertStatus, OCSPResponseStatus
from hypothesis import example, given
from hypothesis import strategies as st

from service.authority import Authority
from service.keystore import kms
from service.pki import encoding, keys, ocsp, revocation
from service.pki.errors import CAError, CAUnavailable
from service.pki.issuer import Issuer
from service.pki.revocation import RevokedCertificate
from service.pki.serial import SerialKeys
from service.status import StatusResponse
from tests import csrs, factories, servers
from tests.factories import NOW, SERIAL_KEYS, issuance_request

WINDOW_START = NOW.replace(second=0, microsecond=0)
SECOND, DAY = timedelta(seconds=1), timedelta(days=1)
NONCE = bytes(range(32))
SHA1, SHA256 = hashes.SHA1(), hashes.SHA256()  # noqa: S303 - only names a certificate
MARKED = SERIAL_KEYS.with_tagged_issuer(factories.create_issuer().certificate)
CSR = csrs.encode_pem(csrs.build("a.example.com"))
NEVER_ISSUED = 2**158 + 1
EXTENDED_REVOKE = "1.3.6.1.5.5.7.48.1.9"


def build_request(
    serial_number: int,
    issuer: x509.Certificate | None = None,
    algorithm: hashes.HashAlgorithm = SHA1,
    nonce: bytes | None = None,
    **extensions: tuple[x509.ExtensionType, bool],
) -> bytes:
    """Encode a request about a certificate of an issuer."""
    issuer = issuer or factories.create_issuer().certificate
    name_hash = hashlib.new(algorithm.name, issuer.subject.public_bytes()).digest()
    key_hash = library.OCSPRequestBuilder().add_certificate(issuer, issuer, algorithm).build().issuer_key_hash
    builder = library.OCSPRequestBuilder().add_certificate_by_hash(
        name_hash, key_hash, serial_number, algorithm
    )
    if nonce is not None:
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    for extension, critical in extensions.values():
        builder = builder.add_extension(extension, critical)
    return builder.build().public_bytes(Encoding.DER)


def create_authority(*revoked: RevokedCertificate, **change: Any) -> Authority:
    """Create an authority whose serial numbers all have a tag, with a revocation list."""
    by_serial_number = {entry.serial_number: entry for entry in revoked}
    return factories.authority(**{"serial_keys": MARKED, "load_revoked": lambda: by_serial_number, **change})


def answer(authority: Authority, request: bytes) -> library.OCSPResponse:
    """Return the response to a request."""
    return library.load_der_ocsp_response(authority.status.certificate_status(request).der)


def issue(authority: Authority | None = None) -> x509.Certificate:
    """Return a new certificate."""
    return (authority or create_authority()).issue(issuance_request(CSR)).certificate


@pytest.mark.parametrize("algorithm", [SHA1, SHA256], ids=["SHA-1", "SHA-256"])
@pytest.mark.parametrize("key_type", ["p-256", "p-384", "p-521", "rsa-2048", "ed25519", "ml-dsa-44"])
def test_issued_certificate_is_good(key_type: str, algorithm: hashes.HashAlgorithm) -> None:
    """The response is signed by the issuer, names it by its key, and repeats the question."""
    issuer = factories.create_issuer(key_type)
    authority = create_authority(issuer=issuer)
    certificate = issue(authority)
    response = answer(authority, build_request(certificate.serial_number, issuer.certificate, algorithm))
    assert response.response_status is OCSPResponseStatus.SUCCESSFUL
    assert response.certificate_status is OCSPCertStatus.GOOD
    assert response.serial_number == certificate.serial_number
    assert response.hash_algorithm.name == algorithm.name
    key_id = issuer.authority_key_identifier.key_identifier
    assert (response.responder_key_hash, response.certificates) == (key_id, [])
    issuer._verify(response.signature, response.tbs_response_bytes)
    assert (response.this_update_utc, response.next_update_utc) == (WINDOW_START, WINDOW_START + DAY)
    assert not list(response.extensions)


def test_revoked_certificate_is_revoked_with_time_and_reason() -> None:
    """The list is decisive, before the tag and after the end; an entry of the future is not in force."""
    number, at = issue().serial_number, WINDOW_START - DAY
    reason = x509.ReasonFlags.key_compromise
    for serial_number in (number, NEVER_ISSUED):
        entry = RevokedCertificate(serial_number, at, reason)
        response = answer(create_authority(entry), build_request(serial_number))
        assert response.certificate_status is OCSPCertStatus.REVOKED
        assert (response.revocation_time_utc, response.revocation_reason) == (at, reason)
        assert not list(response.extensions)
    response = answer(create_authority(RevokedCertificate(number, at)), build_request(number))
    assert response.revocation_reason is None
    late = create_authority(RevokedCertificate(number, at), now=NOW + timedelta(days=100))
    assert answer(late, build_request(number)).certificate_status is OCSPCertStatus.REVOKED
    future = create_authority(RevokedCertificate(number, NOW + DAY))
    assert answer(future, build_request(number, nonce=NONCE)).certificate_status is OCSPCertStatus.GOOD


def test_serial_number_that_was_never_issued_is_revoked() -> None:
    """RFC 6960 2.2: certificateHold since 1970, and the extension extended-revoke (4.4.8)."""
    number = issue().serial_number
    for serial_number in (number ^ 1, number ^ 2**158, NEVER_ISSUED, 1, 0, 2**159, 2**400):
        response = answer(create_authority(), build_request(serial_number))
        assert response.certificate_status is OCSPCertStatus.REVOKED
        assert response.revocation_time_utc == datetime(1970, 1, 1, tzinfo=UTC)
        assert response.revocation_reason is x509.ReasonFlags.certificate_hold
        (extension,) = response.extensions
        assert (extension.oid.dotted_string, extension.critical) == (EXTENDED_REVOKE, False)
        assert extension.value.public_bytes() == b"\5\0"


def test_unrecognised_serial_number_of_a_ca_from_before_is_unknown() -> None:
    """Such a CA may have issued it; a serial number with a tag is good."""
    authority = create_authority(serial_keys=SERIAL_KEYS)
    assert answer(authority, build_request(NEVER_ISSUED)).certificate_status is OCSPCertStatus.UNKNOWN
    number = issue(authority).serial_number
    assert answer(authority, build_request(number)).certificate_status is OCSPCertStatus.GOOD


@pytest.mark.parametrize(("minutes", "status"), [(-1, OCSPCertStatus.GOOD), (1, OCSPCertStatus.UNKNOWN)])
def test_certificate_is_unknown_after_its_end(minutes: int, status: OCSPCertStatus) -> None:
    """The serial number contains the end."""
    certificate = issue()
    now = certificate.not_valid_after_utc + timedelta(minutes=minutes)
    request = build_request(certificate.serial_number, nonce=NONCE)
    assert answer(create_authority(now=now), request).certificate_status is status


def test_answer_without_nonce_is_that_of_the_window() -> None:
    """It can be cached until the window of the CRL ends; with a nonce, the status is that of now."""
    number = issue().serial_number
    authority = create_authority(RevokedCertificate(number, WINDOW_START + SECOND))
    cached, current = (
        authority.status.certificate_status(build_request(number, nonce=nonce)) for nonce in (None, NONCE)
    )
    assert (cached.max_age, current.max_age) == (timedelta(minutes=4, seconds=15), timedelta())
    cached_response, response = (library.load_der_ocsp_response(item.der) for item in (cached, current))
    assert cached_response.certificate_status is OCSPCertStatus.GOOD
    assert response.certificate_status is OCSPCertStatus.REVOKED
    assert response.this_update_utc == NOW.replace(microsecond=0)


def test_version_identifies_the_status_and_its_time() -> None:
    """It is that of the window and not of the signature. An answer that no cache may return has none."""
    number = issue().serial_number
    versions = [
        authority.status.certificate_status(build_request(number)).version
        for authority in (
            create_authority(),
            create_authority(now=NOW + SECOND),
            create_authority(now=NOW + revocation.WINDOW),
            create_authority(RevokedCertificate(number, NOW - DAY)),
            create_authority(RevokedCertificate(number, NOW - DAY, x509.ReasonFlags.superseded)),
        )
    ]
    assert versions[0] == versions[1]
    assert len(set(versions)) == 4
    assert all(versions)
    for request in (
        build_request(number, nonce=NONCE),
        b"",
        build_request(1, factories.create_issuer().root),
    ):
        assert create_authority().status.certificate_status(request).version == ""


@pytest.mark.parametrize("length", [1, 16, 32, 127, 128])
def test_nonce_is_repeated(length: int) -> None:
    """RFC 9654 2.1: 1 to 128 octets."""
    response = answer(create_authority(), build_request(issue().serial_number, nonce=b"\xff" * length))
    assert [extension.value for extension in response.extensions] == [x509.OCSPNonce(b"\xff" * length)]


def test_answer_does_not_outlive_the_issuer() -> None:
    """nextUpdate is not after the chain's end, and no answer is signed outside the chain's validity."""
    issuer = factories.create_issuer()
    response = answer(create_authority(now=issuer.not_after - timedelta(hours=1)), build_request(1))
    assert response.next_update_utc == issuer.not_after
    for moment in (issuer.not_after + SECOND, issuer.not_before - SECOND):
        response = answer(create_authority(now=moment), build_request(1))
        assert response.response_status is OCSPResponseStatus.UNAUTHORIZED
    early = answer(create_authority(now=issuer.not_before), build_request(1))
    assert early.this_update_utc >= issuer.not_before


OID = x509.ObjectIdentifier
NONCE_OID = OID("1.3.6.1.5.5.7.48.1.2")
UNKNOWN_EXTENSION = x509.UnrecognizedExtension(OID("1.2.3"), b"\5\0")
GOOD_REQUEST = build_request(1)


def double_question() -> bytes:
    """Return a request with the same question twice, of short form lengths."""
    question = GOOD_REQUEST[6:]
    body = question + question
    lengths = [len(body), len(body) + 3, len(body) + 6]
    return b"".join(bytes([0x30, 0x81, length]) for length in reversed(lengths)) + body


@pytest.mark.parametrize(
    "request_der",
    [
        b"",
        b"GET / HTTP/1.1",
        GOOD_REQUEST[:-1],
        GOOD_REQUEST + b"\0",
        b"0\x040\x020\x00",
        double_question(),
        build_request(1).replace(b"\x02\x01\x01", b"\x02\x01\xff"),
        build_request(1, nonce=b""),
        build_request(1, nonce=b"\1" * 129),
        build_request(1, raw=(x509.UnrecognizedExtension(NONCE_OID, b"no OCTET STRING"), False)),
        build_request(
            1, first=(UNKNOWN_EXTENSION, False), second=(x509.UnrecognizedExtension(OID("1.2.4"), b"\5\0"), False)
        ).replace(b"\x06\x02\x2a\x04", b"\x06\x02\x2a\x03"),
        build_request(1, critical=(UNKNOWN_EXTENSION, True)),
    ],
    ids=["empty", "text", "truncated", "longer", "no question", "two questions", "negative serial number", "empty nonce", "long nonce", "raw nonce", "duplicate extension", "critical"],
)  # fmt: skip
def test_malformed_request_is_refused(request_der: bytes) -> None:
    """Garbage, a bad nonce, another number of questions than one, and unsupported critical extensions."""
    response = create_authority().status.certificate_status(request_der)
    assert response == StatusResponse(b"\x30\x03\x0a\x01\x01")  # malformedRequest (1)


def test_other_extensions_of_a_request_are_ignored() -> None:
    """A critical nonce is supported, and an unknown extension that is not critical is allowed (RFC 6960 4.4)."""
    number = issue().serial_number
    request = build_request(
        number, nonce=None, nonce_=(x509.OCSPNonce(NONCE), True), unknown=(UNKNOWN_EXTENSION, False)
    )
    response = answer(create_authority(), request)
    assert response.certificate_status is OCSPCertStatus.GOOD
    assert [extension.value for extension in response.extensions] == [x509.OCSPNonce(NONCE)]


@pytest.mark.parametrize(
    ("create", "request_der"),
    [
        (create_authority, build_request(1, factories.create_issuer("p-384").certificate)),
        (create_authority, build_request(1, factories.create_issuer().root)),
        (create_authority, build_request(1, algorithm=hashes.SHA512())),
        (lambda: create_authority(serial_keys=None), build_request(1)),
    ],
    ids=["issuer", "root", "SHA-512", "no serial.key"],
)
def test_question_that_the_ca_cannot_answer_is_unauthorized(
    create: Callable[[], Authority], request_der: bytes
) -> None:
    """Another issuer or hash, and a CA without serial.key."""
    response = create().status.certificate_status(request_der)
    assert response == StatusResponse(b"\x30\x03\x0a\x01\x06")  # unauthorized (6)


def test_status_is_unavailable_while_the_revocation_list_is() -> None:
    """Without the list, or the CA, no certificate is good."""
    request = build_request(issue().serial_number)
    with pytest.raises(CAUnavailable):
        create_authority(load_revoked=Mock(side_effect=CAError("gone"))).status.certificate_status(request)
    with pytest.raises(CAUnavailable):
        create_authority(load_ca=Mock(side_effect=CAError("gone"))).status.certificate_status(request)


class FakeKMS:
    """A client of KMS that signs with a key of this process, or with another one."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, public_key: ec.EllipticCurvePublicKey) -> None:
        self._key, self._public_key = key, public_key

    def get_public_key(self, **_: str) -> dict[str, object]:
        return {"PublicKey": keys.encode_public_key(self._public_key), "KeyUsage": "SIGN_VERIFY"}

    def sign(self, Message: bytes, **_: str) -> dict[str, bytes]:  # noqa: N803 - boto3's name
        return {"Signature": self._key.sign(Message, ec.ECDSA(utils.Prehashed(hashes.SHA256())))}


@pytest.mark.parametrize("is_faulty", [False, True])
def test_signature_of_an_answer_is_verified(*, is_faulty: bool) -> None:
    """A wrong signature, which could reveal the key, is not returned."""
    ca = factories.create_issuer()
    signing_key = factories.signing_key(factories.hierarchy("p-256", ()))
    assert isinstance(signing_key, ec.EllipticCurvePrivateKey)
    client = FakeKMS(factories.ROOT if is_faulty else signing_key, signing_key.public_key())
    issuer = Issuer(ca.certificate, ca.chain, kms.load_private_key("id", client), is_deterministic=False)
    authority, request = create_authority(issuer=issuer), build_request(issue().serial_number)
    if is_faulty:
        with pytest.raises(CAUnavailable):
            authority.status.certificate_status(request)
    else:
        assert answer(authority, request).certificate_status is OCSPCertStatus.GOOD


@given(st.binary(max_size=300) | st.tuples(st.integers(0, len(GOOD_REQUEST) * 8 - 1)))
@example(GOOD_REQUEST)
def test_request_parser_never_crashes(octets: bytes | tuple[int]) -> None:
    """Any octets, and any changed bit of a good request, are parsed or refused, and answered."""
    if isinstance(octets, tuple):
        number = int.from_bytes(GOOD_REQUEST, "big") ^ 1 << octets[0]
        octets = number.to_bytes(len(GOOD_REQUEST), "big")
    status = answer(create_authority(), octets).response_status
    malformed = False
    try:
        ocsp.parse_request(octets)
    except ocsp.MalformedRequest:
        malformed = True
    assert (status is OCSPResponseStatus.MALFORMED_REQUEST) is malformed


OPENSSL = [
    ("good", [], "leaf.pem: good"),
    ("good", ["-no_nonce"], "leaf.pem: good"),
    ("good", ["-sha256"], "leaf.pem: good"),
    ("revoked", [], "leaf.pem: revoked"),
    ("never issued", [], "leaf.pem: revoked"),
    ("from before", [], "leaf.pem: unknown"),
    ("another issuer", [], "unauthorized (6)"),
    ("a wrong signature", [], "Response Verify Failure"),
]


@pytest.mark.parametrize(("case", "options", "expected"), OPENSSL)
def test_openssl_verifies_the_answer(tmp_path: Path, case: str, options: list[str], expected: str) -> None:
    """`openssl ocsp` asks over HTTP, verifies the nonce and the signature up to the root, and prints the status."""
    now = datetime.now(UTC)
    issuer = factories.create_issuer()
    is_stolen = case in {"never issued", "from before"}  # as if someone else had signed with the CA's key
    leaf = issue(create_authority(now=now, serial_keys=None if is_stolen else MARKED))
    revoked = [RevokedCertificate(leaf.serial_number, now - DAY, x509.ReasonFlags.superseded)]
    authority = create_authority(
        *(revoked if case == "revoked" else []),
        now=now,
        serial_keys=SERIAL_KEYS if case == "from before" else MARKED,
        issuer=factories.create_issuer("p-384") if case == "another issuer" else issuer,
    )

    class Responder(servers.QuietHandler):
        def respond(self) -> None:
            der = bytearray(authority.status.certificate_status(self.body()).der)
            der[-1] ^= case == "a wrong signature"
            self.reply(200, bytes(der), Content_Type="application/ocsp-response")

    for name, certificate in (("leaf", leaf), ("issuer", issuer.certificate), ("root", issuer.root)):
        (tmp_path / f"{name}.pem").write_text(encoding.encode_pem([certificate]))
    command = [
        "openssl",
        "ocsp",
        *options,
        "-issuer",
        "issuer.pem",
        "-cert",
        "leaf.pem",
        "-CAfile",
        "root.pem",
    ]
    with servers.http_server(Responder) as url:
        result = servers.run(*command, "-url", url, cwd=tmp_path, check=False)
    output = result.stdout + result.stderr
    assert expected in output
    assert ("Response verify OK" in output) is expected.startswith("leaf.pem")
    assert "WARNING: no nonce" not in output
    reasons = {"revoked": "superseded", "never issued": "certificateHold"}
    assert (f"Reason: {reasons.get(case)}" in output) is (case in reasons)


def test_keys_of_another_ca_are_not_accepted() -> None:
    """A serial number by another key was never issued."""
    number = issue(create_authority(serial_keys=SerialKeys((bytes(32),)))).serial_number
    response = answer(create_authority(), build_request(number))
    assert [extension.oid.dotted_string for extension in response.extensions] == [EXTENDED_REVOKE]

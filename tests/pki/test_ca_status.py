from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp as library
from cryptography.x509.ocsp import OCSPCertStatus, OCSPRequestBuilder

from service.loaded_ca import LoadedCA
from service.pki import ca_status, ocsp
from service.pki.ca_status import CAStatus, find_gaps, parse_statuses, sign_statuses
from service.pki.hierarchy import Hierarchy, Predecessor, create_hierarchy, create_successor
from tests import factories
from tests.factories import NOW

DAY, SECOND = timedelta(days=1), timedelta(seconds=1)
START = NOW.replace(microsecond=0)
COMPROMISED = x509.ReasonFlags.ca_compromise


def root_key(hierarchy: Hierarchy) -> CertificateIssuerPrivateKeyTypes:
    """The root's private key."""
    assert hierarchy.root_key is not None
    return hierarchy.root_key


def sign(hierarchy: Hierarchy | None = None) -> list[CAStatus]:
    """Sign the responses about the signing CA at `NOW`."""
    hierarchy = hierarchy or factories.hierarchy()
    return sign_statuses((hierarchy.signing, hierarchy.root), root_key(hierarchy), NOW)


def certificates(hierarchy: Hierarchy) -> tuple[x509.Certificate, ...]:
    """The CA certificates of a hierarchy."""
    return hierarchy.signing, hierarchy.root, *hierarchy.predecessors


@pytest.mark.parametrize("key_type", ["p-256", "p-384", "p-521", "rsa-2048", "ed25519", "ml-dsa-44"])
def test_root_says_that_the_signing_ca_is_good(key_type: str) -> None:
    """One response by SHA-1 and one by SHA-256, for a year, which the service parses again."""
    hierarchy = factories.hierarchy(key_type)
    statuses = sign(hierarchy)
    names = [library.load_der_ocsp_response(entry.der).hash_algorithm.name for entry in statuses]
    assert names == ["sha1", "sha256"]
    key_id = hierarchy.root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    for entry in statuses:
        response = library.load_der_ocsp_response(entry.der)
        assert response.certificate_status is OCSPCertStatus.GOOD
        assert response.serial_number == hierarchy.signing.serial_number
        assert response.responder_key_hash == key_id
        assert (response.this_update_utc, response.next_update_utc) == (START, START + timedelta(days=365))
        assert not list(response.extensions)
        asked = OCSPRequestBuilder().add_certificate(
            hierarchy.signing, hierarchy.root, response.hash_algorithm
        )
        assert ocsp.parse_request(ocsp_der(asked)) == entry.request
    assert parse_statuses(ca_status.encode_statuses(statuses), certificates(hierarchy)) == (
        tuple(statuses),
        [],
    )


def ocsp_der(builder: OCSPRequestBuilder) -> bytes:
    return builder.build().public_bytes(Encoding.DER)


def test_init_and_rollover_sign_when_the_root_is_at_hand() -> None:
    """A successor under the same root has new responses about both CAs; under a new root, the old ones, too."""
    old = create_hierarchy("Test", "0a", "p-256", NOW)
    assert [entry.certificate for entry in old.statuses] == [old.signing] * 2
    predecessor = Predecessor(old.signing, [old.root], (), old.statuses)
    later = NOW + 30 * DAY
    same = create_successor(predecessor, root_key(old), "0b", "p-256", later)
    about = [old.signing, old.signing, same.signing, same.signing]
    assert sorted((entry.certificate for entry in same.statuses), key=about.index) == about
    assert {entry.this_update for entry in same.statuses} == {later.replace(microsecond=0)}
    new = create_successor(predecessor, None, "0c", "p-256", later)
    assert [entry.certificate for entry in new.statuses] == [new.signing] * 2 + [old.signing] * 2
    assert list(new.statuses[2:]) == list(old.statuses)
    for hierarchy in (old, same, new):
        assert not list(find_gaps(hierarchy.statuses, certificates(hierarchy), later))


@pytest.mark.parametrize("short", ["root", "signing"])
def test_response_does_not_outlive_certificate_or_root(short: str) -> None:
    end = START + 100 * DAY
    chain = (
        factories.ca(**({"end": end} if short == "signing" else {"end": NOW + 900 * DAY})),
        factories.root(**({"end": end} if short == "root" else {"end": NOW + 900 * DAY})),
    )
    statuses = sign_statuses(chain, factories.ROOT, NOW)
    assert {entry.next_update for entry in statuses} == {end}
    assert not list(find_gaps(statuses, chain, end - SECOND))
    assert sign_statuses(chain, factories.ROOT, end) == []


def test_intermediate_certificates_have_responses() -> None:
    """Each key signs about the certificates right below it only."""
    middle = factories.ca(basic=x509.BasicConstraints(ca=True, path_length=1), subject="Middle")
    middle_key = factories.SIGNING
    low_key = ec.generate_private_key(ec.SECP256R1())
    low = factories.ca(
        issuer="Middle",
        signing_key=middle_key,
        public_key=low_key.public_key(),
        ski=x509.SubjectKeyIdentifier.from_public_key(low_key.public_key()),
        aki=x509.AuthorityKeyIdentifier.from_issuer_public_key(middle_key.public_key()),
    )
    chain = (low, middle, factories.root())
    by_middle = sign_statuses(chain, middle_key, NOW)
    assert {entry.certificate for entry in by_middle} == {low}
    both = sign_statuses(chain, factories.ROOT, NOW, by_middle)
    assert {entry.certificate for entry in both} == {low, middle}
    assert sign_statuses(chain, low_key, NOW) == []
    assert [gap.count("Middle") for gap in find_gaps(by_middle, chain, NOW)] == [1, 1]


def test_revoked_ca_remains_revoked() -> None:
    """Until the file is deleted: neither later signatures nor a rollover say good, nor change the time."""
    hierarchy = factories.hierarchy()
    revoked = hierarchy.signing, COMPROMISED
    chain, key = certificates(hierarchy), root_key(hierarchy)
    statuses = sign_statuses(chain, key, NOW, sign(), revoked)
    again = sign_statuses(chain, key, NOW + 500 * DAY, statuses, (hierarchy.signing, None))
    for entry in (*statuses, *again):
        response = library.load_der_ocsp_response(entry.der)
        assert response.certificate_status is OCSPCertStatus.REVOKED
        assert (response.revocation_time_utc, response.revocation_reason) == (START, COMPROMISED)
    predecessor = Predecessor(hierarchy.signing, [hierarchy.root], (), statuses)
    successor = create_successor(predecessor, key, "0b", "p-256", NOW + DAY)
    statuses_by_name = {entry.certificate.subject: entry.status.status for entry in successor.statuses}
    assert statuses_by_name == {
        successor.signing.subject: OCSPCertStatus.GOOD,
        hierarchy.signing.subject: OCSPCertStatus.REVOKED,
    }


def refusals(data: bytes, *chain: x509.Certificate) -> list[str]:
    """The messages about a file of which nothing can be used."""
    hierarchy = factories.hierarchy()
    statuses, problems = parse_statuses(data, chain or (hierarchy.signing, hierarchy.root))
    assert statuses == ()
    return problems


def test_responses_of_another_ca_are_refused() -> None:
    """About another certificate; and about this one, by another key with the issuer's name."""
    data = ca_status.encode_statuses(sign(factories.hierarchy("p-384")))
    assert refusals(data) == [
        "response 1 is about a certificate of another CA",
        "response 2 is about a certificate of another CA",
    ]
    request, key = sign()[0].request, factories.SIGNING
    other = factories.root(subject=factories.hierarchy().root.subject, public_key=key.public_key())
    builder = ocsp.response_builder(
        request, ocsp.CertificateStatus(OCSPCertStatus.GOOD), START, START + DAY
    ).responder_id(library.OCSPResponderEncoding.HASH, other)
    forged = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    block = ca_status.encode_statuses([replace(sign()[0], der=forged)])
    assert refusals(block) == ["response 1 is not signed by the issuer of the certificate"]


def test_tampered_response_is_refused() -> None:
    """Any changed octet of what is signed, and of the signature."""
    entry = sign()[0]
    response = library.load_der_ocsp_response(entry.der)
    for part in (response.tbs_response_bytes, response.signature):
        start = entry.der.index(part)
        for index in range(start, start + len(part)):
            changed = bytearray(entry.der)
            changed[index] ^= 1 << index % 8
            block = ca_status.encode_statuses([replace(entry, der=bytes(changed))])
            assert len(refusals(block)) == 1


def test_malformed_blocks_do_not_affect_others() -> None:
    """Errors, other objects and damaged blocks are named by number."""
    good = sign()
    error = library.OCSPResponseBuilder.build_unsuccessful(library.OCSPResponseStatus.UNAUTHORIZED)
    blocks = [
        ca_status.encode_statuses([replace(good[0], der=der)])
        for der in (b"0\x00", error.public_bytes(Encoding.DER))
    ]
    certificate = factories.hierarchy().root.public_bytes(Encoding.PEM)
    damaged = b"-----BEGIN OCSP RESPONSE-----\n!\n-----END OCSP RESPONSE-----\n"
    data = b"".join([*blocks, certificate, damaged, ca_status.encode_statuses(good)])
    statuses, problems = parse_statuses(data, certificates(factories.hierarchy()))
    assert statuses == tuple(good)
    assert problems == [
        "response 1 is malformed",
        "response 2 is an error, not a response",
        "block 3 is not an OCSP response",
        "block 4 is not an OCSP response",
    ]
    assert refusals(b"") == []
    assert refusals(b"garbage") == ["block 1 is not an OCSP response"]


def test_gaps_are_reported_30_days_before_the_end() -> None:
    hierarchy = factories.hierarchy()
    statuses, chain = sign(), certificates(hierarchy)
    end = START + timedelta(days=365)
    name = repr(hierarchy.signing.subject.rfc4514_string())
    assert list(find_gaps(statuses, chain, end - 30 * DAY)) == []
    verbs = {end - 30 * DAY + SECOND: "ends", end: "ended"}
    for now, verb in verbs.items():
        assert list(find_gaps(statuses, chain, now)) == [
            f"the response about {name} by {algorithm} {verb} at 2027-11-23T12:30:45Z"
            for algorithm in ("SHA-1", "SHA-256")
        ]
    assert list(find_gaps(statuses[:1], chain, NOW)) == [f"there is no response about {name} by SHA-256"]
    assert list(find_gaps([], [hierarchy.root], NOW)) == []
    assert list(find_gaps([], chain, hierarchy.signing.not_valid_after_utc)) == []


@pytest.mark.parametrize("index", [0, 1], ids=["SHA-1", "SHA-256"])
@pytest.mark.parametrize("nonce", [None, bytes(32)], ids=["no nonce", "nonce"])
def test_service_answers_about_the_signing_ca(index: int, nonce: bytes | None) -> None:
    """The bytes that the root signed, with any nonce, without serial.key, until the end and no longer cached."""
    statuses = sign()
    entry, hierarchy = statuses[index], factories.hierarchy()
    builder = OCSPRequestBuilder().add_certificate(
        hierarchy.signing, hierarchy.root, list(ocsp.HASHES.values())[index]
    )
    if nonce:
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    request, version = ocsp_der(builder), ""
    for after, max_age in {
        timedelta(): timedelta(minutes=4, seconds=15),
        entry.next_update - START - SECOND: SECOND,
    }.items():
        ca = LoadedCA(factories.create_issuer(), statuses=statuses)
        status = factories.authority(now=NOW + after, load_ca=lambda ca=ca: ca).status
        response = status.certificate_status(request)
        assert (response.der, response.max_age) == (entry.der, max_age)
        assert response.version == (version or response.version) != ""
        version = response.version
    for now in (entry.next_update, NOW - 2 * SECOND):
        refused = factories.authority(now=now, load_ca=lambda: ca).status.certificate_status(request)
        response_status = library.load_der_ocsp_response(refused.der).response_status
        assert response_status is library.OCSPResponseStatus.UNAUTHORIZED

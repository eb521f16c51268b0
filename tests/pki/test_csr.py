from __future__ import annotations

import base64
import functools
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, mldsa, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import AttributeOID, ExtensionOID, PublicKeyAlgorithmOID, SignatureAlgorithmOID
from hypothesis import given, settings
from hypothesis import strategies as st

from service.pki import csr, keys
from service.pki.errors import BadCSR, BadPublicKey, BadSignatureAlgorithm, CompoundError, RequestError
from tests import csrs, servers
from tests.csrs import tlv

BLANK = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))


def test_generate_private_key_refuses_unknown_type() -> None:
    """An unknown key type raises a ValueError that names it."""
    with pytest.raises(ValueError, match="dsa-1024"):
        keys.generate_private_key("dsa-1024")


@pytest.mark.parametrize("key_type", csrs.KEY_TYPES)
def test_csr_with_every_accepted_key_type_is_parsed(key_type: str) -> None:
    """A CSR with a key of any accepted type is parsed from PEM and from DER, with the same result."""
    request = csrs.build(sans=["dns:a.example.com"], key_type=key_type)
    loaded = csr.parse(csrs.encode_pem(request))
    assert loaded == csr.parse(csrs.encode_der(request))
    assert loaded.der == csrs.encode_der(request)
    assert loaded.subject == ((x509.NameOID.COMMON_NAME, "a.example.com"),)
    assert [extension.oid for extension in loaded.extensions] == [ExtensionOID.SUBJECT_ALTERNATIVE_NAME]


PEM = csrs.encode_pem(csrs.build()).decode()
DER = csrs.encode_der(csrs.build())


@pytest.mark.parametrize("label", ["CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"])
def test_both_pem_labels_are_accepted(label: str) -> None:
    """The label of RFC 7468 7, and the one that Windows and Java write."""
    loaded = csr.parse(PEM.replace("CERTIFICATE REQUEST", label).encode())
    assert loaded.subject == csr.parse(base64.b64encode(DER)).subject


@pytest.mark.parametrize(
    ("data", "fragment"),
    [
        (b"", "The CSR is empty"),
        (b" \r\n", "The CSR is empty"),
        (b"garbage!", "plain text"),
        (b"MIIB", "PKCS#10"),
        (DER[:-1], "PKCS#10"),
        (DER + b"\0", "PKCS#10"),
        (PEM.encode() * 2, "contains 2 CSRs"),
        (PEM.replace("-----END", "----END").encode(), "damaged"),
        (PEM.replace("MI", "M!", 1).encode(), "damaged"),
        (PEM.replace("REQUEST", "X").encode() + PEM.replace("MI", "M!", 1).encode(), "damaged"),
        (b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", "label is CERTIFICATE"),
        (b"-----BEGIN PUBLIC KEY-----\nMIIB\n", "This is a public key"),
        (b"\x30\x77\x02\x01\x01", "Not a certificate signing request"),
        (b"\xff" * 100, "Not a certificate signing request"),
        (b"A" * (csr.MAX_TEXT_BYTES + 1), "bytes"),
        (b"\x30\x82" + b"A" * csr.MAX_DER_BYTES, "bytes"),
    ],
)
def test_malformed_csr_is_refused_with_reason(data: bytes, fragment: str) -> None:
    """Anything but exactly one CSR is badCSR, with the reason."""
    with pytest.raises(BadCSR, match=fragment) as refusal:
        csr.parse(data)
    assert "ParseError" not in refusal.value.detail


@pytest.mark.parametrize("key_type", csrs.KEY_TYPES)
def test_csr_with_wrong_signature_is_refused(key_type: str) -> None:
    """A CSR whose signature does not verify with its key is refused, for every key type."""
    data = bytearray(csrs.encode_der(csrs.build(common_name="tampered.example.com", key_type=key_type)))
    position = data.index(b"tampered")
    data[position] ^= 1
    with pytest.raises(BadCSR, match="does not match the key"):
        csr.parse(bytes(data))


@pytest.mark.parametrize("key_type", csrs.KEY_TYPES)
@pytest.mark.parametrize("signer_key_type", csrs.KEY_TYPES)
def test_csr_signed_by_another_key_is_refused(key_type: str, signer_key_type: str) -> None:
    """A signature by a different key, of another type or of the same type, is refused."""
    long_name = [f"dns:{'a' * 60}.{'b' * 60}.example.com"]  # so that the length takes two octets
    request, signed = (
        csrs.build(sans=long_name, key_type=key_type),
        csrs.build(common_name="b.example.com", key_type=signer_key_type),
    )
    algorithm_and_signature = csrs.encode_der(signed).partition(signed.tbs_certrequest_bytes)[2]
    content = request.tbs_certrequest_bytes + algorithm_and_signature
    with pytest.raises(BadCSR, match="does not match the key"):
        csr.parse(b"\x30\x82" + len(content).to_bytes(2, "big") + content)


def _sign_with(key: object, algorithm: hashes.HashAlgorithm | None) -> bytes:
    return BLANK.sign(key, algorithm).public_bytes(Encoding.DER)  # type: ignore[arg-type]


@pytest.mark.parametrize("algorithm", [hashes.SHA224(), hashes.SHA3_256()])
def test_other_signature_algorithms_are_refused(algorithm: hashes.HashAlgorithm) -> None:
    """Only SHA-256, SHA-384, SHA-512, Ed25519 and ML-DSA are accepted as proof of possession."""
    with pytest.raises(BadSignatureAlgorithm):
        csr.parse(_sign_with(csrs.private_key("p-256"), algorithm))


@pytest.mark.parametrize("digest", ["-sha1", "-md5"])
def test_sha1_and_md5_are_bad_signature_algorithms(tmp_path: Path, digest: str) -> None:
    """A CSR signed with SHA-1 or MD5 is badSignatureAlgorithm, not badCSR: the signature is correct but weak."""
    path = tmp_path / "old.csr"
    command = ("openssl", "req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", "/dev/null", digest)
    servers.run(*command, "-subj", "/CN=a.example.com", "-out", path)
    with pytest.raises(BadSignatureAlgorithm):
        csr.parse(path.read_bytes())


def test_pss_signature_by_rsa_encryption_key_is_accepted() -> None:
    """An rsaEncryption key may sign with RSASSA-PSS and SHA-256; the certificate has the same key."""
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
    key = csrs.private_key("rsa-2048")
    assert isinstance(key, rsa.RSAPrivateKey)
    request = BLANK.sign(key, hashes.SHA256(), rsa_padding=pss)
    assert csr.parse(csrs.encode_der(request)).public_key == key.public_key()


@pytest.mark.parametrize(
    ("create_key", "algorithm", "fragment"),
    [
        (lambda: rsa.generate_private_key(65537, 1024), hashes.SHA256(), "1024 bits"),
        (lambda: rsa.generate_private_key(65537, 2052), hashes.SHA256(), "multiple of 8"),
        (lambda: rsa.generate_private_key(3, 2048), hashes.SHA256(), "exponent"),
        (lambda: ec.generate_private_key(ec.SECP256K1()), hashes.SHA256(), "secp256k1"),
        (lambda: ec.generate_private_key(ec.SECP224R1()), hashes.SHA256(), "secp224r1"),
        (lambda: dsa.generate_private_key(2048), hashes.SHA256(), "^DSA keys are not accepted"),
        (ed448.Ed448PrivateKey.generate, None, "^Ed448 keys are not accepted"),
    ],
)
def test_unsupported_key_is_bad_public_key(create_key: object, algorithm: object, fragment: str) -> None:
    """A key size, exponent, curve or type that is not accepted is badPublicKey."""
    with pytest.raises(BadPublicKey, match=fragment):
        csr.parse(_sign_with(create_key(), algorithm))  # type: ignore[operator,arg-type]


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_private_key_next_to_csr_is_refused(form: PrivateFormat) -> None:
    """A private key before or after the CSR is refused, since others may have seen the key."""
    request = csrs.encode_pem(csrs.build(sans=["dns:a.example.com"]))
    private_key = csrs.private_key().private_bytes(Encoding.PEM, form, NoEncryption())
    for data in (request + private_key, private_key + request, private_key):
        with pytest.raises(BadPublicKey, match="contains a private key"):
            csr.parse(data)
    assert csr.parse(b"the private key is at home\n" + request).names == ("dns:a.example.com",)


def test_rsassa_pss_key_is_refused_by_name(tmp_path: Path) -> None:
    """The refusal names id-RSASSA-PSS: the library would rewrite the SubjectPublicKeyInfo."""
    path = tmp_path / "pss.csr"
    key = ("-newkey", "rsa-pss", "-pkeyopt", "rsa_keygen_bits:2048", "-nodes", "-keyout", "/dev/null")
    servers.run("openssl", "req", "-new", *key, "-sha256", "-subj", "/CN=a.example.com", "-out", path)
    with pytest.raises(BadPublicKey, match="id-RSASSA-PSS"):
        csr.parse(path.read_bytes())


def _encode_csr(form: bytes = b"\4", attributes: bytes = b"") -> bytes:
    """Encode a signed P-256 CSR whose point begins with `form`, with these attributes."""
    key = csrs.private_key("p-256")
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    point = form + key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
    if form in (b"\2", b"\3"):
        point = key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    algorithm = bytes.fromhex("301306072a8648ce3d020106082a8648ce3d030107")
    spki = tlv(0x30, algorithm, tlv(0x03, b"\0", point))
    info = tlv(0x30, bytes.fromhex("020100"), tlv(0x30), spki, tlv(0xA0, attributes))
    signature = key.sign(info, ec.ECDSA(hashes.SHA256()))
    return tlv(0x30, info, bytes.fromhex("300a06082a8648ce3d040302"), tlv(0x03, b"\0", signature))


@pytest.mark.parametrize("form", [b"\2", b"\6", b"\7"])
def test_compressed_and_hybrid_points_are_refused(form: bytes) -> None:
    """A point of X9.62 4.3.6 must be uncompressed, or the certificate would have another encoding."""
    assert csr.parse(_encode_csr()).subject == ()
    with pytest.raises(BadPublicKey, match="openssl ec -conv_form uncompressed"):
        csr.parse(_encode_csr(form))


def test_key_is_refused_before_the_signature_algorithm() -> None:
    """Both reasons are given, that of the key first."""
    key = ec.generate_private_key(ec.SECP256K1())
    with pytest.raises(CompoundError) as refusal:
        csr.parse(_sign_with(key, hashes.SHA224()))
    assert [problem.field for problem in refusal.value.subproblems] == ["public_key", "signature_algorithm"]


def test_raw_ecdsa_signature_is_refused_by_name() -> None:
    """WebCrypto and PKCS#11 return r and s without DER."""
    encoded = csrs.encode_der(csrs.build())
    signature = x509.load_der_x509_csr(encoded).signature
    raw = b"".join(number.to_bytes(32, "big") for number in decode_dss_signature(signature))
    signed = x509.load_der_x509_csr(encoded).tbs_certrequest_bytes
    algorithm = bytes.fromhex("300a06082a8648ce3d040302")
    with pytest.raises(BadCSR, match=r"not DER-encoded \(r, s\) .* 64 octets"):
        csr.parse(tlv(0x30, signed, algorithm, tlv(0x03, b"\0", raw)))


def test_refused_csr_has_the_content_but_no_key() -> None:
    """`read` returns what a CSR with a weak key requests; it is not a `CertificateSigningRequest`."""
    key = rsa.generate_private_key(65537, 1024)
    builder = BLANK.add_extension(x509.SubjectAlternativeName([x509.DNSName("a")]), critical=False)
    refused = csr.read(csrs.encode_der(builder.sign(key, hashes.SHA256())))
    assert isinstance(refused, csr.RefusedRequest)
    assert refused.content.names == ("dns:a",)
    assert not isinstance(refused.content, csr.CertificateSigningRequest)
    assert [violation.field for violation in refused.violations] == ["public_key"]


@pytest.mark.parametrize("key_type", csrs.KEY_TYPES)
def test_only_the_library_s_key_encoding_is_canonical(key_type: str) -> None:
    """The library's encoding is accepted; the same with one octet changed is refused."""
    public_key = csrs.private_key(key_type).public_key()
    spki = keys.encode_public_key(public_key)
    keys.verify_canonical_spki(public_key, spki)
    with pytest.raises(BadPublicKey, match="encoding"):
        keys.verify_canonical_spki(public_key, spki[:-1] + bytes([spki[-1] ^ 1]))


def test_challenge_password_is_detected_but_not_stored() -> None:
    """The parsed CSR lists the challengePassword attribute; its repr does not contain the value."""
    builder = BLANK.add_attribute(AttributeOID.CHALLENGE_PASSWORD, b"hunter22")
    request = builder.sign(csrs.private_key(), hashes.SHA256())
    loaded = csr.parse(csrs.encode_der(request))
    assert AttributeOID.CHALLENGE_PASSWORD in loaded.attributes
    assert csr.parse(DER).attributes == ()
    assert "hunter22" not in repr(loaded).replace(repr(loaded.der), "")


def test_second_extension_request_is_refused() -> None:
    """Names in a second extensionRequest would be dropped silently, so the CSR is refused."""
    san = x509.SubjectAlternativeName([x509.DNSName("b.example")]).public_bytes()
    extensions = tlv(0x30, tlv(0x30, bytes.fromhex("0603551d11"), tlv(0x04, san)))
    standard = tlv(0x30, bytes.fromhex("06092a864886f70d01090e"), tlv(0x31, extensions))
    microsoft = tlv(0x30, bytes.fromhex("060a2b06010401823702010e"), tlv(0x31, extensions))
    assert len(csr.parse(_encode_csr(attributes=standard)).extensions) == 1
    assert len(csr.parse(_encode_csr(attributes=microsoft)).extensions) == 1
    with pytest.raises(BadCSR, match="several extensionRequest"):
        csr.parse(_encode_csr(attributes=standard + microsoft))


def test_ed25519_point_of_small_order_is_refused() -> None:
    """An Ed25519 key of small order proves no possession, so every encoding is badPublicKey."""
    for y in (0, 1, 2**255 - 20, 2**255 - 19, 2**255 - 18):
        for sign in (0, 1 << 255):
            point = (y | sign).to_bytes(32, "little")
            spki = tlv(0x30, bytes.fromhex("300506032b6570"), tlv(0x03, b"\0", point))
            with pytest.raises(BadPublicKey, match="small order"):
                keys.verify_encoded_key(PublicKeyAlgorithmOID.ED25519, spki)
    good = keys.encode_public_key(csrs.private_key("ed25519").public_key())
    keys.verify_encoded_key(PublicKeyAlgorithmOID.ED25519, good)


@pytest.mark.parametrize("filler", [b"\0", b"\xff", b"\x0f\xfc"], ids=bytes.hex)
def test_ml_dsa_key_with_trivial_t1_is_refused(filler: bytes) -> None:
    """Anyone can forge signatures for a t1 of coefficients 0 and 1023, which the verifier reads as -1."""
    algorithm = SignatureAlgorithmOID.ML_DSA_44
    good = csrs.private_key("ml-dsa-44").public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    weak = good[:32] + filler * (1280 // len(filler))
    good_key, weak_key = (mldsa.MLDSA44PublicKey.from_public_bytes(data) for data in (good, weak))
    keys.verify_encoded_key(algorithm, keys.encode_public_key(good_key))
    with pytest.raises(BadPublicKey, match="anyone can forge"):
        keys.verify_encoded_key(algorithm, keys.encode_public_key(weak_key))


@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda tail: b"\x30\x82" + tail))
def test_csr_parser_raises_only_request_errors(data: bytes) -> None:
    """For arbitrary octets, `parse` raises a RequestError and no other error."""
    with pytest.raises(RequestError):
        csr.parse(data)


@functools.cache
def _original(key_type: str) -> bytes:
    return csrs.encode_der(csrs.build(sans=["dns:a.example.com", "ip:10.0.0.1"], key_type=key_type))


@settings(max_examples=300)
@given(st.data())
def test_mutated_csr_is_refused_or_unchanged(data: st.DataObject) -> None:
    """A CSR with changed octets is refused with a reason, or has the same subject and key."""
    key_type = data.draw(st.sampled_from(csrs.FAST_KEY_TYPES))
    original = _original(key_type)
    mutated = bytearray(original)
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(mutated) - 1))
        mutated[position] = data.draw(st.integers(0, 255))
    if bytes(mutated) == original:
        return
    try:
        loaded = csr.parse(bytes(mutated))
    except RequestError as refusal:
        assert refusal.detail
        return
    # ECDSA and unused bits allow several encodings of one signature: the content must be the same.
    assert loaded.subject == csr.parse(original).subject
    assert loaded.subject_public_key_info == csr.parse(original).subject_public_key_info

from __future__ import annotations

import base64
import functools
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, mldsa, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import AttributeOID, ExtensionOID, PublicKeyAlgorithmOID, SignatureAlgorithmOID
from hypothesis import given, settings
from hypothesis import strategies as st

from service.pki import csr, keys
from service.pki.errors import BadCSR, BadPublicKey, BadSignatureAlgorithm, RequestError
from tests import csrs, servers
from tests.csrs import tlv

BLANK = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))


def test_generate_private_key_refuses_unknown_type() -> None:
    """An unknown kind of key is a ValueError that names it."""
    with pytest.raises(ValueError, match="dsa-1024"):
        keys.generate_private_key("dsa-1024")


@pytest.mark.parametrize("kind", csrs.KEY_TYPES)
def test_every_certified_kind_of_key_is_read(kind: str) -> None:
    """A request by any certified kind of key loads, with its names, from PEM and from DER alike."""
    request = csrs.build(sans=["dns:a.example.com"], key_type=kind)
    loaded = csr.parse(csrs.encode_pem(request))
    assert loaded == csr.parse(csrs.encode_der(request))
    assert loaded.der == csrs.encode_der(request)
    assert loaded.subject == ((x509.NameOID.COMMON_NAME, "a.example.com"),)
    assert [extension.oid for extension in loaded.extensions] == [ExtensionOID.SUBJECT_ALTERNATIVE_NAME]


PEM = csrs.encode_pem(csrs.build()).decode()
DER = csrs.encode_der(csrs.build())


@pytest.mark.parametrize("label", ["CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"])
def test_either_pem_label_is_read(label: str) -> None:
    """RFC 7468 7, and what Windows and Java write; tests/pki/test_pem.py has what may be around it."""
    loaded = csr.parse(PEM.replace("CERTIFICATE REQUEST", label).encode())
    assert loaded.subject == csr.parse(base64.b64encode(DER)).subject


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "The CSR is empty"),
        (b" \r\n", "The CSR is empty"),
        (b"garbage!", "Not a certificate signing request"),
        (b"MIIB", "PKCS#10"),
        (DER[:-1], "PKCS#10"),
        (DER + b"\0", "PKCS#10"),
        (PEM.encode() * 2, "contains 2 CSRs"),
        (PEM.replace("-----END", "----END").encode(), "damaged"),
        (PEM.replace("MI", "M!", 1).encode(), "damaged"),
        (PEM.replace("REQUEST", "X").encode() + PEM.replace("MI", "M!", 1).encode(), "damaged"),
        (PEM.replace("\n", "").encode(), "no line breaks"),
        (b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", "label is CERTIFICATE"),
        (b"-----BEGIN PUBLIC KEY-----\nMIIB\n", "label is PUBLIC KEY"),
        (b"\x30\x77\x02\x01\x01", "Not a certificate signing request"),
        (b"\xff" * 100, "Not a certificate signing request"),
        (b"A" * (csr.MAX_TEXT_BYTES + 1), "bytes"),
        (b"\x30\x82" + b"A" * csr.MAX_DER_BYTES, "bytes"),
    ],
)
def test_malformed_csr_is_refused_with_reason(data: bytes, word: str) -> None:
    """Whatever is not one certification request is badCSR, and says what it is instead."""
    with pytest.raises(BadCSR, match=word) as refused:
        csr.parse(data)
    assert "ParseError" not in refused.value.detail


@pytest.mark.parametrize("kind", csrs.KEY_TYPES)
def test_csr_with_wrong_signature_is_refused(kind: str) -> None:
    """A request whose signature is not by its own key is refused, for every kind of key."""
    data = bytearray(csrs.encode_der(csrs.build(common_name="tampered.example.com", key_type=kind)))
    position = data.index(b"tampered")
    data[position] ^= 1
    with pytest.raises(BadCSR, match="does not match the key"):
        csr.parse(bytes(data))


@pytest.mark.parametrize("kind", csrs.KEY_TYPES)
@pytest.mark.parametrize("other", csrs.KEY_TYPES)
def test_csr_signed_by_another_key_type_is_refused(kind: str, other: str) -> None:
    """What one key signed with its algorithm proves nothing of a key of another kind, nor of its own kind."""
    long = [f"dns:{'a' * 60}.{'b' * 60}.example.com"]  # so that its length is in two octets
    request, signed = (
        csrs.build(sans=long, key_type=kind),
        csrs.build(common_name="b.example.com", key_type=other),
    )
    algorithm_and_signature = csrs.encode_der(signed).partition(signed.tbs_certrequest_bytes)[2]
    whole = request.tbs_certrequest_bytes + algorithm_and_signature
    with pytest.raises(BadCSR, match="does not match the key"):
        csr.parse(b"\x30\x82" + len(whole).to_bytes(2, "big") + whole)


def _signed_with(key: object, algorithm: hashes.HashAlgorithm | None) -> bytes:
    return BLANK.sign(key, algorithm).public_bytes(Encoding.DER)  # type: ignore[arg-type]


@pytest.mark.parametrize("hashed", [hashes.SHA224(), hashes.SHA3_256()])
def test_signature_algorithms_are_listed(hashed: hashes.HashAlgorithm) -> None:
    """Only SHA-256, SHA-384 and SHA-512, Ed25519 and ML-DSA prove possession."""
    with pytest.raises(BadSignatureAlgorithm):
        csr.parse(_signed_with(csrs.private_key("p-256"), hashed))


@pytest.mark.parametrize("digest", ["-sha1", "-md5"])
def test_sha1_is_an_algorithm_refused_not_a_forgery(tmp_path: Path, digest: str) -> None:
    """A request signed with SHA-1 or MD5 is badSignatureAlgorithm: it proves nothing, but forges nothing."""
    path = tmp_path / "old.csr"
    command = ("openssl", "req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", "/dev/null", digest)
    servers.run(*command, "-subj", "/CN=a.example.com", "-out", path)
    with pytest.raises(BadSignatureAlgorithm):
        csr.parse(path.read_bytes())


def test_pss_by_an_ordinary_rsa_key_is_a_proof() -> None:
    """RSASSA-PSS with SHA-256 by an rsaEncryption key is accepted; the key is what is certified."""
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
    key = csrs.private_key("rsa-2048")
    assert isinstance(key, rsa.RSAPrivateKey)
    request = BLANK.sign(key, hashes.SHA256(), rsa_padding=pss)
    assert csr.parse(csrs.encode_der(request)).public_key == key.public_key()


@pytest.mark.parametrize(
    ("key", "hashed", "word"),
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
def test_keys_out_of_bounds_are_bad_public_keys(key: object, hashed: object, word: str) -> None:
    """Sizes, exponents, curves and kinds outside the policy are badPublicKey, whatever they sign with."""
    with pytest.raises(BadPublicKey, match=word):
        csr.parse(_signed_with(key(), hashed))  # type: ignore[operator,arg-type]


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_private_key_in_request_is_refused(form: PrivateFormat) -> None:
    """A request that its private key is sent with, before or after it, is refused: others may have seen the key."""
    request = csrs.encode_pem(csrs.build(sans=["dns:a.example.com"]))
    sent = csrs.private_key().private_bytes(Encoding.PEM, form, NoEncryption())
    for data in (request + sent, sent + request, sent):
        with pytest.raises(BadPublicKey, match="contains a private key"):
            csr.parse(data)
    assert csr.parse(b"the private key is at home\n" + request).names == ("dns:a.example.com",)


def test_rsassa_pss_keys_are_refused_by_name(tmp_path: Path) -> None:
    """An id-RSASSA-PSS key is named in its refusal: the library would rewrite its SubjectPublicKeyInfo."""
    path = tmp_path / "pss.csr"
    key = ("-newkey", "rsa-pss", "-pkeyopt", "rsa_keygen_bits:2048", "-nodes", "-keyout", "/dev/null")
    servers.run("openssl", "req", "-new", *key, "-sha256", "-subj", "/CN=a.example.com", "-out", path)
    with pytest.raises(BadPublicKey, match="id-RSASSA-PSS"):
        csr.parse(path.read_bytes())


def _by_hand(form: bytes = b"\4", attributes: bytes = b"") -> bytes:
    """A P-256 request with a point that begins like this and with these attributes, signed by its key."""
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
def test_point_is_certified_uncompressed_only(form: bytes) -> None:
    """A compressed or hybrid point (X9.62 4.3.6) is refused: the certificate would carry another encoding."""
    assert csr.parse(_by_hand()).subject == ()
    with pytest.raises(BadPublicKey):
        csr.parse(_by_hand(form))


@pytest.mark.parametrize("kind", csrs.KEY_TYPES)
def test_usual_encoding_of_a_key_is_the_library_s(kind: str) -> None:
    """What the library writes is certified; with any other octet it is not."""
    public_key = csrs.private_key(kind).public_key()
    spki = keys.encode_public_key(public_key)
    keys.verify_canonical_spki(public_key, spki)
    with pytest.raises(BadPublicKey, match="encoding"):
        keys.verify_canonical_spki(public_key, spki[:-1] + bytes([spki[-1] ^ 1]))


def test_challenge_password_is_noticed_and_not_kept() -> None:
    """A challengePassword is known to be there; its value is nowhere in the loaded request's repr."""
    builder = BLANK.add_attribute(AttributeOID.CHALLENGE_PASSWORD, b"hunter22")
    request = builder.sign(csrs.private_key(), hashes.SHA256())
    loaded = csr.parse(csrs.encode_der(request))
    assert AttributeOID.CHALLENGE_PASSWORD in loaded.attributes
    assert csr.parse(DER).attributes == ()
    assert "hunter22" not in repr(loaded).replace(repr(loaded.der), "")


def test_second_extension_request_is_refused() -> None:
    """Names in a second extensionRequest would be dropped without a word, so the request is refused."""
    san = x509.SubjectAlternativeName([x509.DNSName("b.example")]).public_bytes()
    extensions = tlv(0x30, tlv(0x30, bytes.fromhex("0603551d11"), tlv(0x04, san)))
    standard = tlv(0x30, bytes.fromhex("06092a864886f70d01090e"), tlv(0x31, extensions))
    microsoft = tlv(0x30, bytes.fromhex("060a2b06010401823702010e"), tlv(0x31, extensions))
    assert len(csr.parse(_by_hand(attributes=standard)).extensions) == 1
    assert len(csr.parse(_by_hand(attributes=microsoft)).extensions) == 1
    with pytest.raises(BadCSR, match="several extensionRequest"):
        csr.parse(_by_hand(attributes=standard + microsoft))


def test_ed25519_point_of_small_order_is_refused() -> None:
    """An Ed25519 key of small order proves nothing, so it is badPublicKey, in every encoding."""
    for y in (0, 1, 2**255 - 20, 2**255 - 19, 2**255 - 18):
        for sign in (0, 1 << 255):
            point = (y | sign).to_bytes(32, "little")
            spki = tlv(0x30, bytes.fromhex("300506032b6570"), tlv(0x03, b"\0", point))
            with pytest.raises(BadPublicKey, match="small order"):
                keys.verify_key_size(PublicKeyAlgorithmOID.ED25519, spki)
    good = keys.encode_public_key(csrs.private_key("ed25519").public_key())
    keys.verify_key_size(PublicKeyAlgorithmOID.ED25519, good)


@pytest.mark.parametrize("filler", [b"\0", b"\xff", b"\x0f\xfc"], ids=bytes.hex)
def test_ml_dsa_key_of_zeros_is_refused(filler: bytes) -> None:
    """The same of a t1 of coefficients 0 and 1023, which is -1 for the verifier: a signature needs no secret."""
    algorithm = SignatureAlgorithmOID.ML_DSA_44
    good = csrs.private_key("ml-dsa-44").public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    weak = good[:32] + filler * (1280 // len(filler))
    own, other = (mldsa.MLDSA44PublicKey.from_public_bytes(each) for each in (good, weak))
    keys.verify_key_size(algorithm, keys.encode_public_key(own))
    with pytest.raises(BadPublicKey, match="anyone can forge"):
        keys.verify_key_size(algorithm, keys.encode_public_key(other))


@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda tail: b"\x30\x82" + tail))
def test_load_is_total(data: bytes) -> None:
    """Whatever octets come in, `load` returns a request or raises a RequestError; nothing else."""
    with pytest.raises(RequestError):
        csr.parse(data)


@functools.cache
def _original(kind: str) -> bytes:
    return csrs.encode_der(csrs.build(sans=["dns:a.example.com", "ip:10.0.0.1"], key_type=kind))


@settings(max_examples=300)
@given(st.data())
def test_load_is_total_on_mutated_requests(data: st.DataObject) -> None:
    """A request with octets changed is refused with a reason; no mutation survives the proof."""
    kind = data.draw(st.sampled_from(csrs.FAST_KEY_TYPES))
    original = _original(kind)
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
    # ECDSA and unused bits leave a few encodings of one signature: the content must be the same.
    assert loaded.subject == csr.parse(original).subject
    assert loaded.subject_public_key_info == csr.parse(original).subject_public_key_info

from __future__ import annotations

import hashlib
import itertools
import math
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key
from cryptography.x509.oid import PublicKeyAlgorithmOID

from service.pki import csr, keys, weak_keys
from service.pki.errors import BadCSR, BadPublicKey, RequestError
from service.pki.weak_keys import DenyList
from tests import csrs, factories, servers
from tests.csrs import tlv

SMALL_FACTORS = math.factorial(2000)


def is_prime(number: int) -> bool:
    """Fermat's test, which is enough for the numbers of these tests, after a test for small factors."""
    return math.gcd(number, SMALL_FACTORS) == 1 and pow(2, number - 1, number) == 1


def prime_after(number: int) -> int:
    """The first prime that is at least this number."""
    number |= 1
    while not is_prime(number):
        number += 2
    return number


def roca_prime(bits: int) -> int:
    """A prime of Infineon's library: k * M + (65537^a mod M); M is the product of the first 39 primes."""
    product = math.prod(n for n in range(2, 168) if all(n % d for d in range(2, n)))
    spare = bits - product.bit_length() + 1
    while True:
        k = secrets.randbits(spare) | 3 << (spare - 2)
        candidate = k * product + pow(65537, secrets.randbits(64), product)
        if is_prime(candidate):
            return candidate


def roca_modulus(bits: int) -> int:
    """A product of two such primes."""
    while (modulus := roca_prime(bits // 2) * roca_prime(bits // 2)).bit_length() != bits:
        pass
    return modulus


P = prime_after((3 << 1022) + secrets.randbits(1000))


def rsa_key(modulus: int, exponent: int = 65537) -> rsa.RSAPublicKey:
    """A public key with this modulus."""
    return rsa.RSAPublicNumbers(exponent, modulus).public_key()


def with_factor(factor: int) -> int:
    """A modulus of 2,048 bits with this factor and two large prime factors."""
    return factor * P * prime_after((7 << 1021) // factor)


WEAK: dict[str, tuple[Callable[[], int], str]] = {
    "factor 3": (lambda: with_factor(3), "factor smaller than 752"),
    "factor 751": (lambda: with_factor(751), "factor smaller than 752"),
    "the next prime": (lambda: P * prime_after(P + 2), "close"),
    "a distant prime": (lambda: P * prime_after(P + (1 << 500)), "close"),
    "a square": (lambda: P * P, "close"),
    "a cube": (lambda: prime_after(25 << 678) ** 3, "a power"),
    "a cube of a product": (lambda: (prime_after(5 << 340) * prime_after(5 << 338)) ** 3, "a power"),
    "a fifth power": (lambda: prime_after(3 << 408) ** 5, "a power"),
    "a power of a short prime": (lambda: 1249**199, "a power"),
    "a prime": (lambda: csrs.private_key("rsa-4096").private_numbers().p, "a prime"),  # type: ignore[union-attr]  # RSA
    "ROCA": (lambda: roca_modulus(2048), "CVE-2017-15361"),
}
STRONG: dict[str, Callable[[], int]] = {
    "factor 757": lambda: with_factor(757),
    "factor of the padding": lambda: with_factor(1801),  # of PKCS#1 v1.5 in 256 octets
    "far primes": lambda: P * prime_after(P + (1 << 1000)),
    "a square times a prime": lambda: prime_after(25 << 678) ** 2 * prime_after(23 << 678),
    "next to a power": lambda: next(
        n for n in itertools.count(1249**199, 2) if math.gcd(n, weak_keys._small_product()) == 1 and n % 1249
    ),
    "one ROCA prime": lambda: roca_prime(1024) * P,
}


@pytest.mark.parametrize(("modulus", "fragment"), WEAK.values(), ids=WEAK)
def test_weak_modulus_is_refused(modulus: Callable[[], int], fragment: str) -> None:
    """Small factors (BR 6.1.6), close primes (BR 6.1.1.3) and ROCA (CVE-2017-15361) are refused."""
    with pytest.raises(BadPublicKey, match=fragment) as refusal:
        weak_keys.verify_strength(rsa_key(modulus()))
    assert refusal.value.field == "public_key"


@pytest.mark.parametrize("modulus", STRONG.values(), ids=STRONG)
def test_strong_modulus_is_accepted(modulus: Callable[[], int]) -> None:
    """A modulus just outside each rule is accepted."""
    weak_keys.verify_strength(rsa_key(modulus()))


@pytest.mark.parametrize("key_type", csrs.KEY_TYPES)
def test_generated_key_is_accepted(key_type: str) -> None:
    """A generated key of each type is accepted, and 200 RSA moduli have no close factors."""
    weak_keys.verify_strength(csrs.private_key(key_type).public_key())
    if key_type == "rsa-2048":
        modulus = csrs.private_key(key_type).public_key().public_numbers().n  # type: ignore[union-attr]
        for number in range(200):
            assert not weak_keys._has_close_factors(modulus + 2 * number * number * 7919)


def forge_csr(spki: bytes) -> bytes:
    """Encode a CSR for another key than the one that signed it."""
    signer_spki = keys.encode_public_key(csrs.private_key("rsa-2048").public_key())
    assert len(signer_spki) == len(spki)
    return csrs.encode_der(csrs.build(key_type="rsa-2048")).replace(signer_spki, spki)


def test_weak_key_is_refused_before_signature() -> None:
    """The key is verified before the signature, so the error for a ROCA key names ROCA."""
    weak = keys.encode_public_key(rsa_key(WEAK["ROCA"][0]()))
    with pytest.raises(BadPublicKey, match="ROCA"):
        csr.parse(forge_csr(weak))
    strong = keys.encode_public_key(rsa_key(STRONG["far primes"]()))
    with pytest.raises(BadCSR, match="The signature does not match the key"):
        csr.parse(forge_csr(strong))


@pytest.mark.parametrize(
    ("bits", "last_bit", "exponent", "fragment"),
    [
        (16384, 1, 65537, "16384 bits"),
        (8200, 1, 65537, "8200 bits"),
        (1024, 1, 65537, "1024 bits"),
        (2049, 1, 65537, "2049 bits, which is not a multiple"),
        (2048, 0, 65537, "even"),
        *[(2048, 1, exponent, "exponent") for exponent in (1, 3, 65536, (1 << 64) + 1)],
    ],
)
def test_rsa_key_out_of_bounds_is_refused_before_arithmetic(
    bits: int, last_bit: int, exponent: int, fragment: str
) -> None:
    """The bounds are verified on the DER, before the library loads the key."""
    spki, start = encode_spki(1 << bits - 1 | last_bit, exponent), time.process_time()
    with pytest.raises(BadPublicKey, match=fragment):
        keys.verify_encoded_key(PublicKeyAlgorithmOID.RSAES_PKCS1_v1_5, spki)
    assert time.process_time() - start < 0.05


def test_huge_modulus_in_csr_is_refused_at_once() -> None:
    """`parse` refuses the size of the modulus before it verifies the signature, which would be slow."""
    spki = keys.encode_public_key(csrs.private_key("rsa-2048").public_key())
    info = csrs.build(key_type="rsa-2048").tbs_certrequest_bytes
    body = info[4:].replace(spki, encode_spki(1 << 16383 | 1, 65537))
    signature = bytes.fromhex("300d06092a864886f70d01010b0500") + tlv(3, b"\0" + b"\1" * 256)
    request = tlv(0x30, tlv(0x30, body) + signature)
    start = time.process_time()
    with pytest.raises(BadPublicKey, match="16384 bits"):
        csr.parse(request)
    assert time.process_time() - start < 0.05


def encode_spki(modulus: int, exponent: int) -> bytes:
    """Encode a SubjectPublicKeyInfo of any numbers, also ones that the library refuses."""

    def integer(number: int) -> bytes:
        return tlv(2, number.to_bytes(number.bit_length() // 8 + 1, "big"))

    algorithm = bytes.fromhex("300d06092a864886f70d0101010500")
    return tlv(0x30, algorithm + tlv(3, b"\0" + tlv(0x30, integer(modulus) + integer(exponent))))


@pytest.mark.parametrize(
    "data", [b"A", b"\x30\x84" + bytes(65_537), csrs.encode_pem(csrs.build())], ids=["text", "DER", "PEM"]
)
def test_csr_of_a_megabyte_is_refused_before_parsing(data: bytes) -> None:
    """The size is verified first, for text, DER and PEM."""
    large, start = data + b" " * 1_048_576, time.process_time()
    with pytest.raises(BadCSR, match="bytes; "):
        csr.parse(large)
    assert time.process_time() - start < 0.05


@pytest.mark.parametrize("point", ["off the curve", "at infinity"])
def test_invalid_ec_point_is_refused(point: str) -> None:
    """SEC 1 3.2.2.1: a point off the curve, or at infinity, is not a public key."""
    der = bytearray(csrs.encode_der(csrs.build()))
    start = der.index(b"\x03\x42\x00\x04") + 3
    der[start + 64] ^= 1
    if point == "at infinity":
        der[start : start + 65] = b"\0" * 65
    with pytest.raises(RequestError, match="key"):
        csr.parse(bytes(der))


SPKI = keys.encode_public_key(csrs.private_key().public_key())
DIGEST = hashlib.sha256(SPKI).hexdigest()


@pytest.mark.parametrize("line", ["{}", "{}  stolen.pem", "{}\t# stolen", "{} *stolen.der\r"])
@pytest.mark.parametrize("upper", [False, True])
def test_key_on_the_deny_list_is_refused(line: str, *, upper: bool) -> None:
    """Lines are in the format of `sha256sum`, in either case; comments and blank lines are allowed."""
    entry = line.format(DIGEST.upper() if upper else DIGEST)
    deny_list = DenyList.parse(f"# keys that were stolen\n\n{'0' * 64}\n{entry}\n")
    with pytest.raises(BadPublicKey, match="deny list"):
        deny_list.verify([SPKI])
    deny_list.verify(weak_keys.equivalent_encodings(csrs.private_key("p-384").public_key()))
    DenyList().verify([SPKI])


OTHER_EXPONENT = rsa_key(csrs.private_key("rsa-2048").public_key().public_numbers().n, 65539)  # type: ignore[union-attr]


@pytest.mark.parametrize("digest_source", ["usual", "same", "modulus"])
def test_deny_list_matches_rsa_keys_of_any_exponent(tmp_path: Path, digest_source: str) -> None:
    """The digest is of the key with the usual exponent, of the key itself, or of `openssl -modulus`."""
    private_key = csrs.private_key("rsa-2048")
    (tmp_path / "key").write_bytes(keys.encode_private_key(private_key))
    digest_input = {
        "usual": keys.encode_public_key(private_key.public_key()),
        "same": keys.encode_public_key(OTHER_EXPONENT),
        "modulus": servers.run(
            "openssl", "rsa", "-in", "key", "-noout", "-modulus", cwd=tmp_path
        ).stdout.encode(),
    }[digest_source]
    deny_list = DenyList.parse(hashlib.sha256(digest_input).hexdigest())
    with pytest.raises(BadPublicKey, match="deny list"):
        deny_list.verify(weak_keys.equivalent_encodings(OTHER_EXPONENT))
    deny_list.verify(weak_keys.equivalent_encodings(csrs.private_key("rsa-3072").public_key()))


@pytest.mark.parametrize("kind", ["p-256", "p-384", "p-521"])
def test_deny_list_matches_the_negative_of_a_point(kind: str) -> None:
    """Anyone who has the private key d also has n - d, and only its point has the same x."""
    point, negative = weak_keys.equivalent_encodings(csrs.private_key(kind).public_key())
    first, second = map(load_der_public_key, (point, negative))  # refuses points off the curve
    assert isinstance(first, ec.EllipticCurvePublicKey)
    assert isinstance(second, ec.EllipticCurvePublicKey)
    numbers, negated = first.public_numbers(), second.public_numbers()
    assert (numbers.x == negated.x, numbers.y == negated.y) == (True, False)
    with pytest.raises(BadPublicKey, match="deny list"):
        DenyList.parse(hashlib.sha256(point).hexdigest()).verify(weak_keys.equivalent_encodings(second))


def test_malformed_deny_list_is_refused() -> None:
    """The error lists every malformed line: a partly loaded list would accept denied keys."""
    with pytest.raises(ValueError, match=r"line 2, 4, 5$"):
        DenyList.parse(f"{DIGEST}\nabc\n\n{'g' * 64}\n{DIGEST}00\n")


def test_key_of_the_ca_or_its_root_is_refused() -> None:
    """The keys of all CA certificates are refused, with any RSA exponent; another key is accepted."""
    issuer = factories.create_issuer("rsa-2048")
    modulus = issuer.root.public_key().public_numbers().n  # type: ignore[union-attr]
    for ca_key in (issuer.certificate.public_key(), issuer.root.public_key(), rsa_key(modulus, 65539)):
        with pytest.raises(BadPublicKey, match="key of this CA"):
            weak_keys.verify_not_ca_key(weak_keys.equivalent_encodings(ca_key), issuer.public_keys)
    weak_keys.verify_not_ca_key(weak_keys.equivalent_encodings(OTHER_EXPONENT), issuer.public_keys)

"""Keys of an accepted kind and size whose private key can be computed, or is known."""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from service.pki import keys
from service.pki.errors import BadPublicKey

_SMALL: Final = 752  # NIST SP 800-89 5.3.3, CA/Browser Forum Baseline Requirements 6.1.6
_FERMAT_ROUNDS: Final = 100  # Baseline Requirements 6.1.1.3
_SIEVE: Final = 55440  # of its residues 2 in 100 are squares, so that few roots are taken
# Nemec et al., "The Return of Coppersmith's Attack", CCS 2017 (CVE-2017-15361, ROCA): the primes of
# Infineon's library are 65537^a modulo a product of the first primes, of at least these; so is the modulus.
_ROCA_LAST: Final = 167
_ROCA_GENERATOR: Final = 65537
_FERMAT_TEST_BITS: Final = 3072  # OpenSSL takes no large exponent for a longer modulus
_USUAL_EXPONENT: Final = 65537
_FIELDS: Final = {  # the prime of each curve's field, and the octets of a coordinate (FIPS 186-4 D.1.2)
    "secp256r1": (2**256 - 2**224 + 2**192 + 2**96 - 1, 32),
    "secp384r1": (2**384 - 2**128 - 2**96 + 2**32 - 1, 48),
    "secp521r1": (2**521 - 1, 66),
}
_SHA256: Final = re.compile("[0-9A-Fa-f]{64}")


def verify_strength(public_key: CertificatePublicKeyTypes) -> None:
    """Raise `BadPublicKey` for an RSA key whose modulus is easily factored.

    Its size is within `keys.verify_key_size`, which bounds the work.
    """
    if not isinstance(public_key, rsa.RSAPublicKey):
        return
    modulus = public_key.public_numbers().n
    if math.gcd(modulus, _small_product()) != 1:
        raise _bad(f"the RSA modulus has a factor smaller than {_SMALL}")
    if _has_close_factors(modulus):
        raise _bad("the RSA modulus has two factors that are close, which Fermat's method finds")
    if _is_power(modulus):
        raise _bad("the RSA modulus is a power of a smaller number")
    if all(modulus % prime in powers for prime, powers in _roca_residues()):
        raise _bad("the RSA key was made by a faulty library (ROCA, CVE-2017-15361): make another one")
    if modulus.bit_length() <= _FERMAT_TEST_BITS and _is_fermat_prime(modulus):
        raise _bad("the RSA modulus is a prime, so that anyone can compute the private key")


def equivalent_encodings(
    public_key: CertificatePublicKeyTypes, spki: bytes | None = None
) -> tuple[bytes, ...]:
    """The key's DER (`spki`, or encoded again), and of keys that its private key gives away.

    Anyone who knows an RSA key's factors has the private key for every exponent. So lists hold its modulus as
    `openssl -modulus` prints it, or its DER with the usual exponent. And -d is the private key of -P.
    """
    spki = spki or keys.encode_public_key(public_key)
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        prime, octets = _FIELDS[public_key.curve.name]
        y = int.from_bytes(spki[-octets:], "big")
        return (spki, spki[:-octets] + (prime - y).to_bytes(octets, "big"))
    if not isinstance(public_key, rsa.RSAPublicKey):
        return (spki,)
    numbers = public_key.public_numbers()
    result = (spki, b"Modulus=%X\n" % numbers.n)
    if numbers.e == _USUAL_EXPONENT:
        return result
    return (
        *result,
        keys.encode_public_key(rsa.RSAPublicNumbers(_USUAL_EXPONENT, numbers.n).public_key()),
    )


def verify_not_ca_key(key_encodings: Iterable[bytes], own: frozenset[bytes]) -> None:
    """Raise `BadPublicKey` for a key of the CA's own, by its `forms`: it would speak for the CA."""
    if not own.isdisjoint(key_encodings):
        raise _bad("this is the CA's own key")


@dataclass(frozen=True)
class DenyList:
    """Keys that are never certified, such as stolen ones, or Debian's of 2008 (CVE-2008-0166).

    Attributes:
        digests: SHA-256 of one of the `forms` of each key.
    """

    digests: frozenset[bytes] = frozenset()

    @classmethod
    def parse(cls, text: str) -> DenyList:
        """Read the output of `sha256sum`, with blank lines and comments after `#`.

        Raises:
            ValueError: a line does not begin with a SHA-256; every such line is named.
        """
        digests, faulty = set(), []
        for number, line in enumerate(text.splitlines(), 1):
            words = line.partition("#")[0].split()
            if words and _SHA256.fullmatch(words[0]):
                digests.add(bytes.fromhex(words[0]))
            elif words:
                faulty.append(str(number))
        if faulty:
            raise ValueError(f"no SHA-256 in hexadecimal stands in line {', '.join(faulty[:20])}")
        return cls(frozenset(digests))

    def verify(self, key_encodings: Iterable[bytes]) -> None:
        """Raise `BadPublicKey` if the key, by its `forms`, is on the list."""
        if self.digests and any(hashlib.sha256(form).digest() in self.digests for form in key_encodings):
            raise _bad("the key is on the deny list of this CA")


def _has_close_factors(modulus: int) -> bool:
    """Whether Fermat's method finds them: n = a² - b² for an a close above n's root (CVE-2022-26320)."""
    root = math.isqrt(modulus - 1) + 1
    low, remainder, squares = root % _SIEVE, modulus % _SIEVE, _squares()
    for step in range(_FERMAT_ROUNDS):
        # What is no square modulo the sieve is none at all, and small numbers show it.
        if ((low + step) ** 2 - remainder) % _SIEVE in squares:
            square = (root + step) ** 2 - modulus
            if math.isqrt(square) ** 2 == square:
                return True
    return False


@functools.cache
def _squares() -> frozenset[int]:
    return frozenset(number * number % _SIEVE for number in range(_SIEVE))


def _is_fermat_prime(modulus: int) -> bool:
    """Whether it is a prime, by Fermat's test: modulo a prime n, x to the power of n - 2 is the inverse of x.

    OpenSSL computes the power when it verifies a signature with that exponent: 8 times as fast as Python.
    """
    octets = (modulus.bit_length() + 7) // 8
    padded = int.from_bytes(b"\0\1".ljust(octets - 1, b"\xff") + b"\0", "big")  # RFC 8017 9.2, of no data
    inverse = pow(padded, -1, modulus).to_bytes(octets, "big")
    public_key = rsa.RSAPublicNumbers(modulus - 2, modulus).public_key()
    try:
        return not public_key.recover_data_from_signature(inverse, padding.PKCS1v15(), None)
    except InvalidSignature:
        return False


def _is_power(modulus: int) -> bool:
    """Whether it is a power of an odd exponent; a square has close factors."""
    product, exponents = _power_residues(modulus.bit_length() // (_SMALL.bit_length() - 1))
    rest = modulus % product
    possible = [(exponent, others) for prime, powers, exponent, others in exponents if rest % prime in powers]
    return any(
        all(modulus % prime in powers for prime, powers in others)
        and _root(modulus, exponent) ** exponent == modulus
        for exponent, others in possible
    )


def _root(number: int, exponent: int) -> int:
    """The integer part of the root, by Newton's method from a little above it, in a few steps."""
    bits = math.log2(number) / exponent
    shift = max(0, int(bits) - 50)
    root = int(2 ** (bits - shift) * 1.0000001 + 1) << shift
    while (lower := ((exponent - 1) * root + number // root ** (exponent - 1)) // exponent) < root:
        root = lower
    return root


_Residues = tuple[int, frozenset[int]]


@functools.cache
def _power_residues(last: int) -> tuple[int, list[tuple[int, frozenset[int], int, list[_Residues]]]]:
    """For each odd prime exponent a prime, the powers modulo it, and more of both; the product of the former.

    Together they let pass at most 1 in 25 numbers that are no power.
    """
    exponents = []
    for exponent in _primes(last)[1:]:
        primes = (n for n in itertools.count(2 * exponent + 1, 2 * exponent) if _is_prime(n))
        chosen = itertools.islice(primes, 2 + 3 // exponent)
        first, *others = [(prime, _powers(exponent, prime)) for prime in chosen]
        exponents.append((*first, exponent, others))
    return math.prod(prime for prime, *_ in exponents), exponents


def _powers(exponent: int, prime: int) -> frozenset[int]:
    """The powers modulo a prime that is 1 modulo the exponent."""
    count = (prime - 1) // exponent
    subgroups = (
        frozenset(pow(base, exponent * power, prime) for power in range(count)) for base in range(2, prime)
    )
    return next(each for each in subgroups if len(each) == count)


@functools.cache
def _small_product() -> int:
    return math.prod(_primes(_SMALL - 1))


@functools.cache
def _roca_residues() -> tuple[tuple[int, frozenset[int]], ...]:
    """Each prime whose residues are not all powers of 65537, and those that are."""
    powers = (
        (prime, frozenset(pow(_ROCA_GENERATOR, power, prime) for power in range(prime - 1)))
        for prime in _primes(_ROCA_LAST)
    )
    return tuple((prime, residues) for prime, residues in powers if len(residues) < prime - 1)


def _primes(last: int) -> list[int]:
    return [number for number in range(2, last + 1) if _is_prime(number)]


def _is_prime(number: int) -> bool:
    return all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


def _bad(detail: str) -> BadPublicKey:
    return BadPublicKey(detail, "public_key")

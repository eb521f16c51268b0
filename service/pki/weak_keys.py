"""Keys of an accepted kind and size whose private key can be computed, or is known."""

from __future__ import annotations

import functools
import hashlib
import math
import re
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from service.pki.errors import BadPublicKey

_SMALL: Final = 752  # NIST SP 800-89 5.3.3, CA/Browser Forum Baseline Requirements 6.1.6
_FERMAT_ROUNDS: Final = 100  # Baseline Requirements 6.1.1.3
_SIEVE: Final = 55440  # of its residues 2 in 100 are squares, so that few roots are taken
# Nemec et al., "The Return of Coppersmith's Attack", CCS 2017 (CVE-2017-15361, ROCA): the primes of
# Infineon's library are 65537^a modulo a product of the first primes, of at least these; so is the modulus.
_ROCA_LAST: Final = 167
_ROCA_GENERATOR: Final = 65537
_SHA256: Final = re.compile("[0-9A-Fa-f]{64}")


def verify_strength(public_key: CertificatePublicKeyTypes) -> None:
    """Raise `BadPublicKey` for an RSA key whose modulus is easily factored.

    Its size is within `keys.verify_bounds`, which bounds the work.
    """
    if not isinstance(public_key, rsa.RSAPublicKey):
        return
    modulus = public_key.public_numbers().n
    if math.gcd(modulus, _small_product()) != 1:
        raise _bad(f"the RSA modulus has a factor smaller than {_SMALL}")
    if _has_close_factors(modulus):
        raise _bad("the RSA modulus has two factors that are close, which Fermat's method finds")
    if all(modulus % prime in powers for prime, powers in _roca_residues()):
        raise _bad("the RSA key was made by a faulty library (ROCA, CVE-2017-15361): make another one")


def verify_not_issuer(subject_public_key_info: bytes, own: frozenset[bytes]) -> None:
    """Raise `BadPublicKey` for a key (DER) of the CA's own: its certificate would speak for the CA."""
    if subject_public_key_info in own:
        raise _bad("this is the CA's own key")


@dataclass(frozen=True)
class DenyList:
    """Keys that are never certified, such as stolen ones, or Debian's of 2008 (CVE-2008-0166).

    Attributes:
        digests: SHA-256 of each DER SubjectPublicKeyInfo.
    """

    digests: frozenset[bytes] = frozenset()

    @classmethod
    def load(cls, text: str) -> DenyList:
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

    def verify(self, subject_public_key_info: bytes) -> None:
        """Raise `BadPublicKey` if the key (DER) is on the list."""
        if self.digests and hashlib.sha256(subject_public_key_info).digest() in self.digests:
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
    return [n for n in range(2, last + 1) if all(n % divisor for divisor in range(2, math.isqrt(n) + 1))]


def _bad(detail: str) -> BadPublicKey:
    return BadPublicKey(detail, "public_key")

"""Private keys in KMS: subclasses of `cryptography`'s key classes whose `sign` calls KMS.

KMS accepts messages of at most 4,096 bytes, so the digest is calculated here (`MessageType=DIGEST`).
https://docs.aws.amazon.com/kms/latest/APIReference/API_Sign.html
"""

from __future__ import annotations

from typing import Any, Final, NoReturn, Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_der_public_key

from service import aws
from service.pki.errors import CAError

_SUFFIXES: Final = {"sha256": "SHA_256", "sha384": "SHA_384", "sha512": "SHA_512"}


def load_private_key(key_id: str, client: Any = None) -> CertificateIssuerPrivateKeyTypes:  # noqa: ANN401 - boto3's
    """Load a KMS key as a private key.

    Args:
        key_id: ID, ARN or alias of the key.
        client: a KMS client; default: created from the environment.

    Raises:
        CAError: the key is not an RSA or EC key for signing.
        CAUnavailable: KMS does not return its public key.
    """
    client = client or aws.create_client("kms")
    with aws.translate_errors("KMS"):
        response = client.get_public_key(KeyId=key_id)
    public_key = load_der_public_key(response["PublicKey"])
    if response["KeyUsage"] == "SIGN_VERIFY":
        if isinstance(public_key, ec.EllipticCurvePublicKey):
            return _EC(client, key_id, public_key)
        if isinstance(public_key, rsa.RSAPublicKey):
            return _RSA(client, key_id, public_key)
    raise CAError(f"KMS key {key_id} is not an RSA or EC key for signing")


class _Remote:
    """The common part of both kinds: sign by KMS, and refuse all other uses of the private key."""

    def __init__(self, client: Any, key_id: str, public_key: Any) -> None:  # noqa: ANN401 - of either kind
        self._client = client
        self._key_id = key_id
        self._public_key = public_key

    @property
    def key_size(self) -> int:
        """The size of the key in bits."""
        return int(self._public_key.key_size)

    def public_key(self) -> Any:  # noqa: ANN401 - of either kind
        """Return the public key that KMS returned."""
        return self._public_key

    def _sign(self, data: Any, algorithm: Any, family: str) -> bytes:  # noqa: ANN401 - the library's own
        digest = hashes.Hash(algorithm)
        digest.update(data)
        with aws.translate_errors("KMS"):
            response = self._client.sign(
                KeyId=self._key_id,
                Message=digest.finalize(),
                MessageType="DIGEST",
                SigningAlgorithm=f"{family}_{_SUFFIXES[algorithm.name]}",
            )
        return bytes(response["Signature"])

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _memo: dict[int, Any]) -> Self:
        return self

    def _unsupported(self, *_args: object, **_kwargs: object) -> NoReturn:
        raise NotImplementedError("the key never leaves KMS")

    private_numbers = private_bytes = exchange = decrypt = _unsupported


class _EC(_Remote, ec.EllipticCurvePrivateKey):
    @property
    def curve(self) -> ec.EllipticCurve:
        return self._public_key.curve  # type: ignore[no-any-return]

    def sign(self, data: Any, signature_algorithm: Any) -> bytes:  # noqa: ANN401 - the library's own
        return self._sign(data, signature_algorithm.algorithm, "ECDSA")


class _RSA(_Remote, rsa.RSAPrivateKey):
    def sign(self, data: Any, padding: Any, algorithm: Any) -> bytes:  # noqa: ANN401, ARG002 - the library's own
        return self._sign(data, algorithm, "RSASSA_PKCS1_V1_5")

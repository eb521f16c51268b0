"""Requests of ACME clients: JSON Web Signatures (RFC 7515) as RFC 8555 6.2 restricts them.

Parsing verifies the form only. The caller verifies what is cheap next, such as the nonce, and the signature
last, so that strangers cost no work with public keys.
"""

from __future__ import annotations

import functools
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self, cast

from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import PublicKeyAlgorithmOID
from joserfc import jwk, jws
from joserfc.errors import JoseError
from joserfc.jwk import Key, OctKey
from joserfc.jws import FlattenedJSONSerialization, JWSRegistry
from joserfc.registry import HeaderParameter

from service.pki import keys, weak_keys
from service.pki.acme_key import AcmeKey, ExternalKeyId
from service.pki.encoding import decode_base64url
from service.pki.errors import BadPublicKey, quote
from service.pki.keys import KeyKind
from service.pki.strict_json import parse_json
from service.web.acme_problems import AcmeError

MAX_HEADER: Final = 4_096  # characters in base64url; a header with an RSA key of 8,192 bits has some 2,200
MAX_PAYLOAD: Final = 128_000  # a CSR of 64 KiB is encoded twice
MAX_SIGNATURE: Final = 1_366  # 1,024 octets: RSA with 8,192 bits
ALGORITHMS: Final = {  # of a key -> of its signatures
    KeyKind.P256: "ES256",
    KeyKind.P384: "ES384",
    KeyKind.P521: "ES512",
    KeyKind.ED25519: "EdDSA",
    KeyKind.RSA: "RS256",
}
MAC_ALGORITHMS: Final = ("HS256", "HS384", "HS512")
WRONG_EXTERNAL_ACCOUNT: Final = (
    "the key identifier or the HMAC key of the external account is wrong: use those of this CA"
)
_KEY_TYPES: Final = {  # of a key -> of its JWK
    KeyKind.P256: "EC",
    KeyKind.P384: "EC",
    KeyKind.P521: "EC",
    KeyKind.ED25519: "OKP",
    KeyKind.RSA: "RSA",
}
_KEY_OIDS: Final = {
    KeyKind.RSA: PublicKeyAlgorithmOID.RSAES_PKCS1_v1_5,
    KeyKind.ED25519: PublicKeyAlgorithmOID.ED25519,
}
_KEY_MEMBERS: Final = {"EC": ("crv", "kty", "x", "y"), "OKP": ("crv", "kty", "x"), "RSA": ("e", "kty", "n")}
_CURVES: Final = {"EC": ("P-256", "P-384", "P-521"), "OKP": ("Ed25519",), "RSA": (None,)}
_STRING: Final = HeaderParameter("string", "str")
_NEW_KEY: Final = "use a new P-256, P-384, P-521 or Ed25519 key, or an RSA key of at least 2048 bits"


def _registry(algorithms: tuple[str, ...]) -> JWSRegistry:
    registry = JWSRegistry({"nonce": _STRING, "url": _STRING}, algorithms)
    registry.max_header_length = MAX_HEADER
    registry.max_signature_length = MAX_SIGNATURE
    return registry


_SIGNATURES: Final = _registry(tuple(ALGORITHMS.values()))
_MACS: Final = _registry(MAC_ALGORITHMS)


@dataclass(frozen=True)
class AccountKey:
    """The public key of an account.

    Attributes:
        members: the required members of its JWK (RFC 7638 3.2).
        public_key: the key.
    """

    members: Mapping[str, str]
    public_key: CertificatePublicKeyTypes = field(repr=False)
    _jwk: Key = field(repr=False, compare=False)

    @classmethod
    def parse(cls, data: object) -> Self:
        """Parse the JWK (RFC 7517) of a request.

        Raises:
            AcmeError: `malformed`; or `badPublicKey`, since the key is not of an accepted kind or size.
        """
        members = _required_members(data)
        if members["kty"] == "RSA":
            _verify_modulus(members["n"])
        try:
            account_key = cls._of(members)
            key = account_key.public_key
            kind = keys.kind_of(key)
            keys.verify_encoded_key(_oid(kind), keys.encode_public_key(key))
            canonical = _to_jwk(key, members["kty"])
        except BadPublicKey as error:
            raise _weak_key(error) from error
        except (JoseError, ValueError, TypeError, AttributeError) as error:
            raise _bad_key("the account key is not a valid JWK") from error
        if canonical != members:  # the same key would have several thumbprints
            raise _bad_key("the account key is not encoded as RFC 7518 6 requires, in full length")
        return account_key

    @classmethod
    @functools.lru_cache(maxsize=256)  # an issuance takes several requests
    def decode(cls, text: str) -> Self:
        """Decode the text of `encode`, which only the CA stores."""
        return cls._of(json.loads(text))

    @classmethod
    def _of(cls, members: Mapping[str, str]) -> Self:
        key = jwk.import_key(dict(members))
        return cls(members, cast("Any", key).public_key, key)

    def verify_strength(self) -> None:
        """Verify that the key of a new account is not weak, which takes some milliseconds for RSA.

        Raises:
            AcmeError: `badPublicKey`, since others can calculate the private key.
        """
        try:
            weak_keys.verify_strength(self.public_key)
        except BadPublicKey as error:
            raise _weak_key(error) from error

    @property
    def algorithm(self) -> str:
        """The algorithm of its signatures."""
        return ALGORITHMS[keys.kind_of(self.public_key)]

    @property
    def thumbprint(self) -> str:
        """Its thumbprint (RFC 7638), SHA-256 in base64url."""
        return jwk.thumbprint(dict(self.members))

    def encode(self) -> str:
        """Encode as JSON."""
        return json.dumps(self.members, sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True)
class SignedRequest:
    """A request whose form is right, and whose signature is not verified yet.

    Attributes:
        algorithm, nonce, url: of the protected header; the nonce is '' in an external account binding.
        key_id: the URL of the account, or the identifier of the external account key; '' if there is a key.
        key: the JWK; None if there is a key identifier.
        payload: the content; empty for a POST-as-GET.
    """

    algorithm: str
    nonce: str
    url: str
    key_id: str
    key: Mapping[str, object] | None
    payload: bytes = field(repr=False)
    _encoded: FlattenedJSONSerialization = field(repr=False)

    def verify(self, key: AccountKey) -> None:
        """Verify the signature.

        Raises:
            AcmeError: `badSignatureAlgorithm`, since the key has another one; or `malformed`.
        """
        if self.algorithm != key.algorithm:
            raise AcmeError(
                "badSignatureAlgorithm",
                f"the account key signs with {key.algorithm}, not {self.algorithm}",
                algorithms=[key.algorithm],
            )
        _verify(self._encoded, key._jwk, _SIGNATURES)  # noqa: SLF001 - of the same module

    def json(self) -> dict[str, Any]:
        """Parse the payload as a JSON object; raise `AcmeError` if it is not one."""
        return _parse_object(self.payload, "the payload")


def parse_request(body: Mapping[str, Any], url: str) -> SignedRequest:
    """Parse the body of a POST request.

    Args:
        body: the body, a flattened JSON serialization.
        url: the URL of the request, as clients know it.

    Raises:
        AcmeError: `malformed`; `badSignatureAlgorithm`, with the algorithms that are accepted; or
            `unauthorized`, since the request was signed for another URL (RFC 8555 6.4).
    """
    request = _parse(body, _SIGNATURES)
    if not request.nonce:
        raise _malformed("the protected header has no nonce")
    if request.url != url:
        signed = f"the request was signed for {quote(request.url, 200)}, not for {url}"
        raise AcmeError("unauthorized", f"{signed}: use the URLs of the directory")
    return request


def parse_inner_request(data: Mapping[str, Any], url: str) -> SignedRequest:
    """Parse the JWS inside a request for another account key (RFC 8555 7.3.5), which has no nonce.

    Raises:
        AcmeError: `malformed`, or `badSignatureAlgorithm`.
    """
    inner = _parse(data, _SIGNATURES)
    if inner.nonce:
        raise _malformed("the inner JWS has a nonce")
    if inner.url != url:
        raise _malformed("the url of the inner JWS is not that of the request")
    return inner


def thumbprint_of(key: object) -> str:
    """The thumbprint (RFC 7638) of a JWK that is not parsed yet; raise `AcmeError` if its form is wrong.

    It is the same as that of the parsed key, since a key has one encoding.
    """
    return jwk.thumbprint(dict(_required_members(key)))


def thumbprint_of_public_key(key: CertificatePublicKeyTypes) -> str:
    """The thumbprint of a key of any kind; '' if an account cannot have such a key."""
    key_type = _KEY_TYPES.get(keys.kind_of(key))
    return jwk.thumbprint(_to_jwk(key, key_type)) if key_type else ""


def verify_external_account(binding: object, request: SignedRequest, acme_key: AcmeKey) -> ExternalKeyId:
    """Verify an external account binding (RFC 8555 7.3.4).

    Args:
        binding: the member `externalAccountBinding` of the request's payload.
        request: the request for a new account.
        acme_key: the key from which external account keys are derived.

    Returns:
        the identifier of the external account key, whether or not the principal exists.

    Raises:
        AcmeError: `malformed`, or `badSignatureAlgorithm`; or `unauthorized`, since the key identifier or
            the MAC is wrong.
    """
    if not isinstance(binding, dict):
        raise _malformed("externalAccountBinding is not an object")
    inner = _parse(binding, _MACS)
    if inner.nonce or inner.key is not None:
        raise _malformed("the header of externalAccountBinding has a nonce or a jwk")
    if inner.url != request.url:
        raise _malformed("the url of externalAccountBinding is not that of the request")
    try:
        key_id = ExternalKeyId.parse(inner.key_id)
        _verify(inner._encoded, OctKey.import_key(acme_key.external_account_key(key_id)), _MACS)  # noqa: SLF001 - of the same class
    except (ValueError, AcmeError) as error:
        raise AcmeError("unauthorized", WRONG_EXTERNAL_ACCOUNT) from error
    if not hmac.compare_digest(_canonical_key(inner.json()), _canonical_key(request.key)):
        raise _malformed("the payload of externalAccountBinding is not the account key of the request")
    return key_id


def _parse(data: Mapping[str, Any], registry: JWSRegistry) -> SignedRequest:
    if set(data) != {"protected", "payload", "signature"}:
        raise _malformed("a JWS has the members protected, payload and signature, and no others")
    limits = {"protected": MAX_HEADER, "payload": MAX_PAYLOAD, "signature": MAX_SIGNATURE}
    parts = {name: decode(name, data[name], limit) for name, limit in limits.items()}
    header = _parse_object(parts["protected"], "the protected header")
    algorithm = header.pop("alg", None)
    algorithms = cast("tuple[str, ...]", registry.allowed)
    if algorithm not in algorithms:
        detail = f"algorithm {quote(str(algorithm))} is not accepted; sign with {', '.join(algorithms)}"
        raise AcmeError("badSignatureAlgorithm", detail, algorithms=list(algorithms))
    has_one_key = ("jwk" in header) is not ("kid" in header)
    key, texts = header.pop("jwk", None), {name: header.pop(name, "") for name in ("kid", "nonce", "url")}
    header.pop("typ", None)  # for applications (RFC 7515 4.1.9); ruby-acme-client sends it
    if header:
        raise _malformed(f"the protected header has the member {quote(next(iter(header)))}")
    if not all(isinstance(text, str) for text in texts.values()):
        raise _malformed("kid, nonce or url in the protected header is not a string")
    if not has_one_key or not (isinstance(key, dict) or texts["kid"]):
        raise _malformed("the protected header needs either a jwk or a kid")
    encoded = cast("FlattenedJSONSerialization", dict(data))
    return SignedRequest(
        algorithm, texts["nonce"], texts["url"], texts["kid"], key, parts["payload"], encoded
    )


def _verify(encoded: FlattenedJSONSerialization, key: Any, registry: JWSRegistry) -> None:  # noqa: ANN401 - of any kind
    try:
        jws.deserialize_json(encoded, key, registry=registry)
    except (JoseError, ValueError) as error:
        raise _malformed("the signature of the request is wrong") from error


def _required_members(data: object) -> Mapping[str, str]:
    if not isinstance(data, dict):
        raise _malformed("the jwk is not an object")
    if not keys.PRIVATE_JWK_MEMBERS.isdisjoint(data):
        raise _malformed("the jwk contains a private key: send only the public key, and use a new key")
    key_type, curve = str(data.get("kty")), data.get("crv")
    names = _KEY_MEMBERS.get(key_type)
    if names is None or curve not in _CURVES[key_type]:
        raise _bad_key(f"the account key has the type {quote(key_type)} and the curve {quote(str(curve))}")
    members = {name: data.get(name) for name in names}
    if not all(isinstance(value, str) for value in members.values()):
        raise _malformed(f"the jwk lacks one of the members {', '.join(names)}")
    return cast("Mapping[str, str]", members)


def _to_jwk(key: CertificatePublicKeyTypes, key_type: str) -> dict[str, Any]:
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return dict(jwk.import_key(pem, cast("Any", key_type)).as_dict(private=False))


def _verify_modulus(text: str) -> None:
    """Verify the length of an RSA modulus before any arithmetic with it."""
    bits = int.from_bytes(decode("n", text, MAX_SIGNATURE), "big").bit_length()
    if not keys.RSA_MIN_BITS <= bits <= keys.RSA_MAX_BITS:
        raise _bad_key(f"the RSA modulus of the account key has {bits} bits")


def _canonical_key(data: object) -> bytes:
    return json.dumps(_required_members(data), sort_keys=True).encode()


def _oid(kind: KeyKind) -> Any:  # noqa: ANN401 - the library's
    return _KEY_OIDS.get(kind, PublicKeyAlgorithmOID.EC_PUBLIC_KEY)


def decode(name: str, text: object, limit: int) -> bytes:
    """Decode base64url without padding (RFC 7515 2), in its only encoding."""
    if isinstance(text, str) and len(text) > limit:
        raise _malformed(f"{name} has {len(text)} characters; at most {limit} are accepted")
    try:
        return decode_base64url(cast("str", text))
    except (TypeError, ValueError) as error:
        raise _malformed(f"{name} is not base64url without padding") from error


def _parse_object(data: bytes, label: str) -> dict[str, Any]:
    try:
        value = parse_json(data)
    except ValueError as error:
        raise _malformed(f"{label} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise _malformed(f"{label} is not a JSON object")
    return value


def _malformed(detail: str) -> AcmeError:
    return AcmeError("malformed", detail)


def _weak_key(error: BadPublicKey) -> AcmeError:
    return AcmeError("badPublicKey", f"account key: {error.detail}")


def _bad_key(detail: str) -> AcmeError:
    return AcmeError("badPublicKey", f"{detail}: {_NEW_KEY}")

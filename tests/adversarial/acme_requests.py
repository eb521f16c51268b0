"""Hostile requests of ACME clients: valid ones of each operation, with one to three mutations.

A mutated header or payload is signed, so that its signature is not the reason to refuse it.
"""

from __future__ import annotations

import base64
import copy
import hmac
import json
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc.jwk import ECKey

from service.ledger_protocol import new_id
from service.pki.acme_key import AcmeKey, ExternalKeyId
from tests import csrs, factories
from tests.web import jws_requests
from tests.web.acme_client import JOSE, AcmeClient
from tests.web.jws_requests import P384, encode

Json = dict[str, Any]

# JSON that `json.dumps` does not write, in the place of a string.
_RAW: Final = {
    f'"@{name}"': text
    for name, text in {
        "deep": "[" * 700 + "]" * 700,
        "deep object": '{"a":' * 300 + "0" + "}" * 300,
        "deeper": "[" * 2_000,
        "deepest": "[" * 40_000 + "]" * 40_000,
        "digits": "1" * 2_500,
        "more digits": "1" * 5_000,
        "nan": "NaN",
        "infinity": "1e999",
        "surrogate": '"\\ud800"',
        "duplicate": '{"a":1,"a":2}',
        "escapes": '"\\u0000\\u001b[31m\\u202e\\r\\nX-Header: a"',
    }.items()
}
_VALUES: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, 1, -1, 2**64, 1.5, "", "a", "0", " ", "\x7f", "é", "<script>", "%00", "*"),
    *("a" * 1_500, "a" * 90_000, [], [[]], ["a"], [None], [{}], {}, {"a": 1}, {"": {"": []}}),
    *(name.strip('"') for name in _RAW),
)
_NAMES: Final = (
    *(
        "a..b",
        "*",
        "*.*.example.com",
        "*.com",
        "a." * 130,
        "xn--a",
        "é.example",
        "\uff11.example",
        "localhost",
    ),
    *("a_b.example", "-a.example", "a.example.", "10.0.0.1", "fe80::1%eth0", "::ffff:1.2.3.4", "010.1.1.1"),
)
_TIMES: Final = (
    *("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-11-29", "2026-W48-7T00:00:00Z", "now"),
    *("2030-01-01T00:00:60Z", "2030-01-01T00:00:00.5Z", "٢030-01-01T00:00:00Z", "2030-01-01T24:00:00Z"),
)
_ALGORITHMS: Final = (
    *("none", "None", "", "HS256", "HS512", "ES384", "ES512", "RS256", "RS1", "PS256", "EdDSA", "ES256K"),
    *("es256", "ES256 ", ["ES256"], {"ES256": 1}, None, 256, "ECDH-ES", "dir"),
)
_HEADER_MEMBERS: Final = ("alg", "nonce", "url", "kid", "jwk", "typ", "crit", "b64", "jku", "x5c", "zip", "")
_ENCODINGS: Final[tuple[Callable[[str], str], ...]] = (
    lambda text: text + "=",
    lambda text: text + "\n",
    lambda text: f" {text}",
    lambda text: text[:-1] + chr(ord(text[-1:] or "A") ^ 1),
    lambda text: text[:-1],
    lambda text: text + "A",
    lambda text: text + "+/",
    lambda text: text + "é",
    lambda text: text + "\ud800",
    str.swapcase,
    lambda text: text * 3,
    lambda text: text * 60,
    lambda _text: "",
)
_BODIES: Final[tuple[Callable[[bytes], bytes], ...]] = (
    lambda body: b"\xef\xbb\xbf" + body,
    lambda body: body.decode().encode("utf-16"),
    lambda body: body + body,
    lambda body: body + b"\0",
    lambda body: body[:-1],
    lambda body: b"[" + body + b"]",
    lambda body: body[:-1] + b',"payload":""}',
    lambda body: body[:-1] + b',"header":{"alg":"none"}}',
    lambda body: b'{"payload":"","signatures":[' + body + b"]}",
    lambda body: b"[" * 100_000 + body,
    lambda body: body + b" " * 200_000,
    lambda body: body.replace(b'"', b"\xff"),
    lambda body: json.dumps(".".join(json.loads(body).values())).encode(),
    lambda _body: b"null",
    lambda _body: b"{}",
    lambda _body: b"",
)
_MEDIA_TYPES: Final = ("application/json", "application/jose", "a", "application/jose+json; charset=utf-16")


class HostileRequest(NamedTuple):
    """A request, and the names of its mutations."""

    operation: str
    url: str
    body: bytes
    headers: Mapping[str, str]
    mutations: tuple[str, ...]


@dataclass
class Draft:
    """A request before it is signed.

    Attributes:
        key: a P-256 key, or the octets of a MAC key.
        inner: the JWS in the member of the payload, or which is the payload if the member is "".
    """

    url: str
    header: Json
    payload: Any
    key: Any
    member: str = ""
    inner: Draft | None = None
    headers: Json = field(default_factory=lambda: dict(JOSE))

    def sign(self) -> Json:
        """Return the JWS."""
        payload = self.payload
        if self.inner:
            jws = self.inner.sign()
            payload = {**payload, self.member: jws} if self.member and isinstance(payload, dict) else jws
        return _sign(self.key, self.header, payload)


def _dumps(value: object) -> str:
    text = json.dumps(value)
    for name, raw in _RAW.items():
        text = text.replace(name, raw)
    return text


def _sign(key: Any, header: object, payload: object) -> Json:
    parts = [encode(_dumps(part).encode()) if part is not None else "" for part in (header, payload)]
    message = ".".join(parts).encode()
    if isinstance(key, bytes):
        signature = hmac.digest(key, message, "sha256")
    else:
        numbers = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
        signature = b"".join(number.to_bytes(32, "big") for number in numbers)
    return dict(zip(("protected", "payload", "signature"), (*parts, encode(signature)), strict=True))


def _number(value: int, length: int = 0) -> str:
    return encode(value.to_bytes(length or (value.bit_length() + 7) // 8, "big"))


def _hostile_keys(valid: Json) -> list[Json]:
    """JWKs that are not the key of an account; most of them are no valid keys."""
    x, prime = int.from_bytes(b"\x7f" * 32, "big"), 2**256 - 2**224 + 2**192 + 2**96 - 1
    points = [(0, 0), (1, 1), (x, x), (prime, 1), (prime - 1, prime - 1), (2**256 - 1, 2**256 - 1)]
    small = rsa.generate_private_key(65537, 1024).public_key().public_numbers().n
    modulus = 2**2048 - 2**1024 - 1
    exponents = [(modulus, exponent) for exponent in (0, 1, 2, 3, 65536, 2**2047 + 1, modulus - 2)]
    moduli = [(n, 65537) for n in (small, 0, 1, 2**2047, 2**2048 - 1, 2**8191 + 1, 2**8200 - 1)]
    ed25519 = [b"\0" * 32, b"\xff" * 32, b"\x01" + b"\0" * 31, b"\1" * 31, b"\1" * 57, b""]
    return [
        *({**valid, "x": _number(x, 32), "y": _number(y, 32)} for x, y in points),
        *({**valid, "crv": curve} for curve in ("P-384", "P-521", "secp256k1", "Ed25519", "", None, ["P-256"])),
        {**valid, "x": encode(b"\0" + b"\1" * 32)},
        {**valid, "x": valid["x"] + "="},
        {**valid, "x": valid["y"], "y": valid["x"]},
        {**valid, "d": encode(b"\1" * 32)},
        {**valid, "use": "enc", "key_ops": "@deep"},
        *({"kty": "RSA", "n": _number(n), "e": _number(e)} for n, e in (*exponents, *moduli)),
        {"kty": "RSA", "n": encode(b"\0" * 257 + b"\xff" * 200), "e": "AQAB"},
        {"kty": "RSA", "n": _number(modulus), "e": encode(b"\xff" * 1_500)},
        *({"kty": "OKP", "crv": curve, "x": encode(data)} for curve in ("Ed25519", "Ed448", "X25519") for data in ed25519),
        *({"kty": kind, "k": "AAAA"} for kind in (*("oct", "ec", "AKP"), *_VALUES[:3])),
        jws_requests.jwk(P384),
    ]  # fmt: skip


class Generator:
    """Generates requests against one site."""

    def __init__(self, owner: AcmeClient, other: AcmeClient, acme_key: AcmeKey, principal: str) -> None:
        """Prepare keys, an order, and certificates.

        Args:
            owner: the client whose account signs, unless a stranger does.
            other: a client with another account, whose key the owner cannot take.
            acme_key: derives the keys of external account bindings.
            principal: that of the bindings.
        """
        key_id = ExternalKeyId(principal, 1)
        self._key_id, self._mac_key = key_id.encode(), acme_key.external_account_key(key_id)
        self._owner_key, self._other_key = _private_key(owner), _private_key(other)
        self._stranger_key = ec.generate_private_key(ec.SECP256R1())
        self._account, self._directory = owner.account, owner.directory
        self._order = owner.order("dns:a.example.com").json()
        valid = owner.finalize(self._order).json()
        self._order = owner.order("dns:a.example.com").json()
        leaf = x509.load_pem_x509_certificate(owner.post(valid["certificate"]).body)
        forged = factories.ca(
            issuer=leaf.issuer,
            subject="a",
            public_key=self._stranger_key.public_key(),
            signing_key=self._stranger_key,
        )
        self._certificates = [encode(item.public_bytes(Encoding.DER)) for item in (forged, factories.ca())]
        self._hostile_keys = _hostile_keys(_jwk(self._stranger_key))
        self._csr = encode(csrs.encode_der(csrs.build(None, ["dns:b.example.com"])))
        self._guess = self._account[:-22] + new_id()  # the URL of no account
        captured = self._binding(self._owner_key).sign()
        self._bindings: list[Any] = [captured, *_VALUES]  # of other keys, or none

    def generate(
        self, rng: random.Random, nonce: str, *, is_stranger: bool, mutations: int
    ) -> HostileRequest:
        """Generate a request.

        Args:
            rng: chooses all but keys.
            nonce: a nonce of the site.
            is_stranger: whether no account signs, and the caller knows no URL of an account or order.
            mutations: their number.
        """
        operation, url, payload = rng.choice(self._operations())
        key, account = self._owner_key, self._account
        if is_stranger:
            key, account = self._stranger_key, self._guess
            url = re.sub(r"/[A-Za-z0-9_-]{22}", lambda _: f"/{new_id()}", url)
        has_key = operation == "new-account" or (is_stranger and rng.random() < 0.4)
        identity = {"jwk": _jwk(key)} if has_key else {"kid": account}
        header = {"alg": "ES256", "nonce": nonce, "url": url} | identity
        draft = Draft(url, header, copy.deepcopy(payload), key)
        if operation == "key-change":
            content = {"account": account, "oldKey": _jwk(key)}
            inner_header = {"alg": "ES256", "jwk": _jwk(self._other_key), "url": url}
            draft.inner = Draft(url, inner_header, content, self._other_key)
        elif operation == "new-account" and is_stranger:
            draft.payload["externalAccountBinding"] = copy.deepcopy(rng.choice(self._bindings))
            if rng.random() < 0.5:
                draft.member, draft.inner = "externalAccountBinding", self._binding(key)
                draft.inner.key = rng.choice([b"", b"\0" * 64, self._mac_key[:-1], key])
        elif operation == "new-account":
            draft.member, draft.inner = "externalAccountBinding", self._binding(key)
        names = tuple(self._mutate(draft, rng) for _ in range(mutations))
        jws = draft.sign()
        body = json.dumps(jws).encode()
        if mutations and rng.random() < 0.15:
            body, name = _mutate_signed(jws, rng)
            names += (name,)
        return HostileRequest(operation, url, body, draft.headers, names)

    def _operations(self) -> list[tuple[str, str, Any]]:
        order = self._order["authorizations"][0].rpartition("/")[0]
        order_url = self._order["finalize"].removesuffix("/finalize")
        identifiers = [{"type": "dns", "value": "a.example.com"}, {"type": "ip", "value": "10.0.0.1"}]
        return [
            ("new-account", self._directory["newAccount"], {"contact": ["mailto:a@example.com"]}),
            ("account", self._account, {"contact": ["mailto:a@example.com"], "status": "valid"}),
            ("orders", f"{self._account}/orders", None),
            ("key-change", self._directory["keyChange"], {}),
            ("new-order", self._directory["newOrder"], {"identifiers": identifiers, "profile": "server"}),
            ("order", order_url, None),
            ("finalize", self._order["finalize"], {"csr": self._csr}),
            ("authorization", f"{order}/0", {"status": "valid"}),
            ("challenge", f"{order}/0".replace("authorization", "challenge"), {}),
            ("certificate", order_url.replace("order", "certificate"), None),
            *(("revoke-cert", self._directory["revokeCert"], {"certificate": der, "reason": 1}) for der in self._certificates),
        ]  # fmt: skip

    def _binding(self, key: Any) -> Draft:
        url = self._directory["newAccount"]
        return Draft(url, {"alg": "HS256", "kid": self._key_id, "url": url}, _jwk(key), self._mac_key)

    def _mutate(self, draft: Draft, rng: random.Random) -> str:
        """Change a request in one way, and return its name."""
        if draft.inner and rng.random() < 0.5:
            draft = draft.inner
        mutations = (self._change_header, self._change_algorithm, self._change_url, self._change_key)
        (mutation,) = rng.choices(
            (*mutations, self._change_payload, _change_nonce, _change_media_type), (4, 2, 1, 5, 12, 1, 1)
        )
        mutation(draft, rng)
        return mutation.__name__

    def _change_header(self, draft: Draft, rng: random.Random) -> None:
        member = rng.choice(_HEADER_MEMBERS)
        draft.header[member] = rng.choice(_VALUES)
        if rng.random() < 0.2:
            del draft.header[member]

    def _change_algorithm(self, draft: Draft, rng: random.Random) -> None:
        draft.header["alg"] = rng.choice(_ALGORITHMS)
        if draft.header["alg"] == "HS256" and rng.random() < 0.5 and not isinstance(draft.key, bytes):
            encoding = (Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            draft.key = draft.key.public_key().public_bytes(*encoding)

    def _change_url(self, draft: Draft, rng: random.Random) -> None:
        url = draft.url
        others = [url + "/", url + "?a=1", url.upper(), url.replace("https", "http"), f"{url}#a", f" {url}"]
        draft.header["url"] = rng.choice(
            [*others, *self._directory.values(), self._account, self._guess, "/"]
        )

    def _change_key(self, draft: Draft, rng: random.Random) -> None:
        keys: list[Any] = [*self._hostile_keys, _jwk(self._other_key), {**_jwk(self._stranger_key)}]
        key = dict(rng.choice(keys))
        if rng.random() < 0.3:
            key[rng.choice(("kty", "crv", "x", "y", "n", "e", "a"))] = rng.choice(_VALUES)
        if isinstance(draft.payload, dict) and "oldKey" in draft.payload and rng.random() < 0.5:
            draft.payload["oldKey"] = key
            return
        draft.header["jwk"] = key
        if rng.random() < 0.7:
            draft.header.pop("kid", None)

    def _change_payload(self, draft: Draft, rng: random.Random) -> None:
        if not isinstance(draft.payload, dict) or rng.random() < 0.1:
            draft.payload = rng.choice(_VALUES)
            return
        members = (
            *("contact", "status", "onlyReturnExisting", "termsOfServiceAgreed", "externalAccountBinding"),
            *("identifiers", "notBefore", "notAfter", "replaces", "profile", "csr", "certificate", "reason"),
            *("account", "oldKey", "a"),
        )
        member = rng.choice([*list(draft.payload) * 6, *members])
        value = copy.deepcopy(rng.choice(_VALUES))
        if member == "status" and value == "deactivated":
            value = None
        draft.payload[member] = value
        if member == "identifiers":
            draft.payload[member] = _identifiers(rng)
        elif member in {"notBefore", "notAfter"}:
            draft.payload[member] = rng.choice([*_TIMES, value])
        elif member == "replaces":
            draft.payload[member] = rng.choice(
                [f"{encode(bytes(20))}.{encode(bytes(20))}", ".", "AA.AA", value]
            )
        elif member in {"csr", "certificate"}:
            der = bytearray(base64.urlsafe_b64decode(rng.choice([self._csr, *self._certificates]) + "=="))
            der[rng.randrange(len(der))] ^= rng.randrange(1, 256)
            draft.payload[member] = rng.choice([encode(bytes(der)), encode(rng.randbytes(99)), value])
        elif member == "contact":
            contacts = ["mailto:a", "MAILTO:\r\n", "tel:1", "mailto:" + "a" * 400, value, "mailto:é\ud800"]
            draft.payload[member] = [rng.choice(contacts) for _ in range(rng.randrange(12))]


def _private_key(client: AcmeClient) -> Any:
    return cast("ECKey", client.key).private_key


def _jwk(key: ec.EllipticCurvePrivateKey) -> Json:
    numbers = key.public_key().public_numbers()
    return {"crv": "P-256", "kty": "EC", "x": _number(numbers.x, 32), "y": _number(numbers.y, 32)}


def _identifiers(rng: random.Random) -> Any:
    def identifier() -> Any:
        kind = rng.choice([*["dns", "ip"] * 4, "DNS", "email", *rng.sample(_VALUES, 2)])
        return {"type": kind, "value": rng.choice([*_NAMES, *rng.sample(_VALUES, 3)])}

    count = rng.choice([1, 1, 1, 1, 2, 5, 101, 1_000])
    if rng.random() < 0.2:
        return [rng.choice(_VALUES) for _ in range(min(count, 3))]
    return [{"type": "dns", "value": f"{number}.example.com"} for number in range(count - 1)] + [identifier()]


def _change_nonce(draft: Draft, rng: random.Random) -> None:
    nonce = str(draft.header.get("nonce", ""))
    draft.header["nonce"] = rng.choice(
        [nonce[:-1], nonce + "A", nonce.swapcase(), f"{nonce}=", "", "A" * len(nonce), "A" * 3_000]
    )


def _change_media_type(draft: Draft, rng: random.Random) -> None:
    draft.headers["Content-Type"] = rng.choice(_MEDIA_TYPES)


def _mutate_signed(jws: Json, rng: random.Random) -> tuple[bytes, str]:
    """Change a request after it was signed; return the body, and the mutation's name."""
    kind = rng.choice(("encoding", "member", "body", "signature"))
    name = rng.choice(tuple(jws))
    if kind == "encoding":
        jws[name] = rng.choice(_ENCODINGS)(jws[name])
    elif kind == "signature":
        jws["signature"] = rng.choice([encode(bytes(64)), encode(b"\xff" * 64), encode(bytes(1_024)), "AA"])
    elif kind == "member":
        jws[rng.choice([name, "header", "signatures", ""])] = rng.choice(_VALUES)
        if rng.random() < 0.3:
            del jws[name]
    body = _dumps(jws).encode("utf-8", "surrogatepass")
    return rng.choice(_BODIES)(body) if kind == "body" else body, kind

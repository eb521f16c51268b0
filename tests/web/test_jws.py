"""JSON Web Signatures of ACME clients: their form, their keys and their signatures."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from acme import messages
from acme.jws import JWS
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from josepy.jwa import ES256, ES384, ES512, RS256
from josepy.jwk import JWKEC, JWKRSA
from joserfc.jwk import OKPKey, thumbprint

from service.pki.acme_key import AcmeKey, ExternalKeyId
from service.web import jws
from service.web.acme_problems import AcmeError
from service.web.jws import AccountKey, SignedRequest
from tests.web import jws_requests
from tests.web.jws_requests import KEYS, KID, NONCE, P256, RSA, URL, binding, request

ACME_KEY = AcmeKey(bytes(32))
KEY_ID = ExternalKeyId("web", 1)
MAC_KEY = ACME_KEY.external_account_key(KEY_ID)
JWK = jws_requests.jwk(P256)
NEW_ACCOUNT = request({"termsOfServiceAgreed": True})
SIGNED: dict[str, Any] = json.loads(NEW_ACCOUNT)


def parse(body: bytes) -> SignedRequest:
    return jws.parse_request(json.loads(body), URL)


def verify(body: bytes) -> SignedRequest:
    """Parse a request with a JWK, and verify its signature."""
    signed = parse(body)
    signed.verify(AccountKey.parse(signed.key))
    return signed


def error_of(call: Callable[[], object]) -> AcmeError:
    with pytest.raises(AcmeError) as caught:
        call()
    return caught.value


@pytest.mark.parametrize("algorithm", KEYS)
def test_request_is_verified(algorithm: str) -> None:
    """With each kind of key; with the key itself, or with the URL of the account."""
    key = KEYS[algorithm]
    signed = verify(request({"a": 1}, key, algorithm))
    assert (signed.algorithm, signed.nonce, signed.url, signed.key_id) == (algorithm, NONCE, URL, "")
    assert signed.json() == {"a": 1}
    by_account = parse(request(None, key, algorithm, jwk=None, kid=KID))
    assert (by_account.key_id, by_account.key, by_account.payload) == (KID, None, b"")
    by_account.verify(AccountKey.parse(jws_requests.jwk(key)))


def test_type_in_the_header_is_ignored() -> None:
    """RFC 7515 4.1.9; ruby-acme-client sends it."""
    assert verify(request({"a": 1}, typ="JWT")).json() == {"a": 1}


@pytest.mark.parametrize("algorithm", KEYS)
def test_signature_of_another_key_is_refused(algorithm: str) -> None:
    """Also one over another content."""
    key, other = KEYS[algorithm], jws_requests.new_key(algorithm)
    body = request({"a": 1}, other, algorithm, jwk=jws_requests.jwk(key))
    assert error_of(lambda: verify(body)).code == "malformed"
    changed = json.loads(request({"a": 1}, key, algorithm)) | {"payload": jws_requests.encode(b'{"a":2}')}
    assert error_of(lambda: verify(json.dumps(changed).encode())).code == "malformed"


@given(st.sampled_from(["payload", "protected", "signature"]), st.integers(0), st.integers(1, 255))
def test_changed_octet_is_refused(member: str, position: int, mask: int) -> None:
    """Wherever it is, and with no other exception."""
    octets = bytearray(jws.decode(member, SIGNED[member], 10_000))
    octets[position % len(octets)] ^= mask
    body = json.dumps(SIGNED | {member: jws_requests.encode(bytes(octets))}).encode()
    error = error_of(lambda: verify(body))
    assert error.code in {"malformed", "badSignatureAlgorithm", "unauthorized", "badPublicKey"}


@given(st.dictionaries(st.sampled_from(["protected", "payload", "signature", "header", "signatures"]), st.none() | st.integers() | st.text(max_size=20) | st.lists(st.text(max_size=3), max_size=3), max_size=4))  # fmt: skip
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_other_members_are_malformed(body: dict[str, Any]) -> None:
    assert error_of(lambda: jws.parse_request(body, URL)).code == "malformed"


HEADER_VALUES = st.none() | st.integers() | st.text(max_size=20) | st.lists(st.text(max_size=3), max_size=2) | st.dictionaries(st.text(max_size=3), st.integers(), max_size=2)  # fmt: skip


@given(st.dictionaries(st.sampled_from(["alg", "nonce", "url", "kid", "jwk", "crit", "b64", "x5c", "jku"]), HEADER_VALUES))  # fmt: skip
def test_any_header_is_refused_as_a_problem(members: dict[str, Any]) -> None:
    """Whatever the types of its members are."""
    header = {"alg": "ES256", "nonce": NONCE, "url": URL, "jwk": JWK} | members
    body = json.dumps(SIGNED | {"protected": jws_requests.encode(json.dumps(header).encode())}).encode()
    if header != {"alg": "ES256", "nonce": NONCE, "url": URL, "jwk": JWK}:
        assert error_of(lambda: verify(body)).status in {400, 403}


@given(st.fixed_dictionaries({}, optional={name: HEADER_VALUES | st.just(JWK.get(name)) for name in ("kty", "crv", "x", "y", "n", "e", "d", "use", "alg")}))  # fmt: skip
def test_any_jwk_is_parsed_or_refused_as_a_problem(members: dict[str, Any]) -> None:
    try:
        key = AccountKey.parse(members)
    except AcmeError as error:
        assert error.code in {"malformed", "badPublicKey"}
    else:
        assert dict(key.members) == JWK


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        ({"url": "https://ca.example/prod/acme/other"}, "unauthorized", "use the URLs of the directory"),
        ({"url": URL + "?"}, "unauthorized", "signed for"),
        ({"url": None}, "unauthorized", "signed for"),
        ({"nonce": None}, "malformed", "no nonce"),
        ({"nonce": ""}, "malformed", "no nonce"),
        ({"nonce": 5}, "malformed", "not a string"),
        ({"kid": KID}, "malformed", "either a jwk or a kid"),
        ({"jwk": None}, "malformed", "either a jwk or a kid"),
        ({"jwk": "x"}, "malformed", "either a jwk or a kid"),
        ({"jwk": None, "kid": ""}, "malformed", "either a jwk or a kid"),
        ({"jwk": None, "kid": 5}, "malformed", "not a string"),
        ({"crit": ["exp"], "exp": 1}, "malformed", "'crit'"),
        ({"cty": "JWT"}, "malformed", "'cty'"),
        ({"b64": False, "crit": ["b64"]}, "malformed", "member"),
        ({"x5u": "https://a.example"}, "malformed", "'x5u'"),
    ],
)  # fmt: skip
def test_header_is_strict(change: dict[str, Any], code: str, text: str) -> None:
    """Before the signature is verified."""
    header = {"alg": "ES256", "nonce": NONCE, "url": URL, "jwk": JWK} | change
    header = {name: value for name, value in header.items() if value is not None}
    body = SIGNED | {"protected": jws_requests.encode(json.dumps(header).encode())}
    error = error_of(lambda: parse(json.dumps(body).encode()))
    assert error.code == code
    assert text in error.detail


@pytest.mark.parametrize("algorithm", ["none", "HS256", "PS256", "RS1", "RS512", "ES256K", "Ed25519", "", None, 5, ["ES256"]])  # fmt: skip
def test_other_algorithm_is_refused(algorithm: Any) -> None:
    """The problem lists the algorithms that are accepted (RFC 8555 6.2)."""
    header = {"alg": algorithm, "nonce": NONCE, "url": URL, "jwk": JWK}
    body = SIGNED | {"protected": jws_requests.encode(json.dumps(header).encode())}
    error = error_of(lambda: parse(json.dumps(body).encode()))
    assert error.code == "badSignatureAlgorithm"
    assert error.members["algorithms"] == ["ES256", "ES384", "ES512", "EdDSA", "RS256"]


def test_algorithm_must_be_that_of_the_key() -> None:
    """ES256 with a P-384 key, or RS256 with an EC key, is refused before the signature is verified."""
    for key, algorithm in ((jws_requests.P384, "ES256"), (RSA, "ES256"), (P256, "RS256")):
        header = {"alg": algorithm, "nonce": NONCE, "url": URL, "jwk": jws_requests.jwk(key)}
        body = SIGNED | {"protected": jws_requests.encode(json.dumps(header).encode())}
        error = error_of(lambda body=body: verify(json.dumps(body).encode()))  # type: ignore[misc]
        assert error.code == "badSignatureAlgorithm"
        assert error.members["algorithms"] == [AccountKey.parse(jws_requests.jwk(key)).algorithm]


@pytest.mark.parametrize(
    "change",
    [
        {"header": {}},
        {"header": {"alg": "ES256"}},
        {"signatures": []},
        {"extra": 1},
        {"payload": SIGNED["payload"] + "="},
        {"payload": SIGNED["payload"] + " "},
        {"payload": "é"},
        {"payload": 5},
        {"payload": "A" * (jws.MAX_PAYLOAD + 4)},
        {"protected": "A" * (jws.MAX_HEADER + 4)},
        {"protected": jws_requests.encode(b"[]")},
        {"protected": jws_requests.encode(b'{"alg":"ES256","alg":"ES256"}')},
        {"protected": ""},
        {"signature": ""},
        {"signature": None},
        {"signature": "A"},
        {"signature": "A" * (jws.MAX_SIGNATURE + 2)},
    ],
    ids="-".join,  # the values are random
)
def test_form_is_strict(change: dict[str, Any]) -> None:
    assert error_of(lambda: verify(json.dumps(SIGNED | change).encode())).code == "malformed"


def test_base64url_has_one_encoding() -> None:
    """Spare bits must be zero, or one request would have several forms."""
    assert jws.decode("payload", "QQ", 2) == b"A"
    assert error_of(lambda: jws.decode("payload", "QR", 2)).code == "malformed"


def test_thumbprint_is_that_of_rfc_7638() -> None:
    """The example of RFC 7638 3.1; other members of the JWK do not count."""
    data = {
        "kty": "RSA",
        "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
        "e": "AQAB",
        "alg": "RS256",
        "kid": "2011-04-29",
    }
    assert AccountKey.parse(data).thumbprint == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


@pytest.mark.parametrize("algorithm", KEYS)
def test_account_key_is_decoded_as_encoded(algorithm: str) -> None:
    key = AccountKey.parse(jws_requests.jwk(KEYS[algorithm]))
    again = AccountKey.decode(key.encode())
    assert again.members == key.members
    assert again.thumbprint == key.thumbprint == thumbprint(jws_requests.jwk(KEYS[algorithm]))
    assert key.algorithm == algorithm


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (None, "malformed"),
        ([], "malformed"),
        ({}, "badPublicKey"),
        ({"kty": "oct", "k": "AAAA"}, "malformed"),
        (P256.as_dict(private=True), "malformed"),
        (JWK | {"x": None}, "malformed"),
        (JWK | {"y": JWK["x"]}, "badPublicKey"),
        (JWK | {"crv": "P-384"}, "badPublicKey"),
        (JWK | {"crv": "secp256k1"}, "badPublicKey"),
        (JWK | {"x": "AA" + JWK["x"]}, "badPublicKey"),
        (JWK | {"x": JWK["x"] + "="}, "badPublicKey"),
        (jws_requests.jwk(RSA) | {"n": "AAAA" + jws_requests.jwk(RSA)["n"]}, "badPublicKey"),
        (jws_requests.jwk(RSA) | {"e": "AAEAAQ"}, "badPublicKey"),
        (jws_requests.jwk(RSA) | {"e": "Aw"}, "badPublicKey"),
        (jws_requests.jwk(RSA) | {"n": jws_requests.encode(b"\xff" * 2_100)}, "malformed"),
        (jws_requests.jwk(RSA) | {"n": jws_requests.encode(b"\xff" * 128)}, "badPublicKey"),
        ({"kty": "OKP", "crv": "Ed448", "x": OKPKey.generate_key("Ed448").as_dict()["x"]}, "badPublicKey"),
        ({"kty": "OKP", "crv": "X25519", "x": "A" * 43}, "badPublicKey"),
        ({"kty": "OKP", "crv": "Ed25519", "x": "A" * 43}, "badPublicKey"),
    ],
)  # fmt: skip
def test_account_key_that_is_not_accepted(data: Any, code: str) -> None:
    """Private, short, weak, malformed or differently encoded keys; the answer names no library."""
    error = error_of(lambda: AccountKey.parse(data))
    assert error.code == code
    assert "joserfc" not in error.detail


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_external_account_is_verified(algorithm: str) -> None:
    signed = parse(request({}))
    inner = binding(MAC_KEY, KEY_ID.encode(), JWK, algorithm)
    assert jws.verify_external_account(inner, signed, ACME_KEY) == KEY_ID


@pytest.mark.parametrize(
    ("inner", "code"),
    [
        (None, "malformed"),
        ("x", "malformed"),
        ({}, "malformed"),
        (binding(b"x" * 64, "web.1", JWK), "unauthorized"),
        (binding(MAC_KEY, "web.2", JWK), "unauthorized"),
        (binding(MAC_KEY, "other.1", JWK), "unauthorized"),
        (binding(MAC_KEY, "web", JWK), "unauthorized"),
        (binding(MAC_KEY, "web.1", JWK, url=URL + "/"), "malformed"),
        (binding(MAC_KEY, "web.1", JWK, url=None), "malformed"),
        (binding(MAC_KEY, "web.1", JWK, nonce=NONCE), "malformed"),
        (binding(MAC_KEY, "web.1", JWK, kid=None), "malformed"),
        (binding(MAC_KEY, "web.1", JWK, kid=None, jwk=JWK), "malformed"),
        (binding(MAC_KEY, "web.1", jws_requests.jwk(RSA)), "malformed"),
        (binding(MAC_KEY, "web.1", JWK | {"d": "AA"}), "malformed"),
        (binding(MAC_KEY, "web.1", JWK) | {"header": {}}, "malformed"),
        (json.loads(request({}, jwk=None, kid="web.1")), "badSignatureAlgorithm"),
    ],
)  # fmt: skip
def test_external_account_that_is_wrong(inner: Any, code: str) -> None:
    assert error_of(lambda: jws.verify_external_account(inner, parse(request({})), ACME_KEY)).code == code


def test_wrong_external_accounts_have_the_same_answer() -> None:
    """Whether a principal exists does not show."""
    signed, details = parse(request({})), set()
    for key_id in ("web.1", "web.2", "missing.1", "?"):
        inner = binding(b"x" * 64, key_id, JWK)
        details.add(error_of(lambda inner=inner: jws.verify_external_account(inner, signed, ACME_KEY)).detail)  # type: ignore[misc]
    assert len(details) == 1


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (JWKRSA(key=rsa.generate_private_key(65537, 2048)), RS256),
        (JWKEC(key=ec.generate_private_key(ec.SECP256R1())), ES256),
        (JWKEC(key=ec.generate_private_key(ec.SECP384R1())), ES384),
        (JWKEC(key=ec.generate_private_key(ec.SECP521R1())), ES512),
    ],
)
def test_requests_of_certbot_are_verified(key: Any, algorithm: Any) -> None:
    """Signed by the library of certbot, with its external account binding."""
    directory = messages.Directory({"newAccount": URL})
    mac_key = jws_requests.encode(MAC_KEY)
    inner = messages.ExternalAccountBinding.from_data(key.public_key(), "web.1", mac_key, directory)
    payload = json.dumps({"externalAccountBinding": inner}).encode()
    outer = JWS.sign(payload, key=key, alg=algorithm, nonce=b"nonce", url=URL)
    signed = verify(outer.json_dumps().encode())
    assert jws.verify_external_account(signed.json()["externalAccountBinding"], signed, ACME_KEY) == KEY_ID

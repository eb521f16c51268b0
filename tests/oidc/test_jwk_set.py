from __future__ import annotations

import json
import time
from typing import Any, Final

import pytest
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey

from service.oidc.jwk_set import MAX_KEYS, parse_jwk_set
from service.pki.identity_rules import ALGORITHMS
from tests.oidc.signed_tokens import KEYS, encode, new_key

RSA_ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")


def member(key: Key, **change: Any) -> dict[str, Any]:
    """A public key as a JWK with changed members; ... as the value removes one."""
    members = {**key.as_dict(private=False), "kid": "a", **change}
    return {name: value for name, value in members.items() if value is not ...}


def parse(*members: object) -> list[tuple[str, str]]:
    """The key IDs and algorithms of the usable keys of a set."""
    return list(parse_jwk_set(json.dumps({"keys": members}).encode()).keys)


def algorithms(*members: object) -> list[str]:
    return [algorithm for _, algorithm in parse(*members)]


P256: Final = member(KEYS["ES256"])
RSA: Final = member(KEYS["RS256"])
ED25519: Final = member(KEYS["EdDSA"])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_key_verifies_only_the_algorithms_of_its_type_and_curve(algorithm: str) -> None:
    expected = RSA_ALGORITHMS if algorithm in RSA_ALGORITHMS else (algorithm,)
    assert tuple(algorithms(member(KEYS[algorithm]))) == expected


def test_key_is_public_and_that_of_the_set() -> None:
    key = parse_jwk_set(json.dumps({"keys": [P256]}).encode()).keys["a", "ES256"]
    assert key.thumbprint() == KEYS["ES256"].thumbprint()
    assert not key.is_private


@pytest.mark.parametrize(
    "change",
    [
        {"use": "sig"},
        {"key_ops": ["verify"]},
        {"key_ops": ["sign", "verify"], "use": "sig"},
        {"alg": "ES256"},
        {"x5c": ["AA=="], "x5t": "AA", "issuer": "https://issuer.example", "ext": True},
    ],
)
def test_member_that_permits_verification_is_accepted(change: dict[str, Any]) -> None:
    assert algorithms({**P256, **change}) == ["ES256"]


@pytest.mark.parametrize(
    "change",
    [
        {"use": "enc"},
        {"use": ["sig"]},
        {"use": None},
        {"key_ops": ["sign"]},
        {"key_ops": []},
        {"key_ops": "verify"},
        {"key_ops": None},
        {"alg": "ES384"},
        {"alg": "HS256"},
        {"alg": "none"},
        {"alg": None},
        {"alg": ["ES256"]},
        {"kid": ""},
        {"kid": 1},
        {"kid": None},
        {"kty": "RSA"},
        {"kty": "oct"},
        {"kty": ["EC"]},
        {"kty": None},
        {"crv": "P-384"},
        {"crv": "secp256k1"},
        {"crv": {}},
        {"x": None},
        {"x": 1},
        {"x": P256["x"] + "="},
        {"x": P256["y"], "y": P256["x"]},  # not on the curve
        {"d": P256["x"]},
        {"k": "AAAA"},
    ],
)
def test_key_that_cannot_verify_is_ignored_and_others_are_used(change: dict[str, Any]) -> None:
    assert parse({**P256, **change}, {**ED25519, "kid": "b"}) == [("b", "EdDSA")]


@pytest.mark.parametrize("name", ["kid", "kty", "crv", "x", "y"])
def test_key_without_a_member_is_ignored(name: str) -> None:
    assert not parse({key: value for key, value in P256.items() if key != name})


@pytest.mark.parametrize("junk", [None, 1, "key", [], [P256], {}])
def test_junk_in_the_list_is_ignored(junk: object) -> None:
    assert parse(junk, P256) == [("a", "ES256")]


def test_alg_limits_an_rsa_key_to_one_algorithm() -> None:
    assert algorithms({**RSA, "alg": "PS384"}) == ["PS384"]
    assert not algorithms({**RSA, "alg": "RSA-OAEP"})


@pytest.mark.parametrize(
    "change",
    [
        {"n": encode((2**2047 - 1).to_bytes(256))},
        {"n": encode((2**8199 + 1).to_bytes(1025))},
        {"n": encode((2**2048 - 2).to_bytes(256))},  # even
        {"n": "AA"},
        {"n": ""},
        {"n": RSA["n"] + "=="},
        {"e": "Aw"},  # 3
        {"e": "AQ"},
        {"e": "AQAA"},  # even
        {"e": "A" * 12},
    ],
)
def test_rsa_key_out_of_bounds_is_ignored(change: dict[str, str]) -> None:
    assert not parse({**RSA, **change})


def test_rsa_keys_at_the_bounds_are_used() -> None:
    assert parse({**RSA, "n": encode((2**2047 + 1).to_bytes(256)), "alg": "RS256"}) == [("a", "RS256")]
    assert parse({**RSA, "n": encode((2**8192 - 1).to_bytes(1024)), "alg": "RS256"}) == [("a", "RS256")]


def test_huge_rsa_keys_cost_no_arithmetic() -> None:
    start = time.process_time()
    assert not parse({**RSA, "n": "_" * 30_000, "e": "_" * 30_000})
    assert time.process_time() - start < 0.1


@pytest.mark.parametrize("x", [bytes(32), b"\1" + bytes(31), bytes(31), bytes(33)])
def test_ed25519_key_of_small_order_or_wrong_length_is_ignored(x: bytes) -> None:
    assert not parse({**ED25519, "x": encode(x)})


@pytest.mark.parametrize("curve", ["Ed448", "X25519"])
def test_other_curves_are_ignored(curve: Any) -> None:
    assert not parse(member(OKPKey.generate_key(curve)))


def test_private_and_symmetric_keys_are_ignored_and_counted() -> None:
    private: list[Key] = [ECKey.generate_key(), RSAKey.generate_key(2048), OctKey.generate_key(256)]
    members = [{**key.as_dict(private=True), "kid": "b"} for key in private]
    jwk_set = parse_jwk_set(json.dumps({"keys": [*members, P256]}).encode())
    assert (list(jwk_set.keys), jwk_set.secrets) == ([("a", "ES256")], 3)


def test_different_keys_with_the_same_id_are_not_used_for_the_same_algorithm() -> None:
    other = member(new_key("ES256"))
    assert not parse(P256, other)
    assert not parse(P256, other, P256)
    assert parse(P256, ED25519) == [("a", "ES256"), ("a", "EdDSA")]
    assert parse(P256, {**other, "kid": "b"}) == [("a", "ES256"), ("b", "ES256")]
    assert parse(P256, {**other, "use": "enc"}) == [("a", "ES256")]


def test_key_that_is_listed_twice_is_used() -> None:
    assert parse(P256, {**P256, "use": "sig"}) == [("a", "ES256")]


def test_set_has_a_limited_number_of_keys() -> None:
    assert len(parse(*[{**P256, "kid": str(number)} for number in range(MAX_KEYS)])) == MAX_KEYS
    with pytest.raises(ValueError, match="at most 100 keys"):
        parse(*[{}] * (MAX_KEYS + 1))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"keys": null}',
        b'{"keys": {}}',
        b'{"keys": "a"}',
        b'{"Keys": []}',
        b'{"keys": [',
        b'{"keys": []} {}',
        b'{"keys": [], "keys": []}',
        b'{"keys": [{"kid": "a", "kid": "b"}]}',
        b'{"keys": [NaN]}',
        b'{"keys": [' + b"[" * 30 + b"]" * 30 + b"]}",
        b'{"keys": []}\xff',
        b"<html></html>",
    ],
)
def test_other_data_is_no_set(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"^[^<>]{8,}$"):
        parse_jwk_set(data)

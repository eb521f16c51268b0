from __future__ import annotations

import base64
import json
import re
import unicodedata
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from joserfc import jwe
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey

from service.oidc import signed_token
from service.oidc.signed_token import MAX_LENGTH
from service.oidc.tokens import TokenVerifier
from service.pki.name_policy import DnsPolicy, NamePolicy
from service.pki.token_identity import LEEWAY, InvalidTokenError, KeysUnavailableError, TokenIdentity
from tests.oidc import signed_tokens
from tests.oidc.signed_tokens import (
    ALGORITHMS,
    AUDIENCE,
    CLAIMS,
    ISSUER,
    ISSUER_KEYS,
    KEYS,
    NOW,
    REQUIRED,
    RSA,
    TIME,
    Keys,
    authenticate,
    decode,
    encode,
    encode_json,
    new_key,
    public,
    rule,
    sign,
    token,
    verifier,
)

NOT_A_JWT: Final = (
    "the token is not a signed JWT: send three parts in base64url without padding, separated by dots"
)
WRONG_SIGNATURE: Final = "the signature of the token is wrong: request a new one"
NO_KEY: Final = "the issuer has no key with the kid and the algorithm of the token: request a new one"
WRONG_ISSUER: Final = "no rule accepts tokens of this issuer"
WRONG_AUDIENCE: Final = "the token is not for this CA: request one with the audience of the CA, and no others"
BAD_NAME: Final = "the claim /environment has characters, a length or a type that names may not have"
NO_JSON: Final = "not JSON, or not JSON that all parsers read alike"
HEADER: Final = {"alg": "ES256", "kid": "key-ES256", "typ": "JWT"}
P256: Final = KEYS["ES256"]


def refusal(text: str, by: TokenVerifier | None = None) -> str:
    """The reason why a token is refused, which is safe in a JSON template and shows no value of the rule."""
    with pytest.raises(InvalidTokenError) as caught:
        (by or verifier()).verify(text)
    reason = str(caught.value)
    assert re.fullmatch(r"[ !#-&(-\[\]-~]{10,300}", reason), reason
    secrets = [AUDIENCE, ISSUER, *(value for value in REQUIRED.values() if isinstance(value, str))]
    assert not [value for value in secrets if value in reason], reason
    return reason


def claims_differ(*pointers: str) -> str:
    return f"claims of the token are missing, or differ from the rules: {', '.join(pointers)}"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_valid_token_identifies_its_caller(algorithm: str) -> None:
    """Each algorithm of RFC 7518 3.1 with an asymmetric key, and EdDSA."""
    assert verifier().verify(token(algorithm)) == TokenIdentity(
        rule="deploy",
        issuer=ISSUER,
        subject=CLAIMS["sub"],
        token_id=CLAIMS["jti"],
        expires_at=NOW + timedelta(minutes=5),
        is_once=False,
        names=NamePolicy(dns=DnsPolicy(permitted=("prod.ci.example.com",))),
    )


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_verification_causes_no_warning(algorithm: str) -> None:
    """The library warns of EdDSA, which issuers use."""
    with warnings.catch_warnings():
        warnings.resetwarnings()
        warnings.simplefilter("error")
        signed_token._registry.cache_clear()
        assert verifier().verify(token(algorithm)).rule == "deploy"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_token_whose_algorithm_is_not_in_the_rule_is_refused(algorithm: str) -> None:
    """The rule has all the others, and the issuer has the key."""
    others = tuple(name for name in ALGORITHMS if name != algorithm)
    reason = f"no rule accepts the algorithm {algorithm} for tokens of this issuer"
    assert refusal(token(algorithm), verifier(rule(algorithms=others))) == reason


@pytest.mark.parametrize("audience", [AUDIENCE, [AUDIENCE]])
def test_audience_may_be_a_list_of_one(audience: object) -> None:
    assert verifier().verify(token(aud=audience)).rule == "deploy"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"iss": "https://other.example"}, WRONG_ISSUER),
        ({"iss": ISSUER + "/"}, WRONG_ISSUER),
        ({"iss": [ISSUER]}, WRONG_ISSUER),
        ({"iss": None}, WRONG_ISSUER),
        ({"iss": ...}, WRONG_ISSUER),
        ({"aud": "https://other.example"}, WRONG_AUDIENCE),
        ({"aud": "sts.amazonaws.com"}, WRONG_AUDIENCE),
        ({"aud": [AUDIENCE, "https://other.example"]}, WRONG_AUDIENCE),
        ({"aud": [AUDIENCE, AUDIENCE]}, WRONG_AUDIENCE),
        ({"aud": [[AUDIENCE]]}, WRONG_AUDIENCE),
        ({"aud": {AUDIENCE: 1}}, WRONG_AUDIENCE),
        ({"aud": []}, WRONG_AUDIENCE),
        ({"aud": ...}, WRONG_AUDIENCE),
        ({"repository_id": "75"}, claims_differ("/repository_id")),
        ({"repository_id": 74}, claims_differ("/repository_id")),
        ({"repository_id": ["74"]}, claims_differ("/repository_id")),
        ({"repository_id": ...}, claims_differ("/repository_id")),
        ({"ref": "refs/heads/dev"}, claims_differ("/ref")),
        ({"ref": "REFS/heads/main"}, claims_differ("/ref")),
        ({"run_attempt": 2}, claims_differ("/run_attempt")),
        ({"run_attempt": True}, claims_differ("/run_attempt")),
        ({"run_attempt": 1.0}, claims_differ("/run_attempt")),
        ({"run_attempt": "1"}, claims_differ("/run_attempt")),
        ({"is_protected": False}, claims_differ("/is_protected")),
        ({"is_protected": 1}, claims_differ("/is_protected")),
        ({"is_protected": "true"}, claims_differ("/is_protected")),
        (
            {"kubernetes.io": {"serviceaccount": {"name": "other"}}},
            claims_differ("/kubernetes.io/serviceaccount/name"),
        ),
        ({"kubernetes.io": "deployer"}, claims_differ("/kubernetes.io/serviceaccount/name")),
        ({"ref": "x", "repository_id": "1"}, claims_differ("/ref", "/repository_id")),
        ({"environment": "Prod"}, BAD_NAME),
        ({"environment": ...}, "the claim /environment is missing, but names contain it"),
    ],
    ids=str,
)
def test_claim_changed_alone_is_refused(changes: Mapping[str, Any], reason: str) -> None:
    """The issuer signed each token."""
    assert refusal(token(**changes)) == reason


CONFUSABLES: Final = (
    lambda text: text.replace("e", "\u0435"),  # Cyrillic
    lambda text: text.replace("a", "\uff41"),  # full-width
    lambda text: text.replace("/", "\u2215"),
    lambda text: text + ".",
    lambda text: text + " ",
    lambda text: " " + text,
    lambda text: text + "\0",
    lambda text: text + "\n",
    lambda text: text + "\u200b",
    lambda text: text + "\ud800",
    lambda text: "\ufeff" + text,
    str.upper,
    lambda text: text[:-1],
    lambda text: text + text[-1],
)


@pytest.mark.parametrize("change", CONFUSABLES)
@pytest.mark.parametrize(
    ("claim", "reason"),
    [("iss", WRONG_ISSUER), ("aud", WRONG_AUDIENCE), ("ref", claims_differ("/ref"))],
)
def test_confusable_of_an_accepted_value_is_refused(claim: str, change: Any, reason: str) -> None:
    """Values are compared character by character."""
    assert refusal(token(**{claim: change(CLAIMS[claim])})) == reason


@pytest.mark.parametrize(("accepted", "other"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_other_unicode_normalization_is_refused(accepted: str, other: str) -> None:
    forms = {
        "NFC": unicodedata.normalize("NFC", "caf\u00e9"),
        "NFD": unicodedata.normalize("NFD", "caf\u00e9"),
    }
    by = verifier(rule(claims={"/ref": forms[accepted]}))
    assert by.verify(token(ref=forms[accepted])).rule == "deploy"
    assert refusal(token(ref=forms[other]), by) == claims_differ("/ref")


def test_unicode_escapes_are_the_characters_that_they_mean() -> None:
    """RFC 8259 7: an escape in the header or in claims changes no value, and hides no duplicate member."""
    header = json.dumps(HEADER).replace("ES256", "\\u0045S256").encode()
    claims = json.dumps(CLAIMS).replace("74", "\\u0037\\u0034").encode()
    assert verifier().verify(sign(header, claims, P256, "ES256")).rule == "deploy"
    doubled = claims.replace(b'"ref"', b'"r\\u0065f": "refs/heads/dev", "ref"')
    assert refusal(sign(header, doubled, P256, "ES256")) == f"the claims of the token are {NO_JSON}"


@pytest.mark.parametrize("offset", [0, 0.5, LEEWAY - 1, -LEEWAY + 1])
def test_times_within_the_leeway_are_accepted(offset: float) -> None:
    """RFC 7519 4.1.4 to 4.1.6: clocks may differ by a minute; a time may have a fraction."""
    by = verifier(rule(max_age=timedelta(0)))
    assert by.verify(token(exp=TIME + offset, nbf=TIME + offset, iat=TIME + offset)).rule == "deploy"
    assert by.verify(token(exp=TIME + 300, nbf=..., iat=TIME + offset)).rule == "deploy"


EXPIRED: Final = "the token is expired: request a new one"
NOT_YET: Final = "the token is not valid yet: compare the clocks"
FUTURE: Final = "the token was issued in the future: compare the clocks"
TOO_OLD: Final = "the token was issued too long ago: request a new one"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exp": TIME - LEEWAY}, EXPIRED),
        ({"exp": TIME - LEEWAY - 0.5}, EXPIRED),
        ({"exp": 0}, EXPIRED),
        ({"nbf": TIME + LEEWAY + 1}, NOT_YET),
        ({"nbf": TIME + LEEWAY + 0.5}, NOT_YET),
        ({"iat": TIME + LEEWAY + 1}, FUTURE),
        ({"iat": TIME - 3600 - LEEWAY}, TOO_OLD),
        ({"iat": 0}, TOO_OLD),
        ({"exp": TIME - 3600, "iat": TIME - 7200, "ref": "x"}, EXPIRED),
    ],
)
def test_times_outside_the_leeway_are_refused(changes: Mapping[str, Any], reason: str) -> None:
    assert refusal(token(**changes)) == reason


@pytest.mark.parametrize("name", ["exp", "iat", "nbf"])
@pytest.mark.parametrize(
    "value",
    [
        "true",
        "null",
        f'"{TIME}"',
        f"[{TIME}]",
        "-1",
        "1e400",
        "1e308",
        "9" * 100,
        "253402214401",
        "{}",
        "-0.5",
    ],
)
def test_time_that_is_not_a_unix_time_is_refused(name: str, value: str) -> None:
    claims = encode_json(dict(CLAIMS) | {name: 12345}).replace(b"12345", value.encode())
    reason = f"the claim {name} of the token is missing, or not a Unix time in seconds"
    assert refusal(sign(encode_json(HEADER), claims, P256, "ES256")) == reason


@pytest.mark.parametrize(
    "value", ["NaN", "Infinity", "-Infinity", "9" * 101, "1" * 5000, "0x10", "1_0", "01"]
)
def test_time_that_is_not_a_json_number_is_refused(value: str) -> None:
    claims = encode_json(dict(CLAIMS) | {"exp": 12345}).replace(b"12345", value.encode())
    assert (
        refusal(sign(encode_json(HEADER), claims, P256, "ES256")) == f"the claims of the token are {NO_JSON}"
    )


@pytest.mark.parametrize("name", ["exp", "iat"])
def test_token_without_expiry_or_time_of_issue_is_refused(name: str) -> None:
    reason = f"the claim {name} of the token is missing, or not a Unix time in seconds"
    missing: dict[str, Any] = {name: ...}
    assert refusal(token(**missing)) == reason


def test_last_time_of_the_calendar_is_accepted() -> None:
    """The ledger adds the leeway to it."""
    expires_at = verifier().verify(token(exp=253402214400)).expires_at
    assert expires_at == datetime(9999, 12, 31, tzinfo=UTC)
    assert expires_at + timedelta(seconds=LEEWAY)


@pytest.mark.parametrize("name", ["sub", "jti"])
@pytest.mark.parametrize("value", [..., "", "x" * 1024, "branch:\u00fc\U0001fae8"])
def test_subject_and_token_id_are_texts(name: str, value: Any) -> None:
    identity = verifier().verify(token(**{name: value}))
    text = "" if value is ... else value
    assert (identity.subject if name == "sub" else identity.token_id) == text
    text.encode()


@pytest.mark.parametrize("name", ["sub", "jti"])
@pytest.mark.parametrize(
    "value", [None, 7, True, ["x"], {}, "x" * 1025, "a\0", "a\n", "\x7f", "\x9b1m", "\udc80"]
)
def test_subject_or_token_id_that_no_log_can_have_is_refused(name: str, value: Any) -> None:
    limits = "at most 1024 characters without control characters"
    assert refusal(token(**{name: value})) == f"the claim {name} of the token is not a string of {limits}"


@pytest.mark.parametrize(
    "typ", [..., "JWT", "jwt", "application/JWT", "at+jwt", "AT+JWT", "application/at+jwt"]
)
def test_typ_of_id_and_access_tokens_is_accepted(typ: Any) -> None:
    """RFC 7519 5.1, RFC 9068 2.1, RFC 7515 4.1.9."""
    assert verifier().verify(token(header={"typ": typ})).rule == "deploy"


@pytest.mark.parametrize(
    "typ",
    [
        "logout+jwt",
        "dpop+jwt",
        "secevent+jwt",
        "JOSE",
        "",
        "JWT ",
        "application/application/JWT",
        "text/jwt",
        "kb+jwt",
    ],
)
def test_typ_of_other_tokens_is_refused(typ: str) -> None:
    reason = "the typ of the token is neither JWT nor at+jwt: send an ID or access token"
    assert refusal(token(header={"typ": typ})) == reason


def test_thumbprints_of_certificates_are_accepted() -> None:
    """Azure has x5t in the header; it selects no key."""
    assert verifier().verify(token(header={"x5t": "AAAA", "x5t#S256": "AAAA"})).rule == "deploy"


def test_long_header_is_accepted() -> None:
    """Only the whole token has a limit."""
    header = {"alg": "ES256", "kid": "k" * 2_000}
    keys = Keys({("k" * 2_000, "ES256"): public(P256)})
    assert verifier(keys={"deploy": keys}).verify(token(header=header)).rule == "deploy"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jku", "https://attacker.example/jwks"),
        ("x5u", "https://attacker.example/x5u"),
        ("x5c", ["MIIB"]),
        ("jwk", public(P256).as_dict()),
        ("crit", ["exp"]),
        ("crit", []),
        ("b64", False),
        ("b64", True),
        ("zip", "DEF"),
        ("enc", "A128GCM"),
        ("cty", "JWT"),
        ("nonce", "x"),
        ("iss", ISSUER),
        ("ALG", "none"),
    ],
)
def test_header_member_that_could_refer_to_another_key_is_refused(name: str, value: object) -> None:
    """The issuer's own key signed each token."""
    assert (
        refusal(token(header={name: value}))
        == f"the header of the token has the member {name}: send a token without it"
    )


@pytest.mark.parametrize("name", ['"', "\\", "\n", "\u0430lg", "", "x" * 33, "a b", "$context", "\ud800"])
def test_reason_does_not_quote_an_unsafe_member(name: str) -> None:
    assert (
        refusal(token(header={name: "x"}))
        == "the header of the token has an unknown member: send a token without it"
    )


@pytest.mark.parametrize("algorithm", ['"', "\n", "\u0430", "x" * 33, "ES256 ", "$context"])
def test_reason_does_not_quote_an_unsafe_algorithm(algorithm: str) -> None:
    reason = "no rule accepts an unknown algorithm for tokens of this issuer"
    assert refusal(token(header={"alg": algorithm})) == reason


@pytest.mark.parametrize("name", ["alg", "kid"])
def test_header_needs_algorithm_and_key_id(name: str) -> None:
    reason = f"the header of the token has no {name}: the issuer has to add it"
    assert refusal(token(header={name: ...})) == reason
    assert refusal(token(header={name: ""})) == reason


@pytest.mark.parametrize("name", ["alg", "kid", "typ", "x5t", "x5t#S256"])
@pytest.mark.parametrize("value", [None, 0, True, ["ES256"], {"a": 1}])
def test_header_member_that_is_not_a_string_is_refused(name: str, value: object) -> None:
    assert (
        refusal(token(header={name: value}))
        == f"the member {name} of the header of the token is not a string"
    )


@pytest.mark.parametrize(
    "algorithm", ["none", "None", "NONE", "nOnE", "", "HS256", "RS1", "es256", "ES256 ", "ES256K", "Ed25519"]
)
@pytest.mark.parametrize("signature", ["", "AA", encode(b"\0" * 64)])
def test_token_without_signature_is_refused(algorithm: str, signature: str) -> None:
    header = encode_json({"alg": algorithm, "kid": "key-ES256"})
    reason = refusal(f"{encode(header)}.{encode(encode_json(CLAIMS))}.{signature}")
    assert (
        "no alg" in reason
        or reason.startswith("no rule accepts the algorithm")
        or "an unknown algorithm" in reason
    )


def secrets_of(key: Key) -> dict[str, bytes]:
    public_key = public(key)
    assert isinstance(public_key, RSAKey | ECKey | OKPKey)
    pem, members = public_key.as_pem(), dict(public_key.as_dict())
    return {
        "pem": pem,
        "pem without final newline": pem.rstrip(),
        "pem with CRLF": pem.replace(b"\n", b"\r\n"),
        "der": public_key.as_der(),
        "jwk": json.dumps(members).encode(),
        "compact jwk": json.dumps(members, separators=(",", ":"), sort_keys=True).encode(),
        "coordinate": base64.urlsafe_b64decode(str(members.get("n") or members["x"]) + "=="),
        "empty": b"",
    }


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
@pytest.mark.parametrize("form", [*secrets_of(P256)])
def test_public_key_is_no_secret_of_hmac(algorithm: str, form: str) -> None:
    """Neither by the algorithm of the token, nor by the one that the key is for."""
    secret = secrets_of(KEYS[algorithm])[form]
    for name in ("HS256", algorithm):
        header = encode_json({"alg": name, "kid": f"key-{algorithm}", "typ": "JWT"})
        reason = refusal(authenticate(header, encode_json(CLAIMS), secret))
        assert reason == (
            "no rule accepts the algorithm HS256 for tokens of this issuer"
            if name == "HS256"
            else WRONG_SIGNATURE
        )


def test_hmac_is_refused_even_if_a_key_set_has_a_secret() -> None:
    """The algorithms of a rule are asymmetric, and decide."""
    keys = {"deploy": Keys({("key", "HS256"): OctKey.import_key(b"s" * 32)})}
    text = authenticate(encode_json({"alg": "HS256", "kid": "key"}), encode_json(CLAIMS), b"s" * 32)
    assert "HS256" in refusal(text, verifier(keys=keys))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_key_of_another_issuer_with_the_same_kid_is_refused(algorithm: str) -> None:
    key, other = KEYS[algorithm], new_key(algorithm)
    header = encode_json({"alg": algorithm, "kid": f"key-{algorithm}"})
    assert refusal(sign(header, encode_json(CLAIMS), other, algorithm)) == WRONG_SIGNATURE
    assert verifier().verify(sign(header, encode_json(CLAIMS), key, algorithm)).rule == "deploy"


@pytest.mark.parametrize(
    ("signed", "header"), [("RS256", "PS256"), ("PS256", "RS256"), ("RS256", "RS512"), ("PS384", "PS256")]
)
def test_signature_of_another_algorithm_of_the_key_is_refused(signed: str, header: str) -> None:
    members = encode_json({"alg": header, "kid": f"key-{header}"})
    assert refusal(sign(members, encode_json(CLAIMS), RSA, signed)) == WRONG_SIGNATURE


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    "key",
    [RSA, P256, KEYS["ES384"], KEYS["EdDSA"], OctKey.import_key(b"s" * 32)],
    ids=lambda key: key.key_type,
)
def test_key_of_another_type_in_the_key_set_verifies_nothing(algorithm: str, key: Key) -> None:
    """Even if a key set returned a key that the algorithm cannot use."""
    keys = Keys({(f"key-{algorithm}", algorithm): key})
    if key is KEYS[algorithm]:
        assert verifier(keys={"deploy": keys}).verify(token(algorithm)).rule == "deploy"
    else:
        assert refusal(token(algorithm), verifier(keys={"deploy": keys})) == WRONG_SIGNATURE


def test_eddsa_with_another_curve_is_refused() -> None:
    """Ed448 has the same name in the header; rules accept Ed25519 only."""
    key = OKPKey.generate_key("Ed448")
    text = sign(encode_json({"alg": "EdDSA", "kid": "key-EdDSA"}), encode_json(CLAIMS), key, "EdDSA")
    assert refusal(text) == WRONG_SIGNATURE
    assert (
        refusal(text, verifier(keys={"deploy": Keys({("key-EdDSA", "EdDSA"): public(key)})}))
        == WRONG_SIGNATURE
    )


def replace_signature(text: str, signature: bytes) -> str:
    return f"{text.rpartition('.')[0]}.{encode(signature)}"


def test_ecdsa_signature_of_another_form_is_refused() -> None:
    """RFC 7518 3.4: r and s in 32 octets each; not DER, and not zero."""
    text = token()
    signature = decode(text.rpartition(".")[2])
    r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    zero, r_octets = bytes(32), signature[:32]
    wrong = [
        encode_dss_signature(r, s),
        bytes(64),
        zero + signature[32:],
        r_octets + zero,
        r_octets + order.to_bytes(32, "big"),
        b"\xff" * 64,
        b"\0" + r_octets + b"\0" + signature[32:],
        signature[32:] + r_octets,
        signature[:-1],
        signature + b"\0",
        b"",
    ]
    assert {refusal(replace_signature(text, octets)) for octets in wrong} == {WRONG_SIGNATURE}
    assert verifier().verify(replace_signature(text, signature)).rule == "deploy"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_changed_signature_is_refused(algorithm: str) -> None:
    text = token(algorithm)
    signature = decode(text.rpartition(".")[2])
    changed = [signature[:-1], signature[1:], signature * 2, signature + b"\0", b"\0" + signature, b""]
    changed += [
        bytes([*signature[:at], signature[at] ^ 1, *signature[at + 1 :]])
        for at in range(0, len(signature), 16)
    ]
    assert {refusal(replace_signature(text, octets)) for octets in changed} == {WRONG_SIGNATURE}


def test_signature_of_another_token_is_refused() -> None:
    parts, other = token().split("."), token(ref="refs/heads/dev").split(".")
    assert refusal(".".join([parts[0], parts[1], other[2]])) == WRONG_SIGNATURE
    assert refusal(".".join([other[0], parts[1], other[2]])) == WRONG_SIGNATURE


@pytest.mark.parametrize(
    ("kid", "algorithm"),
    [
        ("key-ES384", "ES256"),
        ("unknown", "ES256"),
        ("KEY-ES256", "ES256"),
        ("\0", "ES256"),
        ("../key-ES256", "ES256"),
        ("' OR 1=1", "ES256"),
    ],
)
def test_unknown_kid_is_refused(kid: str, algorithm: str) -> None:
    assert refusal(token(algorithm, {"kid": kid})) == NO_KEY


VALID: Final = token()
PARTS: Final = VALID.split(".")


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "...",
        "." * 8000,
        "x",
        "Bearer " + VALID,
        VALID + ".",
        "." + VALID,
        ".".join(PARTS[:2]),
        ".".join([*PARTS, PARTS[2], PARTS[2]]),
        VALID + "=",
        VALID + "==",
        f"{PARTS[0]}=.{PARTS[1]}.{PARTS[2]}",
        VALID + "\n",
        "\n" + VALID,
        VALID + " ",
        VALID.replace(".", " . "),
        VALID.replace(".", "\uff0e"),
        VALID[:-1] + "\uff21",
        VALID[:20] + "\r\n" + VALID[20:],
        VALID + "\0",
        "\ud800" + VALID,
        base64.b64encode(VALID.encode()).decode(),
        encode(VALID.encode()),
        ".".join([*PARTS[:2], base64.b64encode(b"\xfb\xff" * 48).decode()]),
        json.dumps({"protected": PARTS[0], "payload": PARTS[1], "signature": PARTS[2]}),
        json.dumps({"payload": PARTS[1], "signatures": [{"protected": PARTS[0], "signature": PARTS[2]}]}),
    ],
)
def test_text_that_is_not_three_parts_of_base64url_is_refused(text: str) -> None:
    assert verifier().verify(VALID).rule == "deploy"
    assert refusal(text) == NOT_A_JWT


def test_other_encoding_of_the_same_octets_is_refused() -> None:
    """A text has one form only, so that it is the same token wherever it is compared."""
    text = token("RS256")
    assert len(text.rpartition(".")[2]) % 4 == 2  # four spare bits
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    other = text[:-1] + last[last.index(text[-1]) + 1]
    assert decode(other.rpartition(".")[2]) == decode(text.rpartition(".")[2])
    assert verifier().verify(text).rule == "deploy"
    assert refusal(other) == NOT_A_JWT


def test_encrypted_token_is_refused() -> None:
    registry = jwe.JWERegistry(algorithms=["RSA-OAEP-256", "A128GCM"])
    header = {"alg": "RSA-OAEP-256", "enc": "A128GCM", "kid": "key-RS256"}
    text = jwe.encrypt_compact(header, VALID.encode(), public(RSA), registry=registry)
    assert text.count(".") == 4
    assert refusal(text) == NOT_A_JWT


def test_nested_token_is_refused() -> None:
    text = sign(encode_json(HEADER), VALID.encode(), P256, "ES256")
    assert refusal(text) == f"the claims of the token are {NO_JSON}"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", NO_JSON),
        (b"x", NO_JSON),
        (b"\xff{}", NO_JSON),
        (b"\xff\xfe{\0}\0", NO_JSON),
        (b"{} {}", NO_JSON),
        (b"{'alg': 'ES256'}", NO_JSON),
        (b'{"alg": "ES256",}', NO_JSON),
        (b'{"a": 1, "a": 1}', NO_JSON),
        (b'{"a": {"b": [{"c": 1, "\\u0063": 1}]}}', NO_JSON),
        (b'{"a": ' + b"[" * 20 + b"]" * 20 + b"}", NO_JSON),
        (b"[" * 2500, NO_JSON),
        (b'{"a":' * 800 + b"1" + b"}" * 800, NO_JSON),
        (b'{"a": "\n"}', NO_JSON),
        (b'{"a": NaN}', NO_JSON),
        (b"null", "not a JSON object"),
        (b'"ES256"', "not a JSON object"),
        (b"[]", "not a JSON object"),
        (b"7", "not a JSON object"),
    ],
)
def test_part_that_is_not_strict_json_is_refused(data: bytes, reason: str) -> None:
    """The same for header and claims, whose signatures are right."""
    assert refusal(sign(encode_json(HEADER), data, P256, "ES256")) == f"the claims of the token are {reason}"
    assert refusal(sign(data, encode_json(CLAIMS), P256, "ES256")) == f"the header of the token is {reason}"


@pytest.mark.parametrize("name", ["alg", "kid", "typ"])
def test_duplicate_member_of_the_header_is_refused(name: str) -> None:
    """Parsers take the first or the last."""
    header = encode_json(HEADER)
    for doubled in (
        b"{" + f'"{name}": "none", '.encode() + header[1:],
        header[:-1] + f', "{name}": "none"}}'.encode(),
    ):
        assert (
            refusal(sign(doubled, encode_json(CLAIMS), P256, "ES256"))
            == f"the header of the token is {NO_JSON}"
        )


@pytest.mark.parametrize("name", ["iss", "aud", "exp", "ref"])
def test_duplicate_claim_is_refused(name: str) -> None:
    claims = encode_json(CLAIMS)
    doubled = claims[:-1] + b", " + json.dumps({name: CLAIMS[name]}).encode()[1:]
    assert (
        refusal(sign(encode_json(HEADER), doubled, P256, "ES256")) == f"the claims of the token are {NO_JSON}"
    )


def test_longest_token_is_accepted() -> None:
    """8,192 characters; one more are refused before anything is decoded."""
    candidates = [
        token(header={"x5t": "x" * extra}, filler="x" * length)
        for length in range(5580, 5640)
        for extra in range(3)  # base64 has no text of each length
    ]
    longest = next(text for text in candidates if len(text) == MAX_LENGTH)
    too_long = next(text for text in candidates if len(text) == MAX_LENGTH + 1)
    assert verifier().verify(longest).rule == "deploy"
    reason = f"the token has more than {MAX_LENGTH} characters: request a shorter one"
    assert refusal(too_long) == reason
    assert refusal("x" * 10_000_000) == reason


def test_first_rule_that_matches_applies() -> None:
    first, second = rule("first"), rule("second")
    assert verifier(first, second).verify(VALID).rule == "first"
    assert verifier(second, first).verify(VALID).rule == "second"
    assert verifier(rule("other", claims={"/ref": "x"}), second).verify(VALID).rule == "second"


def test_reason_is_that_of_the_nearest_rules() -> None:
    """Pointers of all the rules whose claims differ, as the caller knows which rule was meant."""
    other_issuer = rule("1", issuer="https://other.example")
    other_audience = rule("2", audience="https://other.example")
    claims_1 = rule("3", claims={"/ref": "x", "/sub": "y"})
    claims_2 = rule("4", claims={"/sub": "z", "/environment": "prod", "/none": 1})
    assert refusal(VALID, verifier(other_issuer)) == WRONG_ISSUER
    assert refusal(VALID, verifier(other_audience, other_issuer)) == WRONG_AUDIENCE
    pointers = claims_differ("/none", "/ref", "/sub")
    assert refusal(VALID, verifier(claims_2, other_audience, claims_1, other_issuer)) == pointers
    text = token(environment="X")
    assert refusal(text, verifier(rule("5", claims={}), claims_1)) == BAD_NAME
    once = "the token has no jti, so it cannot be accepted only once"
    text = token(environment="X", jti=...)
    assert refusal(text, verifier(rule("5", claims={}), rule("6", is_once=True))) == f"{BAD_NAME}; {once}"


def test_pointer_with_unsafe_characters_is_replaced() -> None:
    by = verifier(rule(claims={"/\"\\\n\u00e9'": "x"}))
    assert refusal(VALID, by) == claims_differ("/?????")


def test_without_rules_no_token_is_accepted() -> None:
    assert refusal(VALID, TokenVerifier((), {}, lambda: NOW)) == "no rules accept tokens"


def test_token_of_a_rule_with_once_needs_an_id() -> None:
    by = verifier(rule(is_once=True))
    identity = by.verify(VALID)
    assert (identity.is_once, identity.token_id) == (True, "b7b1-1")
    reason = "the token has no jti, so it cannot be accepted only once"
    assert [refusal(token(jti=jti), by) for jti in (..., "")] == [reason, reason]


def test_keys_that_are_not_available_do_not_prevent_another_rule() -> None:
    """An outage of one issuer affects only tokens that no other rule accepts."""
    missing = {"down": Keys(None)}
    down = rule("down")
    assert verifier(down, rule("up"), keys=missing).verify(VALID).rule == "up"
    assert verifier(rule("up"), down, keys=missing).verify(VALID).rule == "up"
    for rules in ((down,), (down, rule("up", claims={"/ref": "x"})), (rule("up", issuer="x"), down)):
        with pytest.raises(KeysUnavailableError, match="the keys of rule deploy are not available"):
            verifier(*rules, keys=missing).verify(VALID)


def test_token_that_no_rule_could_accept_needs_no_keys() -> None:
    """So that strangers cause no requests to issuers."""
    by = verifier(rule(algorithms=("ES256",)), keys={"deploy": Keys(None)})
    assert refusal(token(iss="https://other.example"), by) == WRONG_ISSUER
    assert refusal(token(aud="x"), by) == WRONG_AUDIENCE
    assert "RS256" in refusal(token("RS256"), by)
    assert refusal("x", by) == NOT_A_JWT


def test_explanation_has_each_rule() -> None:
    rules = [
        rule("issuer", issuer="https://other.example"),
        rule("audience", audience="https://other.example"),
        rule("algorithm", algorithms=("RS256", "PS256")),
        rule("keys"),
        rule("age", max_age=timedelta(seconds=-60)),
        rule("claims", claims={"/ref": "x", "/run_attempt": "1", "/none": True}),
        rule("good"),
        rule("second"),
        rule("kid"),
    ]
    explained = verifier(*rules, keys={"keys": Keys(None), "kid": Keys({})}).explain(VALID)
    assert explained == [
        ("issuer", 'iss is "https://issuer.example", not "https://other.example"'),
        ("audience", 'aud is "https://ca.example.com", not "https://other.example"'),
        ("algorithm", 'alg is "ES256", not RS256 or PS256'),
        ("keys", "the keys of rule deploy are not available"),
        ("age", "the token was issued too long ago: request a new one (2026-11-29T11:59:50Z)"),
        (
            "claims",
            '/ref is "refs/heads/main", not "x", /run_attempt is 1, not "1", /none is missing, not true',
        ),
        ("good", ""),
        ("second", ""),
        ("kid", NO_KEY),
    ]


def test_explanation_of_a_malformed_token_is_the_same_for_each_rule() -> None:
    assert verifier(rule("a"), rule("b")).explain("x") == [("a", NOT_A_JWT), ("b", NOT_A_JWT)]


def test_explanation_escapes_what_could_change_a_terminal() -> None:
    [(_, text)] = verifier().explain(token(iss="\x1b[2J\x7f\u202e" + "x" * 500))
    assert text.isprintable()
    assert len(text) < 300


def test_issuer_keys_are_public() -> None:
    """Of this module: a private key could sign what a test expects to be refused."""
    assert not [key for key in (ISSUER_KEYS.keys or {}).values() if key.is_private]
    assert signed_tokens.RULE.claims == REQUIRED

"""Hostile tokens: valid ones with one change that makes them invalid.

A changed header or claim is signed by the issuer, so that the signature is not the reason to refuse it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any, Final

from joserfc.jwk import Key, OctKey

from tests.oidc.signed_tokens import (
    AUDIENCE,
    CLAIMS,
    ISSUER,
    KEYS,
    REQUIRED,
    TIME,
    authenticate,
    encode,
    encode_json,
    new_key,
    public,
    sign,
    token,
)

Rng = random.Random
FAST: Final = ("EdDSA", "ES256")  # to sign with
PINNED: Final = dict(REQUIRED) | {
    **{f"/{name}": CLAIMS[name] for name in ("sub", "jti", "environment")},
    "/kubernetes.io/namespace": "web",
}
_KNOWN: Final = {*CLAIMS, "namespace", "serviceaccount", "name", "alg", "kid"}
_LIMIT: Final = 1_000  # seconds that a change of a time exceeds what is valid: tests need some time
TIMES: Final = {"exp": (-_LIMIT, 253402214400), "iat": (-3600 - _LIMIT, _LIMIT)}  # if valid, or nearly
_OTHER_KEYS: Final = {algorithm: new_key(algorithm) for algorithm in (*FAST, "ES384")}
_SECRETS: Final = [
    b"",
    *(
        form
        for key in map(public, KEYS.values())
        if not isinstance(key, OctKey)
        for form in (key.as_pem(), key.as_der())
    ),
]
VALID: Final = [token(algorithm) for algorithm in (*FAST, "RS256", "PS256", "ES384")]
_RAW: Final = (  # JSON that `json.dumps` does not write, and that is not a value of any claim
    *("[" * 600 + "]" * 600, "[" * 3_000, '{"a":' * 300 + "0" + "}" * 300, "[" * 21 + "]" * 21),
    *(
        "1" * 99,
        "1" * 200,
        "-" + "9" * 99,
        "1e308",
        "1e999",
        "-1e999",
        "1e-400",
        "NaN",
        "Infinity",
        "-Infinity",
    ),
    *(
        '{"a":1,"a":2}',
        '"\\ud800"',
        '"\\udc00\\ud800"',
        '"\\u0000"',
        "'a'",
        "01",
        "1.",
        ".5",
        "0x1",
        "1_0",
        "+1",
    ),
    *(
        "",
        "nul",
        "True",
        "undefined",
        '"\t"',
        '"',
        "/**/1",
        "1//",
        '{"a":1,}',
        "[1,]",
        "\ufeff1",
        "\x00",
        "\x1f",
    ),
)
_VALUES: Final[tuple[Any, ...]] = (
    *(
        None,
        True,
        False,
        -1,
        2**63,
        2**64,
        -(2**63),
        10**60,
        -1.5,
        "",
        "a",
        "0",
        " ",
        "\0",
        "\x7f",
        "é",
        "*",
        ".*",
    ),
    *(
        "none",
        "ES256\0",
        "a" * 3_000,
        [],
        [[]],
        [None],
        [ISSUER, AUDIENCE],
        {},
        {"": {"": []}},
        {"a": 1},
        "\ud800",
    ),
    *('"', "\\", "';--", "<script>", "%00", "{/ref}", "$context", "../..", "\u202e", "\U0001f600", "\u0430"),
)
_CHARACTERS: Final = 'AZaz09-_=.+/ \n\r\t\0\x7f"\\{}[],:éа\uff0e\u200b\U0001f600\ud800'
_NAMES: Final = (
    *(
        "jku",
        "x5u",
        "x5c",
        "jwk",
        "crit",
        "b64",
        "zip",
        "enc",
        "cty",
        "epk",
        "apu",
        "p2c",
        "url",
        "nonce",
        "ALG",
    ),
    *("", "\0", '"', "\\", "\n", "é", "a" * 2_000, "\ud800", "__proto__", "alg ", "Kid"),
)


def hostile_token(rng: Rng) -> str:
    """A token that no rule with the claims `PINNED` may accept."""
    (kind,) = rng.choices([*_KINDS], [*_KINDS.values()])
    return kind(rng)


def _mutate(rng: Rng, text: str, characters: str) -> str:
    """Insert, delete, replace, repeat or swap a part of a text."""
    start = rng.randrange(len(text))
    end = min(len(text), start + rng.choice((0, 1, 1, 2, 4, 30)))
    part = text[start:end]
    character = rng.choice(characters)
    replacement = rng.choice(("", character, part * 2, part[::-1], part.swapcase(), character * 3))
    return text[:start] + replacement + text[end:]


def _changed_text(rng: Rng) -> str:
    """Changes after the token was signed."""
    valid = rng.choice(VALID)
    text = valid
    while text == valid:
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            text = _mutate(rng, text, _CHARACTERS) or "."
    return text


def _spliced(rng: Rng) -> str:
    """Parts of several tokens, in any number and order."""
    while True:
        parts = [rng.choice(rng.choice(VALID).split(".")) for _ in range(rng.choice((1, 2, 3, 3, 3, 4, 5)))]
        if (text := ".".join(parts)) not in VALID:
            return text


def _noise(rng: Rng) -> str:
    """Text without meaning, also in base64url and as three parts."""
    length = rng.choice((0, 1, 3, 30, 900, 9_000))
    octets = rng.randbytes(length)
    return rng.choice(
        (
            lambda: octets.decode("latin-1"),
            lambda: "".join(rng.choices(_CHARACTERS, k=min(length, 300))),
            lambda: encode(octets),
            lambda: ".".join(
                encode(rng.randbytes(rng.randrange(60))) for _ in range(rng.choice((2, 3, 3, 5)))
            ),
            lambda: "." * length,
            lambda: "{" * length,
        )
    )()


def _required(data: str) -> str:
    """JSON with objects as lists of the members that rules know, in order; times that are valid are equal."""

    def order(pairs: list[tuple[str, Any]]) -> list[Any]:
        known = [[name, _same(name, value)] for name, value in pairs if name in _KNOWN]
        return sorted(known, key=json.dumps)

    return json.dumps(json.loads(data, object_pairs_hook=order))


def _same(name: str, value: Any) -> Any:
    first, last = TIMES.get(name, (1, 0))
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return CLAIMS[name] if is_number and first <= value - TIME <= last else value


def _differs(data: str, original: str) -> bool:
    try:
        return _required(data) != _required(original)
    except (ValueError, RecursionError):
        return True


def _changed_json(rng: Rng) -> str:
    """Changes to the JSON of the header or the claims, before it is signed."""
    algorithm = rng.choice(FAST)
    texts = [
        json.dumps({"alg": algorithm, "kid": f"key-{algorithm}"}),
        encode_json(dict(CLAIMS) | {"nbf": ...}).decode(),
    ]
    index = rng.choice((0, 1, 1, 1))
    original = texts[index]
    while not _differs(texts[index], original):
        texts[index] = _mutate(rng, texts[index], _CHARACTERS)
    header, claims = (text.encode("utf-8", "surrogatepass") for text in texts)
    return sign(header, claims, KEYS[algorithm], algorithm)


def _replace(rng: Rng, members: dict[str, Any], name: str) -> bytes:
    """Replace a member by a value that it must not have."""
    if rng.random() < 0.5:
        return encode_json(members | {name: "@"}).replace(b'"@"', rng.choice(_RAW).encode())
    values = [value for value in _VALUES if value is not members.get(name, ...)]
    return encode_json(members | {name: rng.choice(values)})


def _changed_claim(rng: Rng) -> str:
    """One claim that the rule requires has another value, or is missing; or is there twice."""
    algorithm = rng.choice(FAST)
    names = ["iss", "aud", "exp", "iat", *(pointer.split("/")[1] for pointer in PINNED)]
    name = rng.choice(names)
    claims = rng.choice(
        (
            lambda: _replace(rng, dict(CLAIMS), name),
            lambda: _replace(rng, dict(CLAIMS), name),
            lambda: encode_json(dict(CLAIMS) | {name: ...}),
            lambda: encode_json(dict(CLAIMS) | {name: [CLAIMS[name], CLAIMS[name]]}),
            lambda: encode_json(CLAIMS)[:-1] + b"," + encode_json({name: CLAIMS[name]})[1:],
            lambda: encode_json(
                dict(CLAIMS) | {"nbf": rng.choice((TIME + _LIMIT, None, True, "1", -1, 2**70))}
            ),
            lambda: encode_json(dict(CLAIMS) | {"exp": TIME - rng.choice((_LIMIT, 10**6, TIME))}),
            lambda: encode_json(
                dict(CLAIMS) | {"iat": TIME + rng.choice((_LIMIT, -3600 - _LIMIT, 10**6, 10**12))}
            ),
        )
    )()
    return sign(
        encode_json({"alg": algorithm, "kid": f"key-{algorithm}"}), claims, KEYS[algorithm], algorithm
    )


def _changed_header(rng: Rng) -> str:
    """A member of the header has another value, is missing, or should not be there."""
    algorithm = rng.choice(FAST)
    header = {"alg": algorithm, "kid": f"key-{algorithm}", "typ": "JWT"}
    members = rng.choice(
        (
            lambda: _replace(rng, header, rng.choice(("alg", "kid", "typ"))),
            lambda: _replace(rng, header, rng.choice(_NAMES)),
            lambda: encode_json({name: value for name, value in header.items() if name == "typ"}),
            lambda: encode_json(header)[:-1] + b',"alg":"none"}',
        )
    )()
    return sign(members, encode_json(CLAIMS), KEYS[algorithm], algorithm)


def _wrong_key(rng: Rng) -> str:
    """Signed with another key or algorithm than that of the header, or by HMAC, or not at all."""
    algorithm, claims = rng.choice(FAST), encode_json(CLAIMS)
    named, kid = rng.choice((*KEYS, "none", "HS256")), f"key-{rng.choice([*KEYS])}"
    header = encode_json({"alg": named, "kid": kid})
    key: Key = KEYS[algorithm]
    if rng.random() < 0.3:
        return authenticate(header, claims, rng.choice(_SECRETS))
    if named == algorithm and kid == f"key-{algorithm}":
        key = _OTHER_KEYS[algorithm]
    return rng.choice((sign(header, claims, key, algorithm), f"{encode(header)}.{encode(claims)}."))


_KINDS: Final[dict[Callable[[Rng], str], int]] = {  # and how often each occurs
    _changed_text: 6,
    _spliced: 1,
    _noise: 1,
    _changed_json: 5,
    _changed_claim: 5,
    _changed_header: 3,
    _wrong_key: 3,
}

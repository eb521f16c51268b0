"""Hostile tokens at the verifier: each is refused with a reason, none is accepted, and no other error occurs."""

from __future__ import annotations

import random
import re
from collections import Counter
from typing import Final

import pytest

from service.pki.token_identity import InvalidTokenError
from tests.adversarial.hostile_tokens import PINNED, hostile_token
from tests.oidc.signed_tokens import ALGORITHMS, ISSUER, rule, token, verifier

ROUNDS: Final = range(10)
ROUND_SIZE: Final = 10_000
SAFE: Final = re.compile(r"[ !#-&(-\[\]-~]{10,400}")
RULES: Final = (
    rule("other", issuer=f"{ISSUER}/2", claims={"/ref": "a"}),
    rule(claims=PINNED),
    rule("2", claims=PINNED),
)
# Each is the reason to refuse some of them.
EXPECTED: Final = {
    *("the token is not a signed JWT", "the token has more than", "the signature of the token is wrong"),
    *("the header of the token is not JSON", "the header of the token has no alg", "the typ of the token"),
    *("the header of the token has the member jku", "the header of the token has an unknown member"),
    *("the member kid of the header of the token is not a string", "the claims of the token are not JSON"),
    *(
        "no rule accepts tokens of this issuer",
        "the token is not for this CA",
        "no rule accepts the algorithm HS256",
    ),
    *(
        "the issuer has no key",
        "the token is expired",
        "the token is not valid yet",
        "the token was issued too long",
    ),
    *(
        "the token was issued in the future",
        "claims of the token are missing",
        "the claim sub of the token is not",
    ),
    *("the claim exp of the token is missing", "the claim nbf of the token is missing"),
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_token_without_a_change_is_accepted(algorithm: str) -> None:
    """Otherwise, hostile ones would be refused for another reason than their change."""
    assert verifier(*RULES).verify(token(algorithm)).rule == "deploy"


@pytest.mark.parametrize("seed", ROUNDS)
def test_hostile_tokens_are_refused(seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311 - reproducible
    by = verifier(*RULES)
    reasons: Counter[str] = Counter()
    for number in range(ROUND_SIZE):
        text = hostile_token(rng)
        try:
            identity = by.verify(text)
        except InvalidTokenError as error:
            reasons[str(error)] += 1
        except Exception as error:
            raise AssertionError(f"token {number}: {text!r}") from error
        else:
            raise AssertionError(f"token {number} is accepted as {identity}: {text!r}")
    assert not [reason for reason in reasons if not SAFE.fullmatch(reason)]
    assert not [start for start in EXPECTED if not any(reason.startswith(start) for reason in reasons)]

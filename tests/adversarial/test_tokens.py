"""Hostile tokens at the verifier and over HTTP: each is refused with a reason, and none is accepted."""

from __future__ import annotations

import http.client
import json
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from service.pki.token_identity import InvalidTokenError
from tests.adversarial import hostile_tokens
from tests.adversarial.hostile_tokens import PINNED, hostile_token
from tests.oidc.signed_tokens import ALGORITHMS, AUDIENCE, CLAIMS, ISSUER, KEYS, rule, token, verifier
from tests.servers import certlet_server

ROUNDS: Final = range(10)
ROUND_SIZE: Final = 10_000
HTTP_SIZE: Final = 3_000
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


@pytest.fixture
def _now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens whose times are valid by the clock of a server."""
    now = int(time.time())
    monkeypatch.setattr(hostile_tokens, "TIME", now)
    for name, seconds in {"iat": -10, "nbf": -10, "exp": 3_000}.items():
        monkeypatch.setitem(CLAIMS, name, now + seconds)


def write_policy(directory: Path) -> str:
    keys = [
        {**key.as_dict(private=False), "kid": f"key-{algorithm}", "alg": algorithm}
        for algorithm, key in KEYS.items()
    ]
    (directory / "jwks.json").write_text(json.dumps({"keys": keys}))
    members = {
        "issuer": ISSUER,
        "audience": AUDIENCE,
        "algorithms": ALGORITHMS,
        "jwks_file": "jwks.json",
        "claims": PINNED,
        "profiles": ["server"],
        "names": {"dns": {"permitted": ["{/environment}.ci.example.com"]}},
    }
    (directory / "policy.yaml").write_text(json.dumps({"identities": {"deploy": members}}))
    return "policy.yaml"


def http_tokens(rng: random.Random) -> Iterator[bytes]:
    """Tokens that a header can have: HTTP removes white space around a value."""
    while True:
        text = hostile_token(rng).strip()
        if text not in hostile_tokens.VALID and not re.search(r"[\r\n\0]", text):
            yield text.encode("utf-8", "surrogatepass")


@pytest.mark.usefixtures("_now")
def test_hostile_tokens_over_http_are_refused(tmp_path: Path) -> None:
    """A gateway, its worker for tokens, and an application: the response is never 500."""
    options = ("--profiles", write_policy(tmp_path), "--audit-log", "audit.log", "--no-usage-plan")
    statuses: Counter[int] = Counter()
    tokens = http_tokens(random.Random(0))  # noqa: S311 - reproducible
    with certlet_server(tmp_path, *options) as server:

        def send(text: bytes) -> int:
            with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)) as connection:
                connection.request("GET", "/profiles/mine", headers={"Authorization": b"Bearer " + text})
                response = connection.getresponse()
                document = json.loads(response.read())
            if response.status == 401:
                assert response.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
                assert SAFE.fullmatch(document["detail"]), text
            return response.status

        assert [send(token(algorithm).encode()) for algorithm in ALGORITHMS] == [200] * len(ALGORITHMS)
        for _ in range(HTTP_SIZE):
            text = next(tokens)
            status = send(text)
            assert status in {400, 401, 431}, text
            statuses[status] += 1
        assert send(token().encode()) == 200
        assert {next(iter(json.loads(line))) for line in server.read_log().splitlines()} == {"access"}
    assert statuses[401] > HTTP_SIZE * 0.8, statuses

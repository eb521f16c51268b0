"""Orders of principals whose policy requires http-01, through the application."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from service import challenge_queue, http_validator, openapi
from service.challenge_queue import MAX_PACKET, ChallengeQueue, ChallengeResult, QueuedChallenge
from service.ledger_protocol import Order
from service.pki.acme_key import AcmePrincipals
from service.pki.encoding import encode_der
from service.pki.errors import Unauthorized
from service.pki.profile_loader import IssuancePolicy
from service.web import acme_challenges
from service.web.acme_challenges import NO_VALIDATOR, REPEAT_AFTER
from service.web.acme_orders import ORDER_LIFE
from tests import csrs, factories
from tests.assertions import assert_documented
from tests.web import jws_requests
from tests.web.acme_client import AcmeClient
from tests.web.test_acme import Site, assert_problem

NAMES = ("dns:a.example.com", "ip:192.0.2.1")
SECOND = timedelta(seconds=1)


def policy(**principals: Any) -> IssuancePolicy:
    """The contract's profiles, with policies for principals; `web` has to prove its names."""
    document = factories.document()
    principals = {"web": {"dns": {"wildcards": True}, "ip": {}, "challenge": "http-01"}} | principals
    return openapi.parse_policy({**document, openapi.PRINCIPALS: principals})


class ChallengeSite(Site):
    """A site whose validator is this test."""

    def __init__(self, path: Path) -> None:
        self.validator_end, worker_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.validator_end.settimeout(0)
        self._worker_end = worker_end
        self._queue: list[QueuedChallenge] = []
        super().__init__(path, policy=policy(), challenges=ChallengeQueue(worker_end))

    def close(self) -> None:
        self.ledger.close()
        self.validator_end.close()
        self._worker_end.close()

    @property
    def queue(self) -> list[QueuedChallenge]:
        """All challenges that were to be validated."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._queue.append(QueuedChallenge.parse(self.validator_end.recv(MAX_PACKET)))
        return self._queue

    def stored(self) -> Order:
        """The order of the last challenge."""
        order = self.ledger.get_order(*self.queue[-1][:2])
        assert order
        return order

    def validate(self, code: str = "", detail: str = "") -> None:
        """Send the result of the last challenge."""
        challenge_queue.send(self.validator_end, ChallengeResult(*self.queue[-1][:3], code, detail))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ChallengeSite]:
    site = ChallengeSite(tmp_path / "ledger.db")
    yield site
    site.close()


def challenge(client: AcmeClient, order: dict[str, Any], position: int = 0) -> dict[str, Any]:
    """The challenge of an authorization, as shown by it."""
    (shown,) = client.post(order["authorizations"][position]).json()["challenges"]
    return dict(shown)


def prove_and_issue(site: ChallengeSite, client: AcmeClient, *names: str) -> bytes:
    """Order names, prove them, and return the certificate's chain, PEM."""
    order = client.order(*names).json()
    for position in range(len(names)):
        client.post(challenge(client, order, position)["url"], {})
        site.validate()
    return client.post(client.finalize(order).json()["certificate"]).body


def test_order_is_ready_when_each_name_is_proven(site: ChallengeSite) -> None:
    """Until then, it cannot be finalized."""
    client = site.client()
    ordered = client.order(*NAMES)
    order, url = ordered.json(), ordered.headers["Location"]
    assert order["status"] == "pending"
    for position in (0, 1):
        shown = challenge(client, order, position)
        assert (shown["type"], shown["status"], len(shown["token"])) == ("http-01", "pending", 22)
        detail = assert_problem(client.finalize(order), 403, "orderNotReady")["detail"]
        assert detail == "the order is pending: respond to its challenges first"
        started = client.post(shown["url"], {})
        assert_documented("/acme/challenge/{order_id}/{index}", "post", started)
        assert (started.status, started.json()["status"], started.headers["Retry-After"]) == (
            200,
            "processing",
            "2",
        )
        authorization = client.post(order["authorizations"][position])
        assert (authorization.json()["status"], authorization.headers["Retry-After"]) == ("pending", "2")
        site.clock.advance(SECOND)
        site.validate()
        authorization = client.post(order["authorizations"][position])
        assert (authorization.json()["status"], authorization.headers["Retry-After"]) == ("valid", None)
        (shown,) = authorization.json()["challenges"]
        assert shown["validated"] == site.clock().replace(microsecond=0).isoformat().replace("+00:00", "Z")
    assert [item.position for item in site.queue] == [0, 1]
    assert [item.name for item in site.queue] == ["a.example.com", "192.0.2.1"]
    assert {item.thumbprint for item in site.queue} == {client.key.thumbprint()}
    assert [item.token for item in site.queue] == [challenge(client, order, n)["token"] for n in (0, 1)]
    assert client.post(url).json()["status"] == "ready"
    assert client.finalize(order).json()["status"] == "valid"


def test_failed_challenge_ends_the_order(site: ChallengeSite) -> None:
    """The challenge shows the reason, and the order cannot be finalized."""
    client = site.client()
    ordered = client.order(*NAMES)
    order = ordered.json()
    shown = challenge(client, order)
    client.post(shown["url"], {})
    site.validate("dns", "no address")
    authorization = client.post(order["authorizations"][0])
    authorization = assert_documented("/acme/authorization/{order_id}/{index}", "post", authorization)
    error = {"type": "urn:ietf:params:acme:error:dns", "detail": "no address"}
    assert (authorization["status"], authorization["challenges"][0]["error"]) == ("invalid", error)
    assert client.post(shown["url"], {}).json()["status"] == "invalid"
    assert client.post(challenge(client, order, 1)["url"], {}).json()["status"] == "pending"
    assert client.post(ordered.headers["Location"]).json()["status"] == "invalid"
    assert "the order is invalid" in assert_problem(client.finalize(order), 403, "orderNotReady")["detail"]
    assert len(site.queue) == 1


def test_lost_challenge_is_repeated(site: ChallengeSite) -> None:
    """The client polls, or responds again, and the validator was killed: not before it could have answered."""
    client = site.client()
    order = client.order(*NAMES).json()
    url = challenge(client, order)["url"]
    assert not site.queue
    payloads: list[Any] = [{}, {}, None]
    for payload in payloads:
        assert client.post(url, payload).json()["status"] == "processing"
    site.clock.advance(REPEAT_AFTER - SECOND)
    client.post(url)
    assert len(site.queue) == 1
    site.clock.advance(SECOND)
    client.post(url)
    client.post(url, {})
    client.post(order["authorizations"][0])
    assert len(set(site.queue)) == 1
    site.validate()
    assert client.post(url).json()["status"] == "valid"
    assert len(site.queue) == 4


def test_poll_does_not_start_a_challenge(site: ChallengeSite) -> None:
    """Nor does a payload that is no object."""
    client = site.client()
    order = client.order(*NAMES).json()
    url = challenge(client, order)["url"]
    assert client.post(url).json()["status"] == "pending"
    assert_problem(client.post(url, []), 400, "malformed")
    assert not site.queue


def test_deactivated_authorization_is_not_validated(site: ChallengeSite) -> None:
    """A result that arrives later does not change it."""
    client = site.client()
    order = client.order(*NAMES).json()
    client.post(challenge(client, order)["url"], {})
    assert (
        client.post(order["authorizations"][0], {"status": "deactivated"}).json()["status"] == "deactivated"
    )
    stored = site.stored()
    assert stored.validated(0, site.clock(), None) is stored
    assert client.post(challenge(client, order)["url"], {}).json()["status"] == "pending"


def test_challenge_starts_while_the_order_changes(
    site: ChallengeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two challenges of an order start at the same time; the change that lost is made again."""
    client = site.client()
    order = client.order(*NAMES).json()
    urls = [challenge(client, order, position)["url"] for position in (0, 1)]
    update, is_first = site.ledger.update_order, True

    def update_after_other(changed: Order) -> Order:
        nonlocal is_first
        if is_first:
            is_first = False
            assert client.post(urls[1], {}).json()["status"] == "processing"
        return update(changed)

    monkeypatch.setattr(site.ledger, "update_order", update_after_other)
    assert client.post(urls[0], {}).json()["status"] == "processing"
    assert [item.position for item in site.queue] == [1, 0]
    assert [item.status for item in site.stored().authorizations] == ["processing"] * 2


def test_results_of_an_order_do_not_undo_each_other(
    site: ChallengeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker stores a result at the same time; the change that lost is made again."""
    client = site.client()
    ordered = client.order(*NAMES)
    for position in (0, 1):
        client.post(challenge(client, ordered.json(), position)["url"], {})
    for queued in site.queue:
        challenge_queue.send(site.validator_end, ChallengeResult(*queued[:3]))
    update, is_first = site.ledger.update_order, True

    def update_after_other(changed: Order) -> Order:
        nonlocal is_first
        if is_first:
            is_first = False
            assert client.post(ordered.headers["Location"]).json()["status"] == "pending"
        return update(changed)

    monkeypatch.setattr(site.ledger, "update_order", update_after_other)
    assert client.post(ordered.headers["Location"]).json()["status"] == "ready"


def test_result_of_no_challenge_is_ignored(site: ChallengeSite) -> None:
    """It is late, or malformed: it changes no order."""
    client = site.client()
    order = client.order(*NAMES).json()
    client.post(challenge(client, order)["url"], {})
    account_id, order_id, *_ = site.queue[0]
    for identity in ((account_id, order_id, 1), (account_id, order_id, 2), (account_id, order_id, -1)):
        challenge_queue.send(site.validator_end, ChallengeResult(*identity))
    for identity in ((account_id, "x", 0), ("x", order_id, 0)):
        challenge_queue.send(site.validator_end, ChallengeResult(*identity))
    assert challenge(client, order, 1)["status"] == "pending"
    assert challenge(client, order, 0)["status"] == "processing"


def test_challenge_of_an_order_that_always_changes_is_refused(
    site: ChallengeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = site.client()
    url = challenge(client, client.order(*NAMES).json())["url"]
    update = site.ledger.update_order
    monkeypatch.setattr(
        site.ledger, "update_order", lambda order: update(dataclasses.replace(order, revision=99))
    )
    assert_problem(client.post(url, {}), 409, "malformed")
    assert not site.queue


def test_wildcard_is_refused(site: ChallengeSite) -> None:
    """With a subproblem, whether or not the policy permits it (RFC 8555 8.3)."""
    problem = assert_problem(site.client().order("dns:*.example.com", *NAMES), 403, "rejectedIdentifier")
    assert "*.example.com cannot be proven by http-01" in problem["detail"]
    (subproblem,) = problem["subproblems"]
    assert subproblem["identifier"] == {"type": "dns", "value": "*.example.com"}


def test_order_without_validator_is_refused(tmp_path: Path) -> None:
    """As on AWS: nothing is issued without proof. Other principals get certificates as before."""
    site = Site(tmp_path / "ledger.db", policy=policy(ci={"dns": {}, "ip": {}}))
    site.principals = AcmePrincipals({"web": 1, "ci": 1})
    assert assert_problem(site.client().order(*NAMES), 403, "unauthorized")["detail"] == NO_VALIDATOR
    other = site.client("ci", "RS256")
    assert other.order(*NAMES).json()["status"] == "ready"
    site.ledger.close()


def test_order_from_before_the_policy_is_refused(site: ChallengeSite) -> None:
    """It was ready from the start, so no name is proven."""
    client = site.client()
    principals, required = site.authority.profiles._principals, site.authority.profiles._principals["web"]
    principals["web"] = required._replace(challenge=None)
    order = client.order(*NAMES).json()
    assert order["status"] == "ready"
    principals["web"] = required
    detail = assert_problem(client.finalize(order), 403, "orderNotReady")["detail"]
    assert detail == "the policy of your account now requires http-01: create another order"
    principals["web"] = required._replace(challenge=None)
    assert client.finalize(order).json()["status"] == "valid"


def test_only_proven_names_are_revoked(site: ChallengeSite) -> None:
    """Another account of the principal may not revoke the certificate, unless it proves the names, too."""
    client = site.client()
    chain = prove_and_issue(site, client, *NAMES)
    payload = {"certificate": jws_requests.encode(encode_der(x509.load_pem_x509_certificates(chain)[0]))}
    other = site.client(algorithm="RS256")
    url = other.directory["revokeCert"]
    prove_and_issue(site, other, NAMES[0])
    detail = assert_problem(other.post(url, payload), 403, "unauthorized")["detail"]
    assert "has not proven each name" in detail
    site.clock.advance(ORDER_LIFE)
    assert_problem(client.post(url, payload), 403, "unauthorized")
    prove_and_issue(site, other, *NAMES)
    assert other.post(url, payload).status == 200


def test_api_key_does_not_replace_the_proof() -> None:
    """A principal whose policy requires http-01 gets no certificate by another way than ACME."""
    caller = factories.CALLER
    csr = csrs.encode_der(csrs.build(None, ["dns:a.example.com"]))
    for principals, is_refused in (({caller.name: {"dns": {}, "challenge": "http-01"}}, True), ({}, False)):
        authority = factories.authority(policy=policy(**principals))
        request = factories.issuance_request(csr)
        if is_refused:
            with pytest.raises(
                Unauthorized, match="requires http-01: order certificates with an ACME client"
            ):
                authority.issue(request)
            with pytest.raises(Unauthorized):
                authority.dry_run(request)
        else:
            assert authority.issue(request)


def test_repeats_begin_after_the_time_limit_of_a_validation() -> None:
    """Otherwise, each poll would add a challenge."""
    assert acme_challenges.REPEAT_AFTER.total_seconds() > http_validator.TIMEOUT

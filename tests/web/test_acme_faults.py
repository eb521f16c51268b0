"""ACME while the ledger or the clock fails, and with requests that are sent again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography import x509

from service.authority import IssuanceRequest, IssuedCertificate
from service.ledger.sqlite import SqliteLedger
from service.ledger_protocol import LEASE, Ledger
from service.pki import acme_key, encoding
from service.pki.errors import CAUnavailable
from service.web import app
from service.web.acme import AcmeStore
from tests import csrs, factories
from tests.servers import Response
from tests.web import jws_requests
from tests.web.acme_client import JOSE, AcmeClient, key_change
from tests.web.test_acme import ACME_KEY, NAMES, URL, Killed, Site, assert_problem

CHANGES = frozenset({"consume_nonce", "update_order", "add_order", "add_account", "update_account", "count"})


class FailingLedger:
    """A ledger whose change of a number fails, before or after it was stored."""

    def __init__(self, ledger: SqliteLedger) -> None:
        self.ledger = ledger
        self.fails_at = -1
        self.is_stored = False

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.ledger, name)
        return self.change(method) if name in CHANGES else method

    def change(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*arguments: Any) -> Any:
            self.fails_at -= 1
            if self.fails_at != -1:
                return method(*arguments)
            if self.is_stored:
                method(*arguments)
            raise CAUnavailable("the ledger does not respond")

        return changed


def fail(site: Site) -> FailingLedger:
    """Serve with a ledger that fails when a test sets a number."""
    ledger = FailingLedger(site.ledger)
    store = AcmeStore(cast("Ledger", ledger), lambda: site.principals)
    site.application = app.create(factories.document(), site.authority, {}, URL, acme_store=store)
    return ledger


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "ledger.db")
    yield site
    site.ledger.close()


def serial_numbers(site: Site) -> set[str]:
    """The serial numbers of the certificates that were issued, or may have been."""
    return {record.serial_number for record in site.log if record.event in {"intent", "result"}}


def leaf_of(client: AcmeClient, order: dict[str, Any]) -> x509.Certificate:
    return x509.load_pem_x509_certificate(client.post(order["certificate"]).body)


@pytest.mark.parametrize("is_stored", [False, True])
@pytest.mark.parametrize("number", range(3))
def test_finalize_of_a_failing_ledger_issues_one_certificate(
    site: Site, number: int, *, is_stored: bool
) -> None:
    """Whichever change fails: the nonce, the claim, or the certificate. The order can be finalized again."""
    ledger = fail(site)
    client = site.client()
    order = client.order(*NAMES).json()
    ledger.fails_at, ledger.is_stored = number, is_stored
    failed = client.finalize(order)
    assert_problem(failed, 503, "serverInternal")
    assert failed.headers["Retry-After"]
    assert serial_numbers(site) if number == 2 else not serial_numbers(site)
    site.clock.now += LEASE
    finalized = client.finalize(order).json()
    assert finalized["status"] == "valid"
    assert serial_numbers(site) == {encoding.format_serial(leaf_of(client, finalized).serial_number)}


@pytest.mark.parametrize("is_stored", [False, True])
def test_order_and_account_of_a_failing_ledger_are_created_again(site: Site, *, is_stored: bool) -> None:
    """A change of the nonce, the account, or the order fails."""
    ledger = fail(site)
    client = AcmeClient(site.send, f"{URL}/acme/directory", jws_requests.new_key("ES256"))
    ledger.is_stored = is_stored
    requests: list[tuple[Callable[[], Response], set[int]]] = [
        (lambda: client.register(ACME_KEY, "web"), {200, 201}),
        (lambda: client.order(*NAMES), {201}),
    ]
    for request, statuses in requests:
        for number in range(2):
            ledger.fails_at = number
            failed = request()
            assert_problem(failed, 503, "serverInternal")
            assert failed.headers["Retry-After"]
        assert request().status in statuses
    assert not serial_numbers(site)


def test_full_disk_is_a_503_until_there_is_space(site: Site) -> None:
    """An order that does not fit is not stored."""
    client = site.client()
    site.ledger._database.execute("PRAGMA max_page_count = 1")  # no more than now
    names = [f"dns:{'a' * 60}{number}.example.com" for number in range(90)]
    failed = [client.order(*names) for _ in range(3)]
    assert_problem(failed[-1], 503, "serverInternal")
    assert failed[-1].headers["Retry-After"]
    site.ledger._database.execute("PRAGMA max_page_count = 100000")
    stored = client.post(f"{client.account}/orders").json()["orders"]
    assert len(stored) == sum(response.status == 201 for response in failed)
    assert client.issue(*NAMES)


def test_read_only_ledger_is_a_503(site: Site) -> None:
    """Nothing is issued, and the order stays ready."""
    client = site.client()
    order = client.order(*NAMES).json()
    site.ledger._database.execute("PRAGMA query_only = 1")
    failed = client.finalize(order)
    assert_problem(failed, 503, "serverInternal")
    assert failed.headers["Retry-After"]
    site.ledger._database.execute("PRAGMA query_only = 0")
    assert not serial_numbers(site)
    assert client.post(order["finalize"].removesuffix("/finalize")).json()["status"] == "ready"
    assert client.finalize(order).json()["status"] == "valid"


HOURS = (-5, -1, 1, 5)


@pytest.mark.parametrize("hours", HOURS)
def test_client_continues_after_a_clock_step(site: Site, hours: int) -> None:
    """Nonces from before a step may be refused, with a new one. Orders that have not expired stay valid."""
    client = site.client()
    nonce, order, finalized = client.nonce(), client.order(*NAMES).json(), client.order(*NAMES).json()
    finalized = client.finalize(finalized).json()
    site.clock.now += timedelta(hours=hours)
    is_refused = not -acme_key.MAX_CLOCK_SKEW <= timedelta(hours=hours) < acme_key.NONCE_LIFE
    url = client.account
    response = site.send("POST", url, client.sign(url, nonce=nonce), JOSE)
    assert (response.status == 400) is is_refused
    if is_refused:
        assert_problem(response, 400, "badNonce")
    assert client.post(finalized["certificate"]).status == 200
    issued = client.finalize(order).json()
    assert issued["status"] == "valid"
    leaf = leaf_of(client, issued)
    assert leaf.not_valid_before_utc <= site.clock.now < leaf.not_valid_after_utc
    assert client.issue(*NAMES)


@pytest.mark.parametrize("hours", HOURS)
def test_lease_ends_after_a_clock_step(site: Site, monkeypatch: pytest.MonkeyPatch, hours: int) -> None:
    """Of a worker that was killed. The certificate is valid by the new time."""
    client = site.client()
    order = client.order(*NAMES).json()

    def issue(_request: IssuanceRequest) -> IssuedCertificate:
        raise Killed

    with monkeypatch.context() as context:
        context.setattr(site.authority, "issue", issue)
        with pytest.raises(Killed):
            client.finalize(order)
    assert client.finalize(order).json()["status"] == "processing"
    site.clock.now += timedelta(hours=hours)
    finalized = client.finalize(order).json()
    assert finalized["status"] == "valid"
    leaf = leaf_of(client, finalized)
    assert leaf.not_valid_before_utc <= site.clock.now < leaf.not_valid_after_utc


def test_each_request_is_accepted_once(site: Site) -> None:
    """The same octets again are refused, with a new nonce, and change nothing."""
    client, directory = site.client(), site.client().directory
    order = client.order(*NAMES).json()
    csr = jws_requests.encode(csrs.encode_der(csrs.build(None, NAMES)))
    certificate = order["finalize"].replace("order", "certificate").removesuffix("/finalize")
    new_key = jws_requests.new_key("ES256")
    calls: list[tuple[str, Any]] = [
        (client.account, {"contact": ["mailto:a@example.com"]}),
        (f"{client.account}/orders", None),
        (directory["newOrder"], {"identifiers": [{"type": "dns", "value": "a.example.com"}]}),
        (order["authorizations"][0], None),
        (order["finalize"], {"csr": csr}),
        (order["finalize"].removesuffix("/finalize"), None),
        (certificate, None),
        (directory["keyChange"], key_change(client, new_key)),
    ]
    for url, payload in calls:
        body = client.sign(url, payload)
        assert site.send("POST", url, body, JOSE).status in {200, 201}, url
        assert_problem(
            site.send("POST", url, body, JOSE),
            400,
            "malformed" if url == directory["keyChange"] else "badNonce",
        )
    assert len(serial_numbers(site)) == 1


def test_one_of_many_equal_requests_is_accepted(site: Site) -> None:
    """20 threads send each of ten orders at once."""
    client = site.client()
    url = client.directory["newOrder"]
    payload = {"identifiers": [{"type": "dns", "value": "a.example.com"}]}
    with ThreadPoolExecutor(20) as pool:
        for _ in range(10):
            body = client.sign(url, payload)
            responses = list(pool.map(lambda body: site.send("POST", url, body, JOSE), [body] * 20))
            kinds = Counter(json.loads(response.body).get("type", "created") for response in responses)
            assert kinds == {"created": 1, "urn:ietf:params:acme:error:badNonce": 19}
    assert len(client.post(f"{client.account}/orders").json()["orders"]) == 10

"""ACME while the ledger or the clock fails, and with requests that are sent again."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from joserfc.jwk import ECKey

from service import openapi
from service.authority import Approval, IssuedCertificate
from service.ledger.sqlite import SqliteLedger
from service.ledger_protocol import LEASE, Ledger
from service.pki import acme_key, encoding, keys
from service.pki.acme_key import AcmePrincipals
from service.pki.errors import CAUnavailable
from service.web import app
from service.web.acme import AcmeStore
from tests import csrs, factories
from tests.examples import certificate_id
from tests.servers import Response
from tests.web import jws_requests
from tests.web.acme_client import JOSE, AcmeClient, key_change
from tests.web.test_acme import ACME_KEY, NAMES, URL, Killed, Site, assert_problem

CHANGES = frozenset({"consume_nonce", "update_order", "add_order", "add_account", "update_account", "count"})
FILES = ("", "-wal")  # the ends of the names of a ledger's files


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


class PowerFailure:
    """Copies a ledger's files whenever a change is on disk: what is left of them after a power failure."""

    def __init__(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        self.site = site
        change = site.ledger._change

        @contextlib.contextmanager
        def copying_change(synchronous: str = "FULL") -> Iterator[None]:
            with change(synchronous):
                yield
            if synchronous == "FULL":
                for suffix in FILES:
                    shutil.copy(f"{site.ledger._path}{suffix}", f"{site.ledger._path}.copy{suffix}")

        monkeypatch.setattr(site.ledger, "_change", copying_change)

    def happen(self) -> None:
        """Open the ledger with the copies, as if the machine had started again."""
        ledger = self.site.ledger
        ledger.close()
        for suffix in FILES:
            shutil.copy(f"{ledger._path}.copy{suffix}", f"{ledger._path}{suffix}")
        SqliteLedger.__init__(ledger, ledger._path, self.site.clock, create=False)


def test_power_failure_loses_no_certificate(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The account and the certificate are there. An order is lost with its mark, so the next one may replace."""
    power = PowerFailure(site, monkeypatch)
    client = site.client()
    finalized = client.finalize(client.order(*NAMES).json()).json()
    leaf = leaf_of(client, finalized)
    lost = client.order(*NAMES, replaces=certificate_id(leaf))
    power.happen()
    assert leaf_of(client, finalized) == leaf
    assert_problem(client.post(lost.headers["Location"]), 404, "malformed")
    assert client.order(*NAMES, replaces=certificate_id(leaf)).status == 201


def test_order_whose_claim_is_lost_is_finalized_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second certificate is another one, and the audit log has both."""
    power = PowerFailure(site, monkeypatch)
    client = site.client()
    ordered = client.order(*NAMES)
    site.client()  # a change that is on disk, and with it the order
    ledger = fail(site)
    ledger.fails_at = 2  # the certificate is signed, and not stored
    assert client.finalize(ordered.json()).status == 503
    power.happen()
    site.clock.now += timedelta(seconds=1)
    order = client.post(ordered.headers["Location"]).json()
    assert order["status"] == "ready"
    leaf = leaf_of(client, client.finalize(order).json())
    assert len(serial_numbers(site)) == 2
    assert encoding.format_serial(leaf.serial_number) in serial_numbers(site)


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
    """Nonces from before a step ahead are refused, with a new one. Orders that have not expired stay valid."""
    client = site.client()
    nonce, order, finalized = client.nonce(), client.order(*NAMES).json(), client.order(*NAMES).json()
    finalized = client.finalize(finalized).json()
    site.clock.now += timedelta(hours=hours)
    is_refused = timedelta(hours=hours) >= acme_key.NONCE_LIFE
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

    def issue(_approval: Approval) -> IssuedCertificate:
        raise Killed

    with monkeypatch.context() as context:
        context.setattr(site.authority, "issue_approved", issue)
        with pytest.raises(Killed):
            client.finalize(order)
    assert client.finalize(order).json()["status"] == "processing"
    site.clock.now += timedelta(hours=hours)
    finalized = client.finalize(order).json()
    assert finalized["status"] == "valid"
    leaf = leaf_of(client, finalized)
    assert leaf.not_valid_before_utc <= site.clock.now < leaf.not_valid_after_utc


class Issued(NamedTuple):
    """A client with an order; the certificate of another order; and a client that has its key."""

    client: AcmeClient
    order: dict[str, Any]
    chain: str
    holder: AcmeClient

    def sign(self, url: str, payload: object = None) -> tuple[str, bytes]:
        return url, self.client.sign(url, payload)

    def register(self, **payload: Any) -> tuple[str, bytes]:
        url, key = self.client.directory["newAccount"], jws_requests.new_key("ES256")
        other = AcmeClient(self.client.send, f"{URL}/acme/directory", key)
        return url, other.sign(url, {"externalAccountBinding": other.binding(ACME_KEY, "web")} | payload)

    def revoke(self, client: AcmeClient) -> tuple[str, bytes]:
        der = x509.load_pem_x509_certificate(self.chain.encode()).public_bytes(Encoding.DER)
        url = client.directory["revokeCert"]
        return url, client.sign(url, {"certificate": jws_requests.encode(der)})


@pytest.fixture
def issued(site: Site) -> Issued:
    client, pem = site.client(), keys.encode_private_key(csrs.private_key("p-256"))
    chain, order = client.issue(*NAMES), client.order(*NAMES).json()
    holder = AcmeClient(site.send, f"{URL}/acme/directory", ECKey.import_key(pem))
    return Issued(client, order, chain, holder)


def order_url(issued: Issued, kind: str = "order") -> str:
    url: str = issued.order["finalize"]
    return url.removesuffix("/finalize").replace("/order/", f"/{kind}/")


def finalize_payload() -> dict[str, str]:
    return {"csr": jws_requests.encode(csrs.encode_der(csrs.build(None, NAMES)))}


def certificate_of(issued: Issued) -> tuple[str, bytes]:
    assert issued.client.finalize(issued.order).status == 200
    return issued.sign(order_url(issued, "certificate"))


IDENTIFIERS = {"identifiers": [{"type": "dns", "value": "a.example.com"}]}
SIGNED: list[tuple[str, Callable[[Issued], tuple[str, bytes]]]] = [  # operationId, and the request
    ("acmeNewAccount", lambda issued: issued.register()),
    ("acmeAccount", lambda issued: issued.sign(issued.client.account, {"contact": ["mailto:a@example.com"]})),
    ("acmeAccount", lambda issued: issued.sign(issued.client.account, {"status": "deactivated"})),
    ("acmeOrders", lambda issued: issued.sign(f"{issued.client.account}/orders")),
    (
        "acmeKeyChange",
        lambda issued: issued.sign(
            issued.client.directory["keyChange"], key_change(issued.client, jws_requests.new_key("ES256"))
        ),
    ),
    ("acmeNewOrder", lambda issued: issued.sign(issued.client.directory["newOrder"], IDENTIFIERS)),
    ("acmeOrder", lambda issued: issued.sign(order_url(issued))),
    ("acmeFinalize", lambda issued: issued.sign(issued.order["finalize"], finalize_payload())),
    ("acmeAuthorization", lambda issued: issued.sign(issued.order["authorizations"][0])),
    (
        "acmeAuthorization",
        lambda issued: issued.sign(issued.order["authorizations"][0], {"status": "deactivated"}),
    ),
    ("acmeChallenge", lambda issued: issued.sign(f"{order_url(issued, 'challenge')}/0", {})),
    ("acmeCertificate", certificate_of),
    ("acmeRevokeCert", lambda issued: issued.revoke(issued.client)),
    ("acmeRevokeCert", lambda issued: issued.revoke(issued.holder)),
]


def test_each_signed_operation_is_sent_again() -> None:
    """In the tests below."""
    document = factories.document()
    operations = openapi.operations_by_id(document)
    signed = {
        name
        for name, operation in operations.items()
        if "application/jose+json"
        in openapi.resolve_refs(operation.get("requestBody", {}), document).get("content", {})
    }
    assert signed == {name for name, _ in SIGNED}


def assert_used_nonce(site: Site, response: Response) -> None:
    """The refusal has a new nonce, which is accepted."""
    assert_problem(response, 400, "badNonce")
    nonce = response.headers["Replay-Nonce"]
    assert nonce
    assert not site.ledger.is_consumed(nonce)
    url = f"{URL}/acme/new-order"
    again = site.send("POST", url, jws_requests.request(nonce=nonce, url=url, kid="", jwk=None), JOSE)
    assert b"badNonce" not in again.body


@pytest.mark.parametrize(("operation", "sign"), SIGNED)
def test_request_is_accepted_once(
    site: Site, issued: Issued, operation: str, sign: Callable[[Issued], tuple[str, bytes]]
) -> None:
    """The same octets again are refused, whatever the first request changed, and change nothing."""
    url, body = sign(issued)
    first = site.send("POST", url, body, JOSE)
    assert first.status in {200, 201}, operation
    records = len(site.log)
    for _ in range(2):
        assert_used_nonce(site, site.send("POST", url, body, JOSE))
    assert len(site.log) == records


@pytest.mark.parametrize(("operation", "sign"), SIGNED)
def test_request_is_accepted_once_also_if_its_account_has_ended(
    site: Site, issued: Issued, operation: str, sign: Callable[[Issued], tuple[str, bytes]]
) -> None:
    """Since the principal was removed."""
    url, body = sign(issued)
    assert site.send("POST", url, body, JOSE).status in {200, 201}, operation
    site.principals = AcmePrincipals({})
    assert_used_nonce(site, site.send("POST", url, body, JOSE))


def test_refused_request_without_a_right_signature_uses_no_nonce(site: Site, issued: Issued) -> None:
    """Others cannot use up the nonce of an account, so the same refusal is repeated."""
    stranger = jws_requests.new_key("ES256")
    url = issued.client.directory["newOrder"]
    nonce = issued.client.nonce()
    forged = issued.client.sign(url, IDENTIFIERS, stranger, nonce=nonce)
    for _ in range(2):
        assert_problem(site.send("POST", url, forged, JOSE), 400, "malformed")
    assert site.send("POST", url, issued.client.sign(url, IDENTIFIERS, nonce=nonce), JOSE).status == 201


@pytest.mark.parametrize("hours", [-5, 2, 48])
def test_nonce_is_not_used_again_after_the_clock_was_set_back(site: Site, hours: int) -> None:
    """To where it was, after nonces have ended at the other time; clients go on at both times."""
    client = site.client()
    url = client.directory["newOrder"]
    here, there = client.sign(url, IDENTIFIERS), b""
    assert site.send("POST", url, here, JOSE).status == 201
    now = site.clock.now
    for step in (hours, hours + 2):
        site.clock.now = now + timedelta(hours=step)
        there = there or client.sign(
            url, IDENTIFIERS, nonce=AcmeClient(site.send, f"{URL}/acme/directory").nonce()
        )
        if step == hours:
            assert site.send("POST", url, there, JOSE).status == 201
        for _ in range(3):  # changes that delete what has ended
            assert client.order(*NAMES).status == 201
    for later in (0, 1, hours, hours + 1):
        site.clock.now = now + timedelta(hours=later)
        assert_problem(site.send("POST", url, here, JOSE), 400, "badNonce")
        assert_problem(site.send("POST", url, there, JOSE), 400, "badNonce")
        assert client.issue(*NAMES)


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

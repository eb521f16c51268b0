"""ACME's operations, through the application, with a ledger in a file."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta, timezone
from email.message import Message
from pathlib import Path
from typing import Any, cast

import awsgi
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID
from joserfc.jwk import ECKey
from jsonschema import Draft4Validator

from service import aws_lambda, openapi
from service.authority import Approval, IssuedCertificate
from service.challenge_queue import ChallengeQueue
from service.ledger import sqlite
from service.ledger.sqlite import SqliteLedger
from service.ledger_protocol import LEASE, Conflict
from service.loaded_ca import LoadedCA
from service.pki import revocation
from service.pki.acme_key import AcmeKey, AcmePrincipals
from service.pki.encoding import encode_pem
from service.pki.errors import CAUnavailable
from service.pki.renewal_info import CertificateId
from service.quota import Quota
from service.web import acme, app
from service.web.acme import AcmeStore
from service.web.acme_problems import NAMESPACE
from tests import csrs, factories
from tests.examples import certificate_id
from tests.lambda_events import from_request
from tests.ledger.conftest import Clock
from tests.servers import Response
from tests.web import jws_requests
from tests.web.acme_client import JOSE, AcmeClient, key_change

URL = "https://ca.example/base"
ACME_KEY = AcmeKey(bytes(32))
NAMES = ("dns:a.example.com", "dns:b.example.com")


DOCUMENT = factories.document()
OPERATIONS = {
    (method, re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(URL + path)) + r"(\?.*)?")): operation
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
}


def assert_in_contract(method: str, url: str, response: Response) -> None:
    """Each response of an operation has a status, headers and JSON of the contract."""
    for (name, pattern), operation in OPERATIONS.items():
        if name == method.lower() and pattern.fullmatch(url):
            expected = openapi.resolve_ref(operation["responses"][str(response.status)], DOCUMENT)
            assert set(response.headers) <= {*expected["headers"], "Content-Type"}, response.status
            content = expected.get("content", {}).get(response.headers["Content-Type"])
            if content and response.body and "json" in response.headers["Content-Type"]:
                schema = openapi.resolve_refs(content["schema"], DOCUMENT)
                Draft4Validator(schema).validate(response.json())


class Site:
    """The application of a CA with ACME, on a base path."""

    def __init__(
        self,
        path: Path,
        quota: Quota | None = None,
        challenges: ChallengeQueue | None = None,
        **members: Any,
    ) -> None:
        self.clock = Clock()
        self.ledger = SqliteLedger(path, self.clock)
        self.principals = AcmePrincipals({"web": 1})
        self.log = factories.RecordingLog()
        loaded_ca = LoadedCA(factories.create_issuer(), factories.SERIAL_KEYS, acme_key=ACME_KEY)
        defaults: dict[str, Any] = {
            "load_ca": lambda: loaded_ca,
            "clock": self.clock,
            "load_revoked": self.ledger.load_revoked,
        }
        self.authority = factories.authority(self.log, **defaults | members)
        store = AcmeStore(self.ledger, lambda: self.principals, quota, challenges)
        self.application = app.create(factories.document(), self.authority, {}, URL, acme_store=store)

    def send(self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]) -> Response:
        event = from_request(method, url.removeprefix(URL), headers, body or b"")
        event["resource"] = ""
        result = awsgi.response(
            self.application, aws_lambda._normalise_event(event), None, app.BINARY_CONTENT_TYPES
        )
        message = Message()
        for name, value in result["headers"].items():
            message[name] = value
        text = result["body"]
        octets = base64.b64decode(text) if result["isBase64Encoded"] else text.encode()
        response = Response(int(result["statusCode"]), message, octets)
        assert_in_contract(method, url, response)
        return response

    def client(self, principal: str = "web", algorithm: str = "ES256") -> AcmeClient:
        """A client with an account."""
        client = AcmeClient(self.send, f"{URL}/acme/directory", jws_requests.new_key(algorithm), algorithm)
        assert client.register(ACME_KEY, principal).status == 201
        return client


@pytest.fixture(scope="module")
def shared_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("acme") / "ledger.db")
    yield site
    site.ledger.close()


@pytest.fixture
def site(shared_site: Site) -> Site:
    """The shared site, with other accounts: each test has its own keys."""
    shared_site.clock.now, shared_site.principals = Clock().now, AcmePrincipals({"web": 1})
    shared_site.log.clear()
    return shared_site


def assert_problem(response: Response, status: int, kind: str) -> dict[str, Any]:
    problem: dict[str, Any] = response.json()
    assert (response.status, problem["type"]) == (status, NAMESPACE + kind), problem
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["Replay-Nonce"]
    return problem


@pytest.mark.parametrize("algorithm", jws_requests.KEYS)
def test_certificate_is_issued(site: Site, algorithm: str) -> None:
    """To an account of each kind of key: order, finalize, download."""
    client = site.client(algorithm=algorithm)
    ordered = client.order(*NAMES)
    order = ordered.json()
    assert (ordered.status, order["status"]) == (201, "ready")
    authorization = client.post(order["authorizations"][1]).json()
    assert authorization["identifier"] == {"type": "dns", "value": "b.example.com"}
    assert (authorization["status"], authorization["challenges"][0]["status"]) == ("valid", "valid")
    assert client.post(authorization["challenges"][0]["url"], {}).json() == authorization["challenges"][0]
    finalized = client.finalize(order)
    assert finalized.json()["status"] == "valid"
    assert client.post(ordered.headers["Location"]).json() == finalized.json()
    chain = client.post(finalized.json()["certificate"])
    assert chain.headers["Content-Type"] == "application/pem-certificate-chain"
    leaf = x509.load_pem_x509_certificates(chain.body)[0]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["a.example.com", "b.example.com"]
    assert [record.principal for record in site.log] == ["web", "web"]


def test_nonce_is_in_a_header(site: Site) -> None:
    """HEAD has the status 200, GET 204 (RFC 8555 7.2)."""
    url = f"{URL}/acme/new-nonce"
    responses = [site.send(method, url, None, {}) for method in ("HEAD", "GET")]
    assert [(response.status, response.body) for response in responses] == [(200, b""), (204, b"")]
    nonces = {response.headers["Replay-Nonce"] for response in responses}
    assert len(nonces) == 2
    for response in responses:
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["Link"] == f'<{URL}/acme/directory>;rel="index"'


def test_directory_has_absolute_urls(site: Site) -> None:
    """They begin with the public URL, and the response has no nonce."""
    response = site.send("GET", f"{URL}/acme/directory", None, {})
    directory = response.json()
    assert directory["newOrder"] == f"{URL}/acme/new-order"
    assert directory["renewalInfo"] == f"{URL}/renewal-info"
    assert set(directory["meta"]["profiles"]) == {"server", "client", "peer"}
    assert response.headers["Replay-Nonce"] is None


POSTS = [
    path
    for path, item in factories.document()["paths"].items()
    if path.startswith("/acme/") and "post" in item
]


@pytest.mark.parametrize("missing", ["ledger", "key", "url"])
def test_ca_without_acme_says_what_is_missing(tmp_path: Path, missing: str) -> None:
    """Each operation is 404."""
    site = Site(tmp_path / "ledger.db")
    ca = LoadedCA(
        factories.create_issuer(), factories.SERIAL_KEYS, acme_key=ACME_KEY if missing != "key" else None
    )
    store = AcmeStore(site.ledger, lambda: site.principals) if missing != "ledger" else None
    authority = factories.authority(site.log, load_ca=lambda: ca)
    url = URL if missing != "url" else ""
    site.application = app.create(factories.document(), authority, {}, url, acme_store=store)
    head = site.send("HEAD", f"{URL}/acme/new-nonce", None, {})
    assert (head.status, head.body) == (404, b"")
    for path in (*POSTS, "/acme/directory", "/acme/new-nonce"):
        body = jws_requests.request({}) if path in POSTS else None
        response = site.send("POST" if body else "GET", URL + path, body, JOSE if body else {})
        problem = response.json()
        assert (response.status, problem["type"]) == (404, NAMESPACE + "malformed")
        assert {"ledger": "ledger", "key": "acme add", "url": "public URL"}[missing] in problem["detail"]
    site.ledger.close()


def test_account_is_registered_once(site: Site) -> None:
    """The account has the external account binding; the second registration finds it (RFC 8555 7.3.1)."""
    client = AcmeClient(site.send, f"{URL}/acme/directory", jws_requests.new_key("ES256"))
    unknown = client.post(client.directory["newAccount"], {"onlyReturnExisting": True})
    assert_problem(unknown, 400, "accountDoesNotExist")
    assert_problem(client.post(client.directory["newAccount"], {}), 403, "externalAccountRequired")
    response = client.register(ACME_KEY, "web", contact=["mailto:a@example.com"])
    account = response.json()
    assert (response.status, account["status"], account["contact"]) == (
        201,
        "valid",
        ["mailto:a@example.com"],
    )
    assert account["externalAccountBinding"].keys() == {"protected", "payload", "signature"}
    url, client.account = client.account, ""
    found = client.post(client.directory["newAccount"], {"onlyReturnExisting": True})
    assert (found.status, found.headers["Location"], found.json()) == (200, url, account)


def test_account_is_updated_and_deactivated(site: Site) -> None:
    """After that, the account has ended (RFC 8555 7.3.6)."""
    client = site.client()
    changed = client.post(client.account, {"contact": ["mailto:b@example.com"]})
    assert changed.json()["contact"] == ["mailto:b@example.com"]
    assert client.post(client.account).json() == changed.json()
    assert client.post(client.account, {"status": "deactivated"}).json()["status"] == "deactivated"
    assert_problem(client.order(*NAMES), 403, "unauthorized")


def test_account_of_another_key_is_hidden(site: Site) -> None:
    """An account, its orders and its certificates are only for the account."""
    client, other = site.client(), site.client(algorithm="ES384")
    order = other.order(*NAMES)
    assert_problem(client.post(other.account), 403, "unauthorized")
    assert_problem(client.post(f"{other.account}/orders"), 403, "unauthorized")
    certificate = other.finalize(order.json()).json()["certificate"]
    for url in (order.headers["Location"], order.json()["authorizations"][0], certificate):
        assert other.post(url).status == 200
        assert_problem(client.post(url), 404, "malformed")
    assert_problem(client.post(order.json()["finalize"], {"csr": "AA"}), 404, "malformed")


def test_orders_are_listed_in_pages(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Link has the URL of the next page."""
    monkeypatch.setattr(acme, "MAX_LISTED", 2)
    monkeypatch.setattr(sqlite, "MAX_LISTED", 2)
    client = site.client()
    urls = {client.order(*NAMES).headers["Location"] for _ in range(3)}
    first = client.post(f"{client.account}/orders")
    link, index = first.headers["Link"].split(", ")
    assert (link.endswith('>;rel="next"'), index.endswith('>;rel="index"')) == (True, True)
    second = client.post(link.partition("<")[2].partition(">")[0])
    assert {*first.json()["orders"], *second.json()["orders"]} == urls
    assert 'rel="next"' not in second.headers["Link"]
    assert_problem(client.post(f"{client.account}/orders?cursor=x"), 400, "malformed")


def test_key_is_changed(site: Site) -> None:
    """Only the new key then signs for the account; the key of another account is refused (RFC 8555 7.3.5)."""
    client, other = site.client(), site.client(algorithm="ES384")
    new_key = jws_requests.new_key("ES256")
    url = client.directory["keyChange"]
    taken = client.post(url, key_change(client, other.key, "ES384"))
    assert_problem(taken, 409, "malformed")
    assert taken.headers["Location"] == other.account
    assert_problem(client.post(url, key_change(client, new_key, account=other.account)), 400, "malformed")
    assert client.post(url, key_change(client, new_key)).status == 200
    assert_problem(client.post(client.account), 400, "malformed")
    client.key = new_key
    assert client.post(client.account).json()["status"] == "valid"


def test_order_is_judged_by_the_policy(tmp_path: Path) -> None:
    """Each name that is refused has a subproblem, and the detail, which clients print, has the reasons."""
    policy = openapi.parse_policy(
        openapi.with_overrides(
            factories.document(),
            {"principals": {"web": {"dns": {"permitted": ["example.com"], "wildcards": True}}}},
        )
    )
    site = Site(tmp_path / "ledger.db", policy=policy)
    client = site.client()
    problem = assert_problem(
        client.order("dns:a.example.com", "dns:a.example.org", "dns:*.com"), 403, "rejectedIdentifier"
    )
    rejected = [item["identifier"]["value"] for item in problem["subproblems"]]
    assert set(rejected) == {"a.example.org", "*.com"}
    assert "a.example.org: the policy for caller 'web' permits only names in example.com" in problem["detail"]
    assert (
        client.order("dns:a.example.com", "dns:*.example.com", "ip:192.0.2.1").status == 403
    )  # no IP policy
    assert client.order("dns:A.example.com", "dns:*.example.com").status == 201
    site.ledger.close()


ORDERS: list[tuple[dict[str, Any], int, str, str]] = [
    ({"identifiers": []}, 400, "malformed", "identifiers"),
    ({"identifiers": "a"}, 400, "malformed", "identifiers"),
    ({"identifiers": [{"type": "dns"}]}, 400, "malformed", "identifier"),
    ({"identifiers": [{"type": "dns", "value": "a.example.com"}] * 101}, 400, "malformed", "at most"),
    (
        {"identifiers": [{"type": "email", "value": "a@example.com"}]},
        400,
        "unsupportedIdentifier",
        "dns or ip",
    ),
    ({"identifiers": [{"type": "dns", "value": "a_b..example"}]}, 403, "rejectedIdentifier", "a_b..example"),
    ({"identifiers": [{"type": "ip", "value": "192.0.2.300"}]}, 403, "rejectedIdentifier", "192.0.2.300"),
    ({"identifiers": [{"type": "ip", "value": "fe80::1%eth0"}]}, 403, "rejectedIdentifier", "fe80::1%eth0"),
    (
        {"identifiers": [{"type": "dns", "value": f"{n}._"} for n in range(6)]},
        403,
        "rejectedIdentifier",
        "hyphens (and 2 more)",
    ),
    ({"profile": "admin"}, 400, "invalidProfile", "admin"),
    ({"profile": 1}, 400, "malformed", "strings"),
    ({"profile": ""}, 400, "malformed", "not empty"),
    ({"notAfter": ""}, 400, "malformed", "not empty"),
    ({"notBefore": ""}, 400, "malformed", "not empty"),
    ({"replaces": ""}, 400, "malformed", "not empty"),
    ({"notAfter": "soon"}, 400, "malformed", "soon"),
    ({"notAfter": "2030-01-01T00:00:00Z"}, 400, "malformed", "too long"),
    ({"notAfter": "2030-W01-1T00:00:00Z"}, 400, "malformed", "RFC 3339"),
    ({"notAfter": "9999-12-31T23:59:59-01:00"}, 400, "malformed", "RFC 3339"),
    ({"notBefore": "soon"}, 400, "malformed", "soon"),
    ({"notBefore": "20300101T000000Z"}, 400, "malformed", "RFC 3339"),
    (
        {"identifiers": [{"type": "dns", "value": "192.0.2.1"}]},
        403,
        "rejectedIdentifier",
        "with ACME an identifier of type ip",
    ),
    ({"notBefore": "2030-01-01T00:00:00Z"}, 400, "malformed", "omit it"),
    ({"replaces": "a.b"}, 400, "malformed", "replaces"),
]


@pytest.mark.parametrize(("change", "status", "kind", "text"), ORDERS, ids=lambda value: str(value)[:40])
def test_order_is_refused(site: Site, change: dict[str, Any], status: int, kind: str, text: str) -> None:
    """With what is wrong. The same order without the change is accepted."""
    client = site.client()
    payload = {"identifiers": [{"type": "dns", "value": "a.example.com"}]}
    problem = assert_problem(client.post(client.directory["newOrder"], payload | change), status, kind)
    assert text in problem["detail"]
    assert client.post(client.directory["newOrder"], payload).status == 201


def test_order_keeps_its_profile_and_times(site: Site) -> None:
    """The certificate has them."""
    client = site.client()
    end, start = site.clock() + timedelta(days=1), site.clock() - timedelta(minutes=1)
    times = {"notAfter": f"{end:%Y-%m-%dT%H:%M:%SZ}", "notBefore": f"{start:%Y-%m-%dT%H:%M:%SZ}"}
    order = client.order("ip:192.0.2.1", "dns:a.example.com", profile="peer", **times).json()
    assert {name: order[name] for name in ("profile", "notAfter", "notBefore")} == {
        "profile": "peer",
        **times,
    }
    chain = client.post(client.finalize(order).json()["certificate"]).body
    leaf = x509.load_pem_x509_certificates(chain)[0]
    assert abs(leaf.not_valid_after_utc - end) <= timedelta(seconds=1)
    assert leaf.not_valid_before_utc <= start
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert ExtendedKeyUsageOID.CLIENT_AUTH in usage


def test_times_of_an_order_may_have_other_zones_and_fractions(site: Site) -> None:
    """The order has them in UTC, rounded down to whole seconds."""
    client = site.client()
    end = site.clock().replace(microsecond=0) + timedelta(days=1)
    local = end.astimezone(timezone(-timedelta(hours=9, minutes=30)))
    order = client.order("dns:a.example.com", notAfter=f"{local:%Y-%m-%dt%H:%M:%S}.75-09:30").json()
    assert order["notAfter"] == f"{end:%Y-%m-%dT%H:%M:%SZ}"
    assert client.finalize(order).json()["status"] == "valid"


def test_wildcard_is_marked(site: Site) -> None:
    """Its authorization has the name without `*.` (RFC 8555 7.1.4)."""
    client = site.client()
    order = client.order("dns:*.example.com").json()
    authorization = client.post(order["authorizations"][0]).json()
    assert order["identifiers"] == [{"type": "dns", "value": "*.example.com"}]
    assert (authorization["identifier"]["value"], authorization["wildcard"]) == ("example.com", True)
    assert client.finalize(order).json()["status"] == "valid"


def test_replaced_certificate_is_replaced_once(site: Site) -> None:
    """Until it ends, even after the order that replaces it has expired (RFC 9773 5)."""
    client = site.client()
    leaf = x509.load_pem_x509_certificates(client.issue(*NAMES).encode())[0]
    identifier = certificate_id(leaf)
    order = client.order(*NAMES, replaces=identifier).json()
    assert order["replaces"] == identifier
    assert_problem(client.order(*NAMES, replaces=identifier), 409, "alreadyReplaced")
    assert client.finalize(order).json()["status"] == "valid"
    site.clock.now += timedelta(days=1)
    assert_problem(client.order(*NAMES, replaces=identifier), 409, "alreadyReplaced")


def test_certificate_is_stored_even_if_its_mark_is_not(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mark that the order was created with ends with the order."""
    client = site.client()
    leaf = x509.load_pem_x509_certificates(client.issue(*NAMES).encode())[0]
    order = client.order(*NAMES, replaces=certificate_id(leaf)).json()

    def mark_replaced(*_: object) -> bool:
        raise CAUnavailable("the ledger is not available")

    monkeypatch.setattr(site.ledger, "mark_replaced", mark_replaced)
    assert client.finalize(order).json()["status"] == "valid"


def test_order_that_expired_without_a_certificate_replaces_nothing(site: Site) -> None:
    client = site.client()
    leaf = x509.load_pem_x509_certificates(client.issue(*NAMES).encode())[0]
    assert client.order(*NAMES, replaces=certificate_id(leaf)).status == 201
    site.clock.now += timedelta(days=1)
    assert client.order(*NAMES, replaces=certificate_id(leaf)).status == 201


def test_order_expires(site: Site) -> None:
    """After eight hours, with its certificate."""
    client = site.client()
    ordered = client.order(*NAMES)
    site.clock.now += timedelta(hours=7, minutes=59)
    assert client.post(ordered.headers["Location"]).status == 200
    site.clock.now += timedelta(minutes=1)
    assert_problem(client.post(ordered.headers["Location"]), 404, "malformed")
    assert_problem(client.finalize(ordered.json()), 404, "malformed")


def csr(*names: str, common_name: str | None = None, key_type: str = "p-256") -> bytes:
    return csrs.encode_der(csrs.build(common_name, names, key_type=key_type))


def test_csr_must_have_the_names_of_the_order(site: Site) -> None:
    """No more and no fewer; a common name must be one of them (RFC 8555 7.4). The order stays ready."""
    client = site.client()
    order = client.order(*NAMES).json()
    for names, text in (
        (NAMES[:1], "not in the CSR: b.example.com"),
        ((*NAMES, "dns:c.example.com"), "not in the order: c.example.com"),
    ):
        assert text in assert_problem(client.finalize(order, csr(*names)), 400, "badCSR")["detail"]
    many = client.finalize(order, csr(*NAMES, *[f"dns:x{n}.example.com" for n in range(6)]))
    assert "x3.example.com (and 2 more)" in assert_problem(many, 400, "badCSR")["detail"]
    peer = client.order(*NAMES, profile="client").json()
    refused = client.finalize(peer, csr(*NAMES, common_name="c.example.com"))
    assert "c.example.com" in assert_problem(refused, 400, "badCSR")["detail"]
    assert client.finalize(peer, csr(*NAMES, common_name="a.example.com")).json()["status"] == "valid"
    assert_problem(client.finalize(order, b"\x30\x00"), 400, "badCSR")
    assert_problem(client.post(order["finalize"], {}), 400, "malformed")
    assert client.finalize(order, csr(*NAMES[::-1])).json()["status"] == "valid"


def test_key_of_an_account_gets_no_certificate(site: Site) -> None:
    """Neither that of the account nor that of another one (RFC 8555 11.1)."""
    client = site.client()
    account_key = load_pem_private_key(cast("ECKey", client.key).as_pem(private=True), None)
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    san = x509.SubjectAlternativeName([x509.DNSName("a.example.com")])
    request = builder.add_extension(san, critical=False).sign(account_key, hashes.SHA256())  # type: ignore[arg-type]
    for signer in (client, site.client(algorithm="ES384")):
        order = signer.order("dns:a.example.com").json()
        problem = assert_problem(signer.finalize(order, csrs.encode_der(request)), 400, "badCSR")
        assert "account" in problem["detail"]
        assert signer.finalize(order).json()["status"] == "valid"


def test_order_is_finalized_once(site: Site) -> None:
    """The same CSR gets the same certificate, another CSR none."""
    client = site.client()
    order = client.order(*NAMES).json()
    valid = client.finalize(order)
    assert client.finalize(order).json() == valid.json()
    other = client.finalize(order, csr(*NAMES, key_type="p-384"))
    assert "create another order" in assert_problem(other, 403, "orderNotReady")["detail"]
    assert site.log.kinds().count("intent") == 1


def test_policy_is_applied_again_at_finalize(site: Site) -> None:
    """A principal that has ended gets no certificate for an earlier order."""
    client = site.client()
    order = client.order(*NAMES).json()
    site.principals = AcmePrincipals({"web": 2})
    assert_problem(client.finalize(order), 403, "unauthorized")
    assert "intent" not in site.log.kinds()


def test_two_requests_get_one_certificate(site: Site) -> None:
    """While one request issues it, the other one gets the order in the status processing."""
    client = site.client()
    order = client.order(*NAMES).json()
    statuses = []

    def issue(approval: Approval) -> IssuedCertificate:
        second = client.finalize(order)
        statuses.append((second.status, second.json()["status"], second.headers["Retry-After"]))
        refused = client.finalize(order, csr(*NAMES, key_type="p-384"))
        assert_problem(refused, 403, "orderNotReady")
        return real_issue(approval)

    real_issue = site.authority.issue_approved
    site.authority.issue_approved = issue  # type: ignore[method-assign]
    finalized = client.finalize(order).json()
    site.authority.issue_approved = real_issue  # type: ignore[method-assign]
    assert finalized["status"] == "valid"
    assert statuses == [(200, "processing", "2")]
    assert site.log.kinds() == ["intent", "result"]


class Killed(BaseException):
    """The worker is killed."""


@pytest.mark.parametrize("is_deterministic", [True, False])
def test_order_of_a_killed_worker_is_finalized_again(tmp_path: Path, *, is_deterministic: bool) -> None:
    """After the lease, with the same CSR only. The certificate is the same one if the CA can repeat a signature."""
    issuer = factories.create_issuer()
    issuer.is_deterministic = is_deterministic
    ca = LoadedCA(issuer, factories.SERIAL_KEYS, acme_key=ACME_KEY)
    site = Site(tmp_path / "ledger.db", load_ca=lambda: ca)
    client = site.client()
    order = client.order(*NAMES).json()
    lost = []

    def issue(approval: Approval) -> IssuedCertificate:
        lost.append(real_issue(approval))
        raise Killed

    real_issue = site.authority.issue_approved
    site.authority.issue_approved = issue  # type: ignore[method-assign]
    with pytest.raises(Killed):
        client.finalize(order)
    site.authority.issue_approved = real_issue  # type: ignore[method-assign]
    url = order["finalize"].removesuffix("/finalize")
    assert client.post(url).json()["status"] == "processing"
    assert client.finalize(order).json()["status"] == "processing"
    site.clock.now += LEASE
    assert client.post(url).json()["status"] == "ready"
    assert_problem(client.finalize(order, csr(*NAMES, key_type="p-384")), 403, "orderNotReady")
    finalized = client.finalize(order).json()
    leaf = x509.load_pem_x509_certificates(client.post(finalized["certificate"]).body)[0]
    assert (leaf == lost[0].certificate) is is_deterministic
    site.ledger.close()


def test_order_stays_ready_if_the_ca_fails(site: Site) -> None:
    """The response is 503, and the next request issues the certificate."""
    client = site.client()
    order = client.order(*NAMES).json()
    real_issue = site.authority.issue_approved

    def issue(approval: Approval) -> IssuedCertificate:
        raise CAUnavailable(f"down: {approval.intent.request_id}")

    site.authority.issue_approved = issue  # type: ignore[method-assign]
    assert_problem(client.finalize(order), 503, "serverInternal")
    site.authority.issue_approved = real_issue  # type: ignore[method-assign]
    assert client.post(order["finalize"].removesuffix("/finalize")).json()["status"] == "ready"
    assert client.finalize(order).json()["status"] == "valid"


def test_authorization_is_deactivated(site: Site) -> None:
    """The order is then invalid, unless it has a certificate (RFC 8555 7.5.2)."""
    client = site.client()
    order = client.order(*NAMES).json()
    url = order["authorizations"][0]
    assert_problem(client.post(url, {"status": "valid"}), 400, "malformed")
    assert client.post(url, {"other": 1}).json()["status"] == "valid"
    assert client.post(url, {"status": "deactivated"}).json()["status"] == "deactivated"
    assert_problem(client.finalize(order), 403, "orderNotReady")
    done = client.order(*NAMES).json()
    certificate = client.finalize(done).json()["certificate"]
    assert client.post(done["authorizations"][0], {"status": "deactivated"}).status == 200
    assert client.post(certificate).status == 200


def test_resource_that_can_only_be_read_requires_an_empty_payload(site: Site) -> None:
    """Those are an order, the list of orders, and a certificate (RFC 8555 6.3)."""
    client = site.client()
    ordered = client.order(*NAMES)
    certificate = client.finalize(ordered.json()).json()["certificate"]
    for url in (ordered.headers["Location"], f"{client.account}/orders", certificate):
        assert client.post(url).status == 200
        payloads: list[object] = [{}, "", b"{"]
        for payload in payloads:
            assert_problem(client.post(url, payload), 400, "malformed")


@pytest.mark.parametrize("index", ["2", "-1", "00", "x"])
def test_unknown_authorization_is_not_found(site: Site, index: str) -> None:
    client = site.client()
    url = client.order(*NAMES).json()["authorizations"][0]
    for path in (url, url.replace("authorization", "challenge")):
        assert client.post(path).status == 200
        assert_problem(client.post(f"{path[:-1]}{index}"), 404, "malformed")


def test_certificate_of_an_open_order_is_not_found(site: Site) -> None:
    client = site.client()
    url = client.order(*NAMES).headers["Location"]
    assert_problem(client.post(url.replace("order", "certificate")), 404, "malformed")


def test_ledger_that_fails_is_a_503(tmp_path: Path) -> None:
    """For each request that needs it."""
    site = Site(tmp_path / "ledger.db")
    client = site.client()
    nonce, url = client.nonce(), client.directory["newOrder"]
    site.ledger.close()
    body = client.sign(url, {}, nonce=nonce)
    response = site.send("POST", url, body, JOSE)
    assert_problem(response, 503, "serverInternal")
    assert response.headers["Retry-After"]


REASONS = {
    1: x509.ReasonFlags.key_compromise,
    3: x509.ReasonFlags.affiliation_changed,
    4: x509.ReasonFlags.superseded,
    5: x509.ReasonFlags.cessation_of_operation,
    9: x509.ReasonFlags.privilege_withdrawn,
}


def revoke(client: AcmeClient, chain: str, reason: object = None, **header: Any) -> Response:
    """Revoke the first certificate of a chain."""
    der = x509.load_pem_x509_certificate(chain.encode()).public_bytes(Encoding.DER)
    payload = {"certificate": jws_requests.encode(der)} | ({} if reason is None else {"reason": reason})
    return client.post(client.directory["revokeCert"], payload, **header)


@pytest.mark.parametrize("reason", [None, 0, 1, 3, 4, 5, 9])
def test_certificate_is_revoked_by_its_account(site: Site, reason: int | None) -> None:
    """Also after its order has expired. CRL and renewal information follow."""
    client = site.client()
    chain = client.issue(*NAMES)
    leaf = x509.load_pem_x509_certificate(chain.encode())
    site.clock.now += timedelta(days=1)
    assert (revoke(client, chain, reason).status, revoke(client, chain).status) == (200, 400)
    assert_problem(revoke(client, chain), 400, "alreadyRevoked")
    site.clock.now += revocation.WINDOW
    entry = site.authority.status.current_crl().get_revoked_certificate_by_serial_number(leaf.serial_number)
    assert entry
    flags = [extension.value.reason for extension in entry.extensions]
    assert flags == ([] if not reason else [REASONS[reason]])
    window = site.authority.status.renewal_window(CertificateId.parse(certificate_id(leaf)))
    assert window.start <= site.clock()
    assert [record for record in site.log if record.event == "revocation"][-1].principal == "web"


def test_certificate_is_revoked_by_its_key(site: Site) -> None:
    """Without an account; another key may not."""
    client = site.client()
    key = jws_requests.new_key("ES256")
    order = client.order("dns:a.example.com").json()
    private_key = load_pem_private_key(cast("ECKey", key).as_pem(private=True), None)
    san = x509.SubjectAlternativeName([x509.DNSName("a.example.com")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    request = builder.add_extension(san, critical=False).sign(private_key, hashes.SHA256())  # type: ignore[arg-type]
    finalized = client.finalize(order, csrs.encode_der(request)).json()
    chain = client.post(finalized["certificate"]).body.decode()
    stranger = AcmeClient(site.send, f"{URL}/acme/directory", jws_requests.new_key("ES256"))
    assert_problem(revoke(stranger, chain), 403, "unauthorized")
    holder = AcmeClient(site.send, f"{URL}/acme/directory", key)
    assert revoke(holder, chain, 1).status == 200


def test_certificate_of_other_names_is_not_revoked(tmp_path: Path) -> None:
    """An account whose principal may not have the names, and is no operator, is refused."""
    principals = {"other": {"dns": {"permitted": ["example.org"]}}, "ops": {"role": "operator"}}
    policy = openapi.parse_policy(openapi.with_overrides(factories.document(), {"principals": principals}))
    site = Site(tmp_path / "ledger.db", policy=policy)
    site.principals = AcmePrincipals(dict.fromkeys(("web", "other", "ops"), 1))
    chain = site.client().issue(*NAMES)
    assert_problem(revoke(site.client("other"), chain), 403, "unauthorized")
    assert revoke(site.client("ops"), chain).status == 200
    site.ledger.close()


def test_certificate_of_another_ca_is_not_revoked(site: Site) -> None:
    other = encode_pem([factories.ca()])
    assert_problem(revoke(site.client(), other), 404, "malformed")


@pytest.mark.parametrize("is_copied", [False, True])
def test_certificate_of_a_stranger_is_not_revoked(site: Site, *, is_copied: bool) -> None:
    """Its key signed the request, and it may have a serial number of the CA. Nothing is stored or recorded."""
    client = site.client()
    leaf = x509.load_pem_x509_certificate(client.issue(*NAMES).encode())
    stranger = AcmeClient(site.send, f"{URL}/acme/directory", jws_requests.new_key("ES256"))
    key = load_pem_private_key(cast("ECKey", stranger.key).as_pem(private=True), None)
    number = leaf.serial_number if is_copied else x509.random_serial_number()
    names = (leaf.issuer, leaf.subject, leaf.not_valid_before_utc, leaf.not_valid_after_utc)
    builder = x509.CertificateBuilder(names[0], names[1], key.public_key(), number, names[2], names[3])  # type: ignore[arg-type]
    forged = builder.sign(key, hashes.SHA256())  # type: ignore[arg-type]
    site.log.clear()
    nonce = stranger.nonce()
    problem = assert_problem(revoke(stranger, encode_pem([forged]), nonce=nonce), 404, "malformed")
    assert problem["detail"] == "The certificate was not issued by this CA"
    assert not site.log
    assert not site.ledger.is_consumed(nonce)


@pytest.mark.parametrize("reason", [2, 6, 7, 8, 10, -1, True, "1", 1.0])
def test_other_reason_is_refused(site: Site, reason: object) -> None:
    """With the reasons that are accepted."""
    client = site.client()
    chain = client.issue(*NAMES)
    problem = assert_problem(revoke(client, chain, reason), 400, "badRevocationReason")
    assert "0, 1, 3, 4, 5, 9" in problem["detail"]


def test_null_is_no_reason(site: Site) -> None:
    """A request without the member is accepted."""
    client = site.client()
    der = x509.load_pem_x509_certificate(client.issue(*NAMES).encode()).public_bytes(Encoding.DER)
    payload = {"certificate": jws_requests.encode(der)}
    refused = client.post(client.directory["revokeCert"], payload | {"reason": None})
    assert_problem(refused, 400, "badRevocationReason")
    assert client.post(client.directory["revokeCert"], payload).status == 200


def test_revocation_of_garbage_is_malformed(site: Site) -> None:
    client = site.client()
    for certificate in (None, 1, "", "!", "AAAA"):
        response = client.post(client.directory["revokeCert"], {"certificate": certificate})
        assert_problem(response, 400, "malformed")


def test_orders_of_a_principal_have_a_quota(tmp_path: Path) -> None:
    """Of all its accounts together; a refused order does not count, and the next period has its own."""
    site = Site(tmp_path / "ledger.db", quota=Quota(2, timedelta(days=1)))
    site.principals = AcmePrincipals({"web": 1, "other": 1})
    first, second, other = site.client(), site.client(), site.client("other")
    assert_problem(first.order("dns:_"), 403, "rejectedIdentifier")
    assert [client.order(*NAMES).status for client in (first, second)] == [201, 201]
    refused = second.order(*NAMES)
    problem = assert_problem(refused, 429, "rateLimited")
    assert problem["detail"] == "'web' has created 2 orders, its quota: try again at 2026-11-24T00:00:00Z"
    assert refused.headers["Retry-After"] == str(
        int(timedelta(hours=11, minutes=29, seconds=15).total_seconds())
    )
    assert other.order(*NAMES).status == 201
    site.clock.advance(timedelta(hours=12))
    assert second.order(*NAMES).status == 201
    site.ledger.close()


def fail_with(error: Exception) -> Callable[..., Any]:
    """A function that raises an error."""

    def fail(*_: object, **__: object) -> Any:
        raise error

    return fail


@pytest.mark.parametrize("path", POSTS)
def test_post_has_each_problem_of_the_contract(
    site: Site, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """400, 403, 413, 415, 500 and 503; each has a nonce for the next request."""
    client = site.client()
    url = URL + path.format(account_id="x" * 22, order_id="x" * 22, index="0")
    assert_problem(site.send("POST", url, b"{}", JOSE), 400, "malformed")
    other = client.sign(f"{url}/other", {})
    assert_problem(site.send("POST", url, other, JOSE), 403, "unauthorized")
    assert_problem(site.send("POST", url, b" " * 200_000, JOSE), 413, "malformed")
    assert_problem(site.send("POST", url, b"{}", {"Content-Type": "application/json"}), 415, "malformed")
    for error, status in ((RuntimeError("bug"), 500), (CAUnavailable("down"), 503)):
        with monkeypatch.context() as patch:
            patch.setattr(site.ledger, "find_account", fail_with(error))
            patch.setattr(site.ledger, "get_account", fail_with(error))
            if path == "/acme/new-account":
                client.account = ""
            assert_problem(site.send("POST", url, client.sign(url, {}), JOSE), status, "serverInternal")


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "directory"), ("GET", "new-nonce"), ("HEAD", "new-nonce")]
)
def test_get_has_each_problem_of_the_contract(tmp_path: Path, method: str, path: str) -> None:
    """400, 500 and 503."""
    errors: list[Exception] = []
    ca = LoadedCA(factories.create_issuer(), factories.SERIAL_KEYS, acme_key=ACME_KEY)

    def load_ca() -> LoadedCA:
        if errors:
            raise errors[0]
        return ca

    site = Site(tmp_path / "ledger.db", load_ca=load_ca)
    url = f"{URL}/acme/{path}"
    assert site.send(method, f"{url}?x=1", None, {}).status == 400
    for error, status in ((RuntimeError("bug"), 500), (CAUnavailable("down"), 503)):
        errors[:] = [error]
        assert site.send(method, url, None, {}).status == status
    site.ledger.close()


def test_authorization_of_an_order_that_changes_is_a_conflict(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = site.client()
    url = client.order(*NAMES).json()["authorizations"][0]
    with monkeypatch.context() as patch:
        patch.setattr(site.ledger, "update_order", fail_with(Conflict("changed")))
        assert_problem(client.post(url, {"status": "deactivated"}), 409, "malformed")
    assert client.post(url, {"status": "deactivated"}).status == 200

"""ACME: Schemathesis generates the payloads, which accounts sign."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import settings
from joserfc.jwk import ECKey
from jsonschema import Draft4Validator

from service.keystore import ca_directory
from service.ledger.sqlite import SqliteLedger
from service.pki import encoding, keys
from tests import csrs, examples, factories
from tests.fuzz import schemathesis_setup
from tests.fuzz.schemathesis_setup import NO_PAYLOAD
from tests.fuzz.strategies import OWN, OWN_CERTIFICATE
from tests.servers import Response, Server
from tests.web import acme_client, jws_requests
from tests.web.acme_client import JOSE, AcmeClient

NAMES: Final = ("dns:a.example.com", "dns:b.example.com")
LOOPBACK: Final = ("ip:127.0.0.1",)  # http-01 refuses to connect to it, at once
CSR: Final = csrs.encode_der(csrs.build(None, NAMES))
OTHER_CSR: Final = csrs.encode_der(csrs.build(None, NAMES, key_type="p-384"))
JWS: Final = Draft4Validator(factories.document()["components"]["schemas"]["Jws"])

signed_schema = schemathesis_setup.load_payloads()
counts: Counter[tuple[str, int, bool]] = Counter()  # of responses, by path, status and `is_verified`


class Accounts:
    """Accounts of a server, which sign generated payloads."""

    def __init__(self, server: Server, ledger: SqliteLedger) -> None:
        key = ca_directory.load_acme_key(server.log.parent / "ca")
        assert key
        self._server = server
        self._ledger = ledger
        self._acme_key = key
        self._is_odd = itertools.cycle([False, True])
        self._csrs = itertools.cycle(
            [None, CSR, OTHER_CSR]
        )  # an order is finalized with, before a case is sent
        self._account = self._register("web")
        self._prover = self._register("prover")

    def call(self, case: Any) -> Any:
        """Send a case, signed, and count it; return the response."""
        client, nonce = self._choose_client(case), self._account.nonce()
        self._fill_in_path(client, case)
        payload = self._fill_in_payload(client, case)

        def sign(request: requests.PreparedRequest) -> requests.PreparedRequest:
            content = request.body if payload == case.body else payload
            request.headers.setdefault("Content-Type", JOSE["Content-Type"])
            request.prepare_body(client.sign(str(request.url), content, nonce=nonce), files=None)
            return request

        response = case.call(base_url=self._server.url, auth=sign)
        is_verified = self._ledger.is_consumed(nonce)  # only by a request whose signature is right
        counts[case.path, response.status_code, is_verified] += 1
        return response

    def _choose_client(self, case: Any) -> AcmeClient:
        """Return the account that signs; another one if the case may end it or change its key."""
        is_odd = next(self._is_odd)
        if case.path == "/acme/new-account":
            return self._create_client()
        if case.path in {"/acme/account/{account_id}", "/acme/key-change"}:
            return self._register("web")
        if "index" in case.path_parameters and is_odd:
            return self._prover
        if case.path == "/acme/revoke-cert" and is_odd:
            client = self._create_client()
            client.key = ECKey.import_key(keys.encode_private_key(csrs.private_key()))  # of the certificates
            return client
        return self._account

    def _create_client(self) -> AcmeClient:
        return AcmeClient(self._send, f"{self._server.url}/acme/directory", jws_requests.new_key("ES256"))

    def _register(self, principal: str) -> AcmeClient:
        client = self._create_client()
        assert client.register(self._acme_key, principal).status == 201
        return client

    def _send(self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]) -> Response:
        return self._server.request(method, url.removeprefix(self._server.url), body, headers)

    def _issue(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self._account.issue(*NAMES).encode())

    def _fill_in_path(self, client: AcmeClient, case: Any) -> None:
        """Put the account, or an order of it with or without a certificate, in place of `OWN`."""
        if is_own(case.path_parameters.get("account_id")):
            case.path_parameters["account_id"] = client.account.rpartition("/")[2]
        if is_own(case.path_parameters.get("order_id")):
            order = client.order(*(LOOPBACK if client is self._prover else NAMES)).json()
            if csr := next(self._csrs):
                client.finalize(order, csr)
            case.path_parameters["order_id"] = order["finalize"].split("/")[-2]

    def _fill_in_payload(self, client: AcmeClient, case: Any) -> Any:
        """Return the payload with what exists in place of `OWN`; None if it is empty."""
        payload = case.body
        if not isinstance(payload, dict):
            return None if payload == NO_PAYLOAD else payload
        if case.path == "/acme/key-change" and is_own_jws(payload):
            return acme_client.key_change(client, jws_requests.new_key("ES256"))
        payload = dict(payload)
        if is_own_jws(payload.get("externalAccountBinding")):
            payload["externalAccountBinding"] = client.binding(self._acme_key, "web")
        if is_own(payload.get("csr")):
            payload["csr"] = jws_requests.encode(CSR)
        if is_own(payload.get("certificate")):
            payload["certificate"] = jws_requests.encode(self._issue().public_bytes(Encoding.DER))
        if payload.get("replaces") == OWN_CERTIFICATE:
            payload["replaces"] = examples.certificate_id(self._issue())
        if "notBefore" in payload and case.meta.generation.mode.is_positive:
            payload["notBefore"] = encoding.format_timestamp(datetime.now(UTC))
        return payload


def is_own(value: object) -> bool:
    """Whether a generated text stands for what the signer has."""
    return isinstance(value, str) and value.startswith(OWN)


def is_own_jws(value: Any) -> bool:
    """Whether a generated JWS does."""
    return JWS.is_valid(value) and all(map(is_own, value.values()))


@pytest.fixture(scope="module")
def accounts(server: Server) -> Iterator[Accounts]:
    ledger = SqliteLedger(server.log.parent / "ledger.db", lambda: datetime.now(UTC))
    yield Accounts(server, ledger)
    ledger.close()


@signed_schema.parametrize()  # type: ignore[untyped-decorator]  # Schemathesis's
@settings(max_examples=75, deadline=None, suppress_health_check=schemathesis_setup.SUPPRESSED_CHECKS)
def test_signed_requests_follow_the_contract(case: Any, accounts: Accounts) -> None:
    """Each operation of ACME follows the contract for signed payloads, valid and invalid ones."""
    if case.method == "POST":  # tests/fuzz/test_server.py sends other methods
        case.validate_response(accounts.call(case))


@pytest.mark.parametrize("path", [result.ok().path for result in signed_schema.get_all_operations()])
@pytest.mark.usefixtures("accounts")
def test_each_operation_accepts_and_refuses_signed_requests(path: str) -> None:
    """The tests above got enough of both, and the service verified the signature of what it accepted."""
    results = [(status, is_verified) for name, status, is_verified in counts.elements() if name == path]
    minimum = 5 if path == "/acme/new-account" else 30  # a registration is refused before it is verified
    assert sum(is_verified for _, is_verified in results) >= minimum, counts
    accepted = [is_verified for status, is_verified in results if status < 300]
    assert len(accepted) >= 5, counts
    assert all(accepted), counts
    assert len(results) - len(accepted) >= 15, counts


@pytest.mark.usefixtures("accounts")
def test_refusals_came_after_the_signature() -> None:
    """Of a name, an order with another CSR, a stranger's account, an unknown certificate, and a reason."""
    assert counts["/acme/new-order", 403, True] >= 5, counts
    assert counts["/acme/order/{order_id}/finalize", 403, True] >= 5, counts
    assert counts["/acme/account/{account_id}", 403, True] >= 5, counts
    assert counts["/acme/certificate/{order_id}", 404, True] >= 5, counts
    assert counts["/acme/revoke-cert", 400, True] >= 5, counts

"""ACME's operations, through the application, with a ledger in a file."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from email.message import Message
from pathlib import Path
from typing import Any

import awsgi
import pytest
from cryptography import x509

from service import aws_lambda
from service.ledger.sqlite import SqliteLedger
from service.loaded_ca import LoadedCA
from service.pki.acme_key import AcmeKey, AcmePrincipals
from service.web import app
from service.web.acme import AcmeStore
from service.web.acme_problems import NAMESPACE
from tests import factories
from tests.lambda_events import from_request
from tests.ledger.conftest import Clock
from tests.servers import Response
from tests.web import jws_requests
from tests.web.acme_client import AcmeClient

URL = "https://ca.example/base"
ACME_KEY = AcmeKey(bytes(32))
NAMES = ("dns:a.example.com", "dns:b.example.com")


class Site:
    """The application of a CA with ACME, on a base path."""

    def __init__(self, path: Path, **members: Any) -> None:
        self.clock = Clock()
        self.ledger = SqliteLedger(path, self.clock)
        self.principals = AcmePrincipals({"web": 1})
        self.log = factories.RecordingLog()
        loaded_ca = LoadedCA(factories.create_issuer(), factories.SERIAL_KEYS, acme_key=ACME_KEY)
        defaults: dict[str, Any] = {"load_ca": lambda: loaded_ca, "clock": self.clock}
        self.authority = factories.authority(self.log, **defaults | members)
        store = AcmeStore(self.ledger, lambda: self.principals)
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
        return Response(int(result["statusCode"]), message, octets)

    def client(self, principal: str = "web", algorithm: str = "ES256") -> AcmeClient:
        """A client with an account."""
        client = AcmeClient(self.send, f"{URL}/acme/directory", jws_requests.KEYS[algorithm], algorithm)
        assert client.register(ACME_KEY, principal).status == 201
        return client


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "ledger.db")
    yield site
    site.ledger.close()


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

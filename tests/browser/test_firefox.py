"""The web form in Debian's Firefox ESR."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from service.pki import encoding, keys
from tests import csrs, servers
from tests.servers import API_KEY, Server

SCRIPT = Path(__file__).with_name("firefox.mjs")
REQUESTS = (
    {"kind": "P-256", "name": "p256.example.com", "password": ""},
    {"kind": "Ed25519", "name": "ed25519.example.com", "password": "correct horse"},
)


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def shown(server: Server, downloads: Path) -> Any:
    """What the page showed: all flows run in one Firefox, which takes seconds to start."""
    flows = {
        "url": f"{server.url}/sign",
        "csr": csrs.encode_pem(csrs.build("www.example.com")).decode(),
        "apiKey": API_KEY,
        "wrongApiKey": API_KEY[::-1],
        "requests": REQUESTS,
        "downloads": str(downloads),
    }
    return json.loads(servers.run("node", SCRIPT, stdin=json.dumps(flows), timeout=120).stdout)


def read_bundle(path: Path) -> x509.Certificate:
    """Read the first certificate of a bundle, which is issued by the second."""
    certificate, issuer = x509.load_pem_x509_certificates(path.read_bytes())
    certificate.verify_directly_issued_by(issuer)
    return certificate


def test_firefox_signs_a_pasted_csr(shown: Any, downloads: Path) -> None:
    """A pasted CSR is signed, and the downloaded bundle has the certificate that the page shows."""
    certificate = read_bundle(downloads / "www.example.com.pem")
    assert certificate.public_key() == csrs.private_key("p-256").public_key()
    assert encoding.format_serial(certificate.serial_number) in shown["facts"]
    assert "DNS www.example.com" in shown["facts"]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request["kind"])
@pytest.mark.usefixtures("shown")
def test_firefox_creates_a_key_and_csr(downloads: Path, request_: dict[str, str]) -> None:
    """The downloaded key is the one of the certificate, and is encrypted if a password is given."""
    name, password = request_["name"], request_["password"]
    key = load_pem_private_key((downloads / f"{name}.key").read_bytes(), password.encode() or None)
    certificate = read_bundle(downloads / f"{name}.pem")
    assert certificate.public_key() == key.public_key()
    assert keys.describe_key(certificate.public_key()) == request_["kind"]


def test_firefox_shows_a_wrong_api_key_at_its_field(shown: Any) -> None:
    """The field of a wrong API key gets the focus, and the error describes it."""
    assert shown["refusal"].pop("error").startswith("The CA does not accept this API key.")
    assert shown["refusal"] == {"field": "key", "invalid": "true"}


def test_firefox_reports_no_violation_of_the_policy(shown: Any) -> None:
    """The page's Content-Security-Policy allows all that the page does, and forbids a script from elsewhere."""
    assert shown["messages"] == []
    assert shown["violation"].startswith("Content-Security-Policy")

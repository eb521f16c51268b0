"""An ACME client that sends the requests of a test, over any transport."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Mapping
from typing import Any

from joserfc.jwk import Key

from service.keystore import ca_directory
from service.pki.acme_key import AcmeKey, ExternalKeyId
from tests import csrs, servers
from tests.servers import Response, Server
from tests.web import jws_requests

Send = Callable[[str, str, bytes | None, Mapping[str, str]], Response]
JOSE = {"Content-Type": "application/jose+json"}


class AcmeClient:
    """A client of one directory.

    Attributes:
        directory: the directory.
        account: the URL of the account, once registered.
    """

    def __init__(
        self, send: Send, directory_url: str, key: Key = jws_requests.P256, algorithm: str = "ES256"
    ) -> None:
        """`send` sends a method, URL, body and headers."""
        self.send = send
        self.key = key
        self.algorithm = algorithm
        self.account = ""
        self._directory_url = directory_url
        self._nonces: list[str] = []
        self._csrs: dict[str, bytes] = {}  # of each order

    @property
    def directory(self) -> dict[str, Any]:
        """The directory, as now."""
        directory: dict[str, Any] = self.send("GET", self._directory_url, None, {}).json()
        return directory

    def nonce(self) -> str:
        """A nonce from the last response, or a new one."""
        if self._nonces:
            return self._nonces.pop()
        response = self.send("HEAD", self.directory["newNonce"], None, {})
        assert (response.status, response.body) == (200, b"")
        return str(response.headers["Replay-Nonce"])

    def sign(self, url: str, payload: object = None, key: Key | None = None, **header: Any) -> bytes:
        """Sign a request with the account's URL, or with the key before there is one; None as POST-as-GET."""
        signer = key or self.key
        identity = {"kid": self.account, "jwk": None} if self.account else {"jwk": jws_requests.jwk(signer)}
        members = {"nonce": header.get("nonce") or self.nonce(), "url": url, **identity, **header}
        return jws_requests.request(payload, signer, self.algorithm, **members)

    def post(self, url: str, payload: object = None, **header: Any) -> Response:
        """Send a signed request, again if its nonce has expired; keep the nonce of the response."""
        response = self.send("POST", url, self.sign(url, payload, **header), JOSE)
        if b"error:badNonce" in response.body:
            response = self.send("POST", url, self.sign(url, payload, **header), JOSE)
        if nonce := response.headers["Replay-Nonce"]:
            self._nonces.append(nonce)
        return response

    def binding(self, acme_key: AcmeKey, principal: str, generation: int = 1) -> dict[str, Any]:
        """An external account binding of the client's key."""
        key_id = ExternalKeyId(principal, generation)
        secret, url = acme_key.external_account_key(key_id), self.directory["newAccount"]
        return jws_requests.binding(secret, key_id.encode(), jws_requests.jwk(self.key), url=url)

    def register(self, acme_key: AcmeKey, principal: str, **payload: Any) -> Response:
        """Register with an external account binding."""
        content = {"externalAccountBinding": self.binding(acme_key, principal)} | payload
        response = self.post(self.directory["newAccount"], content)
        self.account = response.headers["Location"] or ""
        return response

    def order(self, *names: str, **payload: Any) -> Response:
        """Order names, such as `dns:a.example.com`."""
        pairs = (name.split(":", 1) for name in names)
        identifiers = [{"type": kind, "value": value} for kind, value in pairs]
        return self.post(self.directory["newOrder"], {"identifiers": identifiers} | payload)

    def finalize(self, order: Mapping[str, Any], csr: bytes | None = None) -> Response:
        """Finalize an order with a CSR (DER), by default for its names."""
        names = [f"{item['type']}:{item['value']}" for item in order["identifiers"]]
        der = csr or self._csrs.setdefault(order["finalize"], csrs.encode_der(csrs.build(None, names)))
        return self.post(order["finalize"], {"csr": jws_requests.encode(der)})

    def issue(self, *names: str, **payload: Any) -> str:
        """Order, finalize and download a certificate; return the chain, PEM."""
        ordered = self.order(*names, **payload)
        assert ordered.status == 201, ordered.body
        finalized = self.finalize(ordered.json())
        assert finalized.status == 200, finalized.body
        return self.post(finalized.json()["certificate"]).body.decode()


def key_change(client: AcmeClient, new_key: Key, algorithm: str = "ES256", **change: Any) -> dict[str, Any]:
    """The payload of a change of the key (RFC 8555 7.3.5)."""
    header = {"alg": algorithm, "jwk": jws_requests.jwk(new_key), "url": client.directory["keyChange"]}
    content = {"account": client.account, "oldKey": jws_requests.jwk(client.key)} | change
    return jws_requests.sign(new_key, header, json.dumps(content).encode())


def add_principal(server: Server, name: str) -> AcmeKey:
    """Add a principal to the CA of a server; return the CA's key of ACME."""
    directory = server.log.parent
    assert not servers.certlet("acme", "add", name, cwd=directory).returncode
    key = ca_directory.load_acme_key(directory / "ca")
    assert key
    return key


def tls_sender(server: Server) -> Send:
    """Return a function that sends requests to a server by HTTPS, and verifies its certificate."""
    context = ssl.create_default_context(cafile=str(server.log.parent / "ca" / "root-ca.crt"))

    def send(method: str, url: str, body: bytes | None, headers: Mapping[str, str]) -> Response:
        return server.request(method, url.removeprefix(server.url), body, headers, context)

    return send

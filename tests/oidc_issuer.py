"""An issuer of tokens on loopback, over TLS with a CA of its own: real keys, rotation, and faults."""

from __future__ import annotations

import contextlib
import json
import secrets
import ssl
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum, auto
from http.server import ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from joserfc.jwk import Key

from tests.factories import key_usage
from tests.oidc.signed_tokens import ALGORITHMS, encode_json, new_key, sign
from tests.servers import QuietHandler

AUDIENCE: Final = "https://ca.example.com"
JWKS_PATH: Final = "/jwks"
# The claims of a token that the rule of `write_policy` accepts, and a name that it permits then.
CLAIMS: Final = {"repository_id": "74", "ref": "refs/heads/main", "environment": "blue"}
NAME: Final = "blue.ci.example.com"


class Fault(StrEnum):
    """What the issuer does wrong."""

    NONE = auto()
    REDIRECT = auto()  # to the same keys
    ERROR = auto()  # status 500
    GARBAGE = auto()  # no JSON
    HUGE = auto()  # one octet more than 64 KiB
    TRUNCATED = auto()  # the connection ends before the body
    CLOSE = auto()  # without a response
    NOT_HTTP = auto()
    SILENT = auto()  # no response
    SLOW_HEADER = auto()  # an octet now and then, without end
    SLOW_BODY = auto()
    WRONG_NAME = auto()  # a certificate for another host
    EXPIRED = auto()  # an expired certificate
    UNTRUSTED = auto()  # a certificate of another CA
    OLD_TLS = auto()  # TLS 1.1


_RAW: Final = {
    Fault.GARBAGE: b"HTTP/1.1 200 OK\r\n\r\n<html>\xff</html>",
    Fault.TRUNCATED: b'HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{"keys": [',
    Fault.NOT_HTTP: b"SSH-2.0-OpenSSH_9.2\r\n",
    Fault.CLOSE: b"",
}


class Issuer:
    """An issuer, which publishes one key for each algorithm.

    Attributes:
        url: the claim `iss` of its tokens.
        jwks_url, ca_file: where its keys are, and the CA that verifies the host.
        keys: key ID -> algorithm and private key of the published keys.
        body: the octets at `jwks_url`, instead of the keys.
        fault: what it does wrong.
        fetches: the number of requests for `jwks_url`.
        headers: the headers of the last of these.
    """

    def __init__(self, directory: Path) -> None:
        self.ca_file = directory / "issuer-ca.pem"
        self.keys: dict[str, tuple[str, Key]] = {}
        self.body: bytes | None = None
        self.fault = Fault.NONE
        self.fetches = 0
        self.headers: Mapping[str, str] = {}
        self.released = threading.Event()
        self._generation = 0
        self._contexts = _create_contexts(directory, self.ca_file)
        self.rotate()
        self.server = _Server(self)
        self.url = f"https://localhost:{self.server.server_port}"
        self.jwks_url = self.url + JWKS_PATH

    @property
    def context(self) -> ssl.SSLContext:
        """The TLS of the next connection."""
        return self._contexts.get(self.fault, self._contexts[Fault.NONE])

    def rotate(self, *, keep: bool = False) -> None:
        """Replace all keys, or add new ones to them."""
        self._generation += 1
        rsa = new_key("RS256")
        created = {name: rsa if name[0] in "RP" else new_key(name) for name in ALGORITHMS}
        published = {f"{name}-{self._generation}": (name, key) for name, key in created.items()}
        self.keys = {**(self.keys if keep else {}), **published}

    def key_id(self, algorithm: str = "RS256") -> str:
        """The ID of the newest key of an algorithm."""
        return f"{algorithm}-{self._generation}"

    def jwk_set(self) -> bytes:
        """The published keys (RFC 7517 5)."""
        keys = [
            {**key.as_dict(private=False), "kid": key_id, "alg": algorithm, "use": "sig"}
            for key_id, (algorithm, key) in self.keys.items()
        ]
        return self.body if self.body is not None else json.dumps({"keys": keys}).encode()

    def discovery(self) -> dict[str, Any]:
        """The discovery document (OpenID Connect Discovery 1.0, 3)."""
        return {
            "issuer": self.url,
            "jwks_uri": self.jwks_url,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": list(ALGORITHMS),
        }

    def token(
        self,
        claims: Mapping[str, Any] | None = None,
        key: str | tuple[str, str, Key] = "RS256",
        header: Mapping[str, Any] | None = None,
    ) -> str:
        """A token that is valid for five minutes.

        Args:
            claims: claims that are added or changed; ... as the value removes one.
            key: an algorithm, whose newest key signs; or a key ID, an algorithm and a key.
            header: members that are added or changed, in the same way.
        """
        if isinstance(key, str):
            key = (self.key_id(key), *self.keys[self.key_id(key)])
        key_id, algorithm, private_key = key
        now = int(time.time())
        standard = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "workload",
            "jti": secrets.token_hex(16),
            "iat": now,
            "nbf": now,
            "exp": now + 300,
        }
        members = {"alg": algorithm, "kid": key_id, "typ": "JWT"} | dict(header or {})
        content = encode_json(members), encode_json(standard | dict(claims or {}))
        return sign(*content, private_key, algorithm)


class _Server(ThreadingHTTPServer):
    def __init__(self, issuer: Issuer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.issuer = issuer

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Start TLS in the thread of the connection."""
        with contextlib.suppress(OSError):
            connection = self.issuer.context.wrap_socket(request, server_side=True)
            with connection:
                _Handler(connection, client_address, self)


class _Handler(QuietHandler):
    def respond(self) -> None:
        assert isinstance(self.server, _Server)
        issuer = self.server.issuer
        if self.path == "/.well-known/openid-configuration":
            self.reply(200, json.dumps(issuer.discovery()).encode(), Content_Type="application/json")
            return
        if not self.path.startswith(JWKS_PATH):
            self.reply(404, b"")
            return
        issuer.fetches += 1
        issuer.headers = dict(self.headers)
        body = issuer.jwk_set()
        if issuer.fault in _RAW:
            self.wfile.write(_RAW[issuer.fault])
        elif issuer.fault == Fault.SILENT:
            issuer.released.wait(60)
        elif issuer.fault in (Fault.SLOW_HEADER, Fault.SLOW_BODY):
            self._drip(b"X-Slow: " if issuer.fault == Fault.SLOW_HEADER else b"\r\n" + body[:-2])
        elif issuer.fault == Fault.REDIRECT and self.path == JWKS_PATH:
            self.reply(302, body, Location=f"{issuer.jwks_url}-2")
        else:
            status = 500 if issuer.fault == Fault.ERROR else 200
            body = body.ljust(65537) if issuer.fault == Fault.HUGE else body
            self.reply(status, body, Content_Type="application/json", Set_Cookie="session=1")

    def _drip(self, start: bytes) -> None:
        assert isinstance(self.server, _Server)
        self.wfile.write(b"HTTP/1.1 200 OK\r\n" + start)
        while not self.server.issuer.released.wait(0.1):
            self.wfile.write(b" ")  # fails when the client has disconnected


def _create_contexts(directory: Path, ca_file: Path) -> dict[Fault, ssl.SSLContext]:
    ca_key, other_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    later, earlier = now + timedelta(days=30), now - timedelta(hours=1)
    usage = key_usage("key_cert_sign", "crl_sign")
    ca = _certify("Issuer CA", ca_key, ca_key, later, [x509.BasicConstraints(ca=True, path_length=0), usage])
    ca_file.write_bytes(ca.public_bytes(Encoding.PEM))

    def create(name: str, issuer_key: ec.EllipticCurvePrivateKey, end: datetime) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ip_address("127.0.0.1"))])
        extensions = [names] if name == "localhost" else [x509.SubjectAlternativeName([x509.DNSName(name)])]
        certificate = _certify(name, key, issuer_key, end, extensions)
        path = directory / "issuer.pem"
        encoded = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path.write_bytes(encoded + certificate.public_bytes(Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        path.unlink()
        return context

    old = create("localhost", ca_key, later)
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # TLS 1.1
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    return {
        Fault.NONE: create("localhost", ca_key, later),
        Fault.WRONG_NAME: create("other.example", ca_key, later),
        Fault.EXPIRED: create("localhost", ca_key, earlier),
        Fault.UNTRUSTED: create("localhost", other_key, later),
        Fault.OLD_TLS: old,
    }


def _certify(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    end: datetime,
    extensions: list[Any],
) -> x509.Certificate:
    subject, issuer = (
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (name, "Issuer CA")
    )
    builder = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(end - timedelta(days=40)).not_valid_after(end)
    for extension in (
        *extensions,
        x509.SubjectKeyIdentifier.from_public_key(key.public_key()),
        x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
    ):
        is_critical = isinstance(extension, x509.BasicConstraints | x509.KeyUsage)
        builder = builder.add_extension(extension, critical=is_critical)
    return builder.sign(issuer_key, hashes.SHA256())


@contextlib.contextmanager
def running(directory: Path) -> Iterator[Issuer]:
    """Run an issuer until the end of the block; its CA is a file in the directory."""
    issuer = Issuer(directory)
    thread = threading.Thread(target=issuer.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield issuer
    finally:
        issuer.released.set()
        issuer.server.shutdown()
        thread.join()
        issuer.server.server_close()


def write_policy(directory: Path, issuer: Issuer, **changes: object) -> str:
    """Write an operator's file with one rule, and return its name."""
    rule = {
        "issuer": issuer.url,
        "audience": AUDIENCE,
        "algorithms": ["RS256"],
        "jwks_url": issuer.jwks_url,
        "ca_file": str(issuer.ca_file),
        "claims": {"/repository_id": "74", "/ref": "refs/heads/main"},
        "profiles": ["server"],
        "names": {"dns": {"permitted": ["{/environment}.ci.example.com"]}},
    }
    members = {name: value for name, value in (rule | changes).items() if value is not None}
    (directory / "policy.yaml").write_text(json.dumps({"identities": {"deploy": members}}))
    return "policy.yaml"

"""`certlet serve --tls`: the server's own certificate, Basic, and client certificates, over real TLS."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import ssl
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from service.gateway import tls
from service.gateway.api_keys import OWN_NAME
from service.gateway.routes import GatewayError
from service.pki import encoding
from service.pki.keys import encode_private_key
from tests import csrs, factories, servers
from tests.est import devices
from tests.est.devices import (
    basic_auth,
    client_context,
    encode_body,
    foreign_certificate,
    forge_certificate,
    load_issuer,
    parse_certificates,
    pem,
    server_certificate,
)
from tests.servers import API_KEY, Answer, Server

REQUEST = csrs.build("device.example.com")


def enroll(
    server: Server, path: str = "/simpleenroll", client: x509.Certificate | None = None, **headers: Any
) -> Answer:
    """POST a device's request."""
    sent = {"Content-Type": devices.PKCS10, **headers}
    return server.request(
        "POST", devices.EST + path, encode_body(REQUEST), sent, client_context(server, client)
    )


def test_the_server_s_certificate_is_the_ca_s(site: Server) -> None:
    """It names what it is reached by, chains to the root, and stands in the audit log like any other."""
    certificate = server_certificate(site)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    certificate.verify_directly_issued_by(load_issuer(site.log.parent / "ca").certificate)
    assert f'"principal":"{OWN_NAME}"' in site.logged()
    assert "https://127.0.0.1" in "".join(site.said)
    assert server_certificate(site, ssl.TLSVersion.TLSv1_2) == certificate


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
def test_older_tls_is_refused(site: Server) -> None:
    """RFC 8996: a client that would take TLS 1.1 gets none; whatever OpenSSL is built to take, we do not."""
    assert tls.Tls("", "").context.minimum_version is ssl.TLSVersion.TLSv1_2
    context = client_context(site)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", site.port), 10) as plain,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(plain, server_hostname="localhost")


def test_without_credentials_it_asks_for_them(site: Server) -> None:
    """RFC 7030 3.2.3: 401 with WWW-Authenticate, as a problem document, and no CORS."""
    answer = enroll(site)
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"] == 'Basic realm="Certlet", charset="UTF-8"'
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert answer.json()["code"] == "unauthorized"
    for nothing in ("Basic", "Basic ?", "Basic " + base64.b64encode(b"device:").decode(), "Bearer x"):
        assert enroll(site, Authorization=nothing).status == 401


@pytest.mark.parametrize("user", ["device", "", "a b", "ä"])
def test_the_password_is_the_key(site: Server, user: str) -> None:
    """RFC 7617: any user name, and the API key as the password, enrols; so does x-api-key."""
    given: list[dict[str, Any]] = [{"Authorization": basic_auth(API_KEY, user)}, {"x-api-key": API_KEY}]
    for headers in given:
        answer = enroll(site, "/peer/simpleenroll", **headers)
        (certificate,) = parse_certificates(answer.body)
        assert answer.headers["Content-Type"] == "application/pkcs7-mime; smime-type=certs-only"
        certificate.verify_directly_issued_by(load_issuer(site.log.parent / "ca").certificate)


def test_a_wrong_password_is_a_wrong_key(site: Server) -> None:
    """403 INVALID_API_KEY, as everywhere; and no password is logged."""
    answer = enroll(site, Authorization=basic_auth("wrong-password-of-a-device"))
    assert (answer.status, answer.json()["code"]) == (403, "unauthorized")
    both: dict[str, Any] = {"Authorization": basic_auth(API_KEY), "x-api-key": "wrong"}
    assert enroll(site, **both).status == 403
    assert "wrong-password" not in site.logged()
    assert API_KEY not in site.logged()


def test_a_client_certificate_renews(site: Server) -> None:
    """The certificate of the handshake is the caller, and it enrols nothing else."""
    client = forge_certificate(load_issuer(site.log.parent / "ca"), age=timedelta(days=30))
    answer = enroll(site, "/simplereenroll", client)
    (certificate,) = parse_certificates(answer.body)
    assert certificate.subject == client.subject
    assert f'"principal":"certificate:{encoding.format_serial(client.serial_number)}"' in site.logged()
    assert enroll(site, "/simpleenroll", client).status == 401
    assert enroll(site, "/server/simplereenroll", client).status == 403
    assert enroll(site, "/simplereenroll").status == 403


@pytest.mark.parametrize("case", ["server-only", "expired", "stranger"])
def test_tls_refuses_what_is_no_client_s(site: Server, case: str) -> None:
    """A certificate for servers alone, one that has ended, and another CA's, do not pass the handshake."""
    ca = load_issuer(site.log.parent / "ca")
    makers: dict[str, Callable[[], x509.Certificate]] = {
        "server-only": lambda: forge_certificate(ca, "server"),
        "expired": lambda: forge_certificate(ca, age=timedelta(days=91)),
        "stranger": foreign_certificate,
    }
    client = makers[case]()
    with pytest.raises((ssl.SSLError, OSError)):
        enroll(site, "/simplereenroll", client)
    assert enroll(site, Authorization=basic_auth(API_KEY)).status == 200


def test_whoever_has_no_certificate_is_served(site: Server) -> None:
    """A client certificate is asked for, not insisted on."""
    assert site.request("GET", "/health", context=client_context(site)).json()["status"] == "ready"
    assert site.request("GET", devices.EST + "/cacerts", context=client_context(site)).status == 200


def test_a_client_certificate_is_the_handshake_s_alone(site: Server) -> None:
    """No header makes one, nor HTTPS out of HTTP."""
    client = pem(forge_certificate(load_issuer(site.log.parent / "ca"))).replace("\n", "")
    sent: dict[str, Any] = dict.fromkeys(("X-Client-Cert", "Client-Cert", "X-SSL-Cert"), client)
    assert enroll(site, "/simplereenroll", **sent).status == 403


def test_a_failure_is_tried_again_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A function that does not answer, and one that answers nonsense, are asked again, not two thirds later."""
    monkeypatch.setattr(tls, "LEAST_RETRY", 0.01)
    client = factories.ca(public_key=csrs.private_key("p-256").public_key())
    good = {"crt_pem": pem(client), "chain_pem": "", "not_after": "2100-01-01T00:00:00Z"}
    bodies = ({"statusCode": 200, "body": body} for body in ("{}", json.dumps(good)))
    answers = iter([GatewayError("INTEGRATION_TIMEOUT"), *bodies])
    (tmp_path / "key").write_bytes(encode_private_key(csrs.private_key("p-256")))

    async def invoke(_event: dict[str, Any], _timeout: float) -> Any:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    own_tls = tls.Tls(str(tmp_path / "crt"), str(tmp_path / "key"))
    kept = own_tls.renew_forever(invoke, {"requestContext": {}}, time.time() + 0.2)
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(kept, 3))
    assert (tmp_path / "crt").read_text() == pem(client)
    assert next(answers, None) is None
    assert [each.message.partition(": ")[2] for each in caplog.records] == [
        "the function did not answer: INTEGRATION_TIMEOUT",
        "the function did not return a signed certificate",
    ]


def test_the_key_is_private_and_ends_with_the_server(tmp_path: Path) -> None:
    """0600, in a directory that nobody else reads, and nothing of it stays."""
    home = tmp_path / "tmp"
    home.mkdir()
    env = {"CERTLET_API_KEY": API_KEY, "TMPDIR": str(home)}
    with servers.serving(tmp_path, "--tls", env=env) as server:
        (key,) = home.rglob("server.key")
        assert key.stat().st_mode & 0o777 == 0o600
        assert key.parent.stat().st_mode & 0o777 == 0o700
        assert "PRIVATE KEY" not in server.logged()
    assert not list(home.iterdir())


BAD: list[tuple[tuple[str, ...], str]] = [
    (("--tls", "--tls-profile", "client"), "not for servers"),
    (("--tls", "--tls-profile", "nope"), "none of: server"),
    (("--tls", "--tls-name", "a..b"), "empty label"),
    (("--tls", "--tls-name", "intra.example.org"), "constrained"),
    (("--tls-name", "localhost"), "go with --tls"),
    (("--tls", "--tls-cert", "a", "--tls-key", "b"), "one of the two"),
]


@pytest.mark.parametrize(("options", "word"), BAD)
def test_what_cannot_be_served(tmp_path: Path, options: tuple[str, ...], word: str) -> None:
    """A profile that is not for servers, and a name that the CA may not give, are said in one line."""
    made = servers.certlet("init", "ca", "--permit-dns", "example.com", cwd=tmp_path)
    assert made.returncode == 0
    run = servers.certlet("serve", "--port", "0", *options, cwd=tmp_path, env={"CERTLET_API_KEY": API_KEY})
    assert run.returncode != 0
    said = run.stderr.decode()
    assert word in said
    assert "Traceback" not in said


def brought(directory: Path) -> None:
    """A certificate for this machine, its key in three forms, another's key, and what is neither."""
    key, other = csrs.private_key("p-256"), csrs.private_key("p-384")
    own = pem(
        forge_certificate(factories.create_issuer(), "server", csrs.build(None, ["ip:127.0.0.1"]))
    ).encode()
    clear = encode_private_key(key)
    files = {
        "crt": own,
        "key": clear,
        "both": own + clear,
        "sealed": encode_private_key(key, b"abc"),
        "other": encode_private_key(other),
        "csr": csrs.encode_pem(csrs.build()),
        "cut": clear[:60],
    }
    for name, data in files.items():
        (directory / name).write_bytes(data)


@pytest.mark.parametrize(
    ("certificate", "key", "told"),
    [
        ("csr", "key", "--tls-cert csr: the certificate cannot be read: it is not in PEM"),
        ("key", "crt", "--tls-cert key: the certificate cannot be read: it is not in PEM"),
        ("crt", "csr", "there is no private key in csr, in PEM (--tls-key)"),
        ("crt", "cut", "there is no private key in cut, in PEM (--tls-key)"),
        ("crt", "other", "the key in other is not the one of the certificate in crt"),
        ("crt", "sealed", "sealed is encrypted, and there is no terminal to ask for its passphrase"),
        ("none", "key", "--tls-cert none: No such file or directory"),
        ("crt", "none", "--tls-key none: No such file or directory"),
    ],
)
def test_which_of_the_files_is_wrong(tmp_path: Path, certificate: str, key: str, told: str) -> None:
    """What --tls-cert and --tls-key name is told apart: no certificate, no key, another's, encrypted, not there."""
    brought(tmp_path)
    run = servers.certlet("serve", "--port", "0", "--tls-cert", certificate, "--tls-key", key, cwd=tmp_path)
    assert (run.returncode, run.stderr.decode()) == (1, f"certlet: {told}\n")
    assert not (tmp_path / "ca").exists()


@pytest.mark.parametrize(("certificate", "key"), [("crt", "key"), ("both", "both")])
def test_files_of_the_operator_s_own(tmp_path: Path, certificate: str, key: str) -> None:
    """A certificate and its key, in two files or in one, are served as they are."""
    brought(tmp_path)
    with servers.serving(tmp_path, "--tls-cert", certificate, "--tls-key", key) as server:
        shown = ssl.get_server_certificate(("127.0.0.1", server.port))
        assert shown.strip() in (tmp_path / "crt").read_text()


def test_what_openssl_refuses_is_told_without_its_numbers(tmp_path: Path) -> None:
    """A key too small for TLS is a certificate's all the same: OpenSSL's reason is told, and no line of its source."""
    make = "openssl req -x509 -newkey rsa:1024 -nodes -keyout key -out crt -subj /CN=x"
    servers.run(*make.split(), cwd=tmp_path)
    arguments = ("--ephemeral", "--port", "0", "--tls-cert", "crt", "--tls-key", "key")
    run = servers.certlet("serve", *arguments, cwd=tmp_path)
    told = "certlet: OpenSSL does not take crt and key: ee key too small"
    assert (run.returncode, run.stderr.decode().splitlines()) == (1, [told])


@pytest.mark.parametrize("name", [OWN_NAME, "certificate:0a1b", "authorizer:anna"])
def test_no_key_has_a_caller_s_name(tmp_path: Path, name: str) -> None:
    """The names of callers without a key cannot be a key's: `certlet api-key add` refuses them."""
    assert servers.certlet("init", ".", cwd=tmp_path).returncode == 0
    run = servers.certlet("api-key", "add", name, "--ca", ".", cwd=tmp_path)
    assert run.returncode == 1
    assert b"no key's name begins with" in run.stderr
    assert servers.certlet("api-key", "add", "certificates", "--ca", ".", cwd=tmp_path).returncode == 0


def test_client_certificates_in_api_gateway_s_words(tmp_path: Path) -> None:
    """`requestContext.identity.clientCert` has API Gateway's members, and they are the certificate's."""
    from tests.gateway import second_api  # noqa: PLC0415

    assert servers.certlet("init", "ca", cwd=tmp_path).returncode == 0
    ca = load_issuer(tmp_path / "ca")
    own = forge_certificate(ca, "server", csrs.build(None, ["ip:127.0.0.1"]))
    server_file = devices.write_key_and_certificate(tmp_path, own, csrs.private_key("p-256"))
    server_file.write_text(server_file.read_text() + pem(ca.certificate))
    event: dict[str, Any] = {
        "httpMethod": "GET", "requestContext": {}, "queryStringParameters": {"do": "echo"},
        "body": "".join(map(pem, ca.ca_certificates)),
    }  # fmt: skip
    files = dict.fromkeys(("tls_certificate", "tls_key"), str(server_file))
    options: dict[str, Any] = {**files, "tls_client_ca_event": event}
    with second_api.gateway(tmp_path, second_api.library(), **options) as server:
        client = forge_certificate(ca)
        told = server.request("GET", "/books", context=client_context(server, client)).json()["event"]
        presented = told["requestContext"]["identity"]["clientCert"]
        assert x509.load_pem_x509_certificate(presented["clientCertPem"].encode()) == client
        assert presented["subjectDN"] == client.subject.rfc4514_string()
        assert presented["issuerDN"] == client.issuer.rfc4514_string()
        assert int(presented["serialNumber"].replace(":", ""), 16) == client.serial_number
        assert presented["validity"]["notAfter"] == f"{client.not_valid_after_utc:%b %e %H:%M:%S %Y} GMT"
        assert told["headers"]["X-Forwarded-Proto"] == "https"
        without = server.request("GET", "/books", context=client_context(server)).json()["event"]
        assert "clientCert" not in without["requestContext"]["identity"]

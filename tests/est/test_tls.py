"""`certlet serve --tls`: the certificate of the server, HTTP Basic, and client certificates, over real TLS."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import socket
import ssl
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from service.credentials import SERVER_PRINCIPAL
from service.gateway import tls
from service.gateway.routes import GatewayError
from service.pki import encoding
from service.pki.keys import encode_private_key
from tests import csrs, factories, servers
from tests.cli import certlet
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
from tests.servers import API_KEY, Response, Server

CSR = csrs.build("device.example.com")


def enroll(
    server: Server, path: str = "/simpleenroll", client: x509.Certificate | None = None, **headers: Any
) -> Response:
    """Send the CSR of a device."""
    all_headers = {"Content-Type": devices.PKCS10, **headers}
    return server.request(
        "POST", devices.EST + path, encode_body(CSR), all_headers, client_context(server, client)
    )


def test_server_certificate_is_issued_by_its_ca(tls_server: Server) -> None:
    """The certificate contains the server's names, chains to the root, and has an audit record."""
    certificate = server_certificate(tls_server)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    certificate.verify_directly_issued_by(load_issuer(tls_server.log.parent / "ca").certificate)
    assert f'"principal":"{SERVER_PRINCIPAL}"' in tls_server.read_log()
    assert "https://127.0.0.1" in "".join(tls_server.output)
    assert server_certificate(tls_server, ssl.TLSVersion.TLSv1_2) == certificate


def refused_handshakes(server: Server) -> list[dict[str, Any]]:
    """Return the log's records of refused handshakes."""
    return [json.loads(line) for line in server.read_log().splitlines() if line.startswith('{"tls"')]


def receive_alert(server: Server, context: ssl.SSLContext, data: bytes = b"GET / HTTP/1.1\r\n\r\n") -> str:
    """Send data over TLS, and return the reason of the client's error, which names the server's alert."""
    with socket.create_connection(("127.0.0.1", server.port), 10) as plain:
        try:
            with context.wrap_socket(
                plain, server_hostname="localhost", do_handshake_on_connect=False
            ) as client:
                client.do_handshake()
                client.sendall(data)
                return f"no alert, but {client.recv(100)!r}"
        except ssl.SSLError as error:
            return error.reason


INVALID_CLIENTS = {
    "expired": ("SSLV3_ALERT_CERTIFICATE_EXPIRED", "certificate_expired: the client certificate has expired"),
    "not-yet-valid": ("SSLV3_ALERT_BAD_CERTIFICATE", "bad_certificate: the client certificate is not yet valid"),
    "server-only": ("SSLV3_ALERT_UNSUPPORTED_CERTIFICATE", "unsupported_certificate: the client certificate is not for TLS clients"),
    "other-ca": ("TLSV1_ALERT_UNKNOWN_CA", "unknown_ca: this server does not trust the CA of the client certificate"),
}  # fmt: skip


def invalid_client(server: Server, case: str) -> x509.Certificate:
    """Create a client certificate that the handshake refuses."""
    ca = load_issuer(server.log.parent / "ca")
    create: dict[str, Callable[[], x509.Certificate]] = {
        "server-only": lambda: forge_certificate(ca, "server"),
        "expired": lambda: forge_certificate(ca, age=timedelta(days=8)),
        "not-yet-valid": lambda: forge_certificate(ca, age=timedelta(days=-5)),
        "other-ca": foreign_certificate,
    }
    return create[case]()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
@pytest.mark.parametrize("case", INVALID_CLIENTS)
def test_invalid_client_certificate_gets_its_alert(
    tls_server: Server, case: str, version: ssl.TLSVersion
) -> None:
    """The client gets the alert of RFC 8446 6.2, also after a long request; the log has one line."""
    context = client_context(tls_server, invalid_client(tls_server, case))
    context.maximum_version = version
    alert, reason = INVALID_CLIENTS[case]
    before = len(refused_handshakes(tls_server))
    assert receive_alert(tls_server, context) == alert
    assert receive_alert(tls_server, context, b"x" * 1_000_000) == alert
    records = refused_handshakes(tls_server)[before:]
    assert [(record["source_ip"], record["refused"]) for record in records] == [("127.0.0.1", reason)] * 2
    assert {*records[0]} == {"tls", "source_ip", "refused"}
    assert enroll(tls_server, Authorization=basic_auth(API_KEY)).status == 200


def test_accepted_handshake_is_not_logged(tls_server: Server) -> None:
    """A valid client certificate, no client certificate, and a disconnect are no refusals."""
    before = refused_handshakes(tls_server)
    client = forge_certificate(load_issuer(tls_server.log.parent / "ca"))
    for context in (client_context(tls_server), client_context(tls_server, client)):
        assert receive_alert(tls_server, context).startswith("no alert, but b'HTTP/1.0 400")
    with socket.create_connection(("127.0.0.1", tls_server.port), 10) as plain:
        plain.sendall(b"\x16\x03\x01")
    assert tls_server.request("GET", "/health", context=client_context(tls_server)).status == 200
    assert refused_handshakes(tls_server) == before


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
def test_tls_1_1_is_refused(tls_server: Server) -> None:
    """RFC 8996: the server refuses TLS 1.1 with the alert protocol_version."""
    context = client_context(tls_server)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    assert receive_alert(tls_server, context) == "TLSV1_ALERT_PROTOCOL_VERSION"
    assert (
        refused_handshakes(tls_server)[-1]["refused"]
        == "protocol_version: the client supports only older versions of TLS"
    )


def test_no_shared_cipher_is_refused(tls_server: Server) -> None:
    """The alert is handshake_failure."""
    context = client_context(tls_server)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES128-SHA")
    assert receive_alert(tls_server, context) == "SSLV3_ALERT_HANDSHAKE_FAILURE"
    assert refused_handshakes(tls_server)[-1]["refused"] == "handshake_failure: no cipher suite in common"


def test_alert_of_the_client_is_logged(tls_server: Server) -> None:
    """A client that does not trust the server's certificate sends the alert unknown_ca."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with socket.create_connection(("127.0.0.1", tls_server.port), 10) as plain:
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        plain.sendall(outgoing.read())
        while True:
            incoming.write(plain.recv(65536))
            try:
                client.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError:
                plain.sendall(outgoing.read())
                break
        assert plain.recv(65536) == b""
    assert refused_handshakes(tls_server)[-1]["refused"] == "the client sent the alert unknown_ca"


def test_invalid_record_during_an_upload_is_the_clients_error(tls_server: Server) -> None:
    """An invalid TLS record ends the body early, which is 400 in the access log and no error of the gateway."""
    before = len(tls_server.read_log())
    head = "POST /.well-known/est/simplereenroll HTTP/1.1\r\nHost: a\r\nContent-Type: application/pkcs10\r\n"
    with (
        socket.create_connection(("127.0.0.1", tls_server.port), 10) as plain,
        client_context(tls_server).wrap_socket(plain, server_hostname="localhost") as client,
    ):
        client.sendall(f"{head}Content-Length: 100\r\n\r\nabc".encode())
        time.sleep(0.5)  # the gateway waits for the rest
        os.write(client.fileno(), b"\x17\x03\x03\x00\x20" + b"z" * 32)
        with contextlib.suppress(OSError):
            client.recv(100)
    assert tls_server.request("GET", "/health", context=client_context(tls_server)).status == 200
    log = tls_server.read_log()[before:]
    assert '"path":"/.well-known/est/simplereenroll","status":400' in log
    assert "Traceback" not in log


def test_plain_http_on_the_https_port_is_logged(tls_server: Server) -> None:
    """Nothing that the client sends is in the log."""
    with socket.create_connection(("127.0.0.1", tls_server.port), 10) as plain:
        plain.sendall(b"GET /\x1b[31m HTTP/1.1\r\nHost: hidden\r\n\r\n")
        assert plain.recv(100) == b""
    assert refused_handshakes(tls_server)[-1]["refused"] == "plain HTTP on the port for HTTPS"
    assert "hidden" not in tls_server.read_log()


def test_curl_and_openssl_show_the_alert(tls_server: Server) -> None:
    """Both programs show the alert for an expired certificate, not an unexpected end of the connection."""
    client = invalid_client(tls_server, "expired")
    path = devices.write_key_and_certificate(tls_server.log.parent, client, csrs.private_key("p-256"))
    url = f"https://localhost:{tls_server.port}"
    curl = ("curl", "--silent", "--show-error", "--cacert", devices.root_path(tls_server), "--cert", path)
    assert "alert certificate expired" in servers.run(*curl, f"{url}/health", check=False).stderr
    s_client = ("openssl", "s_client", "-connect", url[8:], "-cert", path, "-key", path)
    output = servers.run(*s_client, "-ign_eof", stdin="GET / HTTP/1.0\r\n\r\n", check=False)
    assert "SSL alert number 45" in output.stderr


def open_sockets(pid: int) -> set[str]:
    """Return the sockets of a process."""
    names = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was closed
            names.add(str(path.readlink()))
    return names


def test_refused_client_is_disconnected(tls_server: Server) -> None:
    """A client that ignores the alert, and goes on sending, is disconnected after a second."""
    (pid,) = tls_server.pids("server")
    others, memory = open_sockets(pid), servers.resident_kib(pid)
    with socket.create_connection(("127.0.0.1", tls_server.port), 10) as plain:
        plain.settimeout(0.1)
        servers.wait_until(lambda: open_sockets(pid) - others, 5)
        (connection,) = open_sockets(pid) - others
        start = time.monotonic()
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        while connection in open_sockets(pid) and time.monotonic() - start < 9:
            with contextlib.suppress(TimeoutError, ConnectionError):
                plain.sendall(b"x" * 65536)
    assert 0.9 < time.monotonic() - start < 5
    assert servers.resident_kib(pid) - memory < 20_000


def test_missing_credentials_are_401(tls_server: Server) -> None:
    """RFC 7030 3.2.3: 401 with WWW-Authenticate and a problem document, without CORS."""
    response = enroll(tls_server)
    assert response.status == 401
    assert response.headers["WWW-Authenticate"] == 'Basic realm="Certlet", charset="UTF-8"'
    assert response.headers["Content-Type"] == "application/problem+json"
    assert "Access-Control-Allow-Origin" not in response.headers
    assert response.json()["code"] == "unauthorized"
    for value in ("Basic", "Basic ?", "Basic " + base64.b64encode(b"device:").decode(), "Bearer x"):
        assert enroll(tls_server, Authorization=value).status == 401


@pytest.mark.parametrize("user", ["device", "", "a b", "ä"])
def test_basic_password_is_the_api_key(tls_server: Server, user: str) -> None:
    """RFC 7617: any user name with the API key as the password enrols; so does x-api-key."""
    credentials: list[dict[str, Any]] = [{"Authorization": basic_auth(API_KEY, user)}, {"x-api-key": API_KEY}]
    for headers in credentials:
        response = enroll(tls_server, "/peer/simpleenroll", **headers)
        (certificate,) = parse_certificates(response.body)
        assert response.headers["Content-Type"] == "application/pkcs7-mime; smime-type=certs-only"
        certificate.verify_directly_issued_by(load_issuer(tls_server.log.parent / "ca").certificate)


def test_wrong_basic_password_is_401(tls_server: Server) -> None:
    """A wrong password is 401 with WWW-Authenticate, so that clients ask for another, and is not logged."""
    response = enroll(tls_server, Authorization=basic_auth("wrong-password-of-a-device"))
    assert (response.status, response.json()["code"]) == (401, "unauthorized")
    assert response.headers["WWW-Authenticate"] == 'Basic realm="Certlet", charset="UTF-8"'
    empty: dict[str, Any] = {"Authorization": basic_auth("wrong"), "x-api-key": ""}
    assert enroll(tls_server, **empty).status == 401
    assert "wrong-password" not in tls_server.read_log()
    assert API_KEY not in tls_server.read_log()


def test_wrong_api_key_is_403(tls_server: Server) -> None:
    """A wrong key in x-api-key is 403, with any password, and on an operation that does not accept Basic."""
    wrong: dict[str, Any] = {"x-api-key": "wrong"}
    for headers in ({}, {"Authorization": basic_auth(API_KEY)}, {"Authorization": basic_auth("wrong")}):
        response = enroll(tls_server, **wrong | headers)
        assert (response.status, response.headers.get("WWW-Authenticate")) == (403, None)
    basic = {"Authorization": basic_auth("wrong")}
    response = tls_server.request("GET", "/profiles/mine", None, basic, client_context(tls_server))
    assert (response.status, response.headers.get("WWW-Authenticate")) == (403, None)


def test_client_certificate_renews_itself(tls_server: Server) -> None:
    """A client certificate in the handshake authenticates the caller, who can only renew it."""
    client = forge_certificate(load_issuer(tls_server.log.parent / "ca"), age=timedelta(days=5))
    response = enroll(tls_server, "/simplereenroll", client)
    (certificate,) = parse_certificates(response.body)
    assert certificate.subject == client.subject
    assert (
        f'"principal":"certificate:{encoding.format_serial(client.serial_number)}"' in tls_server.read_log()
    )
    assert enroll(tls_server, "/simpleenroll", client).status == 401
    assert enroll(tls_server, "/server/simplereenroll", client).status == 403
    assert enroll(tls_server, "/simplereenroll").status == 403


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_names_of_client_cas_are_sent(tls_server: Server, version: str) -> None:
    """RFC 8446 4.2.4: clients learn which of their certificates to send. Only this CA and its root are named."""
    address = f"localhost:{tls_server.port}"
    output = servers.run("openssl", "s_client", "-connect", address, version, "-nameopt", "RFC2253").stdout
    _, _, names = output.partition("Acceptable client certificate CA names\n")
    issuer = load_issuer(tls_server.log.parent / "ca")
    expected = {certificate.subject.rfc4514_string() for certificate in issuer.ca_certificates}
    assert {*names.splitlines()[: len(expected)]} == expected
    assert not names.splitlines()[len(expected)].startswith("CN=")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_session_with_client_certificate_is_resumed(tls_server: Server, version: ssl.TLSVersion) -> None:
    """The client certificate still authenticates the caller in a resumed session."""
    client = forge_certificate(load_issuer(tls_server.log.parent / "ca"), age=timedelta(days=5))
    context, session, body = client_context(tls_server, client), None, encode_body(CSR)
    context.maximum_version = version
    head = f"POST {devices.EST}/simplereenroll HTTP/1.0\r\nContent-Type: {devices.PKCS10}\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    for is_resumed in (False, True):
        with (
            socket.create_connection(("127.0.0.1", tls_server.port), 10) as plain,
            context.wrap_socket(plain, server_hostname="localhost", session=session) as connection,
        ):
            connection.sendall(request)
            assert connection.recv(100).startswith(b"HTTP/1.0 200 OK")
            assert connection.session_reused is is_resumed
            session = connection.session


def test_client_certificate_is_optional(tls_server: Server) -> None:
    """The server requests a client certificate, but does not require it."""
    assert (
        tls_server.request("GET", "/health", context=client_context(tls_server)).json()["status"] == "ready"
    )
    assert (
        tls_server.request("GET", devices.EST + "/cacerts", context=client_context(tls_server)).status == 200
    )


def test_client_certificate_in_a_header_is_ignored(tls_server: Server) -> None:
    """A header cannot supply a client certificate."""
    client = pem(forge_certificate(load_issuer(tls_server.log.parent / "ca"))).replace("\n", "")
    headers: dict[str, Any] = dict.fromkeys(("X-Client-Cert", "Client-Cert", "X-SSL-Cert"), client)
    assert enroll(tls_server, "/simplereenroll", **headers).status == 403


def test_failed_renewal_is_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """After a timeout or a malformed response, the renewal is retried soon."""
    monkeypatch.setattr(tls, "MIN_RETRY", 0.01)
    client = factories.ca(public_key=csrs.private_key("p-256").public_key())
    result = {"crt_pem": pem(client), "chain_pem": "", "not_after": "2100-01-01T00:00:00Z"}
    bodies = ({"statusCode": 200, "body": body} for body in ("{}", json.dumps(result)))
    outcomes = iter([GatewayError("INTEGRATION_TIMEOUT"), *bodies])
    (tmp_path / "key").write_bytes(encode_private_key(csrs.private_key("p-256")))

    async def invoke(_event: dict[str, Any], _timeout: float) -> Any:
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    server_tls = tls.Tls(str(tmp_path / "crt"), str(tmp_path / "key"))
    renewal = server_tls.renew_forever(invoke, {"requestContext": {}}, time.time() + 0.2)
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(renewal, 3))
    assert server_tls.context._identity is not None
    assert server_tls.context._identity[0] == [client]
    assert next(outcomes, None) is None
    assert [record.message.partition(": ")[2] for record in caplog.records] == [
        "the function did not respond: INTEGRATION_TIMEOUT",
        "the function did not return a signed certificate",
    ]


def test_private_key_is_protected_and_removed(tmp_path: Path) -> None:
    """The key has mode 0600 in a directory with mode 0700, and is deleted when the server stops."""
    home = tmp_path / "tmp"
    home.mkdir()
    env = {"CERTLET_API_KEY": API_KEY, "TMPDIR": str(home)}
    with servers.certlet_server(tmp_path, "--tls", env=env) as server:
        (key,) = home.rglob("server.key")
        assert key.stat().st_mode & 0o777 == 0o600
        assert key.parent.stat().st_mode & 0o777 == 0o700
        assert "PRIVATE KEY" not in server.read_log()
    assert not list(home.iterdir())


INVALID_OPTIONS: list[tuple[tuple[str, ...], str]] = [
    (("--tls", "--tls-profile", "client"), "not for TLS servers"),
    (("--tls", "--tls-profile", "unknown"), "use one of: server"),
    (("--tls", "--tls-name", "a..b"), "empty label"),
    (("--tls", "--tls-name", "intra.example.org"), "name constraints"),
    (("--tls-name", "localhost"), "require --tls"),
    (("--tls", "--tls-cert", "a", "--tls-key", "b"), "not allowed with --tls"),
]


@pytest.mark.parametrize(("options", "fragment"), INVALID_OPTIONS)
def test_invalid_tls_options_are_reported(tmp_path: Path, options: tuple[str, ...], fragment: str) -> None:
    """An unsuitable profile or name, and conflicting options, are reported without a traceback."""
    init = certlet("init", "ca", "--permit-dns", "example.com", cwd=tmp_path)
    assert init.returncode == 0
    run = servers.certlet("serve", "--port", "0", *options, cwd=tmp_path, env={"CERTLET_API_KEY": API_KEY})
    assert run.returncode != 0
    output = run.stderr.decode()
    assert fragment in output
    assert "Traceback" not in output


def write_tls_files(directory: Path) -> None:
    """Write a server certificate, its key in several forms, a different key, and a CSR."""
    key, other_key = csrs.private_key("p-256"), csrs.private_key("p-384")
    server_pem = pem(
        forge_certificate(factories.create_issuer(), "server", csrs.build(None, ["ip:127.0.0.1"]))
    ).encode()
    key_pem = encode_private_key(key)
    files = {
        "crt": server_pem,
        "key": key_pem,
        "both": server_pem + key_pem,
        "encrypted": encode_private_key(key, b"abc"),
        "other": encode_private_key(other_key),
        "csr": csrs.encode_pem(csrs.build()),
        "truncated": key_pem[:60],
    }
    for name, data in files.items():
        (directory / name).write_bytes(data)


@pytest.mark.parametrize(
    ("certificate", "key", "message"),
    [
        ("csr", "key", "--tls-cert csr: the certificate cannot be parsed: not PEM"),
        ("key", "crt", "--tls-cert key: the certificate cannot be parsed: not PEM"),
        ("crt", "csr", "--tls-key csr is not a PEM private key"),
        ("crt", "truncated", "--tls-key truncated is not a PEM private key"),
        ("crt", "other", "--tls-key other does not match --tls-cert crt"),
        (
            "crt",
            "encrypted",
            "--tls-key encrypted is encrypted, and there is no terminal to prompt for its passphrase",
        ),
        ("missing", "key", "--tls-cert missing: No such file or directory"),
        ("crt", "missing", "--tls-key missing: No such file or directory"),
    ],
)
def test_unusable_tls_file_is_reported(tmp_path: Path, certificate: str, key: str, message: str) -> None:
    """The error names the file and the problem: not a certificate, not a key, wrong key, encrypted, missing."""
    write_tls_files(tmp_path)
    run = servers.certlet("serve", "--port", "0", "--tls-cert", certificate, "--tls-key", key, cwd=tmp_path)
    assert (run.returncode, run.stderr.decode()) == (1, f"certlet: {message}\n")
    assert not (tmp_path / "ca").exists()


@pytest.mark.parametrize(("certificate", "key"), [("crt", "key"), ("both", "both")])
def test_operator_certificate_is_served(tmp_path: Path, certificate: str, key: str) -> None:
    """The server uses the operator's certificate and key unchanged, from two files or one.

    A reload uses new ones, if they belong together.
    """
    write_tls_files(tmp_path)

    def served() -> str:
        return ssl.get_server_certificate(("127.0.0.1", server.port)).strip()

    with servers.certlet_server(tmp_path, "--tls-cert", certificate, "--tls-key", key) as server:
        before = served()
        assert before in (tmp_path / "crt").read_text()
        write_tls_files(tmp_path)  # another certificate for the same key
        right = (tmp_path / key).read_bytes()
        (tmp_path / key).write_bytes((tmp_path / "crt").read_bytes() + (tmp_path / "other").read_bytes())
        message = f"not reloaded: --tls-key {key} does not match --tls-cert {certificate}"
        assert (server.reload(), served()) == (message, before)
        (tmp_path / key).write_bytes(right)
        assert server.reload() == "reloaded: TLS certificate"
        assert served() in (tmp_path / "crt").read_text()


def test_openssl_error_is_reported_in_one_line(tmp_path: Path) -> None:
    """If the key is too small for TLS, the error contains only OpenSSL's reason."""
    command = "openssl req -x509 -newkey rsa:1024 -nodes -keyout key -out crt -subj /CN=x"
    servers.run(*command.split(), cwd=tmp_path)
    arguments = ("--ephemeral", "--port", "0", "--tls-cert", "crt", "--tls-key", "key")
    run = servers.certlet("serve", *arguments, cwd=tmp_path)
    message = "certlet: OpenSSL cannot load crt and key: ee key too small"
    assert (run.returncode, run.stderr.decode().splitlines()) == (1, [message])


def test_wrong_password_is_reported(tmp_path: Path) -> None:
    """The error says what to check, in no words of OpenSSL; the right password loads the key."""
    write_tls_files(tmp_path)
    tls.Tls(str(tmp_path / "crt"), str(tmp_path / "encrypted"), "abc").load()
    with pytest.raises(tls.TlsError, match="encrypted: check the passphrase, and that the key belongs to"):
        tls.Tls(str(tmp_path / "crt"), str(tmp_path / "encrypted"), "wrong").load()


@pytest.mark.parametrize("name", [SERVER_PRINCIPAL, "certificate:0a1b", "authorizer:anna", "oidc:ci"])
def test_reserved_api_key_names_are_refused(tmp_path: Path, name: str) -> None:
    """`certlet api-key add` refuses the names of principals without an API key."""
    assert certlet("init", ".", cwd=tmp_path).returncode == 0
    run = certlet("api-key", "add", name, "--ca", ".", cwd=tmp_path)
    assert run.returncode == 1
    assert b"a key's name cannot begin with" in run.stderr
    assert certlet("api-key", "add", "certificates", "--ca", ".", cwd=tmp_path).returncode == 0


def test_client_cert_has_the_fields_of_api_gateway(tmp_path: Path) -> None:
    """`requestContext.identity.clientCert` has the same fields as in API Gateway."""
    from tests.gateway import second_api  # noqa: PLC0415

    assert certlet("init", "ca", cwd=tmp_path).returncode == 0
    ca = load_issuer(tmp_path / "ca")
    server_crt = forge_certificate(ca, "server", csrs.build(None, ["ip:127.0.0.1"]))
    server_file = devices.write_key_and_certificate(tmp_path, server_crt, csrs.private_key("p-256"))
    server_file.write_text(server_file.read_text() + pem(ca.certificate))
    event: dict[str, Any] = {
        "httpMethod": "GET", "requestContext": {}, "queryStringParameters": {"do": "echo"},
        "body": "".join(map(pem, ca.ca_certificates)),
    }  # fmt: skip
    files = dict.fromkeys(("tls_certificate", "tls_key"), str(server_file))
    options: dict[str, Any] = {**files, "tls_client_ca_event": event}
    with second_api.gateway_server(tmp_path, second_api.document(), **options) as server:
        client = forge_certificate(ca)
        event = server.request("GET", "/books", context=client_context(server, client)).json()["event"]
        client_cert = event["requestContext"]["identity"]["clientCert"]
        assert x509.load_pem_x509_certificate(client_cert["clientCertPem"].encode()) == client
        assert client_cert["subjectDN"] == client.subject.rfc4514_string()
        assert client_cert["issuerDN"] == client.issuer.rfc4514_string()
        assert int(client_cert["serialNumber"].replace(":", ""), 16) == client.serial_number
        assert client_cert["validity"]["notAfter"] == f"{client.not_valid_after_utc:%b %e %H:%M:%S %Y} GMT"
        assert event["headers"]["X-Forwarded-Proto"] == "https"
        plain_event = server.request("GET", "/books", context=client_context(server)).json()["event"]
        assert "clientCert" not in plain_event["requestContext"]["identity"]

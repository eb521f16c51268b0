"""Serial numbers through the whole path: init, serve, rotation, rollover, revocation, and a CA from before."""

from __future__ import annotations

import base64
import json
import os
import pty
import shutil
import stat
import subprocess
import urllib.parse
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from service.keystore import ca_directory, revocation_file
from service.pki import encoding, revocation, serial
from service.pki.serial import SerialNumbers
from tests import csrs, factories, servers
from tests.assertions import assert_problem
from tests.cli import certlet
from tests.lambda_events import decode_body, invoke_handler, proxy_event
from tests.servers import API_KEY, CERTLET, ROOT, Response, Server, certlet_server, environ, run

FROM_BEFORE = ROOT / "tests" / "ca_from_before"  # `certlet init` created it before serial numbers had a tag
BODY = {"csr": csrs.encode_pem(csrs.build(sans=["dns:a.example.com"])).decode()}
NEVER_ISSUED = "is not a serial number of the CA in ca: it never issued such a certificate. If there is one, revoke its file\n"  # fmt: skip
UNKNOWN = "does not know whether it issued 0a"


def sign(server: Server) -> x509.Certificate:
    """Return a new certificate."""
    return x509.load_pem_x509_certificate(server.sign(BODY).json()["crt_pem"].encode())


def issue(ca: Path) -> x509.Certificate:
    """Return a new certificate of the CA in a directory."""
    return factories.issue(ca, BODY["csr"].encode())


def load_numbers(ca: Path, issuer: Path | None = None) -> SerialNumbers:
    """Return the serial numbers of a CA, or those of another issuer, by the keys of the first."""
    serial_keys = ca_directory.load_serial_keys(ca)
    assert serial_keys
    return SerialNumbers(serial_keys, ca_directory.load_chain(issuer or ca)[0])


def has_lifetime_of(numbers: SerialNumbers, certificate: x509.Certificate) -> bool:
    """Whether a certificate's serial number is recognised, with its lifetime."""
    lifetime, minute = numbers.recognize(certificate.serial_number), timedelta(minutes=1)
    return lifetime is not None and (
        lifetime.start <= certificate.not_valid_before_utc < lifetime.start + minute
        and lifetime.end - minute <= certificate.not_valid_after_utc < lifetime.end
    )


def create_ca_from_before(directory: Path) -> Path:
    """Copy the CA of an earlier version."""
    shutil.copytree(FROM_BEFORE, directory)
    for path in directory.glob("*.key"):
        path.chmod(0o600)
    return directory


def test_server_issues_recognised_serial_numbers(ca_server: Server) -> None:
    """Those of single certificates, of retries and of batches have a tag and the lifetime."""
    certificates = [sign(ca_server)]
    headers = {"Content-Type": "application/json", "x-api-key": API_KEY}
    repeatable, body = headers | {"Idempotency-Key": "0" * 20}, json.dumps(BODY).encode()
    retries = [ca_server.request("POST", "/sign", body, repeatable) for _ in range(2)]
    batch = ca_server.request("POST", "/sign/batch", json.dumps({"requests": [BODY] * 3}).encode(), headers)
    assert retries[0].body == retries[1].body
    results = [retries[0].json(), *(item["certificate"] for item in batch.json()["results"])]
    certificates += [x509.load_pem_x509_certificate(result["crt_pem"].encode()) for result in results]
    numbers = load_numbers(ca_server.log.parent / "ca")
    assert numbers.all_tagged
    assert len({certificate.serial_number for certificate in certificates}) == 5
    assert all(has_lifetime_of(numbers, certificate) for certificate in certificates)


def test_rotated_key_is_used_without_a_restart(tmp_path: Path) -> None:
    """The command keeps the earlier keys and the mark of the CA; a running server uses the new key at once."""
    ca, path = tmp_path / "ca", tmp_path / "ca" / ca_directory.SERIAL_KEY
    with certlet_server(tmp_path) as server:
        before, first = sign(server), load_numbers(ca)
        path.chmod(0o644)
        result = certlet("rotate-serial-key", cwd=tmp_path)
        assert (result.returncode, result.stderr) == (0, b"")
        assert result.stdout.startswith(b"Added a key to ca/serial.key. Back it up")
        after, both = sign(server), load_numbers(ca)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert both.all_tagged
    assert has_lifetime_of(both, before)
    assert has_lifetime_of(both, after)
    assert first.recognize(after.serial_number) is None


def test_key_over_the_maximum_is_refused(tmp_path: Path) -> None:
    """The file does not change. A rollover copies the keys without a new one."""
    assert certlet("init", "ca", cwd=tmp_path).returncode == 0
    path = tmp_path / "ca" / ca_directory.SERIAL_KEY
    path.write_text("".join(f"key {number:064x}\n" for number in range(serial.MAX_KEYS)))
    before = path.read_bytes()
    result = certlet("rotate-serial-key", cwd=tmp_path)
    error = b"certlet: ca/serial.key: 8 keys, the maximum: remove the last one when all its certificates have ended\n"
    assert (result.returncode, result.stderr) == (1, error)
    assert path.read_bytes() == before
    assert certlet("rollover", "ca", "new", cwd=tmp_path).returncode == 0
    assert (tmp_path / "new" / ca_directory.SERIAL_KEY).read_bytes().count(before) == 1
    assert load_numbers(tmp_path / "new").all_tagged


def test_malformed_serial_key_stops_every_command(tmp_path: Path) -> None:
    """The error is one line that names the file and the line, without its content."""
    assert certlet("init", "ca", cwd=tmp_path).returncode == 0
    (tmp_path / "ca" / ca_directory.SERIAL_KEY).write_text("key secret\n")
    commands = (("rotate-serial-key",), ("revoke", "0a"), ("rollover", "ca", "new"), ("check",))
    results = [certlet(*arguments, cwd=tmp_path) for arguments in commands]
    for result in (*results, servers.certlet("serve", "--port", "0", cwd=tmp_path)):
        assert result.returncode == 1
        last = result.stderr.decode().splitlines()[-1]
        assert last.endswith("ca/serial.key: line 1 is not `key` or `issuer` and 64 hexadecimal digits")
        assert b"secret" not in result.stderr


def test_rollover_recognises_serial_numbers_of_the_old_ca(ca_server: Server, tmp_path: Path) -> None:
    """The new CA has a key of its own, those of the old one, and the marks of both."""
    ca, before = ca_server.log.parent / "ca", sign(ca_server)
    assert certlet("rollover", ca, "new", cwd=tmp_path).returncode == 0
    with certlet_server(tmp_path, "--ca", "new") as server:
        after = sign(server)
    old, new = load_numbers(tmp_path / "new", ca), load_numbers(tmp_path / "new")
    assert has_lifetime_of(old, before)
    assert has_lifetime_of(new, after)
    assert (old.recognize(after.serial_number), new.recognize(before.serial_number)) == (None, None)
    assert load_numbers(ca, tmp_path / "new").recognize(after.serial_number) is None
    assert old.all_tagged
    assert new.all_tagged
    for certificate in (before, after):
        result = certlet("revoke", "--yes", f"{certificate.serial_number:x}", "--ca", "new", cwd=tmp_path)
        assert result.returncode == 0, result.stderr


def test_number_that_was_never_issued_is_not_revoked(tmp_path: Path) -> None:
    """A CA whose certificates all have a tag refuses it, even with --yes, and nothing is recorded."""
    assert certlet("init", "ca", cwd=tmp_path).returncode == 0
    number = issue(tmp_path / "ca").serial_number
    for arguments in ((f"{number ^ 1:x}",), ("0a", "--yes")):
        result = certlet("revoke", *arguments, cwd=tmp_path)
        assert (result.returncode, result.stderr.decode().partition(" ")[0]) == (1, "certlet:")
        assert result.stderr.decode().endswith(NEVER_ISSUED)
    assert (tmp_path / "ca" / "revoked.yaml").read_bytes() == revocation_file.HEADER
    assert certlet("revoke", "--yes", f"{number:x}", cwd=tmp_path).returncode == 0


def test_certificate_with_a_verified_signature_is_revoked(tmp_path: Path) -> None:
    """A file proves that the CA's key signed it, as after a theft of the key, whatever its serial number."""
    assert certlet("init", "ca", cwd=tmp_path).returncode == 0
    issuer = ca_directory.load_issuer(tmp_path / "ca", None)
    authority = factories.authority(issuer=issuer, now=datetime.now(UTC), serial_keys=None)
    certificate = authority.issue(factories.issuance_request(BODY["csr"].encode())).certificate
    (tmp_path / "stolen.crt").write_text(encoding.encode_pem([certificate]))
    assert certlet("revoke", "--yes", f"{certificate.serial_number:x}", cwd=tmp_path).returncode == 1
    result = certlet("revoke", "--yes", "stolen.crt", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert certificate.serial_number in revocation_file.load_revoked(tmp_path / "ca")


@pytest.mark.parametrize("successor", [False, True])
def test_ca_from_before_asks_for_confirmation(tmp_path: Path, *, successor: bool) -> None:
    """An untagged serial number may be one of its own: --yes is required; also for its successor."""
    ca = create_ca_from_before(tmp_path / "ca")
    tagged = issue(ca)
    assert has_lifetime_of(load_numbers(ca), tagged)
    assert not load_numbers(ca).all_tagged
    if successor:
        assert certlet("rollover", "ca", "new", "--new-root", cwd=tmp_path).returncode == 0
        assert load_numbers(tmp_path / "new").all_tagged
        assert not load_numbers(tmp_path / "new", ca).all_tagged
        ca = tmp_path / "new"
    result = certlet("revoke", "0a", "--ca", ca, cwd=tmp_path)
    error = f"certlet: the CA in {ca} {UNKNOWN}: pass --yes to revoke it\n"
    assert (result.returncode, result.stderr.decode()) == (1, error)
    assert not revocation_file.load_revoked(ca)
    assert certlet("revoke", "--yes", f"{tagged.serial_number:x}", "--ca", ca, cwd=tmp_path).returncode == 0
    assert certlet("revoke", "0a", "--yes", "--ca", ca, cwd=tmp_path).returncode == 0
    assert set(revocation_file.load_revoked(ca)) == {tagged.serial_number, 0xA}


@pytest.mark.parametrize(("answer", "status"), [(b"y\n", 0), (b"n\n", 1), (b"\n", 1)])
def test_user_confirms_at_a_terminal(tmp_path: Path, answer: bytes, status: int) -> None:
    """The question is on stderr; anything but yes revokes nothing."""
    ca = create_ca_from_before(tmp_path / "ca")
    terminal, inside = pty.openpty()
    try:
        os.write(terminal, answer)
        result = subprocess.run(
            [*CERTLET, "revoke", "0a"], cwd=tmp_path, env=environ(), stdin=inside, capture_output=True, check=False
        )  # fmt: skip
    finally:
        os.close(inside)
        os.close(terminal)
    assert result.returncode == status
    assert result.stderr.decode().startswith(f"The CA in ca {UNKNOWN}. Revoke it? [y/N]: ")
    assert (b"certlet: nothing was revoked\n" in result.stderr) is bool(status)
    assert list(revocation_file.load_revoked(ca)) == ([] if status else [0xA])


def test_check_warns_of_a_ca_without_serial_key(tmp_path: Path) -> None:
    """The warning names what is missing; the key that the command creates does not mark the CA."""
    ca = create_ca_from_before(tmp_path / "ca")
    assert b"serial.key" not in certlet("check", cwd=tmp_path).stdout
    (ca / ca_directory.SERIAL_KEY).unlink()
    result = certlet("check", cwd=tmp_path)
    assert result.returncode == 0
    warning = b"ca/serial.key: warning: does not exist, so the CA does not recognise its serial numbers: no OCSP, no ARI"
    assert any(line.startswith(warning) for line in result.stdout.splitlines())
    assert certlet("rotate-serial-key", cwd=tmp_path).returncode == 0
    assert not load_numbers(ca).all_tagged
    assert b"serial.key" not in certlet("check", "--ca", "ca", cwd=tmp_path).stdout
    assert b"serial.key" not in certlet("check", "--ca", "nowhere", cwd=tmp_path).stdout


def entries(ca: Path) -> Iterator[tuple[int, str]]:
    """Yield tagged serial numbers by the end of their certificates, and an untagged one; revoke all of them."""
    numbers, now = load_numbers(ca), datetime.now(UTC).replace(microsecond=0)
    margin = revocation.WINDOW + timedelta(minutes=2)
    ends = {
        "ended long ago": now - revocation.NEXT_UPDATE - margin,
        "ended a CRL ago": now - revocation.NEXT_UPDATE + margin,
        "valid": now + timedelta(days=1),
    }
    for random, (name, end) in enumerate(ends.items()):
        yield numbers.create(random, end - timedelta(days=7), end), name
    yield 0xA, "untagged"


def test_entry_leaves_the_crl_after_the_end_of_its_certificate(tmp_path: Path) -> None:
    """It stays for the lifetime of a CRL after the end; an untagged one stays until the issuer ends."""
    ca = create_ca_from_before(tmp_path / "ca")
    names = dict(entries(ca))
    revoked_at = datetime.now(UTC).replace(microsecond=0) - timedelta(days=2)
    revoked = [revocation.RevokedCertificate(number, revoked_at) for number in names]
    (ca / "revoked.yaml").write_bytes(revocation_file.encode_revoked(revoked))
    with certlet_server(tmp_path) as server:
        crl = x509.load_der_x509_crl(server.request("GET", "/ca.crl", headers={"Accept": "*/*"}).body)
    assert {names[entry.serial_number] for entry in crl} == {"ended a CRL ago", "valid", "untagged"}


def test_revocation_of_an_ended_certificate_says_that_no_crl_lists_it(tmp_path: Path) -> None:
    """The end is known from the serial number."""
    assert certlet("init", "ca", cwd=tmp_path).returncode == 0
    for number, name in entries(tmp_path / "ca"):
        result = certlet("revoke", "--yes", f"{number:x}", cwd=tmp_path)
        assert result.returncode == int(name == "untagged")
        ended = b"The CRL does not list it: the certificate ended by " in result.stdout
        assert ended is (name == "ended long ago")


def ask(server: Server, directory: Path, name: str, *options: str) -> str:
    """Return the output of `openssl ocsp` about a certificate file."""
    (directory / "issuer.pem").write_text(server.request("GET", "/ca").json()["ca_pem"])
    (directory / "root.pem").write_text(server.request("GET", "/ca").json()["root_pem"])
    command = ("openssl", "ocsp", *options, "-issuer", "issuer.pem", "-CAfile", "root.pem", "-cert", name)
    result = run(*command, "-url", f"{server.url}/ocsp", cwd=directory, check=False)
    return result.stdout + result.stderr


def test_ocsp_follows_the_whole_life_of_a_certificate(tmp_path: Path) -> None:
    """Good, then revoked at once with a nonce, and without one in the next five minutes; openssl verifies both."""
    with certlet_server(tmp_path) as server:
        certificate = sign(server)
        (tmp_path / "a.pem").write_text(encoding.encode_pem([certificate]))
        for options in ((), ("-no_nonce",), ("-sha256",)):
            output = ask(server, tmp_path, "a.pem", *options)
            assert "a.pem: good" in output
            assert "Response verify OK" in output
        revocation_run = certlet("revoke", "--yes", "a.pem", "--reason", "superseded", cwd=tmp_path)
        assert revocation_run.returncode == 0, revocation_run.stderr
        output = ask(server, tmp_path, "a.pem")
        assert "a.pem: revoked" in output
        assert "Reason: superseded" in output
        assert "Response verify OK" in output
        (tmp_path / "ca" / "revoked.yaml").write_text("garbage")
        assert "Error querying OCSP responder" in ask(server, tmp_path, "a.pem")


def test_ca_that_lost_its_serial_key_is_unauthorized(tmp_path: Path) -> None:
    """It does not recognise its serial numbers any more."""
    with certlet_server(tmp_path) as server:
        (tmp_path / "a.pem").write_text(encoding.encode_pem([sign(server)]))
        assert "a.pem: good" in ask(server, tmp_path, "a.pem")
        (tmp_path / "ca" / ca_directory.SERIAL_KEY).unlink()
        assert "unauthorized (6)" in ask(server, tmp_path, "a.pem")


def test_ca_from_before_answers_by_a_delegated_responder(tmp_path: Path) -> None:
    """Its key usage has no digitalSignature. The responder's certificate is in the log and in the inventory.

    After a rollover, the key of the old CA certifies one, too.
    """
    create_ca_from_before(tmp_path / "ca")
    arguments = ("--workers", "1", "--audit-log", "audit.log")
    with certlet_server(tmp_path, *arguments) as server:
        (tmp_path / "a.pem").write_text(encoding.encode_pem([sign(server)]))
        for options in ((), ("-no_nonce",), ("-sha256",)):
            output = ask(server, tmp_path, "a.pem", *options)
            assert "a.pem: good" in output
            assert "Response verify OK" in output
    records = [json.loads(line) for line in (tmp_path / "audit.log").read_text().splitlines()]
    responder = [record for record in records if record["principal"] == "service:ocsp"]
    assert [record["event"] for record in responder] == ["intent", "result"]
    assert all(record["request_id"] for record in responder)
    command = ("list", "audit.log", "--json", "--principal", "service:ocsp")
    (certificate,) = map(json.loads, certlet(*command, cwd=tmp_path).stdout.splitlines())
    assert (certificate["profile"], certificate["status"]) == ("service:ocsp-responder", "valid")
    assert certificate["serial_number"] == responder[0]["serial_number"]
    due = certlet(*command, "--expires-in", "4w", "--exit-code", cwd=tmp_path)
    assert (due.returncode, due.stdout) == (0, b"")
    assert certlet("rollover", "ca", "new", "--new-root", cwd=tmp_path).returncode == 0
    with certlet_server(tmp_path, "--ca", "new", "--audit-log", "new.log") as server:
        url = f"{server.url}/ocsp"
        chain = ("-issuer", "ca/signing-ca.crt", "-CAfile", "ca/root-ca.crt", "-cert", "a.pem")
        for status in ("good", "revoked"):
            if status == "revoked":
                assert certlet("revoke", "--yes", "a.pem", "--ca", "new", cwd=tmp_path).returncode == 0
            asked = run("openssl", "ocsp", *chain, "-url", url, cwd=tmp_path, check=False)
            assert f"a.pem: {status}" in asked.stdout
            assert "Response verify OK" in asked.stderr
    events = [json.loads(line) for line in (tmp_path / "new.log").read_text().splitlines()]
    assert [(item["event"], item["principal"]) for item in events] == [
        ("intent", "service:ocsp"),
        ("result", "service:ocsp"),
    ]


def spellings(text: str) -> Iterator[str]:
    """Return how clients and proxies spell base64 in a path."""
    encoded = urllib.parse.quote(text, safe="")  # as Java does
    yield from (text, encoded, encoded.replace("%2F", "%2f").replace("%2B", "%2b"))
    yield from (text.replace("/", "%2F"), text.replace("+", "%20"), urllib.parse.quote(encoded))


def question(server: Server, algorithm: hashes.HashAlgorithm) -> ocsp.OCSPRequestBuilder:
    """Return an OCSP request about a new certificate."""
    leaf, issuer = sign(server), server.request("GET", "/ca").json()["ca_pem"].encode()
    return ocsp.OCSPRequestBuilder().add_certificate(leaf, x509.load_pem_x509_certificate(issuer), algorithm)


def test_ocsp_by_get_reads_each_spelling_of_base64(ca_server: Server) -> None:
    """A path may contain `//`, end with slashes, and be percent-encoded in part or twice; over HTTP or by events."""
    asked = question(ca_server, hashes.SHA256()).build()
    numbers = [int.from_bytes(b"{" * size + b"\xfb\xef\xbe" + b"\xff" * 4) for size in (1, 2, 3)]
    texts = []
    for number in numbers:
        builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(
            asked.issuer_name_hash, asked.issuer_key_hash, number, hashes.SHA256()
        )
        texts.append(base64.b64encode(builder.build().public_bytes(Encoding.DER)).decode())
    assert {text[-2:] for text in texts} >= {"//", "=="}
    assert any("+" in text and "//" in text[:-2] for text in texts)
    paths = [
        (number, spelling)
        for number, text in zip(numbers, texts, strict=True)
        for spelling in spellings(text)
    ]
    bodies = [ca_server.request("GET", f"/ocsp/{path}").body for _, path in paths]
    parameters = [path for _, path in paths] + [urllib.parse.unquote(path) for _, path in paths]
    events = [
        proxy_event(
            "/x", "GET", resource="/ocsp/{request+}", pathParameters={"request": parameter.removesuffix("/")}
        )
        for parameter in parameters
    ]
    events += [proxy_event(f"/ocsp/{path}", "GET", resource=None) for _, path in paths]
    results, _ = invoke_handler(ca_server.log.parent, *events)
    bodies += [decode_body(result) for result in results]
    answers = [ocsp.load_der_ocsp_response(body).serial_number for body in bodies]
    assert answers == [number for number, _ in paths] * 4


@pytest.mark.parametrize(
    "text", ["M", "MFUwUzBRME8wTTAJBg*", "AAAA" * 257, "MFU wUz%09", "%C3%A9", "%FF", "x" * 5000]
)
def test_ocsp_by_get_refuses_other_paths(server: Server, text: str) -> None:
    """Malformed or long base64 is malformedRequest, and is not cached."""
    response = server.request(
        "GET", f"/ocsp/{urllib.parse.quote(text, safe='%')}", headers={"If-None-Match": "*"}
    )
    assert (response.status, response.headers["Cache-Control"]) == (200, "no-store")
    status = ocsp.load_der_ocsp_response(response.body).response_status
    assert status is ocsp.OCSPResponseStatus.MALFORMED_REQUEST


def test_ocsp_by_get_accepts_1024_characters(server: Server) -> None:
    """A longer request is malformed: it has to be sent by POST."""
    builder = question(server, hashes.SHA256())

    def with_extension(size: int) -> bytes:
        extension = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), bytes(size))
        return builder.add_extension(extension, critical=False).build().public_bytes(Encoding.DER)

    size = 600 + 768 - len(with_extension(600))
    for der, expected in (
        (with_extension(size), "SUCCESSFUL"),
        (with_extension(size + 1), "MALFORMED_REQUEST"),
    ):
        text = base64.b64encode(der).decode()
        assert len(text) == (1024 if expected == "SUCCESSFUL" else 1028)
        response = server.request("GET", f"/ocsp/{text}")
        assert ocsp.load_der_ocsp_response(response.body).response_status.name == expected
        response = server.request("POST", "/ocsp", der, {"Content-Type": "application/ocsp-request"})
        assert ocsp.load_der_ocsp_response(response.body).response_status.name == "SUCCESSFUL"


def test_ocsp_by_get_has_an_etag(server: Server) -> None:
    """The response is 304 if the client has it. A response with a nonce has no ETag, and is never 304."""
    builder = question(server, hashes.SHA1())  # noqa: S303 - only names a certificate

    def get(builder: ocsp.OCSPRequestBuilder, etag: str) -> Response:
        text = base64.b64encode(builder.build().public_bytes(Encoding.DER)).decode()
        return server.request("GET", f"/ocsp/{text}", headers={"If-None-Match": etag})

    for _ in range(2):  # the window may end between two requests
        response = get(builder, '"other"')
        etag = response.headers["ETag"]
        assert (response.status, etag[:3]) == (200, 'W/"')
        again = get(builder, f'"other", {etag}')
        if again.status == 304:
            break
    assert (again.status, again.body, again.headers["ETag"]) == (304, b"", etag)
    assert again.headers["Content-Type"] == "application/ocsp-response"
    assert again.headers["Cache-Control"].startswith("public, max-age=")
    with_nonce = get(builder.add_extension(x509.OCSPNonce(bytes(32)), critical=False), "*")
    assert (with_nonce.status, with_nonce.headers["ETag"]) == (200, None)
    assert with_nonce.headers["Cache-Control"] == "no-store"


def test_ocsp_response_says_how_long_to_cache_it(tmp_path: Path) -> None:
    """Without a nonce until the window of the CRL ends; with one, not at all."""
    with certlet_server(tmp_path) as server:
        leaf, issuer = sign(server), ca_directory.load_chain(tmp_path / "ca")[0]
        builder = ocsp.OCSPRequestBuilder().add_certificate(leaf, issuer, hashes.SHA256())
        for request in (builder, builder.add_extension(x509.OCSPNonce(bytes(32)), critical=False)):
            response = server.request(
                "POST",
                "/ocsp",
                request.build().public_bytes(Encoding.DER),
                {"Content-Type": "application/ocsp-request", "Accept": "*/*"},
            )
            assert (response.status, response.headers["Content-Type"]) == (200, "application/ocsp-response")
            cache, answer = response.headers["Cache-Control"], ocsp.load_der_ocsp_response(response.body)
            assert answer.certificate_status is ocsp.OCSPCertStatus.GOOD
            if request is builder:
                seconds = int(cache.removeprefix("public, max-age="))
                assert 0 < seconds <= revocation.WINDOW.total_seconds()
                expires_at = answer.this_update_utc + revocation.WINDOW
                assert abs(datetime.now(UTC) + timedelta(seconds=seconds) - expires_at) < timedelta(
                    seconds=30
                )
            else:
                assert cache == "no-store"
        (tmp_path / "ca" / "revoked.yaml").write_text("garbage")
        headers = {"Content-Type": "application/ocsp-request"}
        body = builder.build().public_bytes(Encoding.DER)
        assert_problem(server.request("POST", "/ocsp", body, headers), 503, "unavailable")

"""EST with Lambda events: enrolment, renewal and all refusals."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import textwrap
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import AttributeOID, NameOID

from service import openapi
from service.keystore import revocation_file
from service.loaded_ca import LoadedCA
from service.pki import encoding
from tests import csrs, factories, lambda_events
from tests.cli import certlet
from tests.est.devices import (
    EST,
    PKCS10,
    encode_body,
    foreign_certificate,
    forge_certificate,
    load_issuer,
    parse_certificates,
    pem,
)

CSR = encode_body(csrs.build("device.example.com"))
NEW_KEY_CSR = encode_body(csrs.build("device.example.com", key_type="p-384"))  # another key for the same name
PROFILES = """
profiles:
  limiter: {description: Fixed O., validity: P30D, backdate: PT5M, extended_key_usage: [clientAuth], names: {dns: {}}, subject: {allowed: [CN], fixed: {O: Meters Ltd}}, certificate_policies: [1.3.6.1.4.1.32473.9.1], principals: [ci]}
  nameless: {description: No policy., validity: P30D, backdate: PT5M, extended_key_usage: [clientAuth], names: {dns: {}}}
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a directory with a CA and additional profiles."""
    path = tmp_path_factory.mktemp("est")
    assert certlet("init", "ca", cwd=path).returncode == 0
    (path / "profiles.yaml").write_text(PROFILES)
    return path


def est(
    path: str,
    content: bytes = b"",
    client: x509.Certificate | str | None = None,
    headers: Mapping[str, str] | None = None,
    key: str | None = "abc123",
) -> dict[str, Any]:
    """Create the event of an EST request over HTTPS."""
    identity: dict[str, Any] = {"apiKeyId": key, "sourceIp": "192.0.2.1"}
    if client is not None:
        identity["clientCert"] = {"clientCertPem": client if isinstance(client, str) else pem(client)}
    content_type = {"Content-Type": PKCS10} if content else {}
    return lambda_events.proxy_event(
        EST + path,
        "POST" if path.endswith("enroll") else "GET",
        headers={**content_type, "X-Forwarded-Proto": "https", **(headers or {})},
        requestContext={"requestId": "c6af9ac6-7b61-11e6-9a41-93e8deadbeef", "identity": identity},
        body=base64.b64encode(content).decode() or None,
        isBase64Encoded=bool(content),
    )


load_document = functools.cache(openapi.load)  # no test changes the document


def invoke(directory: Path, *events: dict[str, Any]) -> tuple[list[dict[str, Any]], factories.RecordingLog]:
    """Return the responses with decoded bodies, and the audit log; verify that EST responses have no CORS headers."""
    document, ca = load_document(directory / "profiles.yaml"), directory / "ca"
    responses, log = lambda_events.invoke_application(
        document,
        *events,
        policy=openapi.parse_policy(document),
        load_ca=lambda: LoadedCA(load_issuer(ca), deny_list=revocation_file.load_deny_list(ca)),
        load_revoked=lambda: revocation_file.load_revoked(ca),
    )
    for event, response in zip(events, responses, strict=True):
        assert ("Access-Control-Allow-Origin" in response["headers"]) == (not event["path"].startswith(EST))
    return [{**response, "body": lambda_events.decode_body(response)} for response in responses], log


def invoke_once(directory: Path, event: dict[str, Any]) -> dict[str, Any]:
    """Return the response to one event."""
    return invoke(directory, event)[0][0]


def assert_refused(response: dict[str, Any], status: int, code: str, fragment: str) -> dict[str, Any]:
    """Verify that a response is a problem with this status, code and text, and return it."""
    assert int(response["statusCode"]) == status, response
    assert response["headers"]["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = json.loads(response["body"])
    assert problem["code"] == code, problem
    assert problem["status"] == status
    assert fragment in json.dumps(problem), problem
    return problem


def parse_issued(response: dict[str, Any]) -> x509.Certificate:
    """Verify that a response contains exactly one certificate, and return it."""
    assert int(response["statusCode"]) == 200, response
    assert response["headers"]["Content-Type"] == "application/pkcs7-mime; smime-type=certs-only"
    assert response["headers"]["Content-Transfer-Encoding"] == "base64"
    (certificate,) = parse_certificates(response["body"])
    return certificate


def test_cacerts_returns_the_chain_and_its_root(directory: Path) -> None:
    """RFC 7030 4.1.3: all certificates up to the root, with or without a label."""
    ca = load_issuer(directory / "ca")
    for path in ("/cacerts", "/peer/cacerts"):
        response = invoke_once(directory, est(path, key=None))
        assert response["headers"]["Content-Transfer-Encoding"] == "base64"
        assert set(parse_certificates(response["body"])) == set(ca.ca_certificates)
        assert len(ca.ca_certificates) == 2


def test_cacerts_includes_the_previous_ca_after_a_rollover(tmp_path: Path) -> None:
    """After a rollover, cacerts includes the old CA, and the new CA renews the certificates of the old one."""
    assert certlet("init", "old", cwd=tmp_path).returncode == 0
    assert certlet("rollover", "old", "ca", cwd=tmp_path).returncode == 0
    (tmp_path / "profiles.yaml").write_text(PROFILES)
    old, new = load_issuer(tmp_path / "old"), load_issuer(tmp_path / "ca")
    assert old.certificate in parse_certificates(invoke_once(tmp_path, est("/cacerts"))["body"])
    renewed = parse_issued(invoke_once(tmp_path, est("/simplereenroll", NEW_KEY_CSR, forge_certificate(old))))
    renewed.verify_directly_issued_by(new.certificate)
    (tmp_path / "ca" / "previous-ca.crt").unlink()
    renewal = est("/simplereenroll", NEW_KEY_CSR, forge_certificate(old))
    assert_refused(invoke_once(tmp_path, renewal), 403, "unauthorized", "not issued by this CA")


def test_rollover_keeps_revocations(tmp_path: Path) -> None:
    """A revoked certificate cannot be renewed after a rollover; the new CA can revoke certificates of the old CA."""
    assert certlet("init", "old", cwd=tmp_path).returncode == 0
    (tmp_path / "profiles.yaml").write_text(PROFILES)
    old = load_issuer(tmp_path / "old")
    before, after = forge_certificate(old), forge_certificate(old)
    for name, certificate in (("before", before), ("after", after)):
        (tmp_path / name).write_bytes(certificate.public_bytes(Encoding.DER))
    assert certlet("revoke", "--yes", "before", "--ca", "old", cwd=tmp_path).returncode == 0
    assert certlet("rollover", "old", "ca", cwd=tmp_path).returncode == 0
    renewal = est("/simplereenroll", NEW_KEY_CSR, before)
    assert_refused(invoke_once(tmp_path, renewal), 403, "unauthorized", "revoked")
    parse_issued(invoke_once(tmp_path, est("/simplereenroll", NEW_KEY_CSR, after)))
    revoked = certlet("revoke", "--yes", "after", "--ca", "ca", cwd=tmp_path)
    assert revoked.returncode == 0, revoked.stderr
    assert_refused(
        invoke_once(tmp_path, est("/simplereenroll", NEW_KEY_CSR, after)), 403, "unauthorized", "revoked"
    )
    repeated = certlet("revoke", "--yes", "before", "--ca", "ca", cwd=tmp_path)
    assert (repeated.returncode, b"already revoked at" in repeated.stderr) == (1, True)


def test_csrattrs_is_empty(directory: Path) -> None:
    """RFC 7030 4.5.2: 204 with an empty body."""
    for path in ("/csrattrs", "/client/csrattrs"):
        response = invoke_once(directory, est(path, key=None))
        assert (response["statusCode"], response["body"]) == ("204", b"")
        assert "Content-Type" not in response["headers"]


@pytest.mark.parametrize("operation", ["cacerts", "csrattrs", "simpleenroll", "simplereenroll"])
def test_unknown_label_is_404(directory: Path, operation: str) -> None:
    """An unknown label is 404, and the response lists the profiles."""
    content = CSR if operation.endswith("enroll") else b""
    response = invoke_once(
        directory, est(f"/unknown/{operation}", content, forge_certificate(load_issuer(directory / "ca")))
    )
    assert_refused(response, 404, "unknownProfile", "peer")


WRAPPED = "\n".join(textwrap.wrap(CSR.decode(), 64)).encode() + b"\n"
PEM = csrs.encode_pem(csrs.build("device.example.com"))
BODIES = {
    "one-line": CSR,
    "wrapped": WRAPPED,
    "crlf": WRAPPED.replace(b"\n", b"\r\n"),
    "white space": b"\r\n\t " + b" \t".join(WRAPPED.splitlines()) + b" \t\r\n\n",
    "in every line": b"\n".join(bytes([octet]) for octet in CSR),
    "pem": PEM,
    "base64url": base64.urlsafe_b64encode(csrs.encode_der(csrs.build("device.example.com"))),
    "base64 of pem": base64.b64encode(PEM),
    "utf-16": PEM.decode().encode("utf-16"),
}


@pytest.mark.parametrize("content", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("transfer_encoding", [None, "base64", "x"])
def test_all_base64_encodings_are_accepted(
    directory: Path, content: bytes, transfer_encoding: str | None
) -> None:
    """RFC 8951 3.1: base64 with or without line breaks, with any Content-Transfer-Encoding."""
    headers = {"Content-Transfer-Encoding": transfer_encoding} if transfer_encoding else {}
    certificate = parse_issued(invoke_once(directory, est("/simpleenroll", content, headers=headers)))
    certificate.verify_directly_issued_by(load_issuer(directory / "ca").certificate)


def test_label_selects_the_profile(directory: Path) -> None:
    """RFC 7030 3.2.2: the label names the profile; without a label the default profile applies."""
    events = [
        est("/simpleenroll", CSR),
        est("/client/simpleenroll", CSR),
        est("/limiter/simpleenroll", CSR),
    ]
    responses, log = invoke(directory, *events)
    assert all(map(parse_issued, responses))
    assert [record.profile for record in log if record.event == "result"] == ["server", "client", "limiter"]
    assert {record.principal for record in log} == {"ci"}


CHALLENGE = csrs.encode_der(
    x509.CertificateSigningRequestBuilder()
    .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "device.example.com")]))
    .add_attribute(AttributeOID.CHALLENGE_PASSWORD, b"hush-hush")
    .sign(csrs.private_key(), hashes.SHA256())
)
REFUSED = {
    "der": (csrs.encode_der(csrs.build("device.example.com")), 400, "malformed", "base64"),
    "not-base64": (b"\xff" * 300, 400, "badCSR", "in PEM, DER or base64"),
    "not-pkcs10": (base64.b64encode(csrs.tlv(0x30, b"x" * 300)), 400, "badCSR", "PKCS#10"),
    "names": (encode_body(csrs.build(sans=["dns:a..b", "dns:c..d"])), 400, "compound", "subject_alt_name[1]"),
    "challenge": (base64.b64encode(CHALLENGE), 400, "badCSR", "challengePassword is not supported"),
    "1-megabyte": (b"A" * 1_048_576, 413, "tooLarge", "262144"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("path", ["/simpleenroll", "/simplereenroll"])
def test_bad_csr_is_400(directory: Path, path: str, case: str) -> None:
    """RFC 7030 4.2.3: a refused request is 400 with all problems, and nothing is signed."""
    content, status, code, fragment = REFUSED[case]
    (response,), log = invoke(directory, est(path, content, forge_certificate(load_issuer(directory / "ca"))))
    assert_refused(response, status, code, fragment)
    assert "intent" not in log.kinds()
    assert "hush-hush" not in f"{list(log)}{response}"


def test_empty_body_is_400_and_other_type_is_415(directory: Path) -> None:
    """A missing body is 400, and a Content-Type other than PKCS#10 is 415."""
    empty = est("/simpleenroll", headers={"Content-Type": PKCS10})
    assert_refused(invoke_once(directory, empty), 400, "malformed", "missing")
    other = est("/simpleenroll", CSR, headers={"Content-Type": "application/json"})
    assert_refused(invoke_once(directory, other), 415, "unsupportedMediaType", PKCS10)


def test_plain_http_is_403(directory: Path) -> None:
    """RFC 7030 3.3: without HTTPS every EST operation is 403, but the JSON operations work."""
    client = forge_certificate(load_issuer(directory / "ca"))
    events = [
        est(path, content, client, {"X-Forwarded-Proto": protocol})
        for path in ("/cacerts", "/csrattrs", "/simpleenroll", "/simplereenroll", "/peer/simpleenroll")
        for protocol in ("http", "", "https, http")
        for content in ((CSR, b"") if path.endswith("enroll") else (b"",))
    ]
    for response in invoke(directory, *events)[0]:
        assert_refused(response, 403, "httpsRequired", "requires HTTPS")
    plain = lambda_events.proxy_event(
        headers={"Content-Type": "application/json", "X-Forwarded-Proto": "http"}
    )
    assert invoke_once(directory, plain)["statusCode"] == "200"


def test_unauthenticated_caller_is_403(directory: Path) -> None:
    """simpleenroll needs an API key, simplereenroll a client certificate; neither accepts the other."""
    client = forge_certificate(load_issuer(directory / "ca"))
    events = [est("/simpleenroll", CSR, client, key=None), est("/simplereenroll", CSR)]
    (enrolment, renewal), log = invoke(directory, *events)
    assert_refused(enrolment, 403, "unauthorized", "API key")
    assert_refused(renewal, 403, "unauthorized", "client certificate")
    assert "intent" not in log.kinds()


@pytest.mark.parametrize("label", ["", "/peer"])
def test_client_certificate_renews_itself(directory: Path, label: str) -> None:
    """The new certificate has the same profile and names; the old certificate is the principal in the audit log."""
    client_certificate = forge_certificate(load_issuer(directory / "ca"), age=timedelta(days=5))
    (response,), log = invoke(
        directory, est(f"{label}/simplereenroll", NEW_KEY_CSR, client_certificate, key=None)
    )
    renewed = parse_issued(response)
    assert renewed.subject == client_certificate.subject
    san = x509.SubjectAlternativeName
    new, old = (
        certificate.extensions.get_extension_for_class(san).value
        for certificate in (renewed, client_certificate)
    )
    assert new == old
    assert renewed.public_key() != client_certificate.public_key()
    assert renewed.not_valid_after_utc > client_certificate.not_valid_after_utc
    assert log.kinds() == ["intent", "result"]
    assert {record.principal for record in log} == {
        f"certificate:{encoding.format_serial(client_certificate.serial_number)}"
    }
    assert {record.profile for record in log} == {"peer"}


def test_device_renews_with_its_first_csr(directory: Path) -> None:
    """The comparison uses the certificate that would be issued, so a device can resend its original CSR."""
    first = parse_issued(invoke_once(directory, est("/limiter/simpleenroll", CSR)))
    assert first.subject.rfc4514_string() == "CN=device.example.com,O=Meters Ltd"
    renewed = parse_issued(invoke_once(directory, est("/simplereenroll", CSR, first, key=None)))
    assert renewed.subject == first.subject  # although the profile has `principals: [ci]`


def test_renewal_ignores_the_order_of_names(directory: Path) -> None:
    """RFC 7030 4.2.2 requires the same names, in any order and case."""
    request = csrs.build("a.example.com", ["dns:a.example.com", "dns:B.example.com"])
    first = forge_certificate(load_issuer(directory / "ca"), request=request)
    other = csrs.build("a.example.com", ["dns:b.example.com", "dns:a.example.com"])
    assert parse_issued(invoke_once(directory, est("/simplereenroll", encode_body(other), first)))


CHANGED_NAMES = {
    "other-name": (csrs.build("other.example.com"), "other.example.com", "compound"),
    "additional-name": (csrs.build("device.example.com", ["dns:more.example.com", "dns:device.example.com"]), "more.example.com", "rejectedIdentifier"),
    "missing-name": (csrs.build(None, ["dns:device.example.com"]), "subject", "rejectedIdentifier"),
}  # fmt: skip


@pytest.mark.parametrize("case", CHANGED_NAMES)
def test_renewal_with_other_names_is_refused(directory: Path, case: str) -> None:
    """A renewal cannot change the subject or the names: 400 with all differences."""
    csr, fragment, code = CHANGED_NAMES[case]
    client_certificate = forge_certificate(load_issuer(directory / "ca"))
    (response,), log = invoke(directory, est("/simplereenroll", encode_body(csr), client_certificate))
    assert assert_refused(response, 400, code, fragment)["errors"]
    assert "intent" not in log.kinds()


NOT_RENEWABLE: dict[str, tuple[str, Callable[[Path], x509.Certificate | str], str]] = {
    "server-only": ("", lambda directory: forge_certificate(load_issuer(directory / "ca"), "server"), "clientAuth"),
    "expired": ("", lambda directory: forge_certificate(load_issuer(directory / "ca"), age=timedelta(days=8)), "not valid now"),
    "not-yet-valid": ("", lambda directory: forge_certificate(load_issuer(directory / "ca"), age=timedelta(days=-1)), "not valid now"),
    "other-ca": ("", lambda _: foreign_certificate(), "not issued by this CA"),
    "garbage": ("", lambda _: "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", "cannot be parsed"),
    "no-policy": ("", lambda directory: parse_issued(invoke_once(directory, est("/nameless/simpleenroll", CSR))), "policy"),
    "other-label": ("/client", lambda directory: forge_certificate(load_issuer(directory / "ca")), "under profile 'peer', not 'client'"),
    "ca-certificate": ("", lambda directory: load_issuer(directory / "ca").certificate, "not issued by this CA"),
}  # fmt: skip


@pytest.mark.parametrize("case", NOT_RENEWABLE)
def test_certificate_that_cannot_be_renewed_is_403(directory: Path, case: str) -> None:
    """Only a valid client certificate of this CA, of an existing profile, can be renewed."""
    label, create_client, fragment = NOT_RENEWABLE[case]
    (response,), log = invoke(directory, est(f"{label}/simplereenroll", CSR, create_client(directory)))
    assert_refused(response, 403, "unauthorized", fragment)
    assert [(record.event, record.principal) for record in log] == [("refusal", "")]


def test_revoked_certificate_or_denied_key_cannot_be_renewed(tmp_path: Path) -> None:
    """`certlet revoke`, a denied key, and a missing revocation file each stop renewal."""
    assert certlet("init", "ca", cwd=tmp_path).returncode == 0
    (tmp_path / "profiles.yaml").write_text("{}")
    client_certificate = forge_certificate(load_issuer(tmp_path / "ca"))
    (tmp_path / "my.crt").write_text(pem(client_certificate))
    event = est("/simplereenroll", NEW_KEY_CSR, client_certificate)
    assert parse_issued(invoke_once(tmp_path, event))
    assert certlet("revoke", "--yes", "my.crt", cwd=tmp_path).returncode == 0
    assert_refused(invoke_once(tmp_path, event), 403, "unauthorized", "revoked")
    (tmp_path / "ca" / "revoked.yaml").unlink()
    assert invoke_once(tmp_path, event)["statusCode"] == "503"
    (tmp_path / "ca" / "revoked.yaml").write_text("")
    spki = client_certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "ca" / revocation_file.DENY_LIST).write_text(hashlib.sha256(spki).hexdigest())
    assert_refused(invoke_once(tmp_path, event), 403, "unauthorized", "deny list")


def test_renewal_with_denied_key_is_refused(tmp_path: Path) -> None:
    """A renewal must satisfy the current rules for keys and names."""
    assert certlet("init", "ca", cwd=tmp_path).returncode == 0
    (tmp_path / "profiles.yaml").write_text("profiles: {client: {names: {dns: {permitted: [example.org]}}}}")
    spki = (
        csrs.private_key("p-384").public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    )
    (tmp_path / "ca" / revocation_file.DENY_LIST).write_text(hashlib.sha256(spki).hexdigest())
    ca = load_issuer(tmp_path / "ca")
    assert_refused(
        invoke_once(tmp_path, est("/simplereenroll", NEW_KEY_CSR, forge_certificate(ca))),
        400,
        "badPublicKey",
        "deny list",
    )
    # The profile no longer permits this name.
    request = csrs.build("device.example.com", ["dns:device.example.com"])
    event = est("/simplereenroll", encode_body(request), forge_certificate(ca, "client", request))
    assert_refused(invoke_once(tmp_path, event), 400, "rejectedIdentifier", "permits only names in")

"""EST by events alone: who may enrol, who may renew, and what each refusal is."""

from __future__ import annotations

import base64
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
from service.authority import LoadedCA
from service.keystore import revocation_file
from service.pki import encoding
from tests import csrs, factories, lambda_events, servers
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

GOOD = encode_body(csrs.build("device.example.com"))
CLIENT = encode_body(csrs.build("device.example.com", key_type="p-384"))  # another key for the same name
OWN = """
profiles:
  meter: {description: Fixed O., validity: P30D, backdate: PT5M, extended_key_usage: [clientAuth], names: {dns: {}}, subject: {allowed: [CN], fixed: {O: Meters Ltd}}, certificate_policies: [1.3.6.1.4.1.32473.9.1], principals: [ci]}
  nameless: {description: No policy., validity: P30D, backdate: PT5M, extended_key_usage: [clientAuth], names: {dns: {}}}
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a CA, and profiles of an operator's own."""
    made = tmp_path_factory.mktemp("est")
    assert servers.certlet("init", "ca", cwd=made).returncode == 0
    (made / "own.yaml").write_text(OWN)
    return made


def est(
    path: str,
    content: bytes = b"",
    client: x509.Certificate | str | None = None,
    headers: Mapping[str, str] | None = None,
    key: str | None = "abc123",
) -> dict[str, Any]:
    """The event of an EST request over HTTPS."""
    identity: dict[str, Any] = {"apiKeyId": key, "sourceIp": "192.0.2.1"}
    if client is not None:
        identity["clientCert"] = {"clientCertPem": client if isinstance(client, str) else pem(client)}
    given = {"Content-Type": PKCS10} if content else {}
    return lambda_events.event(
        EST + path,
        "POST" if path.endswith("enroll") else "GET",
        headers={**given, "X-Forwarded-Proto": "https", **(headers or {})},
        requestContext={"requestId": "c6af9ac6-7b61-11e6-9a41-93e8deadbeef", "identity": identity},
        body=base64.b64encode(content).decode() or None,
        isBase64Encoded=bool(content),
    )


def ask(directory: Path, *asked: dict[str, Any]) -> tuple[list[dict[str, Any]], factories.RecordingLog]:
    """The function's answers, their bodies decoded, and what was recorded; EST's have no CORS."""
    document, ca = openapi.load(directory / "own.yaml"), directory / "ca"
    found, log = lambda_events.ask(
        document,
        *asked,
        policy=openapi.parse_policy(document),
        load_ca=lambda: LoadedCA(load_issuer(ca), deny_list=revocation_file.load_deny_list(ca)),
        load_revoked=lambda: revocation_file.load_revoked(ca),
    )
    for each, answer in zip(asked, found, strict=True):
        assert ("Access-Control-Allow-Origin" in answer["headers"]) == (not each["path"].startswith(EST))
    return [{**each, "body": lambda_events.body(each)} for each in found], log


def one(directory: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """One answer."""
    return ask(directory, asked)[0][0]


def refused(answer: dict[str, Any], status: int, code: str, word: str) -> dict[str, Any]:
    """The problem document of a refusal, which says this word somewhere."""
    assert int(answer["statusCode"]) == status, answer
    assert answer["headers"]["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = json.loads(answer["body"])
    assert problem["code"] == code, problem
    assert problem["status"] == status
    assert word in json.dumps(problem), problem
    return problem


def issued(answer: dict[str, Any]) -> x509.Certificate:
    """The certificate of an answer, alone in it."""
    assert int(answer["statusCode"]) == 200, answer
    assert answer["headers"]["Content-Type"] == "application/pkcs7-mime; smime-type=certs-only"
    assert answer["headers"]["Content-Transfer-Encoding"] == "base64"
    (certificate,) = parse_certificates(answer["body"])
    return certificate


def test_cacerts_are_the_chain_and_its_root(directory: Path) -> None:
    """RFC 7030 4.1.3: every certificate up to the root, with or without a label."""
    ca = load_issuer(directory / "ca")
    for path in ("/cacerts", "/peer/cacerts"):
        answer = one(directory, est(path, key=None))
        assert answer["headers"]["Content-Transfer-Encoding"] == "base64"
        assert set(parse_certificates(answer["body"])) == set(ca.ca_certificates)
        assert len(ca.ca_certificates) == 2


def test_cacerts_hold_the_ca_before_a_rollover(tmp_path: Path) -> None:
    """After a rollover the old CA's certificate is among them, and its certificates are renewed by the new one."""
    assert servers.certlet("init", "old", cwd=tmp_path).returncode == 0
    assert servers.certlet("rollover", "old", "ca", cwd=tmp_path).returncode == 0
    (tmp_path / "own.yaml").write_text(OWN)
    old, new = load_issuer(tmp_path / "old"), load_issuer(tmp_path / "ca")
    assert old.certificate in parse_certificates(one(tmp_path, est("/cacerts"))["body"])
    renewed = issued(one(tmp_path, est("/simplereenroll", CLIENT, forge_certificate(old))))
    renewed.verify_directly_issued_by(new.certificate)
    (tmp_path / "ca" / "previous-ca.crt").unlink()
    again = est("/simplereenroll", CLIENT, forge_certificate(old))
    refused(one(tmp_path, again), 403, "unauthorized", "not one of this CA")


def test_a_rollover_forgets_nothing_that_was_revoked(tmp_path: Path) -> None:
    """What was revoked before it renews nothing after it; and what the old CA issued can be revoked in the new one."""
    assert servers.certlet("init", "old", cwd=tmp_path).returncode == 0
    (tmp_path / "own.yaml").write_text(OWN)
    old = load_issuer(tmp_path / "old")
    before, after = forge_certificate(old), forge_certificate(old)
    for name, each in (("before", before), ("after", after)):
        (tmp_path / name).write_bytes(each.public_bytes(Encoding.DER))
    assert servers.certlet("revoke", "before", "--ca", "old", cwd=tmp_path).returncode == 0
    assert servers.certlet("rollover", "old", "ca", cwd=tmp_path).returncode == 0
    asked = est("/simplereenroll", CLIENT, before)
    refused(one(tmp_path, asked), 403, "unauthorized", "revoked")
    issued(one(tmp_path, est("/simplereenroll", CLIENT, after)))
    revoked = servers.certlet("revoke", "after", "--ca", "ca", cwd=tmp_path)
    assert revoked.returncode == 0, revoked.stderr
    refused(one(tmp_path, est("/simplereenroll", CLIENT, after)), 403, "unauthorized", "revoked")
    again = servers.certlet("revoke", "before", "--ca", "ca", cwd=tmp_path)
    assert (again.returncode, b"it was revoked at" in again.stderr) == (1, True)


def test_csrattrs_ask_for_nothing(directory: Path) -> None:
    """RFC 7030 4.5.2: 204, and an empty body."""
    for path in ("/csrattrs", "/client/csrattrs"):
        answer = one(directory, est(path, key=None))
        assert (answer["statusCode"], answer["body"]) == ("204", b"")
        assert "Content-Type" not in answer["headers"]


@pytest.mark.parametrize("operation", ["cacerts", "csrattrs", "simpleenroll", "simplereenroll"])
def test_a_label_that_names_no_profile(directory: Path, operation: str) -> None:
    """A label is a part of the path: 404, and it says which there are."""
    content = GOOD if operation.endswith("enroll") else b""
    answer = one(
        directory, est(f"/nope/{operation}", content, forge_certificate(load_issuer(directory / "ca")))
    )
    refused(answer, 404, "unknownProfile", "peer")


WRAPPED = "\n".join(textwrap.wrap(GOOD.decode(), 64)).encode() + b"\n"
BODIES = [GOOD, WRAPPED, WRAPPED.replace(b"\n", b"\r\n"), csrs.encode_pem(csrs.build("device.example.com"))]


@pytest.mark.parametrize("content", BODIES, ids=["one-line", "wrapped", "crlf", "pem"])
@pytest.mark.parametrize("encoding_", [None, "base64", "x"])
def test_every_base64_enrols(directory: Path, content: bytes, encoding_: str | None) -> None:
    """RFC 8951 3.1: base64, wrapped or not, whatever Content-Transfer-Encoding says."""
    stated = {"Content-Transfer-Encoding": encoding_} if encoding_ else {}
    certificate = issued(one(directory, est("/simpleenroll", content, headers=stated)))
    certificate.verify_directly_issued_by(load_issuer(directory / "ca").certificate)


def test_a_label_is_the_profile(directory: Path) -> None:
    """RFC 7030 3.2.2: the label names the profile; without one it is the default."""
    asked = [est("/simpleenroll", GOOD), est("/client/simpleenroll", GOOD), est("/meter/simpleenroll", GOOD)]
    found, logged = ask(directory, *asked)
    assert all(map(issued, found))
    assert [each.profile for each in logged if each.event == "result"] == ["server", "client", "meter"]
    assert {each.principal for each in logged} == {"ci"}


CHALLENGE = csrs.encode_der(
    x509.CertificateSigningRequestBuilder()
    .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "device.example.com")]))
    .add_attribute(AttributeOID.CHALLENGE_PASSWORD, b"hush-hush")
    .sign(csrs.private_key(), hashes.SHA256())
)
REFUSED = {
    "der": (csrs.encode_der(csrs.build("device.example.com")), 400, "malformed", "base64"),
    "not-base64": (b"?" * 300, 400, "badCSR", "in PEM, DER or base64"),
    "no-request": (base64.b64encode(b"x" * 300), 400, "badCSR", "PKCS#10"),
    "names": (encode_body(csrs.build(sans=["dns:a..b", "dns:c..d"])), 400, "compound", "subject_alt_name[1]"),
    "challenge": (base64.b64encode(CHALLENGE), 400, "badCSR", "tls-unique"),
    "1-megabyte": (b"A" * 1_048_576, 413, "tooLarge", "262144"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("path", ["/simpleenroll", "/simplereenroll"])
def test_what_is_no_good_request(directory: Path, path: str, what: str) -> None:
    """RFC 7030 4.2.3: 400 for every request that is refused, with its reasons; and nothing is signed."""
    content, status, code, word = REFUSED[what]
    (found,), logged = ask(directory, est(path, content, forge_certificate(load_issuer(directory / "ca"))))
    refused(found, status, code, word)
    assert "intent" not in logged.kinds()
    assert "hush-hush" not in f"{list(logged)}{found}"


def test_an_empty_body_and_another_type(directory: Path) -> None:
    """No body is 400, and a Content-Type that is not PKCS#10's is 415."""
    empty = est("/simpleenroll", headers={"Content-Type": PKCS10})
    refused(one(directory, empty), 400, "malformed", "missing")
    other = est("/simpleenroll", GOOD, headers={"Content-Type": "application/json"})
    refused(one(directory, other), 415, "unsupportedMediaType", PKCS10)


def test_over_plain_http_nothing_is_looked_at(directory: Path) -> None:
    """RFC 7030 3.3: without HTTPS every operation is 403, whatever is sent; the JSON operations go on."""
    client = forge_certificate(load_issuer(directory / "ca"))
    for path in ("/cacerts", "/csrattrs", "/simpleenroll", "/simplereenroll", "/peer/simpleenroll"):
        for stated in ("http", "", "https, http"):
            for content in (GOOD, b"") if path.endswith("enroll") else (b"",):
                asked = est(path, content, client, {"X-Forwarded-Proto": stated})
                refused(one(directory, asked), 403, "httpsRequired", "requires HTTPS")
    plain = lambda_events.event(headers={"Content-Type": "application/json", "X-Forwarded-Proto": "http"})
    found, _ = ask(directory, plain)
    assert found[0]["statusCode"] == "200"


def test_without_a_caller_nothing_is_enrolled(directory: Path) -> None:
    """simpleenroll is for a caller whom the gateway named: a client certificate is not one."""
    client = forge_certificate(load_issuer(directory / "ca"))
    asked = [est("/simpleenroll", GOOD, client, key=None), est("/simplereenroll", GOOD)]
    found, logged = ask(directory, *asked)
    refused(found[0], 403, "unauthorized", "API key")
    refused(found[1], 403, "unauthorized", "client certificate")  # and an API key renews nothing
    assert "intent" not in logged.kinds()


@pytest.mark.parametrize("label", ["", "/peer"])
def test_a_certificate_renews_itself(directory: Path, label: str) -> None:
    """The same profile and names, another key, and the certificate itself as the principal in the audit log."""
    presented = forge_certificate(load_issuer(directory / "ca"), age=timedelta(days=60))
    (found,), logged = ask(directory, est(f"{label}/simplereenroll", CLIENT, presented, key=None))
    renewed = issued(found)
    assert renewed.subject == presented.subject
    san = x509.SubjectAlternativeName
    new, old = (each.extensions.get_extension_for_class(san).value for each in (renewed, presented))
    assert new == old
    assert renewed.public_key() != presented.public_key()
    assert renewed.not_valid_after_utc > presented.not_valid_after_utc
    assert logged.kinds() == ["intent", "result"]
    assert {each.principal for each in logged} == {
        f"certificate:{encoding.format_serial(presented.serial_number)}"
    }
    assert {each.profile for each in logged} == {"peer"}


def test_a_device_repeats_its_first_request(directory: Path) -> None:
    """What counts is what would be issued: a common name alone, and an O that the profile fixes, renew."""
    first = issued(one(directory, est("/meter/simpleenroll", GOOD)))
    assert first.subject.rfc4514_string() == "CN=device.example.com,O=Meters Ltd"
    renewed = issued(one(directory, est("/simplereenroll", GOOD, first, key=None)))
    assert renewed.subject == first.subject  # and `principals: [ci]` does not stand in its way


def test_the_order_of_names_does_not_count(directory: Path) -> None:
    """RFC 7030 4.2.2 asks for the same names; a set of them, spelt as they like."""
    request = csrs.build("a.example.com", ["dns:a.example.com", "dns:B.example.com"])
    first = forge_certificate(load_issuer(directory / "ca"), request=request)
    other = csrs.build("a.example.com", ["dns:b.example.com", "dns:a.example.com"])
    assert issued(one(directory, est("/simplereenroll", encode_body(other), first)))


CHANGED = {
    "another": (csrs.build("other.example.com"), "other.example.com", "compound"),
    "one-more": (csrs.build("device.example.com", ["dns:more.example.com", "dns:device.example.com"]), "more.example.com", "rejectedIdentifier"),
    "one-less": (csrs.build(None, ["dns:device.example.com"]), "subject", "rejectedIdentifier"),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGED)
def test_other_names_are_refused(directory: Path, what: str) -> None:
    """A renewal cannot change the subject or the names: 400, and every difference is told."""
    request, word, code = CHANGED[what]
    presented = forge_certificate(load_issuer(directory / "ca"))
    (found,), logged = ask(directory, est("/simplereenroll", encode_body(request), presented))
    assert refused(found, 400, code, word)["errors"]
    assert "intent" not in logged.kinds()


MAY_NOT: dict[str, tuple[str, Callable[[Path], x509.Certificate | str], str]] = {
    "server-only": ("", lambda at: forge_certificate(load_issuer(at / "ca"), "server"), "clientAuth"),
    "expired": ("", lambda at: forge_certificate(load_issuer(at / "ca"), age=timedelta(days=91)), "not valid now"),
    "not-yet": ("", lambda at: forge_certificate(load_issuer(at / "ca"), age=timedelta(days=-1)), "not valid now"),
    "stranger": ("", lambda _: foreign_certificate(), "not one of this CA"),
    "garbage": ("", lambda _: "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", "cannot be read"),
    "no-policy": ("", lambda at: issued(one(at, est("/nameless/simpleenroll", GOOD))), "policy"),
    "other-label": ("/client", lambda at: forge_certificate(load_issuer(at / "ca")), "of the profile peer, not client"),
    "the-ca-itself": ("", lambda at: load_issuer(at / "ca").certificate, "not one of this CA"),
}  # fmt: skip


@pytest.mark.parametrize("case", MAY_NOT)
def test_what_may_not_renew(directory: Path, case: str) -> None:
    """403 for whatever is not a certificate of this CA, for clients, valid now, of a profile that there is."""
    label, make, word = MAY_NOT[case]
    (found,), logged = ask(directory, est(f"{label}/simplereenroll", GOOD, make(directory)))
    refused(found, 403, "unauthorized", word)
    assert [(each.event, each.principal) for each in logged] == [("refusal", "")]


def test_what_was_revoked_or_denied_renews_nothing(tmp_path: Path) -> None:
    """`certlet revoke`, a denied key, and a list that got lost, each end renewal at once."""
    assert servers.certlet("init", "ca", cwd=tmp_path).returncode == 0
    (tmp_path / "own.yaml").write_text("{}")
    presented = forge_certificate(load_issuer(tmp_path / "ca"))
    (tmp_path / "my.crt").write_text(pem(presented))
    asked = est("/simplereenroll", CLIENT, presented)
    assert issued(one(tmp_path, asked))
    assert servers.certlet("revoke", "my.crt", cwd=tmp_path).returncode == 0
    refused(one(tmp_path, asked), 403, "unauthorized", "revoked")
    (tmp_path / "ca" / "revoked.yaml").unlink()
    assert one(tmp_path, asked)["statusCode"] == "503"
    (tmp_path / "ca" / "revoked.yaml").write_text("")
    spki = presented.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "ca" / revocation_file.DENY_LIST).write_text(hashlib.sha256(spki).hexdigest())
    refused(one(tmp_path, asked), 403, "unauthorized", "deny list")


def test_a_denied_new_key_is_refused(tmp_path: Path) -> None:
    """Today's key policy applies to a renewal: the new key is on the deny list, 400."""
    assert servers.certlet("init", "ca", cwd=tmp_path).returncode == 0
    (tmp_path / "own.yaml").write_text("profiles: {client: {names: {dns: {permitted: [example.org]}}}}")
    spki = (
        csrs.private_key("p-384").public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    )
    (tmp_path / "ca" / revocation_file.DENY_LIST).write_text(hashlib.sha256(spki).hexdigest())
    ca = load_issuer(tmp_path / "ca")
    refused(
        one(tmp_path, est("/simplereenroll", CLIENT, forge_certificate(ca))), 400, "badPublicKey", "deny list"
    )
    # and today's names: the profile does not permit this one any more
    named = csrs.build("device.example.com", ["dns:device.example.com"])
    asked = est("/simplereenroll", encode_body(named), forge_certificate(ca, "client", named))
    refused(one(tmp_path, asked), 400, "rejectedIdentifier", "permits names in")

"""Attempts to evade the name policy: by spelling, wildcards and renewal."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import awsgi
import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from service import aws_lambda, openapi
from service.overrides import YAMLSource
from service.pki.profile_loader import IssuancePolicy
from service.web import app
from tests import csrs, factories, lambda_events
from tests.est.devices import EST, PKCS10, encode_body, parse_certificates, pem

ROLE = x509.ObjectIdentifier("1.3.6.1.4.1.32473.1")
PERSON: dict[str, Any] = {
    "description": "A TLS client.",
    "validity": "P30D",
    "backdate": "PT5M",
    "extended_key_usage": ["clientAuth"],
    "names": {
        "dns": {"permitted": ["example.com"], "excluded": ["db.example.com", "xn--bcher-kva.example.com"], "wildcards": True, "single_label": True},
        "ip": {"permitted": ["10.0.0.0/8"]},
        "email": {"permitted": ["example.com"]},
    },
    "subject": {"allowed": ["CN", "OU"]},
    "extensions": [ROLE.dotted_string],
    "certificate_policies": ["1.3.6.1.4.1.32473.9.1"],
}  # fmt: skip
OLD_POLICY = IssuancePolicy({"person": PERSON | {"names": {"dns": {}}}}, "person")  # excludes no name
SIGN, BATCH, ENROLL, REENROLL = "/sign", "/sign/batch", f"{EST}/person/simpleenroll", f"{EST}/simplereenroll"


@functools.cache
def application(permitted: tuple[str, ...] = ()) -> Any:
    """The web application with the profile `person`, and a CA whose constraints permit these names."""
    overrides = YAMLSource(json.dumps({"profiles": {"person": PERSON}})).data
    document = openapi.with_overrides(openapi.load(), overrides)
    issuer, policy = factories.create_issuer("p-256", permitted), openapi.parse_policy(document)
    authority = factories.authority(clock=lambda: datetime.now(UTC), issuer=issuer, policy=policy)
    return app.create(document, authority, {"abc123": "ci"})


def send(
    path: str,
    request: x509.CertificateSigningRequest,
    client_certificate: x509.Certificate | None = None,
    profile: str = "person",
    permitted: tuple[str, ...] = (),
) -> x509.Certificate | list[tuple[str, str]]:
    """Invoke an operation, and return the certificate, or field and detail of each error."""
    identity: dict[str, Any] = {"apiKeyId": "abc123", "sourceIp": "192.0.2.1"}
    if client_certificate:
        identity["clientCert"] = {"clientCertPem": pem(client_certificate)}
    item = {"csr": csrs.encode_pem(request).decode(), "profile": profile}
    content = json.dumps({"requests": [item]} if path == BATCH else item)
    is_est = path.startswith(EST)
    event = lambda_events.proxy_event(
        path,
        headers={"Content-Type": PKCS10 if is_est else "application/json", "X-Forwarded-Proto": "https"},
        requestContext={"requestId": "x", "identity": identity},
        body=encode_body(request).decode() if is_est else content,
        isBase64Encoded=False,
    )
    result = awsgi.response(
        application(permitted), aws_lambda._normalise_event(event), None, app.BINARY_CONTENT_TYPES
    )
    raw = lambda_events.decode_body(result)
    if is_est and result["statusCode"] == "200":
        return parse_certificates(raw)[0]
    body = json.loads(raw)
    body = body["results"][0] if path == BATCH else body
    body = body.get("certificate") or body.get("problem") or body
    if "crt_pem" in body:
        return x509.load_pem_x509_certificate(body["crt_pem"].encode())
    assert body["status"] == (400 if is_est else 422), body
    return [(error["field"], error["detail"]) for error in body["errors"]]


NONCANONICAL, EXCLUDES = "programs read differently; write '", "excludes names in "
WHOLE_LABEL = "permits a wildcard only as the whole left-most label"
ATTACKS = {
    "full-width letters": ("\uff44\uff42.example.com", NONCANONICAL + "db.example.com'"),
    "full-width dot": ("db\uff0eexample.com", NONCANONICAL),
    "compatibility letter": ("\u212aube.example.org", NONCANONICAL + "Kube.example.org'"),
    "decomposed letter": ("bu\u0308cher.example.com", NONCANONICAL),
    "leading blank": (" db.example.com", NONCANONICAL),
    "trailing blank": ("db.example.com ", NONCANONICAL),
    "trailing no-break space": ("db.example.com\xa0", NONCANONICAL),
    "two blanks": ("Anna  Maria", NONCANONICAL),
    "soft hyphen": ("d\xadb.example.com", NONCANONICAL),
    "right to left": ("\u202edb.example.com", NONCANONICAL),
    "zero width space": ("d\u200bb.example.com", NONCANONICAL),
    "zero width joiner": ("d\u200db.example.com", NONCANONICAL),
    "byte order mark": ("\ufeffdb.example.com", NONCANONICAL),
    "variation selector": ("db\ufe0f.example.com", NONCANONICAL),
    "grapheme joiner": ("d\u034fb.example.com", NONCANONICAL),
    "replacement character": ("db.example.com\ufffd", NONCANONICAL),
    "private use": ("db.example.com\ue000", NONCANONICAL),
    "invisible characters": ("\u200b\xad", "forms that programs read differently"),
    "full-width address": ("\uff11\uff19\uff12.0.2.1", NONCANONICAL + "192.0.2.1'"),
    "full-width at": ("root\uff20example.org", NONCANONICAL + "root@example.org'"),
    "non-ASCII mailbox": ("\xe4nne@example.org", "email:\xe4nne@example.org: profile 'person' permits"),
    "mailbox with a dot": ("root@example.org.", "permits only mailboxes of"),
    "excluded name": ("db.example.com", EXCLUDES + "db.example.com"),
    "name with a dot": ("db.example.com.", EXCLUDES + "db.example.com"),
    "name with two dots": ("db.example.com..", EXCLUDES + "db.example.com"),
    "ideographic dots": ("db\u3002example\u3002com", EXCLUDES + "db.example.com"),
    "leading dot": (".example.com", EXCLUDES + "db.example.com"),
    "sharp s": ("d\xdf.example.com", "another host for programs that use IDNA 2003, such as Java"),
    "final sigma": ("anna@\u03c3\u03c2.example.com", "another host for programs that use IDNA 2003"),
    "name in Unicode": ("b\xfccher.example.com", EXCLUDES + "xn--bcher-kva.example.com"),
    "symbol": ("\u2603.example.org", "permits only names in"),
    "wildcard": ("*.example.com", EXCLUDES + "db.example.com"),
    "wildcard at the start": ("*b.example.com", WHOLE_LABEL),
    "wildcard at the end": ("db*.example.com", WHOLE_LABEL),
    "wildcard within": ("d*b.example.com", WHOLE_LABEL),
    "wildcard of an A-label": ("xn--*.example.com", WHOLE_LABEL),
    "wildcard below": ("db.*.com", WHOLE_LABEL),
    "two wildcards": ("*.*.example.com", WHOLE_LABEL),
    "wildcard of every name": ("*", "top-level domain"),
    "wildcard of a single label": ("d*", WHOLE_LABEL),
    "wildcard in a mailbox": ("*@example.com", WHOLE_LABEL),
    "wildcard with a blank": ("* db.example.com", WHOLE_LABEL),
}
GRANTED = {
    "name": "app.example.com",
    "name with a dot": "app.example.com.",
    "name in Unicode": "b\xe4cker.example.com",
    "wildcard": "*.app.example.com",
    "address": "10.1.2.3",
    "mailbox": "anna@example.com",
    "non-ASCII mailbox": "\xe4nne@example.com",
    "person": "\xc4nne M\xfcller",
    "sharp s": "Stra\xdfe",
    "sharp s in an A-label": "xn--d-qfa.example.com",
    "leading dot": ".app.example.com",
    "person with a leading dot": ".NET Ops",
    "Japanese": "\u5c71\u7530 \u592a\u90ce",
    "emoji": "\u2603",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_common_name_outside_the_policy_is_refused(attack: str) -> None:
    """Every operation refuses it, and the detail states the reason."""
    common_name, fragment = ATTACKS[attack]
    for path in (SIGN, BATCH, ENROLL):
        errors = send(path, csrs.build(common_name))
        assert isinstance(errors, list), path
        assert {field for field, _ in errors} == {"subject.common_name"}
        assert any(fragment in detail for _, detail in errors), errors


@pytest.mark.parametrize("case", GRANTED)
def test_common_name_within_the_policy_is_granted(case: str) -> None:
    """The subject contains it unchanged, in any language."""
    for path in (SIGN, BATCH, ENROLL):
        certificate = send(path, csrs.build(GRANTED[case]))
        assert isinstance(certificate, x509.Certificate), certificate
        assert certificate.subject == factories.distinguished_name(GRANTED[case])


def subject_with_unit(text: str) -> x509.Name:
    """A subject with an organizational unit and a common name."""
    attributes = ((NameOID.ORGANIZATIONAL_UNIT_NAME, text), (NameOID.COMMON_NAME, "Anna"))
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes])


@pytest.mark.parametrize("text", [" Ops", "O\u200bps", "\uff2fps"])
def test_attribute_in_noncanonical_spelling_is_refused(text: str) -> None:
    """Programs grant rights by organization and organizational unit."""
    certificate = send(SIGN, csrs.build(subject=subject_with_unit("Ops")))
    assert isinstance(certificate, x509.Certificate)
    assert certificate.subject == subject_with_unit("Ops")
    assert send(SIGN, csrs.build(subject=subject_with_unit(text))) == [("subject.OU", f"{text!a} has white space, control characters or Unicode forms that programs read differently; write 'Ops'")]  # fmt: skip


@pytest.mark.parametrize(
    ("common_name", "sans", "violation"),
    [
        ("app.example.com", [], ""),
        ("evil.example.org", [], "dns:evil.example.org"),
        ("evil.example.org.", [], "dns:evil.example.org"),
        ("evil\u3002example\u3002org", [], "dns:evil.example.org"),
        ("*.example.org", [], "dns:*.example.org"),
        ("evil.example.org", ["dns:app.example.com"], "dns:evil.example.org"),
        ("192.0.2.1", ["dns:app.example.com"], "ip:192.0.2.1"),
        ("10.1.2.3", ["dns:app.example.com"], ""),
        ("root@example.org", [], "email:root@example.org"),
        ("\xe4nne@example.org", [], "email:\xe4nne@example.org"),
        ("\xe4nne@example.com", [], ""),
    ],
)
def test_common_name_outside_the_name_constraints_is_refused(
    common_name: str, sans: Sequence[str], violation: str
) -> None:
    """Subject alternative names do not matter: some programs read the common name as well."""
    for path in (SIGN, BATCH):
        result = send(path, csrs.build(common_name, sans), None, "client", ("example.com", "10.0.0.0/8"))
        if violation:
            assert isinstance(result, list)
            assert any(detail.startswith(f"{violation} is outside") for _, detail in result), result
        else:
            assert isinstance(result, x509.Certificate), result


def role_extension(text: str) -> x509.UnrecognizedExtension:
    """An extension with a role as UTF8String, by which programs grant rights."""
    return x509.UnrecognizedExtension(ROLE, csrs.tlv(0x0C, text.encode()))


def old_certificate(common_name: str = "Anna", *extensions: x509.ExtensionType) -> x509.Certificate:
    """A certificate issued before the profile excluded any name."""
    request = csrs.build(common_name, extensions=extensions)
    context = factories.context(policy=OLD_POLICY, now=datetime.now(UTC))
    return factories.create_issuer().sign(factories.evaluate(request, context).builder(7))


RENEWALS: dict[str, tuple[Callable[[], x509.Certificate], x509.CertificateSigningRequest, str]] = {
    "same": (old_certificate, csrs.build("Anna"), ""),
    "another letter case": (old_certificate, csrs.build("ANNA"), ""),
    "now excluded": (lambda: old_certificate("db.example.com"), csrs.build("db.example.com"), EXCLUDES),
    "full-width for excluded": (lambda: old_certificate("db.example.com"), csrs.build("\uff44b.example.com"), EXCLUDES),
    "soft hyphen for excluded": (lambda: old_certificate("db.example.com"), csrs.build("d\xadb.example.com"), EXCLUDES),
    "blank for excluded": (lambda: old_certificate("db.example.com"), csrs.build(" db.example.com"), EXCLUDES),
    "full-width for permitted": (lambda: old_certificate("app.example.com"), csrs.build("\uff41pp.example.com"), ""),
    "too long": (old_certificate, csrs.build("Anna" + "\xad" * 200), "The common name has 204 characters"),
    "another name": (old_certificate, csrs.build("Anne"), "differs from"),
    "same role": (lambda: old_certificate("Anna", role_extension("user")), csrs.build("Anna", extensions=[role_extension("user")]), ""),
    "another role": (lambda: old_certificate("Anna", role_extension("user")), csrs.build("Anna", extensions=[role_extension("admin")]), f"Extension {ROLE.dotted_string} must be the same as in the client certificate"),
    "new role": (old_certificate, csrs.build("Anna", extensions=[role_extension("admin")]), "client certificate, which does not have it"),
    "no role": (lambda: old_certificate("Anna", role_extension("user")), csrs.build("Anna"), "must be the same as in the client certificate"),
}  # fmt: skip


@pytest.mark.parametrize("case", RENEWALS)
def test_renewal_copies_the_old_subject_under_current_policy(case: str) -> None:
    """The current policy applies to the client certificate's names, whatever spelling the request has."""
    create, request, fragment = RENEWALS[case]
    old = create()
    result = send(REENROLL, request, old)
    if fragment:
        assert isinstance(result, list)
        assert any(fragment in detail for _, detail in result), result
        return
    assert isinstance(result, x509.Certificate), result
    assert result.subject.public_bytes() == old.subject.public_bytes()
    roles = [
        [extension for extension in certificate.extensions if extension.oid == ROLE]
        for certificate in (result, old)
    ]
    assert roles[0] == roles[1]

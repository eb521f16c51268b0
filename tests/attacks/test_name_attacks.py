"""Names that get past the rules for names: by spelling, by wildcards, and by renewal."""

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
BEFORE = IssuancePolicy({"person": PERSON | {"names": {"dns": {}}}}, "person")  # when it excluded nothing
SIGN, BATCH, ENROLL, REENROLL = "/sign", "/sign/batch", f"{EST}/person/simpleenroll", f"{EST}/simplereenroll"


@functools.cache
def application(permitted: tuple[str, ...] = ()) -> Any:
    """The service, with the profile `person`, and a CA that is constrained to these names."""
    own = YAMLSource(json.dumps({"profiles": {"person": PERSON}})).data
    document = openapi.with_overrides(openapi.load(), own)
    issuer, policy = factories.create_issuer("p-256", permitted), openapi.parse_policy(document)
    authority = factories.authority(clock=lambda: datetime.now(UTC), issuer=issuer, policy=policy)
    return app.create(document, authority, {"abc123": "ci"})


def ask(
    path: str,
    request: x509.CertificateSigningRequest,
    presented: x509.Certificate | None = None,
    profile: str = "person",
    permitted: tuple[str, ...] = (),
) -> x509.Certificate | list[tuple[str, str]]:
    """What an operation answers to an event: the certificate, or field and detail of each reason."""
    identity: dict[str, Any] = {"apiKeyId": "abc123", "sourceIp": "192.0.2.1"}
    if presented:
        identity["clientCert"] = {"clientCertPem": pem(presented)}
    item = {"csr": csrs.encode_pem(request).decode(), "profile": profile}
    content = json.dumps({"requests": [item]} if path == BATCH else item)
    is_est = path.startswith(EST)
    sent = lambda_events.proxy_event(
        path,
        headers={"Content-Type": PKCS10 if is_est else "application/json", "X-Forwarded-Proto": "https"},
        requestContext={"requestId": "x", "identity": identity},
        body=encode_body(request).decode() if is_est else content,
        isBase64Encoded=False,
    )
    result = awsgi.response(
        application(permitted), aws_lambda._normalise_event(sent), None, app.BINARY_CONTENT_TYPES
    )
    raw = lambda_events.decode_body(result)
    if is_est and result["statusCode"] == "200":
        return parse_certificates(raw)[0]
    answer = json.loads(raw)
    answer = answer["results"][0] if path == BATCH else answer
    answer = answer.get("certificate") or answer.get("problem") or answer
    if "crt_pem" in answer:
        return x509.load_pem_x509_certificate(answer["crt_pem"].encode())
    assert answer["status"] == (400 if is_est else 422), answer
    return [(reason["field"], reason["detail"]) for reason in answer["errors"]]


PREPARED, PERMITS, EXCLUDES = "programs read differently; write '", "permits ", "excludes names in "
WHOLE = "permits a wildcard only as the whole left-most label"
ATTACKS = {
    "full-width letters": ("\uff44\uff42.example.com", PREPARED + "db.example.com'"),
    "full-width dot": ("db\uff0eexample.com", PREPARED),
    "compatibility letter": ("\u212aube.example.org", PREPARED + "Kube.example.org'"),
    "decomposed letter": ("bu\u0308cher.example.com", PREPARED),
    "leading blank": (" db.example.com", PREPARED),
    "trailing blank": ("db.example.com ", PREPARED),
    "trailing no-break space": ("db.example.com\xa0", PREPARED),
    "two blanks": ("Anna  Maria", PREPARED),
    "soft hyphen": ("d\xadb.example.com", PREPARED),
    "right to left": ("\u202edb.example.com", PREPARED),
    "zero width space": ("d\u200bb.example.com", PREPARED),
    "zero width joiner": ("d\u200db.example.com", PREPARED),
    "byte order mark": ("\ufeffdb.example.com", PREPARED),
    "variation selector": ("db\ufe0f.example.com", PREPARED),
    "grapheme joiner": ("d\u034fb.example.com", PREPARED),
    "replacement character": ("db.example.com\ufffd", PREPARED),
    "private use": ("db.example.com\ue000", PREPARED),
    "nothing that is visible": ("\u200b\xad", "forms that programs read differently"),
    "full-width address": ("\uff11\uff19\uff12.0.2.1", PREPARED + "192.0.2.1'"),
    "full-width at": ("root\uff20example.org", PREPARED + "root@example.org'"),
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
    "name beyond Unicode": ("\u2603.example.org", "permits only names in"),
    "wildcard": ("*.example.com", EXCLUDES + "db.example.com"),
    "wildcard at the start": ("*b.example.com", WHOLE),
    "wildcard at the end": ("db*.example.com", WHOLE),
    "wildcard within": ("d*b.example.com", WHOLE),
    "wildcard of an A-label": ("xn--*.example.com", WHOLE),
    "wildcard below": ("db.*.com", WHOLE),
    "two wildcards": ("*.*.example.com", WHOLE),
    "wildcard of all": ("*", "top-level domain"),
    "wildcard of a single label": ("d*", WHOLE),
    "wildcard in a mailbox": ("*@example.com", WHOLE),
    "wildcard with a blank": ("* db.example.com", WHOLE),
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
    """By every operation, with a detail that says what is wrong."""
    common_name, word = ATTACKS[attack]
    for path in (SIGN, BATCH, ENROLL):
        reasons = ask(path, csrs.build(common_name))
        assert isinstance(reasons, list), path
        assert {field for field, _ in reasons} == {"subject.common_name"}
        assert any(word in detail for _, detail in reasons), reasons


@pytest.mark.parametrize("twin", GRANTED)
def test_common_name_within_the_policy_is_granted(twin: str) -> None:
    """As it is, in the language that it is in."""
    for path in (SIGN, BATCH, ENROLL):
        certificate = ask(path, csrs.build(GRANTED[twin]))
        assert isinstance(certificate, x509.Certificate), certificate
        assert certificate.subject == factories.distinguished_name(GRANTED[twin])


def unit(text: str) -> x509.Name:
    """A subject with a unit of the organization."""
    parts = ((NameOID.ORGANIZATIONAL_UNIT_NAME, text), (NameOID.COMMON_NAME, "Anna"))
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in parts])


@pytest.mark.parametrize("text", [" Ops", "O\u200bps", "\uff2fps"])
def test_attribute_in_noncanonical_spelling_is_refused(text: str) -> None:
    """Programs grant rights by the organization and its unit."""
    granted = ask(SIGN, csrs.build(subject=unit("Ops")))
    assert isinstance(granted, x509.Certificate)
    assert granted.subject == unit("Ops")
    assert ask(SIGN, csrs.build(subject=unit(text))) == [("subject.OU", f"{text!a} has white space, control characters or Unicode forms that programs read differently; write 'Ops'")]  # fmt: skip


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
    """Whatever other names there are: programs read a common name beside them."""
    for path in (SIGN, BATCH):
        answer = ask(path, csrs.build(common_name, sans), None, "client", ("example.com", "10.0.0.0/8"))
        if violation:
            assert isinstance(answer, list)
            assert any(detail.startswith(f"{violation} is outside") for _, detail in answer), answer
        else:
            assert isinstance(answer, x509.Certificate), answer


def role(text: str) -> x509.UnrecognizedExtension:
    """An extension that a program grants rights by: UTF8String."""
    return x509.UnrecognizedExtension(ROLE, csrs.tlv(0x0C, text.encode()))


def presented(common_name: str = "Anna", *extensions: x509.ExtensionType) -> x509.Certificate:
    """A certificate of the time before the profile excluded a name."""
    request = csrs.build(common_name, extensions=extensions)
    context = factories.context(policy=BEFORE, now=datetime.now(UTC))
    return factories.create_issuer().sign(factories.evaluate(request, context).builder(7))


RENEWALS: dict[str, tuple[Callable[[], x509.Certificate], x509.CertificateSigningRequest, str]] = {
    "same": (presented, csrs.build("Anna"), ""),
    "another case": (presented, csrs.build("ANNA"), ""),
    "excluded by now": (lambda: presented("db.example.com"), csrs.build("db.example.com"), EXCLUDES),
    "full-width for excluded": (lambda: presented("db.example.com"), csrs.build("\uff44b.example.com"), EXCLUDES),
    "soft hyphen for excluded": (lambda: presented("db.example.com"), csrs.build("d\xadb.example.com"), EXCLUDES),
    "blank for excluded": (lambda: presented("db.example.com"), csrs.build(" db.example.com"), EXCLUDES),
    "full-width for permitted": (lambda: presented("app.example.com"), csrs.build("\uff41pp.example.com"), ""),
    "longer than any": (presented, csrs.build("Anna" + "\xad" * 200), "The common name has 204 characters"),
    "another": (presented, csrs.build("Anne"), "differs from"),
    "same role": (lambda: presented("Anna", role("user")), csrs.build("Anna", extensions=[role("user")]), ""),
    "another role": (lambda: presented("Anna", role("user")), csrs.build("Anna", extensions=[role("admin")]), f"Extension {ROLE.dotted_string} must be the same as in the client certificate"),
    "new role": (presented, csrs.build("Anna", extensions=[role("admin")]), "client certificate, which does not have it"),
    "no role": (lambda: presented("Anna", role("user")), csrs.build("Anna"), "must be the same as in the client certificate"),
}  # fmt: skip


@pytest.mark.parametrize("case", RENEWALS)
def test_renewal_issues_the_evaluated_names(case: str) -> None:
    """What is presented, octet for octet, is held to today's rules, however the request spells it."""
    make, request, word = RENEWALS[case]
    old = make()
    answer = ask(REENROLL, request, old)
    if word:
        assert isinstance(answer, list)
        assert any(word in detail for _, detail in answer), answer
        return
    assert isinstance(answer, x509.Certificate), answer
    assert answer.subject.public_bytes() == old.subject.public_bytes()
    kept = [[each for each in certificate.extensions if each.oid == ROLE] for certificate in (answer, old)]
    assert kept[0] == kept[1]

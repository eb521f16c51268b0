from __future__ import annotations

from typing import Any

import pytest

from service.pki import names
from service.pki.policy_parser import parse_name_policy
from tests import csrs


def find_violations(rules: dict[str, Any], *general_names: str) -> list[tuple[int | None, str]]:
    """Find the violations of these rules by names such as `dns:a.example`."""
    identifiers = [names.parse_general_name(csrs.general_name(name), "") for name in general_names]
    return parse_name_policy(rules).violations(identifiers, "profile 'x'")


EXAMPLE = {"permitted": ["example.com"], "wildcards": True}
EXCLUDED = {"excluded": ["secret.example.com"], "wildcards": True}
MAILS = {"permitted": ["example.com", ".ops.example"], "excluded": ["x.ops.example"]}
NETWORKS = {"permitted": ["10.0.0.0/8", "2001:db8::/32"], "excluded": ["10.1.0.0/16"]}
V6 = {"excluded": ["::ffff:0:0/96"]}


@pytest.mark.parametrize(
    ("kind", "rules", "name", "reason"),
    [
        ("dns", {}, "a.example.com", ""),
        ("dns", {}, "*.example.com", "permits no wildcards"),
        ("dns", {}, "localhost", "permits no names of a single label"),
        ("dns", {"single_label": True}, "localhost", ""),
        ("dns", {"wildcards": True}, "*.example.com", ""),
        ("dns", {"wildcards": True, "single_label": True}, "*.com", "of a whole top-level domain"),
        ("dns", EXAMPLE, "example.com", ""),
        ("dns", EXAMPLE, "A.B.Example.COM", ""),
        ("dns", EXAMPLE, "*.example.com", ""),
        ("dns", EXAMPLE, "badexample.com", "permits only names in example.com"),
        ("dns", EXAMPLE, "example.com.evil.org", "permits only names in example.com"),
        ("dns", EXAMPLE, "example.co", "permits only names in example.com"),
        ("dns", {"permitted": [".example.com"], "wildcards": True}, "example.com", "permits only names in .example.com"),
        ("dns", {"permitted": [".example.com"], "wildcards": True}, "a.example.com", ""),
        ("dns", {"permitted": [".example.com"], "wildcards": True}, "*.example.com", ""),
        ("dns", {"permitted": ["a.example.com"], "wildcards": True}, "*.example.com", "permits only names in a.example.com"),
        ("dns", EXCLUDED, "a.secret.example.com", "excludes names in secret.example.com"),
        ("dns", EXCLUDED, "secret.example.com", "excludes"),
        ("dns", EXCLUDED, "*.secret.example.com", "excludes"),
        ("dns", EXCLUDED, "*.example.com", "excludes names in secret.example.com"),
        ("dns", EXCLUDED, "*.other.example.com", ""),
        ("dns", EXCLUDED, "notsecret.example.com", ""),
        ("ip", {}, "192.0.2.1", ""),
        ("ip", NETWORKS, "10.2.0.1", ""),
        ("ip", NETWORKS, "2001:db8::7", ""),
        ("ip", NETWORKS, "11.0.0.1", "permits only addresses in 10.0.0.0/8, 2001:db8::/32"),
        ("ip", NETWORKS, "10.1.2.3", "excludes addresses in 10.1.0.0/16"),
        ("ip", NETWORKS, "::ffff:10.1.2.3", "excludes addresses in 10.1.0.0/16"),
        ("ip", NETWORKS, "::ffff:10.2.2.3", ""),
        ("ip", NETWORKS, "::ffff:11.2.2.3", "permits only addresses"),
        ("ip", V6, "::ffff:10.2.2.3", "excludes addresses in ::ffff:0:0/96"),
        ("ip", V6, "10.2.2.3", ""),
        ("email", {}, "a@b.example", ""),
        ("email", MAILS, "a@Example.com", ""),
        ("email", MAILS, "a@sub.example.com", "permits only mailboxes of example.com, .ops.example"),
        ("email", MAILS, "a@y.ops.example", ""),
        ("email", MAILS, "a@ops.example", "permits only mailboxes"),
        ("email", MAILS, "a@x.ops.example", "excludes mailboxes of x.ops.example"),
        ("uri", {}, "https://a.example/x", ""),
        ("uri", {}, "urn:uuid:b3f1c1de", ""),
        ("uri", {"schemes": ["spiffe"]}, "https://a.example/x", "permits only URIs with scheme spiffe"),
        ("uri", {"schemes": ["spiffe"]}, "spiffe://a.example/x", ""),
        ("uri", {"permitted": ["https://a.example/x", "urn:x:y"]}, "urn:x:y", ""),
        ("uri", {"permitted": ["https://a.example/x", "urn:x:y"]}, "urn:x:z", "permits only https://a.example/x or urn:x:y"),
        ("uri", {"permitted": ["spiffe://a.example/x"]}, "spiffe://a.example/x", ""),
        ("uri", {"permitted": ["spiffe://a.example/x"]}, "spiffe://a.example/x/y", "permits only spiffe://a.example/x"),
        ("uri", {"permitted": ["spiffe://a.example/x"]}, "spiffe://a.example/X", "permits only spiffe://a.example/x"),
        ("uri", {"permitted": ["https://a.example/x"], "schemes": ["spiffe"]}, "https://a.example/x", "permits only URIs with scheme"),
        ("uri", {"hosts": ["a.example"]}, "https://a.example:8443/x", ""),
        ("uri", {"hosts": ["a.example"]}, "https://b.a.example/x", "permits only URIs with host a.example"),
        ("uri", {"hosts": [".a.example"]}, "https://b.a.example/x", ""),
        ("uri", {"hosts": [".a.example"]}, "https://a.example/x", "permits only URIs with host"),
        ("uri", {"hosts": ["a.example"]}, "urn:uuid:b3f1c1de", "permits only URIs with host a.example"),
        ("dns", {}, "_sip.example.com", "_sip.example.com: profile 'x' permits no underscores"),  # RFC 1123 2.1
        ("dns", {"underscores": True}, "_sip.example.com", ""),
        ("dns", {"permitted": ["_tcp.example.com"], "underscores": True}, "_sip._tcp.example.com", ""),
        ("dns", {"permitted": ["_tcp.example.com"], "underscores": True}, "sip.example.com", "permits only names in _tcp"),
        ("dns", {"excluded": ["_tcp.example.com"], "underscores": True}, "_sip._tcp.example.com", "excludes"),
        ("uri", {"hosts": ["my_td.example"]}, "spiffe://my_td.example/x", ""),
        ("uri", {"hosts": ["my_td.example"]}, "spiffe://td.example/x", "permits only URIs with host my_td.example"),
        ("uri", {}, "spiffe://td.example", ""),
        ("uri", {}, "spiffe://td.example/ns/prod/sa/api", ""),
        ("uri", {}, "spiffe://td.example/", "SPIFFE"),
        ("uri", {}, "spiffe://td.example//x", "SPIFFE"),
        ("uri", {}, "spiffe://td.example/x/", "SPIFFE"),
        ("uri", {}, "spiffe://td.example/./x", "SPIFFE"),
        ("uri", {}, "spiffe://td.example/x/..", "SPIFFE"),
        ("uri", {}, "spiffe://td.example/...", ""),
        ("uri", {}, "spiffe://td.example:8443/x", "SPIFFE"),
        ("uri", {}, "spiffe://TD.example/x", "SPIFFE"),
        ("uri", {}, "spiffe://td.example/x?y", "SPIFFE"),
        ("uri", {}, "spiffe://td.example/x#y", "SPIFFE"),
        ("uri", {}, "spiffe://td.example/%61", "SPIFFE"),
    ],
)  # fmt: skip
def test_names_outside_the_policy_are_refused(
    kind: str, rules: dict[str, Any], name: str, reason: str
) -> None:
    """A violation has the position of the name, and a message with the name and the reason."""
    violations = find_violations({kind: rules}, f"{kind}:{name}")
    assert len(violations) == bool(reason)
    for position, message in violations:
        assert position == 0
        assert reason in message
        assert message.startswith(f"{kind}:")


def test_kind_without_a_policy_is_not_permitted() -> None:
    """The message lists the permitted kinds, if there are any."""
    violations = find_violations({"dns": {}, "ip": {}}, "dns:a.b", "uri:urn:x:y")
    assert violations == [(1, "uri:urn:x:y: profile 'x' permits only names of kind dns, ip; omit the name")]
    assert find_violations({}, "dns:a.b") == [(0, "dns:a.b: profile 'x' permits no names; omit the name")]


def test_violations_of_all_names_are_collected() -> None:
    """Several names may each violate several rules; all violations are returned."""
    rules = {"dns": {"permitted": ["example.com"]}, "ip": {}}
    violations = find_violations(
        rules, "dns:ok.example.com", "dns:*.example.org", "ip:10.0.0.1", "dns:localhost"
    )
    assert [position for position, _ in violations] == [1, 1, 3, 3]


def test_message_of_a_long_policy_and_name_is_short() -> None:
    """A message lists at most four subtrees, and 80 characters of the name."""
    rules = {"dns": {"permitted": [f"a{n}.example.com" for n in range(50)]}, "uri": {"schemes": ["spiffe"]}}
    name, uri = f"dns:{'b' * 60}.{'c' * 60}.example.org", f"uri:https://example.com/{'d' * 2000}"
    (_, dns_message), (_, uri_message) = find_violations(rules, name, uri)
    subtrees = "a0.example.com, a1.example.com, a2.example.com, a3.example.com (and 46 more)"
    assert dns_message == f"{name[:79]}…: profile 'x' permits only names in {subtrees}"
    assert uri_message == f"{uri[:79]}…: profile 'x' permits only URIs with scheme spiffe"


def test_spiffe_id_must_be_the_only_uri() -> None:
    """The X.509-SVID standard, 2: exactly one URI; DNS names are allowed."""
    rules: dict[str, object] = {"uri": {}, "dns": {}}
    assert not find_violations(rules, "uri:spiffe://a.example/x", "dns:a.example")
    assert not find_violations(rules, "uri:https://a.example/x", "uri:https://a.example/y")
    for other in ("uri:https://a.example/x", "uri:spiffe://a.example/y"):
        violations = find_violations(rules, "uri:spiffe://a.example/x", other)
        detail = "A certificate with a SPIFFE ID may not have another URI: remove the others"
        assert violations == [(None, detail)]


def test_to_dict_is_parsed_as_the_same_policy() -> None:
    """Parsing the output of `/profiles` gives the same policy."""
    rules = {"dns": {**EXCLUDED, "underscores": True}, "ip": NETWORKS, "email": MAILS, "uri": {}}
    assert parse_name_policy(rules).to_dict() == rules

"""What `certlet show` says about the extensions of a certificate (tests/cli/test_show.py has the rest)."""

from __future__ import annotations

import json
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from service.pki import encoding
from tests import factories
from tests.cli import certlet

PERMITTED = [x509.DNSName("example.com\x1b[31m\nx"), x509.IPAddress(IPv4Network("10.0.0.0/8"))]
EXCLUDED = [x509.DNSName(""), x509.DirectoryName(factories.distinguished_name("x"))]


@pytest.mark.parametrize(
    ("permitted", "excluded", "facts", "lines"),
    [
        (
            PERMITTED,
            EXCLUDED,
            {
                "permitted": ["dns:example.com\x1b[31m\nx", "ip:10.0.0.0/8"],
                "excluded": ["dns:", "directoryName:CN=x"],
            },
            [
                r"  Permits   dns:example.com\x1b[31m\nx, ip:10.0.0.0/8",
                "  Excludes  dns:(all), directoryName:CN=x",
            ],
        ),
        (None, [x509.DNSName("a")], {"permitted": [], "excluded": ["dns:a"]}, ["  Excludes  dns:a"]),
        (None, None, None, []),
    ],
    ids=["both", "excluded", "none"],
)
def test_name_constraints_are_shown(
    permitted: list[x509.GeneralName] | None,
    excluded: list[x509.GeneralName] | None,
    facts: dict[str, list[str]] | None,
    lines: list[str],
) -> None:
    """With the kinds of names, in text and in JSON; a CA without them has no such line."""
    constraints = x509.NameConstraints(permitted, excluded) if permitted or excluded else None
    Path("ca.crt").write_text(encoding.encode_pem([factories.root(constraints=constraints)]))
    text = certlet("show", "ca.crt").stdout.decode().splitlines()
    assert [line for line in text if line.startswith(("  Permits ", "  Excludes "))] == lines
    assert json.loads(certlet("show", "ca.crt", "--json").stdout)["name_constraints"] == facts


@pytest.mark.parametrize(
    ("usage", "names"),
    [
        (
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, x509.ObjectIdentifier("1.2.3")]),
            ["serverAuth", "1.2.3"],
        ),
        (None, None),
    ],
)
def test_usage_is_in_json(usage: x509.ExtendedKeyUsage | None, names: list[str] | None) -> None:
    """As in the text; null if the certificate does not restrict it."""
    Path("ca.crt").write_text(encoding.encode_pem([factories.root(extended=usage)]))
    assert json.loads(certlet("show", "ca.crt", "--json").stdout)["extended_key_usage"] == names
    assert (b"  Usage     TLS servers, 1.2.3\n" in certlet("show", "ca.crt").stdout) is bool(names)

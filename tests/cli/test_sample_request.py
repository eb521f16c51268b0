"""The commands that `certlet serve` suggests: they get a certificate, whatever the policy permits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from service import openapi
from service.cli import options, sample_request
from service.gateway import api_keys
from service.pki import keys, names
from service.pki.profile_loader import IssuancePolicy
from tests import factories, servers
from tests.cli import certlet
from tests.servers import Server

CORP = "corp.example"
PROFILES: dict[str, dict[str, Any]] = {  # of the caller with the same name
    "dns": {"names": {"dns": {"permitted": [CORP]}}, "subject": {"allowed": []}},
    "below": {"names": {"dns": {"permitted": [f".{CORP}"]}}, "public_keys": ["P-521", "ML-DSA-65"]},
    "excluded": {"names": {"dns": {"excluded": ["example.com"]}}, "public_keys": ["P-384"]},
    "both": {"names": {"dns": {"permitted": [CORP]}, "ip": {}}},
    "ip": {
        "names": {"ip": {"permitted": ["10.1.2.3/32"]}},
        "subject": {"allowed": [], "fixed": {"O": "Corp"}},
    },
    "email": {"names": {"email": {"permitted": [f".{CORP}"]}}, "public_keys": ["RSA-3072"]},
    "spiffe": {"names": {"uri": {"schemes": ["spiffe"], "hosts": [CORP]}}},
    "uri": {"names": {"uri": {"permitted": ["urn:a:$HOME,b", "urn:corp:1"]}}},
    "common": {"names": {}, "public_keys": ["Ed25519"]},
    "quantum": {"names": {"dns": {}}, "public_keys": ["ML-DSA-44"]},
    "disjoint": {"names": {"dns": {"permitted": [CORP]}}},
    "challenge": {"names": {"dns": {}}},
    "none": {"names": {}, "subject": {"allowed": []}},
}
PRINCIPALS = {
    "both": {"dns": {"permitted": [f"a.{CORP}"]}},
    "disjoint": {"dns": {"permitted": ["other.example"]}},
    "challenge": {"dns": {}, "challenge": "http-01"},
}
SUGGESTED = {
    "dns": (f"dns:my.{CORP}", "P-256"),
    "below": (f"dns:my.{CORP}", "P-521"),
    "excluded": ("dns:my.example.org", "P-384"),
    "both": (f"dns:my.a.{CORP}", "P-256"),
    "ip": ("ip:10.1.2.3", "P-256"),
    "email": (f"email:me@my.{CORP}", "RSA-3072"),
    "spiffe": (f"uri:spiffe://{CORP}/my", "P-256"),
    "uri": ("uri:urn:corp:1", "P-256"),
    "common": ("", "Ed25519"),
}


def write_profiles(path: Path) -> None:
    """Write profiles of which each caller may use one; that of `dns` is the default."""
    profiles = {
        name: {
            "description": name,
            "validity": "P1D",
            "backdate": "PT1M",
            "extended_key_usage": ["serverAuth" if "dns" in members["names"] else "clientAuth"],
            "principals": [name],
        }
        | members
        for name, members in PROFILES.items()
    }
    removed = dict.fromkeys(("server", "client", "peer"))
    content = {"profiles": profiles | removed, "default": "dns", "principals": PRINCIPALS}
    path.write_text(json.dumps(content))


def api_key(caller: str) -> str:
    return caller.ljust(30, "x")


def load_policy(path: Path | None) -> IssuancePolicy:
    return openapi.parse_policy(options.load_document(path))


def san_names(certificate: x509.Certificate) -> list[str]:
    sans = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [names.describe(san) for san in sans]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """A server with these profiles, and its directory."""
    directory = tmp_path_factory.mktemp("site")
    write_profiles(directory / "profiles.yaml")
    servers.create_ca(directory / "ca")
    key_file = api_keys.KeyFile(directory / "ca" / options.KEY_FILE)
    for caller in PROFILES:
        key_file.add(caller, api_key(caller), datetime.now(UTC))
    arguments = ("--profiles", "profiles.yaml", "--ledger", "ledger.db")
    with servers.certlet_server(directory, *arguments, env={}) as server:
        yield server, directory


def suggest(site: tuple[Server, Path], caller: str) -> list[str]:
    """Return the lines that a start prints if only this caller has an API key."""
    server, directory = site
    api_keys.KeyFile(Path(options.KEY_FILE)).add(caller, api_key(caller), datetime.now(UTC))
    for name in ("root-ca.crt", "signing-ca.crt"):
        Path(name).write_bytes((directory / "ca" / name).read_bytes())
    return list(
        sample_request.suggest(Path(), load_policy(directory / "profiles.yaml"), "", "curl -sS ", server.url)
    )


@pytest.mark.parametrize(
    ("caller", "name", "key_type"), [(caller, *sample) for caller, sample in SUGGESTED.items()]
)
def test_suggested_commands_get_a_certificate(
    site: tuple[Server, Path], tmp_path: Path, caller: str, name: str, key_type: str
) -> None:
    """For the caller, whose name is in a comment, under its only profile."""
    lines = suggest(site, caller)
    assert lines[0] == f"# with an API key of {caller}"
    env = servers.environ(CERTLET_API_KEY=api_key(caller))
    run = servers.run("sh", "-ec", "\n".join(lines), cwd=tmp_path, env=env)
    certificate, _ = x509.load_pem_x509_certificates(run.stdout.encode())
    assert keys.describe_key(certificate.public_key()) == key_type
    assert not name or san_names(certificate) == [name]


@pytest.mark.parametrize("caller", sorted(PROFILES.keys() - SUGGESTED.keys()))
def test_nothing_is_suggested_that_would_be_refused(site: tuple[Server, Path], caller: str) -> None:
    """Or that OpenSSL may not support: a command lists the profiles."""
    server, _ = site
    assert suggest(site, caller) == [f"curl -sS {server.url}/profiles"]
    assert server.request("GET", "/profiles").status == 200


def test_suggestion_is_for_the_first_caller_that_has_one(tmp_path: Path) -> None:
    """With a new key, or one in the environment, the caller is `default`."""
    servers.create_ca(tmp_path / "ca")
    write_profiles(tmp_path / "profiles.yaml")
    policy = load_policy(tmp_path / "profiles.yaml")
    sample = sample_request.find_sample(tmp_path / "ca", policy, ["none", "ip", "dns"], datetime.now(UTC))
    assert sample
    assert (sample.caller, sample.profile) == ("ip", "ip")
    arguments = "new", "curl ", "http://a"
    assert list(sample_request.suggest(tmp_path / "ca", policy, *arguments)) == ["curl http://a/profiles"]
    lines = list(sample_request.suggest(tmp_path / "ca", load_policy(None), *arguments))
    assert lines[-1] == 'curl -H "x-api-key: new" --data-binary @my.csr http://a/sign.pem'
    assert lines[0].startswith("openssl req ")


def test_printed_commands_depend_on_the_profiles(tmp_path: Path) -> None:
    """And get a certificate."""
    policy = {"principals": {"default": {"ip": {"permitted": ["10.0.0.0/8"]}}}}
    (tmp_path / "own.yaml").write_text(json.dumps(policy))
    with servers.certlet_server(tmp_path, "--profiles", "own.yaml", "--create", env={}) as server:
        run = servers.run("sh", "-ec", "\n".join(line[10:] for line in server.output[-3:]), cwd=tmp_path)
    certificate, _ = x509.load_pem_x509_certificates(run.stdout.encode())
    assert san_names(certificate) == ["ip:10.0.0.1"]


@pytest.mark.parametrize(
    ("permitted", "name"),
    [
        ((), "dns:my.example.com"),
        (("--permit-dns", ".corp.test", "--permit-ip", "10.0.0.0/8"), "dns:my.corp.test"),
        (("--permit-ip", "10.0.0.0/8"), "ip:10.0.0.1"),
        (("--permit-ip", "fd00::1/128"), "ip:fd00::1"),
    ],
)
def test_suggested_name_is_within_the_name_constraints(permitted: tuple[str, ...], name: str) -> None:
    """Of the CA."""
    assert certlet("init", "ca", *permitted).returncode == 0
    sample = sample_request.find_sample(Path("ca"), load_policy(None), ["default"], datetime.now(UTC))
    assert sample
    command = ["openssl", "req", "-new", "-newkey", "ed25519", "-nodes", "-keyout", "my.key"]
    csr = servers.run(*command, *sample.name_options.split()).stdout.encode()
    assert san_names(factories.issue(Path("ca"), csr)) == [name]

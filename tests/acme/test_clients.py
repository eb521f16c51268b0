"""ACME clients of other projects get certificates from `certlet serve --tls --ledger`."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.acme import clients
from tests.acme.clients import Certbot, Client, Uacme
from tests.servers import Server

NAMES = ("www.ci.example.com", "api.ci.example.com")
WILDCARD = "*.apps.ci.example.com"
ADDRESS = "127.0.0.5"
FORBIDDEN = "www.example.org"
REFUSAL = f"dns:{FORBIDDEN}: the policy for caller 'ci' permits only names in ci.example.com"
CLIENTS = [
    clients.Certbot,
    clients.Lego,
    clients.Dehydrated,
    clients.Uacme,
    clients.Acmetool,
    clients.AcmeTiny,
    clients.NodeAcmeClient,
    clients.RubyAcmeClient,
    clients.GoAcme,
]


def enroll(client: Client, *names: str, check: bool = True) -> str:
    """Request a certificate; without an external account, the CA lists the thumbprint that its refusal shows."""
    if client.has_external_account:
        return client.issue(*names, check=check)
    refusal = client.issue(*names, check=False)
    thumbprint = re.search(r"thumbprint ([\w-]{43})\b", refusal)
    assert thumbprint, refusal
    client.add_principal("--thumbprint", thumbprint[1])
    return client.issue(*names, check=check)


def verify(client: Client) -> str:
    """Verify the chain and the names of a certificate as a stranger does; return its serial number."""
    command = ("openssl", "verify", "-CAfile", "root-ca.crt", "-untrusted", client.chain)
    for name in client.names():
        options = ("-purpose", "sslserver", "-x509_strict", "-verify_hostname", name.replace("*", "any"))
        client.run(*command, *options, client.chain)
    return client.run("openssl", "x509", "-noout", "-serial", "-in", client.chain)


def ocsp_status(client: Client, certificate: Path) -> str:
    """Ask the server about a certificate."""
    status_url = re.search(r"^Status +(\S+)", "\n".join(client.server.output), re.MULTILINE)
    assert status_url
    signing_ca = client.server.log.parent / "ca/signing-ca.crt"
    options = ("-CAfile", "root-ca.crt", "-issuer", signing_ca, "-cert", certificate)
    output = client.run("openssl", "ocsp", "-url", f"{status_url[1]}/ocsp", *options)
    assert "Response verify OK" in output
    status = re.search(r"^\S+: (good|revoked|unknown)$", output, re.MULTILINE)
    assert status, output
    return status[1]


@pytest.mark.parametrize("kind", CLIENTS)
def test_client_issues_and_renews(acme_server: Server, tmp_path: Path, kind: type[Client]) -> None:
    client = kind(acme_server, tmp_path)
    enroll(client, *NAMES, WILDCARD)
    serial_number = verify(client)
    client.renew()
    assert verify(client) != serial_number
    assert set(client.names()) == {*NAMES, WILDCARD}


@pytest.mark.parametrize("kind", [kind for kind in CLIENTS if kind.can_revoke])
def test_client_revokes(acme_server: Server, tmp_path: Path, kind: type[Client]) -> None:
    """Afterwards, OCSP says so."""
    client = kind(acme_server, tmp_path)
    enroll(client, *NAMES)
    certificate = tmp_path / "revoked.pem"
    shutil.copy(client.chain, certificate)  # uacme renames its file
    assert ocsp_status(client, certificate) == "good"
    client.revoke()
    assert ocsp_status(client, certificate) == "revoked"


@pytest.mark.parametrize("kind", CLIENTS)
def test_client_shows_why_a_name_is_refused(acme_server: Server, tmp_path: Path, kind: type[Client]) -> None:
    client = kind(acme_server, tmp_path)
    output = enroll(client, NAMES[0], FORBIDDEN, check=False)
    assert REFUSAL in " ".join(output.split()), output


@pytest.mark.parametrize("kind", [Certbot, clients.Lego, clients.NodeAcmeClient])
def test_client_gets_a_certificate_with_many_names(
    acme_server: Server, tmp_path: Path, kind: type[Client]
) -> None:
    """These clients send a hundred requests in a second or two, and stop at the first 429."""
    client = kind(acme_server, tmp_path)
    names = [f"host-{number}.ci.example.com" for number in range(50)]
    client.issue(*names)
    assert set(client.names()) == set(names)


@pytest.mark.parametrize("kind", [Certbot, Uacme])
def test_client_gets_a_certificate_for_an_address(
    acme_server: Server, tmp_path: Path, kind: type[Client]
) -> None:
    """RFC 8738; the other clients send an address as a DNS name, which is refused."""
    client = kind(acme_server, tmp_path)
    client.issue(ADDRESS)
    command = ("openssl", "verify", "-CAfile", "root-ca.crt", "-untrusted", client.chain)
    client.run(*command, "-verify_ip", ADDRESS, client.chain)


def test_certbot_shows_and_ends_its_account(acme_server: Server, tmp_path: Path) -> None:
    """After `unregister`, certbot registers again."""
    certbot = Certbot(acme_server, tmp_path)
    certbot.issue(NAMES[0])
    account_url = re.compile(rf"Account URL: ({acme_server.url}/acme/account/\S+)")
    account = account_url.search(certbot.certbot("show_account"))
    assert account
    assert "Account deactivated" in certbot.certbot("unregister")
    assert not account_url.search(certbot.certbot("show_account", check=False))
    certbot.issue(NAMES[1])
    second_account = account_url.search(certbot.certbot("show_account"))
    assert second_account
    assert account[1] != second_account[1]


@pytest.mark.parametrize("action", ["keep", "revoke"])
def test_certbot_renews_a_revoked_certificate(acme_server: Server, tmp_path: Path, action: str) -> None:
    """It asks when to renew (RFC 9773), which is now for a revoked certificate."""
    certbot = Certbot(acme_server, tmp_path)
    certbot.issue(*NAMES)
    serial_number = verify(certbot)
    if action == "revoke":
        certbot.revoke()
    output = certbot.certbot("renew", "--no-random-sleep-on-renew")
    assert ("not yet due" in output) is (action == "keep")
    assert (verify(certbot) == serial_number) is (action == "keep")


def test_certbot_selects_a_profile(acme_server: Server, tmp_path: Path) -> None:
    certbot = Certbot(acme_server, tmp_path)
    certbot.issue(NAMES[0])
    for profile, usage in (("client", "Client"), ("server", "Server")):
        request = ("certonly", "--standalone", "--force-renewal", "--domains", NAMES[0])
        certbot.certbot(*request, "--required-profile", profile)
        usages = certbot.run("openssl", "x509", "-noout", "-ext", "extendedKeyUsage", "-in", certbot.chain)
        assert f"TLS Web {usage} Authentication" in usages


def test_certbot_shows_that_its_external_account_is_wrong(acme_server: Server, tmp_path: Path) -> None:
    certbot = Certbot(acme_server, tmp_path)
    _, hmac_key = certbot.external_account()
    certbot.create_command()
    script = certbot.printed("certbot", *NAMES).replace(hmac_key, hmac_key[::-1])
    output = certbot.run("sh", "-ec", script, check=False)
    assert "the HMAC key of the external account is wrong" in " ".join(output.split())

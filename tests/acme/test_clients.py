"""ACME clients of other projects get certificates from `certlet serve --tls --ledger`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.acme import clients
from tests.acme.clients import Certbot, Client
from tests.servers import Server

NAMES = ("www.ci.example.com", "api.ci.example.com")
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
    for name in NAMES:
        options = ("-purpose", "sslserver", "-x509_strict", "-verify_hostname", name)
        command = ("openssl", "verify", "-CAfile", "root-ca.crt", "-untrusted", client.chain)
        client.run(*command, *options, client.chain)
    return client.run("openssl", "x509", "-noout", "-serial", "-in", client.chain)


@pytest.mark.parametrize("kind", CLIENTS)
def test_client_issues_and_renews(acme_server: Server, tmp_path: Path, kind: type[Client]) -> None:
    client = kind(acme_server, tmp_path)
    enroll(client, *NAMES)
    serial_number = verify(client)
    client.renew()
    assert verify(client) != serial_number


@pytest.mark.parametrize("kind", CLIENTS)
def test_client_shows_why_a_name_is_refused(acme_server: Server, tmp_path: Path, kind: type[Client]) -> None:
    client = kind(acme_server, tmp_path)
    output = enroll(client, NAMES[0], FORBIDDEN, check=False)
    assert REFUSAL in " ".join(output.split()), output


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

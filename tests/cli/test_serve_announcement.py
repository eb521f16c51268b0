"""What `certlet serve` prints when it is ready: URLs, warnings, and commands that work."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography import x509

from service import openapi
from service.cli import serve, serve_announcement, serve_checks
from service.cli.first_start import Created
from tests import csrs, servers
from tests.cli import certlet


def announce(directory: Path, *arguments: str, api_key: str = "") -> None:
    """Print what a start with these arguments prints, on port 8080."""
    policy = openapi.parse_policy(openapi.load(None))
    with serve.serve.make_context("serve", list(arguments)) as context:
        created = Created(ca=False, api_key=api_key)
        serve_announcement.announce(
            SimpleNamespace(**context.params), directory, policy, (8080, 0, 0), created
        )


def test_directory_of_acme_is_printed_if_there_is_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the public URL if that is set; not without a ledger, and not before a client is allowed."""
    ca, ledger, public_url = tmp_path / "ca", ("--ledger", "ledger.db"), "https://ca.example.com/x"
    servers.create_ca(ca)
    announce(ca, *ledger)
    certlet("acme", "add", "web", "--url", "https://a.example").check_returncode()
    announce(ca)
    assert "ACME" not in capsys.readouterr().out
    announce(ca, *ledger)
    assert "ACME      http://127.0.0.1:8080/acme/directory\n" in capsys.readouterr().out
    with servers.certlet_server(tmp_path, *ledger, "--url", public_url) as server:
        assert f"ACME      {public_url}/acme/directory" in server.output
        response = server.request("GET", "/acme/directory").json()
    assert response["newNonce"] == f"{public_url}/acme/new-nonce"


def test_json_is_one_object_when_the_server_is_ready(tmp_path: Path) -> None:
    """It has the URLs, the key that was created, and what the other lines say."""
    arguments = ("--json", "--quiet", "--no-usage-plan", "--metrics", "0")
    with servers.certlet_server(tmp_path, *arguments, env={"FORCE_COLOR": "1"}) as server:
        (line,) = server.output
        facts = json.loads(line)
        assert server.sign({"csr": csrs.encode_pem(csrs.build()).decode()}, facts["api_key"]).status == 200
        assert facts.pop("metrics_url").startswith("http://127.0.0.1:")
        assert facts.pop("warnings")[0] == "the usage plan is disabled (--no-usage-plan)"
        assert facts.pop("api_key")
        assert facts == {
            "url": server.url,
            "status_url": None,
            "acme_directory": None,
            "ca": f"{tmp_path}/ca",
            "root_certificate": f"{tmp_path}/ca/root-ca.crt",
            "created_ca": False,
            "notes": [],
        }
        assert "\x1b" not in server.read_log()  # colors


def test_quiet_start_prints_only_a_new_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Otherwise the key would be lost."""
    servers.create_ca(tmp_path / "ca")
    for key, output in (("key", "key\n"), ("", "")):
        announce(tmp_path / "ca", "--quiet", api_key=key)
        assert capsys.readouterr().out == output


def test_server_without_a_valid_api_key_warns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A key that has expired is a reason to warn, not to create another one; one valid key is enough."""
    servers.create_ca(tmp_path / "ca")
    file, expired = tmp_path / "ca/api-keys.json", {"sha256": "0" * 64, "expires": "2020-01-01T00:00:00Z"}
    file.write_text(json.dumps({"ci": [expired]}))
    warning = "Warning   every API key has expired: create one with certlet api-key add NAME --ca "
    with servers.certlet_server(tmp_path, env={}) as server:
        assert any(line.startswith(warning) for line in server.output)
        assert not any(line.startswith("API key") for line in server.output)
    announce(tmp_path / "ca")
    assert warning in capsys.readouterr().out
    file.write_text(json.dumps({"ci": [expired, {"sha256": "1" * 64}]}))
    announce(tmp_path / "ca")
    assert warning not in capsys.readouterr().out


URLS = [
    ("--insecure-http --host 0.0.0.0", "http://localhost:", False),
    ("--tls --host 0.0.0.0", "https://localhost:", True),
    ("--tls --host ::1", "https://[::1]:", False),
    ("--tls --host 0.0.0.0 --tls-name 127.0.0.2", "https://127.0.0.2:", False),
    ("--tls --tls-name localhost --tls-name 127.0.0.1", "https://127.0.0.1:", False),
    ("--insecure-http --host ::", "http://localhost:", False),
    ("--insecure-http --host 127.0.0.2", "http://127.0.0.2:", False),
    ("--tls --host 127.0.0.2", "https://127.0.0.2:", False),
    ("--tls --tls-name localhost --tls-name b.test", "https://localhost:", False),
]


@pytest.mark.parametrize(("arguments", "url", "warned"), URLS)
def test_printed_host_is_in_the_certificate(arguments: str, url: str, *, warned: bool) -> None:
    """The host of the URL is in the certificate; if that is only for localhost, there is a warning."""
    settings = SimpleNamespace(**serve.serve.make_context("serve", arguments.split()).params)
    assert serve_announcement._url_host(settings) == url.partition("//")[2].removesuffix(":")
    assert any("only for localhost" in warning for warning in serve_checks._warnings(settings)) == warned


@pytest.mark.parametrize(("arguments", "url", "warned"), URLS[:5])
def test_printed_command_gets_a_certificate(
    tmp_path: Path, arguments: str, url: str, *, warned: bool
) -> None:
    """The printed URL is in the TLS certificate, and the printed curl command works."""
    with servers.certlet_server(tmp_path, *arguments.split(), env={}) as server:
        assert server.url.startswith(url)
        output = "\n".join(server.output)
        assert ("the TLS certificate is only for localhost" in output) == warned
        run = servers.run("sh", "-ec", "\n".join(line[10:] for line in server.output[-3:]), cwd=tmp_path)
        assert len(x509.load_pem_x509_certificates(run.stdout.encode())) == 2, run.stderr

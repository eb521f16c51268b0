"""`certlet new`, `sign` and `renew` with a token instead of an API key."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from service.cli import id_token
from tests import csrs, servers
from tests.cli import certlet
from tests.oidc_issuer import CLAIMS, NAME, Issuer
from tests.servers import Server

TOKEN = "e30.c2VjcmV0.c2lnbmF0dXJl"  # noqa: S105 - no issuer signed it


@dataclass
class Site:
    """A service that refuses each request, and GitHub's issuer of ID tokens.

    Attributes:
        requests: path and headers of each request.
        id_token: the response of the issuer.
    """

    url: str = ""
    requests: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)
    id_token: tuple[int, object] = (200, {"count": 10, "value": TOKEN})

    @property
    def github(self) -> dict[str, str]:
        """The environment of a job of GitHub Actions that may request a token."""
        return {
            "GITHUB_ACTIONS": "true",
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"{self.url}/idtoken?api-version=2.0",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "request.token.of-the-job",
        }

    def authorization(self) -> str:
        """The header of the last request."""
        return self.requests[-1][1]["Authorization"]


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()

    class Handler(servers.QuietHandler):
        def respond(self) -> None:
            self.body()
            site.requests.append((self.path, dict(self.headers)))
            problem = {"title": "Refused", "detail": "No.", "status": 401, "code": "unauthorized"}
            status, content = site.id_token if self.path.startswith("/idtoken") else (401, problem)
            self.reply(status, json.dumps(content).encode())

    with servers.http_server(Handler) as site.url:
        yield site


@pytest.fixture(autouse=True)
def _no_default_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(id_token, "DEFAULT_FILE", tmp_path / "projected" / "token")


def sign(site: Site, *options: str, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run `certlet sign`, whose output never has the token; return status and errors."""
    Path("a.csr").write_bytes(csrs.encode_pem(csrs.build()))
    done = certlet("sign", "a.csr", "--url", site.url, *options, env=env)
    assert TOKEN.encode() not in done.stdout + done.stderr
    return done.returncode, done.stderr.decode()


def test_github_issues_the_token_for_the_url_of_the_service(site: Site) -> None:
    """The job's own token authenticates the request, and goes nowhere else."""
    status, error = sign(site, "--oidc", env=site.github)
    assert (status, error) == (4, "certlet: Refused: No. (401 unauthorized)\n")
    (path, headers), _ = site.requests
    audience = site.url.replace(":", "%3A").replace("/", "%2F")
    assert path == f"/idtoken?api-version=2.0&audience={audience}"
    assert headers["Authorization"] == "Bearer request.token.of-the-job"
    assert site.authorization() == f"Bearer {TOKEN}"
    assert "x-api-key" not in {name.lower() for name in site.requests[-1][1]}


def test_audience_is_requested_from_github(site: Site) -> None:
    sign(site, "--oidc", "--audience", "a&b=c", env=site.github)
    assert site.requests[0][0].endswith("&audience=a%26b%3Dc")


@pytest.mark.parametrize("response", [(403, {"message": "no"}), (200, {}), (200, []), (302, {})])
def test_refusal_of_github_is_reported(site: Site, response: tuple[int, Any]) -> None:
    site.id_token = response
    status, error = sign(site, "--oidc", env=site.github)
    expected = 4 if response[0] == 403 else 1
    assert (status, len(site.requests), error.count("\n")) == (expected, 1, 1)
    assert "Traceback" not in error


def test_missing_permission_in_github_is_reported(site: Site) -> None:
    status, error = sign(site, "--oidc", env={"GITHUB_ACTIONS": "true"})
    assert (status, site.requests) == (1, [])
    assert "permissions: {id-token: write}" in error


def test_token_is_in_the_variable_of_gitlab(site: Site) -> None:
    sign(site, "--oidc", env={"CERTLET_ID_TOKEN": TOKEN + "\n"})
    assert site.authorization() == f"Bearer {TOKEN}"


@pytest.mark.parametrize("is_default", [True, False])
def test_token_is_in_a_projected_file(site: Site, tmp_path: Path, is_default: bool) -> None:  # noqa: FBT001 - a parameter
    file = id_token.DEFAULT_FILE if is_default else tmp_path / "token"
    file.parent.mkdir(exist_ok=True)
    file.write_text(TOKEN + "\n")
    sign(site, "--oidc", env={} if is_default else {"CERTLET_TOKEN_FILE": str(file)})
    assert site.authorization() == f"Bearer {TOKEN}"


def test_token_is_in_the_given_file(site: Site) -> None:
    """The environment is ignored then."""
    Path("token").write_text(TOKEN)
    sign(site, "--token-file", "token", env={**site.github, "CERTLET_API_KEY": "key"})
    assert [path for path, _ in site.requests] == ["/sign"]
    assert site.authorization() == f"Bearer {TOKEN}"


def test_missing_token_is_reported(site: Site) -> None:
    """The error names what to set for each platform; a missing file too."""
    status, error = sign(site, "--oidc")
    assert (status, site.requests) == (1, [])
    for text in ("GitHub", "CERTLET_ID_TOKEN", str(id_token.DEFAULT_FILE)):
        assert text in error
    for options, env in (
        (("--token-file", "missing"), {}),
        (("--oidc",), {"CERTLET_TOKEN_FILE": "missing"}),
    ):
        status, error = sign(site, *options, env=env)
        assert (status, error) == (1, "certlet: missing: No such file or directory\n")


@pytest.mark.parametrize("token", ["", "a b", "a\rb", "tok\u00e9n", "x" * 8193], ids=str.__len__)
def test_malformed_token_is_not_sent(site: Site, token: str) -> None:
    Path("token").write_text(token)
    status, error = sign(site, "--token-file", "token")
    assert (status, site.requests) == (1, [])
    assert error.startswith("certlet: malformed token")


@pytest.mark.parametrize(
    "options",
    [
        ("--oidc", "--api-key", "key"),
        ("--token-file", "token", "--api-key", "key"),
        ("--oidc", "--token-file", "token"),
        ("--token-file", "token", "--audience", "a"),
    ],
)
def test_contradicting_options_are_refused(site: Site, options: tuple[str, ...]) -> None:
    assert sign(site, *options)[0] == 2
    assert not site.requests


def test_token_is_not_sent_over_plain_http(site: Site) -> None:
    """Except to this machine."""
    Path("token").write_text(TOKEN)
    site.url = "http://ca.example.com"
    status, error = sign(site, "--token-file", "token")
    assert status == 1
    assert "plain HTTP to ca.example.com" in error


def test_new_and_renew_get_certificates_by_token(token_server: Server, issuer: Issuer) -> None:
    Path("token").write_text(issuer.token(CLAIMS))
    options = ("--url", token_server.url, "--token-file", "token")
    done = certlet("new", NAME, *options)
    assert done.returncode == 0, done.stderr
    first = x509.load_pem_x509_certificate(Path(f"{NAME}.crt").read_bytes())
    done = certlet("renew", f"{NAME}.crt", "--expires-in", "100d", *options)
    assert done.returncode == 0, done.stderr
    assert x509.load_pem_x509_certificate(Path(f"{NAME}.crt").read_bytes()) != first


def test_refused_token_is_reported(token_server: Server, issuer: Issuer) -> None:
    Path("token").write_text(issuer.token(CLAIMS | {"ref": "refs/heads/other"}))
    done = certlet("new", NAME, "--url", token_server.url, "--token-file", "token")
    assert done.returncode == 4
    assert b"/ref" in done.stderr
    assert b"401 unauthorized" in done.stderr
    assert not Path(f"{NAME}.key").exists()

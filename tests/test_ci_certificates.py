"""The page "A certificate for a CI job, with no stored secret", followed as it is written.

Two issuers on loopback stand for GitHub and GitLab, with their CA for the public roots. `localhost` stands for the
CA's host. `pip` and `pipx` install the page's URL once, which git finds in this repository, without the dependencies.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from cryptography import x509

from tests import oidc_issuer, servers
from tests.cli import certlet
from tests.oidc.platform_tokens import GITHUB, GITLAB
from tests.oidc_issuer import Fault, Issuer
from tests.servers import ROOT, Server
from tests.test_documents import pattern, transcript

PAGE = (ROOT / "docs/how-to/ci-certificates.md").read_text()
NAME = "staging.ci.example.com"
REQUEST_TOKEN = "request.token.of-the-job"  # noqa: S105 - of a stand-in
PIP = """case "$2" in git+https://git.example.com/certlet) ;; *) exit 1;; esac
[ -d {target} ] || {python} -m pip install --quiet --no-index --no-deps --no-build-isolation --target {target} "$2"
"""


@dataclass
class Site:
    """The CA of the page, and what its jobs need.

    Attributes:
        directory: that of the CA.
        github, gitlab: the issuers.
        port: the CA's port.
        tokens: all tokens that were issued.
        token_url: where GitHub issues tokens to a job.
        server: the running CA.
    """

    directory: Path
    github: Issuer
    gitlab: Issuer
    port: int
    tokens: list[str] = field(default_factory=list)
    token_url: str = ""
    server: Server | None = None

    def localize(self, text: str) -> str:
        """Replace what is not on this machine."""
        for url, jwks_url, issuer in (
            ("https://token.actions.githubusercontent.com", "/.well-known/jwks", self.github),
            ("https://gitlab.com", "/oauth/discovery/keys", self.gitlab),
        ):
            text = text.replace(url + jwks_url, f"{issuer.jwks_url}\n    ca_file: {issuer.ca_file}")
            text = text.replace(f"issuer: {url}", f"issuer: {issuer.url}")
        text = text.replace("/etc/ssl/certs/ca-certificates.crt", str(self.github.ca_file))
        text = text.replace("ca.example.com:8080", f"localhost:{self.port}").replace("0.0.0.0", "127.0.0.1")  # noqa: S104 - replaced
        return text.replace("ca.example.com", "localhost")

    def issue(self, issuer: Issuer, claims: Mapping[str, Any], audience: str) -> str:
        self.tokens.append(issuer.token({"aud": audience, **claims}))
        return self.tokens[-1]

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    @property
    def output(self) -> str:
        """What the server wrote."""
        assert self.server
        return "\n".join(self.server.output) + self.server.read_log()


def block(marker: str) -> str:
    """The first block of YAML after a text of the page."""
    match = re.search(r"```yaml\n(.*?)```", PAGE.partition(marker)[2], re.DOTALL)
    assert match, marker
    return match[1]


def commands(prefix: str) -> list[tuple[str, str]]:
    """The commands of the page with a prefix, and their output."""
    return [(command, output) for command, output in transcript(PAGE) if command.startswith(prefix)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The page's first two steps: the file is checked, and the CA runs."""
    directory = tmp_path_factory.mktemp("ca")
    with (
        oidc_issuer.running(tmp_path_factory.mktemp("github")) as github,
        oidc_issuer.running(tmp_path_factory.mktemp("gitlab")) as gitlab,
    ):
        site = Site(directory, github, gitlab, servers.free_port())
        (directory / "ci.yaml").write_text(site.localize(block("## 1. Write the rule")))
        ((check, expected),) = [item for item in commands("certlet check") if "--token" not in item[0]]
        result = certlet(*shlex.split(check)[1:], cwd=directory)
        assert (result.stdout.decode(), result.returncode) == (expected, 0)
        ((serve, _),) = commands("certlet serve")
        ports = ("--port", str(site.port), "--status-port", str(servers.free_port()))
        arguments = [*shlex.split(site.localize(serve))[2:], *ports]
        with (
            servers.certlet_server(directory, *arguments, command=servers.SERVE, env={}) as server,
            servers.http_server(token_service(site), github.context) as site.token_url,
        ):
            site.server = server
            yield site


def token_service(site: Site) -> type[servers.QuietHandler]:
    """GitHub's service for tokens of jobs."""

    class Handler(servers.QuietHandler):
        def respond(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            is_known = self.headers["Authorization"] == f"Bearer {REQUEST_TOKEN}"
            claims = {**GITHUB.claims, **json.loads(query["claims"][0])}
            token = site.issue(site.github, claims, query["audience"][0])
            self.reply(200 if is_known else 401, json.dumps({"count": len(token), "value": token}).encode())

    return Handler


def run(
    site: Site, directory: Path, lines: list[str], env: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run the lines of a job as a runner does, where the repository is checked out; stdout has all output."""
    tools = site.directory / "bin"
    for name in ("pip", "pipx"):
        servers.create_script(
            tools / name, PIP.format(python=shlex.quote(sys.executable), target=tools / "packages")
        )
    run_certlet = f'PYTHONPATH={tools / "packages"} exec {shlex.join(servers.CERTLET)} "$@"'
    servers.create_script(tools / "certlet", run_certlet)
    (directory / "root-ca.crt").write_bytes((site.directory / "ca/root-ca.crt").read_bytes())
    environ = servers.environ(**env)
    del environ["PYTHONPATH"]
    environ |= {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{ROOT}.insteadOf",
        "GIT_CONFIG_VALUE_0": "https://git.example.com/certlet",
    }
    script = "exec 2>&1\n" + "\n".join(lines)
    command = ("bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script)
    result = servers.run(*command, cwd=directory, env=environ, check=False)
    output = result.stdout + site.output
    assert site.tokens
    assert not [token for token in site.tokens if token in output or token.rpartition(".")[2] in output]
    assert REQUEST_TOKEN not in output
    return result


def run_github(site: Site, directory: Path, **claims: object) -> subprocess.CompletedProcess[str]:
    """Run the job of GitHub Actions; its token may have other claims."""
    workflow = yaml.safe_load(site.localize(block("### GitHub Actions")))
    assert workflow["permissions"] == {"id-token": "write", "contents": "read"}
    (job,) = workflow["jobs"].values()
    changes = json.dumps({"environment": job["environment"], **claims})
    environ = {
        **job["env"],
        "CI": "true",
        "GITHUB_ACTIONS": "true",
        "ACTIONS_ID_TOKEN_REQUEST_URL": f"{site.token_url}/idtoken?api-version=2.0&claims={changes}".replace(
            " ", ""
        ),
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": REQUEST_TOKEN,
    }
    return run(site, directory, [step["run"] for step in job["steps"] if "run" in step], environ)


def run_gitlab(site: Site, directory: Path, **claims: object) -> subprocess.CompletedProcess[str]:
    """Run the job of GitLab CI; its token may have other claims."""
    (job,) = yaml.safe_load(site.localize(block("### GitLab CI"))).values()
    members = {**GITLAB.claims, "environment": job["environment"], **claims}
    tokens = {
        name: site.issue(site.gitlab, members, value["aud"]) for name, value in job["id_tokens"].items()
    }
    return run(
        site, directory, job["script"], {**job["variables"], **tokens, "CI": "true", "GITLAB_CI": "true"}
    )


JOBS = {"github": run_github, "gitlab": run_gitlab}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The directory of a job."""
    (tmp_path / "checkout").mkdir()
    return tmp_path / "checkout"


@pytest.mark.parametrize("platform", JOBS)
def test_job_of_the_page_gets_a_certificate(site: Site, checkout: Path, platform: str) -> None:
    """openssl verifies it, and it has the name of the environment; the audit log has the rule."""
    result = JOBS[platform](site, checkout)
    assert result.returncode == 0, result.stdout
    assert result.stdout.endswith(f"{NAME}.crt: OK\n")
    certificate = x509.load_pem_x509_certificate((checkout / f"{NAME}.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [NAME]
    assert (checkout / f"{NAME}.key").stat().st_mode & 0o777 == 0o600
    assert f'"principal":"oidc:{platform}-deploy"' in site.output.replace(" ", "")


@pytest.mark.parametrize(
    ("platform", "claims", "error"),
    [
        ("github", {"ref": "refs/heads/test"}, "/ref"),
        ("github", {"event_name": "pull_request_target"}, "/event_name"),
        ("github", {"repository_id": "75"}, "/repository_id"),
        ("github", {"environment": "blue"}, "Name not accepted"),
        ("github", {"environment": None}, "the claim /environment is missing"),
        ("github", {"environment": "A.b"}, "the claim /environment has characters"),
        ("gitlab", {"ref_protected": "false"}, "/ref_protected"),
        ("gitlab", {"project_id": "21"}, "/project_id"),
        ("gitlab", {"aud": "https://other.example"}, "the token is not for this CA"),
        ("gitlab", {"exp": 1}, "the token is expired"),
        ("gitlab", {"iat": 1}, "issued too long ago"),
        ("gitlab", {"iss": "https://gitlab.com"}, "no rule accepts tokens of this issuer"),
    ],
)
def test_other_jobs_are_refused_as_documented(
    site: Site, checkout: Path, platform: str, claims: dict[str, Any], error: str
) -> None:
    result = JOBS[platform](site, checkout, **claims)
    assert result.returncode == (4 if "(401 " in result.stdout else 1)
    assert error in result.stdout.splitlines()[-1]
    assert error.startswith("/") or f"`{error}" in PAGE
    assert not (checkout / f"{NAME}.crt").exists()


@pytest.mark.parametrize(
    ("change", "status", "error"),
    [
        ({"ACTIONS_ID_TOKEN_REQUEST_URL": ""}, 1, "this job may not request a token"),
        ({"ACTIONS_ID_TOKEN_REQUEST_URL": "", "GITHUB_ACTIONS": ""}, 1, "no token"),
        ({}, 5, "unable to get local issuer certificate"),
    ],
)
def test_incomplete_jobs_fail_as_documented(
    site: Site, checkout: Path, change: Mapping[str, str], status: int, error: str
) -> None:
    """Without permission for tokens, without a token, and without the root of the CA."""
    site.issue(site.gitlab, GITLAB.claims, site.url)
    script = ["pipx install git+https://git.example.com/certlet", f"certlet new {NAME} --oidc"]
    environ = {
        "CERTLET_URL": site.url,
        "GITHUB_ACTIONS": "true",
        "SSL_CERT_FILE": str(site.github.ca_file),  # for GitHub only
        "ACTIONS_ID_TOKEN_REQUEST_URL": f"{site.token_url}/idtoken?claims=%7B%7D",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": REQUEST_TOKEN,
    }
    result = run(site, checkout, script, {**environ, **change})
    assert result.returncode == status
    assert error in result.stdout.splitlines()[-1]
    assert f"`{error}" in PAGE


def test_token_is_explained_as_documented(site: Site) -> None:
    ((command, expected),) = commands("certlet check --profiles ci.yaml --token")
    claims = {**GITHUB.claims, "ref": "refs/heads/test"}
    (site.directory / "token.jwt").write_text(site.issue(site.github, claims, site.url))
    result = certlet(*shlex.split(command)[1:], cwd=site.directory)
    assert re.fullmatch(pattern(expected), result.stdout.decode(), re.DOTALL), result
    assert result.returncode == 1


def test_token_can_be_read_in_a_job_of_github(site: Site, checkout: Path) -> None:
    """The page's command writes it into a file, for which the rule says yes."""
    match = re.search(r"```sh\n(curl .*?)```", PAGE, re.DOTALL)
    assert match
    environ = {
        "ACTIONS_ID_TOKEN_REQUEST_URL": f"{site.token_url}/idtoken?claims=%7B%7D",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": REQUEST_TOKEN,
        "CURL_CA_BUNDLE": str(site.github.ca_file),
    }
    result = run(site, checkout, [site.localize(match[1])], environ)
    assert (result.returncode, result.stdout) == (0, "")
    shown = certlet(
        "check", "--profiles", site.directory / "ci.yaml", "--token", checkout / "token.jwt", cwd=checkout
    )
    assert shown.stdout.decode().startswith("github-deploy: yes: profiles server; names ")


def test_unavailable_keys_are_reported_as_documented(site: Site, checkout: Path, tmp_path: Path) -> None:
    """By a service that never got them."""
    site.github.fault = Fault.ERROR
    try:
        (tmp_path / "ci.yaml").write_text((site.directory / "ci.yaml").read_text())
        with servers.certlet_server(tmp_path, "--profiles", "ci.yaml", "--ephemeral") as server:
            (checkout / "token").write_text(site.issue(site.github, GITHUB.claims, site.url))
            arguments = ("new", NAME, "--token-file", "token", "--url", server.url)
            error = certlet(*arguments, cwd=checkout).stderr.decode()
    finally:
        site.github.fault = Fault.NONE
    message = "The keys of the issuer of the token are not available"
    assert message in error
    assert f"`{message}`" in PAGE

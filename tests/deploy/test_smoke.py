"""`deploy/smoke.sh`, the checks for a real deployment, against the local gateway and LocalStack."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from service import api_gateway
from tests import factories, localstack, servers

SMOKE = servers.ROOT / "deploy" / "smoke.sh"
AWS_ONLY = {
    "EST renews with a client certificate",
    "exhausted Lambda concurrency is 503",
    "quotas count by calendar days, weeks or months",
    "messages in gateway responses are quoted",
    "a base path of a domain does not matter",
    "a private API admits only its VPC endpoints",
    "the document was imported without warnings",
    "the API has exactly one stage",
    "the audit log has the issued certificate",
    "the alarm exists",
}
NOT_BY_DEFAULT = {"the type of a problem is the URL of its description", "EST enrols"}


def smoke(url: str, *, key: str = servers.API_KEY, **env: str) -> tuple[int, dict[str, set[str]]]:
    """Run the script: its exit status, and the statements by result."""
    done = servers.run(SMOKE, url, key, env=servers.environ(**env), check=False, timeout=120)
    results: dict[str, set[str]] = {"holds": set(), "fails": set(), "not checked": set()}
    for line in done.stdout.splitlines():
        statement = line[13:].split(": ")[0]
        results[line[:13].strip()].add(statement)
    assert not done.stderr, done.stderr
    return done.returncode, results


def test_every_statement_holds_for_the_local_gateway(tmp_path: Path) -> None:
    """All that can be checked holds, the usage plan's 429 too; the rest is listed, not passed over."""
    with servers.certlet_server(tmp_path, "--ephemeral") as server:
        status, results = smoke(server.url)
    assert (status, results["fails"]) == (0, set())
    assert results["not checked"] == AWS_ONLY | NOT_BY_DEFAULT
    assert len(results["holds"]) == 20
    assert "more requests than the burst are 429" in results["holds"]


def test_est_statements_hold_over_tls(tls_server: servers.Server, tmp_path: Path) -> None:
    root = tmp_path / "root.pem"
    root.write_bytes((tls_server.log.parent / "ca" / "root-ca.crt").read_bytes())
    status, results = smoke(tls_server.url, CURL_CA_BUNDLE=str(root))
    assert (status, results["fails"]) == (0, set())
    assert {name for name in results["holds"] if name.startswith("EST")} == {
        "EST asks for HTTP Basic if there is no password",
        "EST asks for HTTP Basic if the password is wrong",
        "EST enrols with the API key as the password",
    }


def test_failed_statement_is_reported_and_fails_the_script(server: servers.Server) -> None:
    status, results = smoke(server.url, key="x" * 40)
    assert status == 1
    assert results["fails"] == {
        "the certificate of a JSON request verifies",
        "an OCSP request in a path arrives as it was sent",
        "a request in DER arrives as it was sent",
        "a body over 10 MB is 413",
    }


def test_unreachable_service_fails_every_statement(tmp_path: Path) -> None:
    status, results = smoke(f"http://127.0.0.1:{servers.free_port()}")
    assert (status, results["holds"]) == (1, set())


def test_statements_of_the_document_hold_for_localstack(tmp_path: Path) -> None:
    """LocalStack renders mocks. It has no gateway responses, and cannot run the function without containers."""
    document = api_gateway.for_api_gateway(factories.document(), localstack.REGION, "0" * 12, "certlet")
    with localstack.running_localstack(tmp_path) as endpoint:
        status, results = smoke(localstack.deploy_api(endpoint, document))
    assert status == 1
    assert results["holds"] == {
        "the form is HTML, and its policy permits its scripts and styles",
        "the start page is HTML, and its policy permits its scripts and styles",
        "the URL of the start page needs no final slash",
        "a CORS preflight is answered",
        "another method is a problem document with Allow",
        "HEAD is answered as GET",
    }


@pytest.mark.parametrize("arguments", [(), ("http://127.0.0.1:1",)])
def test_missing_arguments_are_a_usage_error(arguments: Sequence[str]) -> None:
    done = servers.run(SMOKE, *arguments, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: ")

"""The page about monitoring; Prometheus of Debian reads the metrics, the rules and the dashboard's expressions."""

from __future__ import annotations

import json
import re
import shlex
import ssl
import subprocess
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import csrs, servers
from tests.servers import ROOT, HttpService, Server
from tests.test_documents import pattern, transcript
from tests.test_monitoring import FOLDER, RULES, expressions

PAGE = (ROOT / "docs/how-to/monitoring.md").read_text()
PROMETHEUS = ("--web.enable-lifecycle", "--storage.tsdb.retention.time=1h", "--log.level=error")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that has counted something of each kind."""
    options = ("--ephemeral", "--tls", "--port", "0", "--metrics", "0", "--no-usage-plan")
    with servers.certlet_server(tmp_path_factory.mktemp("server"), *options) as server:
        port = next(line for line in server.output if line.startswith("Status")).split()[1]
        assert HttpService(port).request("GET", "/ca.crl").status == 200
        yield server


def monitored(server: Server) -> HttpService:
    (line,) = [line for line in server.output if line.startswith("Metrics")]
    return HttpService(line.split()[1].removesuffix("/metrics"))


def test_page_is_followed(tmp_path: Path) -> None:
    """Its server starts, and each command has the documented output."""
    for name, host in (("my", "my.example.com"), ("bad", "localhost")):
        (tmp_path / f"{name}.csr").write_bytes(csrs.encode_pem(csrs.build(host)))
    (serve, output), *steps = transcript(PAGE)
    ports = {"8080": str(servers.free_port()), "9464": str(servers.free_port())}

    def localize(text: str) -> str:
        return re.sub("8080|9464", lambda match: ports[match[0]], text)

    command = (*servers.CERTLET, *shlex.split(localize(serve))[1:], "--port", ports["8080"])
    with servers.certlet_server(tmp_path, command=command) as server:
        shown = [line for line in server.output if line.startswith(("Web", "Metrics"))]
        assert re.fullmatch(pattern(localize(output)), "\n".join([*shown, "", ""]), re.DOTALL)
        servers.create_script(tmp_path / "bin/certlet")
        environ = servers.environ(CERTLET_URL=server.url, CERTLET_API_KEY=servers.API_KEY)
        environ["PATH"] = f"{tmp_path / 'bin'}:{environ['PATH']}"
        for step, expected in steps:
            result = servers.run("bash", "-c", f"exec 2>&1\n{localize(step)}", cwd=tmp_path, env=environ)
            is_expected = re.fullmatch(pattern(expected), result.stdout, re.DOTALL)
            assert not expected.strip() or is_expected, (step, result.stdout)
        assert (tmp_path / "my.crt").exists()


def test_metrics_follow_the_conventions(server: Server) -> None:
    """`promtool check metrics` has nothing to say about names, types and texts."""
    text = monitored(server).request("GET", "/metrics").body.decode()
    assert "certlet_certificates_issued_total{" in text
    result = servers.run("promtool", "check", "metrics", stdin=text)
    assert (result.stdout, result.stderr) == ("", "")
    damaged = text.replace(
        "# TYPE certlet_http_requests_total counter", "# TYPE certlet_http_requests_total gauge"
    )
    assert servers.run("promtool", "check", "metrics", stdin=damaged, check=False).returncode != 0


def test_alert_rules_are_valid_and_alert_as_expected() -> None:
    result = servers.run("promtool", "check", "rules", FOLDER / "alerts.yaml")
    assert f"SUCCESS: {len(RULES)} rules found" in result.stdout
    servers.run("promtool", "test", "rules", ROOT / "tests/interop/alerts_test.yaml")


def test_expressions_are_valid_promql(tmp_path: Path) -> None:
    """Those of the dashboard, after Grafana has replaced its variables."""
    texts = [text.replace("$__rate_interval", "1m").replace("$instance", ".*") for text in expressions()]
    rules = [{"record": f"x:{number}", "expr": text} for number, text in enumerate(texts)]
    for valid, more in ((True, []), (False, [{"record": "x:x", "expr": "rate(certlet_ready)"}])):
        (tmp_path / "rules.yaml").write_text(json.dumps({"groups": [{"name": "x", "rules": rules + more}]}))
        result = servers.run("promtool", "check", "rules", tmp_path / "rules.yaml", check=False)
        assert (result.returncode == 0) == valid, result.stderr


def test_prometheus_scrapes_as_documented(server: Server, tmp_path: Path) -> None:
    """With the configuration of the page: the server is up, the rules are loaded, and a counter grows."""
    (configuration,) = re.findall(r"```yaml\n(global:.*?)```", PAGE, re.DOTALL)
    address = monitored(server).url.removeprefix("http://")
    assert configuration.count("127.0.0.1:9464") == configuration.count("15s") == 1
    configuration = configuration.replace("127.0.0.1:9464", address).replace("15s", "1s")
    (tmp_path / "prometheus.yaml").write_text(configuration)
    (tmp_path / "alerts.yaml").write_text((FOLDER / "alerts.yaml").read_text())
    servers.run("promtool", "check", "config", tmp_path / "prometheus.yaml")
    port = servers.free_port()
    options = (
        "--config.file=prometheus.yaml",
        "--storage.tsdb.path=data",
        f"--web.listen-address=127.0.0.1:{port}",
    )
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(["prometheus", *options, *PROMETHEUS], cwd=tmp_path, stderr=log)
    api = HttpService(f"http://127.0.0.1:{port}/api/v1")

    def query(expression: str) -> dict[str, float]:
        """Ask Prometheus: label values of each series -> value."""
        response = api.request("GET", f"/query?query={urllib.parse.quote(expression)}")
        results: list[dict[str, Any]] = response.json()["data"]["result"]
        return {" ".join(result["metric"].values()): float(result["value"][1]) for result in results}

    def is_ready() -> bool:
        try:
            return HttpService(f"http://127.0.0.1:{port}").request("GET", "/-/ready").status == 200
        except OSError:  # it does not listen yet
            return False

    try:
        servers.wait_until(is_ready)
        servers.wait_until(lambda: query('sum by (job) (up{job="certlet"})') == {"certlet": 1})
        rules = api.request("GET", "/rules").json()["data"]["groups"][0]["rules"]
        assert len(rules) == len(RULES)
        assert query("min by (job) (certlet_ready)") == {"certlet": 1}
        before = query("sum by (profile) (certlet_certificates_issued_total)")
        for _ in range(3):
            sign(server)
        servers.wait_until(
            lambda: (
                query("sum by (profile) (certlet_certificates_issued_total)")
                == {"server": before["server"] + 3}
            )
        )
    finally:
        process.terminate()
        process.wait(20)


def sign(server: Server) -> None:
    """Issue a certificate over HTTPS."""
    directory = next(line for line in server.output if line.startswith("New CA")).split()[2]
    context = ssl.create_default_context(cafile=f"{directory}/root-ca.crt")
    body = json.dumps({"csr": csrs.encode_pem(csrs.build()).decode()}).encode()
    headers = {"Content-Type": "application/json", "x-api-key": servers.API_KEY}
    assert server.request("POST", "/sign", body, headers, context).status == 200

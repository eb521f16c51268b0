"""What `certlet serve` prints when the server is ready."""

from __future__ import annotations

import shlex
from pathlib import Path
from types import SimpleNamespace

from service.cli import sample_request, serve_checks
from service.cli.first_start import Created
from service.cli.terminal import report
from service.gateway.listening import bracket_host
from service.keystore import ca_directory
from service.pki.profile_loader import IssuancePolicy


def announce(
    settings: SimpleNamespace,
    directory: Path,
    policy: IssuancePolicy,
    ports: tuple[int, int, int],
    created: Created,
) -> None:
    """Print the URLs of the server, what the start created, warnings, and commands to try.

    Args:
        settings: the options.
        directory: the CA's directory.
        policy: the policy of the CA.
        ports: those of the API, of plain HTTP next to HTTPS, and of the metrics; 0 for none.
        created: what the start created.
    """
    port, status_port, metrics_port = ports
    scheme = "https" if settings.tls or settings.tls_cert else "http"
    stage = f"/{settings.stage}" if settings.stage else ""
    url = f"{scheme}://{_url_host(settings)}:{port}{stage}"
    status_url = metrics_url = acme_directory = None
    if status_port:
        status_url = f"http://{_url_host(settings)}:{status_port}{stage}"
    if metrics_port:
        metrics_url = f"http://{bracket_host(settings.metrics[0])}:{metrics_port}/metrics"
    if settings.ledger and (directory / ca_directory.ACME_KEY).exists():
        acme_directory = f"{settings.public_url or url}/acme/directory"
    remarks = list(serve_checks.remarks(settings, directory))
    root, root_key = directory / ca_directory.ROOT_CERTIFICATE, directory / ca_directory.ROOT_KEY
    hint = "deleted when the server stops" if settings.ephemeral else f"move {root_key} to a safe place"
    facts = {
        "url": url,
        "status_url": status_url,
        "metrics_url": metrics_url,
        "acme_directory": acme_directory,
        "ca": str(directory),
        "root_certificate": str(root),
        "created_ca": created.ca,
        "api_key": created.api_key or None,
        "warnings": [text for label, text in remarks if label == "Warning"],
        "notes": [text for label, text in remarks if label == "Note"],
    }
    lines = (
        ("New CA", f"{directory} ({hint})" if created.ca else ""),
        *remarks,
        ("Web pages", f"{url}/"),
        ("Status", f"{status_url} (OCSP, CRL, CA certificates)" if status_url else ""),
        ("Metrics", f"{metrics_url} (probes: /livez, /readyz)" if metrics_url else ""),
        ("ACME", acme_directory or ""),
        ("API key", f"{created.api_key}  (shown once)" if created.api_key else ""),
    )
    curl = f"curl -sS {f'--cacert {shlex.quote(str(root))} ' if settings.tls else ''}"
    suggestion = sample_request.suggest(directory, policy, created.api_key, curl, url)
    report(
        facts,
        *[f"{label:<9} {text}" for label, text in lines if text],
        *[f"{'' if number else 'Try it':<9} {line}" for number, line in enumerate(suggestion)],
        result=created.api_key,
    )


def _url_host(settings: SimpleNamespace) -> str:
    """Return the host of the URL to print: --host, if it is a usable address and in the certificate."""
    host, names = settings.host, serve_checks.tls_names(settings)
    if names and host not in names:
        host = names[0]
    elif serve_checks.is_unspecified(host):
        host = "localhost"
    return bracket_host(host)

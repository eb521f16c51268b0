"""`certlet trust`: print, but do not run, the commands that add the root to trust stores."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Final

import click
from cryptography import x509

from service import client
from service.cli import options
from service.cli.input_files import DIRECTORY
from service.cli.terminal import Command, CommandError, echo, is_json, json_option, report
from service.keystore import ca_directory
from service.pki import certificate_reader, encoding

# NAME is the root's name in the trust store, and NAME.crt its file in the current directory.
_COMMANDS: Final = (
    ("Debian, Ubuntu", "sudo install -m 0644 NAME.crt /usr/local/share/ca-certificates/NAME.crt"),
    ("", "sudo update-ca-certificates"),
    ("Fedora, RHEL", "sudo install -m 0644 NAME.crt /etc/pki/ca-trust/source/anchors/NAME.crt"),
    ("", "sudo update-ca-trust"),
    (
        "macOS",
        "sudo security add-trusted-cert -d -r trustRoot -k /Library/Keychains/System.keychain NAME.crt",
    ),
    ("Windows, as administrator", "certutil -addstore -f Root NAME.crt"),
    (
        "Java, as the owner of its files",
        "keytool -importcert -noprompt -cacerts -storepass changeit -alias NAME -file NAME.crt",
    ),
    ("Node.js, in addition to its own roots", 'export NODE_EXTRA_CA_CERTS="$PWD/NAME.crt"'),
    (
        "Python, instead of its own roots",
        'export SSL_CERT_FILE="$PWD/NAME.crt" REQUESTS_CA_BUNDLE="$PWD/NAME.crt"',
    ),
    ("curl, for one request", "curl --cacert NAME.crt https://…"),
    (
        "curl on Windows, if it refuses a certificate that names no CRL",
        "curl.exe --ssl-no-revoke --cacert NAME.crt https://…",
    ),
)


def parse_fingerprint(text: str) -> str:
    """Parse a SHA-256 in hexadecimal, with or without colons, as `encoding.fingerprint` writes it."""
    digest = text.replace(":", "").lower()
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise ValueError(f"{text!r} is not a SHA-256 fingerprint of 64 hexadecimal digits")
    return digest


@click.command(cls=Command, uses_service=True, epilog="Example: certlet trust --url https://ca.example.com")
@click.option("--ca", type=DIRECTORY, help="Read the root from this CA directory, not from --url.")
@click.option(
    "--sha256",
    type=parse_fingerprint,
    metavar="FINGERPRINT",
    help="Require this fingerprint of the root. Get it from your CA administrator.",
)
@json_option
@options.url_option
@options.context_option("Use the service of this context of certlet login.")
def trust(*, ca: Path | None, sha256: str | None, url: str | None, context: str | None) -> None:
    """Print the commands that add the root to trust stores.

    They are for Debian, Fedora, macOS, Windows, Java, Node.js, Python and curl.
    """
    options.forbid_together("--ca", "--url", "--context")
    stored = options.find_context(url, context)
    root = ca_directory.load_chain(options.require_ca(ca))[1][-1] if ca else fetch_root(stored.service)
    is_verified = bool(ca or sha256) or encoding.encode_pem([root]) == stored.root_pem
    digest = encoding.fingerprint(root)
    if sha256 not in (None, digest):
        raise CommandError(f"the root has another fingerprint: {digest}")
    if is_json():
        facts = {
            "subject": root.subject.rfc4514_string(),
            "fingerprint_sha256": digest,
            "verified": is_verified,
        }
        end = encoding.format_timestamp(root.not_valid_after_utc)
        report(facts | {"not_after": end, "root_pem": encoding.encode_pem([root])})
        return
    name = f"certlet-{digest[:8]}"
    echo(f"Root      {root.subject.rfc4514_string()}")
    echo(f"Not after {encoding.format_timestamp(root.not_valid_after_utc)}")
    echo(f"SHA-256   {digest}")
    if not is_verified:
        echo("Warning   unverified: this fingerprint comes from the server; ask the CA administrator")
    echo("Download the root, and compare its fingerprint")
    if is_verified:  # the root is verified, but a later download would not be
        first, *lines, last = encoding.encode_pem([root]).splitlines()
        echo(f"  printf '%s\\n' > {name}.crt '{first}' \\")
        for line in lines:
            echo(f"    {line} \\")
        echo(f"    '{last}'")
    else:
        insecurely = " --insecure" if stored.url.startswith("https") else ""
        source = shlex.quote(stored.url.rstrip("/") + "/root.crt")
        echo(f"  curl -sSf{insecurely} {source} | openssl x509 -inform der -out {name}.crt")
    echo(f"  openssl x509 -in {name}.crt -noout -fingerprint -sha256")
    for system, command in _COMMANDS:
        if system:
            echo(system)
        echo("  " + command.replace("NAME", name))


def fetch_root(service: client.Service) -> x509.Certificate:
    """Fetch the root certificate; CommandError if it is not a self-signed CA certificate."""
    data, source = client.fetch_root(service), f"{service.url}/root.crt"
    try:
        certificate = certificate_reader.parse_der(data)
    except ValueError as error:
        raise CommandError(f"{source} is not a root certificate") from error
    return require_root(certificate, source)


def require_root(certificate: x509.Certificate, source: str) -> x509.Certificate:
    """Return a certificate; CommandError, which names its source, if it is not that of a self-signed CA."""
    try:
        certificate.verify_directly_issued_by(certificate)
        is_ca = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except Exception as error:  # the library has no common class for what malformed bytes raise
        raise CommandError(f"{source} is not a root certificate") from error
    if not is_ca:
        raise CommandError(f"{source} is not a CA certificate")
    return certificate

"""`certlet trust`: the commands that make a machine trust the root. They are printed, never run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Final

import click
from cryptography import x509

from service import client
from service.cli import options
from service.cli.terminal import CommandError, say
from service.keystore import ca_directory
from service.pki import certificate_reader, encoding

# NAME is what the root is to be called, NAME.crt its file, where the commands are run.
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
    ("Node.js, beside its own roots", 'export NODE_EXTRA_CA_CERTS="$PWD/NAME.crt"'),
    (
        "Python, in place of its own",
        'export SSL_CERT_FILE="$PWD/NAME.crt" REQUESTS_CA_BUNDLE="$PWD/NAME.crt"',
    ),
    ("curl, for one request", "curl --cacert NAME.crt https://…"),
)


def _parse_fingerprint(text: str) -> str:
    """A SHA-256 in hexadecimal, with or without colons, as `encoding.fingerprint` writes it."""
    digest = text.replace(":", "").lower()
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise ValueError(f"{text!r} is no SHA-256, which has 64 hexadecimal digits")
    return digest


@click.command(epilog="Example: certlet trust --url https://ca.example.com")
@click.option("--ca", type=options.DIRECTORY, help="Read the root here, instead of asking --url.")
@click.option(
    "--sha256",
    type=_parse_fingerprint,
    metavar="FINGERPRINT",
    help="Require this fingerprint of the root, which you have from who runs the CA.",
)
@options.url_option
def trust(*, ca: Path | None, sha256: str | None, url: str) -> None:
    """Print the commands that make a machine trust the root."""
    root = ca_directory.load_chain(options.require_ca(ca))[1][-1] if ca else _fetched(url)
    digest = encoding.fingerprint(root)
    if sha256 not in (None, digest):
        raise CommandError(f"the root is another one: its SHA-256 is {digest}")
    name = f"certlet-{digest[:8]}"
    say(f"Root      {root.subject.rfc4514_string()}")
    say(f"Not after {encoding.format_timestamp(root.not_valid_after_utc)}")
    say(f"SHA-256   {digest}")
    if not (ca or sha256):
        say("Warning   whoever answers there said so: ask who runs the CA (certlet trust --ca DIR)")
    say("Get it, and compare")
    if ca or sha256:  # it is proved: what the service sends later is not
        first, *lines, last = encoding.encode_pem([root]).splitlines()
        say(f"  printf '%s\\n' > {name}.crt '{first}' \\")
        for line in lines:
            say(f"    {line} \\")
        say(f"    '{last}'")
    else:
        insecurely = " --insecure" if url.startswith("https") else ""
        source = shlex.quote(url.rstrip("/") + "/root.crt")
        say(f"  curl -sSf{insecurely} {source} | openssl x509 -inform der -out {name}.crt")
    say(f"  openssl x509 -in {name}.crt -noout -fingerprint -sha256")
    for system, command in _COMMANDS:
        if system:
            say(system)
        say("  " + command.replace("NAME", name))


def _fetched(url: str) -> x509.Certificate:
    """The root that a service sends: a CA's certificate, signed by itself."""
    data = client.fetch_root(url)
    try:
        root = certificate_reader.parse_der(data)
        root.verify_directly_issued_by(root)
        is_ca = root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except Exception as error:  # the library has no common class for what malformed bytes raise
        raise CommandError(f"what {url} sends is no root certificate") from error
    if not is_ca:
        raise CommandError(f"what {url} sends is no CA's certificate")
    return root

"""`certlet login`: store a service, its root and an API key for the commands of this user."""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import urlsplit

import click

from service import client
from service.cli import contexts, options, trust
from service.cli.contexts import Context, Contexts
from service.cli.input_files import FILE
from service.cli.show import read_certificates
from service.cli.terminal import Command, CommandError, json_option, prompt_secret, report, warn
from service.pki import encoding
from service.pki.errors import escape_controls
from service.settings import is_loopback


@click.command(cls=Command, uses_service=True, epilog="Example: certlet login https://ca.example.com")
@click.argument("url", type=options.parse_service_url)
@click.option("--root", type=FILE, help="Trust the root certificate in this file, without a question.")
@click.option(
    "--sha256",
    type=trust.parse_fingerprint,
    metavar="FINGERPRINT",
    help="Trust the root with this fingerprint, without a question.",
)
@click.option("--name", metavar="NAME", show_default="the host and the port of URL", help="Name the context.")
@options.api_key_option
@json_option
def login(*, url: str, root: Path | None, sha256: str | None, name: str | None, api_key: str | None) -> None:
    """Store a service, its root and an API key for the other commands.

    URL is the service's, including the stage. Its root is shown, and trusted if you confirm its fingerprint,
    which you get from your CA administrator. The API key is prompted for. All are stored in a file in your
    configuration directory, which only you can read.
    """
    options.forbid_together("--root", "--sha256")
    if root:
        certificate = trust.require_root(read_certificates(root)[0], str(root))
    else:
        certificate = trust.fetch_root(client.Service(url))
    digest = encoding.fingerprint(certificate)
    if sha256 not in (None, digest):
        raise CommandError(f"the root has another fingerprint: {digest}")
    if not (root or sha256):
        warn(f"Root      {escape_controls(certificate.subject.rfc4514_string())}")
        warn(f"SHA-256   {digest}")
        _confirm_root()
    if url.startswith("http:") and not is_loopback(urlsplit(url).hostname or ""):
        warn(f"warning: the API key is sent to {url} without encryption: use its https URL")
    api_key = api_key or prompt_secret("API key", options.API_KEY)
    context = Context(url, encoding.encode_pem([certificate]), api_key)
    profiles = _list_profiles(context, str(root or f"{url}/root.crt"))
    name = name or urlsplit(url).netloc
    contexts.change(lambda stored: Contexts(name, {**stored.by_name, name: context}))
    facts = {"name": name, "url": url, "root_fingerprint_sha256": digest, "profiles": profiles}
    report(facts, f"Logged in to {name}, with the profiles {', '.join(profiles)}")


def _list_profiles(context: Context, source: str) -> list[str]:
    """List the names of the caller's profiles; `source` is that of the root, for errors."""
    try:
        profiles = client.list_profiles(context.service, client.Credentials(context.api_key))
    except client.ClientError as error:
        if error.remedy != client.TRUST_ROOT:
            raise
        remedy = f"the certificate of the service is not issued under {escape_controls(source)}"
        raise client.ClientError(error.reason, error.exit_status, remedy) from error
    return [profile.name for profile in profiles]


def _confirm_root() -> None:
    """Ask whether to trust a root; CommandError if the answer is not yes."""
    if not sys.stdin.isatty():
        raise CommandError(
            "no terminal to confirm the root: pass its fingerprint as --sha256, or --root FILE"
        )
    if not click.confirm("Is this the fingerprint from your CA administrator?", err=True):
        raise CommandError("the root is not trusted; nothing was stored")

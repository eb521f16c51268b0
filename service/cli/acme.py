"""`certlet acme`: the principals that may have ACME accounts, and their external account keys."""

from __future__ import annotations

import base64
from pathlib import Path

import click

from service import credentials, hardening
from service.cli import acme_clients, options
from service.cli.terminal import CommandError, Group, json_option, note, report
from service.keystore import acme_principals, ca_directory
from service.keystore.acme_principals import AcmePrincipal
from service.pki.acme_key import MAX_GENERATION, AcmeKey, ExternalKeyId, is_thumbprint
from service.settings import PUBLIC_URL, parse_public_url


def _parse_thumbprint(text: str) -> str:
    if not is_thumbprint(text):
        raise ValueError(f"{text!r} is not a thumbprint: 43 characters of base64url (RFC 7638)")
    return text


_thumbprint_option = click.option(
    "--thumbprint",
    "thumbprints",
    multiple=True,
    metavar="THUMBPRINT",
    type=_parse_thumbprint,
    help="Admit the account key with this thumbprint without an external account key (repeatable).",
)
_url_option = click.option(
    "--url",
    metavar="URL",
    envvar=PUBLIC_URL,
    show_envvar=True,
    default=options.DEFAULT_URL,
    type=parse_public_url,
    help="Print the directory of the service at this URL.",
)
_client_option = click.option(
    "--client",
    type=click.Choice(acme_clients.NAMES),
    metavar="CLIENT",
    help=f"Print only the lines for this client: {', '.join(acme_clients.NAMES)}.",
)


@click.group(cls=Group, no_args_is_help=False, epilog="Example: certlet acme add web")
def acme() -> None:
    """Manage the principals that may have ACME accounts."""


@acme.command(epilog="Example: certlet acme add web --url https://ca.example.com")
@click.argument("name")
@_thumbprint_option
@_client_option
@_url_option
@options.ca_option
@json_option
def add(*, name: str, thumbprints: tuple[str, ...], client: str | None, url: str, ca: Path) -> None:
    """Allow NAME to have ACME accounts, and print its external account key.

    Its accounts may have the certificates that an API key of this name may have. If NAME exists, its key is
    printed again.
    """

    def update(existing: AcmePrincipal | None) -> AcmePrincipal:
        if existing is None:
            return AcmePrincipal(1, thumbprints)
        if existing.removed:
            return AcmePrincipal(_next_generation(name, existing), thumbprints)
        note(f"{name} exists already, so its key stays the same")
        return existing._replace(thumbprints=tuple(dict.fromkeys((*existing.thumbprints, *thumbprints))))

    _verify_name(name)
    key = _load_or_create_key(options.require_ca(ca))
    _print_key(name, acme_principals.change(ca, name, update), key, client, url, ca)


@acme.command(epilog="Example: certlet acme rekey web --client caddy")
@click.argument("name")
@_thumbprint_option
@_client_option
@_url_option
@options.ca_option
@json_option
def rekey(*, name: str, thumbprints: tuple[str, ...], client: str | None, url: str, ca: Path) -> None:
    """Replace the external account key of NAME, and end its accounts.

    The listed thumbprints are removed, except those of --thumbprint.
    """

    def update(existing: AcmePrincipal | None) -> AcmePrincipal:
        existing = _require_principal(name, existing)
        if removed := [thumbprint for thumbprint in existing.thumbprints if thumbprint not in thumbprints]:
            note(f"removed the thumbprints {', '.join(removed)}")
        return AcmePrincipal(_next_generation(name, existing), thumbprints)

    key = _load_or_create_key(options.require_ca(ca))
    _print_key(name, acme_principals.change(ca, name, update), key, client, url, ca)


@acme.command(epilog="Example: certlet acme remove web")
@click.argument("name")
@options.ca_option
@json_option
def remove(*, name: str, ca: Path) -> None:
    """Remove NAME and end its accounts, with immediate effect."""
    removed = acme_principals.change(
        options.require_ca(ca),
        name,
        lambda existing: _require_principal(name, existing)._replace(thumbprints=(), removed=True),
    )
    key_id = ExternalKeyId(name, removed.generation).encode()
    report({"principal": name, "key_id": key_id}, f"Removed {name} and its accounts")


@acme.command("list", epilog="Example: certlet acme list --json")
@json_option
@options.ca_option
def list_principals(*, ca: Path) -> None:
    """List the key identifier of each principal, and its thumbprints."""
    for name, principal in acme_principals.load_all(options.require_ca(ca)).items():
        if not principal.removed:
            key_id = ExternalKeyId(name, principal.generation).encode()
            facts = {"principal": name, "key_id": key_id, "thumbprints": principal.thumbprints}
            report(facts, "  ".join((key_id, *principal.thumbprints)))


def _verify_name(name: str) -> None:
    try:
        credentials.verify_name(name)
    except ValueError as error:
        raise CommandError(f"the name {error}") from error


def _require_principal(name: str, existing: AcmePrincipal | None) -> AcmePrincipal:
    if existing is None or existing.removed:
        raise CommandError(f"{name!r} may not have ACME accounts: certlet acme list shows the names")
    return existing


def _next_generation(name: str, existing: AcmePrincipal) -> int:
    if existing.generation == MAX_GENERATION:
        raise CommandError(f"{name!r} has had {MAX_GENERATION} keys, which is the maximum: add another name")
    return existing.generation + 1


def _load_or_create_key(ca: Path) -> AcmeKey:
    hardening.disable_core_dumps_and_ptrace()
    key = ca_directory.load_acme_key(ca)
    if key is None:
        key = ca_directory.create_acme_key(ca)
        note(f"created {ca / ca_directory.ACME_KEY}: back it up, since it derives all of these keys")
    return key


def _print_key(
    name: str, principal: AcmePrincipal, key: AcmeKey, client: str | None, url: str, ca: Path
) -> None:
    """Print what a client needs, or the lines for one client."""
    key_id = ExternalKeyId(name, principal.generation)
    secret = base64.urlsafe_b64encode(key.external_account_key(key_id)).rstrip(b"=").decode("ascii")
    arguments = f"{url}/acme/directory", key_id.encode(), secret
    root = str(ca / ca_directory.ROOT_CERTIFICATE)
    facts = dict(zip(("directory", "key_id", "hmac_key"), arguments, strict=True))
    facts = {"principal": name, **facts, "root_certificate": root}
    if client:
        configuration = acme_clients.format_configuration(client, *arguments)
        facts["configuration"] = configuration
        report(facts, *configuration.splitlines(), result=configuration)
        return
    labels = ("Directory", "Key ID", "HMAC key", "Root")
    values = (*arguments, f"{root} (copy it to the client's host)")
    lines = [f"{label:<11}{value}" for label, value in zip(labels, values, strict=True)]
    for client_name in acme_clients.NAMES:
        configuration = acme_clients.format_configuration(client_name, *arguments)
        lines += ["", f"# {client_name}", *configuration.splitlines()]
    report(facts, *lines, result=secret)

"""`certlet verify`: verify a chain as TLS clients and servers do."""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

import click
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import crypto

from service.cli import input_files, inspection, options, tls_peer
from service.cli.input_files import FILE
from service.cli.show import read_certificates
from service.cli.terminal import Command, CommandError, json_option, report
from service.pki import encoding
from service.pki.certificate_reader import extension_value

_PURPOSES: Final = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH}
_ANY: Final = ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE
_CERT_FILE: Final = "SSL_CERT_FILE"

# The errors of OpenSSL (x509_vfy.h) -> what to do.
_ISSUER: Final = (
    "its issuer {issuer} is missing: {remedy}, or if it is a root, pass it as --root (trusted: {roots})"
)
_UNTRUSTED_ROOT: Final = "pass the root as --root, if you trust it (trusted: {roots})"
_CLOCK: Final = "the time here is {now}"
_REMEDIES: Final = {
    2: _ISSUER,
    20: _ISSUER,
    18: _UNTRUSTED_ROOT,
    19: _UNTRUSTED_ROOT,
    10: f"renew it; {_CLOCK}",
    9: f"check the clock; {_CLOCK}",
}


@click.command(cls=Command, epilog="Example: certlet verify www.example.com.crt --host www.example.com")
@click.argument("file", type=click.Path(readable=False))
@click.option(
    "--root",
    type=FILE,
    show_default=f"${_CERT_FILE} or the roots of the system, and the root of certlet login",
    help="Trust the root certificates in this PEM file, and no others.",
)
@options.context_option("Trust the root of this context of certlet login.")
@click.option(
    "--host",
    metavar="HOST",
    type=options.parse_host,
    show_default="that of the address, if FILE is one",
    help="Verify that the certificate is for this DNS name or IP address.",
)
@click.option(
    "--purpose",
    type=click.Choice(list(_PURPOSES)),
    default="server",
    help="Verify that the certificate may be used by a TLS server, or by a TLS client.",
)
@json_option
def verify(*, file: str, root: Path | None, context: str | None, host: str | None, purpose: str) -> None:
    """Verify the chain of a certificate or of a server.

    FILE is a file with the certificate and its chain (-: stdin), or the address of a TLS server: HOST:PORT
    or https://HOST. Signatures, dates, constraints, host and purpose are verified; revocation is not. The
    output says which root is trusted, and where it comes from.

    Exit status: 0 if the chain is valid; 1 if it is not, with the reason; 2 if the arguments are invalid; 4
    without permission; 5 if the server cannot be reached.
    """
    options.forbid_together("--root", "--context")
    address = input_files.find_address(file)
    certificates = tls_peer.fetch_chain(address) if address else read_certificates(Path(file))
    name = "standard input" if file == "-" else file
    if not certificates:
        raise CommandError(f"{name} contains no certificate")
    roots = _load_file(root) if root else _load_default_roots(context)
    leaf, host = certificates[0], host or (address.host if address else None)
    remedy = "the server must send it" if address else f"add it to {name}"
    reason, path = _verify_path(certificates, roots, remedy)
    reason = (
        reason or _purpose_problem(path, purpose) or (inspection.name_problem(leaf, host) if host else "")
    )
    end = encoding.format_timestamp(min(certificate.not_valid_after_utc for certificate in path or [leaf]))
    issuers = [certificate.subject.rfc4514_string() for certificate in path[1:-1]]
    facts = {
        "file": file,
        "host": host,
        "purpose": purpose,
        "valid": not reason,
        "reason": reason or None,
        "not_after": end,
        "issuers": issuers,
        "root": path[-1].subject.rfc4514_string() if path else None,
        "trusted": roots.source_of(path[-1]) if path else str(roots),
    }
    target = f"{name} for {host}" if host else name
    lines = [f"Valid     {target}, as a TLS {purpose}, until {end}"]
    lines += [f"Issuer    {issuer}" for issuer in issuers]
    lines += [f"Root      {facts['root']} ({facts['trusted']})"]
    report(facts, *(() if reason else lines))
    if reason:
        raise CommandError(f"{name}: {reason}")


class _Roots(NamedTuple):
    """Trusted roots.

    Attributes:
        store: all of them.
        source: where they come from.
        login: the root of `certlet login` among them; None if there is none.
        login_source: the service of that root.
    """

    store: crypto.X509Store
    source: str
    login: x509.Certificate | None = None
    login_source: str = ""

    def __str__(self) -> str:
        """Return where they come from."""
        return " and ".join(filter(None, (self.source, self.login_source)))

    def source_of(self, root: x509.Certificate) -> str:
        """Return where one of them comes from."""
        return self.login_source if root == self.login else self.source


def _create_store(certificates: Sequence[x509.Certificate]) -> crypto.X509Store:
    store = crypto.X509Store()
    store.set_flags(crypto.X509StoreFlags.X509_STRICT)
    for certificate in certificates:
        store.add_cert(crypto.X509.from_cryptography(certificate))
    return store


def _load_file(path: Path) -> _Roots:
    return _Roots(_create_store(read_certificates(path)), str(path))


def _load_default_roots(context: str | None) -> _Roots:
    """Load the roots that other commands trust: of the variable or the system, and of the context."""
    url = os.environ.get(options.URL)
    try:
        stored = options.find_context(options.parse_service_url(url) if url else None, context)
    except ValueError as error:
        raise click.UsageError(f"{options.URL}: {error}") from error
    login = x509.load_pem_x509_certificate(stored.root_pem.encode()) if stored.root_pem else None
    store = _create_store([login] if login else [])
    paths, file = ssl.get_default_verify_paths(), os.environ.get(_CERT_FILE)
    try:
        store.load_locations(paths.cafile, paths.capath)
    except (crypto.Error, TypeError) as error:
        if file or not login:
            message = f"{file or paths.openssl_cafile} contains no root certificates: pass --root FILE"
            raise CommandError(message) from error
    source = f"${_CERT_FILE}" if file else "the roots of the system"
    return _Roots(store, source, login, f"certlet login {stored.url}" if login else "")


def _verify_path(
    certificates: Sequence[x509.Certificate], roots: _Roots, remedy: str
) -> tuple[str, list[x509.Certificate]]:
    """Return why OpenSSL refuses a chain, or '' and the path up to the root (RFC 5280 6)."""
    leaf, *others = map(crypto.X509.from_cryptography, certificates)
    context = crypto.X509StoreContext(roots.store, leaf, others)
    try:
        return "", [item.to_cryptography() for item in context.get_verified_chain()]
    except crypto.X509StoreContextError as error:
        certificate, now = error.certificate.to_cryptography(), encoding.format_timestamp(datetime.now(UTC))
        template = _REMEDIES.get(error.errors[0], "")
        issuer = certificate.issuer.rfc4514_string()
        text = template.format(now=now, issuer=issuer, remedy=remedy, roots=roots)
        return f"{_name(certificate)}{error}{text and f': {text}'}", []


def _purpose_problem(path: Sequence[x509.Certificate], purpose: str) -> str:
    """Return why a certificate, or a CA above it, may not be used for a purpose (RFC 5280 4.2.1.12)."""
    for certificate in path:
        usage = extension_value(certificate, x509.ExtendedKeyUsage)
        if usage and not {_PURPOSES[purpose], _ANY} & set(usage):
            return f"{_name(certificate)}its extendedKeyUsage permits no TLS {purpose}s"
    return ""


def _name(certificate: x509.Certificate) -> str:
    """Return a prefix for an error; the file names a certificate with an empty subject."""
    name = certificate.subject.rfc4514_string()
    return f"{name}: " if name else ""

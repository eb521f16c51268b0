"""A CA in a directory: PEM files of certificates and keys; keys have mode 0600 and may be encrypted."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, TypeVar, cast, get_args

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from service import atomic_write
from service.keystore import revocation_file
from service.pki import acme_key, ca_status, certificate_reader, encoding, keys, serial
from service.pki.acme_key import AcmeKey
from service.pki.ca_status import CAStatus
from service.pki.errors import CAError
from service.pki.hierarchy import Hierarchy
from service.pki.issuer import Issuer
from service.pki.serial import SerialKeys, SerialNumbers
from service.settings import CA_PASSPHRASE, KeySource, parse_key_location, parse_public_url

ROOT_CERTIFICATE: Final = "root-ca.crt"
ROOT_KEY: Final = "root-ca.key"
SIGNING_CERTIFICATE: Final = "signing-ca.crt"
SIGNING_KEY: Final = "signing-ca.key"
PREVIOUS_CERTIFICATES: Final = "previous-ca.crt"
CA_STATUS: Final = "ca-status.pem"
PREVIOUS_KEY_PREFIX: Final = "previous-ca-"
SERIAL_KEY: Final = "serial.key"
STATUS_URL: Final = "status-url.txt"
ACME_KEY: Final = "acme.key"

_T = TypeVar("_T")


def load_issuer(directory: Path, passphrase: bytes | None) -> Issuer:
    """Load the signing CA of a directory, with its key.

    Raises:
        CAError: a file is missing, unreadable or malformed; the passphrase is wrong; or the certificates
            and the key do not match. The message names the file.
    """
    return Issuer(
        *load_chain(directory),
        load_private_key(directory / SIGNING_KEY, passphrase),
        load_predecessors(directory),
    )


def load_chain(directory: Path) -> tuple[x509.Certificate, list[x509.Certificate]]:
    """Load the signing CA's certificate, and those above it; raise as `load_issuer`."""
    signing = load_certificates(directory / SIGNING_CERTIFICATE)
    return signing[0], [*signing[1:], *load_certificates(directory / ROOT_CERTIFICATE)]


def load_predecessors(directory: Path) -> list[x509.Certificate]:
    """Load the certificates of the CA before a rollover, if there was one; raise as `load_issuer`."""
    path = directory / PREVIOUS_CERTIFICATES
    return load_certificates(path) if os.path.lexists(path) else []


def load_statuses(
    directory: Path, ca_certificates: Sequence[x509.Certificate]
) -> tuple[tuple[CAStatus, ...], list[str]]:
    """Load the OCSP responses about CA certificates, and messages about what is malformed in the file.

    Without the file there are no responses. It cannot raise: the CA can do without them.
    """
    path = directory / CA_STATUS
    if not os.path.lexists(path):
        return (), []
    try:
        return ca_status.parse_statuses(revocation_file.read_file(path), ca_certificates)
    except CAError as error:
        return (), [error.detail.removeprefix(f"{path}: ")]


def load_ca_certificates(directory: Path) -> list[x509.Certificate]:
    """Load the certificates of the signing CA, those above it, and its predecessors, in this order.

    Raises:
        CAError: as `load_issuer`.
    """
    certificate, chain = load_chain(directory)
    return [certificate, *chain, *load_predecessors(directory)]


def sign_statuses(
    directory: Path,
    issuer_key: CertificateIssuerPrivateKeyTypes,
    now: datetime,
    revoked: tuple[x509.Certificate, x509.ReasonFlags | None] | None = None,
) -> list[CAStatus]:
    """Sign the OCSP responses about the certificates whose issuer has this key, and write the file.

    Args:
        directory: the CA's directory.
        issuer_key: the private key of the root, or of another issuer of a certificate of the CA.
        now: the current time, UTC.
        revoked: a certificate to revoke now, and the reason.

    Returns:
        the new responses.

    Raises:
        CAError: no issuer of a certificate that has not ended, or not that of `revoked`, has this key.
        OSError: the file cannot be written.
    """
    with atomic_write.locked_directory(directory):
        certificates = load_ca_certificates(directory)
        existing, _ = load_statuses(directory, certificates)
        statuses = ca_status.sign_statuses(certificates, issuer_key, now, existing, revoked)
        signed = [entry for entry in statuses if entry not in existing]
        about = [entry.certificate for entry in signed]
        if not about:
            raise CAError(f"the private key is not that of an issuer of a certificate in {directory}")
        if revoked and revoked[0] not in about:
            raise CAError("the private key is not that of the issuer of the certificate to revoke")
        with atomic_write.atomic_files() as write:
            write(directory / CA_STATUS, ca_status.encode_statuses(statuses), 0o644)
    return signed


def previous_key_name(certificate: x509.Certificate) -> str:
    """The file of the key of a CA from before a rollover: in PEM, or its place in AWS, such as `kms:ID`."""
    return f"{PREVIOUS_KEY_PREFIX}{certificate_reader.key_id(certificate)}.key"


def load_key_reference(path: Path) -> tuple[KeySource, str] | None:
    """Load the place of a key in AWS from its file; None if the file contains the key itself.

    Raises:
        CAError: the file is unreadable or malformed; the message contains no part of it.
    """
    text = revocation_file.read_file(path).decode("latin-1").strip()
    if text.startswith("-----BEGIN "):
        return None
    with contextlib.suppress(ValueError):
        source, name = parse_key_location(text)
        if source is not KeySource.FILE and text.isprintable():
            return source, name
    raise CAError(f"{path} is not a private key in PEM, kms:KEY-ID or secretsmanager:NAME")


def load_serial_keys(directory: Path) -> SerialKeys | None:
    """Load the keys of serial numbers; None if there is no such file.

    Raises:
        CAError: the file is unreadable or malformed.
    """
    return _load_optional(directory / SERIAL_KEY, SerialKeys.parse)


def load_serial_numbers(directory: Path) -> tuple[SerialNumbers, ...]:
    """Load the serial numbers of a CA and of its predecessors; none if there are no keys.

    Raises:
        CAError: a file is unreadable or malformed.
    """
    serial_keys = load_serial_keys(directory)
    if serial_keys is None:
        return ()
    return serial.for_issuers(serial_keys, load_chain(directory)[0], load_predecessors(directory))


def resolve_status_url(directory: Path, configured: str, public_url: str) -> str:
    """Return the status URL in use: the configured one, the CA's, or the public URL; '' if there is none.

    Raises:
        CAError: as `load_status_url`.
    """
    return configured or load_status_url(directory) or public_url


def load_acme_key(directory: Path) -> AcmeKey | None:
    """Load the key of ACME; None if there is no such file.

    Raises:
        CAError: the file is unreadable or malformed.
    """
    return _load_optional(directory / ACME_KEY, AcmeKey)


def load_status_url(directory: Path) -> str:
    """Load the URL of `Settings.status_url` that the CA was created with; '' if there is none.

    Raises:
        CAError: the file is unreadable or malformed.
    """
    return _load_optional(directory / STATUS_URL, _parse_status_url) or ""


def _parse_status_url(content: bytes) -> str:
    return parse_public_url(content.decode("utf-8", "replace").strip())


def _load_optional(path: Path, parse: Callable[[bytes], _T]) -> _T | None:
    """Load and parse a file; None if it does not exist."""
    if not os.path.lexists(path):
        return None
    try:
        return parse(revocation_file.read_file(path))
    except ValueError as error:
        raise CAError(f"{path}: {error}") from error


def create_acme_key(directory: Path) -> AcmeKey:
    """Create the key of ACME, with mode 0600; return that of another process if there is one.

    Raises:
        CAError: as `load_acme_key`.
        OSError: the file cannot be written.
    """
    with atomic_write.locked_directory(directory):
        if key := load_acme_key(directory):
            return key
        content = secrets.token_bytes(acme_key.KEY_BYTES)
        atomic_write.write_atomically(directory / ACME_KEY, content, 0o600)
        return AcmeKey(content)


def add_serial_key(directory: Path) -> int:
    """Add a new key of serial numbers to a CA; the existing ones still recognise serial numbers.

    Returns:
        The number of keys.

    Raises:
        CAError: the file is unreadable or malformed, or has the maximum of keys; nothing was changed.
        OSError: the file cannot be written.
    """
    with atomic_write.locked_directory(directory):
        serial_keys = _with_new_key(directory, load_serial_keys(directory))
        with atomic_write.atomic_files() as write:
            write(directory / SERIAL_KEY, serial_keys.encode(), 0o600)
    return len(serial_keys.keys)


def _with_new_key(directory: Path, existing: SerialKeys | None) -> SerialKeys:
    try:
        return (existing or SerialKeys()).with_key(secrets.token_bytes(serial.KEY_BYTES))
    except ValueError as error:
        raise CAError(f"{directory / SERIAL_KEY}: {error}") from error


def load_private_key(
    path: Path, passphrase: bytes | None, variable: str = CA_PASSPHRASE
) -> CertificateIssuerPrivateKeyTypes:
    """Load the private key in a PEM file.

    Args:
        path: the PEM file.
        passphrase: the passphrase; None if the key is not encrypted.
        variable: the environment variable of the passphrase, for error messages.

    Raises:
        CAError: the file is missing, unreadable or malformed, or the passphrase is wrong.
    """
    return parse_private_key(revocation_file.read_file(path), passphrase, str(path), variable)


def has_ca(directory: Path) -> bool:
    """Whether the directory contains a file of a CA; raise `PermissionError` if it cannot be searched."""
    for name in (ROOT_CERTIFICATE, ROOT_KEY, SIGNING_CERTIFICATE, SIGNING_KEY, SERIAL_KEY):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            (directory / name).lstat()
            return True
    return False


def save_hierarchy(
    directory: Path,
    hierarchy: Hierarchy,
    passphrase: bytes | None,
    carried: Mapping[str, bytes] | None = None,
    serial_keys: SerialKeys | None = None,
) -> None:
    """Write a new CA. A new directory appears with all files at once.

    In an existing directory the lists are written before the keys: a CA without its deny list would sign
    denied keys.

    Args:
        directory: the CA's directory.
        hierarchy: the certificates and keys.
        passphrase: encrypts the keys, which have mode 0600; None for no encryption.
        carried: name -> content of the previous CA's lists, and of other files, which get mode 0600.
            Without a revocation list, an empty one is written.
        serial_keys: the previous CA's keys of serial numbers, which are kept after a new one. If there is the
            maximum, the newest creates serial numbers of the new CA, too.

    Raises:
        FileExistsError: one of the files exists; nothing was changed.
        NotADirectoryError: the directory is a file.
        OSError: a file cannot be written.
    """
    if has_ca(directory):
        missing = "" if (directory / SIGNING_CERTIFICATE).exists() else f" (without {SIGNING_CERTIFICATE})"
        message = f"already contains a CA{missing}; nothing was changed"
        raise FileExistsError(errno.EEXIST, message, str(directory))
    root_key, signing_key = (  # None: stored elsewhere, or the key of another CA
        keys.encode_private_key(key, passphrase) if key else b""
        for key in (hierarchy.root_key, hierarchy.signing_key)
    )
    public = (revocation_file.REVOKED, revocation_file.DENY_LIST, STATUS_URL)
    carried = {revocation_file.REVOKED: revocation_file.HEADER} | dict(carried or {})
    if serial_keys is None or len(serial_keys.keys) < serial.MAX_KEYS:
        serial_keys = _with_new_key(directory, serial_keys)
    serial_keys = serial_keys.with_tagged_issuer(hierarchy.signing)
    contents = (
        *((name, data, 0o644 if name in public else 0o600) for name, data in carried.items()),
        (SERIAL_KEY, serial_keys.encode(), 0o600),
        (ROOT_KEY, root_key, 0o600),
        (ROOT_CERTIFICATE, encoding.encode_pem([hierarchy.root]).encode(), 0o644),
        (SIGNING_KEY, signing_key, 0o600),
        (SIGNING_CERTIFICATE, encoding.encode_pem([hierarchy.signing]).encode(), 0o644),
        (CA_STATUS, ca_status.encode_statuses(hierarchy.statuses), 0o644),
        (PREVIOUS_CERTIFICATES, encoding.encode_pem(hierarchy.predecessors).encode(), 0o644),
    )
    with (
        atomic_write.atomic_directory(directory) as target,
        atomic_write.atomic_files(overwrite=False) as write,
    ):
        for name, data, mode in contents:
            if data:
                write(target / name, data, mode)


def load_certificates(path: Path) -> list[x509.Certificate]:
    """Load the certificates of a PEM file; raise as `load_issuer`."""
    try:
        return certificate_reader.parse_pem_chain(revocation_file.read_file(path))
    except ValueError as error:
        raise CAError(f"{path}: {error}") from error


def parse_private_key(
    pem: bytes, passphrase: bytes | None, source: str, variable: str = CA_PASSPHRASE
) -> CertificateIssuerPrivateKeyTypes:
    """Parse a private key in PEM; `source` names it in errors, and the rest is as in `load_private_key`.

    Raises:
        CAError: the key is malformed, or the passphrase is wrong; the message contains no part of the key.
    """
    try:
        key = load_pem_private_key(pem, passphrase)
    except TypeError as error:  # a passphrase is missing, or superfluous
        state = f"encrypted, and {variable} is not set"
        if passphrase is not None:
            state = f"not encrypted, but {variable} is set"
        raise CAError(f"{source} is {state}") from error
    except Exception:  # noqa: BLE001 - has no common class, and no cause: its text may quote the file
        wrong = "" if passphrase is None else f", or {variable} is wrong"
        raise CAError(f"{source} is not a PEM private key{wrong}") from None
    if not isinstance(key, get_args(CertificateIssuerPrivateKeyTypes)):
        raise CAError(f"{source} contains a key that cannot sign certificates")
    return cast("CertificateIssuerPrivateKeyTypes", key)

"""A CA in a directory: certificates and keys in PEM files, keys 0600 and encrypted if wished."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final, cast, get_args

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from service.pki import encoding
from service.pki.ceremony import Hierarchy
from service.pki.errors import IssuerError
from service.pki.issuer import Issuer

ROOT_CERTIFICATE: Final = "root-ca.crt"
ROOT_KEY: Final = "root-ca.key"
SIGNING_CERTIFICATE: Final = "signing-ca.crt"
SIGNING_KEY: Final = "signing-ca.key"


def load(directory: Path, passphrase: bytes | None) -> Issuer:
    """The signing CA of a directory. `root-ca.key` is never opened.

    Raises:
        IssuerError: a file is missing, unreadable or malformed; the passphrase is wrong; or they
            do not make an issuer. The message names the file and holds nothing secret.
    """
    signing = _certificates(directory / SIGNING_CERTIFICATE)
    root = _certificates(directory / ROOT_CERTIFICATE)
    return Issuer(signing[0], [*signing[1:], *root], _private_key(directory / SIGNING_KEY, passphrase))


def exists(directory: Path) -> bool:
    """Whether there is any part of a CA in the directory."""
    names = (ROOT_CERTIFICATE, ROOT_KEY, SIGNING_CERTIFICATE, SIGNING_KEY)
    return any(os.path.lexists(directory / name) for name in names)


def save(directory: Path, hierarchy: Hierarchy, passphrase: bytes | None) -> None:
    """Write a new CA, both keys 0600 and encrypted under the passphrase if there is one.

    Raises:
        FileExistsError: there is one of the files already; nothing is overwritten.
        NotADirectoryError: the directory is a file.
        OSError: a file cannot be written.
    """
    if exists(directory):
        raise FileExistsError(errno.EEXIST, "it holds a CA already; nothing was changed", str(directory))
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, "it is not a directory", str(directory)) from error
    for name, data, mode in (
        (ROOT_KEY, _key_pem(hierarchy.root.private_key, passphrase), 0o600),
        (ROOT_CERTIFICATE, encoding.pem([hierarchy.root.certificate]).encode(), 0o644),
        (SIGNING_KEY, _key_pem(hierarchy.signing.private_key, passphrase), 0o600),
        (SIGNING_CERTIFICATE, encoding.pem([hierarchy.signing.certificate]).encode(), 0o644),
    ):
        _write_new(directory / name, data, mode)


def _write_new(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def _certificates(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise IssuerError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise IssuerError(f"{path} is not a PEM certificate") from error


def _private_key(path: Path, passphrase: bytes | None) -> CertificateIssuerPrivateKeyTypes:
    try:
        key = load_pem_private_key(path.read_bytes(), passphrase)
    except OSError as error:
        raise IssuerError(f"{path}: {error.strerror}") from error
    except TypeError as error:  # the library's word for a passphrase missing, or given in vain
        state = "encrypted, and CERTLET_CA_PASSPHRASE is not set"
        raise IssuerError(
            f"{path} is {state if passphrase is None else 'not encrypted, but CERTLET_CA_PASSPHRASE is set'}"
        ) from error
    except (ValueError, UnsupportedAlgorithm):  # its text may quote the file, so it is not kept
        raise IssuerError(f"{path} is not a PEM private key, or CERTLET_CA_PASSPHRASE is wrong") from None
    if not isinstance(key, get_args(CertificateIssuerPrivateKeyTypes)):
        raise IssuerError(f"{path} holds a key that cannot sign certificates")
    return cast("CertificateIssuerPrivateKeyTypes", key)


def _key_pem(key: CertificateIssuerPrivateKeyTypes, passphrase: bytes | None) -> bytes:
    encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)

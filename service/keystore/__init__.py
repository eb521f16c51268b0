"""Load the CA; its key from a file, Secrets Manager or KMS, always as a private key of `cryptography`."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

from service import atomic_write
from service.keystore import ca_directory, revocation_file
from service.loaded_ca import LoadedCA, PreviousIssuer
from service.pki import certificate_reader, encoding
from service.pki.errors import CAError, CAUnavailable
from service.pki.issuer import Issuer
from service.settings import CA_PASSPHRASE, CA_PASSPHRASE_PARAMETER, KeySource, Settings

RETRY_SECONDS: Final = 30

_log = logging.getLogger(__name__)


class CurrentCA:
    """The CA of the settings and its deny list, reloaded when their files change.

    Checking the files for each request makes all processes use the same CA. If changed files cannot be
    loaded, the old CA stays in use and the log shows why. Loading is slow, so they are tried again only when
    they change again, or after a second.
    """

    def __init__(self, settings: Settings) -> None:
        """Remember the settings; load nothing yet."""
        self._settings = settings
        names = [
            ca_directory.SIGNING_CERTIFICATE,
            ca_directory.ROOT_CERTIFICATE,
            ca_directory.PREVIOUS_CERTIFICATES,
            ca_directory.CA_STATUS,
        ]
        names += [ca_directory.SERIAL_KEY, ca_directory.ACME_KEY, revocation_file.DENY_LIST]
        if settings.key_source is KeySource.FILE:
            names.append(settings.key_name or ca_directory.SIGNING_KEY)
        self._paths = [str(settings.ca / name) for name in names]
        self._loaded: tuple[list[tuple[int, ...]], LoadedCA] | None = None
        self._last_error: tuple[list[tuple[int, ...]], float, str] = ([], 0.0, "")

    def load(self) -> LoadedCA:
        """Return the CA; load it if its files changed.

        Raises:
            CAError, CAUnavailable: as `load_ca`, until loading succeeds once.
        """
        versions = [atomic_write.file_version(path) for path in self._paths]
        failed_versions, failed_at, message = self._last_error
        just_failed = versions == failed_versions and time.monotonic() < failed_at + 1
        if self._loaded and (just_failed or versions == self._loaded[0]):
            return self._loaded[1]
        try:
            self._loaded, message = (versions, load_ca(self._settings)), ""
        except CAError as error:
            if not self._loaded:
                raise
            if message != error.detail:
                message = error.detail
                _log.error(
                    "the CA's files changed and cannot be loaded; the previous CA stays in use: %s", message
                )
        else:
            issuer = self._loaded[1].issuer
            fingerprint, end = (
                encoding.fingerprint(issuer.certificate),
                encoding.format_timestamp(issuer.not_after),
            )
            _log.info("the CA with the fingerprint %s is loaded; it is valid until %s", fingerprint, end)
        self._last_error = versions, time.monotonic(), message
        return self._loaded[1]


def load_ca(settings: Settings) -> LoadedCA:
    """Load the CA of the settings, and sign and verify a test message with its key.

    Raises:
        CAError: a file cannot be read, or the certificates and the key do not match.
        CAUnavailable: AWS does not return the key, or does not sign with it.
    """
    certificate, chain = ca_directory.load_chain(settings.ca)
    predecessors = ca_directory.load_predecessors(settings.ca)
    issuer = _load_issuer(settings, certificate, chain, predecessors)
    issuer.self_test()
    statuses, problems = ca_directory.load_statuses(settings.ca, issuer.ca_certificates)
    for problem in problems:
        _log.warning("%s: %s, so OCSP does not answer from it", settings.ca / ca_directory.CA_STATUS, problem)
    return LoadedCA(
        issuer,
        ca_directory.load_serial_keys(settings.ca),
        revocation_file.load_deny_list(settings.ca),
        early_renewal=settings.early_renewal,
        statuses=statuses,
        previous=tuple(
            PreviousIssuer(predecessor, _PreviousKey(settings, predecessor, [*predecessors, *chain]).load)
            for predecessor in predecessors
        ),
        acme_key=ca_directory.load_acme_key(settings.ca),
    )


def load_previous_issuer(
    settings: Settings, certificate: x509.Certificate, ca_certificates: Sequence[x509.Certificate]
) -> Issuer:
    """Load a CA from before a rollover, from the file of its key; its chain is of these certificates.

    Raises:
        CAError, CAUnavailable: as `load_ca`.
    """
    name = ca_directory.previous_key_name(certificate)
    if location := ca_directory.load_key_reference(settings.ca / name):
        source, name = location
        settings = replace(settings, key_source=source, key_name=name)
    else:
        settings = replace(settings, key_source=KeySource.FILE, key_name=name)
    return _load_issuer(
        settings, certificate, list(certificate_reader.find_path(certificate, ca_certificates))
    )


def find_key_problems(path: Path, certificate: x509.Certificate, passphrase: bytes | None) -> Iterator[str]:
    """Yield what is wrong with the key of a CA from before a rollover. A key in AWS is not loaded.

    Args:
        path: the key's file.
        certificate: the CA's certificate.
        passphrase: the passphrase; None if the key is not encrypted.
    """
    try:
        if not ca_directory.load_key_reference(path):
            key = ca_directory.load_private_key(path, passphrase)
            if key.public_key() != certificate.public_key():
                yield f"{path} is not the key of {certificate.subject.rfc4514_string()}"
    except CAError as error:
        yield error.detail


class _PreviousKey:
    """The key of a CA from before a rollover, loaded when it is first needed, and when its file changes.

    If it cannot be loaded, it is tried again after `RETRY_SECONDS`: AWS may take seconds to fail, and the
    worker has certificates to issue.
    """

    def __init__(
        self, settings: Settings, certificate: x509.Certificate, ca_certificates: Sequence[x509.Certificate]
    ) -> None:
        self._arguments = settings, certificate, ca_certificates
        self._path = settings.ca / ca_directory.previous_key_name(certificate)
        self._loaded: tuple[tuple[int, ...], float, Issuer | CAError] | None = None

    def load(self) -> Issuer | None:
        """Return the issuer, or None if there is no file; raise `CAUnavailable` if it cannot be loaded."""
        if not os.path.lexists(self._path):
            return None
        version, now = atomic_write.file_version(self._path), time.monotonic()
        if self._loaded is None or self._loaded[0] != version or self._loaded[1] <= now:
            try:
                self._loaded = version, math.inf, load_previous_issuer(*self._arguments)
            except CAError as error:
                self._loaded = version, now + RETRY_SECONDS, error
        issuer = self._loaded[2]
        if isinstance(issuer, CAError):
            raise CAUnavailable("the key of a previous CA is not available") from issuer
        return issuer


def _load_issuer(
    settings: Settings,
    certificate: x509.Certificate,
    chain: Sequence[x509.Certificate],
    predecessors: Sequence[x509.Certificate] = (),
) -> Issuer:
    key, is_in_kms = load_private_key(settings), settings.key_source is KeySource.KMS
    # KMS uses a random nonce for each ECDSA signature; other signatures can be repeated.
    is_random = is_in_kms and isinstance(key, ec.EllipticCurvePrivateKey)
    return Issuer(
        certificate,
        chain,
        key,
        predecessors,
        is_deterministic=not is_random,
        has_free_signatures=not is_in_kms,
    )


def load_private_key(settings: Settings) -> CertificateIssuerPrivateKeyTypes:
    """Load the private key of the settings.

    Raises:
        CAError: it cannot be read, or the passphrase is wrong.
        CAUnavailable: AWS does not return it.
    """
    if settings.key_source is KeySource.KMS:
        from service.keystore import kms  # noqa: PLC0415 - imports boto3

        return kms.load_private_key(settings.key_name)
    passphrase, variable = settings.ca_passphrase, CA_PASSPHRASE
    if settings.ca_passphrase_parameter:
        from service.keystore import secrets_manager  # noqa: PLC0415 - as above

        passphrase = secrets_manager.get_parameter(settings.ca_passphrase_parameter)
        variable = CA_PASSPHRASE_PARAMETER
    if settings.key_source is KeySource.SECRETS_MANAGER:
        from service.keystore import secrets_manager  # noqa: PLC0415 - as above

        return ca_directory.parse_private_key(
            secrets_manager.get_secret(settings.key_name), passphrase, settings.key_name, variable
        )
    path = settings.ca / (settings.key_name or ca_directory.SIGNING_KEY)
    return ca_directory.load_private_key(path, passphrase, variable)

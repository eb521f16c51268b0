"""Where the CA's key lives: a file, Secrets Manager, or KMS; each gives a private key of `cryptography`."""

from __future__ import annotations

import logging
import time

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

from service import atomic_write
from service.authority import LoadedCA
from service.keystore import ca_directory, revocation_file
from service.pki.errors import CAError
from service.pki.issuer import Issuer
from service.settings import CA_PASSPHRASE, CA_PASSPHRASE_PARAMETER, KeySource, Settings

_log = logging.getLogger(__name__)


class CurrentCA:
    """The CA of the settings, and its deny list, as their files are now: so all processes answer alike.

    While changed files cannot be loaded the CA that they were goes on, and the log says why. They are read
    once a second, unless they change: it may take that long, and anybody's request asks for the CA.
    """

    def __init__(self, settings: Settings) -> None:
        """Load nothing yet."""
        self._settings = settings
        names = [
            ca_directory.SIGNING_CERTIFICATE,
            ca_directory.ROOT_CERTIFICATE,
            ca_directory.PREVIOUS_CERTIFICATES,
        ]
        names += [ca_directory.SERIAL_KEY, revocation_file.DENY_LIST]
        if settings.key_source is KeySource.FILE:
            names.append(settings.key_name or ca_directory.SIGNING_KEY)
        self._paths = [str(settings.ca / name) for name in names]
        self._loaded: tuple[list[tuple[int, ...]], LoadedCA] | None = None
        self._failure: tuple[list[tuple[int, ...]], float, str] = ([], 0.0, "")

    def load(self) -> LoadedCA:
        """Load the CA, unless its files are as they were.

        Raises:
            CAError, CAUnavailable: as the function `load`, as long as it never succeeded.
        """
        versions = [atomic_write.file_version(path) for path in self._paths]
        failed, failed_at, fault = self._failure
        is_tried = versions == failed and time.monotonic() < failed_at + 1
        if self._loaded and (is_tried or versions == self._loaded[0]):
            return self._loaded[1]
        try:
            self._loaded, fault = (versions, load_ca(self._settings)), ""
        except CAError as error:
            if not self._loaded:
                raise
            if fault != error.detail:
                fault = error.detail
                _log.error("the CA changed and cannot be loaded, so the one before goes on: %s", fault)
        self._failure = versions, time.monotonic(), fault
        return self._loaded[1]


def load_ca(settings: Settings) -> LoadedCA:
    """Load the CA of the settings, after its issuer signed and verified a probe.

    Raises:
        CAError: a file cannot be read, or they do not make an issuer.
        CAUnavailable: AWS does not give the key, or does not sign with it, at the moment.
    """
    certificate, chain = ca_directory.load_chain(settings.ca)
    key = _private_key(settings)
    # KMS draws a random number for each ECDSA signature; all else that signs here can repeat itself.
    random = settings.key_source is KeySource.KMS and isinstance(key, ec.EllipticCurvePrivateKey)
    issuer = Issuer(
        certificate, chain, key, ca_directory.load_predecessors(settings.ca), is_deterministic=not random
    )
    issuer.self_test()
    return LoadedCA(
        issuer, ca_directory.load_serial_secret(settings.ca), revocation_file.load_deny_list(settings.ca)
    )


def _private_key(settings: Settings) -> CertificateIssuerPrivateKeyTypes:
    if settings.key_source is KeySource.KMS:
        from service.keystore import kms  # noqa: PLC0415 - boto3 only if it is needed

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

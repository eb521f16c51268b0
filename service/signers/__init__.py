"""Where the CA's key lives: a file, Secrets Manager, or KMS; each gives a private key of `cryptography`."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

from service.authority import LoadedCA
from service.pki.issuer import Issuer
from service.settings import CA_PASSPHRASE, CA_PASSPHRASE_PARAMETER, KeySource, Settings
from service.signers import file, lists


def load(settings: Settings) -> LoadedCA:
    """Load the CA of the settings, after its issuer signed and verified a probe.

    Raises:
        IssuerError: a file cannot be read, or they do not make an issuer.
        IssuerUnavailable: AWS does not give the key, or does not sign with it, at the moment.
    """
    certificate, chain = file.chain(settings.ca)
    key = _private_key(settings)
    # KMS draws a random number for each ECDSA signature; all else that signs here can repeat itself.
    random = settings.key_source is KeySource.KMS and isinstance(key, ec.EllipticCurvePrivateKey)
    issuer = Issuer(certificate, chain, key, file.previous(settings.ca), is_deterministic=not random)
    issuer.self_test()
    return LoadedCA(issuer, file.serial_secret(settings.ca), lists.deny_list(settings.ca))


def _private_key(settings: Settings) -> CertificateIssuerPrivateKeyTypes:
    if settings.key_source is KeySource.KMS:
        from service.signers import kms  # noqa: PLC0415 - boto3 only if it is needed

        return kms.private_key(settings.key_name)
    passphrase, variable = settings.ca_passphrase, CA_PASSPHRASE
    if settings.ca_passphrase_parameter:
        from service.signers import secrets  # noqa: PLC0415 - as above

        passphrase = secrets.parameter(settings.ca_passphrase_parameter)
        variable = CA_PASSPHRASE_PARAMETER
    if settings.key_source is KeySource.SECRETS_MANAGER:
        from service.signers import secrets  # noqa: PLC0415 - as above

        return file.parse(secrets.secret(settings.key_name), passphrase, settings.key_name, variable)
    path = settings.ca / (settings.key_name or file.SIGNING_KEY)
    return file.private_key(path, passphrase, variable)

"""A key in Secrets Manager, and a passphrase in an SSM SecureString."""

from __future__ import annotations

from service.keystore import aws


def secret(name: str) -> bytes:
    """A secret's value: the signing key in PEM; raise `CAUnavailable` if AWS does not return it."""
    with aws.failures("Secrets Manager"):
        answer = aws.client("secretsmanager").get_secret_value(SecretId=name)
    value = answer.get("SecretString")
    return value.encode() if isinstance(value, str) else bytes(answer["SecretBinary"])


def parameter(name: str) -> bytes:
    """A SecureString's value: the passphrase of the signing key; raise as `secret`."""
    with aws.failures("Systems Manager"):
        answer = aws.client("ssm").get_parameter(Name=name, WithDecryption=True)
    return str(answer["Parameter"]["Value"]).encode()

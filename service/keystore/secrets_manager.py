"""A key in Secrets Manager, and a passphrase in an SSM SecureString."""

from __future__ import annotations

from service.keystore import aws


def get_secret(name: str) -> bytes:
    """A secret's value: the signing key in PEM; raise `CAUnavailable` if AWS does not return it."""
    with aws.translate_errors("Secrets Manager"):
        answer = aws.create_client("secretsmanager").get_secret_value(SecretId=name)
    value = answer.get("SecretString")
    return value.encode() if isinstance(value, str) else bytes(answer["SecretBinary"])


def get_parameter(name: str) -> bytes:
    """A SecureString's value: the passphrase of the signing key; raise as `secret`."""
    with aws.translate_errors("Systems Manager"):
        answer = aws.create_client("ssm").get_parameter(Name=name, WithDecryption=True)
    return str(answer["Parameter"]["Value"]).encode()

"""Read a key from Secrets Manager, and a passphrase from an SSM SecureString."""

from __future__ import annotations

from service import aws


def get_secret(name: str) -> bytes:
    """Return the value of a secret (the signing key, PEM); raise `CAUnavailable` if AWS returns none."""
    with aws.translate_errors("Secrets Manager"):
        response = aws.create_client("secretsmanager").get_secret_value(SecretId=name)
    value = response.get("SecretString")
    return value.encode() if isinstance(value, str) else bytes(response["SecretBinary"])


def get_parameter(name: str) -> bytes:
    """Return the value of a SecureString (the signing key's passphrase); raise as `get_secret`."""
    with aws.translate_errors("Systems Manager"):
        response = aws.create_client("ssm").get_parameter(Name=name, WithDecryption=True)
    return str(response["Parameter"]["Value"]).encode()

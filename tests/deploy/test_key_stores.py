"""Where the CA's key lives: KMS and Secrets Manager as LocalStack has them, and KMS with its faults."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError, ReadTimeoutError
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from service import aws_lambda
from service.keystore import aws, ca_directory, kms
from service.pki.errors import CAError
from service.pki.hierarchy import create_hierarchy
from service.settings import Settings, SettingsError
from tests import csrs, factories, localstack, servers
from tests.assertions import uuid7
from tests.lambda_events import invoke_handler, proxy_event

CSR = csrs.encode_pem(csrs.build(sans=["dns:a.example.com"])).decode()


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with localstack.running_localstack(tmp_path_factory.mktemp("localstack")) as running:
        yield running


@pytest.mark.parametrize("spec", ["ECC_NIST_P256", "ECC_NIST_P384", "RSA_2048"])
def test_ca_key_in_kms_signs(endpoint: str, tmp_path: Path, spec: str) -> None:
    """`certlet init --kms` makes a CA for a KMS key; what it signs openssl accepts; no key file is made."""
    client = localstack.client(endpoint, "kms")
    key_id = client.create_key(KeySpec=spec, KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]
    env = localstack.environ(endpoint)
    made = servers.certlet("init", "ca", "--kms", key_id, cwd=tmp_path, env=env)
    assert made.returncode == 0, made.stderr
    assert " ".join(sorted(path.name for path in (tmp_path / "ca").iterdir())) == (
        "revoked.yaml root-ca.crt root-ca.key serial.key signing-ca.crt"
    )
    retried = proxy_event(headers={"Content-Type": "application/json", "Idempotency-Key": uuid7()})
    results, logged = invoke_handler(
        tmp_path, proxy_event(), retried, retried, **env, CERTLET_CA_KEY=f"kms:{key_id}"
    )
    assert results[0]["statusCode"] == 200, logged
    first, again = (json.loads(each["body"]) for each in results[1:])
    assert (first == again) is spec.startswith("RSA")  # KMS draws a random number for each ECDSA signature
    assert ("idempotent_until" in first) is spec.startswith("RSA")
    assert spec.startswith("RSA") or "this CA cannot repeat a signature" in first["notes"][-1]
    answer = json.loads(results[0]["body"])
    (tmp_path / "leaf.pem").write_text(answer["crt_pem"])
    (tmp_path / "chain.pem").write_text(answer["chain_pem"])
    command = ("openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", "ca/root-ca.crt")
    servers.run(*command, "-untrusted", "chain.pem", "leaf.pem", cwd=tmp_path)


def test_mismatched_kms_key_is_refused(endpoint: str, tmp_path: Path) -> None:
    """The public key is checked against the CA's certificate before anything is signed."""
    client = localstack.client(endpoint, "kms")
    keys = [client.create_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY") for _ in range(2)]
    ours, other = (each["KeyMetadata"]["KeyId"] for each in keys)
    env = localstack.environ(endpoint)
    assert servers.certlet("init", "ca", "--kms", ours, cwd=tmp_path, env=env).returncode == 0
    results, logged = invoke_handler(tmp_path, proxy_event(), **env, CERTLET_CA_KEY=f"kms:{other}")
    assert results[0]["statusCode"] == 503
    assert "does not match the CA certificate" in logged


def test_ca_key_in_secrets_manager_signs(endpoint: str, tmp_path: Path) -> None:
    """The key comes from a secret, its passphrase from an SSM SecureString; without them it is 503."""
    secret = {"CERTLET_CA_PASSPHRASE": "stands in SSM"}
    assert servers.certlet("init", "ca", cwd=tmp_path, env=secret).returncode == 0
    pem = (tmp_path / "ca" / "signing-ca.key").read_text()
    (tmp_path / "ca" / "signing-ca.key").unlink()
    localstack.client(endpoint, "secretsmanager").create_secret(Name="certlet/key", SecretString=pem)
    parameters = localstack.client(endpoint, "ssm")
    parameters.put_parameter(Name="/certlet/passphrase", Type="SecureString", Value="stands in SSM")
    env = {**localstack.environ(endpoint), "CERTLET_CA_KEY": "secretsmanager:certlet/key"}
    good = {"CERTLET_CA_PASSPHRASE_PARAMETER": "/certlet/passphrase"}
    results, logged = invoke_handler(tmp_path, proxy_event(), **env, **good)
    assert results[0]["statusCode"] == 200, logged
    for change in ({"CERTLET_CA_PASSPHRASE_PARAMETER": "/none"}, {"CERTLET_CA_KEY": "secretsmanager:none"}):
        results, logged = invoke_handler(tmp_path, proxy_event(), **{**env, **good, **change})
        assert results[0]["statusCode"] == 503
        assert "NotFound" in logged
        assert "stands in SSM" not in logged


class Kms:
    """A KMS that holds a real key, and does what it is told before it answers."""

    def __init__(self, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
        self.key = key
        self.fault: Callable[[bytes], bytes] = lambda signature: signature
        self.calls: list[str] = []

    def get_public_key(self, **_: str) -> dict[str, Any]:
        self.calls.append("GetPublicKey")
        self.fault(b"")
        spki = self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return {"PublicKey": spki, "KeyUsage": "SIGN_VERIFY"}

    def sign(self, *, Message: bytes, MessageType: str, SigningAlgorithm: str, **_: str) -> dict[str, bytes]:  # noqa: N803
        self.calls.append("Sign")
        assert MessageType == "DIGEST"
        assert len(Message) == 32
        assert SigningAlgorithm.endswith("SHA_256")
        return {"Signature": self.fault(sign(self.key, Message))}


def sign(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, digest: bytes) -> bytes:
    algorithm = utils.Prehashed(hashes.SHA256())
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(digest, padding.PKCS1v15(), algorithm)
    return key.sign(digest, ec.ECDSA(algorithm))


@pytest.fixture(params=["p-256", "rsa-2048"])
def remote(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kms]:
    """The handler in this process, its CA's key in a KMS that does what it is told."""
    made = create_hierarchy("Test", "0a", request.param, factories.NOW)
    key = factories.signing_key(made)
    assert isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
    ca_directory.save_hierarchy(tmp_path / "ca", made, None)
    (tmp_path / "ca" / "signing-ca.key").unlink()
    fake = Kms(key)
    monkeypatch.setattr(aws, "create_client", lambda _service: fake)
    monkeypatch.setenv("CERTLET_CA", str(tmp_path / "ca"))
    monkeypatch.setenv("CERTLET_CA_KEY", "kms:1234")
    forget()
    yield fake
    forget()


def forget() -> None:
    """As a new process."""
    for cached in (aws_lambda._settings, aws_lambda._ca, aws_lambda._application):
        cached.cache_clear()


REFUSALS = [
    ClientError({"Error": {"Code": code, "Message": "the cause, for the log alone"}}, "Sign")
    for code in ("ThrottlingException", "AccessDeniedException", "DisabledException")
]
SILENCES = [error(endpoint_url="https://kms.example") for error in (ConnectTimeoutError, ReadTimeoutError)]


@pytest.mark.parametrize("fault", [*REFUSALS, *SILENCES], ids=str)
@pytest.mark.parametrize("when", ["at start", "later"])
def test_kms_outage_is_503_until_it_ends(
    remote: Kms, fault: Exception, when: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Throttled, denied, slow or gone: 503 with Retry-After, the cause in the log alone; then it recovers."""
    if when == "later":
        assert aws_lambda.handler(proxy_event(), None)["statusCode"] == 200
    good, remote.fault = remote.fault, Mock(side_effect=fault)
    if when == "at start":
        aws_lambda.init()
    result = aws_lambda.handler(proxy_event(), None)
    assert result["statusCode"] == 503
    assert result["headers"]["Retry-After"] == "60"
    assert "cause" not in result["body"]
    assert "kms.example" not in result["body"]
    assert "the cause" in caplog.text or "kms.example" in caplog.text
    remote.fault = good
    assert aws_lambda.handler(proxy_event(), None)["statusCode"] == 200


@pytest.mark.parametrize("fault", ["damaged", "another key's"])
@pytest.mark.parametrize("when", ["at start", "later"])
def test_certificate_with_a_bad_signature_is_never_returned(remote: Kms, fault: str, when: str) -> None:
    """A wrong signature, or another key's, is never handed out, and the service recovers by itself."""
    other = ec.generate_private_key(ec.SECP256R1())

    def wrong(signature: bytes) -> bytes:
        if signature and fault == "another key's" and isinstance(remote.key, ec.EllipticCurvePrivateKey):
            return sign(other, b"\0" * 32)
        return signature[:-1] + bytes(octet ^ 1 for octet in signature[-1:])

    if when == "later":
        assert aws_lambda.handler(proxy_event(), None)["statusCode"] == 200
    good, remote.fault = remote.fault, wrong
    result = aws_lambda.handler(proxy_event(), None)
    assert result["statusCode"] == (503 if when == "at start" else 500)
    assert "BEGIN CERTIFICATE" not in result["body"]
    remote.fault = good
    assert aws_lambda.handler(proxy_event(), None)["statusCode"] == 200


def test_init_requests_the_public_key_and_a_test_signature(remote: Kms) -> None:
    """A start asks KMS twice, for the public key and for a probe; a request once more."""
    aws_lambda.init()
    assert remote.calls == ["GetPublicKey", "Sign"]
    assert aws_lambda.handler(proxy_event(), None)["statusCode"] == 200
    assert remote.calls == ["GetPublicKey", "Sign", "Sign"]


def test_kms_key_supports_only_signing() -> None:
    """A KMS key has no numbers, no bytes, and no other use."""
    key = kms.load_private_key("1", Kms(ec.generate_private_key(ec.SECP256R1())))
    with pytest.raises(NotImplementedError, match="never leaves KMS"):
        key.private_numbers()  # type: ignore[union-attr]


def test_kms_key_for_encryption_is_refused() -> None:
    """A key for encryption is not an issuer's."""

    class Encrypting(Kms):
        def get_public_key(self, **_: str) -> dict[str, Any]:
            return {**super().get_public_key(), "KeyUsage": "ENCRYPT_DECRYPT"}

    with pytest.raises(CAError, match="not an RSA or EC key for signing"):
        kms.load_private_key("1", Encrypting(rsa.generate_private_key(65537, 2048)))


@pytest.mark.parametrize("value", ["", "kms", "kms:", "vault:x", "secretsmanager:"])
def test_malformed_key_source_is_reported(value: str) -> None:
    """CERTLET_CA_KEY is one of three forms."""
    with pytest.raises(SettingsError, match="CERTLET_CA_KEY"):
        Settings.from_environ({"CERTLET_CA": "x", "CERTLET_CA_KEY": value})


def test_key_file_in_another_directory_signs(tmp_path: Path) -> None:
    """`file:PATH` is beside the certificates, or an absolute path."""
    assert servers.certlet("init", "ca", cwd=tmp_path).returncode == 0
    shutil.move(tmp_path / "ca" / "signing-ca.key", tmp_path / "moved.key")
    results, _ = invoke_handler(tmp_path, proxy_event(), CERTLET_CA_KEY=f"file:{tmp_path / 'moved.key'}")
    assert results[0]["statusCode"] == 200
    results, _ = invoke_handler(tmp_path, proxy_event())
    assert results[0]["statusCode"] == 503

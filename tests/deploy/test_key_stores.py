"""Stores of the CA's key: KMS and Secrets Manager in LocalStack, and a fake KMS that fails."""

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
    with localstack.running_localstack(tmp_path_factory.mktemp("localstack")) as url:
        yield url


@pytest.mark.parametrize("spec", ["ECC_NIST_P256", "ECC_NIST_P384", "RSA_2048"])
def test_ca_key_in_kms_signs(endpoint: str, tmp_path: Path, spec: str) -> None:
    """`certlet init --kms` creates a CA without a key file, and `openssl verify` accepts its certificates."""
    client = localstack.client(endpoint, "kms")
    key_id = client.create_key(KeySpec=spec, KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]
    env = localstack.environ(endpoint)
    init = servers.certlet("init", "ca", "--kms", key_id, cwd=tmp_path, env=env)
    assert init.returncode == 0, init.stderr
    assert " ".join(sorted(path.name for path in (tmp_path / "ca").iterdir())) == (
        "revoked.yaml root-ca.crt root-ca.key serial.key signing-ca.crt"
    )
    event = proxy_event(headers={"Content-Type": "application/json", "Idempotency-Key": uuid7()})
    results, log = invoke_handler(
        tmp_path, proxy_event(), event, event, **env, CERTLET_CA_KEY=f"kms:{key_id}"
    )
    assert results[0]["statusCode"] == 200, log
    first, second = (json.loads(result["body"]) for result in results[1:])
    assert (first == second) is spec.startswith("RSA")  # KMS draws a random number for each ECDSA signature
    assert ("idempotent_until" in first) is spec.startswith("RSA")
    assert spec.startswith("RSA") or "this CA cannot repeat a signature" in first["notes"][-1]
    response = json.loads(results[0]["body"])
    (tmp_path / "leaf.pem").write_text(response["crt_pem"])
    (tmp_path / "chain.pem").write_text(response["chain_pem"])
    command = ("openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", "ca/root-ca.crt")
    servers.run(*command, "-untrusted", "chain.pem", "leaf.pem", cwd=tmp_path)


def test_mismatched_kms_key_is_refused(endpoint: str, tmp_path: Path) -> None:
    """The public key is compared with the CA's certificate before anything is signed."""
    client = localstack.client(endpoint, "kms")
    keys = [client.create_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY") for _ in range(2)]
    ca_key, other_key = (key["KeyMetadata"]["KeyId"] for key in keys)
    env = localstack.environ(endpoint)
    assert servers.certlet("init", "ca", "--kms", ca_key, cwd=tmp_path, env=env).returncode == 0
    results, log = invoke_handler(tmp_path, proxy_event(), **env, CERTLET_CA_KEY=f"kms:{other_key}")
    assert results[0]["statusCode"] == 503
    assert "does not match the CA certificate" in log


def test_ca_key_in_secrets_manager_signs(endpoint: str, tmp_path: Path) -> None:
    """The key comes from a secret, and its passphrase from an SSM SecureString; if one is missing: 503."""
    passphrase = {"CERTLET_CA_PASSPHRASE": "passphrase-in-ssm"}
    assert servers.certlet("init", "ca", cwd=tmp_path, env=passphrase).returncode == 0
    pem = (tmp_path / "ca" / "signing-ca.key").read_text()
    (tmp_path / "ca" / "signing-ca.key").unlink()
    localstack.client(endpoint, "secretsmanager").create_secret(Name="certlet/key", SecretString=pem)
    parameters = localstack.client(endpoint, "ssm")
    parameters.put_parameter(Name="/certlet/passphrase", Type="SecureString", Value="passphrase-in-ssm")
    env = {**localstack.environ(endpoint), "CERTLET_CA_KEY": "secretsmanager:certlet/key"}
    parameter = {"CERTLET_CA_PASSPHRASE_PARAMETER": "/certlet/passphrase"}
    results, log = invoke_handler(tmp_path, proxy_event(), **env, **parameter)
    assert results[0]["statusCode"] == 200, log
    for change in ({"CERTLET_CA_PASSPHRASE_PARAMETER": "/none"}, {"CERTLET_CA_KEY": "secretsmanager:none"}):
        results, log = invoke_handler(tmp_path, proxy_event(), **{**env, **parameter, **change})
        assert results[0]["statusCode"] == 503
        assert "NotFound" in log
        assert "passphrase-in-ssm" not in log


class FakeKMS:
    """A KMS with a real key, which calls `fault` before each response."""

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
def remote(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeKMS]:
    """The handler in this process, with the CA's key in a fake KMS."""
    hierarchy = create_hierarchy("Test", "0a", request.param, factories.NOW)
    key = factories.signing_key(hierarchy)
    assert isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
    ca_directory.save_hierarchy(tmp_path / "ca", hierarchy, None)
    (tmp_path / "ca" / "signing-ca.key").unlink()
    fake = FakeKMS(key)
    monkeypatch.setattr(aws, "create_client", lambda _service: fake)
    monkeypatch.setenv("CERTLET_CA", str(tmp_path / "ca"))
    monkeypatch.setenv("CERTLET_CA_KEY", "kms:1234")
    clear_caches()
    yield fake
    clear_caches()


def clear_caches() -> None:
    """Reset the handler's caches to those of a new process."""
    for function in (aws_lambda._settings, aws_lambda._ca, aws_lambda._application):
        function.cache_clear()


REFUSALS = [
    ClientError({"Error": {"Code": code, "Message": "the cause, for the log only"}}, "Sign")
    for code in ("ThrottlingException", "AccessDeniedException", "DisabledException")
]
TIMEOUTS = [error(endpoint_url="https://kms.example") for error in (ConnectTimeoutError, ReadTimeoutError)]


@pytest.mark.parametrize("fault", [*REFUSALS, *TIMEOUTS], ids=str)
@pytest.mark.parametrize("phase", ["at start", "later"])
def test_kms_outage_is_503_until_it_ends(
    remote: FakeKMS, fault: Exception, phase: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An error of KMS is 503 with Retry-After, with the cause only in the log; then the service recovers."""
    if phase == "later":
        assert aws_lambda.handler(proxy_event(), None)["statusCode"] == 200
    working, remote.fault = remote.fault, Mock(side_effect=fault)
    if phase == "at start":
        aws_lambda.init()
    result = aws_lambda.handler(proxy_event(), None)
    assert result["statusCode"] == 503
    assert result["headers"]["Retry-After"] == "60"
    assert "cause" not in result["body"]
    assert "kms.example" not in result["body"]
    assert "the cause" in caplog.text or "kms.example" in caplog.text
    remote.fault = working
    assert aws_lambda.handler(proxy_event(), None)["statusCode"] == 200


@pytest.mark.parametrize("fault", ["damaged", "another key's"])
@pytest.mark.parametrize("phase", ["at start", "later"])
def test_certificate_with_a_bad_signature_is_never_returned(remote: FakeKMS, fault: str, phase: str) -> None:
    """The service verifies each signature of KMS before it returns the certificate, and then recovers."""
    other_key = ec.generate_private_key(ec.SECP256R1())

    def corrupt(signature: bytes) -> bytes:
        if signature and fault == "another key's" and isinstance(remote.key, ec.EllipticCurvePrivateKey):
            return sign(other_key, b"\0" * 32)
        return signature[:-1] + bytes(octet ^ 1 for octet in signature[-1:])

    if phase == "later":
        assert aws_lambda.handler(proxy_event(), None)["statusCode"] == 200
    working, remote.fault = remote.fault, corrupt
    result = aws_lambda.handler(proxy_event(), None)
    assert result["statusCode"] == (503 if phase == "at start" else 500)
    assert "BEGIN CERTIFICATE" not in result["body"]
    remote.fault = working
    assert aws_lambda.handler(proxy_event(), None)["statusCode"] == 200


def test_init_requests_the_public_key_and_a_test_signature(remote: FakeKMS) -> None:
    """The start calls KMS for the public key and for a test signature; each request calls it once more."""
    aws_lambda.init()
    assert remote.calls == ["GetPublicKey", "Sign"]
    assert aws_lambda.handler(proxy_event(), None)["statusCode"] == 200
    assert remote.calls == ["GetPublicKey", "Sign", "Sign"]


def test_kms_key_supports_only_signing() -> None:
    """The private numbers of a KMS key are not available."""
    key = kms.load_private_key("1", FakeKMS(ec.generate_private_key(ec.SECP256R1())))
    with pytest.raises(NotImplementedError, match="never leaves KMS"):
        key.private_numbers()  # type: ignore[union-attr]


def test_kms_key_for_encryption_is_refused() -> None:
    """An issuer requires a key for signing."""

    class EncryptionKMS(FakeKMS):
        def get_public_key(self, **_: str) -> dict[str, Any]:
            return {**super().get_public_key(), "KeyUsage": "ENCRYPT_DECRYPT"}

    with pytest.raises(CAError, match="not an RSA or EC key for signing"):
        kms.load_private_key("1", EncryptionKMS(rsa.generate_private_key(65537, 2048)))


@pytest.mark.parametrize("value", ["", "kms", "kms:", "vault:x", "secretsmanager:"])
def test_malformed_key_source_is_reported(value: str) -> None:
    """CERTLET_CA_KEY has one of three forms."""
    with pytest.raises(SettingsError, match="CERTLET_CA_KEY"):
        Settings.from_environ({"CERTLET_CA": "x", "CERTLET_CA_KEY": value}, factories.NOW)


def test_key_file_in_another_directory_signs(tmp_path: Path) -> None:
    """`file:PATH` is relative to the CA directory, or absolute."""
    assert servers.certlet("init", "ca", cwd=tmp_path).returncode == 0
    shutil.move(tmp_path / "ca" / "signing-ca.key", tmp_path / "moved.key")
    results, _ = invoke_handler(tmp_path, proxy_event(), CERTLET_CA_KEY=f"file:{tmp_path / 'moved.key'}")
    assert results[0]["statusCode"] == 200
    results, _ = invoke_handler(tmp_path, proxy_event())
    assert results[0]["statusCode"] == 503

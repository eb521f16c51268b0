"""Stores of the CA's key: KMS and Secrets Manager in LocalStack, and a fake KMS that fails."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError, ReadTimeoutError
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp

from service import aws, aws_lambda
from service.cli import ca as ca_command
from service.keystore import ca_directory, kms
from service.pki import certificate_reader
from service.pki.errors import CAError
from service.pki.hierarchy import create_hierarchy
from service.settings import Settings, SettingsError
from tests import csrs, factories, localstack, servers
from tests.assertions import uuid7
from tests.lambda_events import from_request, invoke_handler, proxy_event

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
        "ca-status.pem revoked.yaml root-ca.crt root-ca.key serial.key signing-ca.crt"
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


def test_previous_ca_in_secrets_manager_signs_only_its_crl(endpoint: str, tmp_path: Path) -> None:
    """Its key is in a secret, encrypted with the passphrase in SSM. Without the secret, the current CA signs."""
    secret = {"CERTLET_CA_PASSPHRASE": "passphrase-in-ssm"}
    assert servers.certlet("init", "ca", cwd=tmp_path, env=secret).returncode == 0
    (tmp_path / "ca").rename(tmp_path / "old")
    issuer = ca_directory.load_chain(tmp_path / "old")[0]
    env = {**localstack.environ(endpoint), **secret}
    name = "certlet/previous"
    pem = (tmp_path / "old" / "signing-ca.key").read_text()
    localstack.client(endpoint, "secretsmanager").create_secret(Name=name, SecretString=pem)
    (tmp_path / "old" / "signing-ca.key").unlink()
    arguments = ("rollover", "old", "ca", "--old-key", f"secretsmanager:{name}")
    run = servers.certlet(*arguments, cwd=tmp_path, env=env)
    assert run.returncode == 0, run.stderr
    path = tmp_path / "ca" / ca_directory.previous_key_name(issuer)
    assert path.read_text() == f"secretsmanager:{name}\n"
    crl = proxy_event(f"/crl/{certificate_reader.key_id(issuer)}", "GET")
    results, log = invoke_handler(tmp_path, crl, proxy_event(), **env)
    assert [result["statusCode"] for result in results] == [200, 200], log
    public_key: Any = issuer.public_key()
    assert x509.load_der_x509_crl(base64.b64decode(results[0]["body"])).is_signature_valid(public_key)
    path.write_text("secretsmanager:none")
    results, log = invoke_handler(tmp_path, crl, proxy_event(), **env)
    assert [result["statusCode"] for result in results] == [503, 200], log
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


def test_kms_signs_once_for_many_ocsp_responses(remote: FakeKMS) -> None:
    """It signs the certificate of a delegated responder, which answers by GET and by POST, with nonces, too."""
    issuer, leaf = issue_and_load(remote)
    builder = ocsp.OCSPRequestBuilder().add_certificate(leaf, issuer, hashes.SHA256())
    for number in range(20):
        request = (
            builder.add_extension(x509.OCSPNonce(bytes([number] * 16)), critical=False)
            if number % 2
            else builder
        )
        der = request.build().public_bytes(Encoding.DER)
        for event in (
            from_request("POST", "/ocsp", {"Content-Type": "application/ocsp-request"}, der),
            from_request("GET", f"/ocsp/{base64.b64encode(der).decode()}", {}, b""),
        ):
            result = aws_lambda.handler(event, None)
            assert result["statusCode"] == 200
            response = ocsp.load_der_ocsp_response(base64.b64decode(result["body"]))
            assert response.certificate_status is ocsp.OCSPCertStatus.GOOD
            (responder,) = response.certificates
            responder.verify_directly_issued_by(issuer)
            nonces = [extension.value.nonce for extension in response.extensions]
            assert nonces == [bytes([number] * 16)] * (number % 2)
    assert remote.calls.count("Sign") == 1


@pytest.mark.parametrize("fault", ["refused", "damaged"])
def test_ocsp_is_unavailable_while_kms_is(remote: FakeKMS, fault: str) -> None:
    """The first response needs a signature of KMS. Nothing but that signature is missing, and it is not used."""
    issuer, leaf = issue_and_load(remote)
    builder = ocsp.OCSPRequestBuilder().add_certificate(leaf, issuer, hashes.SHA256())
    der = builder.build().public_bytes(Encoding.DER)
    event = from_request("POST", "/ocsp", {"Content-Type": "application/ocsp-request"}, der)
    remote.fault = (
        Mock(side_effect=REFUSALS[0]) if fault == "refused" else lambda signature: signature[:-1] + b"!"
    )
    for _ in range(3):
        result = aws_lambda.handler(event, None)
        assert (result["statusCode"], result["headers"]["Retry-After"]) == (503, "60")
    assert remote.calls.count("Sign") == 1


def issue_and_load(remote: FakeKMS) -> tuple[x509.Certificate, x509.Certificate]:
    """Return the issuer's certificate and a new one, and forget the calls of KMS so far."""
    body = json.loads(aws_lambda.handler(proxy_event(), None)["body"])
    leaf, issuer = x509.load_pem_x509_certificates((body["crt_pem"] + body["chain_pem"]).encode())[:2]
    remote.calls.clear()
    return issuer, leaf


def test_previous_key_in_kms_signs_a_crl_once(
    remote: FakeKMS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is loaded at the first request for its CRL, and signs it once per window."""
    result = CliRunner().invoke(
        ca_command.rollover,
        [str(tmp_path / "ca"), str(tmp_path / "new"), "--old-key", "kms:1234"],
        catch_exceptions=False,
    )
    assert result.exit_code == 0, result.output
    assert remote.calls == ["GetPublicKey"]
    monkeypatch.setenv("CERTLET_CA", str(tmp_path / "new"))
    monkeypatch.setenv("CERTLET_CA_KEY", "file:")
    clear_caches()
    assert aws_lambda.handler(proxy_event(), None)["statusCode"] == 200
    assert remote.calls == ["GetPublicKey"]
    issuer = ca_directory.load_chain(tmp_path / "ca")[0]
    crl = proxy_event(f"/crl/{certificate_reader.key_id(issuer)}", "GET")
    bodies = {aws_lambda.handler(crl, None)["body"] for _ in range(3)}
    assert remote.calls == ["GetPublicKey", "GetPublicKey", "Sign"]
    (body,) = bodies
    public_key: Any = issuer.public_key()
    assert x509.load_der_x509_crl(base64.b64decode(body)).is_signature_valid(public_key)


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

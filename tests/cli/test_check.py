from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509

from service import profile_lint
from service.pki import encoding
from tests import factories, servers
from tests.cli import certlet

CREATE = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -subj /CN=x"


@pytest.mark.parametrize("scheme", ["https", "HTTPS", "http"])
def test_https_url_in_a_ca_certificate_causes_a_warning(tmp_path: Path, scheme: str) -> None:
    """Each URL for CRL, OCSP and issuer is checked, in the certificates of the signing CA and its root."""
    (tmp_path / "ca").mkdir()
    urls = [f"{scheme}://ca.example.com/{name}" for name in ("a.crl", "ocsp", "issuer")]
    crl, access = f"crlDistributionPoints=URI:{urls[0]}", f"OCSP;URI:{urls[1]},caIssuers;URI:{urls[2]}"
    for name, extension in (("root-ca", crl), ("signing-ca", f"authorityInfoAccess={access}")):
        options = ("-out", f"ca/{name}.crt", "-addext", extension)
        servers.run(*CREATE.split(), *options, cwd=tmp_path)
    result = certlet("check")
    warnings = [line for line in result.stdout.decode().splitlines() if "://" in line]
    files = (("signing-ca", urls[1]), ("signing-ca", urls[2]), ("root-ca", urls[0]))
    expected = [f"ca/{name}.crt: warning: {url}: {profile_lint.HTTP_ONLY}" for name, url in files]
    assert warnings == ([] if scheme == "http" else expected)
    assert result.returncode == 0


def test_two_ledgers_are_an_error(tmp_path: Path) -> None:
    env = {"CERTLET_LEDGER": "ledger.db"}
    assert certlet("check", env=env).returncode == 0
    result = certlet("check", env=env | {"CERTLET_LEDGER_TABLE": "certlet"})
    assert result.returncode == 1
    assert b"CERTLET_LEDGER and CERTLET_LEDGER_TABLE are both set; set only one\n" in result.stdout


def test_files_of_acme_are_checked(tmp_path: Path) -> None:
    """A malformed file is an error; a missing key, or a file that others can read, causes a warning."""
    assert certlet("init", "ca").returncode == 0
    assert certlet("acme", "add", "web").returncode == 0
    key, principals = tmp_path / "ca" / "acme.key", tmp_path / "ca" / "acme-principals.yaml"
    assert b"acme" not in certlet("check").stdout
    key.chmod(0o640)
    principals.chmod(0o644)
    lines = certlet("check").stdout.decode().splitlines()
    for name, readers in (("acme.key", "its group"), ("acme-principals.yaml", "every user")):
        assert f"warning: ca/{name} is readable by {readers}: chmod 600 ca/{name}" in lines
    key.unlink()
    result = certlet("check")
    assert b"ca/acme.key: warning: does not exist, so there is no ACME" in result.stdout
    assert result.returncode == 0
    principals.write_text("web: {generation: 0}\n")
    result = certlet("check")
    assert (result.returncode, result.stderr.count(b"\n")) == (1, 1)
    assert b"certlet: ca/acme-principals.yaml: line 1: the generation of 'web'" in result.stderr
    principals.unlink()
    key.write_bytes(b"x")
    result = certlet("check")
    assert (result.returncode, result.stderr) == (1, b"certlet: ca/acme.key: 1 octets; expected 32\n")


PUBLIC, CONFIGURED, ORIGINAL = "CERTLET_PUBLIC_URL", "CERTLET_STATUS_URL", "http://ca.example.com"
KMS = {"CERTLET_CA_KEY": "kms:alias/ca", PUBLIC: "https://pki.example.com/certlet"}


@pytest.mark.parametrize(
    ("url", "env", "warnings"),
    [
        ("", {}, []),
        (ORIGINAL, {}, []),
        ("", {CONFIGURED: ORIGINAL}, []),
        ("", KMS, [f"https://pki.example.com/certlet: {profile_lint.HTTP_ONLY}"]),
        ("", {**KMS, CONFIGURED: "http://d111111abcdef8.cloudfront.net"}, []),
        (ORIGINAL, KMS, []),
        (ORIGINAL, {CONFIGURED: "https://a.example"}, [f"https://a.example: {profile_lint.HTTP_ONLY}"]),
        (ORIGINAL, {CONFIGURED: "http://[::1]:80"}, [f"http://[::1]:80: {profile_lint.LOOPBACK}"]),
        ("", {CONFIGURED: "http://127.1.2.3/a"}, [f"http://127.1.2.3/a: {profile_lint.LOOPBACK}"]),
        (
            "",
            {PUBLIC: "https://localhost"},
            [f"https://localhost: {text}" for text in (profile_lint.HTTP_ONLY, profile_lint.LOOPBACK)],
        ),
    ],
)
def test_new_ca_causes_warnings_only_about_its_status_url(
    url: str, env: dict[str, str], warnings: list[str]
) -> None:
    """With and without a URL of the CA; with the settings of the service, which precede it, or not."""
    assert certlet("init", "ca", *(["--url", url] if url else [])).returncode == 0
    run = certlet("check", env=env)
    assert run.stdout.decode().splitlines() == [f"warning: {warning}" for warning in warnings]
    assert run.returncode == 0


def test_loopback_url_in_a_ca_certificate_causes_a_warning() -> None:
    """The stored URL is in use, too; the certificate has it for OCSP and for the issuer."""
    assert certlet("init", "ca", "--url", "http://localhost:8080").returncode == 0
    lines = certlet("check").stdout.decode().splitlines()
    assert lines[0] == f"warning: http://localhost:8080: {profile_lint.LOOPBACK}"
    assert lines[1] == f"ca/signing-ca.crt: warning: http://localhost:8080/ocsp: {profile_lint.LOOPBACK}"
    assert len(lines) == 3


OCSP_SIGNING = "serverAuth,OCSPSigning"


@pytest.mark.parametrize(
    ("usages", "extended", "env", "is_reported"),
    [
        ("keyCertSign,cRLSign", "serverAuth", {}, True),
        ("keyCertSign,cRLSign", OCSP_SIGNING, {}, False),
        ("keyCertSign,cRLSign,digitalSignature", "serverAuth", {}, False),
        ("keyCertSign,cRLSign,digitalSignature", "serverAuth", {"CERTLET_CA_KEY": "kms:alias/ca"}, True),
        ("keyCertSign,cRLSign", "serverAuth", {CONFIGURED: ""}, False),  # no certificate names OCSP
    ],
)
def test_chain_that_permits_no_ocsp_responder_causes_a_warning(
    tmp_path: Path, usages: str, extended: str, env: dict[str, str], *, is_reported: bool
) -> None:
    """The CA may not sign responses, and its extendedKeyUsage forbids a responder that it certifies."""
    assert certlet("init", "ca").returncode == 0
    text = "the extendedKeyUsage of 'CN=x' does not contain OCSPSigning, so OCSP answers unauthorized"
    extensions = (f"keyUsage=critical,{usages}", f"extendedKeyUsage={extended}")
    options = [option for extension in extensions for option in ("-addext", extension)]
    servers.run(*CREATE.split(), "-out", "ca/signing-ca.crt", *options, cwd=tmp_path)
    run = certlet("check", env={CONFIGURED: ORIGINAL, **env})
    assert run.returncode == 0
    lines = [line for line in run.stdout.decode().splitlines() if "OCSPSigning" in line]
    assert [line.partition(", but")[0] for line in lines] == (
        [f"ca/signing-ca.crt: warning: {text}"] if is_reported else []
    )


@pytest.mark.parametrize("path_length", [0, 1])
def test_chain_that_verifiers_refuse_causes_a_warning(tmp_path: Path, path_length: int) -> None:
    """A pathLen below the root's place in the chain; `certlet serve` refuses such a CA."""
    assert certlet("init", "ca").returncode == 0
    root = factories.root(basic=x509.BasicConstraints(ca=True, path_length=path_length))
    for name, certificate in (("signing", factories.ca()), ("root", root)):
        (tmp_path / "ca" / f"{name}-ca.crt").write_text(encoding.encode_pem([certificate]))
    lines = [line for line in certlet("check").stdout.decode().splitlines() if "pathLen" in line]
    text = "the CA certificate 'CN=Root' has a pathLen that is too small for its place in the chain"
    assert lines == ([] if path_length else [f"ca/signing-ca.crt: warning: {text}"])


def test_profiles_with_errors_are_reported_without_the_chain(tmp_path: Path) -> None:
    """Their OCSP is not known."""
    assert certlet("init", "ca", "--url", ORIGINAL).returncode == 0
    (tmp_path / "own.yaml").write_text("profiles: {server: {validity: x}}")
    run = certlet("check", "--profiles", "own.yaml")
    assert run.returncode == 1
    assert run.stdout.startswith(b"own.yaml:1: ")

from __future__ import annotations

from pathlib import Path

import pytest

from service import profile_lint
from tests import servers

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
    result = servers.certlet("check", cwd=tmp_path)
    warnings = [line for line in result.stdout.decode().splitlines() if "://" in line]
    files = (("signing-ca", urls[1]), ("signing-ca", urls[2]), ("root-ca", urls[0]))
    expected = [f"ca/{name}.crt: warning: {url}: {profile_lint.HTTP_ONLY}" for name, url in files]
    assert warnings == ([] if scheme == "http" else expected)
    assert result.returncode == 0


def test_own_ca_has_no_warning_about_urls(tmp_path: Path) -> None:
    assert servers.certlet("init", "ca", cwd=tmp_path).returncode == 0
    assert b"://" not in servers.certlet("check", cwd=tmp_path).stdout


def test_two_ledgers_are_an_error(tmp_path: Path) -> None:
    env = {"CERTLET_LEDGER": "ledger.db"}
    assert servers.certlet("check", cwd=tmp_path, env=env).returncode == 0
    result = servers.certlet("check", cwd=tmp_path, env=env | {"CERTLET_LEDGER_TABLE": "certlet"})
    assert result.returncode == 1
    assert b"CERTLET_LEDGER and CERTLET_LEDGER_TABLE are both set; set only one\n" in result.stdout


def test_files_of_acme_are_checked(tmp_path: Path) -> None:
    """A malformed file is an error; a missing key, or a file that others can read, causes a warning."""
    assert servers.certlet("init", "ca", cwd=tmp_path).returncode == 0
    assert servers.certlet("acme", "add", "web", cwd=tmp_path).returncode == 0
    key, principals = tmp_path / "ca" / "acme.key", tmp_path / "ca" / "acme-principals.yaml"
    assert b"acme" not in servers.certlet("check", cwd=tmp_path).stdout
    key.chmod(0o640)
    principals.chmod(0o644)
    lines = servers.certlet("check", cwd=tmp_path).stdout.decode().splitlines()
    for name, readers in (("acme.key", "its group"), ("acme-principals.yaml", "every user")):
        assert f"warning: ca/{name} is readable by {readers}: chmod 600 ca/{name}" in lines
    key.unlink()
    result = servers.certlet("check", cwd=tmp_path)
    assert b"ca/acme.key: warning: does not exist, so there is no ACME" in result.stdout
    assert result.returncode == 0
    principals.write_text("web: {generation: 0}\n")
    result = servers.certlet("check", cwd=tmp_path)
    assert (result.returncode, result.stderr.count(b"\n")) == (1, 1)
    assert b"certlet: ca/acme-principals.yaml: line 1: the generation of 'web'" in result.stderr
    principals.unlink()
    key.write_bytes(b"x")
    result = servers.certlet("check", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (1, b"certlet: ca/acme.key: 1 octets; expected 32\n")

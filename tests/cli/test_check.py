from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from service import profile_lint
from service.cli import input_files
from service.pki import encoding
from tests import factories, oidc_issuer, servers
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
    assert result.returncode == 1  # the signing CA has no key, and was not issued by the root


def test_two_ledgers_are_an_error(tmp_path: Path) -> None:
    env = {"CERTLET_LEDGER": "ledger.db"}
    assert certlet("check", env=env).returncode == 0
    result = certlet("check", env=env | {"CERTLET_LEDGER_TABLE": "certlet"})
    assert result.returncode == 1
    assert b"CERTLET_LEDGER and CERTLET_LEDGER_TABLE are both set; set only one\n" in result.stdout


RULES = """
identities:
  other: {{<<: &rule {{issuer: "{url}", audience: "https://ca.example.com", algorithms: [ES256, RS256], jwks_url: "{jwks_url}",
    ca_file: issuer-ca.pem, claims: {{/ref: main, /id: 74}}, profiles: [server, peer], names: {{}}}}, audience: "https://b.example"}}
  ci: {{<<: *rule, names: {{dns: {{permitted: ["{{/environment}}.ci.example.com"]}}}}}}
  all: {{<<: *rule, claims: {{/sub: workload}}}}
"""


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[oidc_issuer.Issuer]:
    """An issuer; its directory has rules for its tokens."""
    directory = tmp_path_factory.mktemp("issuer")
    with oidc_issuer.running(directory) as issuer:
        (directory / "own.yaml").write_text(RULES.format(url=issuer.url, jwks_url=issuer.jwks_url))
        yield issuer


def explain(issuer: oidc_issuer.Issuer, token: str, *options: str) -> tuple[int, list[str]]:
    """The status and the lines of `certlet check --token -`, which never show the token."""
    profiles = issuer.ca_file.parent / "own.yaml"
    result = certlet("check", "--profiles", profiles, "--token", "-", *options, stdin=token.encode())
    output = result.stdout + result.stderr
    assert b"\x1b" not in output
    for part in filter(None, token.split(".")):
        assert part.encode() not in output
    return result.returncode, output.decode().splitlines()


CLAIMS = {"ref": "main", "id": 74, "environment": "prod"}
NAMES = '{"dns": {"permitted": ["prod.ci.example.com"]}}'


def test_check_shows_which_rule_accepts_a_token(issuer: oidc_issuer.Issuer, tmp_path: Path) -> None:
    """The first that does applies. The files are relative to the operator's file."""
    audience = 'aud is "https://ca.example.com", not "https://b.example"'
    token = issuer.token(CLAIMS, "ES256")
    lines = [
        f"other: no: {audience}",
        f"ci: yes: profiles server, peer; names {NAMES}",
        "all: yes, but ci applies, since it is first",
    ]
    assert explain(issuer, token) == (0, lines)
    (tmp_path / "token").write_text(f"{token}\n")
    result = certlet("check", "--profiles", issuer.ca_file.parent / "own.yaml", "--token", "token")
    assert (result.returncode, result.stdout.decode().splitlines()) == (0, lines)


@pytest.mark.parametrize(
    ("claims", "key", "reason"),
    [
        ({"ref": "dev"}, "ES256", "/ref"),
        ({"id": "74"}, "ES256", "/id"),
        ({"environment": "a.b"}, "ES256", "the claim /environment has characters"),
        ({"aud": ["https://ca.example.com", "https://b.example"]}, "ES256", "aud is "),
        ({"iss": "https://c.example\x1b[2J"}, "ES256", "iss is "),
        ({"ref": "\x1b[2J\u202e\u2028"}, "ES256", "/ref"),
        ({"exp": 1, "iat": 0}, "ES256", "the token is expired"),
        ({}, "ES384", "alg is"),
        ({}, "EdDSA", "alg is"),
    ],
)
def test_check_shows_why_rules_refuse_a_token(
    issuer: oidc_issuer.Issuer, claims: dict[str, Any], key: str, reason: str
) -> None:
    """In the operator's terms, escaped, one line for each rule; the status is 1 if none accepts it."""
    token = issuer.token(CLAIMS | {"sub": "x"} | claims, key)
    status, lines = explain(issuer, token)
    assert status == 1
    assert [line.partition(": no: ")[0] for line in lines] == ["other", "ci", "all"]
    assert reason in lines[1]


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "a.b", "\x1b[2J", "é", "x" * 9_000])
def test_check_refuses_what_is_not_a_token(issuer: oidc_issuer.Issuer, token: str) -> None:
    """There is no traceback."""
    profiles = issuer.ca_file.parent / "own.yaml"
    result = certlet("check", "--profiles", profiles, "--token", "-", stdin=token.encode())
    assert (result.returncode, result.stdout.count(b"\n"), result.stderr) == (1, 3, b"")
    assert b"all: no: the token " in result.stdout or b"all: no: the header of the token" in result.stdout


def test_check_without_rules_cannot_explain_a_token(issuer: oidc_issuer.Issuer, tmp_path: Path) -> None:
    """Nor with invalid rules, or without the file of the token. Each is an error in one line."""
    profiles = issuer.ca_file.parent / "own.yaml"
    (tmp_path / "none.yaml").write_text("default: client\n")
    (tmp_path / "bad.yaml").write_text("identities: {ci: {}}\n")
    (tmp_path / "pem.yaml").write_text(profiles.read_text())  # without the file of the CA
    for arguments, message in (
        (("--token", "-"), b"no rules for tokens: pass a file with identities as --profiles"),
        (("--token", "-", "--profiles", "none.yaml"), b"no rules for tokens"),
        (("--token", "-", "--profiles", "bad.yaml"), b"bad.yaml: line 1: identities.ci: missing: issuer"),
        (("--token", "-", "--profiles", "pem.yaml"), b"issuer-ca.pem"),
        (("--token", "absent", "--profiles", profiles), b"absent: No such file"),
    ):
        result = certlet("check", *arguments, stdin=b"x")
        assert (result.returncode, result.stdout, result.stderr.count(b"\n")) == (1, b"", 1)
        assert message in result.stderr


def test_check_shows_that_keys_are_not_available(issuer: oidc_issuer.Issuer) -> None:
    """The reason is that of the download; the status is 1."""
    token = issuer.token(CLAIMS, "ES256")
    issuer.fault = oidc_issuer.Fault.ERROR
    try:
        status, lines = explain(issuer, token)
    finally:
        issuer.fault = oidc_issuer.Fault.NONE
    assert status == 1
    assert any(line.startswith("ci: no: rule ") and line.endswith("status 500") for line in lines)


def test_problem_with_keys_is_printed_once(tmp_path: Path) -> None:
    """What the service would log is among the findings of the command."""
    rule = "{issuer: x, audience: y, algorithms: [ES256], jwks_file: absent.json, claims: {/sub: x}"
    (tmp_path / "own.yaml").write_text(f"identities:\n  ci: {rule}, profiles: [server], names: {{}}}}\n")
    result = servers.certlet("check", "--profiles", "own.yaml", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (1, b"")
    assert result.stdout.startswith(b"own.yaml:2: rule ci: ")
    assert result.stdout.count(b"absent.json") == 1


def test_files_of_acme_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    with monkeypatch.context() as other_user:
        other_user.setattr(os, "geteuid", lambda: key.stat().st_uid + 1)
        assert list(input_files.exposure_warnings([key])) == []  # otherwise this user could not read it
        assert len(list(input_files.exposure_warnings([principals]))) == 1
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
    lines = [line for line in run.stdout.decode().splitlines() if "OCSPSigning" in line]
    assert [line.partition(", but")[0] for line in lines] == (
        [f"ca/signing-ca.crt: warning: {text}"] if is_reported else []
    )
    assert run.returncode == 1  # the signing CA was not issued by the root


@pytest.mark.parametrize("path_length", [0, 1])
def test_chain_that_verifiers_refuse_is_an_error(tmp_path: Path, path_length: int) -> None:
    """A pathLen below the root's place in the chain; `certlet serve` refuses such a CA."""
    assert certlet("init", "ca").returncode == 0
    root = factories.root(basic=x509.BasicConstraints(ca=True, path_length=path_length))
    for name, certificate in (("signing", factories.ca()), ("root", root)):
        (tmp_path / "ca" / f"{name}-ca.crt").write_text(encoding.encode_pem([certificate]))
    lines = [line for line in certlet("check").stdout.decode().splitlines() if "pathLen" in line]
    text = "the CA certificate 'CN=Root' has a pathLen that is too small for its place in the chain"
    assert lines == ([] if path_length else [f"ca/signing-ca.crt: {text}"])


PASSPHRASE = "correct horse battery staple"  # noqa: S105 - of a CA of these tests


@pytest.fixture(scope="module")
def encrypted_ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("encrypted") / "ca"
    servers.create_ca(directory, PASSPHRASE)
    return directory


def check_and_doctor(env: dict[str, str]) -> tuple[int, str, str, bytes]:
    """The status of both commands, the output of each, and what check prints on stderr."""
    env = {"CERTLET_CA_PASSPHRASE": PASSPHRASE, "CERTLET_URL": "http://127.0.0.1:9"} | env
    run, doctor = certlet("check", env=env), certlet("doctor", env=env)
    assert (run.returncode, doctor.stderr) == (doctor.returncode, b"")
    return run.returncode, run.stdout.decode(), doctor.stdout.decode(), run.stderr


BAD_KEY = "ca/signing-ca.key is not a PEM private key, or CERTLET_CA_PASSPHRASE is wrong"


@pytest.mark.parametrize(
    ("file", "content", "env", "error"),
    [
        ("signing-ca.key", "root-ca.key", {}, "ca/signing-ca.key is not the key of CN=Certlet Signing CA "),
        ("signing-ca.key", "x", {}, BAD_KEY),
        ("", "", {"CERTLET_CA_PASSPHRASE": "x"}, BAD_KEY),
        ("", "", {"CERTLET_CA_PASSPHRASE": ""}, "CERTLET_CA_PASSPHRASE is set but empty"),
        ("", "", {"CERTLET_CA_KEY": "file:absent.key"}, "ca/absent.key: No such file or directory"),
        ("", "", {"CERTLET_CA_KEY": "x"}, "CERTLET_CA_KEY is invalid; expected file:PATH, "),
        ("revoked.yaml", "x", {}, "ca/revoked.yaml: line 1: not a YAML list: not a list"),
        ("revoked.yaml", None, {}, "ca/revoked.yaml: No such file or directory"),
        ("denied-keys.txt", "x", {}, "ca/denied-keys.txt: "),
        ("api-keys.json", "x", {}, "ca/api-keys.json cannot be read as a file of API keys: "),
    ],
)
def test_ca_that_the_server_cannot_use_is_an_error(
    encrypted_ca: Path, tmp_path: Path, file: str, content: str | None, env: dict[str, str], error: str
) -> None:
    """Its key, its lists and its API keys: in check and in doctor, once."""
    ca = shutil.copytree(encrypted_ca, tmp_path / "ca")
    if content is None:
        (ca / file).unlink()
    elif file:
        (ca / file).write_bytes((ca / content).read_bytes() if content.endswith(".key") else content.encode())
        (ca / file).chmod(0o600)
    status, output, findings, notes = check_and_doctor(env)
    assert (status, output.count("\n"), findings.count("\nError "), notes) == (1, 1, 1, b"")
    assert output.startswith(error)
    assert f"\nError     CA: {error}" in findings


def test_key_in_aws_is_not_checked(encrypted_ca: Path, tmp_path: Path) -> None:
    """Nor its passphrase. A list of denied keys is optional."""
    ca = shutil.copytree(encrypted_ca, tmp_path / "ca")
    (ca / "denied-keys.txt").write_text("# none")
    for env in ({}, {"CERTLET_CA_KEY": "kms:alias/ca"}):
        status, output, findings, notes = check_and_doctor(env)
        assert (status, output, "Error" in findings) == (0, "", False)
        assert notes == b"note: checked the profiles and the CA in ca\n"
        (ca / "signing-ca.key").write_text("x")


def test_key_that_is_not_checked_causes_a_warning(encrypted_ca: Path, tmp_path: Path) -> None:
    """It is encrypted, and the passphrase is not set; or it does not exist: it may be in AWS."""
    key = shutil.copytree(encrypted_ca, tmp_path / "ca") / "signing-ca.key"
    run = certlet("check")
    text = "warning: is encrypted, so it was not checked (set CERTLET_CA_PASSPHRASE)"
    assert (run.returncode, run.stdout.decode()) == (0, f"ca/signing-ca.key: {text}\n")
    key.unlink()
    run = certlet("check")
    assert run.returncode == 0
    assert run.stdout.startswith(
        b"ca/signing-ca.key: warning: does not exist, so certlet serve does not start ("
    )
    run = certlet("check", env={"CERTLET_CA_KEY": "secretsmanager:ca"})
    assert (run.returncode, run.stdout) == (0, b"")


@pytest.mark.parametrize("command", ["check", "doctor"])
def test_quiet_prints_only_errors(command: str) -> None:
    """A warning is not printed, and changes no exit status."""
    assert certlet("init", "ca").returncode == 0
    Path("ca/serial.key").unlink()
    env = {"CERTLET_URL": "http://127.0.0.1:9"}
    run = certlet(command, "--quiet", env=env)
    assert (run.returncode, run.stdout, run.stderr) == (0, b"", b"")
    Path("ca/denied-keys.txt").write_text("x")
    run = certlet(command, "--quiet", env=env)
    assert (run.returncode, run.stdout.count(b"\n"), b"denied-keys.txt" in run.stdout) == (1, 1, True), run


@pytest.mark.parametrize("command", ["check", "doctor"])
def test_directory_of_the_option_must_have_a_ca(tmp_path: Path, command: str) -> None:
    """The default directory need not, and check says what it checked."""
    (tmp_path / "my.crt").touch()
    env = {"CERTLET_URL": "http://127.0.0.1:9"}
    for path in ("absent", "my.crt", "ca"):
        run = certlet(command, "--ca", path, env=env)
        assert run.returncode == 1
        assert f"no CA in {path}: pass another directory as --ca, or " in (run.stdout + run.stderr).decode()
    run = certlet(command, env=env)
    assert run.returncode == 0
    note = b"note: checked the profiles only: there is no CA in ca\n"
    assert run.stderr == (note if command == "check" else b"")
    assert certlet(command, "--quiet", env=env).stderr == b""


def test_profiles_with_errors_are_reported_without_the_chain(tmp_path: Path) -> None:
    """Their OCSP is not known."""
    assert certlet("init", "ca", "--url", ORIGINAL).returncode == 0
    (tmp_path / "own.yaml").write_text("profiles: {server: {validity: x}}")
    run = certlet("check", "--profiles", "own.yaml")
    assert run.returncode == 1
    assert run.stdout.startswith(b"own.yaml:1: ")


def test_findings_are_json_objects(tmp_path: Path) -> None:
    """Each has a level and a text; those of a file have its name and line."""
    (tmp_path / "own.yaml").write_text("profiles:\n  server: {validity: 5}\n")
    run = certlet("check", "--profiles", "own.yaml", "--json")
    (error,) = [json.loads(line) for line in run.stdout.splitlines()]
    assert (run.returncode, error["level"], error["file"], error["line"]) == (1, "error", "own.yaml", 2)
    servers.create_ca(tmp_path / "ca")
    (tmp_path / "ca" / "serial.key").unlink()
    run = certlet("check", "--json")
    (warning,) = [json.loads(line) for line in run.stdout.splitlines()]
    assert (run.returncode, warning["level"]) == (0, "warning")
    assert warning["text"].startswith("ca/serial.key: does not exist")

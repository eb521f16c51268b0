"""Build the Lambda zip, without a container: `make zip`, or `python -m deploy.build --help`.

The zip holds the locked wheels for the target, the service without its local gateway and command line, and
the parsed contract. The build is reproducible: the same input gives the same bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509

from service import openapi
from service.keystore import acme_principals, ca_directory, revocation_file
from service.oidc.jwk_set import parse_jwk_set
from service.oidc.key_sets import create_key_sets
from service.overrides import OverridesError, verify_policy
from service.pki.errors import CAError, quote
from service.pki.identity_rules import IdentityRule
from service.pki.policy_parser import ProfileError
from service.settings import IDENTITIES_IN_ZIP

ROOT: Final = Path(__file__).parent.parent
LOCK: Final = ROOT / "deploy" / "lock" / "function.txt"
PLATFORMS: Final = {"arm64": "aarch64", "x86_64": "x86_64"}
GLIBC: Final = ("manylinux_2_28", "manylinux2014", "manylinux_2_17")  # Amazon Linux 2023 has 2.34
HANDLER: Final = "function.handler"
CA_IN_ZIP: Final = "ca"

# Importing and preparing in Lambda's init phase keeps the first event from waiting for it.
HANDLER_SOURCE: Final = f'''"""The Lambda function's entry: Handler is {HANDLER}."""

import gc
import os

os.environ.setdefault("CERTLET_CA", os.path.join(os.path.dirname(__file__), "{CA_IN_ZIP}"))
gc.disable()  # objects created at start live as long as the process

from service.aws_lambda import handler, init

__all__ = ["handler"]

init()
gc.freeze()
gc.enable()
'''

_EXCLUDED: Final = (
    "cli",
    "client.py",
    "gateway",
    "openapi.yaml",
    "profile_lint.py",
    "hardening.py",
    "http_validator.py",
    "self_issued.py",
    "supervisor.py",
    "token_worker.py",
    "__pycache__",
)
_PRUNED: Final = ("bin", "cffi", "share")  # cryptography needs only _cffi_backend
_ZIP_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the earliest date that a zip can hold


class BuildError(Exception):
    """The zip cannot be built; the message gives the reason in one line."""


def build(
    arch: str,
    python: str,
    output: Path,
    ca: Path | None,
    passphrase: bytes | None,
    profiles: Path | None = None,
) -> list[str]:
    """Build the zip.

    Args:
        arch: `arm64` or `x86_64`, Lambda's names.
        python: the runtime's version, such as `3.13`.
        output: the zip's path.
        ca: a directory whose certificates, and encrypted signing key if there is one, go into the zip.
        passphrase: the passphrase of its signing key.
        profiles: the operator's profiles, which override the contract's in the zip.

    Returns:
        lines to print: warnings about what the zip does not contain, and the sizes.

    Raises:
        BuildError: a wheel is missing, the CA's signing key must not go into a zip, or a file of a rule for
            tokens is not usable.
        OverridesError, ProfileError: the profiles are not well formed.
    """
    document = openapi.load(profiles)
    verify_policy(openapi.policy_data(document))
    directory = profiles.parent if profiles else ROOT / "service"
    identity_files = _verify_identity_files(openapi.parse_policy(document).identities, directory)
    with tempfile.TemporaryDirectory() as temporary:
        tree = Path(temporary) / "zip"
        _install(arch, python, tree)
        shutil.copytree(ROOT / "service", tree / "service", ignore=shutil.ignore_patterns(*_EXCLUDED))
        (tree / "service" / "openapi.json").write_text(json.dumps(document, separators=(",", ":")))
        (tree / "function.py").write_text(HANDLER_SOURCE)
        for name in identity_files:
            target = tree / IDENTITIES_IN_ZIP / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(directory / name, target)
        warnings = _copy_ca(ca, tree / CA_IN_ZIP, passphrase) if ca else []
        if not _compile(python, tree):
            warnings.append(f"python{python} not found: the zip holds no bytecode, so cold starts are slower")
        _pack(tree, output)
    return warnings + _sizes(output)


def _install(arch: str, python: str, tree: Path) -> None:
    platforms = [f"--platform={glibc}_{PLATFORMS[arch]}" for glibc in GLIBC]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    options = [f"--python-version={python}", "--only-binary=:all:", "--no-deps", "--require-hashes"]
    process = subprocess.run(  # noqa: S603 - the pip of this environment
        [*pip, *platforms, *options, "--no-compile", "--target", str(tree), "-r", str(LOCK)],
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        raise BuildError(f"cannot install the locked wheels: {process.stderr.strip().splitlines()[-1]}")
    for name in _PRUNED:
        shutil.rmtree(tree / name, ignore_errors=True)
    for path in sorted(tree.rglob("*"), reverse=True):
        metadata = path.parent.suffix == ".dist-info" and path.name not in ("METADATA", "sboms")
        if metadata or path.suffix in (".pyi", ".typed", ".pyx", ".pxd", ".c", ".h"):
            path.unlink() if path.is_file() else shutil.rmtree(path)


def _verify_identity_files(rules: Sequence[IdentityRule], directory: Path) -> list[str]:
    """Return the files of rules for tokens, which are in the directory of the operator's profiles."""
    names = []
    for rule in rules:
        for name in filter(None, (rule.jwks_file, rule.ca_file)):
            if Path(name).is_absolute() or ".." in Path(name).parts:
                detail = f"{quote(name)} is not in the directory of the profiles: copy it there"
                raise BuildError(f"rule {rule.name}: {detail}")
            names.append(name)
        if rule.jwks_file and not _has_keys(directory / rule.jwks_file):
            raise BuildError(f"rule {rule.name}: {quote(rule.jwks_file)} is not a JWK Set with a usable key")
    try:
        create_key_sets(rules, directory, lambda: datetime.now(UTC))  # reads the CA files
    except ValueError as error:
        raise BuildError(str(error)) from error
    return names


def _has_keys(path: Path) -> bool:
    try:
        return bool(parse_jwk_set(path.read_bytes()).keys)
    except ValueError:
        return False


def _copy_ca(ca: Path, target: Path, passphrase: bytes | None) -> list[str]:
    """Copy the certificates, the lists, and the encrypted signing key if it is a file; return warnings.

    The keys of previous CAs stay out: only their places in AWS are copied.
    """
    ca_directory.load_chain(ca)
    previous = [ca_directory.previous_key_name(item) for item in ca_directory.load_predecessors(ca)]
    previous = [name for name in previous if os.path.lexists(ca / name)]
    in_aws = [name for name in previous if ca_directory.load_key_reference(ca / name)]
    names = [ca_directory.ROOT_CERTIFICATE, ca_directory.SIGNING_CERTIFICATE]
    ca_directory.load_serial_keys(ca)
    ca_directory.load_status_url(ca)
    revocation_file.load_deny_list(ca)
    optional = (
        ca_directory.PREVIOUS_CERTIFICATES,
        ca_directory.CA_STATUS,
        ca_directory.SERIAL_KEY,
        ca_directory.STATUS_URL,
        revocation_file.DENY_LIST,
        *acme_principals.load_files(ca),
    )
    names += [name for name in optional if (ca / name).exists()]
    if (ca / ca_directory.SIGNING_KEY).exists():  # otherwise it is in KMS or Secrets Manager
        _verify_key(ca, passphrase)
        names.append(ca_directory.SIGNING_KEY)
    target.mkdir()
    for name in names + in_aws:
        shutil.copyfile(ca / name, target / name)
    (target / revocation_file.REVOKED).write_bytes(
        revocation_file.encode_revoked(revocation_file.load_revoked(ca).values())
    )
    return [
        f"{ca / name} is not in the zip, so that CA has no CRL and no OCSP responses: move the key to "
        "Secrets Manager (docs/how-to/rollover.md)"
        for name in previous
        if name not in in_aws
    ]


def _verify_key(ca: Path, passphrase: bytes | None) -> None:
    path = ca / ca_directory.SIGNING_KEY
    if passphrase is None:
        raise BuildError("a zip holds only an encrypted CA key: set CERTLET_CA_PASSPHRASE")
    if b"ENCRYPTED" not in path.read_bytes():
        raise BuildError(f"{path} is not encrypted; encrypt it before building the zip")
    public_key = ca_directory.load_private_key(path, passphrase).public_key()
    root = x509.load_pem_x509_certificate((ca / ca_directory.ROOT_CERTIFICATE).read_bytes())
    if public_key == root.public_key():
        raise BuildError(f"{path} is the root key, which must not be on a server; use the signing CA's key")
    ca_directory.load_issuer(ca, passphrase)  # verifies all of it, as the function does


def _compile(python: str, tree: Path) -> bool:
    """Compile with the target's Python: Lambda's task folder is read-only, so it cannot cache bytecode."""
    compiler = interpreter(python)
    if compiler is None:
        return False
    options = ["-q", "-j", "1", "--invalidation-mode", "unchecked-hash", "-s", str(tree), "-p", "/var/task"]
    subprocess.run(  # noqa: S603 - the interpreter found above
        [compiler, "-m", "compileall", *options, str(tree)],
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )
    return True


def interpreter(python: str) -> str | None:
    """Return the path of a Python of this version on this machine; None if there is none."""
    candidates = [sys.executable, shutil.which(f"python{python}")]
    candidates += [str(path) for path in Path.home().glob(f".pyenv/versions/{python}.*/bin/python{python}")]
    script = "import sys; print('%d.%d' % sys.version_info[:2])"
    for candidate in filter(None, candidates):
        run = subprocess.run([candidate, "-c", script], capture_output=True, text=True, check=False)  # noqa: S603 - fixed
        if run.stdout.strip() == python:
            return candidate
    return None


def _pack(tree: Path, output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in sorted(path for path in tree.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(path.relative_to(tree).as_posix(), _ZIP_EPOCH)
            entry.external_attr = 0o100644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, path.read_bytes(), compresslevel=9)


def _sizes(output: Path) -> list[str]:
    packages: Counter[str] = Counter()
    with zipfile.ZipFile(output) as archive:
        for entry in archive.infolist():
            packages[entry.filename.partition("/")[0].partition("-")[0]] += entry.compress_size
    lines = [f"{size / 1e6:8.2f} MB  {name}" for name, size in packages.most_common(12)]
    return [*lines, f"{output.stat().st_size / 1e6:8.2f} MB  {output}"]


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="make zip ZIP=…", description="Build the Lambda zip.")
    parser.add_argument("--arch", choices=sorted(PLATFORMS), default="arm64", help="[arm64]")
    parser.add_argument("--python", default="3.13", metavar="VERSION", help="[3.13]")
    parser.add_argument(
        "--ca", type=Path, metavar="DIR", help="include this CA's certificates and encrypted key"
    )
    parser.add_argument(
        "--profiles", type=Path, metavar="FILE", help="override the contract's profiles with this file"
    )
    parser.add_argument("--output", type=Path, metavar="ZIP", help="write the zip here [build/]")
    options = parser.parse_args()
    output = options.output or ROOT / "build" / f"certlet-{options.arch}-python{options.python}.zip"
    passphrase = os.environ.get("CERTLET_CA_PASSPHRASE")
    try:
        warnings = build(
            options.arch,
            options.python,
            output,
            options.ca,
            os.fsencode(passphrase) if passphrase else None,
            options.profiles,
        )
    except (BuildError, CAError, OverridesError, ProfileError, OSError) as error:
        sys.stderr.write(f"build: {error}\n")
        return 1
    sys.stdout.writelines(f"{line}\n" for line in warnings)
    return 0


if __name__ == "__main__":
    sys.exit(main())

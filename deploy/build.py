"""Builds the Lambda zip, without a container: `make zip`, or `python -m deploy.build --help`.

Locked wheels for the target, the service without its local gateway and command line, and the contract
parsed. Built twice it is the same, octet for octet.
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
from pathlib import Path
from typing import Final

from cryptography import x509

from service import openapi
from service.keystore import ca_directory, revocation_file
from service.overrides import OverridesError, verify
from service.pki.errors import CAError
from service.pki.profile_loader import ProfileError

ROOT: Final = Path(__file__).parent.parent
LOCK: Final = ROOT / "deploy" / "lock" / "function.txt"
PLATFORMS: Final = {"arm64": "aarch64", "x86_64": "x86_64"}
GLIBC: Final = ("manylinux_2_28", "manylinux2014", "manylinux_2_17")  # Amazon Linux 2023 has 2.34
HANDLER: Final = "function.handler"
CA_IN_ZIP: Final = "ca"

# Lambda's init phase prepares what the first event would wait for. /var/task is where the zip stands.
ENTRY: Final = f'''"""The Lambda function's entry: Handler is {HANDLER}."""

import gc
import os

os.environ.setdefault("CERTLET_CA", os.path.join(os.path.dirname(__file__), "{CA_IN_ZIP}"))
gc.disable()  # what is made at start stays: there is nothing to collect yet, nor later among it

from service.aws_lambda import handler, prepare

__all__ = ["handler"]

prepare()
gc.freeze()
gc.enable()
'''

_LEFT_OUT: Final = (
    "cli",
    "client.py",
    "gateway",
    "openapi.yaml",
    "profile_lint.py",
    "hardening.py",
    "self_issued.py",
    "supervisor.py",
    "__pycache__",
)
_UNUSED: Final = ("bin", "cffi", "share")  # cryptography needs _cffi_backend alone
_DATE: Final = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can say


class BuildError(Exception):
    """The zip cannot be built; the message says why, in one line."""


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
        arch: `arm64` or `x86_64`, as Lambda says it.
        python: the runtime's version, such as `3.13`.
        output: the zip's path.
        ca: a directory whose certificates, and encrypted signing key if there is one, go into the zip.
        passphrase: what its signing key is encrypted under.
        profiles: the operator's own, which are merged over the contract's in the zip.

    Returns:
        what there is to tell, in lines.

    Raises:
        BuildError: a wheel is missing, or the CA must not go into a zip.
        OverridesError, ProfileError: the profiles are not well formed.
    """
    document = openapi.load(profiles)
    verify(openapi.policy(document))
    with tempfile.TemporaryDirectory() as temporary:
        tree = Path(temporary) / "zip"
        _install(arch, python, tree)
        shutil.copytree(ROOT / "service", tree / "service", ignore=shutil.ignore_patterns(*_LEFT_OUT))
        (tree / "service" / "openapi.json").write_text(json.dumps(document, separators=(",", ":")))
        (tree / "function.py").write_text(ENTRY)
        if ca is not None:
            _copy_ca(ca, tree / CA_IN_ZIP, passphrase)
        told = [] if _compile(python, tree) else [f"no python{python} here: no bytecode shipped"]
        _pack(tree, output)
    return told + _sizes(output)


def _install(arch: str, python: str, tree: Path) -> None:
    platforms = [f"--platform={glibc}_{PLATFORMS[arch]}" for glibc in GLIBC]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    options = [f"--python-version={python}", "--only-binary=:all:", "--no-deps", "--require-hashes"]
    run = subprocess.run(  # noqa: S603 - our own pip
        [*pip, *platforms, *options, "--no-compile", "--target", str(tree), "-r", str(LOCK)],
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        raise BuildError(f"the locked wheels cannot be had: {run.stderr.strip().splitlines()[-1]}")
    for name in _UNUSED:
        shutil.rmtree(tree / name, ignore_errors=True)
    for path in sorted(tree.rglob("*"), reverse=True):
        metadata = path.parent.suffix == ".dist-info" and path.name not in ("METADATA", "sboms")
        if metadata or path.suffix in (".pyi", ".typed", ".pyx", ".pxd", ".c", ".h"):
            path.unlink() if path.is_file() else shutil.rmtree(path)


def _copy_ca(ca: Path, target: Path, passphrase: bytes | None) -> None:
    """The certificates and what goes with them, and the encrypted signing key if it is a file."""
    ca_directory.chain(ca)
    ca_directory.previous(ca)
    names = [ca_directory.ROOT_CERTIFICATE, ca_directory.SIGNING_CERTIFICATE]
    ca_directory.serial_secret(ca)
    revocation_file.deny_list(ca)
    names += [
        name
        for name in (ca_directory.PREVIOUS, ca_directory.SERIAL_KEY, revocation_file.DENY_LIST)
        if (ca / name).exists()
    ]
    if (ca / ca_directory.SIGNING_KEY).exists():  # else it is in KMS or Secrets Manager
        _verify_key(ca, passphrase)
        names.append(ca_directory.SIGNING_KEY)
    target.mkdir()
    for name in names:
        shutil.copyfile(ca / name, target / name)
    (target / revocation_file.REVOKED).write_bytes(
        revocation_file.encode(revocation_file.revoked(ca).values())
    )


def _verify_key(ca: Path, passphrase: bytes | None) -> None:
    path = ca / ca_directory.SIGNING_KEY
    if passphrase is None:
        raise BuildError("the CA's key goes into the zip encrypted alone: set CERTLET_CA_PASSPHRASE")
    if b"ENCRYPTED" not in path.read_bytes():
        raise BuildError(f"{path} is not encrypted, and would stand open in the zip")
    public_key = ca_directory.private_key(path, passphrase).public_key()
    root = x509.load_pem_x509_certificate((ca / ca_directory.ROOT_CERTIFICATE).read_bytes())
    if public_key == root.public_key():
        raise BuildError(f"{path} is the root's key, which stays off every server")
    ca_directory.load(ca, passphrase)  # proves the whole of it, as the function will


def _compile(python: str, tree: Path) -> bool:
    """Compile by the target's version: the task folder is read-only, so Lambda could not keep its own."""
    compiler = interpreter(python)
    if compiler is None:
        return False
    options = ["-q", "-j", "1", "--invalidation-mode", "unchecked-hash", "-s", str(tree), "-p", "/var/task"]
    subprocess.run(  # noqa: S603 - the interpreter just found
        [compiler, "-m", "compileall", *options, str(tree)],
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )
    return True


def interpreter(python: str) -> str | None:
    """A Python of this version on this machine; None if there is none."""
    candidates = [sys.executable, shutil.which(f"python{python}")]
    candidates += [str(path) for path in Path.home().glob(f".pyenv/versions/{python}.*/bin/python{python}")]
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    for candidate in filter(None, candidates):
        run = subprocess.run([candidate, "-c", ask], capture_output=True, text=True, check=False)  # noqa: S603
        if run.stdout.strip() == python:
            return candidate
    return None


def _pack(tree: Path, output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in sorted(path for path in tree.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(path.relative_to(tree).as_posix(), _DATE)
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
    """Build what the arguments say."""
    parser = argparse.ArgumentParser(prog="make zip ZIP=…", description="Build the Lambda zip.")
    parser.add_argument("--arch", choices=sorted(PLATFORMS), default="arm64")
    parser.add_argument("--python", default="3.13")
    parser.add_argument(
        "--ca", type=Path, metavar="DIR", help="put this CA's certificates in, and its encrypted key"
    )
    parser.add_argument("--profiles", type=Path, metavar="FILE", help="your own, merged over the contract's")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    output = options.output or ROOT / "build" / f"certlet-{options.arch}-python{options.python}.zip"
    passphrase = os.environ.get("CERTLET_CA_PASSPHRASE")
    try:
        told = build(
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
    sys.stdout.writelines(f"{line}\n" for line in told)
    return 0


if __name__ == "__main__":
    sys.exit(main())

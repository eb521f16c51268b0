"""Certificates judged by what nobody here wrote: openssl, pkilint, real TLS."""

from __future__ import annotations

import functools
import json
import socket
import ssl
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from service.authority import Issued
from service.pki import encoding
from tests import authorities, csrs
from tests.authorities import SIGNING, ca

PROFILES = ("server", "client", "peer")
# OpenSSL 3.0 does not know ML-DSA; a later issue brings a judge that does.
OPENSSL_KINDS = tuple(kind for kind in csrs.KINDS if not kind.startswith("ml-dsa"))
# Not a fault: it says that the identifier is a hash of the key (RFC 5280 4.2.1.2, method 1).
PRAISE = "pkix.subject_key_identifier_method_1_identified"
SANS = ("dns:a.example.com", "ip:127.0.0.1")


@functools.cache
def issued(kind: str, profile: str, ca: str = "p-256", sans: tuple[str, ...] = SANS) -> Issued:
    """A certificate by a whole authority, issued now."""
    authority = authorities.authority(now=datetime.now(UTC), of=authorities.issuer(ca))
    return authority.issue(authorities.order(csrs.pem(csrs.build(sans=sans, kind=kind)), profile))


def write(directory: Path, made: Issued, kind: str, ca: str = "p-256") -> None:
    """Leaf, chain, root and key as files."""
    root = authorities.issuer(ca).root
    (directory / "leaf.pem").write_text(encoding.pem([made.certificate]))
    (directory / "chain.pem").write_text(encoding.pem(made.intermediates))
    (directory / "bundle.pem").write_text(encoding.pem([made.certificate, *made.intermediates]))
    (directory / "root.pem").write_text(encoding.pem([root]))
    key = csrs.key(kind).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (directory / "key.pem").write_bytes(key)


def verify(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """`openssl verify -x509_strict` of the leaf."""
    return subprocess.run(
        ["openssl", "verify", "-x509_strict", "-CAfile", "root.pem", "-untrusted", "chain.pem"]
        + [*options, "leaf.pem"],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("kind", OPENSSL_KINDS)
def test_openssl_accepts_it_for_its_purpose_alone(tmp_path: Path, kind: str, profile: str) -> None:
    """`openssl verify -x509_strict` accepts a certificate for what its profile says, and no more."""
    write(tmp_path, issued(kind, profile), kind)
    for purpose, profiles in (("sslserver", ("server", "peer")), ("sslclient", ("client", "peer"))):
        judged = verify(tmp_path, "-purpose", purpose, "-verify_hostname", "a.example.com")
        assert (judged.returncode == 0) is (profile in profiles), judged.stderr
    assert verify(tmp_path, "-verify_hostname", "b.example.com").returncode
    assert verify(tmp_path, "-purpose", "smimesign").returncode


@pytest.mark.parametrize("ca", ["rsa-2048", "p-384", "ed25519"])
def test_openssl_accepts_every_kind_of_ca(tmp_path: Path, ca: str) -> None:
    """A chain by another kind of CA key verifies too; under another root it does not."""
    write(tmp_path, issued("p-256", "server", ca), "p-256", ca)
    assert verify(tmp_path, "-purpose", "sslserver").returncode == 0
    (tmp_path / "root.pem").write_text(encoding.pem([authorities.issuer("p-256").root]))
    assert verify(tmp_path, "-purpose", "sslserver").returncode


def test_openssl_refuses_a_tampered_certificate(tmp_path: Path) -> None:
    """The negative twin: one changed octet, and the chain does not verify."""
    made = issued("p-256", "server")
    write(tmp_path, made, "p-256")
    der = encoding.der(made.certificate).replace(b"a.example.com", b"b.example.com")
    tampered = x509.load_der_x509_certificate(der)
    (tmp_path / "leaf.pem").write_text(encoding.pem([tampered]))
    assert "certificate signature failure" in verify(tmp_path).stderr


def lint(*arguments: str, cwd: Path) -> list[dict[str, str]]:
    """pkilint's findings."""
    program = Path(sys.executable).parent / arguments[0]
    run = subprocess.run([str(program), *arguments[1:]], cwd=cwd, capture_output=True, text=True, check=False)
    assert run.stdout.strip(), run.stderr
    return [
        finding
        for result in json.loads(run.stdout)["results"]
        for finding in result["finding_descriptions"]
        if finding["code"] != PRAISE
    ]


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("kind", csrs.FAST_KINDS)
def test_pkilint_finds_nothing(tmp_path: Path, kind: str, profile: str) -> None:
    """pkilint's RFC 5280 linter has nothing to say about a certificate of any profile and kind of key."""
    write(tmp_path, issued(kind, profile), kind)
    assert lint("lint_pkix_cert", "lint", "-s", "INFO", "-f", "JSON", "leaf.pem", cwd=tmp_path) == []


def test_pkilint_finds_nothing_in_the_chain(tmp_path: Path) -> None:
    """Nor about the CA certificates, nor about how leaf and signing CA fit together."""
    write(tmp_path, issued("p-256", "server"), "p-256")
    for name in ("chain.pem", "root.pem"):
        assert lint("lint_pkix_cert", "lint", "-s", "INFO", "-f", "JSON", name, cwd=tmp_path) == []
    for signer, signee in (("chain.pem", "leaf.pem"), ("root.pem", "chain.pem")):
        arguments = ("lint", "-s", "INFO", "-f", "JSON", signer, signee)
        assert lint("lint_pkix_signer_signee_cert_chain", *arguments, cwd=tmp_path) == []


def test_pkilint_would_find_something(tmp_path: Path) -> None:
    """The negative twin: a certificate without an authority key identifier is found."""
    certificate = ca(basic=None, usage=None, signer=SIGNING)
    (tmp_path / "naive.pem").write_text(encoding.pem([certificate]))
    assert lint("lint_pkix_cert", "lint", "-s", "INFO", "-f", "JSON", "naive.pem", cwd=tmp_path)


def handshake(directory: Path, trusted: str, name: str) -> str:
    """One TLS handshake over a real socket; the error's reason, or the peer's certificate's subject."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(directory / "bundle.pem", directory / "key.pem")
    client = ssl.create_default_context(cafile=str(directory / trusted))
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            try:
                with server.wrap_socket(connection, server_side=True) as wrapped:
                    wrapped.recv(1)
            except (ssl.SSLError, OSError):
                return

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with socket.create_connection(listener.getsockname()) as raw:
            try:
                with client.wrap_socket(raw, server_hostname=name) as wrapped:
                    assert wrapped.getpeercert()
                    return "accepted"
            except ssl.SSLCertVerificationError as error:
                return error.verify_message
    finally:
        thread.join(10)
        listener.close()


@pytest.mark.parametrize("kind", OPENSSL_KINDS)
def test_tls_with_a_certificate(tmp_path: Path, kind: str) -> None:
    """A client that trusts the root accepts the server by its name; another name or CA it refuses."""
    write(tmp_path, issued(kind, "server"), kind)
    (tmp_path / "other.pem").write_text(encoding.pem([authorities.issuer("p-384").root]))
    assert handshake(tmp_path, "root.pem", "a.example.com") == "accepted"
    assert handshake(tmp_path, "root.pem", "127.0.0.1") == "accepted"
    assert "mismatch" in handshake(tmp_path, "root.pem", "b.example.com")
    assert "unable to get" in handshake(tmp_path, "other.pem", "a.example.com")


def test_a_client_certificate_is_no_server(tmp_path: Path) -> None:
    """The `client` profile's certificate is refused from a server (wrong usage)."""
    write(tmp_path, issued("p-256", "client"), "p-256")
    assert "purpose" in handshake(tmp_path, "root.pem", "a.example.com")

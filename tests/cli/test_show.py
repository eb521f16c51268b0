"""`certlet show`: what is in a file, whether a key and a chain fit, and what no service would sign."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from cryptography.x509.oid import ExtendedKeyUsageOID

from service.cli import inspection
from service.pki import keys, pem
from service.pki.keys import encode_private_key
from tests import csrs, factories, servers
from tests.adversarial import request_strategies
from tests.cli import certlet
from tests.factories import NOW, SIGNING, ca, root

NAMES = x509.SubjectAlternativeName([x509.DNSName("a.example.com")])


def leaf(**change: Any) -> x509.Certificate:
    """A TLS server's certificate under `ca()`, with one thing changed."""
    usual = {
        "subject": "a.example.com",
        "issuer": "Signing",
        "signing_key": SIGNING,
        "public_key": csrs.private_key().public_key(),
        "end": NOW + timedelta(days=90),
        "basic": x509.BasicConstraints(ca=False, path_length=None),
        "usage": None,
        "aki": x509.AuthorityKeyIdentifier.from_issuer_public_key(SIGNING.public_key()),
        "san": NAMES,
        "eku": x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
    }
    return ca(**{**usual, **change})


OTHER_KEY = x509.AuthorityKeyIdentifier(b"other", None, None)


@pytest.mark.parametrize(
    ("chain", "index", "problem"),
    [
        ([leaf(start=NOW - timedelta(days=9), end=NOW - timedelta(days=3))], 0, "it ended 3 days ago"),
        ([leaf(start=NOW + timedelta(hours=2, minutes=9))], 0, "it is not yet valid: it begins in 2 hours"),
        ([leaf(signing_key=factories.ROOT), ca()], 0, "number 2 has its issuer's name, and did not sign it"),
        ([leaf(), root()], 0, "what issued it ought to follow it"),
        ([leaf(), root(), ca()], 0, "out of order: number 3 issued it"),
        ([leaf(), ca(), ca(), root()], 1, "out of order: number 4 issued it"),
        ([leaf(), (same := ca()), root(), same], 3, "it is here twice: it is number 2 too"),
        ([leaf(aki=OTHER_KEY), ca()], 0, "its authorityKeyIdentifier is not of what issued it"),
        ([root(aki=OTHER_KEY)], 0, "its authorityKeyIdentifier is not of what issued it"),
        ([root(signing_key=SIGNING)], 0, "its signature is not by its own key"),
    ],
)
def test_problem_of_a_chain_is_told(chain: Sequence[x509.Certificate], index: int, problem: str) -> None:
    """Of a chain with one thing wrong that one thing is told, of the certificate that has it."""
    problems = [each.problems for each in inspection.inspect_chain(chain, NOW)]
    assert len(problems[index]) == 1, problems
    assert problem in problems[index][0]
    assert not any(problems[:index])


@pytest.mark.parametrize(
    ("chain", "notes"),
    [
        ([leaf(), ca(), root()], ("whoever trusts this root has it already: a server need not send it",)),
        ([leaf(), ca()], ("what issued it is not here: clients need to have that, as a root",)),
        ([leaf()], ("what issued it is not here: a server has to send that too, unless it is a root",)),
        ([root(), ca(), root(subject="Other", issuer="Other")], ()),
    ],
    ids=["whole", "as sent", "alone", "bundle of CAs"],
)
def test_good_chain_has_no_problem(chain: Sequence[x509.Certificate], notes: tuple[str, ...]) -> None:
    """What is missing is a note, since it depends on what clients trust; CAs are in any order."""
    inspections = inspection.inspect_chain(chain, NOW)
    assert [each.problems for each in inspections] == [()] * len(chain)
    assert inspections[-1].notes == notes


def test_private_key_is_compared() -> None:
    """A key of another is told, of a request and of the first certificate; its own is not."""
    own, other = csrs.private_key("p-256").public_key(), csrs.private_key("p-384").public_key()
    chain, der = [leaf(public_key=own), ca()], csrs.encode_der(csrs.build())
    for key, problems in ((own, ()), (other, ("the private key is not its own",))):
        assert [each.problems for each in inspection.inspect_chain(chain, NOW, key)] == [problems, ()]
        assert inspection.inspect_csr(der, der, key).problems == problems


def test_old_signature_is_told_and_is_none_of_a_chain_s_faults(tmp_path: Path) -> None:
    """SHA-1 is told of what openssl signed with it; of a root nobody verifies it."""
    (tmp_path / "root.key").write_bytes(encode_private_key(csrs.private_key("rsa-2048")))
    (tmp_path / "a.csr").write_bytes(csrs.encode_pem(csrs.build()))
    for command in (
        "openssl req -x509 -new -key root.key -subj /CN=Old -sha1 -days 9 -out root.crt",
        "openssl x509 -req -in a.csr -CA root.crt -CAkey root.key -sha1 -days 5 -out a.crt",
    ):
        servers.run(*command.split(), cwd=tmp_path)
    chain = [x509.load_pem_x509_certificate((tmp_path / name).read_bytes()) for name in ("a.crt", "root.crt")]
    inspections = inspection.inspect_chain(chain, chain[0].not_valid_before_utc)
    told = "it is signed with rsaWithSha1, which proves nothing any more"
    assert [each.problems for each in inspections] == [(told,), ()]


def weak() -> x509.CertificateSigningRequest:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(rsa.generate_private_key(65537, 1024), hashes.SHA256())


def forged() -> x509.CertificateSigningRequest:
    der = bytearray(csrs.encode_der(csrs.build()))
    der[-1] ^= 1
    return x509.load_der_x509_csr(bytes(der))


@pytest.mark.parametrize(
    ("request_", "problem"),
    [
        (csrs.build(), ""),
        (csrs.build(sans=["dns:-a"]), "'-a' is not a DNS name"),
        (weak(), "The RSA modulus has 1024 bits; 2048 to 8192 are accepted"),
        (forged(), "The signature does not match the key in the CSR"),
    ],
    ids=["good", "name", "key", "signature"],
)
def test_request_is_judged_as_by_the_service(request_: x509.CertificateSigningRequest, problem: str) -> None:
    """What the service refuses under every profile is told in its words."""
    der = csrs.encode_der(request_)
    (told,) = inspection.inspect_csr(der, der).problems or ("",)
    assert problem in told


def test_malformed_extensions_are_told(tmp_path: Path) -> None:
    """The rest of a certificate whose extensions cannot be read is shown, without a warning of the library's."""
    der = bytearray(leaf().public_bytes(Encoding.DER))
    der[der.index(NAMES.public_bytes())] ^= 1
    (tmp_path / "a.crt").write_bytes(der)
    run = certlet("show", "a.crt")
    assert (run.returncode, run.stderr) == (1, b"")
    errors = [line for line in run.stdout.splitlines() if line.startswith(b"  Error")]
    assert errors == [b"  Error     the extensions cannot be parsed: malformed DER"]


def test_pkcs7_is_put_in_order() -> None:
    """A PKCS#7 has no order: what issued a certificate is found behind it."""
    chain = [leaf(), ca(), root()]
    for shuffled in (chain[::-1], [chain[1], chain[2], chain[0]], chain):
        assert inspection.sort_chain(shuffled) == chain


@pytest.mark.parametrize("form", ["pem", "crlf", "der", "base64", "p7", "p7 in PEM", "stdin"])
def test_every_form_shows_the_same(tmp_path: Path, form: str) -> None:
    """PEM with text around it, DER, base64 and PKCS#7, of a file or of stdin, say the same."""
    certificate = leaf(end=NOW + timedelta(days=700))
    pem, der = certificate.public_bytes(Encoding.PEM), certificate.public_bytes(Encoding.DER)
    data = {
        "crlf": b"subject=whoever\r\n" + pem.replace(b"\n", b"\r\n"),
        "der": der,
        "base64": b"".join(pem.splitlines(keepends=True)[1:-1]),
        "p7": pkcs7.serialize_certificates([certificate], Encoding.DER),
        "p7 in PEM": pkcs7.serialize_certificates([certificate], Encoding.PEM),
    }.get(form, pem)
    (tmp_path / "a").write_bytes(data)
    run = certlet("show", "-" if form == "stdin" else "a", stdin=data)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.decode().splitlines()
    number = certificate.serial_number
    assert [line.split()[:2] for line in lines] == [
        ["Certificate"],
        ["Subject", "CN=a.example.com"],
        ["Names", "dns:a.example.com"],
        ["Issuer", "CN=Signing"],
        ["Valid", "2026-11-22T12:30:45Z"],
        ["Key", "P-256"],
        ["For", "TLS"],
        ["Serial", number.to_bytes((number.bit_length() + 7) // 8).hex()],  # whole octets
        ["SHA-256", certificate.fingerprint(hashes.SHA256()).hex()],
        ["Note", "what"],
    ]


def test_problem_is_exit_1_and_escaped(tmp_path: Path) -> None:
    """Control characters of a stranger never reach the terminal; a key is compared; one in the file is told."""
    evil = csrs.build(common_name="\x1b[2J\ncertlet: fine", sans=["dns:a.example.com"])
    (tmp_path / "a.key").write_bytes(encode_private_key(keys.generate_private_key("p-384")))
    (tmp_path / "a.key").chmod(0o600)
    (tmp_path / "a.csr").write_bytes(csrs.encode_pem(evil) + (tmp_path / "a.key").read_bytes())
    run = certlet("show", "a.csr", "--key-file", "a.key")
    assert (run.returncode, run.stderr) == (1, b"")
    assert run.stdout.decode().splitlines() == [
        "Request",
        r"  Subject   CN=\x1b[2J\ncertlet: fine",
        "  Names     dns:a.example.com",
        "  Key       P-256",
        "  Error     a private key is in its file, so certlet sign sends nothing: give the request alone",
        "  Error     the private key is not its own",
    ]


KEY_ALONE = "a: it holds a private key alone: give it with --key-file, beside its request or certificate"
DAMAGED = "is damaged: its base64 or its END line is wrong"
REQUEST, CERTIFICATE = csrs.encode_pem(csrs.build()), leaf().public_bytes(Encoding.PEM)


def test_key_next_to_a_certificate_is_passed_over(tmp_path: Path) -> None:
    """What is shown is the certificate; nothing of the key is, nor is the file refused for it."""
    (tmp_path / "a").write_bytes(encode_private_key(csrs.private_key()) + CERTIFICATE)
    run = certlet("show", "a")
    assert (run.returncode, run.stderr) == (0, b"")
    assert run.stdout.startswith(b"Certificate\n")


def test_key_file_without_a_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(CERTIFICATE)
    run = certlet("show", "a", "--key-file", "a")
    assert (run.returncode, run.stdout, run.stderr) == (1, b"", b"certlet: a is not a PEM private key\n")


@pytest.mark.parametrize(
    ("data", "fragment"),
    [
        (b"", "holds no request and no certificate"),
        (b"junk", "holds no request and no certificate"),
        (b"0" + bytes(range(128, 200)), "that can be read"),
        (b"-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n", "that can be read"),
        (CERTIFICATE * 301, "more than 300 certificates"),
        (encode_private_key(csrs.private_key()), KEY_ALONE),
        (encode_private_key(csrs.private_key(), b"abc"), KEY_ALONE),
        (pem.parse(encode_private_key(csrs.private_key()))[0].der, KEY_ALONE),
        (pem.parse(encode_private_key(csrs.private_key(), b"abc"))[0].der, KEY_ALONE),
        (REQUEST[:200] + encode_private_key(csrs.private_key()), f"a: the PEM block {DAMAGED}"),
        (CERTIFICATE[:200] + b"\n" + CERTIFICATE, f"a: the PEM block 1 of 2 {DAMAGED}"),
        (b"A" * 1_100_000, "more than 1048576 octets"),
        (None, "No such file"),
    ],
    ids=[
        *("nothing", "junk", "DER", "PEM", "too many", "a key", "encrypted", "in DER", "encrypted in DER"),
        *("cut before a key", "cut leaf", "too much", "no file"),
    ],
)
def test_file_that_cannot_be_read_is_refused(tmp_path: Path, data: bytes | None, fragment: str) -> None:
    """What holds neither is one line on stderr, exit 1, without a word of a private key."""
    if data is not None:
        (tmp_path / "a").write_bytes(data)
    run = certlet("show", "a")
    assert (run.returncode, run.stdout) == (1, b"")
    assert run.stderr.startswith(b"certlet: a")
    assert fragment in run.stderr.decode()
    assert run.stderr.count(b"\n") == 1


def private_der(kind: str) -> bytes:
    return pem.parse(encode_private_key(csrs.private_key(kind)))[0].der or b""


def test_changed_files_are_shown_or_refused(tmp_path: Path) -> None:
    """Whatever was changed in a certificate, a PKCS#7 or a request, `show` shows the file, or says in a line why not."""
    sound = [*(each.public_bytes(Encoding.DER) for each in (leaf(), ca(), root())), csrs.encode_der(csrs.build()),
             pkcs7.serialize_certificates([leaf(), ca()], Encoding.DER)]  # fmt: skip
    chance = Random(22)  # noqa: S311 - the same again from the same seed
    sound.append(private_der("ed25519"))
    for _ in range(2400):
        change = chance.choice((request_strategies.mutate, request_strategies.mutate_bytes))
        (tmp_path / "a").write_bytes(change(chance, chance.choice(sound)))
        run = certlet("show", "a")
        assert (b"  Subject " in run.stdout) is not run.stderr.startswith(b"certlet: a"), run


def test_changed_private_keys_are_refused_or_compared(tmp_path: Path) -> None:
    """Whatever was changed in a private key, the error is one line that holds nothing of it."""
    sound = [*map(private_der, ("ed25519", "rsa-2048"))]
    chance = Random(22)  # noqa: S311 - the same again from the same seed
    (tmp_path / "a").write_bytes(CERTIFICATE)
    (tmp_path / "b").touch(0o600)
    for _ in range(300):
        key = base64.encodebytes(request_strategies.mutate(chance, chance.choice(sound)))
        (tmp_path / "b").write_bytes(b"-----BEGIN PRIVATE KEY-----\n" + key + b"-----END PRIVATE KEY-----\n")
        run = certlet("show", "a", "--key-file", "b")
        assert run.stderr in (
            b"",
            b"certlet: b is not a PEM private key\n",
            b"certlet: b contains a key that cannot sign certificates\n",
        )

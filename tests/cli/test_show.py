"""`certlet show`: each fault is told of a certificate that has it, and of no other; and as transcripts."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs7,
)
from cryptography.x509.oid import AttributeOID, ExtendedKeyUsageOID

from service.cli import inspection
from service.cli.new import key_pem
from service.pki import keys
from tests import authorities, csrs
from tests.authorities import NOW, SIGNING, ca, root
from tests.cli import certlet

NAMES = x509.SubjectAlternativeName([x509.DNSName("a.example.com")])


def leaf(**change: Any) -> x509.Certificate:
    """A TLS server's certificate under `ca()`, with one thing changed, or (value None) left out."""
    usual = {
        "subject": "a.example.com",
        "issuer": "Signing",
        "signer": SIGNING,
        "public_key": csrs.key().public_key(),
        "end": NOW + timedelta(days=90),
        "basic": x509.BasicConstraints(ca=False, path_length=None),
        "usage": None,
        "san": NAMES,
        "eku": x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
    }
    return ca(**{**usual, **change})


def usage(bit: str) -> x509.KeyUsage:
    bits = dict.fromkeys(
        ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"]
        + ["key_cert_sign", "crl_sign", "encipher_only", "decipher_only"],
        False,
    )
    return x509.KeyUsage(**{**bits, bit: True})


@pytest.fixture(scope="module")
def weak_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 1024)


@pytest.mark.parametrize(
    ("chain", "place", "fault"),
    [
        ([leaf(start=NOW - timedelta(days=9), end=NOW - timedelta(days=3))], 0, "it ended 3 days ago"),
        ([leaf(start=NOW + timedelta(hours=2, minutes=9))], 0, "it is not yet valid: it begins in 2 hours"),
        ([leaf(san=None)], 0, "common name alone"),
        ([leaf(san=None, subject=x509.Name([]))], 0, "no subject alternative name"),
        ([leaf(san=x509.SubjectAlternativeName([x509.DNSName("a..b")]))], 0, "'a..b' has an empty label"),
        ([leaf(end=NOW + timedelta(days=900))], 0, "it is valid for 901 days"),
        ([leaf(usage=usage("key_encipherment"))], 0, "keyEncipherment"),
        ([leaf(signer=authorities.ROOT), ca()], 0, "number 2 has its issuer's name, and did not sign it"),
        ([leaf(), root()], 0, "what issued it ought to follow it"),
        ([leaf(), root(), ca()], 0, "out of order: number 3 issued it"),
        ([leaf(), ca(), ca(), root()], 1, "out of order: number 4 issued it"),
        ([leaf(), (same := ca()), root(), same], 3, "it is here twice: it is number 2 too"),
        ([leaf(), ca(end=NOW + timedelta(days=9)), root()], 0, "it outlives its issuer, which ends at 2026-12-02T"),
        ([leaf(), ca(basic=None), root()], 0, "its issuer is no CA"),
        ([leaf(), ca(usage=usage("crl_sign")), root()], 0, "its issuer may not sign certificates"),
        ([leaf(), ca(), root(basic=x509.BasicConstraints(ca=True, path_length=0))], 1, "pathLen is 0"),
        ([root(signer=SIGNING)], 0, "its signature is not by its own key"),
        ([ca(usage=usage("crl_sign"))], 0, "it is a CA's, and may not sign"),
        (
            [leaf(), ca(extra=x509.NameConstraints([x509.DNSName("example.org")], None)), root()],
            0,
            "dns:a.example.com is outside what the CA is constrained to",
        ),
    ],
)  # fmt: skip
def test_each_fault_is_told(chain: Sequence[x509.Certificate], place: int, fault: str) -> None:
    """Of a certificate with one thing wrong that one thing is told, of it alone."""
    told = [report.faults for report in inspection.of_chain(chain, NOW)]
    assert len(told[place]) == 1, told
    assert fault in told[place][0]
    assert not any(told[:place])


@pytest.mark.parametrize(
    "chain",
    [
        [leaf(), ca(), root()],
        [leaf(), ca()],
        [leaf()],
        [root(), ca(), root(subject="Other", issuer="Other")],
        [leaf(eku=None, end=NOW + timedelta(days=300))],
        [leaf(), ca(extra=x509.NameConstraints([x509.DNSName("example.com")], None)), root()],
        [leaf(), ca(extra=x509.NameConstraints(None, [x509.IPAddress(ip_network("0.0.0.0/0"))])), root()],
    ],
    ids=["whole", "as sent", "alone", "bundle of CAs", "no server's", "within", "not excluded"],
)
def test_nothing_is_wrong_with_the_good(chain: Sequence[x509.Certificate]) -> None:
    """Of chains in order, without their root too, and of bundles of CAs, no fault is told."""
    assert [report.faults for report in inspection.of_chain(chain, NOW)] == [()] * len(chain)


def test_what_is_missing_is_a_note() -> None:
    """Whether a server sends enough depends on what its clients trust, which nobody here knows."""
    reports = [
        inspection.of_chain(chain, NOW)[-1] for chain in ([leaf()], [leaf(), ca()], [leaf(), ca(), root()])
    ]
    assert [report.notes for report in reports] == [
        ("what issued it is not here: a server has to send that too, unless it is a root",),
        ("what issued it is not here: clients need to have that, as a root",),
        ("whoever trusts this root has it already: a server need not send it",),
    ]


def test_keys_are_judged(weak_key: rsa.RSAPrivateKey) -> None:
    """A weak key is told, and a key of another; its own is not."""
    own, other = csrs.key().public_key(), csrs.key("p-384").public_key()
    assert inspection.of_chain([leaf()], NOW, own)[0].faults == ()
    assert inspection.of_chain([leaf()], NOW, other)[0].faults == ("the private key is not its own",)
    (told,) = inspection.of_chain([leaf(public_key=weak_key.public_key())], NOW)[0].faults
    assert told == "the RSA modulus has 1024 bits; 2048 to 8192 are accepted"
    assert inspection.of_request(csrs.der(csrs.build()), other).faults == ("the private key is not its own",)


def test_old_signatures_are_told(tmp_path: Path) -> None:
    """SHA-1 is told of what openssl signed with it; of a root nobody verifies it."""
    (tmp_path / "root.key").write_bytes(key_pem(csrs.key("rsa-2048"), None))
    (tmp_path / "a.csr").write_bytes(csrs.pem(csrs.build()))
    for command in (
        "openssl req -x509 -new -key root.key -subj /CN=Old -sha1 -days 9 -out root.crt",
        "openssl x509 -req -in a.csr -CA root.crt -CAkey root.key -sha1 -days 5 -out a.crt",
    ):
        subprocess.run(command.split(), cwd=tmp_path, capture_output=True, check=True)
    chain = [x509.load_pem_x509_certificate((tmp_path / name).read_bytes()) for name in ("a.crt", "root.crt")]
    told, of_root = [report.faults for report in inspection.of_chain(chain, chain[0].not_valid_before_utc)]
    assert "it is signed with sha1WithRSAEncryption, which proves nothing any more" in told
    assert of_root == ()


@pytest.mark.parametrize(
    ("request_", "faults", "notes"),
    [
        (lambda: csrs.build(sans=["dns:a.example.com"]), (), ()),
        (csrs.build, (), ("the name stands in the common name alone",)),
        (lambda: csrs.build(cn=None), ("it asks for no name",), ()),
        (lambda: csrs.build(sans=["dns:-a"]), ("'-a' is not a DNS name",), ()),
        (
            lambda: csrs.build(
                sans=["ip:10.0.0.1"], extensions=[x509.BasicConstraints(ca=True, path_length=0)]
            ),
            ("it asks to be a CA",),
            (),
        ),
    ],
)
def test_requests_are_judged(
    request_: Callable[[], x509.CertificateSigningRequest], faults: Sequence[str], notes: Sequence[str]
) -> None:
    """What no profile gives is a fault of a request; what Certlet mends is a note."""
    report = inspection.of_request(csrs.der(request_()))
    for told, expected in ((report.faults, faults), (report.notes, notes)):
        assert len(told) == len(expected), told
        assert all(word in line for word, line in zip(expected, told, strict=True))


def test_a_forged_request_is_told() -> None:
    """A request whose signature is not by its key."""
    der = bytearray(csrs.der(csrs.build(sans=["dns:a.example.com"])))
    der[-1] ^= 1
    (told,) = inspection.of_request(bytes(der)).faults
    assert told.startswith("the signature is not by the key in the request")


def flipped(found: Callable[[x509.Certificate], bytes], place: int, bit: int) -> bytes:
    """A certificate with one bit of a part of it changed: of its signature nobody here can judge."""
    certificate = leaf()
    der = bytearray(certificate.public_bytes(Encoding.DER))
    der[der.index(found(certificate)) + place] ^= bit
    return bytes(der)


@pytest.mark.parametrize(
    ("der", "fault"),
    [
        (flipped(lambda it: it.serial_number.to_bytes(20), 0, 0x80), "its serial number is not positive"),
        (
            flipped(lambda _: f"{NOW + timedelta(days=90):%y%m%d%H%M%SZ}".encode(), 0, 3),
            "ends before it begins",
        ),
        (
            flipped(lambda it: keys.subject_public_key_info(it.public_key()), 80, 1),
            "its public key cannot be read",
        ),
        (flipped(lambda _: NAMES.public_bytes(), 0, 1), "its extensions cannot be read"),
    ],
    ids=["serial", "times", "key", "extensions"],
)
def test_show_tells_what_no_ca_writes(tmp_path: Path, der: bytes, fault: str) -> None:
    """What is malformed inside is told beside all the rest, without a warning of the library's."""
    (tmp_path / "a.crt").write_bytes(der)
    run = certlet("show", "a.crt")
    assert (run.returncode, run.stderr) == (1, b"")
    (told,) = [line for line in run.stdout.decode().splitlines() if line.startswith("  Wrong")]
    assert fault in told


def test_a_challenge_password_is_a_note() -> None:
    """Everybody who sees a request can read it, so it is told, and not shown."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    builder = builder.add_attribute(AttributeOID.CHALLENGE_PASSWORD, b"open sesame")
    asked = builder.add_extension(NAMES, critical=False).sign(csrs.key(), hashes.SHA256())
    report = inspection.of_request(csrs.der(asked))
    assert report.faults == ()
    assert report.notes == ("it holds a challenge password, which whoever sees the request can read",)
    assert "sesame" not in repr(report)


def test_a_bag_is_put_in_order() -> None:
    """A PKCS#7 has no order: what issued a certificate is found behind it."""
    chain = [leaf(), ca(), root()]
    for shuffled in (chain[::-1], [chain[1], chain[2], chain[0]], chain):
        assert inspection.arranged(shuffled) == chain


@pytest.mark.parametrize("form", ["pem", "crlf", "der", "base64", "p7", "stdin"])
def test_show_reads_every_form(tmp_path: Path, form: str) -> None:
    """PEM with text around it, DER, base64 and PKCS#7, of a file or of stdin, say the same."""
    certificate = leaf(end=NOW + timedelta(days=700))
    pem, der = certificate.public_bytes(Encoding.PEM), certificate.public_bytes(Encoding.DER)
    data = {
        "crlf": b"subject=whoever\r\n" + pem.replace(b"\n", b"\r\n"),
        "der": der,
        "base64": b"".join(pem.splitlines(keepends=True)[1:-1]),
        "p7": pkcs7.serialize_certificates([certificate], Encoding.DER),
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


def test_show_says_what_is_wrong(tmp_path: Path) -> None:
    """A fault is exit 1; control characters of a stranger never reach the terminal; a key is held against it."""
    evil = csrs.build(cn="\x1b[2J\ncertlet: fine", sans=["dns:a.example.com"])
    (tmp_path / "a.csr").write_bytes(csrs.pem(evil))
    (tmp_path / "a.key").write_bytes(key_pem(keys.generate("p-384"), None))
    run = certlet("show", "a.csr", "--key-file", "a.key")
    assert (run.returncode, run.stderr) == (1, b"")
    assert run.stdout.decode().splitlines() == [
        "Request",
        r"  Subject   CN=\x1b[2J\ncertlet: fine",
        "  Names     dns:a.example.com",
        "  Key       P-256",
        "  Wrong     the private key is not its own",
    ]


KEY_ALONE = (
    "certlet: a: it holds a private key alone: give it with --key-file, beside its request or certificate"
)
DAMAGED = "is damaged: its base64 or its END line is wrong"
REQUEST, CERTIFICATE = csrs.pem(csrs.build()), leaf().public_bytes(Encoding.PEM)


def test_a_key_beside_a_certificate_is_passed_over(tmp_path: Path) -> None:
    """What is shown is the certificate; nothing of the key is, nor is the file refused for it."""
    (tmp_path / "a").write_bytes(key_pem(csrs.key(), None) + CERTIFICATE)
    run = certlet("show", "a")
    assert (run.returncode, run.stderr) == (0, b"")
    assert run.stdout.startswith(b"Certificate\n")


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "holds no request and no certificate"),
        (b"junk", "holds no request and no certificate"),
        (b"0" + bytes(range(128, 200)), "that can be read"),
        (b"-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n", "that can be read"),
        (key_pem(csrs.key(), None), KEY_ALONE),
        (key_pem(csrs.key(), b"abc"), KEY_ALONE),
        (csrs.key().private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()), KEY_ALONE),
        (
            csrs.key().private_bytes(Encoding.DER, PrivateFormat.PKCS8, BestAvailableEncryption(b"abc")),
            KEY_ALONE,
        ),
        (REQUEST[:200], f"certlet: a: the PEM block {DAMAGED}"),
        (REQUEST.replace(b"-----END", b"----END"), f"certlet: a: the PEM block {DAMAGED}"),
        (REQUEST[:100] + b"*" + REQUEST[100:], f"certlet: a: the PEM block {DAMAGED}"),
        (REQUEST[:110] + REQUEST[111:], f"certlet: a: the PEM block {DAMAGED}"),
        (REQUEST[:200] + key_pem(csrs.key(), None), f"certlet: a: the PEM block {DAMAGED}"),
        (CERTIFICATE + CERTIFICATE[:200], f"certlet: a: the PEM block 2 of 2 {DAMAGED}"),
        (CERTIFICATE[:200] + b"\n" + CERTIFICATE, f"certlet: a: the PEM block 1 of 2 {DAMAGED}"),
        (b"A" * 1_100_000, "more than 1048576 octets"),
        (None, "No such file"),
    ],
    ids=[
        *("nothing", "junk", "DER", "PEM", "a key", "encrypted", "in DER", "encrypted in DER"),
        *("cut", "no END line", "no base64", "a character less", "cut before a key", "cut chain", "cut leaf"),
        *("too much", "no file"),
    ],
)
def test_show_refuses_what_it_cannot_read(tmp_path: Path, data: bytes | None, word: str) -> None:
    """What holds neither is one line on stderr, exit 1, without a word of a private key."""
    if data is not None:
        (tmp_path / "a").write_bytes(data)
    run = certlet("show", "a")
    assert (run.returncode, run.stdout) == (1, b"")
    assert word in run.stderr.decode()
    assert run.stderr.count(b"\n") == 1

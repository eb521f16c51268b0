"""`certlet show`: the facts and the errors of CSRs, certificates, chains and keys."""

from __future__ import annotations

import base64
import json
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

from service.cli import batch, inspection
from service.pki import encoding, input_formats, keys, pem
from service.pki.keys import encode_private_key
from tests import csrs, factories, input_forms, servers
from tests.adversarial import request_strategies
from tests.cli import certlet
from tests.factories import NOW, SIGNING, ca, root
from tests.servers import Server
from tests.test_csr_cases import CASES

NAMES = x509.SubjectAlternativeName([x509.DNSName("a.example.com")])


def leaf(**changes: Any) -> x509.Certificate:
    """Create a TLS server certificate under `ca()`, with changes."""
    defaults = {
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
    return ca(**{**defaults, **changes})


OTHER_KEY = x509.AuthorityKeyIdentifier(b"other", None, None)


@pytest.mark.parametrize(
    ("chain", "index", "problem"),
    [
        ([leaf(start=NOW - timedelta(days=9), end=NOW - timedelta(days=3))], 0, "expired 3 days ago"),
        (
            [leaf(start=NOW + timedelta(hours=2, minutes=9))],
            0,
            "not yet valid: the validity starts in 2 hours",
        ),
        (
            [leaf(signing_key=factories.ROOT), ca()],
            0,
            "certificate 2 has the issuer's name, but did not sign",
        ),
        ([leaf(), root()], 0, "the chain has a gap"),
        ([leaf(), root(), ca()], 0, "out of order: its issuer is certificate 3"),
        ([leaf(), ca(), ca(), root()], 1, "out of order: its issuer is certificate 4"),
        ([leaf(), (same := ca()), root(), same], 3, "duplicate of certificate 2"),
        ([leaf(aki=OTHER_KEY), ca()], 0, "authorityKeyIdentifier does not match the issuer"),
        ([root(aki=OTHER_KEY)], 0, "authorityKeyIdentifier does not match the issuer"),
        ([root(signing_key=SIGNING)], 0, "not signed with its own key"),
    ],
)
def test_chain_error_is_reported(chain: Sequence[x509.Certificate], index: int, problem: str) -> None:
    """The only error is reported for the certificate that has it."""
    problems = [inspected.problems for inspected in inspection.inspect_chain(chain, NOW)]
    assert len(problems[index]) == 1, problems
    assert problem in problems[index][0]
    assert not any(problems[:index])


@pytest.mark.parametrize(
    ("chain", "notes"),
    [
        (
            [leaf(), ca(), root()],
            ("clients that trust this root already have it: a server need not send it",),
        ),
        ([leaf(), ca()], ("the issuing root is not included; clients must already trust it",)),
        ([leaf()], ("the issuer is not included; a server must also send it, unless it is a root",)),
        ([root(), ca(), root(subject="Other", issuer="Other")], ()),
    ],
    ids=["whole", "as sent", "alone", "bundle of CAs"],
)
def test_good_chain_has_no_error(chain: Sequence[x509.Certificate], notes: tuple[str, ...]) -> None:
    """A missing issuer is only a note, since clients may trust it; a bundle of CAs may have any order."""
    inspections = inspection.inspect_chain(chain, NOW)
    assert [inspected.problems for inspected in inspections] == [()] * len(chain)
    assert inspections[-1].notes == notes


def test_private_key_of_another_is_an_error() -> None:
    """The key is compared with a CSR and with the first certificate."""
    key, other_key = csrs.private_key("p-256").public_key(), csrs.private_key("p-384").public_key()
    chain, der = [leaf(public_key=key), ca()], csrs.encode_der(csrs.build())
    for candidate, problems in ((key, ()), (other_key, ("the private key does not match",))):
        inspections = inspection.inspect_chain(chain, NOW, candidate)
        assert [inspected.problems for inspected in inspections] == [problems, ()]
        assert inspection.inspect_csr(der, der, candidate).problems == problems


def test_insecure_signature_is_the_only_error_of_a_chain(tmp_path: Path) -> None:
    """SHA-1 is an error of a certificate, but not of a root, whose signature is not verified."""
    (tmp_path / "root.key").write_bytes(encode_private_key(csrs.private_key("rsa-2048")))
    (tmp_path / "a.csr").write_bytes(csrs.encode_pem(csrs.build()))
    for command in (
        "openssl req -x509 -new -key root.key -subj /CN=Old -sha1 -days 9 -out root.crt",
        "openssl x509 -req -in a.csr -CA root.crt -CAkey root.key -sha1 -days 5 -out a.crt",
    ):
        servers.run(*command.split(), cwd=tmp_path)
    chain = [x509.load_pem_x509_certificate((tmp_path / name).read_bytes()) for name in ("a.crt", "root.crt")]
    inspections = inspection.inspect_chain(chain, chain[0].not_valid_before_utc)
    message = "signed with sha1WithRSAEncryption, which is no longer secure"
    assert [inspected.problems for inspected in inspections] == [(message,), ()]


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
def test_csr_error_is_that_of_the_service(request_: x509.CertificateSigningRequest, problem: str) -> None:
    """An error that does not depend on the profile has the text of the service."""
    der = csrs.encode_der(request_)
    (message,) = inspection.inspect_csr(der, der).problems or ("",)
    assert problem in message


@pytest.mark.parametrize(
    ("common_name", "sans", "note"),
    [
        ("printer", [], "-addext subjectAltName=DNS:printer"),
        ("printer", ["dns:a.example"], ""),
        ("printer.example", [], ""),
        ("Anna Smith", [], ""),
        (None, [], ""),
    ],
)
def test_common_name_that_is_not_a_san_is_noted(common_name: str | None, sans: list[str], note: str) -> None:
    """Profiles for TLS servers refuse a host name that the service does not add to the SANs itself."""
    der = csrs.encode_der(csrs.build(common_name, sans))
    inspected = inspection.inspect_csr(der, der)
    assert inspected.problems == ()
    assert (note in "".join(inspected.notes)) if note else inspected.notes == ()


def test_malformed_extensions_are_an_error(tmp_path: Path) -> None:
    """The other fields are shown, without a warning from the library."""
    der = bytearray(leaf().public_bytes(Encoding.DER))
    der[der.index(NAMES.public_bytes())] ^= 1
    (tmp_path / "a.crt").write_bytes(der)
    run = certlet("show", "a.crt")
    assert (run.returncode, run.stderr) == (1, b"")
    errors = [line for line in run.stdout.splitlines() if line.startswith(b"  Error")]
    assert errors == [b"  Error     the extensions cannot be parsed: malformed DER"]


def test_pkcs7_is_sorted() -> None:
    """A PKCS#7 is unordered; after sorting, each certificate comes before its issuer."""
    chain = [leaf(), ca(), root()]
    for shuffled in (chain[::-1], [chain[1], chain[2], chain[0]], chain):
        assert inspection.sort_chain(shuffled) == chain


@pytest.mark.parametrize("encoding", ["pem", "crlf", "der", "base64", "p7", "p7 in PEM", "stdin"])
def test_encodings_are_shown_alike(tmp_path: Path, encoding: str) -> None:
    """PEM with other text, DER, base64 and PKCS#7, from a file or stdin, have the same output."""
    certificate = leaf(end=NOW + timedelta(days=700))
    pem, der = certificate.public_bytes(Encoding.PEM), certificate.public_bytes(Encoding.DER)
    data = {
        "crlf": b"subject=someone\r\n" + pem.replace(b"\n", b"\r\n"),
        "der": der,
        "base64": b"".join(pem.splitlines(keepends=True)[1:-1]),
        "p7": pkcs7.serialize_certificates([certificate], Encoding.DER),
        "p7 in PEM": pkcs7.serialize_certificates([certificate], Encoding.PEM),
    }.get(encoding, pem)
    (tmp_path / "a").write_bytes(data)
    run = certlet("show", "-" if encoding == "stdin" else "a", stdin=data)
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
        ["Usage", "TLS"],
        ["Serial", number.to_bytes((number.bit_length() + 7) // 8).hex()],  # whole bytes
        ["SHA-256", certificate.fingerprint(hashes.SHA256()).hex()],
        ["Note", "the"],
    ]


def test_csr_with_errors_is_escaped(tmp_path: Path) -> None:
    """Control characters are escaped; a private key in the file and another key are errors."""
    evil = csrs.build(common_name="\x1b[2J\ncertlet: fine", sans=["dns:a.example.com"])
    (tmp_path / "a.key").write_bytes(encode_private_key(keys.generate_private_key("p-384")))
    (tmp_path / "a.key").chmod(0o600)
    (tmp_path / "a.csr").write_bytes(csrs.encode_pem(evil) + (tmp_path / "a.key").read_bytes())
    run = certlet("show", "a.csr", "--key-file", "a.key")
    assert (run.returncode, run.stderr) == (1, b"")
    assert run.stdout.decode().splitlines() == [
        "CSR",
        r"  Subject   CN=\x1b[2J\ncertlet: fine",
        "  Names     dns:a.example.com",
        "  Key       P-256",
        "  Error     the file also contains a private key: certlet sign accepts only the CSR",
        "  Error     the private key does not match",
    ]


ONLY_A_KEY = (
    "a contains a private key: pass the key in PEM as --key-file, together with its CSR or certificate"
)
DAMAGED = "is damaged: invalid base64 or END line"
REQUEST, CERTIFICATE = csrs.encode_pem(csrs.build()), leaf().public_bytes(Encoding.PEM)
PRIVATE_KEY = encode_private_key(csrs.private_key())


def test_private_key_in_a_certificate_file_is_ignored(tmp_path: Path) -> None:
    """The certificate is shown; the key is not."""
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
        (b"-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n", "is not a readable certificate"),
        (
            CERTIFICATE + b"-----BEGIN PKCS7-----\nMA==\n-----END PKCS7-----\n",
            "a: PEM block 2 of 2 is not a readable",
        ),
        (CERTIFICATE * 301, "more than 300 certificates"),
        (encode_private_key(csrs.private_key()), ONLY_A_KEY),
        (encode_private_key(csrs.private_key(), b"abc"), ONLY_A_KEY),
        (pem.parse(encode_private_key(csrs.private_key()))[0].der, ONLY_A_KEY),
        (pem.parse(encode_private_key(csrs.private_key(), b"abc"))[0].der, ONLY_A_KEY),
        (
            input_forms.PRIVATE_KEYS["PKCS12"],
            "a is a PKCS#12 file, and it holds a private key: pass the key in PEM",
        ),
        (CERTIFICATE[:200], f"a: PEM block {DAMAGED}"),
        (CERTIFICATE[:200] + b"\n" + CERTIFICATE, f"a: PEM block 1 of 2 {DAMAGED}"),
        (b"A" * 1_100_000, "more than 1048576 bytes"),
        (None, "No such file"),
    ],
    ids=[
        *("PEM", "PKCS7", "too many", "a key", "encrypted", "in DER", "encrypted in DER", "PKCS12", "cut"),
        *("cut leaf", "too much", "no file"),
    ],
)
def test_malformed_file_is_refused(tmp_path: Path, data: bytes | None, fragment: str) -> None:
    """The error is one line on stderr, without any part of a private key."""
    if data is not None:
        (tmp_path / "a").write_bytes(data)
    run = certlet("show", "a")
    assert (run.returncode, run.stdout) == (1, b"")
    assert run.stderr.startswith(b"certlet: a")
    assert fragment in run.stderr.decode()
    assert run.stderr.count(b"\n") == 1


PROFILES = dict.fromkeys(("A18.csr", "A66.csr", "C04.csr"), "client")  # `show` knows no profile
FILES = {path.name: path.read_bytes() for path in CASES.iterdir()} | input_forms.ALL
FILES |= {name: data for name, (data, _) in input_forms.OTHER_FORMATS.items()} | input_forms.PRIVATE_KEYS
FILES |= {"octets": bytes(range(128, 200)), "cut before a key": REQUEST[:200] + PRIVATE_KEY}
WITH_CERTIFICATES = {"certificate", "certificate in PEM", "PKCS7"}


@pytest.mark.parametrize("name", FILES)
def test_show_reports_what_the_service_reports(server: Server, tmp_path: Path, name: str) -> None:
    """A file that the service signs has no error, and its notes; otherwise the errors are those of the service."""
    (tmp_path / "a").write_bytes(FILES[name])
    run = certlet("show", "a")
    lines = run.stdout.decode().splitlines()
    errors = [line.removeprefix("  Error     ") for line in lines if line.startswith("  Error")]
    has_private_key = input_formats.contains_private_key(FILES[name])
    text = base64.b64encode(FILES[name]).decode() if has_private_key else batch.read_request(tmp_path / "a")
    response = server.sign({"csr": text, "profile": PROFILES.get(name, "server")}).json()
    if "crt_pem" in response:
        assert (run.returncode, lines[0], errors, run.stderr) == (0, "CSR", [], b"")
        notes = [line.removeprefix("  Note      ") for line in lines if "  Note      read " in line]
        assert notes == [note for note in response["notes"] if note.startswith("read leniently: ")]
    elif name in WITH_CERTIFICATES:
        assert response["code"] == "badCSR"
        assert run.returncode == 0
    elif has_private_key:
        assert (run.returncode, response["code"]) == (1, "badPublicKey")
        assert "private key" in " ".join(errors) + run.stderr.decode()
    else:
        assert run.returncode == 1
        assert list(dict.fromkeys(errors)) == [error["detail"] for error in response["errors"]]


def test_empty_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    run = certlet("show", "a")
    assert (run.returncode, run.stdout, run.stderr) == (1, b"", b"certlet: a: the file is empty\n")


def test_unknown_format_may_be_a_certificate(tmp_path: Path) -> None:
    """The service's error is about a CSR. A note says that there is no certificate either, unless the file has PEM."""
    note = "it contains no certificate either, in PEM, DER, base64 or PKCS#7"
    for data, has_note in (
        (bytes(range(128, 200)), True),
        (input_forms.OTHER_FORMATS["SSH key"][0], True),
        (REQUEST[:200], False),
        (CERTIFICATE, False),
    ):
        (tmp_path / "a").write_bytes(data)
        assert (note in json.loads(certlet("show", "a", "--json").stdout)["notes"]) == has_note


def private_der(kind: str) -> bytes:
    return pem.parse(encode_private_key(csrs.private_key(kind)))[0].der or b""


def test_mutated_files_are_shown_or_refused(tmp_path: Path) -> None:
    """`show` prints any mutated certificate, PKCS#7 or CSR, or an error of one line."""
    originals = [*(cert.public_bytes(Encoding.DER) for cert in (leaf(), ca(), root())), csrs.encode_der(csrs.build()),
             pkcs7.serialize_certificates([leaf(), ca()], Encoding.DER)]  # fmt: skip
    chance = Random(22)  # noqa: S311 - reproducible
    originals.append(private_der("ed25519"))
    for _ in range(2400):
        change = chance.choice((request_strategies.mutate, request_strategies.mutate_bytes))
        (tmp_path / "a").write_bytes(change(chance, chance.choice(originals)))
        run = certlet("show", "a")
        assert (
            b"  Subject " in run.stdout or run.stdout.startswith(b"File\n  Error")
        ) is not run.stderr.startswith(b"certlet: a"), run


def test_mutated_private_keys_are_refused_or_compared(tmp_path: Path) -> None:
    """The error is one line, without any part of the private key."""
    originals = [*map(private_der, ("ed25519", "rsa-2048"))]
    chance = Random(22)  # noqa: S311 - reproducible
    (tmp_path / "a").write_bytes(CERTIFICATE)
    (tmp_path / "b").touch(0o600)
    for _ in range(300):
        key = base64.encodebytes(request_strategies.mutate(chance, chance.choice(originals)))
        (tmp_path / "b").write_bytes(b"-----BEGIN PRIVATE KEY-----\n" + key + b"-----END PRIVATE KEY-----\n")
        run = certlet("show", "a", "--key-file", "b")
        assert run.stderr in (
            b"",
            b"certlet: b is not a PEM private key\n",
            b"certlet: b contains a key that cannot sign certificates\n",
        )


def test_json_has_an_object_for_each_item(tmp_path: Path) -> None:
    """The members are those of `certlet list --json`, with the errors and the notes."""
    (tmp_path / "my.csr").write_bytes(csrs.encode_pem(csrs.build("a.example.com", ["dns:a.example.com"])))
    csr = json.loads(certlet("show", "my.csr", "--json").stdout)
    assert csr == {
        "kind": "CSR",
        "subject": "CN=a.example.com",
        "names": ["dns:a.example.com"],
        "key_type": "P-256",
        "extensions": [],
        "errors": [],
        "notes": [],
    }
    expired = leaf(start=NOW - timedelta(days=9), end=NOW - timedelta(days=3))
    (tmp_path / "my.crt").write_text(encoding.encode_pem([expired, ca()]))
    run = certlet("show", "my.crt", "--json")
    first, second = map(json.loads, run.stdout.splitlines())
    assert (run.returncode, first["kind"], second["kind"]) == (1, "Certificate", "CA")
    assert first["fingerprint_sha256"] == encoding.fingerprint(expired)
    assert first["names"] == ["dns:a.example.com"]
    assert first["errors"][0].startswith("expired ")
    (tmp_path / "junk").write_text("junk")
    assert json.loads(certlet("show", "junk", "--json").stdout)["kind"] == "File"
    run = certlet("show", "my.crt", "--quiet")
    assert run.stdout.startswith(b"my.crt: Certificate 1 of 2: expired ")
    assert (run.returncode, run.stdout.count(b"\n"), run.stderr) == (1, 1, b"")
    assert len(certlet("show", "my.crt", "--quiet", "--json").stdout.splitlines()) == 1
    junk = certlet("show", "junk", "--quiet")
    assert (junk.returncode, junk.stdout[:6], junk.stderr) == (1, b"junk: ", b"")
    quiet = certlet("show", "my.csr", "--quiet")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, b"", b"")

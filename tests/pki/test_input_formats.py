from __future__ import annotations

import base64
import codecs
import json
import re
import time
from pathlib import Path
from urllib.parse import urlencode

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from service.pki import csr, input_formats
from service.pki.errors import BadCSR, BadPublicKey, RequestError
from tests import csrs, servers
from tests.csrs import tlv

PEM = csrs.encode_pem(csrs.build(sans=["dns:a.example.com"]))
DER = csrs.encode_der(csrs.build())
PRIVATE_KEY = csrs.private_key("rsa-2048").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

# File name -> openssl command. `cms -econtent_type` makes CMC as certreq does; `cmp` makes CMP without a server.
COMMANDS = {
    "p256.key": "ecparam -name prime256v1 -genkey -noout",
    "p256.sec1.der": "ec -in p256.key -outform DER",
    "p256.pkcs8.der": "pkcs8 -topk8 -nocrypt -in p256.key -outform DER",
    "p256.encrypted.der": "pkcs8 -topk8 -passout pass:a -in p256.key -outform DER",
    "p256.pbe.der": "pkcs8 -topk8 -v1 PBE-SHA1-3DES -passout pass:a -in p256.key -outform DER",
    "p256.pub.der": "pkey -in p256.key -pubout -outform DER",
    "p256.pub.pem": "pkey -in p256.key -pubout",
    "rsa.key": "genrsa -traditional 2048",
    "rsa.pkcs1.der": "rsa -in rsa.key -traditional -outform DER",
    "rsa.pkcs1.pub.der": "rsa -in rsa.key -RSAPublicKey_out -outform DER",
    "dsa.parameters": "dsaparam 1024",
    "dsa.key": "gendsa dsa.parameters",
    "dsa.der": "dsa -in dsa.key -outform DER",
    "ed25519.der": "genpkey -algorithm ed25519 -outform DER",
    "good.csr": "req -new -key p256.key -subj /CN=a.example.com",
    "description.txt": "req -in good.csr -noout -text",
    "certificate.pem": "req -x509 -key p256.key -subj /CN=a.example.com",
    "certificate.der": "x509 -in certificate.pem -outform DER",
    "v1.der": "x509 -req -in good.csr -CA certificate.pem -CAkey p256.key -set_serial 1 -outform DER",
    "v1-zero.der": "x509 -req -in good.csr -CA certificate.pem -CAkey p256.key -set_serial 0 -outform DER",
    "trusted.pem": "x509 -in certificate.pem -trustout -addtrust serverAuth",
    "chain.p7b": "crl2pkcs7 -nocrl -certfile certificate.pem",
    "chain.p7b.der": "crl2pkcs7 -nocrl -certfile certificate.pem -outform DER",
    "renewal.der": "cms -sign -binary -nodetach -nosmimecap -in good.csr -signer certificate.pem -inkey p256.key -outform DER",
    "stream.ber": "cms -sign -binary -nodetach -stream -in good.csr -signer certificate.pem -inkey p256.key -outform DER",
    "cmc.der": "cms -sign -binary -nodetach -econtent_type 1.3.6.1.5.5.7.12.2 -in good.csr -signer certificate.pem -inkey p256.key -outform DER",
    "store.p12": "pkcs12 -export -in certificate.pem -inkey p256.key -passout pass:a",
    "trust.p12": "pkcs12 -export -nokeys -in certificate.pem -passout pass:a",
    "crl.pem": "ca -gencrl -cert certificate.pem -keyfile p256.key -crldays 1 -config ca.cnf",
    "crl.der": "crl -in crl.pem -outform DER",
}  # fmt: skip
CONFIGURATION = "[ca]\ndefault_ca=a\n[a]\ndatabase=index.txt\ndefault_md=sha256\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of each format."""
    folder = tmp_path_factory.mktemp("formats")
    (folder / "ca.cnf").write_text(CONFIGURATION)
    (folder / "index.txt").touch()
    for name, command in COMMANDS.items():
        program, *options = command.split()
        servers.run("openssl", program, "-out", name, *options, cwd=folder)
    names = "-subject /CN=a -recipient /CN=b -secret pass:a -ref a -newkey p256.key -certout a.crt"
    command = f"openssl cmp -cmd ir -server 127.0.0.1:9 {names} -reqout cmp.der"
    servers.run(*command.split(), cwd=folder, check=False)  # writes the message, and finds no server
    output = servers.run("openssl", "asn1parse", "-inform", "DER", "-in", "cmp.der", cwd=folder).stdout
    (body,) = re.findall(r"(?m)^ *(\d+):d=2 .*SEQUENCE", output)
    command = f"openssl asn1parse -inform DER -in cmp.der -strparse {body} -noout -out crmf.der"
    servers.run(*command.split(), cwd=folder)
    return folder


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(PEM, id="as-openssl-writes-it"),
        pytest.param(PEM.replace(b"\n", b"\r\n"), id="crlf"),
        pytest.param(PEM.replace(b"\nMI", b"\n\nMI"), id="blank-line"),
        pytest.param(PEM.replace(b"\n", b""), id="no-line-breaks"),
        pytest.param(PEM.replace(b"\nMI", b"\nM"), id="octet-missing"),
        pytest.param(PEM.replace(b"\nMI", b"\nMI="), id="padding-inside"),
        pytest.param(
            b"-----BEGIN CERTIFICATE REQUEST-----\n\n-----END CERTIFICATE REQUEST-----\n", id="empty"
        ),
    ],
)
def test_plain_pem_is_read_like_pem_after_text(data: bytes) -> None:
    """PEM with nothing around it takes a short path, which reads and refuses the same."""
    assert _outcome(data) == _outcome(b"text\n" + data)


def _outcome(data: bytes) -> object:
    try:
        return input_formats.find_csr(data)
    except RequestError as error:
        return type(error), error.detail


REQUEST_TYPE = "RequestType = PKCS10"


@pytest.mark.parametrize(
    ("name", "fragment"),
    [
        ("certificate.pem", "This is a certificate, not a CSR"),
        ("certificate.der", "This is a certificate, not a CSR"),
        ("v1.der", "This is a certificate, not a CSR"),
        ("v1-zero.der", "This is a certificate, not a CSR"),
        ("trusted.pem", "This is a certificate, not a CSR"),
        ("chain.p7b", REQUEST_TYPE),
        ("chain.p7b.der", REQUEST_TYPE),
        ("renewal.der", "This is PKCS#7, not a CSR"),
        ("stream.ber", "This is PKCS#7, not a CSR"),
        ("cmc.der", "This is CMC (RFC 5272), not a CSR"),
        ("crmf.der", "This is CRMF (RFC 4211), not a CSR"),
        ("cmp.der", "This is CMP (RFC 4210), not a CSR"),
        ("crl.pem", "This is a certificate revocation list (CRL), not a CSR"),
        ("crl.der", "This is a certificate revocation list (CRL), not a CSR"),
        ("p256.pub.pem", "This is a public key, not a CSR"),
        ("p256.pub.der", "This is a public key, not a CSR"),
        ("rsa.pkcs1.pub.der", "This is a public key, not a CSR"),
        ("description.txt", "openssl req prints without -noout"),
    ],
)
def test_other_format_is_named(folder: Path, name: str, fragment: str) -> None:
    """A file that openssl writes in another format is badCSR, also in base64 and with the label of a CSR."""
    data = (folder / name).read_bytes()
    forms = (
        [data, base64.b64encode(data), codecs.BOM_UTF16_LE + data.decode().encode("utf-16-le")]
        if data.isascii()
        else [data, base64.b64encode(data), _label(data)]
    )
    for form in forms:
        assert fragment in _refusal(form)
        assert not input_formats.contains_private_key(form)


def _refusal(data: bytes, error: type[RequestError] = BadCSR) -> str:
    with pytest.raises(error) as refusal:
        csr.parse(data)
    assert (type(refusal.value), refusal.value.field) == (error, "csr")
    return refusal.value.detail


def _label(der: bytes, label: str = "NEW CERTIFICATE REQUEST") -> bytes:
    return f"-----BEGIN {label}-----\n{base64.encodebytes(der).decode()}-----END {label}-----\n".encode()


@pytest.mark.parametrize(
    "name",
    [
        *("p256.key", "rsa.key", "p256.sec1.der", "p256.pkcs8.der", "p256.encrypted.der", "p256.pbe.der"),
        *("rsa.pkcs1.der", "dsa.der", "ed25519.der", "store.p12", "trust.p12"),
    ],
)
def test_private_key_is_refused_in_every_format(folder: Path, name: str) -> None:
    """A private key is badPublicKey in every encoding; `certlet sign` recognises it before sending it."""
    data = (folder / name).read_bytes()
    forms = [data, base64.b64encode(data), base64.b64encode(base64.b64encode(data))]
    if data.isascii():
        text = data.decode()
        forms += [
            PEM + data,
            text.encode("utf-16"),
            base64.b64encode(PEM + data),
            urlencode({"csr": text}).encode(),
        ]
        forms += [
            text.replace("\n", r"\n").encode(),
            PEM + urlencode({"key": text}).encode(),
            urlencode({"csr": PEM, "key": text}).encode(),
        ]
    else:
        labels = ("CERTIFICATE", "X", "PKCS12")
        forms += [_label(data), *(_label(data, label) for label in labels)]
        forms += [PEM + _label(data, label) for label in labels]
    for form in forms:
        detail = _refusal(form, BadPublicKey)
        assert "a private key, which is no longer secret: generate a new key" in detail
        assert ("may hold" in detail) == (name == "trust.p12")
        assert input_formats.contains_private_key(form)
    assert not input_formats.contains_private_key(PEM)


@pytest.mark.parametrize(
    "data",
    [
        csrs.private_key().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()),
        b"PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n",
        b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nlQdG\n-----END PGP PRIVATE KEY BLOCK-----\n",
        b"\xfe\xed\xfe\xed\0\0\0\2\0\0\0\1",
        b"\xce\xce\xce\xce\0\0\0\2\0\0\0\1",
    ],
    ids=["OpenSSH", "PuTTY", "OpenPGP", "JKS", "JCEKS"],
)
def test_private_key_of_another_program_is_refused(data: bytes) -> None:
    """Keys of SSH and OpenPGP and Java's keystores are refused like other private keys."""
    for form in (data, base64.b64encode(data)):
        assert "private key, which is no longer secret" in _refusal(form, BadPublicKey)
        assert input_formats.contains_private_key(form)


SSH = csrs.private_key().public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


@pytest.mark.parametrize(
    ("data", "fragment"),
    [
        (b"", "The CSR is empty"),
        (codecs.BOM_UTF16_LE + b" \0", "The CSR is empty"),
        (SSH + b" user@host\n", "This is an SSH public key, not a CSR"),
        pytest.param(
            csrs.private_key("ed25519").public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
            "an SSH",
            id="ssh-ed25519",  # the key differs from process to process
        ),
        (
            b"---- BEGIN SSH2 PUBLIC KEY ----\nAAAA\n---- END SSH2 PUBLIC KEY ----\n",
            "This is an SSH public key",
        ),
        (
            json.dumps({"csr": PEM.decode(), "profile": "client"}).encode(),
            "This is JSON, not a CSR: send it to /sign",
        ),
        (json.dumps([PEM.decode()]).encode(), "This is JSON"),
        (b"\xef\xbb\xbf<!DOCTYPE html>\n<title>Log in</title>", "This is HTML or XML"),
        (b"request.csr", "This is plain text, not a CSR: send the content of the CSR file, not its name"),
        (PEM.strip() + b"&profile=client", "This is a form with several fields"),
        (PEM.replace(b"\n", b"") + b"&profile=client", "This is a form with several fields"),
        (urlencode({"csr": PEM, "profile": "client"}).encode(), "This is a form with several fields"),
        (urlencode({"profile": "client", "csr": PEM}).encode(), "This is a form with several fields"),
        (b"-----BEGIN X-----\nMIIB\n-----END X-----\n", "The PEM label is X, not CERTIFICATE REQUEST"),
        (_label(DER, "CERTIFICATE"), "The PEM label is CERTIFICATE, not CERTIFICATE REQUEST"),
        (bytes(range(256)), "Not a certificate signing request"),
        (tlv(0x30, b""), "PKCS#10"),
        (tlv(0x30, tlv(0x30, b"")), "PKCS#10"),
        (b"\x30\x84\xff\xff\xff\xff\x30", "PKCS#10"),
        (b"\x30\xff\x30", "PKCS#10"),
    ],
)
def test_text_and_malformed_data_are_named(data: bytes, fragment: str) -> None:
    """Text and other data without a CSR is badCSR; the detail says what to send instead."""
    for form in (data, base64.b64encode(data)) if data else (data,):
        assert fragment in _refusal(form)
        assert not input_formats.contains_private_key(form)


PARTS = [
    *(b"-----BEGIN CERTIFICATE REQUEST-----", b"-----END CERTIFICATE REQUEST-----", b"-----BEGIN ", b"-----"),
    *(
        b"MIIB",
        b"=",
        b"-",
        b"_",
        b"%4d",
        b"%0A",
        b"BEGIN+",
        b"csr=",
        b"&",
        b"\\n",
        b"\\u004d",
        b"\\",
        b'"',
        b"{",
    ),
    *(
        b"\n",
        b"\0",
        b"\xff\xfe",
        b"\xfe\xff",
        b"\xd8\0",
        b"\x30\x82",
        b"\x30\x80",
        b"\x02\x01\0",
        b"PRIVATE KEY-----",
    ),
]


@given(st.lists(st.sampled_from(PARTS), max_size=20).map(b"".join), st.integers(0, 2))
def test_any_combination_of_encodings_is_refused(data: bytes, encodings: int) -> None:
    """Parts of the encodings in any order raise a RequestError, and no other error."""
    for _ in range(encodings):
        data = base64.b64encode(data)
    with pytest.raises(RequestError):
        csr.parse(data)
    input_formats.contains_private_key(data)


@pytest.mark.parametrize(
    "part",
    [
        *PARTS,
        b"-----BEGIN A-----",
        b"-----BEGIN A-----\n-",
        b"A" * 39 + b" ",
        b"A" * 64 + b"=",
        b"\0-",
        b"A_-",
        rb"\u0041",
    ],
)
def test_time_is_linear(part: bytes) -> None:
    """The largest data that is accepted takes milliseconds, also in base64."""
    for size, encode in ((csr.MAX_TEXT_BYTES, bytes), (csr.MAX_TEXT_BYTES * 3 // 4, base64.b64encode)):
        data = encode((part * (size // len(part)))[:-1] + b"!")
        start = time.process_time()
        with pytest.raises(RequestError):
            csr.parse(data)
        input_formats.contains_private_key(data)
        assert time.process_time() - start < 0.5


def test_exactly_one_csr_is_required_in_every_encoding() -> None:
    """Two CSRs are refused also after decoding."""
    two = (PEM * 2).decode()
    for form in (
        two.encode("utf-16"),
        base64.b64encode(two.encode()),
        two.replace("\n", r"\n").encode(),
        urlencode({"csr": two}).encode(),
    ):
        assert "contains 2 CSRs; send exactly one" in _refusal(form)


def test_notes_say_what_was_read_leniently() -> None:
    """PEM, DER and base64 have no notes."""
    for data in (PEM, csrs.encode_der(csrs.build()), base64.b64encode(DER), PEM.replace(b"\n", b"\r\n")):
        assert input_formats.find_csr(data)[1] == ()
    assert input_formats.find_csr(PEM.decode().encode("utf-16"))[1] == ("read leniently: UTF-16",)

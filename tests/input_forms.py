"""One CSR in each form that is read, and what is sent instead of a CSR."""

from __future__ import annotations

import base64
import codecs
import json
from typing import Final
from urllib.parse import quote, urlencode

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    pkcs7,
    pkcs12,
)

from service.pki.keys import encode_private_key
from tests import csrs
from tests.factories import SIGNING, root

# RSA: so long that its base64 has `+`, `/` and `=`.
_REQUEST: Final = csrs.build("x.example", ["dns:x.example"], key_type="rsa-2048")
DER: Final = csrs.encode_der(_REQUEST)
PEM: Final = csrs.encode_pem(_REQUEST)

_TEXT: Final = PEM.decode()
_CRLF: Final = _TEXT.replace("\n", "\r\n")
_BASE64: Final = base64.b64encode(DER)
_ESCAPED: Final = _TEXT.replace("\n", r"\n")
_BASE64_OF_PEM: Final = base64.b64encode(PEM)

READ: Final[dict[str, bytes]] = {
    "PEM": PEM,
    "PEM with CRLF": _CRLF.encode(),
    "PEM with CR": _TEXT.replace("\n", "\r").encode(),
    "PEM with NEW": PEM.replace(b"CERTIFICATE", b"NEW CERTIFICATE"),
    "PEM with a BOM": codecs.BOM_UTF8 + PEM,
    "PEM after Latin-1": "Schlüssel\n".encode("latin-1") + PEM,
    "DER": DER,
    "base64": _BASE64,
    "base64 with a BOM": codecs.BOM_UTF8 + _BASE64,
    "base64 in quotes": b'"%b"\n' % _BASE64,
    "base64 in a field": b"csr=" + _BASE64,
}
READ_LENIENTLY: Final[dict[str, tuple[bytes, tuple[str, ...]]]] = {  # with the notes
    "UTF-16": (_CRLF.encode("utf-16"), ("UTF-16",)),
    "UTF-16BE": (codecs.BOM_UTF16_BE + _TEXT.encode("utf-16-be"), ("UTF-16",)),
    "UTF-16 without BOM": (_TEXT.encode("utf-16-le"), ("UTF-16",)),
    "UTF-16BE without BOM": (_TEXT.encode("utf-16-be"), ("UTF-16",)),
    "base64 of PEM": (_BASE64_OF_PEM, ("base64 of PEM",)),
    "base64 of base64": (base64.encodebytes(base64.b64encode(_BASE64_OF_PEM)), ("base64 of PEM",)),
    "base64 of UTF-16": (base64.b64encode(_TEXT.encode("utf-16")), ("UTF-16",)),
    "base64url": (base64.urlsafe_b64encode(DER), ("base64url",)),
    "base64url without padding": (base64.urlsafe_b64encode(DER).rstrip(b"="), ("base64url",)),
    "base64 without padding": (_BASE64.rstrip(b"="), ("base64 without padding",)),
    "base64url in PEM": (_TEXT.replace("+", "-").replace("/", "_").encode(), ("base64url",)),
    "PEM without padding": (PEM.replace(b"=", b""), ("base64 without padding",)),
    "escaped": (_ESCAPED.encode(), (r"escaped line ends (\n)",)),
    "escaped CRLF": (_CRLF.replace("\r\n", r"\r\n").encode(), (r"escaped line ends (\n)",)),
    "escaped twice": (_ESCAPED.replace("\\", r"\\").encode(), (r"escaped line ends (\n)",)),
    "JSON string": (
        json.dumps(_TEXT).replace("/", r"\/").replace("+", r"\u002B").encode(),
        (r"escaped line ends (\n)",),
    ),
    "escaped in a line": (f'CSR = "{_ESCAPED}"  # C:\\new'.encode(), (r"escaped line ends (\n)",)),
    "escaped base64": (
        b'"%b"\n' % base64.encodebytes(DER).replace(b"\n", rb"\n"),
        (r"escaped line ends (\n)",),
    ),
    "form": (urlencode({"csr": _TEXT}).encode(), ("form encoding",)),
    "form with CRLF": (urlencode({"csr": _CRLF}).encode(), ("form encoding",)),
    "form with base64": (urlencode({"csr": _BASE64}).encode(), ("form encoding",)),
    "percent-encoded": (quote(_TEXT, safe="+/").encode(), ("form encoding",)),
    "one line": (PEM.replace(b"\n", b""), ("PEM without line breaks",)),
    "one line with spaces": (PEM.replace(b"\n", b" "), ("PEM without line breaks",)),
    "SIGNING": (
        PEM.replace(b"CATE", b"CATE SIGNING"),
        ("the PEM label CERTIFICATE SIGNING REQUEST",),
    ),
}
ALL: Final = READ | {name: data for name, (data, _) in READ_LENIENTLY.items()}

_PUBLIC_KEY: Final = csrs.private_key().public_key()
_CERTIFICATE: Final = root()
OTHER_FORMATS: Final[dict[str, tuple[bytes, str]]] = {  # with a fragment of the refusal
    "certificate in PEM": (_CERTIFICATE.public_bytes(Encoding.PEM), "This is a certificate"),
    "certificate": (_CERTIFICATE.public_bytes(Encoding.DER), "This is a certificate"),
    "PKCS7": (pkcs7.serialize_certificates([_CERTIFICATE], Encoding.DER), "RequestType = PKCS10"),
    "public key": (_PUBLIC_KEY.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), "public key"),
    "SSH key": (_PUBLIC_KEY.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH), "an SSH public key"),
    "JSON": (json.dumps({"csr": _TEXT, "profile": "client"}).encode(), "This is JSON"),
    "HTML": (b"<!DOCTYPE html>\n<title>Log in</title>", "This is HTML"),
    "file name": (b"my.csr", "This is plain text"),
    "form with two fields": (urlencode({"csr": _TEXT, "profile": "client"}).encode(), "several fields"),
    "two CSRs": (PEM + PEM, "contains 2 CSRs"),
    "two CSRs in UTF-16": ((_TEXT + _TEXT).encode("utf-16"), "contains 2 CSRs"),
    "path": (rb"C:\temp\my.csr", "This is plain text"),
    "cut": (PEM[:-30], "damaged"),
}

_KEY: Final = csrs.private_key("rsa-2048")
_KEY_PEM: Final = encode_private_key(_KEY)
PRIVATE_KEYS: Final[dict[str, bytes]] = {
    "key": _KEY_PEM,
    "encrypted key": encode_private_key(_KEY, b"abc"),
    "key in DER": _KEY.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
    "key in PKCS1": _KEY.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption()),
    "key of SSH": csrs.private_key().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()),
    "PKCS12": pkcs12.serialize_key_and_certificates(None, SIGNING, None, None, NoEncryption()),
    "key after the CSR": PEM + _KEY_PEM,
    "key in UTF-16": _KEY_PEM.decode().encode("utf-16"),
    "key in base64": base64.b64encode(_KEY_PEM),
    "key in base64 with the CSR": base64.b64encode(PEM + _KEY_PEM),
    "key escaped": _KEY_PEM.replace(b"\n", rb"\n"),
    "key in a form": urlencode({"key": _KEY_PEM}).encode(),
    "key in a form after the CSR": PEM + urlencode({"key": _KEY_PEM}).encode(),
}

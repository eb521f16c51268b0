"""Find the certificate signing request (CSR) in the octets that a client sent, or name their other format."""

from __future__ import annotations

import base64
import codecs
import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Final

from service.pki import ber, pem
from service.pki.errors import BadCSR, BadPublicKey, RequestError

# A PEM block with line ends and nothing around it: nearly all requests.
_PLAIN_CSR: Final = re.compile(
    rb"-----BEGIN CERTIFICATE REQUEST-----(\r?\n[A-Za-z0-9+/=\r\n]++)-----END CERTIFICATE REQUEST-----\s*"
)
_PRIVATE_KEY: Final = re.compile(  # RFC 7468 10 and 11, also form-encoded; OpenPGP; PuTTY
    rb"PRIVATE(?:[ +]|%20)KEY(?: BLOCK)?-----|PuTTY-User-Key-File-"
)
_KEYSTORES: Final = (b"\xfe\xed\xfe\xed", b"\xce\xce\xce\xce")  # JKS and JCEKS
_PKI_DATA: Final = bytes.fromhex("06082b06010505070c02")  # id-cct-PKIData, RFC 5272 3.2.1
_KEY_BAG: Final = re.compile(rb"\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x0a\x01[\x01\x02]")  # RFC 7292 4.2.1, 4.2.2
_NOT_PLAIN_TEXT: Final = re.compile(rb"[\0-\x08\x0e-\x1f\x7f-\xff]|-----BEGIN|[A-Za-z0-9+/]{40}")
_MAX_PARTS: Final = 12
_MAX_LEVELS: Final = 3

CERTIFICATE: Final = "a certificate"
PKCS7: Final = "PKCS#7"
_CRL: Final = "a certificate revocation list (CRL)"
_SECRETS: Final = {
    "a private key": "contains a private key",
    "PKCS#12": "is a PKCS#12 file, and it holds a private key",
    "a trust store": "is a PKCS#12 file, and it may hold a private key",
    "a keystore": "is a Java keystore, and it may hold a private key",
}
_NEW_CSR: Final = "create a CSR with its private key, for example with openssl req -new -key"
_PKCS10: Final = "send PKCS#10 (RFC 2986)"
_CERTREQ: Final = f"{_PKCS10}; certreq creates it with RequestType = PKCS10 in its INF file"
_REMEDIES: Final = {
    CERTIFICATE: f"to get a new one, {_NEW_CSR}",
    _CRL: "send the CSR",
    "a public key": _NEW_CSR,
    "an SSH public key": "create a key and a CSR, for example with openssl req -newkey",
    PKCS7: _CERTREQ,
    "CMC (RFC 5272)": _CERTREQ,
    "CRMF (RFC 4211)": _PKCS10,
    "CMP (RFC 4210)": _PKCS10,
    "JSON": "send it to /sign with Content-Type: application/json, or send only the CSR in it",
    "a form with several fields": "send only the CSR; /sign.pem has query parameters for other values",
    "HTML or XML": "send only the CSR",
    "the description of a CSR": "send its PEM, which openssl req prints without -noout",
    "plain text": "send the content of the CSR file, not its name",
}

# The tags of the parts of a SEQUENCE, after a slash those of its first part, and so on.
_STRUCTURES: Final = (
    (r"303003/(a0)?0230303030", CERTIFICATE),  # RFC 5280 4.1
    (r"303003/(02)?3030(17|18)", _CRL),  # RFC 5280 5.1
    (r"06a0/", PKCS7),  # RFC 5652 3
    (r"30303030/(30)*/", "CMC (RFC 5272)"),
    (r"(30)+/30(80|a[0-3])?(30)?/0230", "CRMF (RFC 4211)"),
    (r"30a[0-9a-f](a[01])*/02[8-b]", "CMP (RFC 4210)"),
    (r"0230(30)?/", "PKCS#12"),  # RFC 7292 4
    (r"023004|0204|3004/0630/|(02){5}", "a private key"),  # RFC 5958 2 and 3, RFC 5915 3, RFC 8017 A.1.2
    (r"3003/06|0202/", "a public key"),  # RFC 5280 4.1.2.7, RFC 8017 A.1.1
)
_TEXTS: Final = (
    (rb"(ssh|ecdsa-sha2|sk-ssh|sk-ecdsa)-|---- BEGIN SSH2 PUBLIC", "an SSH public key"),
    (rb"[{\[]", "JSON"),
    (rb"<", "HTML or XML"),
    (rb"Certificate Request:", "the description of a CSR"),
    (rb"[\w.]{1,64}=[^&\s]*&", "a form with several fields"),
)
_LABELS: Final = (
    ("CERTIFICATE", CERTIFICATE),
    ("PKCS7", PKCS7),
    ("CMS", PKCS7),
    ("CRL", _CRL),
    ("PUBLIC KEY", "a public key"),
)


def contains_private_key(data: bytes) -> bool:
    """Whether the data is or contains a private key in PEM, DER, PKCS#12 or a keystore, also encoded."""
    return bool(describe_private_key(data))


def describe_private_key(data: bytes) -> str:
    """Describe where a private key is in the data, such as 'contains a private key'; '' if there is none."""
    layers = pem.decode(data)
    content = layers[-1]
    if _has_pem_private_key(layers):
        return _SECRETS["a private key"]
    names = (_name(content.data), *(name_der(block.der or b"") for block in content.blocks))
    return next((_SECRETS[name] for name in names if name in _SECRETS), "")


def find_csr(data: bytes) -> tuple[bytes, tuple[str, ...]]:
    """Find the only CSR in the data.

    Returns:
        Its DER, which is not parsed, and notes about what was read leniently.

    Raises:
        BadCSR: the data does not contain exactly one CSR.
        BadPublicKey: the data contains a private key.
    """
    if plain := _PLAIN_CSR.fullmatch(data):
        with contextlib.suppress(ValueError):
            if der := base64.b64decode(b"".join(plain[1].split()), validate=True):
                return der, ()
    layers = pem.decode(data)
    content = layers[-1]
    if _has_pem_private_key(layers):
        raise _refusal("a private key")
    for block in content.blocks:
        if block.label not in ("", *pem.CSR_LABELS) and (name := name_der(block.der or b"")) in _SECRETS:
            raise _refusal(name)
    csrs = [block for block in content.blocks if block.der and block.label in ("", *pem.CSR_LABELS)]
    if len(csrs) > 1:
        raise BadCSR(f"The request contains {len(csrs)} CSRs; send exactly one", "csr")
    if not csrs:
        raise _missing_csr(layers)
    if any(b"-----&" in layer.data for layer in layers):  # other fields must not be ignored
        raise _refusal("a form with several fields")
    notes = (*content.notes, *csrs[0].notes)
    return csrs[0].der or b"", tuple(f"read leniently: {note}" for note in notes)


def verify_format(der: bytes) -> None:
    """Verify that DER, which is not a valid CSR, has no other known format.

    Raises:
        BadCSR: it has another format.
        BadPublicKey: it has a format for private keys.
    """
    if name := name_der(der):
        raise _refusal(name)


def name_der(der: bytes) -> str:
    """Name the format of DER that is not a CSR, such as `CERTIFICATE`; '' if it is not known."""
    structure = _structure(der)
    name = next((name for pattern, name in _STRUCTURES if re.match(pattern, structure)), "")
    if name == PKCS7 and _PKI_DATA in der[:400]:
        return "CMC (RFC 5272)"
    return "a trust store" if name == "PKCS#12" and not _KEY_BAG.search(der) else name


def _has_pem_private_key(layers: Sequence[pem.Layer]) -> bool:
    return any(_PRIVATE_KEY.search(layer.data) for layer in layers)


def _refusal(name: str) -> RequestError:
    if name in _SECRETS:
        remedy = "which is no longer secret: generate a new key, and send only its CSR"
        return BadPublicKey(f"The request {_SECRETS[name]}, {remedy}", "csr")
    return BadCSR(f"This is {name}, not a CSR: {_REMEDIES[name]}", "csr")


def _missing_csr(layers: Sequence[pem.Layer]) -> RequestError:
    content = layers[-1]
    if not content.data.strip():
        return BadCSR("The CSR is empty", "csr")
    for layer in reversed(layers):  # text can be valid base64
        if name := _name(layer.data):
            return _refusal(name)
    labels = [block.label for block in content.blocks]
    if any(label in pem.CSR_LABELS for label in labels):
        return BadCSR("The PEM block is damaged: its base64 or its END line is invalid", "csr")
    for name in filter(None, map(_name_block, content.blocks)):
        return _refusal(name)
    if labels:
        return BadCSR(f"The PEM label is {labels[0]}, not {pem.CSR_LABELS[0]}", "csr")
    return BadCSR("Not a certificate signing request in PEM, DER or base64", "csr")


def _name_block(block: pem.Block) -> str:
    """Name the format of a PEM block that is not a CSR, by its content or label; '' if it is not known."""
    if block.der:
        return name_der(block.der)
    return next((name for words, name in _LABELS if words in block.label), "")


def _name(data: bytes) -> str:
    """Name the format of data that is neither a CSR nor PEM; '' if it is not known."""
    if pem.is_der(data):
        return name_der(data)
    if data.startswith(_KEYSTORES):
        return "a keystore"
    text = data.removeprefix(codecs.BOM_UTF8).lstrip()
    for pattern, name in _TEXTS:
        if re.match(pattern, text):
            return name
    return "" if _NOT_PLAIN_TEXT.search(text) else "plain text"


def _structure(der: bytes) -> str:
    """Return the tags of a SEQUENCE for `_STRUCTURES`: `303003/023030a0/` for a CSR."""
    structure, parts = "", list(_parts(der))[:1]
    for _ in range(_MAX_LEVELS):
        if not parts or parts[0][0] != ber.SEQUENCE:
            break
        parts = list(_parts(parts[0][1]))
        structure += "".join(f"{tag:02x}" for tag, _ in parts) + "/"
    return structure


def _parts(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the tags and contents of the first values (X.690 8.1); the last may be truncated."""
    end = 0
    for _ in range(_MAX_PARTS):
        tag, length, start = data[end : end + 1], data[end + 1 : end + 2], end + 2
        if not length:
            return
        if length >= b"\x80":  # the long form; without octets of the length, the indefinite form
            octets = length[0] - 128
            length, start = data[start : start + min(octets, 4)], start + octets
        end = start + int.from_bytes(length) if length else len(data)
        yield tag[0], data[start:end]

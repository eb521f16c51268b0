"""Certification requests with a structure, odd in every part, changed, and signed again by their own key."""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import strategies as st

from tests import csrs
from tests.adversarial import der
from tests.adversarial.der import Node

RSA: Final = "1.2.840.113549.1.1"
SIGNATURES: Final = {
    "rsa": ((f"{RSA}.11", hashes.SHA256), (f"{RSA}.12", hashes.SHA384), (f"{RSA}.13", hashes.SHA512), (f"{RSA}.5", hashes.SHA1)),
    "ec": (("1.2.840.10045.4.3.2", hashes.SHA256), ("1.2.840.10045.4.3.3", hashes.SHA384), ("1.2.840.10045.4.3.4", hashes.SHA512), ("1.2.840.10045.4.3.1", hashes.SHA224)),
    "dsa": (("2.16.840.1.101.3.4.3.2", hashes.SHA256),),
}  # fmt: skip
BARE: Final = {
    "ed25519": "1.3.101.112", "ed448": "1.3.101.113",
    "ml-dsa-44": "2.16.840.1.101.3.4.3.17", "ml-dsa-65": "2.16.840.1.101.3.4.3.18", "ml-dsa-87": "2.16.840.1.101.3.4.3.19",
}  # fmt: skip
GOOD_KEYS: Final = ("p-256", "p-384", "p-521", "rsa-2048", "ed25519", "ml-dsa-44", "ml-dsa-65", "ml-dsa-87")
ODD_KEYS: Final[dict[str, Callable[[], Any]]] = {
    "rsa-1024": lambda: rsa.generate_private_key(65537, 1024),
    "rsa-2048-e3": lambda: rsa.generate_private_key(3, 2048),
    "rsa-2050": lambda: rsa.generate_private_key(65537, 2050),
    "p-224": lambda: ec.generate_private_key(ec.SECP224R1()),
    "secp256k1": lambda: ec.generate_private_key(ec.SECP256K1()),
    "brainpool": lambda: ec.generate_private_key(ec.BrainpoolP256R1()),
    "ed448": ed448.Ed448PrivateKey.generate,
    "dsa": lambda: dsa.generate_private_key(1024),
}


@functools.cache
def key(kind: str) -> Any:
    """One private key of each kind, made once."""
    return ODD_KEYS[kind]() if kind in ODD_KEYS else csrs.private_key(kind)


@functools.cache
def spki(kind: str) -> bytes:
    """Its SubjectPublicKeyInfo."""
    encoded: bytes = key(kind).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded


def sign(kind: str, which: int, info: bytes) -> tuple[bytes, bytes]:
    """The AlgorithmIdentifier and the signature over a CertificationRequestInfo; `which` of the hashes."""
    if kind in BARE:
        return der.tlv(der.SEQUENCE, der.oid(BARE[kind])), key(kind).sign(info)
    family = kind.split("-", maxsplit=1)[0] if kind.startswith(("rsa", "dsa")) else "ec"
    dotted, algorithm = SIGNATURES[family][which % len(SIGNATURES[family])]
    if family == "rsa":
        signature = key(kind).sign(info, padding.PKCS1v15(), algorithm())
        return der.tlv(der.SEQUENCE, der.oid(dotted), der.NULL), signature
    signature = key(kind).sign(info, ec.ECDSA(algorithm()) if family == "ec" else algorithm())
    return der.tlv(der.SEQUENCE, der.oid(dotted)), signature


def assembled(info: bytes, algorithm: bytes, signature: bytes) -> bytes:
    """A CertificationRequest (RFC 2986 4.2)."""
    return der.tlv(der.SEQUENCE, info, algorithm, der.tlv(der.BIT_STRING, b"\0", signature))


# Subject public keys that are written by hand: nobody could sign with most of them.
def _ec_spki(curve: str, point: bytes) -> bytes:
    algorithm = der.tlv(der.SEQUENCE, der.oid("1.2.840.10045.2.1"), der.oid(curve))
    return der.tlv(der.SEQUENCE, algorithm, der.tlv(der.BIT_STRING, b"\0", point))


def _rsa_spki(modulus: int, exponent: int, algorithm: str = f"{RSA}.1", parameters: bytes = der.NULL) -> bytes:  # fmt: skip
    numbers = der.tlv(der.SEQUENCE, der.integer(modulus), der.integer(exponent))
    return der.tlv(der.SEQUENCE, der.tlv(der.SEQUENCE, der.oid(algorithm), parameters), der.tlv(der.BIT_STRING, b"\0", numbers))  # fmt: skip


READABLE: Final = (16, 18)  # of the following: RSA under PSS's OID, and Ed25519, of nobody


@functools.cache
def odd_spkis() -> tuple[bytes, ...]:
    """Compressed and impossible points, impossible and gigantic moduli, keys for other algorithms."""
    point: bytes = key("p-256").public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    numbers = key("rsa-2048").public_key().public_numbers()
    p256, bare = "1.2.840.10045.3.1.7", [("1.3.101.112", 32), ("1.3.101.110", 32), ("1.3.101.113", 57), ("2.16.840.1.101.3.4.3.17", 1312), ("2.16.840.1.101.3.4.3.31", 32)]  # fmt: skip
    return (
        _ec_spki(p256, point), _ec_spki(p256, b"\0"), _ec_spki(p256, b"\4" + b"\1" * 64), _ec_spki(p256, b""), _ec_spki("1.2.3", point),
        _rsa_spki(0, 65537), _rsa_spki(-numbers.n, 65537), _rsa_spki(numbers.n + 1, 65537), _rsa_spki(2**2048 - 1, 65537),
        _rsa_spki(numbers.n, 1), _rsa_spki(numbers.n, 0), _rsa_spki(numbers.n, -3), _rsa_spki(numbers.n, 2**2047 + 1), _rsa_spki(2**16384 + 1, 65537),
        _rsa_spki(2**8191 + 9, 2**64 - 1), _rsa_spki(2**60000 + 1, 2**5000 + 1), _rsa_spki(numbers.n, 65537, f"{RSA}.10"), _rsa_spki(numbers.n, 65537, parameters=b""),
        *(der.tlv(der.SEQUENCE, der.tlv(der.SEQUENCE, der.oid(dotted)), der.tlv(der.BIT_STRING, b"\0", b"\1" * count)) for dotted, count in bare),
    )  # fmt: skip


# Hypothesis is fond of the ends of a range, so what is to be rare stands in the middle of one.
_MIDDLE: Final = 500


def _one_in(draw: st.DrawFn, count: int) -> bool:
    return _MIDDLE <= draw(st.integers(0, 2 * _MIDDLE)) < _MIDDLE + 2 * _MIDDLE // count


_label = st.from_regex(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,6}[a-zA-Z0-9])?", fullmatch=True)
_host = st.lists(_label, min_size=1, max_size=3).map(lambda labels: ".".join([*labels, "Example"]))
_ODD_TEXTS: Final = (
        "", ".", "*", "*.example", "a.*.example", "a..b", "a.example.", "_sip.example", "10.0.0.1", "::1", "xn--a", "xn--mnchen-3ya.example",
         "a\0.example", "a.example\n", "<b>.example", "a" * 64 + ".example", ("a" * 49 + ".") * 5 + "abc", ("a" * 60 + ".") * 5, "localhost", "1.1.168.192.in-addr.arpa",
         "münchen.example", "\uff41.example", "a.example:80", "a b.example", "-a.example", "a-.example", "ab--c.example", "\u202eelpmaxe.a", "%00", "{{7*7}}", "' OR 1=1",
)  # fmt: skip
_odd_text = st.text(max_size=12) | st.sampled_from(_ODD_TEXTS)
_octets = st.one_of(st.binary(max_size=20), _odd_text.map(lambda text: text.encode("utf-8", "replace")))
_ODD_EMAILS: Final = ("a@example", "A.b@Example", "a", "@", "a@", "a@@b", '"a b"@example', "a@1.2.3.4", "ä@example", "a@b\r\nX: y")  # fmt: skip
_ODD_URIS: Final = ("spiffe://example/a", "https://Example/", "https://u:p@example/", "urn:uuid:1", "http://[::1/", "http://[::1]:99999/", "a", "://", "javascript:alert(1)", "spiffe://a/../b", "https://ex ample/", "h:" + "x" * 3000, "h:a b", "h:<b>", 'h:"', "h:a\n", "spiffe:", "h:\x7f")  # fmt: skip
_email, _uri = (st.sampled_from(texts).map(str.encode) for texts in (_ODD_EMAILS, _ODD_URIS))
_address = st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16), st.binary(max_size=33))  # fmt: skip
_dns = _host.map(str.encode)
_good_names = st.one_of(_dns.map(lambda each: der.tlv(b"\x82", each)), st.binary(min_size=4, max_size=4).map(lambda each: der.tlv(b"\x87", each)))  # fmt: skip
_other_names = st.sampled_from([(b"\x81", b"a.b@Example"), (b"\x81", b"a+b@mail.example"), (b"\x86", b"spiffe://example/a"), (b"\x86", b"HTTPS://a.example/%41"), (b"\x86", b"urn:uuid:1")]).map(lambda each: der.tlv(*each))  # fmt: skip
_odd_names = st.one_of(
    _octets.map(lambda each: der.tlv(b"\x82", each)),
    _email.map(lambda each: der.tlv(b"\x81", each)),
    _uri.map(lambda each: der.tlv(b"\x86", each)),
    _address.map(lambda each: der.tlv(b"\x87", each)),
    _octets.map(lambda each: der.tlv(b"\xa0", der.oid("1.3.6.1.4.1.311.20.2.3"), der.tlv(b"\xa0", der.tlv(b"\x0c", each)))),
    st.just(der.tlv(b"\xa4", der.tlv(der.SEQUENCE))),
    st.binary(max_size=8).map(lambda each: der.tlv(b"\x88", each)),
    st.tuples(st.integers(0x80, 0xBE).map(lambda tag: bytes([tag])), _octets).map(lambda each: der.tlv(*each)),
)  # fmt: skip
_string_tags = st.sampled_from([b"\x0c", b"\x13", b"\x16", b"\x14", b"\x1e", b"\x1c", b"\x12", b"\x04", b"\x02"])  # fmt: skip
_attribute_types = st.sampled_from(["2.5.4.3", "2.5.4.6", "2.5.4.10", "2.5.4.11", "2.5.4.5", "1.2.840.113549.1.9.1", "0.9.2342.19200300.100.1.25", "1.2.3.4", "2.5.4.97"])  # fmt: skip


def _many(count: int) -> list[bytes]:
    return [der.tlv(b"\x82", f"h{number}.example".encode()) for number in range(count)]


_sans = st.one_of(
    st.lists(_good_names, min_size=1, max_size=4),
    st.lists(_good_names | _other_names, min_size=1, max_size=3),
    *[st.tuples(_good_names, _odd_names).map(list)] * 4,  # one odd name, so that it alone decides
    st.lists(_good_names | _odd_names, max_size=4),
    st.sampled_from([99, 100, 101, 1500]).map(_many),
)


@st.composite
def _subject(draw: st.DrawFn) -> bytes:
    """A Name: usually nothing, or a host as the common name; else whatever."""
    match draw(st.integers(0, 9)):
        case 0 | 1 | 2:
            return der.tlv(der.SEQUENCE)
        case 6 | 7 | 8 | 9:
            texts = [(b"\x0c", "2.5.4.3", draw(_dns))]
        case _:
            texts = draw(st.lists(st.tuples(_string_tags, _attribute_types, _dns | _octets), max_size=4))
    one = [der.tlv(der.SEQUENCE, der.oid(dotted), der.tlv(tag, text)) for tag, dotted, text in texts]
    if _one_in(draw, 10):
        return der.tlv(der.SEQUENCE, der.tlv(der.SET, *one))
    return der.tlv(der.SEQUENCE, *(der.tlv(der.SET, each) for each in one))


_bits = st.tuples(st.integers(0, 7), st.binary(min_size=0, max_size=2)).map(lambda each: der.tlv(der.BIT_STRING, bytes([each[0]]), each[1]))  # fmt: skip
_usages = st.lists(st.sampled_from(["1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2", "1.3.6.1.5.5.7.3.3", "2.5.29.37.0", "1.2.3"]), max_size=3)  # fmt: skip
_extensions = st.one_of(
    st.tuples(st.just("2.5.29.19"), st.sampled_from([b"\x30\x00", b"\x30\x03\x01\x01\x00", b"\x30\x03\x01\x01\xff", b"\x30\x06\x01\x01\xff\x02\x01\x00", b"\x30\x03\x02\x01\x05", b""])),
    st.tuples(st.just("2.5.29.15"), _bits | st.sampled_from([b"\x03\x02\x05\xa0", b"\x03\x02\x07\x80", b"\x03\x02\x01\x06"])),
    st.tuples(st.just("2.5.29.37"), _usages.map(lambda each: der.tlv(der.SEQUENCE, *map(der.oid, each)))),
    st.tuples(st.just("2.5.29.37"), st.just(der.tlv(der.SEQUENCE, der.oid("1.3.6.1.5.5.7.3.1")))),
    st.tuples(st.just("2.5.29.14"), st.binary(max_size=24).map(lambda each: der.tlv(der.OCTET_STRING, each))),
    st.tuples(st.sampled_from(["2.5.29.35", "2.5.29.30", "2.5.29.31", "2.5.29.32", "2.5.29.54", "2.5.29.56", "1.3.6.1.5.5.7.1.1", "1.3.6.1.5.5.7.1.24", "1.3.6.1.5.5.7.1.3", "2.16.840.1.113730.1.1", "1.2.3.4", "1.3.6.1.4.1.311.21.7", "1.3.6.1.4.1.11129.2.4.2"]),
              st.sampled_from([b"", b"\x05\x00", b"\x30\x00", b"\x30\x03\x02\x01\x05", b"\x04\x02\x04\x00"]) | st.binary(max_size=12)),
)  # fmt: skip


def _extension(dotted: str, value: bytes, critical: int) -> bytes:
    flag = [b"", b"\x01\x01\xff", b"\x01\x01\x00", b"\x01\x01\x01"][critical]
    return der.tlv(der.SEQUENCE, der.oid(dotted), flag, der.tlv(der.OCTET_STRING, value))


_critical = st.sampled_from([0] * 10 + [1] * 10 + [2, 3] + [1] * 5 + [0] * 15)
_EXTENSION_REQUEST: Final = "1.2.840.113549.1.9.14"


@st.composite
def _attributes(draw: st.DrawFn) -> bytes:
    """The attributes: usually an extensionRequest with names and at most two other extensions."""
    extensions = []
    if not _one_in(draw, 8):
        san = der.tlv(der.SEQUENCE, *draw(_sans))
        extensions.append(_extension("2.5.29.17", san, draw(_critical)))
    wanted: list[tuple[str, bytes]] = draw(st.lists(_extensions, max_size=2))
    extensions += [_extension(dotted, value, draw(_critical)) for dotted, value in wanted]
    kind = "1.3.6.1.4.1.311.2.1.14" if _one_in(draw, 10) else _EXTENSION_REQUEST
    requested = der.tlv(der.SEQUENCE, der.oid(kind), der.tlv(der.SET, der.tlv(der.SEQUENCE, *extensions)))
    others: list[bytes] = []
    if _one_in(draw, 4):
        kinds = st.sampled_from(["1.2.840.113549.1.9.7", "1.2.840.113549.1.9.2", "1.3.6.1.4.1.311.13.2.3", "1.2.3.4", _EXTENSION_REQUEST])  # fmt: skip
        least, most = (0, 2) if _one_in(draw, 4) else (1, 1)
        values = st.lists(
            st.tuples(_string_tags, _octets).map(lambda each: der.tlv(*each)), min_size=least, max_size=most
        )
        other = st.tuples(kinds, values).map(lambda each: der.tlv(der.SEQUENCE, der.oid(each[0]), der.tlv(der.SET, *each[1])))  # fmt: skip
        others += draw(st.lists(other, max_size=2))
    present = [requested] if extensions or _one_in(draw, 2) else []
    made = [*present, *others]
    return der.tlv(der.ATTRIBUTES, *(draw(st.permutations(made)) if _one_in(draw, 20) else sorted(made)))


_odd_versions = st.sampled_from([der.integer(1), der.integer(-1), der.integer(2**64), b"\x02\x02\x00\x00", b"\x02\x00"])  # fmt: skip


_TAGS: Final = (b"\x0c", b"\x13", b"\x1e", b"\x30", b"\x31", b"\x04", b"\x03", b"\x06", b"\x01", b"\xa0", b"\x82", b"\x5f\x20", b"\x1f\xff\xff\xff\x7f", b"\0")  # fmt: skip


def _retag(chance: Random, node: Node, _nodes: list[Node]) -> None:
    node.tag = chance.choice([*_TAGS, chance.randbytes(1)])


def _rewrite(chance: Random, node: Node, _nodes: list[Node]) -> None:
    if node.children is not None:
        node.content, node.children = node.prefix + b"".join(each.encode() for each in node.children), None
    content = bytearray(node.content)
    match chance.randrange(4):
        case 0 if content:
            content[chance.randrange(len(content))] ^= chance.randint(1, 255)
        case 1:
            content = bytearray()
        case 2:
            content += chance.randbytes(chance.randint(1, 4))
        case _:
            content = bytearray(chance.randbytes(chance.randrange(24)))
    node.content = bytes(content)


def _lie(chance: Random, node: Node, _nodes: list[Node]) -> None:
    node.lie = chance.choice([-1, 1, 2, -4, 127, 65536, 2**31, 2**63])


def _reform(chance: Random, node: Node, _nodes: list[Node]) -> None:
    node.form = chance.choice(["long", "indefinite"])


def _drop(chance: Random, node: Node, _nodes: list[Node]) -> None:
    if node.children:
        del node.children[chance.randrange(len(node.children))]


def _double(chance: Random, node: Node, _nodes: list[Node]) -> None:
    if node.children:
        node.children += [chance.choice(node.children)] * chance.choice([1, 1, 1, 2, 200])


def _swap(_chance: Random, node: Node, _nodes: list[Node]) -> None:
    if node.children:
        node.children.reverse()


def _graft(chance: Random, node: Node, nodes: list[Node]) -> None:
    taken = chance.choice(nodes).encode()
    if node.children is None:
        node.content = taken
    else:
        node.children.append(der.Octets(taken))


def _nest(chance: Random, node: Node, _nodes: list[Node]) -> None:
    wrapped = node.encode()
    for _ in range(chance.choice([1, 1, 2, 60, 2000])):
        wrapped = der.tlv(der.SEQUENCE, wrapped)
    node.children, node.content = None, wrapped


_CHANGES: Final = (_retag, _rewrite, _rewrite, _lie, _reform, _drop, _double, _swap, _graft, _nest)


def changed(chance: Random, data: bytes) -> bytes:
    """DER with one to three of its TLVs changed; the lengths around them are right again."""
    try:
        root = der.parse(data)[0]
    except (ValueError, IndexError):  # what was odd before is odd enough
        return data
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        nodes = list(root.walk())
        chance.choice(_CHANGES)(chance, chance.choice(nodes), nodes)
    return root.encode()


def bent(chance: Random, data: bytes) -> bytes:
    """Octets changed, left out, put in, or cut off, without any regard for structure."""
    bent = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(bent))
        match chance.randrange(8):
            case 0 | 1 | 2 | 3:
                bent[at] ^= chance.randint(1, 255)
            case 4 | 5 if len(bent) > 9:
                del bent[at : at + chance.randint(1, 9)]
            case 6:
                bent[at:at] = chance.randbytes(chance.randint(1, 9))
            case _:
                del bent[max(1, at) :]
        bent = bent or bytearray(b"0")
    return bytes(bent)


@dataclass(frozen=True)
class Sent:
    """What is sent: to which operation, as which media type, the body, and the request itself."""

    path: str
    media_type: str
    body: bytes | dict[str, Any]
    der: bytes
    profile: str


VARIANTS: Final = 5
_ONE_MORE: Final = ((b"\x82", _ODD_TEXTS), (b"\x81", _ODD_EMAILS), (b"\x86", _ODD_URIS))


def _named(chance: Random, info: bytes) -> bytes:
    """The same with one more name, which alone is odd."""
    root = der.parse(info)[0]
    names = der.extension(root, "2.5.29.17")
    if names and names.children:
        tag, texts = chance.choice(_ONE_MORE)
        one = Node(tag, chance.choice(texts).encode())
        names.children[0].children = [*(names.children[0].children or []), one]
    return root.encode()


@dataclass(frozen=True)
class Family:
    """A request, and where its variants begin: what is sent follows from these.

    Attributes:
        kind: of the key that signs it.
        which: of the hashes, for RSA and ECDSA.
        info: its CertificationRequestInfo, DER.
        seed: of the changes.
    """

    kind: str
    which: int
    info: bytes
    seed: int

    def members(self) -> list[Sent]:
        """The request as it is, then changed in one way or another, each by some way to sign."""
        chance = Random(self.seed)  # noqa: S311 - the same again from the same seed
        return [_on_its_way(chance, self._variant(chance, number)) for number in range(VARIANTS)]

    def _variant(self, chance: Random, number: int) -> bytes:
        way = chance.random() if number else 0.0
        # Most changes are signed by the key: they are the ones that get past the proof of possession.
        info = changed(chance, self.info) if 0.4 < way < 0.8 else self.info
        info = _named(chance, info) if 0.2 < way < 0.4 else info
        which = chance.choice([1, 2, 3, 3]) if chance.random() < 0.15 else self.which
        whole = assembled(info, *sign(self.kind, which, info))
        if way < 0.8:
            return whole
        return changed(chance, whole) if way < 0.9 else bent(chance, whole)


@st.composite
def family(draw: st.DrawFn) -> Family:
    """A certification request with a structure, odd in any part, or in none."""
    kinds = [*GOOD_KEYS[:4], *ODD_KEYS, *GOOD_KEYS] if _one_in(draw, 3) else GOOD_KEYS
    kind = draw(st.sampled_from(kinds))
    public = draw(st.sampled_from(odd_spkis())) if _one_in(draw, 16) else spki(kind)
    which = draw(st.integers(0, 3)) if _one_in(draw, 6) else 0
    version = draw(_odd_versions) if _one_in(draw, 40) else der.integer(0)
    info = der.tlv(der.SEQUENCE, version, draw(_subject()), public, draw(_attributes()))
    return Family(kind, which, info, draw(st.integers(0, 2**32)))


def _pem(data: bytes, label: str, width: int, end: str) -> str:
    text = base64.b64encode(data).decode()
    lines = [text[at : at + width] for at in range(0, len(text), width)]
    return end.join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])


def _text(chance: Random, data: bytes) -> str:
    """The request as text; three times in four as everybody writes it."""
    usual = _pem(data, "CERTIFICATE REQUEST", 64, "\n")
    at = chance.randrange(len(usual))
    odd = (
        _pem(data, "NEW CERTIFICATE REQUEST", 76, "\r\n"),
        base64.b64encode(data).decode(),
        "Certificate Request:\n    Data:\n" + _pem(data, "CERTIFICATE REQUEST", 1, "\n"),
        _pem(data, "CERTIFICATE", 64, "\n"),
        usual * 2,
        usual[:at]
        + chance.choice(["\0", "\ud800", "é", "=", "-----", "\n\n", " ", "\U0001f600"])
        + usual[at:],
        chance.choice(["\ufeff", "é\n", "\0", "-----BEGIN X-----\n", " " * 1000]) + usual,
    )
    return chance.choice([*odd, *[usual] * 21])


_MEDIA_TYPES: Final = ("application/pkcs10", "application/x-pem-file", "application/octet-stream", "text/plain", "application/x-www-form-urlencoded")  # fmt: skip


def _on_its_way(chance: Random, data: bytes) -> Sent:
    profile, way = chance.choice(["server", "server", "client", "peer"]), chance.randrange(10)
    if way < 3:
        body = data if chance.random() < 0.5 else _text(chance, data).encode("utf-8", "replace")
        return Sent(f"/sign.pem?profile={profile}", chance.choice(_MEDIA_TYPES), body, data, profile)
    order: dict[str, Any] = {"csr": _text(chance, data), "profile": profile}
    if chance.random() < 0.1:
        order["validity"] = chance.choice(["P1D", "PT1H", "P9999D", "PT0S", "P"])
    if way == 3:
        return Sent("/sign/batch", "application/json", {"requests": [order]}, data, profile)
    order["text"] = chance.random() < 0.25
    return Sent("/sign", "application/json", order, data, profile)

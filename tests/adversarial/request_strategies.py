"""Generate CSRs with unusual values in every part, mutate them, and sign them again with their own key."""

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
SIGNATURES: Final[dict[str, tuple[tuple[str, Callable[[], hashes.HashAlgorithm]], ...]]] = {
    "rsa": ((f"{RSA}.11", hashes.SHA256), (f"{RSA}.12", hashes.SHA384), (f"{RSA}.13", hashes.SHA512), (f"{RSA}.5", hashes.SHA1)),
    "ec": (("1.2.840.10045.4.3.2", hashes.SHA256), ("1.2.840.10045.4.3.3", hashes.SHA384), ("1.2.840.10045.4.3.4", hashes.SHA512), ("1.2.840.10045.4.3.1", hashes.SHA224)),
    "dsa": (("2.16.840.1.101.3.4.3.2", hashes.SHA256),),
}  # fmt: skip
SINGLE_ALGORITHM_OIDS: Final = {
    "ed25519": "1.3.101.112", "ed448": "1.3.101.113",
    "ml-dsa-44": "2.16.840.1.101.3.4.3.17", "ml-dsa-65": "2.16.840.1.101.3.4.3.18", "ml-dsa-87": "2.16.840.1.101.3.4.3.19",
}  # fmt: skip
SUPPORTED_KEYS: Final = (
    "p-256",
    "p-384",
    "p-521",
    "rsa-2048",
    "ed25519",
    "ml-dsa-44",
    "ml-dsa-65",
    "ml-dsa-87",
)
UNSUPPORTED_KEYS: Final[dict[str, Callable[[], Any]]] = {
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
def private_key(key_type: str) -> Any:
    """Return the private key of a type, created once."""
    return UNSUPPORTED_KEYS[key_type]() if key_type in UNSUPPORTED_KEYS else csrs.private_key(key_type)


@functools.cache
def spki(key_type: str) -> bytes:
    """Return the SubjectPublicKeyInfo of a key type."""
    value: bytes = (
        private_key(key_type).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    )
    return value


def sign(key_type: str, hash_index: int, info: bytes) -> tuple[bytes, bytes]:
    """Return the AlgorithmIdentifier and signature of a CertificationRequestInfo; RSA and ECDSA use the selected hash."""
    if key_type in SINGLE_ALGORITHM_OIDS:
        return der.tlv(der.SEQUENCE, der.oid(SINGLE_ALGORITHM_OIDS[key_type])), private_key(key_type).sign(
            info
        )
    algorithm_kind = key_type.split("-", maxsplit=1)[0] if key_type.startswith(("rsa", "dsa")) else "ec"
    dotted, algorithm = SIGNATURES[algorithm_kind][hash_index % len(SIGNATURES[algorithm_kind])]
    if algorithm_kind == "rsa":
        signature = private_key(key_type).sign(info, padding.PKCS1v15(), algorithm())
        return der.tlv(der.SEQUENCE, der.oid(dotted), der.NULL), signature
    signature = private_key(key_type).sign(
        info, ec.ECDSA(algorithm()) if algorithm_kind == "ec" else algorithm()
    )
    return der.tlv(der.SEQUENCE, der.oid(dotted)), signature


def assemble_csr(info: bytes, algorithm: bytes, signature: bytes) -> bytes:
    """Encode a CertificationRequest (RFC 2986 4.2)."""
    return der.tlv(der.SEQUENCE, info, algorithm, der.tlv(der.BIT_STRING, b"\0", signature))


# Hand-written subject public keys: most of them cannot sign.
def _ec_spki(curve: str, point: bytes) -> bytes:
    algorithm = der.tlv(der.SEQUENCE, der.oid("1.2.840.10045.2.1"), der.oid(curve))
    return der.tlv(der.SEQUENCE, algorithm, der.tlv(der.BIT_STRING, b"\0", point))


def _rsa_spki(modulus: int, exponent: int, algorithm: str = f"{RSA}.1", parameters: bytes = der.NULL) -> bytes:  # fmt: skip
    numbers = der.tlv(der.SEQUENCE, der.integer(modulus), der.integer(exponent))
    return der.tlv(der.SEQUENCE, der.tlv(der.SEQUENCE, der.oid(algorithm), parameters), der.tlv(der.BIT_STRING, b"\0", numbers))  # fmt: skip


WELL_FORMED_SPKIS: Final = (
    16,
    17,
    18,
)  # indexes into odd_spkis: RSA with the OID of PSS or without NULL, and Ed25519; they did not sign


@functools.cache
def odd_spkis() -> tuple[bytes, ...]:
    """Return public keys with compressed or invalid points, invalid or huge moduli, or other algorithms."""
    point: bytes = private_key("p-256").public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    numbers = private_key("rsa-2048").public_key().public_numbers()
    p256, fixed_lengths = "1.2.840.10045.3.1.7", [("1.3.101.112", 32), ("1.3.101.110", 32), ("1.3.101.113", 57), ("2.16.840.1.101.3.4.3.17", 1312), ("2.16.840.1.101.3.4.3.31", 32)]  # fmt: skip
    return (
        _ec_spki(p256, point), _ec_spki(p256, b"\0"), _ec_spki(p256, b"\4" + b"\1" * 64), _ec_spki(p256, b""), _ec_spki("1.2.3", point),
        _rsa_spki(0, 65537), _rsa_spki(-numbers.n, 65537), _rsa_spki(numbers.n + 1, 65537), _rsa_spki(2**2048 - 1, 65537),
        _rsa_spki(numbers.n, 1), _rsa_spki(numbers.n, 0), _rsa_spki(numbers.n, -3), _rsa_spki(numbers.n, 2**2047 + 1), _rsa_spki(2**16384 + 1, 65537),
        _rsa_spki(2**8191 + 9, 2**64 - 1), _rsa_spki(2**60000 + 1, 2**5000 + 1), _rsa_spki(numbers.n, 65537, f"{RSA}.10"), _rsa_spki(numbers.n, 65537, parameters=b""),
        *(der.tlv(der.SEQUENCE, der.tlv(der.SEQUENCE, der.oid(dotted)), der.tlv(der.BIT_STRING, b"\0", b"\1" * count)) for dotted, count in fixed_lengths),
    )  # fmt: skip


# Hypothesis prefers the ends of a range, so the rare choice is in its middle.
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
_good_names = st.one_of(_dns.map(lambda value: der.tlv(b"\x82", value)), st.binary(min_size=4, max_size=4).map(lambda value: der.tlv(b"\x87", value)))  # fmt: skip
_other_names = st.sampled_from([(b"\x81", b"a.b@Example"), (b"\x81", b"a+b@mail.example"), (b"\x86", b"spiffe://example/a"), (b"\x86", b"HTTPS://a.example/%41"), (b"\x86", b"urn:uuid:1")]).map(lambda value: der.tlv(*value))  # fmt: skip
_odd_names = st.one_of(
    _octets.map(lambda value: der.tlv(b"\x82", value)),
    _email.map(lambda value: der.tlv(b"\x81", value)),
    _uri.map(lambda value: der.tlv(b"\x86", value)),
    _address.map(lambda value: der.tlv(b"\x87", value)),
    _octets.map(lambda value: der.tlv(b"\xa0", der.oid("1.3.6.1.4.1.311.20.2.3"), der.tlv(b"\xa0", der.tlv(b"\x0c", value)))),
    st.just(der.tlv(b"\xa4", der.tlv(der.SEQUENCE))),
    st.binary(max_size=8).map(lambda value: der.tlv(b"\x88", value)),
    st.tuples(st.integers(0x80, 0xBE).map(lambda tag: bytes([tag])), _octets).map(lambda value: der.tlv(*value)),
)  # fmt: skip
_string_tags = st.sampled_from([b"\x0c", b"\x13", b"\x16", b"\x14", b"\x1e", b"\x1c", b"\x12", b"\x04", b"\x02"])  # fmt: skip
_attribute_types = st.sampled_from(["2.5.4.3", "2.5.4.6", "2.5.4.10", "2.5.4.11", "2.5.4.5", "1.2.840.113549.1.9.1", "0.9.2342.19200300.100.1.25", "1.2.3.4", "2.5.4.97"])  # fmt: skip


def _numbered_names(count: int) -> list[bytes]:
    return [der.tlv(b"\x82", f"h{number}.example".encode()) for number in range(count)]


_sans = st.one_of(
    st.lists(_good_names, min_size=1, max_size=4),
    st.lists(_good_names | _other_names, min_size=1, max_size=3),
    *[st.tuples(_good_names, _odd_names).map(list)] * 4,  # a single odd name, so that it decides the result
    st.lists(_good_names | _odd_names, max_size=4),
    st.sampled_from([99, 100, 101, 1500]).map(_numbered_names),
)


@st.composite
def _subject(draw: st.DrawFn) -> bytes:
    """Generate a Name: usually empty or with a host as the common name, otherwise arbitrary."""
    match draw(st.integers(0, 9)):
        case 0 | 1 | 2:
            return der.tlv(der.SEQUENCE)
        case 6 | 7 | 8 | 9:
            texts = [(b"\x0c", "2.5.4.3", draw(_dns))]
        case _:
            texts = draw(st.lists(st.tuples(_string_tags, _attribute_types, _dns | _octets), max_size=4))
    attributes = [der.tlv(der.SEQUENCE, der.oid(dotted), der.tlv(tag, text)) for tag, dotted, text in texts]
    if _one_in(draw, 10):
        return der.tlv(der.SEQUENCE, der.tlv(der.SET, *attributes))
    return der.tlv(der.SEQUENCE, *(der.tlv(der.SET, attribute) for attribute in attributes))


_bits = st.tuples(st.integers(0, 7), st.binary(min_size=0, max_size=2)).map(lambda value: der.tlv(der.BIT_STRING, bytes([value[0]]), value[1]))  # fmt: skip
_usages = st.lists(st.sampled_from(["1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2", "1.3.6.1.5.5.7.3.3", "2.5.29.37.0", "1.2.3"]), max_size=3)  # fmt: skip
_extensions = st.one_of(
    st.tuples(st.just("2.5.29.19"), st.sampled_from([b"\x30\x00", b"\x30\x03\x01\x01\x00", b"\x30\x03\x01\x01\xff", b"\x30\x06\x01\x01\xff\x02\x01\x00", b"\x30\x03\x02\x01\x05", b""])),
    st.tuples(st.just("2.5.29.15"), _bits | st.sampled_from([b"\x03\x02\x05\xa0", b"\x03\x02\x07\x80", b"\x03\x02\x01\x06"])),
    st.tuples(st.just("2.5.29.37"), _usages.map(lambda value: der.tlv(der.SEQUENCE, *map(der.oid, value)))),
    st.tuples(st.just("2.5.29.37"), st.just(der.tlv(der.SEQUENCE, der.oid("1.3.6.1.5.5.7.3.1")))),
    st.tuples(st.just("2.5.29.14"), st.binary(max_size=24).map(lambda value: der.tlv(der.OCTET_STRING, value))),
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
    """Generate the attributes: usually an extensionRequest with names and at most two other extensions."""
    extensions = []
    if not _one_in(draw, 8):
        san = der.tlv(der.SEQUENCE, *draw(_sans))
        extensions.append(_extension("2.5.29.17", san, draw(_critical)))
    other_extensions: list[tuple[str, bytes]] = draw(st.lists(_extensions, max_size=2))
    extensions += [_extension(dotted, value, draw(_critical)) for dotted, value in other_extensions]
    kind = "1.3.6.1.4.1.311.2.1.14" if _one_in(draw, 10) else _EXTENSION_REQUEST
    extension_request = der.tlv(
        der.SEQUENCE, der.oid(kind), der.tlv(der.SET, der.tlv(der.SEQUENCE, *extensions))
    )
    other_attributes: list[bytes] = []
    if _one_in(draw, 4):
        kinds = st.sampled_from(["1.2.840.113549.1.9.7", "1.2.840.113549.1.9.2", "1.3.6.1.4.1.311.13.2.3", "1.2.3.4", _EXTENSION_REQUEST])  # fmt: skip
        min_size, max_size = (0, 2) if _one_in(draw, 4) else (1, 1)
        values = st.lists(
            st.tuples(_string_tags, _octets).map(lambda value: der.tlv(*value)),
            min_size=min_size,
            max_size=max_size,
        )
        attribute = st.tuples(kinds, values).map(lambda value: der.tlv(der.SEQUENCE, der.oid(value[0]), der.tlv(der.SET, *value[1])))  # fmt: skip
        other_attributes += draw(st.lists(attribute, max_size=2))
    attributes = [extension_request] if extensions or _one_in(draw, 2) else []
    attributes += other_attributes
    return der.tlv(
        der.ATTRIBUTES, *(draw(st.permutations(attributes)) if _one_in(draw, 20) else sorted(attributes))
    )


_odd_versions = st.sampled_from([der.integer(1), der.integer(-1), der.integer(2**64), b"\x02\x02\x00\x00", b"\x02\x00"])  # fmt: skip


_TAGS: Final = (b"\x0c", b"\x13", b"\x1e", b"\x30", b"\x31", b"\x04", b"\x03", b"\x06", b"\x01", b"\xa0", b"\x82", b"\x5f\x20", b"\x1f\xff\xff\xff\x7f", b"\0")  # fmt: skip


def _retag(rng: Random, node: Node, _nodes: list[Node]) -> None:
    node.tag = rng.choice([*_TAGS, rng.randbytes(1)])


def _rewrite(rng: Random, node: Node, _nodes: list[Node]) -> None:
    if node.children is not None:
        node.content, node.children = node.prefix + b"".join(child.encode() for child in node.children), None
    content = bytearray(node.content)
    match rng.randrange(4):
        case 0 if content:
            content[rng.randrange(len(content))] ^= rng.randint(1, 255)
        case 1:
            content = bytearray()
        case 2:
            content += rng.randbytes(rng.randint(1, 4))
        case _:
            content = bytearray(rng.randbytes(rng.randrange(24)))
    node.content = bytes(content)


def _falsify_length(rng: Random, node: Node, _nodes: list[Node]) -> None:
    node.length_error = rng.choice([-1, 1, 2, -4, 127, 65536, 2**31, 2**63])


def _change_length_form(rng: Random, node: Node, _nodes: list[Node]) -> None:
    node.form = rng.choice(["long", "indefinite"])


def _drop(rng: Random, node: Node, _nodes: list[Node]) -> None:
    if node.children:
        del node.children[rng.randrange(len(node.children))]


def _duplicate(rng: Random, node: Node, _nodes: list[Node]) -> None:
    if node.children:
        node.children += [rng.choice(node.children)] * rng.choice([1, 1, 1, 2, 200])


def _reverse(_rng: Random, node: Node, _nodes: list[Node]) -> None:
    if node.children:
        node.children.reverse()


def _graft(rng: Random, node: Node, nodes: list[Node]) -> None:
    copy = rng.choice(nodes).encode()
    if node.children is None:
        node.content = copy
    else:
        node.children.append(der.RawBytes(copy))


def _nest(rng: Random, node: Node, _nodes: list[Node]) -> None:
    encoding = node.encode()
    for _ in range(rng.choice([1, 1, 2, 60, 2000])):
        encoding = der.tlv(der.SEQUENCE, encoding)
    node.children, node.content = None, encoding


_MUTATIONS: Final = (
    _retag,
    _rewrite,
    _rewrite,
    _falsify_length,
    _change_length_form,
    _drop,
    _duplicate,
    _reverse,
    _graft,
    _nest,
)


def mutate(rng: Random, data: bytes) -> bytes:
    """Change one to three TLVs of DER; the enclosing lengths stay correct."""
    try:
        root = der.parse(data)[0]
    except (ValueError, IndexError):  # already malformed
        return data
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        nodes = list(root.walk())
        rng.choice(_MUTATIONS)(rng, rng.choice(nodes), nodes)
    return root.encode()


def mutate_bytes(rng: Random, data: bytes) -> bytes:
    """Change, delete, insert or truncate bytes, regardless of structure."""
    octets = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        position = rng.randrange(len(octets))
        match rng.randrange(8):
            case 0 | 1 | 2 | 3:
                octets[position] ^= rng.randint(1, 255)
            case 4 | 5 if len(octets) > 9:
                del octets[position : position + rng.randint(1, 9)]
            case 6:
                octets[position:position] = rng.randbytes(rng.randint(1, 9))
            case _:
                del octets[max(1, position) :]
        octets = octets or bytearray(b"0")
    return bytes(octets)


@dataclass(frozen=True)
class GeneratedRequest:
    """An HTTP request, with the CSR and profile in it."""

    path: str
    media_type: str
    body: bytes | dict[str, Any]
    der: bytes
    profile: str


VARIANTS: Final = 5
_ODD_NAMES: Final = ((b"\x82", _ODD_TEXTS), (b"\x81", _ODD_EMAILS), (b"\x86", _ODD_URIS))


def _add_odd_name(rng: Random, info: bytes) -> bytes:
    """Add one odd name to the subject alternative names."""
    root = der.parse(info)[0]
    names = der.extension(root, "2.5.29.17")
    if names and names.children:
        tag, texts = rng.choice(_ODD_NAMES)
        name = Node(tag, rng.choice(texts).encode())
        names.children[0].children = [*(names.children[0].children or []), name]
    return root.encode()


@dataclass(frozen=True)
class RequestVariants:
    """A CSR and the seed of its variants.

    Attributes:
        key_type: the type of the signing key.
        hash_index: the index of the hash, for RSA and ECDSA.
        info: the CertificationRequestInfo, DER.
        seed: the seed of the mutations.
    """

    key_type: str
    hash_index: int
    info: bytes
    seed: int

    def requests(self) -> list[GeneratedRequest]:
        """Return HTTP requests with the unchanged CSR, then with mutations of it."""
        rng = Random(self.seed)  # noqa: S311 - reproducible from the seed
        return [_wrap(rng, self._variant(rng, number)) for number in range(VARIANTS)]

    def _variant(self, rng: Random, number: int) -> bytes:
        mutation = rng.random() if number else 0.0
        # Most mutations are signed again, so that they pass the proof of possession.
        info = mutate(rng, self.info) if 0.4 < mutation < 0.8 else self.info
        info = _add_odd_name(rng, info) if 0.2 < mutation < 0.4 else info
        hash_index = rng.choice([1, 2, 3, 3]) if rng.random() < 0.15 else self.hash_index
        csr = assemble_csr(info, *sign(self.key_type, hash_index, info))
        if mutation < 0.8:
            return csr
        return mutate(rng, csr) if mutation < 0.9 else mutate_bytes(rng, csr)


@st.composite
def request_variants(draw: st.DrawFn) -> RequestVariants:
    """Generate a well-formed CSR; any part may have unusual values."""
    key_types = (
        [*SUPPORTED_KEYS[:4], *UNSUPPORTED_KEYS, *SUPPORTED_KEYS] if _one_in(draw, 3) else SUPPORTED_KEYS
    )
    key_type = draw(st.sampled_from(key_types))
    public_key = draw(st.sampled_from(odd_spkis())) if _one_in(draw, 16) else spki(key_type)
    hash_index = draw(st.integers(0, 3)) if _one_in(draw, 6) else 0
    version = draw(_odd_versions) if _one_in(draw, 40) else der.integer(0)
    info = der.tlv(der.SEQUENCE, version, draw(_subject()), public_key, draw(_attributes()))
    return RequestVariants(key_type, hash_index, info, draw(st.integers(0, 2**32)))


def _pem(data: bytes, label: str, width: int, end: str) -> str:
    text = base64.b64encode(data).decode()
    lines = [text[start : start + width] for start in range(0, len(text), width)]
    return end.join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])


def _encode_text(rng: Random, data: bytes) -> str:
    """Encode a CSR as text: as normal PEM in three of four cases."""
    pem = _pem(data, "CERTIFICATE REQUEST", 64, "\n")
    position = rng.randrange(len(pem))
    odd_texts = (
        _pem(data, "NEW CERTIFICATE REQUEST", 76, "\r\n"),
        base64.b64encode(data).decode(),
        "Certificate Request:\n    Data:\n" + _pem(data, "CERTIFICATE REQUEST", 1, "\n"),
        _pem(data, "CERTIFICATE", 64, "\n"),
        pem * 2,
        pem[:position]
        + rng.choice(["\0", "\ud800", "é", "=", "-----", "\n\n", " ", "\U0001f600"])
        + pem[position:],
        rng.choice(["\ufeff", "é\n", "\0", "-----BEGIN X-----\n", " " * 1000]) + pem,
    )
    return rng.choice([*odd_texts, *[pem] * 21])


_MEDIA_TYPES: Final = ("application/pkcs10", "application/x-pem-file", "application/octet-stream", "text/plain", "application/x-www-form-urlencoded")  # fmt: skip


def _wrap(rng: Random, data: bytes) -> GeneratedRequest:
    profile, operation = rng.choice(["server", "server", "client", "peer"]), rng.randrange(10)
    if operation < 3:
        body = data if rng.random() < 0.5 else _encode_text(rng, data).encode("utf-8", "replace")
        return GeneratedRequest(f"/sign.pem?profile={profile}", rng.choice(_MEDIA_TYPES), body, data, profile)
    sign_request: dict[str, Any] = {"csr": _encode_text(rng, data), "profile": profile}
    if rng.random() < 0.1:
        sign_request["validity"] = rng.choice(["P1D", "PT1H", "P9999D", "PT0S", "P"])
    if operation == 3:
        return GeneratedRequest(
            "/sign/batch", "application/json", {"requests": [sign_request]}, data, profile
        )
    sign_request["text"] = rng.random() < 0.25
    return GeneratedRequest("/sign", "application/json", sign_request, data, profile)

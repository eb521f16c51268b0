"""Read CSRs that are not DER as OpenSSL, Go, GnuTLS and Java read them, and re-encode them in DER (X.690).

The library reads only DER, so all fields come from the re-encoded CSR; the signature covers the octets sent.
The grammar of RFC 2986 4 bounds the depth, and each level reads each octet once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.x509.oid import ExtensionOID, NameOID, SignatureAlgorithmOID

from service.pki import pem
from service.pki.ber import CONSTRUCTED, SEQUENCE, Reader, Value, encode, malformed
from service.pki.encoding import attribute_name, oid_name
from service.pki.errors import BadCSR, RejectedIdentifier, RequestError
from service.pki.names import IdentifierKind

EXTENSION_REQUESTS: Final = (  # RFC 2985 5.4.2, and the OID that Windows uses
    x509.ObjectIdentifier("1.2.840.113549.1.9.14"),
    x509.ObjectIdentifier("1.3.6.1.4.1.311.2.1.14"),
)
MAX_EXTENSIONS: Final = 100

_BOOLEAN, _INTEGER, _BIT_STRING, _OCTET_STRING, _OID, _UTF8 = b"\x01\x02\x03\x04\x06\x0c"
_SET, _ATTRIBUTES, _DNS_NAME = b"\x31\xa0\x82"
_EXTENSION: Final = ((_OID, _OCTET_STRING), (_OID, _BOOLEAN, _OCTET_STRING))  # RFC 5280 4.1
_NULL: Final = b"\x05\x00"
_VERSION: Final = b"\x02\x01\x00"
_MAX_DEPTH: Final = 16  # of the value of an extension

_STRINGS: Final = {  # by tag: the type, its encoding, and the characters that it has (X.680 41)
    _UTF8: ("UTF8String", "utf-8", "(?s).*"),
    0x12: ("NumericString", "latin-1", "[0-9 ]*"),
    0x13: ("PrintableString", "latin-1", "[A-Za-z0-9 '()+,./:=?-]*"),
    0x14: ("TeletexString", "latin-1", "[ -~]*"),
    0x16: ("IA5String", "latin-1", "[\0-\x7f]*"),
    0x1C: ("UniversalString", "utf-32-be", "(?s).*"),
    0x1E: ("BMPString", "utf-16-be", "(?s).*"),
}
_GENERAL_NAMES: Final = (  # by tag number (RFC 5280 4.2.1.6); text in 1, 2 and 6
    *("otherName", "rfc822Name", "dNSName", "x400Address", "directoryName", "ediPartyName"),
    *("uniformResourceIdentifier", "iPAddress", "registeredID"),
)
_TEXT_NAMES, _IP_ADDRESS = (1, 2, 6), 7
_FIELDS: Final = {
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME: "subject_alt_name",
    ExtensionOID.BASIC_CONSTRAINTS: "extensions.basic_constraints",
    ExtensionOID.KEY_USAGE: "extensions.key_usage",
    ExtensionOID.EXTENDED_KEY_USAGE: "extensions.extended_key_usage",
}
_SIGNATURE_PARAMETERS: Final = {  # by prefix of the OID: RSA, ECDSA, Ed25519, ML-DSA
    "1.2.840.113549.1.1.": (_NULL, "RFC 4055 5"),
    "1.2.840.10045.4.": (b"", "RFC 5758 3.2"),
    "1.3.101.": (b"", "RFC 8410 6"),
    "2.16.840.1.101.3.4.3.": (b"", "RFC 9881 2"),
}
_KEY_PARAMETERS: Final = {
    "1.2.840.113549.1.1.": (_NULL, "RFC 3279 2.3.1"),
    "1.3.101.": (b"", "RFC 8410 3"),
}


@dataclass(frozen=True)
class NormalisedCSR:
    """A CSR in DER with the content of another one that is not.

    Attributes:
        der: the CSR in DER. The values of its attributes other than extensionRequest are empty.
        signed: the original CertificationRequestInfo, which the signature covers.
        notes: what is not DER, or not as its RFC requires.
        violations: names, subject attributes and extensions that cannot be read. `der` lacks them.
    """

    der: bytes
    signed: bytes
    notes: tuple[str, ...]
    violations: tuple[RequestError, ...]


def normalise(der: bytes) -> NormalisedCSR:
    """Re-encode a CSR in DER.

    Raises:
        BadCSR: it does not have the structure of a CSR; the error names the malformed part.
    """
    return _CSRReader().read(der)


class _CSRReader(Reader):
    """The state of reading one CSR."""

    def __init__(self) -> None:
        super().__init__()
        self._violations: list[RequestError] = []

    def read(self, der: bytes) -> NormalisedCSR:
        """Read a CSR."""
        request = self.value(der, 0, "the CSR", "csr")
        if extra := len(der) - len(request.octets):
            raise malformed(f"{extra} trailing octets after the CSR", "csr", "remove them")
        info, algorithm, signature = self.fields(
            request, "CertificationRequest", "csr", (SEQUENCE, SEQUENCE, _BIT_STRING)
        )
        tags = (_INTEGER, SEQUENCE, SEQUENCE)
        version, subject, key, *attributes = self.fields(
            info, "CertificationRequestInfo", "csr", (*tags, _ATTRIBUTES), tags
        )
        if len(version.content) != 1:
            raise malformed(f"the version has {len(version.content)} octets; 1 is expected", "version")
        if version.content != b"\0":
            self.note(f"the version is {version.content[0]}, not 0 (RFC 2986 4.1)")
        if not attributes:
            self.note("there is no attributes field (RFC 2986 4.1)")
        content = (self._subject(subject), self._public_key(key), self._attributes(attributes))
        normalised = encode(
            SEQUENCE,
            encode(SEQUENCE, _VERSION, *content),
            self._algorithm(algorithm, "signature_algorithm", _SIGNATURE_PARAMETERS),
            encode(_BIT_STRING, signature.content),
        )
        return NormalisedCSR(normalised, info.octets, tuple(self.notes), tuple(self._violations))

    def _algorithm(self, value: Value, field: str, required: Mapping[str, tuple[bytes, str]]) -> bytes:
        """Re-encode an AlgorithmIdentifier with the parameters that its RFC requires."""
        what = f"the {field.replace('_', ' ')}"
        identifier, *parameters = self.values(value.content, what, field) or [value]
        oid = self.oid(identifier, what, field)
        octets = b"".join(encode(part.tag, part.content) for part in parameters)
        expected, source = next(
            (rule for prefix, rule in required.items() if oid.dotted_string.startswith(prefix)), (octets, "")
        )
        try:
            if octets:
                pem.verify_der(octets)
        except ValueError as error:
            raise malformed(f"{what} {oid_name(oid)} has malformed parameters", field) from error
        if octets != expected and oid != SignatureAlgorithmOID.RSASSA_PSS:
            kind = {b"": "no", _NULL: "NULL"}.get(octets, "unexpected")
            self.note(f"{what} {oid_name(oid)} has {kind} parameters ({source})")
            octets = expected
        return encode(SEQUENCE, encode(_OID, identifier.content), octets)

    def _public_key(self, value: Value) -> bytes:
        algorithm, key = self.fields(value, "subjectPKInfo", "public_key", (SEQUENCE, _BIT_STRING))
        octets = self._algorithm(algorithm, "public_key", _KEY_PARAMETERS)
        return encode(SEQUENCE, octets, encode(_BIT_STRING, key.content))

    def _subject(self, value: Value) -> bytes:
        """Re-encode the subject, with one attribute in each RDN, as UTF8String."""
        what, rdns = "a relative distinguished name", []
        for rdn in self.values(value.content, what, "subject"):
            if rdn.tag != _SET:
                raise malformed(f"{what} is not a SET", "subject")
            attributes = self.values(rdn.content, what, "subject")
            self.note_order(attributes, f"the attributes of {what}")
            for attribute in attributes:
                fields = self.values(attribute.content, what, "subject")
                if (attribute.tag, len(fields)) != (SEQUENCE, 2):
                    raise malformed(f"{what} is not a SET of types and values", "subject")
                kind, text = fields
                if octets := self._subject_value(self.oid(kind, what, "subject"), text):
                    rdns.append(encode(_SET, encode(SEQUENCE, encode(_OID, kind.content), octets)))
        return encode(SEQUENCE, *rdns)

    def _subject_value(self, oid: x509.ObjectIdentifier, value: Value) -> bytes:
        """Re-encode a value of the subject as UTF8String; b'' if it cannot be read."""
        name = attribute_name(oid)
        kind, encoding, characters = _STRINGS.get(value.tag, ("character string", "", ""))
        try:
            text = value.content.decode(encoding)
        except (LookupError, UnicodeDecodeError):
            field = "subject.common_name" if oid == NameOID.COMMON_NAME else f"subject.{name}"
            hint = "encode it in UTF-8" if value.tag == _UTF8 else "write it as UTF8String"
            detail = f"The subject attribute {name} is not a valid {kind}: {hint}"
            self._violations.append(RejectedIdentifier(detail, field))
            return b""
        if not re.fullmatch(characters, text):
            detail = "which is read as ISO 8859-1" if not text.isascii() else "despite its characters"
            self.note(f"the subject attribute {name} is a {kind}, {detail} (X.680 41)")
        return encode(_UTF8, text.encode())

    def _attributes(self, field: Sequence[Value]) -> bytes:
        """Re-encode the attributes; only extensionRequest has a value afterwards."""
        attributes = self.values(field[0].content, "attributes", "attributes") if field else []
        self.note_order(attributes, "the attributes")
        result, requests = [], 0
        for attribute in attributes:
            kind, values = self.fields(attribute, "an attribute", "attributes", (_OID, _SET))
            self.values(values.content, "an attribute", "attributes")
            octets = encode(_UTF8)
            if self.oid(kind, "an attribute", "attributes") in EXTENSION_REQUESTS:
                requests += 1
                octets = self._extension_request(values)
            result.append(encode(SEQUENCE, encode(_OID, kind.content), encode(_SET, octets)))
        if requests > 1:
            raise malformed("there are several extensionRequest attributes", "extensions", "merge them")
        return encode(_ATTRIBUTES, *sorted(result))

    def _extension_request(self, value: Value) -> bytes:
        """Re-encode the extensions in the SET of values of extensionRequest."""
        what, field = "extensionRequest", "extensions"
        if not value.content:
            self.note("extensionRequest has no value (RFC 2986 4.1)")
            return encode(SEQUENCE)
        request, *others = self.values(value.content, what, field)
        if others or request.tag != SEQUENCE:
            raise malformed("extensionRequest does not have one SEQUENCE as value", field)
        extensions = self.values(request.content, what, field)
        if len(extensions) > MAX_EXTENSIONS:
            detail = f"{len(extensions)} extensions are requested; at most {MAX_EXTENSIONS} are accepted"
            raise malformed(detail, field, "omit some")
        result: dict[x509.ObjectIdentifier, bytes] = {}
        for extension in extensions:
            kind, *critical, octets = self.fields(extension, "an extension", field, *_EXTENSION)
            oid = self.oid(kind, "an extension", field)
            if oid in result:
                self._reject(oid, f"The extension {oid_name(oid)} occurs twice (RFC 5280 4.2): send it once")
            else:
                head = encode(_OID, kind.content) + self._critical(critical, oid_name(oid))
                result[oid] = self._extension(oid, head, octets.content)
        return encode(SEQUENCE, *result.values())

    def _critical(self, field: Sequence[Value], name: str) -> bytes:
        if not field:
            return b""
        content = field[0].content
        if len(content) != 1:
            raise malformed(f"critical of the extension {name} is not a BOOLEAN", "extensions")
        if content == b"\0":
            self.note(f"the extension {name} has critical FALSE, its default (X.690 11.5)")
            return b""
        if content != b"\xff":
            self.note(f"the extension {name} has critical TRUE that is not FF (X.690 11.1)")
        return encode(_BOOLEAN, b"\xff")

    def _extension(self, oid: x509.ObjectIdentifier, head: bytes, value: bytes) -> bytes:
        """Re-encode an extension if the library cannot read it; b'' if that does not help."""
        extension = encode(SEQUENCE, head, encode(_OCTET_STRING, value))
        if _is_readable(extension):
            return extension
        violations = len(self._violations)
        try:
            (part,) = self.values(value, "an extension", "extensions")
            if oid == ExtensionOID.SUBJECT_ALTERNATIVE_NAME:
                part = self._general_names(part)
            elif oid == ExtensionOID.BASIC_CONSTRAINTS:
                part = self._basic_constraints(part)
            extension = encode(SEQUENCE, head, encode(_OCTET_STRING, self._reencode(part)))
        except (ValueError, BadCSR):  # the value is malformed
            extension = b""
        if _is_readable(extension):
            return extension
        if len(self._violations) == violations:
            self._reject(oid, f"The value of the extension {oid_name(oid)} is malformed: correct or omit it")
        return b""

    def _reject(self, oid: x509.ObjectIdentifier, detail: str) -> None:
        self._violations.append(BadCSR(detail, _FIELDS.get(oid, f"extensions.{oid_name(oid)}")))

    def _reencode(self, value: Value, depth: int = 0) -> bytes:
        """Re-encode a value: minimal lengths, TRUE as FF, unused bits as 0 (X.690 10.1, 11.1, 11.2.1)."""
        content, unused = value.content, int.from_bytes(value.content[:1], "big")
        if depth == _MAX_DEPTH:
            raise ValueError("too many levels")
        if value.tag & CONSTRUCTED:
            parts = self.values(content, "an extension", "extensions")
            content = b"".join(self._reencode(part, depth + 1) for part in parts)
        elif value.tag == _BOOLEAN and len(content) == 1:
            content = content if content == b"\0" else b"\xff"
        elif value.tag == _BIT_STRING and unused in range(1, 8):
            content = content[:-1] + bytes([content[-1] >> unused << unused])
        if content != value.content and not value.tag & CONSTRUCTED:
            self.note("the value of an extension is not DER (X.690 11)")
        return encode(value.tag, content)

    def _basic_constraints(self, value: Value) -> Value:
        """Leave out cA FALSE, which is the default, and a pathLenConstraint without cA TRUE."""
        parts = self.values(value.content, "basicConstraints", "extensions.basic_constraints")
        if parts and (parts[0].tag, parts[0].content) == (_BOOLEAN, b"\0"):
            self.note("the extension basicConstraints has cA FALSE, its default (X.690 11.5)")
            del parts[0]
        if [part.tag for part in parts] == [_INTEGER]:
            self.note("the extension basicConstraints has pathLen without CA:TRUE (RFC 5280 4.2.1.9)")
            del parts[0]
        return value._replace(content=b"".join(part.octets for part in parts))

    def _general_names(self, value: Value) -> Value:
        """Replace each name that cannot be read by an empty one, so that the others keep their positions."""
        octets = []
        for position, name in enumerate(self.values(value.content, "a name", "subject_alt_name")):
            violation = _general_name_violation(name)
            if violation:
                self._violations.append(RejectedIdentifier(violation, f"subject_alt_name[{position}]"))
            octets.append(encode(_DNS_NAME) if violation else name.octets)
        return value._replace(content=b"".join(octets))


def _general_name_violation(name: Value) -> str:
    number, octets = name.tag & 0x1F, len(name.content)
    if name.tag >> 6 != 2 or number >= len(_GENERAL_NAMES):  # noqa: PLR2004 - the class context-specific
        return f"The tag {name.tag:#04x} is not that of a GeneralName (RFC 5280 4.2.1.6): omit the name"
    kind = _GENERAL_NAMES[number]
    if number not in (*_TEXT_NAMES, _IP_ADDRESS):
        return f"Names of kind {kind} are not supported: send names of kind {', '.join(IdentifierKind)}"
    if name.tag & CONSTRUCTED:
        return f"{kind} is constructed (X.690 10.2): encode it as one value"
    if number == _IP_ADDRESS:
        hint = "write the octets of the address, not its text"
        return "" if octets in (4, 16) else f"iPAddress has {octets} octets; 4 or 16 are expected: {hint}"
    hint = "write a host in A-labels (xn--…, RFC 5890)"
    return "" if name.content.isascii() else f"{kind} is not ASCII (RFC 5280 4.2.1.6): {hint}"


def _is_readable(extension: bytes) -> bool:
    """Whether the library reads an extension."""
    algorithm, bits = (
        encode(SEQUENCE, asn1.encode_der(SignatureAlgorithmOID.ED25519)),
        encode(_BIT_STRING, b"\0"),
    )
    extensions = encode(_SET, encode(SEQUENCE, extension))
    attribute = encode(SEQUENCE, asn1.encode_der(EXTENSION_REQUESTS[0]), extensions)
    key = encode(SEQUENCE, algorithm, bits)
    info = encode(SEQUENCE, _VERSION, encode(SEQUENCE), key, encode(_ATTRIBUTES, attribute))
    try:
        return len(x509.load_der_x509_csr(encode(SEQUENCE, info, algorithm, bits)).extensions) == 1
    except Exception:  # noqa: BLE001 - the library has no common class for errors of malformed bytes
        return False

"""Strings for the formats of the contract: CSRs, OCSP requests, times, and identifiers."""

from __future__ import annotations

import base64
import json
import string
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import strategies as st

from service.pki import encoding
from service.pki.renewal_info import CertificateId
from service.web import jws
from tests import csrs, factories
from tests.web import jws_requests


def _to_host(text: str) -> str:
    """Return the text as a DNS name of at least two labels, which neither start nor end with a hyphen."""
    labels = [label for part in text.split(".") if (label := part.strip("-"))]
    return ".".join([*(labels or ["a"]), "example"])


# Of one draw: a regular expression and a list need many, and most of the time of these tests is for draws.
_host = st.text(f"{string.ascii_lowercase}{string.digits}-.", min_size=1, max_size=30).map(_to_host)
_good_name = st.one_of(
    _host.map("dns:{}".format),
    _host.map("dns:*.{}".format),
    st.ip_addresses().map("ip:{}".format),
)
_bad_name = st.sampled_from(
    ["dns:", "dns:a..b", "dns:a_b.example", "dns:a.example.", "dns:10.0.0.1", "dns:*", "uri:x", "email:a"]
)
_refused_extension = st.sampled_from(
    [
        x509.BasicConstraints(ca=True, path_length=None),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]),
    ]
)
_noted_extension = st.sampled_from(
    [
        x509.BasicConstraints(ca=False, path_length=None),
        x509.OCSPNoCheck(),
        x509.SubjectKeyIdentifier(b"\1" * 20),
        x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"),
    ]
)
_key_type = st.sampled_from(csrs.FAST_KEY_TYPES)


@st.composite
def valid_csrs(draw: st.DrawFn) -> x509.CertificateSigningRequest:
    """Generate a CSR that each profile accepts."""
    sans = draw(st.lists(_good_name, min_size=1, max_size=4))
    common_name = draw(st.none() | _host)
    extensions = draw(st.lists(_noted_extension, max_size=2, unique_by=lambda extension: extension.oid))
    return csrs.build(common_name, sans, extensions, key_type=draw(_key_type))


@st.composite
def refused_csrs(draw: st.DrawFn) -> x509.CertificateSigningRequest:
    """Generate a well-formed CSR that each profile refuses."""
    sans: list[Any] = draw(st.lists(_good_name, max_size=2))
    extensions = draw(st.lists(_refused_extension, max_size=2, unique_by=lambda extension: extension.oid))
    sans += draw(st.lists(_bad_name, min_size=0 if extensions else 1, max_size=3))
    return csrs.build(draw(st.none() | _host), sans, extensions, key_type=draw(_key_type))


@st.composite
def tampered_csrs(draw: st.DrawFn) -> str:
    """Generate a valid CSR with one changed octet."""
    # The position is in thousandths, since the length of ECDSA signatures varies.
    position, mask = draw(st.integers(0, 999)), draw(st.integers(1, 255))
    data = bytearray(csrs.encode_der(draw(valid_csrs())))
    data[len(data) * position // 1000] ^= mask
    return base64.b64encode(bytes(data)).decode()


def to_pem(request: x509.CertificateSigningRequest) -> str:
    """Encode a CSR as PEM."""
    return csrs.encode_pem(request).decode()


csr = st.one_of(
    valid_csrs().map(to_pem),
    valid_csrs().map(lambda request: base64.b64encode(csrs.encode_der(request)).decode()),
    valid_csrs().map(lambda request: to_pem(request).replace("\n", "\r\n")),
    refused_csrs().map(to_pem),
    refused_csrs().map(lambda request: base64.b64encode(csrs.encode_der(request)).decode()),
    tampered_csrs(),
    st.text(min_size=1, max_size=50),
)

est_csr = st.one_of(
    valid_csrs().map(lambda request: base64.b64encode(csrs.encode_der(request)).decode()),
    valid_csrs().map(lambda request: base64.encodebytes(csrs.encode_der(request)).decode()),
    refused_csrs().map(lambda request: base64.b64encode(csrs.encode_der(request)).decode()),
    tampered_csrs(),
    st.text(min_size=1, max_size=50),
)


@st.composite
def ocsp_requests(draw: st.DrawFn) -> bytes:
    """Generate a well-formed OCSP request about another issuer, DER."""
    digests, number = draw(st.binary(min_size=20, max_size=20)), draw(st.integers(0, 2**160))
    builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(digests, digests, number, hashes.SHA1())  # noqa: S303 - only names a certificate
    if nonce := draw(st.binary(max_size=140)):
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    return builder.build().public_bytes(Encoding.DER)


ocsp_request = st.binary(min_size=1, max_size=900) | ocsp_requests()
base64_ocsp_request = ocsp_request.map(lambda data: base64.b64encode(data).decode())
_START: Final = datetime.now(UTC)
date_time = st.integers(0, 8 * 24 * 3600).map(
    lambda seconds: encoding.format_timestamp(_START + timedelta(seconds=seconds))
)

OWN_CERTIFICATE: Final = CertificateId(b"own", 1).encode()
certificate_id = st.just(OWN_CERTIFICATE) | st.builds(
    CertificateId, st.binary(min_size=1, max_size=64), st.integers(1, (1 << 159) - 1)
).map(CertificateId.encode)

key_id = st.binary(min_size=1, max_size=64).map(bytes.hex)

# The start of the header of a JWS. In other places, it stands for what the signer has.
OWN: Final = jws_requests.encode(b'{"alg": "')
_algorithm = st.sampled_from([*jws.ALGORITHMS.values(), "HS256", "none"])
_text = st.sampled_from(["", jws_requests.NONCE, jws_requests.URL]) | st.text(max_size=10)
_key = st.just(jws_requests.jwk(jws_requests.P256)) | _text
_other_members = st.fixed_dictionaries({"nonce": _text, "url": _text}, optional={"kid": _text, "jwk": _key})
_jws_header = st.tuples(_algorithm, _other_members).map(
    lambda members: json.dumps({"alg": members[0], **members[1]}).encode()
)
base64url = st.one_of(_jws_header, _jws_header, _jws_header, st.binary(max_size=64)).map(jws_requests.encode)
# Sometimes as long as the limits of the contract, which random data never is.
_limits = [
    item["maxLength"] for item in factories.document()["components"]["schemas"]["Jws"]["properties"].values()
]
_long = st.sampled_from([limit + change for limit in _limits for change in (-1, 0, 1)]).map("A".__mul__)
jws_member = st.one_of(base64url, base64url, base64url, _long)
index = st.sampled_from(["0", "0", "0", "1", "9"]) | st.text(min_size=1, max_size=3)
dns_name = st.one_of(
    _host, _host, _host.map("*.{}".format), _bad_name.map(lambda name: name.partition(":")[2])
)
ip_address = st.ip_addresses().map(str)

"""CSRs of other projects, and the expected result of each with the default profile.

The expected results come from the tests of those projects, and from the output of `openssl req -text -verify` and
`openssl asn1parse`, not from this service. If a CSR has several errors, the documented order decides: the
encoding is checked first, then the signature algorithm, the key, and the signature.
"""

from __future__ import annotations

import importlib.resources
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True)
class Issued:
    """A certificate.

    Attributes:
        names: the subject alternative names, in order.
        notes: the notes in the response, in any order.
    """

    names: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refused:
    """A response with status 422: the code and field of each error."""

    errors: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ThirdPartyCSR:
    """One CSR.

    Attributes:
        path: the path in the package's folder.
        expected: the expected result.
        source: the reason for the result: the project's own test, or the CSR's contents.
        part: '' for the whole file; a key of a JSON document; or `block` for the PEM block in a Go source.
    """

    path: str
    expected: Issued | Refused
    source: str
    part: str = ""


MALFORMED: Final = Refused((("badCSR", "csr"),))
FORGED: Final = Refused((("badCSR", "signature"),))
WEAK_SIGNATURE: Final = Refused((("badSignatureAlgorithm", "signature_algorithm"),))
WEAK_KEY: Final = Refused((("badPublicKey", "public_key"),))
WEAK_KEY_AND_SIGNATURE: Final = Refused(WEAK_KEY.errors + WEAK_SIGNATURE.errors)
WEAK_SIGNATURE_AND_CA: Final = Refused((*WEAK_SIGNATURE.errors, ("badCSR", "extensions.basic_constraints")))
WEAK_KEY_AND_NAME: Final = Refused((*WEAK_KEY.errors, ("rejectedIdentifier", "subject.common_name")))
WEAK_KEY_AND_NAMES: Final = Refused(
    (
        *WEAK_KEY.errors,
        ("rejectedIdentifier", "subject_alt_name[0]"),
        ("rejectedIdentifier", "subject.common_name"),
    )
)
OTHER_NAMES: Final = Refused(
    (("rejectedIdentifier", "subject_alt_name[1]"), ("rejectedIdentifier", "subject_alt_name[2]"))
)
EXPOSED_KEY: Final = Refused((("badPublicKey", "csr"),))
BAD_COMMON_NAME: Final = Refused((("rejectedIdentifier", "subject.common_name"),))
CA_WITHOUT_HOST: Final = Refused(
    (("rejectedIdentifier", "subject.common_name"), ("badCSR", "extensions.basic_constraints"))
)


def _omission_notes(**subject: str) -> tuple[str, ...]:
    """Return the notes on subject attributes that the profile does not copy."""
    return tuple(f"subject attribute {name}='{value}' left out" for name, value in subject.items())


def _added_note(name: str) -> str:
    return f"common name added to the subject alternative names: dns:{name}"


_PYCA: Final = Issued(
    ("dns:cryptography.io",),
    (_added_note("cryptography.io"), *_omission_notes(C="US", ST="Texas", L="Austin", O="PyCA")),
)

# cryptography-vectors, x509/requests; its tests are pyca/cryptography's tests/x509/test_x509.py.
VECTORS: Final = (
    ThirdPartyCSR("bad-version.pem", FORGED, "version 1, test_invalid_version; openssl: the signature is invalid"),
    ThirdPartyCSR("basic_constraints.pem", WEAK_SIGNATURE_AND_CA, "SHA-1; and CA:TRUE, test_request_basic_constraints"),
    ThirdPartyCSR("challenge-invalid.der", FORGED, "challengePassword is an INTEGER; openssl: the signature is invalid"),
    ThirdPartyCSR("challenge-multi-valued.der", FORGED, "two challengePasswords in one attribute; openssl: the signature is invalid"),
    ThirdPartyCSR("challenge-unstructured.pem", BAD_COMMON_NAME, "CN=something, which is not a host name; signature valid, test_no_extension_with_other_attributes"),
    ThirdPartyCSR("challenge.pem", BAD_COMMON_NAME, "C=US and nothing else; signature valid"),
    ThirdPartyCSR("dsa_sha1.der", WEAK_KEY, "DSA with SHA-1"),
    ThirdPartyCSR("dsa_sha1.pem", WEAK_KEY, "DSA with SHA-1"),
    ThirdPartyCSR("ec_sha256.der", _PYCA, "P-384 with SHA-256, valid"),
    ThirdPartyCSR("ec_sha256.pem", _PYCA, "P-384 with SHA-256, valid"),
    ThirdPartyCSR("ec_sha256_old_header.pem", _PYCA, "NEW CERTIFICATE REQUEST, test_load_legacy_pem_header"),
    ThirdPartyCSR("freeipa-bad-critical.pem", OTHER_NAMES, "critical FALSE written out, which is not DER; test_freeipa_bad_critical"),
    ThirdPartyCSR("invalid_signature.pem", WEAK_KEY_AND_NAME, "RSA-1024, which is checked before the invalid signature; test_signature_invalid"),
    ThirdPartyCSR("long-form-attribute.pem", Refused((("badCSR", "attributes"),)), "a tag of an attribute's value in long form; openssl: the signature is invalid"),
    ThirdPartyCSR("rsa_md4.der", WEAK_SIGNATURE, "MD4, test_unsupported_signature_hash_algorithm_request"),
    ThirdPartyCSR("rsa_md4.pem", WEAK_SIGNATURE, "MD4, test_unsupported_signature_hash_algorithm_request"),
    ThirdPartyCSR("rsa_sha1.der", WEAK_SIGNATURE, "SHA-1, test_load_rsa_certificate_request"),
    ThirdPartyCSR("rsa_sha1.pem", WEAK_SIGNATURE, "SHA-1, test_load_rsa_certificate_request"),
    ThirdPartyCSR("rsa_sha256.der", _PYCA, "valid, test_signature_valid"),
    ThirdPartyCSR("rsa_sha256.pem", _PYCA, "valid, test_signature_valid"),
    ThirdPartyCSR("san_rsa_sha1.der", WEAK_SIGNATURE, "SHA-1, test_subject_alt_name"),
    ThirdPartyCSR("san_rsa_sha1.pem", WEAK_SIGNATURE, "SHA-1, test_subject_alt_name"),
    ThirdPartyCSR("two_basic_constraints.pem", WEAK_SIGNATURE_AND_CA, "a duplicate extension, test_duplicate_extension"),
    ThirdPartyCSR("unsupported_extension.pem", WEAK_SIGNATURE, "SHA-1, test_unsupported_extension"),
    ThirdPartyCSR("unsupported_extension_critical.pem", WEAK_SIGNATURE, "SHA-1, test_unsupported_critical_extension"),
    ThirdPartyCSR("zero-element-attribute.pem", Issued(("dns:mitel.blonay.ch",), ("read leniently: extensionRequest has no value (RFC 2986 4.1)", "subject attribute emailAddress='/' left out", _added_note("mitel.blonay.ch"))), "an extensionRequest without a value, which RFC 2986 4.1 does not allow"),
)  # fmt: skip

_SYSTEMS: Final = _omission_notes(
    C="US", O="CloudFlare", OU="Systems Engineering", L="San Francisco", ST="California"
)
_CLOUDFLARE: Final = Issued(("dns:cloudflare.com", "dns:wwwcloudflare.com"), _SYSTEMS)
_LEAF: Final = Issued(("dns:cloudflare-leaf.com", "dns:wwwcloudflare-leaf.com"), _SYSTEMS)
_INTER: Final = Issued(("dns:cloudflare-inter.com", "dns:wwwcloudflare-inter.com"), _SYSTEMS)
_WIDGETS: Final = Issued(
    ("dns:ca.example.com", "dns:example.com"),
    (
        *_omission_notes(C="US", O="Internet Widgets, LLC", OU="Certificate Authority", L="San Francisco", ST="California"),
        _added_note("example.com"),
    ),
)  # fmt: skip

# Debian's golang-github-cloudflare-cfssl-dev.
CFSSL: Final = (
    ThirdPartyCSR("api/testdata/broken_csr.pem", MALFORMED, "=BROKEN== in the base64; api/sign/sign_test.go: 400"),
    ThirdPartyCSR("api/testdata/csr.pem", _INTER, "api/sign/sign_test.go signs it"),
    ThirdPartyCSR("auth/testdata/request.json", Issued(("dns:cf.dropsonde.net",), _omission_notes(C="US", O="dropsonde", OU="CF-Chat", L="San Francisco", ST="California")), "a PEM block in JSON, its lines indented by tabs; with each line stripped, openssl verifies it"),
    ThirdPartyCSR("auth/testdata/request.json", Issued(("dns:cf.dropsonde.net",), _omission_notes(C="US", O="dropsonde", OU="CF-Chat", L="San Francisco", ST="California")), "the same, decoded by a JSON parser", "request"),
    *(ThirdPartyCSR(f"bundler/testdata/cfssl-leaf-{key}.csr", _LEAF, "valid; bundler/bundle_from_file_test.go") for key in ("ecdsa256", "ecdsa384", "ecdsa521", "rsa2048", "rsa3072", "rsa4096")),
    ThirdPartyCSR("bundler/testdata/inter-L1.csr", _INTER, "valid, and requests no CA; bundler_sha1_deprecation_test.go"),
    ThirdPartyCSR("bundler/testdata/inter-L2.csr", _INTER, "valid, and requests no CA"),
    ThirdPartyCSR("cli/testdata/ca.csr", Issued(("dns:cloudflare.com", "dns:www.cloudflare.com"), _SYSTEMS), "valid, without a common name"),
    ThirdPartyCSR("helpers/testdata/ecdsa256.csr", _CLOUDFLARE, "valid"),
    ThirdPartyCSR("helpers/testdata/rsa-old.csr", _CLOUDFLARE, "NEW CERTIFICATE REQUEST; helpers_test.go TestParseOldCSR"),
    ThirdPartyCSR("helpers/testdata/test.bad.csr.pem", MALFORMED, "three lines are missing; helpers_test.go TestParseCSRPEM"),
    ThirdPartyCSR("helpers/testdata/test.csr.pem", WEAK_SIGNATURE, "MD5"),
    ThirdPartyCSR("helpers/testsuite/testdata/initCA/cfssl_output.pem", EXPOSED_KEY, "JSON with line ends as \\n: a certificate, a request, and its key"),
    ThirdPartyCSR("helpers/testsuite/testdata/initCA/cfssl_output.pem", _WIDGETS, "valid; its common name is not one of its names", "csr"),
    *(ThirdPartyCSR(f"initca/testdata/{key}.csr", _CLOUDFLARE, "valid") for key in ("ecdsa256", "ecdsa384", "ecdsa521", "rsa2048", "rsa3072", "rsa4096")),
    ThirdPartyCSR("selfsign/testdata/localhost.csr", BAD_COMMON_NAME, "CN=localhost is not a host name; its names are valid"),
    ThirdPartyCSR("signer/local/testdata/ecdsa256-inter.csr", Issued(("dns:cloudflare-inter.com",), _SYSTEMS), "valid"),
    *(ThirdPartyCSR(f"signer/local/testdata/{key}.csr", _CLOUDFLARE, "valid") for key in ("ecdsa256", "ecdsa384", "ecdsa521", "rsa2048", "rsa3072", "rsa4096")),
    ThirdPartyCSR("signer/local/testdata/ex.csr", WEAK_KEY, "RSA-1024; local_test.go signs it, in 2015"),
    ThirdPartyCSR("signer/local/testdata/inter_pathlen_0.csr", CA_WITHOUT_HOST, "CA:TRUE; local_test.go: InvalidRequest under a profile for end entities"),
    ThirdPartyCSR("signer/local/testdata/inter_pathlen_1.csr", CA_WITHOUT_HOST, "CA:TRUE; as above"),
    ThirdPartyCSR("signer/local/testdata/inter_pathlen_unspecified.csr", CA_WITHOUT_HOST, "CA:TRUE; as above"),
    ThirdPartyCSR("signer/local/testdata/ip.csr", WEAK_KEY, "RSA-1024; its common name is an IP address"),
    ThirdPartyCSR("signer/local/testdata/rsa-old.csr", _CLOUDFLARE, "NEW CERTIFICATE REQUEST; local_test.go signs it"),
    ThirdPartyCSR("signer/local/testdata/rsa2048-inter.csr", Issued(("dns:cloudflare.com", "dns:www.cloudflare.com"), _SYSTEMS), "valid"),
    ThirdPartyCSR("signer/local/testdata/san_domain.csr", WEAK_SIGNATURE, "SHA-1; local_test.go TestOverwriteHosts reads its names"),
    ThirdPartyCSR("signer/local/testdata/test.csr", Issued(("dns:example.com", "dns:www.example.com"), _omission_notes(C="US", O="CloudFlare", OU="WWW", L="Ithaca", ST="New York")), "valid, without a common name"),
    ThirdPartyCSR("testdata/server.csr", WEAK_KEY_AND_SIGNATURE, "RSA-1024; also SHA-1, and only openssl's default subject"),
)  # fmt: skip

_ACME: Final = Issued(("dns:example.acme.com",))
_SMALLSTEP: Final = Issued(("dns:test.smallstep.com",), (_added_note("test.smallstep.com"),))

# Debian's golang-github-smallstep-certificates-dev, and the PEM blocks in its Go sources.
SMALLSTEP: Final = (
    ThirdPartyCSR("api/api_test.go", _SMALLSTEP, "valid", "block"),
    ThirdPartyCSR("authority/provisioner/testdata/certs/ecdsa.csr", Issued(("dns:foo",)), "sign_options_test.go: ok/ecdsa"),
    ThirdPartyCSR("authority/provisioner/testdata/certs/ed25519.csr", Issued(("dns:foo",)), "sign_options_test.go: ok/ed25519"),
    ThirdPartyCSR("authority/provisioner/testdata/certs/rsa.csr", Issued(("dns:foo",)), "sign_options_test.go: ok/rsa"),
    ThirdPartyCSR("authority/provisioner/testdata/certs/short-rsa.csr", WEAK_KEY, "RSA-1048; sign_options_test.go: fail/rsa/too-short"),
    ThirdPartyCSR("authority/testdata/certs/badsig.csr", FORGED, "acme/api/order_test.go: fail/invalid-csr-signature"),
    ThirdPartyCSR("authority/testdata/certs/foo.csr", _ACME, "acme/api/order_test.go: ok"),
    ThirdPartyCSR("authority/tls_test.go", WEAK_KEY_AND_NAMES, "RSA-1024; its names have spaces", "block"),
    ThirdPartyCSR("ca/ca_test.go", FORGED, "openssl: the signature is invalid", "block"),
    ThirdPartyCSR("ca/client_test.go", _SMALLSTEP, "valid", "block"),
)  # fmt: skip

BLOCK: Final = re.compile(
    rb"-----BEGIN (NEW )?CERTIFICATE REQUEST-----\n[A-Za-z0-9+/=\n]+-----END (NEW )?CERTIFICATE REQUEST-----"
)
_VECTORS: Final = Path(str(importlib.resources.files("cryptography_vectors"))) / "x509/requests"
_SOURCES: Final = Path("/usr/share/gocode/src/github.com")
COLLECTIONS: Final[dict[str, tuple[Path, tuple[ThirdPartyCSR, ...], int]]] = {
    "vectors": (_VECTORS, VECTORS, 26),
    "cfssl": (_SOURCES / "cloudflare/cfssl", CFSSL, 41),
    "smallstep": (_SOURCES / "smallstep/certificates", SMALLSTEP, 10),
}
CASES: Final = [(folder / row.path, row) for folder, rows, _ in COLLECTIONS.values() for row in rows]


def read_csr(path: Path, row: ThirdPartyCSR) -> bytes:
    """Return the CSR."""
    data = path.read_bytes()
    if row.part == "block":
        match = BLOCK.search(data)
        assert match is not None
        return match.group(0)
    if row.part:
        text: str = json.loads(data, strict=False)[row.part]
        return text.encode()
    return data

"""Other projects' certification requests, and what becomes of each under the default profile.

Written from those projects' own tests, and from the octets as `openssl req -text -verify` and `openssl
asn1parse` show them, before any of them was sent to this service. Where a request has several faults,
the documented order decides: it is read, then its signature algorithm, its key, and its signature are judged.
"""

from __future__ import annotations

import importlib.resources
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True)
class Signed:
    """It is granted.

    Attributes:
        names: the certificate's subject alternative names, in order.
        notes: what the answer says was left out or added, in any order.
    """

    names: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refused:
    """It is refused with 422: the code and field of each reason."""

    reasons: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Row:
    """One request.

    Attributes:
        path: below the package's folder.
        verdict: what becomes of it.
        why: what says so: the project's own test, or the octets.
        part: '' for the whole file; a member of a JSON document; or `block` for the PEM block in a Go source.
    """

    path: str
    verdict: Signed | Refused
    why: str
    part: str = ""


MALFORMED: Final = Refused((("badCSR", "csr"),))
FORGED: Final = Refused((("badCSR", "signature"),))
WEAK_SIGNATURE: Final = Refused((("badSignatureAlgorithm", "signature_algorithm"),))
WEAK_KEY: Final = Refused((("badPublicKey", "public_key"),))
SHOWN_KEY: Final = Refused((("badPublicKey", "csr"),))
BAD_COMMON_NAME: Final = Refused((("rejectedIdentifier", "subject.common_name"),))
CA_WITHOUT_HOST: Final = Refused(
    (("rejectedIdentifier", "subject.common_name"), ("badCSR", "extensions.basic_constraints"))
)


def _without(**subject: str) -> tuple[str, ...]:
    """The notes on subject attributes that the profile has no place for."""
    return tuple(f"subject attribute {name}='{value}' left out" for name, value in subject.items())


def _added(name: str) -> str:
    return f"common name added to the subject alternative names: dns:{name}"


_PYCA: Final = Signed(
    ("dns:cryptography.io",),
    (_added("cryptography.io"), *_without(C="US", ST="Texas", L="Austin", O="PyCA")),
)

# cryptography-vectors, x509/requests; its tests are pyca/cryptography's tests/x509/test_x509.py.
VECTORS: Final = (
    Row("bad-version.pem", MALFORMED, "version 1; test_invalid_version"),
    Row("basic_constraints.pem", WEAK_SIGNATURE, "SHA-1; and CA:TRUE, test_request_basic_constraints"),
    Row("challenge-invalid.der", FORGED, "challengePassword is an INTEGER; openssl: the signature is not good"),
    Row("challenge-multi-valued.der", MALFORMED, "two challengePasswords in one attribute, of which RFC 2985 5.4.1 allows one"),
    Row("challenge-unstructured.pem", BAD_COMMON_NAME, "CN=something, which is no host; good, test_no_extension_with_other_attributes"),
    Row("challenge.pem", BAD_COMMON_NAME, "C=US and nothing else; the signature is good"),
    Row("dsa_sha1.der", WEAK_KEY, "DSA with SHA-1"),
    Row("dsa_sha1.pem", WEAK_KEY, "DSA with SHA-1"),
    Row("ec_sha256.der", _PYCA, "P-384 with SHA-256, good"),
    Row("ec_sha256.pem", _PYCA, "P-384 with SHA-256, good"),
    Row("ec_sha256_old_header.pem", _PYCA, "NEW CERTIFICATE REQUEST, test_load_legacy_pem_header"),
    Row("freeipa-bad-critical.pem", MALFORMED, "critical FALSE written out, which is not DER; test_freeipa_bad_critical"),
    Row("invalid_signature.pem", WEAK_KEY, "RSA-1024, judged before its bad signature; test_signature_invalid"),
    Row("long-form-attribute.pem", MALFORMED, "a tag of an attribute's value in long form"),
    Row("rsa_md4.der", WEAK_SIGNATURE, "MD4, test_unsupported_signature_hash_algorithm_request"),
    Row("rsa_md4.pem", WEAK_SIGNATURE, "MD4, test_unsupported_signature_hash_algorithm_request"),
    Row("rsa_sha1.der", WEAK_SIGNATURE, "SHA-1, test_load_rsa_certificate_request"),
    Row("rsa_sha1.pem", WEAK_SIGNATURE, "SHA-1, test_load_rsa_certificate_request"),
    Row("rsa_sha256.der", _PYCA, "good, test_signature_valid"),
    Row("rsa_sha256.pem", _PYCA, "good, test_signature_valid"),
    Row("san_rsa_sha1.der", WEAK_SIGNATURE, "SHA-1, test_subject_alt_name"),
    Row("san_rsa_sha1.pem", WEAK_SIGNATURE, "SHA-1, test_subject_alt_name"),
    Row("two_basic_constraints.pem", MALFORMED, "an extension twice, test_duplicate_extension"),
    Row("unsupported_extension.pem", WEAK_SIGNATURE, "SHA-1, test_unsupported_extension"),
    Row("unsupported_extension_critical.pem", WEAK_SIGNATURE, "SHA-1, test_unsupported_critical_extension"),
    Row("zero-element-attribute.pem", MALFORMED, "an extensionRequest without a value, which RFC 2986 4.1 does not allow; signature good"),
)  # fmt: skip

_SYSTEMS: Final = _without(
    C="US", O="CloudFlare", OU="Systems Engineering", L="San Francisco", ST="California"
)
_CLOUDFLARE: Final = Signed(("dns:cloudflare.com", "dns:wwwcloudflare.com"), _SYSTEMS)
_LEAF: Final = Signed(("dns:cloudflare-leaf.com", "dns:wwwcloudflare-leaf.com"), _SYSTEMS)
_INTER: Final = Signed(("dns:cloudflare-inter.com", "dns:wwwcloudflare-inter.com"), _SYSTEMS)
_WIDGETS: Final = Signed(
    ("dns:ca.example.com", "dns:example.com"),
    (
        *_without(C="US", O="Internet Widgets, LLC", OU="Certificate Authority", L="San Francisco", ST="California"),
        _added("example.com"),
    ),
)  # fmt: skip

# Debian's golang-github-cloudflare-cfssl-dev.
CFSSL: Final = (
    Row("api/testdata/broken_csr.pem", MALFORMED, "=BROKEN== in the base64; api/sign/sign_test.go: 400"),
    Row("api/testdata/csr.pem", _INTER, "api/sign/sign_test.go signs it"),
    Row("auth/testdata/request.json", Signed(("dns:cf.dropsonde.net",), _without(C="US", O="dropsonde", OU="CF-Chat", L="San Francisco", ST="California")), "a PEM block in JSON, its lines indented by tabs; each line stripped, openssl finds it good"),
    Row("auth/testdata/request.json", Signed(("dns:cf.dropsonde.net",), _without(C="US", O="dropsonde", OU="CF-Chat", L="San Francisco", ST="California")), "the same, as a JSON reader gives it", "request"),
    *(Row(f"bundler/testdata/cfssl-leaf-{key}.csr", _LEAF, "good; bundler/bundle_from_file_test.go") for key in ("ecdsa256", "ecdsa384", "ecdsa521", "rsa2048", "rsa3072", "rsa4096")),
    Row("bundler/testdata/inter-L1.csr", _INTER, "good, and asks for no CA; bundler_sha1_deprecation_test.go"),
    Row("bundler/testdata/inter-L2.csr", _INTER, "good, and asks for no CA"),
    Row("cli/testdata/ca.csr", Signed(("dns:cloudflare.com", "dns:www.cloudflare.com"), _SYSTEMS), "good, without a common name"),
    Row("helpers/testdata/ecdsa256.csr", _CLOUDFLARE, "good"),
    Row("helpers/testdata/rsa-old.csr", _CLOUDFLARE, "NEW CERTIFICATE REQUEST; helpers_test.go TestParseOldCSR"),
    Row("helpers/testdata/test.bad.csr.pem", MALFORMED, "three lines are missing; helpers_test.go TestParseCSRPEM"),
    Row("helpers/testdata/test.csr.pem", WEAK_SIGNATURE, "MD5"),
    Row("helpers/testsuite/testdata/initCA/cfssl_output.pem", SHOWN_KEY, "JSON with line ends as \\n: a certificate, a request, and its key"),
    Row("helpers/testsuite/testdata/initCA/cfssl_output.pem", _WIDGETS, "good; its common name is none of its names", "csr"),
    *(Row(f"initca/testdata/{key}.csr", _CLOUDFLARE, "good") for key in ("ecdsa256", "ecdsa384", "ecdsa521", "rsa2048", "rsa3072", "rsa4096")),
    Row("selfsign/testdata/localhost.csr", BAD_COMMON_NAME, "CN=localhost certificate is no host; its names are good"),
    Row("signer/local/testdata/ecdsa256-inter.csr", Signed(("dns:cloudflare-inter.com",), _SYSTEMS), "good"),
    *(Row(f"signer/local/testdata/{key}.csr", _CLOUDFLARE, "good") for key in ("ecdsa256", "ecdsa384", "ecdsa521", "rsa2048", "rsa3072", "rsa4096")),
    Row("signer/local/testdata/ex.csr", WEAK_KEY, "RSA-1024; local_test.go signs it, in 2015"),
    Row("signer/local/testdata/inter_pathlen_0.csr", CA_WITHOUT_HOST, "CA:TRUE; local_test.go: InvalidRequest under a profile that is not a CA's"),
    Row("signer/local/testdata/inter_pathlen_1.csr", CA_WITHOUT_HOST, "CA:TRUE; as above"),
    Row("signer/local/testdata/inter_pathlen_unspecified.csr", CA_WITHOUT_HOST, "CA:TRUE; as above"),
    Row("signer/local/testdata/ip.csr", WEAK_KEY, "RSA-1024; its common name is an IP address"),
    Row("signer/local/testdata/rsa-old.csr", _CLOUDFLARE, "NEW CERTIFICATE REQUEST; local_test.go signs it"),
    Row("signer/local/testdata/rsa2048-inter.csr", Signed(("dns:cloudflare.com", "dns:www.cloudflare.com"), _SYSTEMS), "good"),
    Row("signer/local/testdata/san_domain.csr", WEAK_SIGNATURE, "SHA-1; local_test.go TestOverwriteHosts reads its names"),
    Row("signer/local/testdata/test.csr", Signed(("dns:example.com", "dns:www.example.com"), _without(C="US", O="CloudFlare", OU="WWW", L="Ithaca", ST="New York")), "good, without a common name"),
    Row("testdata/server.csr", WEAK_KEY, "RSA-1024; and SHA-1, and nothing but openssl's default subject"),
)  # fmt: skip

_ACME: Final = Signed(("dns:example.acme.com",))
_SMALLSTEP: Final = Signed(("dns:test.smallstep.com",), (_added("test.smallstep.com"),))

# Debian's golang-github-smallstep-certificates-dev, and the PEM blocks in its Go sources.
SMALLSTEP: Final = (
    Row("api/api_test.go", _SMALLSTEP, "good", "block"),
    Row("authority/provisioner/testdata/certs/ecdsa.csr", Signed(("dns:foo",)), "sign_options_test.go: ok/ecdsa"),
    Row("authority/provisioner/testdata/certs/ed25519.csr", Signed(("dns:foo",)), "sign_options_test.go: ok/ed25519"),
    Row("authority/provisioner/testdata/certs/rsa.csr", Signed(("dns:foo",)), "sign_options_test.go: ok/rsa"),
    Row("authority/provisioner/testdata/certs/short-rsa.csr", WEAK_KEY, "RSA-1048; sign_options_test.go: fail/rsa/too-short"),
    Row("authority/testdata/certs/badsig.csr", FORGED, "acme/api/order_test.go: fail/invalid-csr-signature"),
    Row("authority/testdata/certs/foo.csr", _ACME, "acme/api/order_test.go: ok"),
    Row("authority/tls_test.go", WEAK_KEY, "RSA-1024", "block"),
    Row("ca/ca_test.go", FORGED, "openssl: the signature is not good", "block"),
    Row("ca/client_test.go", _SMALLSTEP, "good", "block"),
)  # fmt: skip

BLOCK: Final = re.compile(
    rb"-----BEGIN (NEW )?CERTIFICATE REQUEST-----\n[A-Za-z0-9+/=\n]+-----END (NEW )?CERTIFICATE REQUEST-----"
)
_VECTORS: Final = Path(str(importlib.resources.files("cryptography_vectors"))) / "x509/requests"
_SOURCES: Final = Path("/usr/share/gocode/src/github.com")
COLLECTIONS: Final[dict[str, tuple[Path, tuple[Row, ...], int]]] = {
    "vectors": (_VECTORS, VECTORS, 26),
    "cfssl": (_SOURCES / "cloudflare/cfssl", CFSSL, 41),
    "smallstep": (_SOURCES / "smallstep/certificates", SMALLSTEP, 10),
}
CASES: Final = [(folder / row.path, row) for folder, rows, _ in COLLECTIONS.values() for row in rows]


def read(path: Path, row: Row) -> bytes:
    """What is sent."""
    data = path.read_bytes()
    if row.part == "block":
        found = BLOCK.search(data)
        assert found is not None
        return found.group(0)
    if row.part:
        member: str = json.loads(data, strict=False)[row.part]
        return member.encode()
    return data

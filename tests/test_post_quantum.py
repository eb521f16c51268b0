"""ML-DSA (RFC 9881) through the whole path: a server whose CA has such keys. tests/judges has the judges."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cryptography import x509

from tests import csrs
from tests.serving import Server, certlet, serving

ML_DSA = ("ml-dsa-44", "ml-dsa-65", "ml-dsa-87")
OIDS = {kind: f"2.16.840.1.101.3.4.3.{17 + number}" for number, kind in enumerate(ML_DSA)}  # RFC 9881 2


@pytest.fixture(scope="module", params=[*ML_DSA, "p-256"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Server]]:
    """A server whose CA has a key of this kind."""
    directory = tmp_path_factory.mktemp("post-quantum")
    assert certlet("init", "ca", "--key", request.param, cwd=directory).returncode == 0
    with serving(directory, "--ca", "ca") as running:
        yield request.param, running


def test_text_and_pem_and_key_usage(server: tuple[str, Server]) -> None:
    """Every answer has text and PEM; keyUsage is RFC 9881 5's: to sign, and nothing else; the chain verifies."""
    ca, running = server
    for kind in (*ML_DSA, "p-256"):
        request = csrs.build(sans=["dns:a.example.com"], kind=kind)
        answer = running.sign({"csr": csrs.pem(request).decode()})
        assert answer.status == 200, answer.body
        made = answer.json()
        assert made["crt_text"].startswith("Certificate:")
        certificate, issuer = (
            x509.load_pem_x509_certificate(made[name].encode()) for name in ("crt_pem", "chain_pem")
        )
        assert bits(certificate) == {"digital_signature"}
        assert bits(issuer) == {"key_cert_sign", "crl_sign"}
        certificate.verify_directly_issued_by(issuer)
        if kind in OIDS:
            assert f"Public Key Algorithm: {kind.upper()}" in made["crt_text"]
            assert certificate.public_key_algorithm_oid.dotted_string == OIDS[kind]
        if ca in OIDS:
            assert certificate.signature_algorithm_oid.dotted_string == OIDS[ca]


def bits(certificate: x509.Certificate) -> set[str]:
    """The bits of its key usage."""
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    names = ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment"]
    return {name for name in [*names, "key_agreement", "key_cert_sign", "crl_sign"] if getattr(usage, name)}

"""ML-DSA (RFC 9881) through the whole path: a server whose CA has such keys.

tests/interop has the judges of every kind, tests/test_specification.py the rules of certificates.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509

from tests import csrs
from tests.servers import certlet, certlet_server


@pytest.mark.parametrize("kind", ["ml-dsa-44", "ml-dsa-65", "ml-dsa-87"])
def test_ml_dsa_certificate_has_text_and_pem(tmp_path: Path, kind: str) -> None:
    """RFC 9881 2: a CA and a request with such keys; text, PEM and chain, and the signature verifies."""
    assert certlet("init", "ca", "--key-type", kind, cwd=tmp_path).returncode == 0
    with certlet_server(tmp_path, "--ca", "ca") as server:
        answer = server.sign(
            {"csr": csrs.encode_pem(csrs.build(sans=["dns:a.example.com"], key_type=kind)).decode()}
        )
    assert answer.status == 200, answer.body
    made = answer.json()
    assert f"Public Key Algorithm: {kind.upper()}" in made["crt_text"]
    leaf, ca = (x509.load_pem_x509_certificate(made[name].encode()) for name in ("crt_pem", "chain_pem"))
    leaf.verify_directly_issued_by(ca)

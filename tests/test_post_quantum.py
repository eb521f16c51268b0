"""ML-DSA (RFC 9881) through the whole path: a server whose CA has such keys.

tests/interop tests other implementations, tests/test_specification.py the content of certificates.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509

from tests import csrs
from tests.cli import certlet
from tests.servers import certlet_server


@pytest.mark.parametrize("key_type", ["ml-dsa-44", "ml-dsa-65", "ml-dsa-87"])
def test_ml_dsa_certificate_has_text_and_pem(tmp_path: Path, key_type: str) -> None:
    """RFC 9881 2: a CA with an ML-DSA key signs a CSR with one; the response has text, PEM and chain."""
    assert certlet("init", "ca", "--key-type", key_type, cwd=tmp_path).returncode == 0
    (tmp_path / "ca" / "root-ca.key").unlink()
    with certlet_server(tmp_path) as server:
        response = server.sign(
            {"csr": csrs.encode_pem(csrs.build(sans=["dns:a.example.com"], key_type=key_type)).decode()}
        )
    assert response.status == 200, response.body
    signed = response.json()
    assert f"Public Key Algorithm: {key_type.upper()}" in signed["crt_text"]
    leaf, ca = (x509.load_pem_x509_certificate(signed[name].encode()) for name in ("crt_pem", "chain_pem"))
    leaf.verify_directly_issued_by(ca)

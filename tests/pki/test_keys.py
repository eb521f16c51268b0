from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from service.pki import csr
from service.pki.errors import BadPublicKey, RequestError
from tests.servers import run

EC = "openssl genpkey -out key.pem -algorithm EC -pkeyopt ec_paramgen_curve:"
RSA = "openssl genpkey -out key.pem -algorithm RSA -pkeyopt rsa_keygen_bits:"
ACCEPTED = (
    "RSA of 2048 to 8192 bits, P-256, P-384, P-521, Ed25519 and ML-DSA are accepted, as from: openssl genpkey"
)


def create_csr(folder: Path, command: str) -> bytes:
    """Create a key with an openssl command that writes key.pem, and a CSR."""
    run(*shlex.split(command), cwd=folder)
    run(
        "openssl", "req", "-new", "-key", "key.pem", "-subj", "/CN=a.example.com", "-out", "a.csr", cwd=folder
    )
    return (folder / "a.csr").read_bytes()


@pytest.mark.parametrize(
    ("command", "detail"),
    [
        (f"{EC}secp256k1", f"Curve secp256k1 is not accepted; {ACCEPTED}"),
        (f"{EC}P-224", f"Curve secp224r1 (P-224) is not accepted; {ACCEPTED}"),
        (f"{EC}brainpoolP256r1", f"Curve brainpoolP256r1 is not accepted; {ACCEPTED}"),
        (f"{EC}SM2", f"Curve 1.2.156.10197.1.301 (SM2) is not accepted; {ACCEPTED}"),
        ("openssl genpkey -out key.pem -algorithm ED448", f"Ed448 keys are not accepted; {ACCEPTED}"),
        (
            "openssl genpkey -out key.pem -algorithm RSA-PSS -pkeyopt rsa_keygen_bits:2048",
            "id-RSASSA-PSS keys are not accepted; an rsaEncryption key, which can sign with RSA-PSS too",
        ),
        (f"{RSA}1024", "The RSA modulus has 1024 bits; 2048 to 8192 are accepted: create one with"),
    ],
)
def test_command_in_a_refusal_creates_a_key_that_is_accepted(
    tmp_path: Path, command: str, detail: str
) -> None:
    """The refusal names the kind of key, and has an openssl command; a CSR with that key is accepted."""
    with pytest.raises(RequestError) as refusal:
        csr.parse(create_csr(tmp_path, command))
    problem = refusal.value.subproblems[0]  # the signature of an SM2 key has another
    assert (problem.code, problem.field) == ("badPublicKey", "public_key")
    assert problem.detail.startswith(detail)
    assert len(problem.detail) <= 220
    remedy = problem.detail.rpartition(": ")[2]
    assert csr.parse(create_csr(tmp_path, remedy)).common_name == "a.example.com"


@pytest.mark.parametrize(
    ("option", "detail", "conversion"),
    [
        ("-param_enc explicit", "explicit parameters", "-param_enc named_curve"),
        ("-conv_form compressed", "compressed or hybrid", "-conv_form uncompressed"),
        ("-conv_form hybrid", "compressed or hybrid", "-conv_form uncompressed"),
    ],
)
def test_option_in_a_refusal_converts_the_encoding_of_a_key(
    tmp_path: Path, option: str, detail: str, conversion: str
) -> None:
    """The refusal names the encoding, and the openssl option that changes it."""
    run(*shlex.split(f"{EC}P-256"), cwd=tmp_path)
    with pytest.raises(BadPublicKey, match=detail) as refusal:
        csr.parse(create_csr(tmp_path, f"openssl ec -in key.pem {option} -out key.pem"))
    assert re.search(f"openssl ec {conversion}", refusal.value.detail)
    assert csr.parse(create_csr(tmp_path, f"openssl ec -in key.pem {conversion} -out key.pem"))

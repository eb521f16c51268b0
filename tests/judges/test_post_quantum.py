"""ML-DSA (RFC 9881) through the whole path, judged by Node, whose OpenSSL did not sign it."""

from __future__ import annotations

import functools
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests import authorities, csrs
from tests.serving import Server, certlet, serving

NODE = next(Path(__file__).parent.glob("node_modules/node-linux-*/bin/node"), Path("none"))
ML_DSA = ("ml-dsa-44", "ml-dsa-65", "ml-dsa-87")
CLASSIC = ("p-256", "rsa-2048", "ed25519")
KEY_TYPES = {"p-256": "ec", "rsa-2048": "rsa"}  # Node's word where it is not ours
OIDS = {kind: f"2.16.840.1.101.3.4.3.{17 + number}" for number, kind in enumerate(ML_DSA)}  # RFC 9881 2


@pytest.fixture(scope="module", params=[*ML_DSA, "p-256", "rsa-2048"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Server]]:
    """A server whose CA has a key of this kind."""
    directory = tmp_path_factory.mktemp("judges")
    assert certlet("init", "ca", "--key", request.param, cwd=directory).returncode == 0
    with serving(directory, "--ca", "ca") as running:
        yield request.param, running


def signed(server: Server, kind: str) -> dict[str, Any]:
    """A certificate for a key of this kind, with what a judge wants beside it."""
    answer = server.sign({"csr": csrs.pem(csrs.build(sans=["dns:a.example.com"], kind=kind)).decode()})
    assert answer.status == 200, answer.body
    key = csrs.key(kind).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    authority = server.request("GET", "/ca").json()
    return {**answer.json(), "key": key, "root": authority["root_pem"], "kind": kind}


def judge(*made: dict[str, Any]) -> list[dict[str, Any]]:
    """What Node says of certificates."""
    asked = [
        {"leaf": each["crt_pem"], "intermediates": each["chain_pem"], **{name: each[name] for name in ("key", "root", "kind")}}
        for each in made
    ]  # fmt: skip
    run = subprocess.run(
        [NODE, Path(__file__).parent / "verify.mjs"],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    found: list[dict[str, Any]] = json.loads(run.stdout)
    return found


def test_every_kind_of_key_under_every_kind_of_ca(server: tuple[str, Server]) -> None:
    """ML-DSA CAs sign EC, RSA and Ed25519 keys, and the reverse; chain, name and a TLS 1.3 handshake are good."""
    ca, running = server
    kinds = (*ML_DSA, *CLASSIC)
    made = [signed(running, kind) for kind in kinds]
    for kind, found in zip(kinds, judge(*made), strict=True):
        assert found.pop("kind") == KEY_TYPES.get(kind, kind), ca
        assert found == dict.fromkeys(("key", "host", "leaf", "issuer", "root"), True) | {
            "usage": ["1.3.6.1.5.5.7.3.1"],
            "tls": "TLSv1.3",
        }, f"{kind} under {ca}"


def test_text_and_pem_and_key_usage(server: tuple[str, Server]) -> None:
    """Every answer has text and PEM; keyUsage is RFC 9881 5's: to sign, and nothing else."""
    ca, running = server
    for kind in ML_DSA:
        made = signed(running, kind)
        assert made["crt_text"].startswith("Certificate:")
        assert f"Public Key Algorithm: {kind.upper()}" in made["crt_text"]
        certificate, issuer = (
            x509.load_pem_x509_certificate(made[name].encode()) for name in ("crt_pem", "chain_pem")
        )
        assert certificate.public_key_algorithm_oid.dotted_string == OIDS[kind]
        assert bits(certificate) == {"digital_signature"}
        assert bits(issuer) == {"key_cert_sign", "crl_sign"}
        if ca in OIDS:
            assert certificate.signature_algorithm_oid.dotted_string == OIDS[ca]


def bits(certificate: x509.Certificate) -> set[str]:
    """The bits of its key usage."""
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    names = ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment"]
    return {name for name in [*names, "key_agreement", "key_cert_sign", "crl_sign"] if getattr(usage, name)}


def test_what_node_would_refuse(server: tuple[str, Server]) -> None:
    """The negative twins: a changed signature, another CA of the same kind, another key."""
    ca, running = server
    made = signed(running, "ml-dsa-44")
    der = bytearray(x509.load_pem_x509_certificate(made["crt_pem"].encode()).public_bytes(Encoding.DER))
    der[-5] ^= 1
    changed = {**made, "crt_pem": pem(x509.load_der_x509_certificate(bytes(der)))}
    other = authorities.issuer(ca)
    foreign = {**made, "chain_pem": pem(other.certificate), "root": pem(other.root)}
    stolen = {**made, "key": signed(running, "ml-dsa-65")["key"]}
    good, bad, strange, keyless = judge(made, changed, foreign, stolen)
    assert (good["leaf"], good["tls"]) == (True, "TLSv1.3")
    assert (bad["leaf"], bad["tls"]) == (False, "CERT_SIGNATURE_FAILURE")
    assert (strange["leaf"], strange["issuer"]) == (False, True)
    assert strange["tls"] != "TLSv1.3"
    assert (keyless["key"], keyless["leaf"]) == (False, True)


@functools.cache
def pem(certificate: x509.Certificate) -> str:
    """A certificate in PEM."""
    return certificate.public_bytes(Encoding.PEM).decode()

"""Issuers by key identifier, through the whole path: the current one, and those of before a rollover."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509

from service.pki.certificate_reader import key_id
from tests.assertions import assert_problem
from tests.servers import Server, certlet, certlet_server


def ca_certificates(server: Server) -> list[x509.Certificate]:
    """Return the CA certificates that the server serves."""
    return x509.load_pem_x509_certificates(server.request("GET", "/ca.pem").body)


def test_paths_of_the_current_issuer_have_the_same_responses(server: Server) -> None:
    """The octets and the headers for caches are those of /ca.crt, /ca.crl and /root.crt."""
    issuer, root = ca_certificates(server)
    for path, same in (
        (f"/issuer/{key_id(issuer)}", "/ca.crt"),
        (f"/issuer/{key_id(root)}", "/root.crt"),
        (f"/crl/{key_id(issuer)}", "/ca.crl"),
    ):
        response, expected = (server.request("GET", name, headers={"Accept": "*/*"}) for name in (path, same))
        assert (response.status, response.body) == (200, expected.body)
        for name in ("Content-Type", "Cache-Control", "Access-Control-Allow-Origin"):
            assert response.headers[name] == expected.headers[name]


@pytest.mark.parametrize("path", ["/crl/", "/issuer/"])
def test_unknown_issuer_is_not_found(server: Server, path: str) -> None:
    """This includes the root's CRL, which this CA does not sign, and what is not a key identifier."""
    issuer, root = ca_certificates(server)
    others = ["00", "0a" * 64, "0", "g0", "00" * 65, key_id(issuer).upper(), f"{key_id(issuer)}%0A"]
    for name in [*others, *([key_id(root)] if path == "/crl/" else [])]:
        assert_problem(server.request("GET", path + name), 404, "notFound")
    assert_problem(server.request("GET", f"{path}{key_id(issuer)}?a=1"), 400, "malformed")


def test_certificates_of_previous_issuers_are_served(tmp_path: Path) -> None:
    """Those of all CAs, also of the root before a new one."""
    assert certlet("init", "a", cwd=tmp_path).returncode == 0
    assert certlet("rollover", "a", "b", cwd=tmp_path).returncode == 0
    assert certlet("rollover", "b", "c", "--new-root", cwd=tmp_path).returncode == 0
    with certlet_server(tmp_path, "--ca", "c") as server:
        certificates = ca_certificates(server)
        assert len({key_id(certificate) for certificate in certificates}) == len(certificates) == 5
        for certificate in certificates:
            response = server.request("GET", f"/issuer/{key_id(certificate)}")
            assert x509.load_der_x509_certificate(response.body) == certificate

from __future__ import annotations

import base64
import subprocess
from pathlib import Path
from typing import Final

import pytest
from cryptography import x509

from service.pki import names
from tests.adversarial.third_party_csrs import (
    BLOCK,
    CASES,
    COLLECTIONS,
    Issued,
    Refused,
    ThirdPartyCSR,
    read_csr,
)
from tests.servers import API_KEY, Response, Server

PACKAGES: Final = {
    "cfssl": "golang-github-cloudflare-cfssl-dev",
    "smallstep": "golang-github-smallstep-certificates-dev",
}


def csr_files(folder: Path, package: str | None) -> set[str]:
    """Return the files that contain a CSR: all files of a folder, or those of a Debian package."""
    if package is None:
        return {path.name for path in folder.iterdir()}
    listing = subprocess.run(["dpkg", "-L", package], capture_output=True, text=True, check=True).stdout
    files = [path for path in map(Path, listing.splitlines()) if path.is_file()]
    return {str(path.relative_to(folder)) for path in files if contains_csr(path)}


def contains_csr(path: Path) -> bool:
    """Whether a file contains a CSR; a Go source must contain the whole PEM block."""
    data = path.read_bytes()
    if path.suffix == ".go":
        return BLOCK.search(data) is not None
    return path.suffix == ".csr" or b"CERTIFICATE REQUEST-----" in data


@pytest.mark.parametrize("name", COLLECTIONS)
def test_table_lists_every_csr(name: str) -> None:
    """The table lists exactly the CSRs in the packages."""
    folder, rows, count = COLLECTIONS[name]
    assert csr_files(folder, PACKAGES.get(name)) == {row.path for row in rows}
    assert len({row.path for row in rows}) == count


@pytest.mark.parametrize(("path", "row"), CASES, ids=lambda value: f"{value.path}-{value.part}" if isinstance(value, ThirdPartyCSR) else "")  # fmt: skip
def test_third_party_csr_is_issued_or_refused(server: Server, path: Path, row: ThirdPartyCSR) -> None:
    """Each CSR is issued with the names and notes of the table, or refused with its errors."""
    data = read_csr(path, row)
    text = base64.b64encode(data).decode() if path.suffix == ".der" else data.decode()
    response = server.sign({"csr": text})
    headers = {"Content-Type": "application/pkcs10", "x-api-key": API_KEY}
    pem_response = server.request("POST", "/sign.pem", data, headers)
    assert (response.status, pem_response.status) == ((200, 200) if isinstance(row.expected, Issued) else (422, 422)), response.body  # fmt: skip
    assert with_sorted_notes(result_of(response)) == with_sorted_notes(row.expected), row.source
    if isinstance(row.expected, Refused):
        assert pem_response.json()["errors"] == response.json()["errors"]


def result_of(response: Response) -> Issued | Refused:
    """Convert a response to the form of the table."""
    document = response.json()
    if response.status != 200:
        return Refused(tuple((error["code"], error["field"]) for error in document["errors"]))
    certificate = x509.load_pem_x509_certificate(document["crt_pem"].encode())
    sans = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return Issued(tuple(str(names.parse_general_name(san, "")) for san in sans), tuple(document["notes"]))


def with_sorted_notes(result: Issued | Refused) -> Issued | Refused:
    """Return the result with its notes sorted."""
    return Issued(result.names, tuple(sorted(result.notes))) if isinstance(result, Issued) else result

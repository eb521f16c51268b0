from __future__ import annotations

import base64
import subprocess
from pathlib import Path
from typing import Final

import pytest
from cryptography import x509

from service.pki import names
from tests.adversarial.third_party_csrs import BLOCK, CASES, COLLECTIONS, Refused, Row, Signed, read
from tests.servers import API_KEY, Answer, Server

PACKAGES: Final = {
    "cfssl": "golang-github-cloudflare-cfssl-dev",
    "smallstep": "golang-github-smallstep-certificates-dev",
}


def requests_in(folder: Path, package: str | None) -> set[str]:
    """The files that hold a certification request: all of a folder's, or those that a Debian package has."""
    if package is None:
        return {path.name for path in folder.iterdir()}
    listed = subprocess.run(["dpkg", "-L", package], capture_output=True, text=True, check=True).stdout
    files = [path for path in map(Path, listed.splitlines()) if path.is_file()]
    return {str(path.relative_to(folder)) for path in files if holds_request(path)}


def holds_request(path: Path) -> bool:
    """Whether a file is one, or says that it has one; a Go source only if the whole block stands in it."""
    data = path.read_bytes()
    if path.suffix == ".go":
        return BLOCK.search(data) is not None
    return path.suffix == ".csr" or b"CERTIFICATE REQUEST-----" in data


@pytest.mark.parametrize("name", COLLECTIONS)
def test_every_request_is_in_the_table(name: str) -> None:
    """The packages have the requests of the table, and no other: none is forgotten, none is made up."""
    folder, rows, count = COLLECTIONS[name]
    assert requests_in(folder, PACKAGES.get(name)) == {row.path for row in rows}
    assert len({row.path for row in rows}) == count


@pytest.mark.parametrize(("path", "row"), CASES, ids=lambda each: f"{each.path}-{each.part}" if isinstance(each, Row) else "")  # fmt: skip
def test_verdicts(server: Server, path: Path, row: Row) -> None:
    """Each is signed for the names that it asks for, with the notes of the table, or refused for its reasons."""
    sent = read(path, row)
    text = base64.b64encode(sent).decode() if path.suffix == ".der" else sent.decode()
    answer = server.sign({"csr": text})
    headers = {"Content-Type": "application/pkcs10", "x-api-key": API_KEY}
    same = server.request("POST", "/sign.pem", sent, headers)
    assert (answer.status, same.status) == ((200, 200) if isinstance(row.verdict, Signed) else (422, 422)), answer.body  # fmt: skip
    assert ordered(verdict(answer)) == ordered(row.verdict), row.why
    if isinstance(row.verdict, Refused):
        assert same.json()["errors"] == answer.json()["errors"]


def verdict(answer: Answer) -> Signed | Refused:
    """What became of a request, as the table has it."""
    found = answer.json()
    if answer.status != 200:
        return Refused(tuple((reason["code"], reason["field"]) for reason in found["errors"]))
    certificate = x509.load_pem_x509_certificate(found["crt_pem"].encode())
    sans = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return Signed(tuple(str(names.parse_general_name(each, "")) for each in sans), tuple(found["notes"]))


def ordered(each: Signed | Refused) -> Signed | Refused:
    """The same with its notes in order of the alphabet."""
    return Signed(each.names, tuple(sorted(each.notes))) if isinstance(each, Signed) else each

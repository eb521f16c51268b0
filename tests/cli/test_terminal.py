"""Output to the terminal: text of files and servers cannot forge a line."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from pathlib import Path

import pytest

from service.pki import encoding
from tests import csrs, factories, servers
from tests.cli import certlet
from tests.servers import API_KEY

CSR = csrs.encode_pem(csrs.build())
FORGED = "ok\ncertlet: run this\n  or this"
ESCAPED = r"ok\ncertlet: run this\n  or this"


class Handler(servers.QuietHandler):
    """Signs at /ok, and refuses requests at /refusal for two reasons."""

    def respond(self) -> None:
        self.body()
        if self.path.startswith("/ok/"):
            issued = factories.authority().issue(factories.issuance_request(CSR))
            pem = encoding.encode_pem([issued.certificate])
            signed = {"crt_pem": pem, "chain_pem": "", "notes": [FORGED], "not_after": "2026"}
            self.reply(200, json.dumps(signed).encode())
            return
        errors = [{"field": name, "detail": FORGED} for name in ("csr", "validity")]
        problem = {"title": "Refused", "detail": FORGED, "status": 422, "code": "x", "errors": errors}
        self.reply(422, json.dumps(problem).encode())


def test_text_of_a_server_cannot_forge_a_line() -> None:
    """A note is one line. A refusal has one more line for each of several reasons, which is indented."""
    with servers.http_server(Handler) as url:
        signed, refused = (
            certlet("sign", "-", "--url", f"{url}/{path}", "--api-key", "key", stdin=CSR)
            for path in ("ok", "refusal")
        )
    assert (signed.returncode, signed.stderr.decode()) == (0, f"note: {ESCAPED}\n")
    assert (refused.returncode, refused.stderr.decode().splitlines()) == (
        1,
        [f"certlet: Refused: {ESCAPED} (422 x)", f"  csr: {ESCAPED}", f"  validity: {ESCAPED}"],
    )


def test_name_of_a_file_cannot_forge_a_line() -> None:
    """Neither in an error of the system nor in our own; a printable name is unchanged."""
    name = "ä\x1b[31m\n  x"
    for arguments in (("sign", name, "--api-key", "key"), ("show", name)):
        (line,) = certlet(*arguments).stderr.decode().splitlines()
        assert line.startswith(r"certlet: ä\x1b[31m\n  x: No such file or directory")


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("new", "a.example.com", "--p12", "a.p12", "--api-key", API_KEY), "PKCS#12 password"),
        (("login", "https://ca.example.com", "--root", "root.crt"), "API key"),
    ],
)
def test_typed_secret_that_is_not_utf8_is_an_error(
    tmp_path: Path, arguments: tuple[str, ...], name: str
) -> None:
    """It is an error before a request, and nothing is written."""
    (tmp_path / "root.crt").write_text(encoding.encode_pem([factories.root()]))
    terminal, inside = pty.openpty()
    with subprocess.Popen(
        [*servers.CERTLET, *arguments],
        env=servers.environ(PYTHONIOENCODING="utf-8:strict"), stdin=inside, stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stderr
        prompt = f"{name}: ".encode()
        assert process.stderr.read(len(prompt)) == prompt  # what is typed before is discarded
        os.write(terminal, b"p\xffssword\n")
        _, error = process.communicate(timeout=20)
    os.close(inside)
    os.close(terminal)
    assert (process.returncode, error.decode().strip()) == (1, f"certlet: the {name} is not UTF-8")
    assert [path.name for path in tmp_path.iterdir()] == ["root.crt"]

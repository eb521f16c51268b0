"""Output to the terminal: text of files and servers cannot forge a line."""

from __future__ import annotations

import json

from service.pki import encoding
from tests import csrs, factories, servers
from tests.cli import certlet

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

"""A client proves its names by http-01: see `tests.acme.test_proofs`, which runs this in a network namespace."""

from __future__ import annotations

import sys
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Final

from tests import servers
from tests.acme import clients
from tests.acme.clients import Client
from tests.acme.test_clients import NAMES, enroll, verify
from tests.http01_site import Site
from tests.servers import QuietHandler

UNKNOWN: Final = "unknown.ci.example.com"
PROFILES: Final = """\
principals:
  ci: {dns: {permitted: [ci.example.com]}, challenge: http-01}
"""
OPTIONS: Final = ("--tls", "--ledger", "ledger.sqlite", "--no-usage-plan")
POLICY: Final = ("--profiles", "profiles.yaml", "--acme-network", "127.0.0.0/8")


def serve_folder(folder: Path) -> None:
    """Serve the challenges that a client without a server writes to a folder."""

    class Handler(QuietHandler):
        def respond(self) -> None:
            path = folder / self.path.rpartition("/")[2]
            self.reply(200, path.read_bytes()) if path.is_file() else self.reply(404, b"")

    server = ThreadingHTTPServer(("127.0.0.1", 80), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def run(folder: Path, kind: type[Client]) -> None:
    """Request a certificate for a name without an address, and one for names that have it."""
    Site({name: ["127.0.0.1"] for name in NAMES} | {UNKNOWN: []}).start()
    (folder / "profiles.yaml").write_text(PROFILES)
    (folder / "client").mkdir()
    if kind is clients.Dehydrated:
        serve_folder(folder / "client")
    with servers.certlet_server(folder, *OPTIONS, *POLICY) as server:
        client = kind(server, folder / "client")
        refusal = " ".join(enroll(client, UNKNOWN, check=False).split())
        assert f"{UNKNOWN} has no address in the DNS" in refusal, refusal
        client.issue(*NAMES)
        verify(client)


if __name__ == "__main__":
    run(Path(sys.argv[1]), getattr(clients, sys.argv[2]))

"""The commands that `certlet trust` prints make Debian, Java and Node trust the root.

They run in a mount namespace with copies of the files that they change, so that this machine stays unchanged.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests import servers
from tests.servers import Server
from tests.trust_output import run_in_shell, run_trust

# Debian's roots, the directory of additional ones, and Java's, to which `cacerts` is a link.
CHANGED = (Path("/etc/ssl"), Path("/usr/local/share/ca-certificates"))

JAVA = """
import java.net.URI;
import java.net.http.*;

class Fetch {
    public static void main(String[] arguments) throws Exception {
        var request = HttpRequest.newBuilder(URI.create(arguments[0])).build();
        HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.discarding());
    }
}
"""


@pytest.mark.parametrize(
    ("heading", "client"),
    [
        ("Debian, Ubuntu", "curl -sS URL"),
        ("Java, as the owner of its files", "java Fetch.java URL"),
        ("Node.js, in addition to its own roots", "node --eval 'fetch(\"URL\")'"),
    ],
)
def test_printed_commands_make_clients_trust_the_root(
    tls_server: Server, tmp_path: Path, heading: str, client: str
) -> None:
    """The client refuses the server before the commands and accepts it after them; this machine is unchanged."""
    commands = run_trust("--ca", str(tls_server.log.parent / "ca"), cwd=tmp_path)
    assert run_in_shell(commands["Download the root, and compare its fingerprint"], tmp_path).returncode == 0
    (tmp_path / "Fetch.java").write_text(JAVA)
    servers.create_script(tmp_path / "sudo", 'exec "$@"')  # in the namespace every user is root
    mounts = []
    for number, folder in enumerate(CHANGED):
        shutil.copytree(folder, tmp_path / str(number), symlinks=True, ignore=_unreadable)
        mounts.append(f"mount --bind {tmp_path / str(number)} {folder}")
    fetch = client.replace("URL", f"{tls_server.url}/health")
    before = {folder: _list_files(folder) for folder in CHANGED}
    user = ["--user", "--map-root-user"] if os.geteuid() else []
    script = ["set -e", *mounts, f"if {fetch}; then exit 99; fi", "echo refused", *commands[heading], fetch]
    env = servers.environ(PATH=f"{tmp_path}:{os.environ['PATH']}:/usr/sbin")
    command = ("unshare", "--mount", *user, "sh", "-c", "\n".join(script))
    assert "refused" in servers.run(*command, cwd=tmp_path, env=env).stdout
    assert {folder: _list_files(folder) for folder in CHANGED} == before


def _unreadable(folder: str, names: list[str]) -> set[str]:
    """Return the names that this user cannot read, such as /etc/ssl/private."""
    return {name for name in names if not os.access(Path(folder, name), os.R_OK)}


def _list_files(folder: Path) -> list[tuple[str, float]]:
    return sorted((str(path), path.lstat().st_mtime) for path in folder.rglob("*"))

"""The judges: each is shown every case, and says "ok" or what is wrong, in its own words.

A judge that is a program of ours around somebody's library (Go, Java, Node, pkilint) is started once, and prints lines
of judge, case and verdict; a command is started once a case. All of them run at once, as far as the machine lets them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from tests import servers
from tests.interop.certificate_cases import NOW, Case, Exhibits

HERE: Final = Path(__file__).parent
NODE: Final = next(HERE.glob("node_modules/node-linux-*/bin/node"), Path("none"))
PURPOSES: Final = {"server": "1.3.6.1.5.5.7.3.1", "client": "1.3.6.1.5.5.7.3.2"}
# Short lives and little work: one compiler, which is quick, and one thread to collect.
JAVA: Final = ("java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")

Verdicts = dict[tuple[str, Case], str]


def run(*command: str | Path, cwd: Path) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    done = servers.run(*command, cwd=cwd, check=False)
    return done.returncode, done.stdout, done.stderr


def openssl(folder: Path, case: Case) -> str:
    """`openssl verify -x509_strict`, with purpose and host name."""
    asked = ["-verify_hostname", case.host] if case.purpose == "server" else []
    code, out, err = run(
        "openssl", "verify", "-x509_strict", "-purpose", f"ssl{case.purpose}", *asked,
        "-CAfile", "root.pem", "-untrusted", "chain.pem", "leaf.pem", cwd=folder,
    )  # fmt: skip
    return "ok" if not code and out.strip() == "leaf.pem: OK" else err


def certtool(folder: Path, case: Case) -> str:
    """GnuTLS."""
    asked = ["--verify-hostname", case.host] if case.purpose == "server" else []
    code, out, _ = run(
        "certtool", "--verify", "--verify-profile", "medium", "--load-ca-certificate", "root.pem", *asked,
        "--verify-purpose", PURPOSES[case.purpose], "--infile", "bundle.pem", cwd=folder,
    )  # fmt: skip
    return out.rpartition("Chain verification output: ")[2] if code else "ok"


def vfychain(folder: Path, case: Case) -> str:
    """NSS, by its newer library (`-pp`), which takes a root from the command line."""
    usage = "1" if case.purpose == "server" else "0"
    parts = ["-a", "leaf.pem", "-a", "chain.pem", "-t", "-a", "root.pem"]
    code, out, err = run("vfychain", "-d", "sql:../nss", "-pp", "-u", usage, *parts, cwd=folder)
    return "ok" if not code and "Chain is good!" in out + err else out + err


def each(judge: Callable[[Path, Case], str]) -> Callable[[Path, Exhibits], Iterator[tuple[str, str, str]]]:
    """A judge that is asked case by case."""

    def ask(directory: Path, exhibits: Exhibits) -> Iterator[tuple[str, str, str]]:
        for case in exhibits:
            yield judge.__name__, case.folder, judge(directory / case.folder, case)

    return ask


def nss(directory: Path, exhibits: Exhibits) -> Iterator[tuple[str, str, str]]:
    """`vfychain`, and the empty database that it wants."""
    (directory / "nss").mkdir()
    servers.run("certutil", "-N", "-d", "sql:nss", "--empty-password", cwd=directory)
    yield from each(vfychain)(directory, exhibits)


def cryptography(directory: Path, exhibits: Exhibits) -> Iterator[tuple[str, str, str]]:
    """cryptography's own verifier, which is not what signs."""
    for case, exhibit in exhibits.items():
        builder = PolicyBuilder().store(Store([exhibit.root])).time(NOW)
        try:
            if case.purpose == "server":
                builder.build_server_verifier(x509.DNSName(case.host)).verify(exhibit.leaf, [exhibit.signing])
            else:
                builder.build_client_verifier().verify(exhibit.leaf, [exhibit.signing])
        except VerificationError as fault:
            yield "cryptography", case.folder, str(fault)
        else:
            yield "cryptography", case.folder, "ok"


def lines(*command: str | Path) -> Iterator[tuple[str, str, str]]:
    """What a program of ours prints."""
    for line in servers.run(*command).stdout.splitlines():
        judge, folder, verdict = line.split("\t")
        yield judge, folder, verdict


def reference(directory: Path, exhibits: Exhibits) -> Path:
    """The folder of what the end that judges shows of itself in mutual TLS: a good certificate for either purpose."""
    good = Case("peer", "p-256", "p-256", "server")
    assert good in exhibits
    return directory / good.folder


def pkilint(directory: Path, exhibits: Exhibits) -> Iterator[tuple[str, str, str]]:
    """Both of pkilint's linters for certificates."""
    yield from lines(sys.executable, "-m", "tests.interop.pkilint_runner", directory)


def go(directory: Path, exhibits: Exhibits) -> Iterator[tuple[str, str, str]]:
    """Go's crypto/x509."""
    # Modules off and no C: the standard library alone, as Debian compiled it.
    env = servers.environ(GO111MODULE="off", CGO_ENABLED="0", GOCACHE=str(directory / "go"))
    servers.run("go", "build", "-o", directory / "judge-go", HERE / "judge.go", env=env)
    yield from lines(directory / "judge-go", directory)


def java(directory: Path, exhibits: Exhibits) -> Iterator[tuple[str, str, str]]:
    """Java's CertPathValidator and its TLS."""
    yield from lines(*JAVA, HERE / "Judge.java", directory, reference(directory, exhibits))


def node(directory: Path, exhibits: Exhibits) -> Iterator[tuple[str, str, str]]:
    """Node's TLS, by an OpenSSL that knows ML-DSA."""
    yield from lines(NODE, HERE / "judge.mjs", directory, reference(directory, exhibits))


# As $here is a variable, nginx reads a certificate when it is asked for: one that it cannot read costs only that handshake.
NGINX: Final = """\
daemon off; master_process off; pid {sockets}/pid; error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
  access_log off; ssl_verify_depth 2; ssl_verify_client on; ssl_session_cache off;
  client_body_temp_path {sockets}/b; proxy_temp_path {sockets}/p; fastcgi_temp_path {sockets}/f;
  uwsgi_temp_path {sockets}/u; scgi_temp_path {sockets}/s;
  map "" $here {{ default {directory}; }}
{servers}}}
"""
SERVER: Final = """\
  server {{
    listen unix:{socket} ssl;
    ssl_certificate $here/{own}/bundle.pem; ssl_certificate_key $here/{own}/key.pem;
    ssl_client_certificate {directory}/{trusted}/root.pem;
    error_page 495 496 /why; location / {{ return 200 "$ssl_client_verify"; }}
  }}
"""


@contextlib.contextmanager
def nginx(directory: Path, exhibits: Exhibits) -> Iterator[dict[Case, Path]]:
    """nginx with mutual TLS, a server and a socket for each case."""
    other = reference(directory, exhibits).name
    with tempfile.TemporaryDirectory() as made:  # a socket's path has 107 characters at most
        sockets = {case: Path(made) / str(number) for number, case in enumerate(exhibits)}
        server_blocks = ""
        for case, socket in sockets.items():
            own, trusted = (case.folder, other) if case.purpose == "server" else (other, case.folder)
            server_blocks += SERVER.format(socket=socket, directory=directory, own=own, trusted=trusted)
        config = directory / "nginx.conf"
        config.write_text(NGINX.format(sockets=made, directory=directory, servers=server_blocks))
        program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") or "nginx"
        process = subprocess.Popen([program, "-c", config, "-p", made], stderr=subprocess.PIPE, text=True)
        try:
            servers.wait_until(lambda: (Path(made) / "pid").exists() or process.poll() is not None)
            assert process.poll() is None, process.communicate()[1]
            yield sockets
        finally:
            process.terminate()
            process.communicate(timeout=30)


def nginx_and_curl(directory: Path, exhibits: Exhibits) -> Iterator[tuple[str, str, str]]:
    """Mutual TLS: curl judges servers, nginx judges clients."""
    other = reference(directory, exhibits)
    with nginx(directory, exhibits) as sockets:
        for case, socket in sockets.items():
            folder = directory / case.folder
            own, trusted = (other, folder) if case.purpose == "server" else (folder, other)
            _, out, err = run(
                "curl", "-sS", "--max-time", "20", "--unix-socket", socket, "--cacert", trusted / "root.pem",
                "--cert", own / "bundle.pem", "--key", own / "key.pem", f"https://{case.host}/", cwd=folder,
            )  # fmt: skip
            yield "nginx+curl", case.folder, "ok" if out == "SUCCESS" else out + err


JUDGES: Final = {
    java: ("java", "java-tls"),  # the slowest first
    pkilint: ("pkilint", "pkilint-chain"),
    nginx_and_curl: ("nginx+curl",),
    node: ("node",),
    each(openssl): ("openssl",),
    each(certtool): ("certtool",),
    nss: ("vfychain",),
    go: ("go",),
    cryptography: ("cryptography",),
}
NAMES: Final = tuple(sorted(name for names in JUDGES.values() for name in names))


def judge(directory: Path, exhibits: Exhibits) -> tuple[Verdicts, dict[str, float]]:
    """All verdicts, and how many seconds each judge took for its."""
    by_folder = {case.folder: case for case in exhibits}

    def ask(judging: Callable[[Path, Exhibits], Iterator[tuple[str, str, str]]]) -> tuple[Verdicts, float]:
        start = time.monotonic()
        made = {
            (name, by_folder[folder]): " ".join(text.split())
            for name, folder, text in judging(directory, exhibits)
        }
        return made, time.monotonic() - start

    verdicts: Verdicts = {}
    seconds: dict[str, float] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for names, (made, took) in zip(JUDGES.values(), pool.map(ask, JUDGES), strict=True):
            verdicts |= made
            seconds[" and ".join(names)] = took
    missing = [(name, case) for name in NAMES for case in exhibits if (name, case) not in verdicts]
    assert not missing, missing[:3]
    return verdicts, seconds

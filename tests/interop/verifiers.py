"""Run every verifier for every case. A result is "ok" or the verifier's error message.

A program that uses a library (Go, Java, Node, pkilint) runs once and prints lines of verifier, case and result; a command
runs once per case. The verifiers run in parallel, one per CPU.
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
from tests.interop.certificate_cases import NOW, Case, Chains

HERE: Final = Path(__file__).parent
NODE: Final = next(HERE.glob("node_modules/node-linux-*/bin/node"), Path("none"))
PURPOSES: Final = {"server": "1.3.6.1.5.5.7.3.1", "client": "1.3.6.1.5.5.7.3.2"}
# The processes are short-lived: use the fast compiler and a single-threaded garbage collector.
JAVA: Final = ("java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")

Results = dict[tuple[str, Case], str]
Verifier = Callable[[Path, Chains], Iterator[tuple[str, str, str]]]


def run(*command: str | Path, cwd: Path) -> tuple[int, str, str]:
    """Return exit code, standard output and standard error."""
    result = servers.run(*command, cwd=cwd, check=False)
    return result.returncode, result.stdout, result.stderr


def openssl(folder: Path, case: Case) -> str:
    """Run `openssl verify -x509_strict` with the purpose and host name."""
    host_options = ["-verify_hostname", case.host] if case.purpose == "server" else []
    code, out, err = run(
        "openssl", "verify", "-x509_strict", "-purpose", f"ssl{case.purpose}", *host_options,
        "-CAfile", "root.pem", "-untrusted", "chain.pem", "leaf.pem", cwd=folder,
    )  # fmt: skip
    return "ok" if not code and out.strip() == "leaf.pem: OK" else err


def certtool(folder: Path, case: Case) -> str:
    """Run `certtool --verify` of GnuTLS."""
    host_options = ["--verify-hostname", case.host] if case.purpose == "server" else []
    code, out, _ = run(
        "certtool", "--verify", "--verify-profile", "medium", "--load-ca-certificate", "root.pem", *host_options,
        "--verify-purpose", PURPOSES[case.purpose], "--infile", "bundle.pem", cwd=folder,
    )  # fmt: skip
    return out.rpartition("Chain verification output: ")[2] if code else "ok"


def vfychain(folder: Path, case: Case) -> str:
    """Run `vfychain` of NSS with its newer library (`-pp`), which accepts a root from the command line."""
    usage = "1" if case.purpose == "server" else "0"
    parts = ["-a", "leaf.pem", "-a", "chain.pem", "-t", "-a", "root.pem"]
    code, out, err = run("vfychain", "-d", "sql:../nss", "-pp", "-u", usage, *parts, cwd=folder)
    return "ok" if not code and "Chain is good!" in out + err else out + err


def per_case(verify: Callable[[Path, Case], str]) -> Verifier:
    """Convert a function that verifies one case to a verifier."""

    def verify_cases(directory: Path, chains: Chains) -> Iterator[tuple[str, str, str]]:
        for case in chains:
            yield verify.__name__, case.folder, verify(directory / case.folder, case)

    return verify_cases


def nss(directory: Path, chains: Chains) -> Iterator[tuple[str, str, str]]:
    """Run `vfychain` with the empty database that it requires."""
    (directory / "nss").mkdir()
    servers.run("certutil", "-N", "-d", "sql:nss", "--empty-password", cwd=directory)
    yield from per_case(vfychain)(directory, chains)


def cryptography(directory: Path, chains: Chains) -> Iterator[tuple[str, str, str]]:
    """Use cryptography's X.509 verifier, which Certlet does not use."""
    for case, chain in chains.items():
        builder = PolicyBuilder().store(Store([chain.root])).time(NOW)
        try:
            if case.purpose == "server":
                builder.build_server_verifier(x509.DNSName(case.host)).verify(chain.leaf, [chain.signing])
            else:
                builder.build_client_verifier().verify(chain.leaf, [chain.signing])
        except VerificationError as error:
            yield "cryptography", case.folder, str(error)
        else:
            yield "cryptography", case.folder, "ok"


def parse_output(*command: str | Path) -> Iterator[tuple[str, str, str]]:
    """Run a verifier program and parse its output."""
    for line in servers.run(*command).stdout.splitlines():
        verifier, folder, result = line.split("\t")
        yield verifier, folder, result


def peer_folder(directory: Path, chains: Chains) -> Path:
    """Return the folder of the peer in mutual TLS: a valid certificate for both purposes."""
    peer = Case("peer", "p-256", "p-256", "server")
    assert peer in chains
    return directory / peer.folder


def pkilint(directory: Path, chains: Chains) -> Iterator[tuple[str, str, str]]:
    """Run pkilint's linters for certificates and for pairs."""
    yield from parse_output(sys.executable, "-m", "tests.interop.pkilint_runner", directory)


def build_go(source: str, directory: Path) -> Path:
    """Compile a program without modules and C: with the standard library as Debian compiled it, and Debian's others."""
    cache, program = directory / "go", directory / f"{source}.out"
    env = servers.environ(GO111MODULE="off", CGO_ENABLED="0", GOPATH="/usr/share/gocode", GOCACHE=str(cache))
    servers.run("go", "build", "-o", program, HERE / source, env=env)
    return program


def go(directory: Path, chains: Chains) -> Iterator[tuple[str, str, str]]:
    """Run the program that uses Go's crypto/x509."""
    yield from parse_output(build_go("verifier.go", directory), directory)


def java(directory: Path, chains: Chains) -> Iterator[tuple[str, str, str]]:
    """Run the program that uses Java's CertPathValidator and TLS."""
    yield from parse_output(*JAVA, HERE / "Verifier.java", directory, peer_folder(directory, chains))


def node(directory: Path, chains: Chains) -> Iterator[tuple[str, str, str]]:
    """Run the program that uses Node's TLS; its OpenSSL supports ML-DSA."""
    yield from parse_output(NODE, HERE / "verifier.mjs", directory, peer_folder(directory, chains))


NGINX: Final = """\
daemon off; master_process off; pid {folder}/pid; error_log stderr {level};
events {{ worker_connections 4096; }}
http {{
  access_log off; ssl_session_cache off;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
{http}}}
"""
# Because $folder is a variable, nginx loads the certificate in each handshake; an unusable one fails only that handshake.
FOLDER: Final = """\
  ssl_verify_depth 2; ssl_verify_client on;
  map "" $folder {{ default {directory}; }}
"""
SERVER: Final = """\
  server {{
    listen unix:{socket} ssl;
    ssl_certificate $folder/{identity}/bundle.pem; ssl_certificate_key $folder/{identity}/key.pem;
    ssl_client_certificate {directory}/{trust}/root.pem;
    error_page 495 496 /error; location / {{ return 200 "$ssl_client_verify"; }}
  }}
"""


@contextlib.contextmanager
def run_nginx(folder: Path, http: str, level: str = "crit") -> Iterator[Path]:
    """Run nginx with directives of its `http` block; yield the log of errors from a level on."""
    config, log = folder / "nginx.conf", folder / "nginx.log"
    config.write_text(NGINX.format(folder=folder, level=level, http=http))
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") or "nginx"
    with (
        log.open("w") as stderr,
        subprocess.Popen([program, "-c", config, "-p", folder], stderr=stderr) as process,
    ):
        try:
            servers.wait_until(lambda: (folder / "pid").exists() or process.poll() is not None)
            assert process.poll() is None, log.read_text()
            yield log
        finally:
            process.terminate()


@contextlib.contextmanager
def nginx(directory: Path, chains: Chains) -> Iterator[dict[Case, Path]]:
    """Run nginx with mutual TLS, with a server and a socket for each case."""
    peer = peer_folder(directory, chains).name
    with tempfile.TemporaryDirectory() as short_path:  # a socket's path is at most 107 characters long
        sockets = {case: Path(short_path) / str(number) for number, case in enumerate(chains)}
        http = FOLDER.format(directory=directory)
        for case, socket in sockets.items():
            identity, trust = (case.folder, peer) if case.purpose == "server" else (peer, case.folder)
            http += SERVER.format(socket=socket, directory=directory, identity=identity, trust=trust)
        with run_nginx(Path(short_path), http):
            yield sockets


def nginx_and_curl(directory: Path, chains: Chains) -> Iterator[tuple[str, str, str]]:
    """Connect curl to nginx with mutual TLS: curl verifies servers, nginx verifies clients."""
    peer = peer_folder(directory, chains)
    with nginx(directory, chains) as sockets:
        for case, socket in sockets.items():
            folder = directory / case.folder
            identity, trust = (peer, folder) if case.purpose == "server" else (folder, peer)
            _, out, err = run(
                "curl", "-sS", "--max-time", "20", "--unix-socket", socket, "--cacert", trust / "root.pem",
                "--cert", identity / "bundle.pem", "--key", identity / "key.pem", f"https://{case.host}/", cwd=folder,
            )  # fmt: skip
            yield "nginx+curl", case.folder, "ok" if out == "SUCCESS" else out + err


VERIFIERS: Final = {
    java: ("java", "java-tls"),  # the slowest first
    pkilint: ("pkilint", "pkilint-chain"),
    nginx_and_curl: ("nginx+curl",),
    node: ("node",),
    per_case(openssl): ("openssl",),
    per_case(certtool): ("certtool",),
    nss: ("vfychain",),
    go: ("go",),
    cryptography: ("cryptography",),
}
NAMES: Final = tuple(sorted(name for names in VERIFIERS.values() for name in names))


def verify_all(directory: Path, chains: Chains) -> tuple[Results, dict[str, float]]:
    """Return all results, and each verifier's duration in seconds."""
    by_folder = {case.folder: case for case in chains}

    def measure(verifier: Verifier) -> tuple[Results, float]:
        start = time.monotonic()
        results = {
            (name, by_folder[folder]): " ".join(text.split())
            for name, folder, text in verifier(directory, chains)
        }
        return results, time.monotonic() - start

    results: Results = {}
    seconds: dict[str, float] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for names, (part, duration) in zip(VERIFIERS.values(), pool.map(measure, VERIFIERS), strict=True):
            results |= part
            seconds[" and ".join(names)] = duration
    missing = [(name, case) for name in NAMES for case in chains if (name, case) not in results]
    assert not missing, missing[:3]
    return results, seconds

"""`certlet sign *.csr`: each certificate beside its request; a retry signs only the rest."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from service import client, many
from service.client import ClientError, Signed, Unsigned, Wish
from service.pki import encoding
from tests import authorities, csrs, serving
from tests.serving import API_KEY, CERTLET, Server, certlet


def write_requests(directory: Path, number: int, start: int = 0) -> list[Path]:
    """So many requests, each of a key and name of its own."""
    paths = []
    for each in range(start, start + number):
        name = f"n{each}.example.com"
        builder = x509.CertificateSigningRequestBuilder().subject_name(authorities.name(name))
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        key = ec.generate_private_key(ec.SECP256R1())
        path = directory / f"n{each}.csr"
        path.write_bytes(csrs.pem(builder.sign(key, hashes.SHA256())))
        paths.append(path)
    return paths


def environ(url: str) -> dict[str, str]:
    return {"CERTLET_API_KEY": API_KEY, "CERTLET_URL": url}


def issued(path: Path) -> x509.Certificate:
    """The certificate beside a request, which is for its key, with the chain after it."""
    leaf, above = x509.load_pem_x509_certificates(many.beside(path).read_bytes())
    leaf.verify_directly_issued_by(above)
    assert leaf.public_key() == x509.load_pem_x509_csr(path.read_bytes()).public_key()
    return leaf


def intents(server: Server) -> int:
    return server.logged().count('"event":"intent"')


def test_each_certificate_is_written_beside_its_request(server: Server, tmp_path: Path) -> None:
    """Several requests are one batch; each certificate is that of its own request, and has the chain."""
    paths = write_requests(tmp_path, 7)
    shutil.copy(paths[0], tmp_path / "other.pem")
    (tmp_path / "raw.der").write_bytes(csrs.der(csrs.build()))
    names = [path.name for path in paths]
    run = certlet("sign", *names, "other.pem", "raw.der", cwd=tmp_path, env=environ(server.url))
    assert (run.returncode, run.stdout) == (0, b"9 signed, 0 there already, 0 not signed\n"), run.stderr
    for path in paths:
        assert issued(path).subject == authorities.name(path.stem + ".example.com")
    assert (tmp_path / "other.crt").exists()
    assert (
        run.stderr
        == b"raw.der: note: common name added to the subject alternative names: dns:a.example.com\n"
    )
    assert not list(tmp_path.glob("*.new"))


def test_one_request_goes_beside_if_asked(server: Server, tmp_path: Path) -> None:
    """`--beside` treats one request as several; without it stdout has the certificate, and no file appears."""
    (path,) = write_requests(tmp_path, 1)
    alone = certlet("sign", path.name, cwd=tmp_path, env=environ(server.url))
    assert alone.stdout.startswith(b"-----BEGIN CERTIFICATE-----")
    assert not many.beside(path).exists()
    run = certlet("sign", path.name, "--beside", "--profile", "peer", cwd=tmp_path, env=environ(server.url))
    assert run.stdout.startswith(b"1 signed")
    usages = issued(path).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert len(list(usages)) == 2


def test_a_bad_request_spoils_no_other(server: Server, tmp_path: Path) -> None:
    """What is refused, missing or no request is told by its file's name with every reason; the rest is signed."""
    paths = write_requests(tmp_path, 2)
    (tmp_path / "bad.csr").write_bytes(csrs.pem(csrs.build("localhost", ["dns:_"])))
    (tmp_path / "junk.csr").write_bytes(b"\xffjunk")
    (tmp_path / "own.pem").write_text("-----BEGIN PRIVATE KEY-----\nMC4=\n-----END PRIVATE KEY-----\n")
    names = ("n0.csr", "bad.csr", "no.csr", "junk.csr", "own.pem", "n1.csr")
    run = certlet("sign", *names, cwd=tmp_path, env=environ(server.url))
    assert (run.returncode, run.stdout) == (1, b"2 signed, 0 there already, 4 not signed\n")
    assert all(map(issued, paths))
    told = run.stderr.decode()
    assert "bad.csr: The request is refused for several reasons." in told
    assert "  subject_alt_name[0]: dns:_: the profile server permits no underscores" in told
    assert told.startswith("no.csr: No such file or directory\n")
    assert "own.pem: it holds a private key" in told
    (junk,) = (line for line in told.splitlines() if "no certification request in PEM" in line)
    assert junk.startswith(
        "junk.csr: The certification request is not acceptable. it is no certification request in PEM"
    )
    assert junk.endswith(" (422 badCSR, csr)")
    assert not list(tmp_path.glob("bad.crt"))


def test_a_retry_signs_only_the_rest(server: Server, tmp_path: Path) -> None:
    """A certificate that is there stays, octet for octet, and is not asked for again."""
    paths = write_requests(tmp_path, 3)
    names = [path.name for path in paths]
    certlet("sign", *names[:2], cwd=tmp_path, env=environ(server.url))
    kept, before = many.beside(paths[0]).read_bytes(), intents(server)
    again = certlet("sign", *names, cwd=tmp_path, env=environ(server.url))
    assert again.stdout == b"1 signed, 2 there already, 0 not signed\n"
    assert (many.beside(paths[0]).read_bytes(), intents(server)) == (kept, before + 1)
    assert b"may be of another" not in again.stderr
    other = certlet("sign", *names, "--validity", "1d", cwd=tmp_path, env=environ(server.url))
    assert other.stdout == b"0 signed, 3 there already, 0 not signed\n"
    assert other.stderr == (
        b"note: what is there already may be of another profile or validity (--force asks anew)\n"
    )
    forced = certlet("sign", *names, "--force", cwd=tmp_path, env=environ(server.url))
    assert forced.stdout == b"3 signed, 0 there already, 0 not signed\n"
    assert many.beside(paths[0]).read_bytes() != kept


def test_a_certificate_of_another_key_is_not_replaced(server: Server, tmp_path: Path) -> None:
    """What is there and is not the request's certificate stays, and is told; `--force` replaces it."""
    first, second = write_requests(tmp_path, 2)
    certlet("sign", first.name, "--beside", cwd=tmp_path, env=environ(server.url))
    shutil.copy(many.beside(first), many.beside(second))
    for there in (many.beside(first).read_bytes(), b"notes of somebody's"):
        many.beside(second).write_bytes(there)
        run = certlet("sign", first.name, second.name, cwd=tmp_path, env=environ(server.url))
        assert run.stdout == b"0 signed, 1 there already, 1 not signed\n"
        assert b"n1.crt is there, and is not its certificate (--force replaces it)" in run.stderr
        assert many.beside(second).read_bytes() == there
    certlet("sign", second.name, "--beside", "--force", cwd=tmp_path, env=environ(server.url))
    assert issued(second)


def test_what_has_ended_is_signed_again(server: Server, tmp_path: Path) -> None:
    """A request's certificate that is there and has ended is replaced."""
    (path,) = write_requests(tmp_path, 1)
    old = authorities.authority(now=authorities.NOW - timedelta(days=9)).issue(
        authorities.order(path.read_bytes(), validity="P1D")
    )
    many.beside(path).write_text(encoding.pem([old.certificate]))
    run = certlet("sign", path.name, "--beside", cwd=tmp_path, env=environ(server.url))
    assert run.stdout.startswith(b"1 signed")
    assert issued(path).serial_number != old.certificate.serial_number


def passing(listener: socket.socket, target: tuple[str, int], number: int) -> None:
    """Passes so many requests on, and hangs up on what comes after them."""
    for attempt in range(number + 1):
        connection, _ = listener.accept()
        with connection:
            if attempt == number:
                return
            with socket.create_connection(target) as onward:
                thread = threading.Thread(target=pump, args=(connection, onward))
                thread.start()
                pump(onward, connection)
                thread.join(30)


def pump(source: socket.socket, sink: socket.socket) -> None:
    while data := source.recv(65_536):
        sink.sendall(data)
    sink.shutdown(socket.SHUT_WR)


def test_what_was_signed_before_a_cut_off_stays(server: Server, tmp_path: Path) -> None:
    """Where the service is gone after a first batch, its certificates are there, and the same command
    signs the rest.
    """
    names = [path.name for path in write_requests(tmp_path, 150)]
    target = urlsplit(server.url)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(
            target=passing, args=(listener, (str(target.hostname), int(target.port or 0)), 1)
        )
        thread.start()
        process = subprocess.Popen(
            [*CERTLET, "sign", *names],
            cwd=tmp_path,
            env=serving.environ(**environ(url)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        thread.join(60)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, b"100 signed, 0 there already, 0 not signed, 50 left\n")
    assert b"no Certlet answers" in err
    assert len(list(tmp_path.glob("*.crt"))) == 100
    before = intents(server)
    again = certlet("sign", *names, cwd=tmp_path, env=environ(server.url))
    assert again.stdout == b"50 signed, 100 there already, 0 not signed\n"
    assert intents(server) == before + 50


def asker(answers: list[int]) -> many.Asker:
    """A service that issues as many of each batch as these numbers say, and has no time for the others."""
    authority = authorities.authority()

    def ask(wishes: Sequence[Wish]) -> list[Signed | Unsigned]:
        number = answers.pop(0)
        signed = [authority.issue(authorities.order(wish.csr.encode())) for wish in wishes[:number]]
        chain = encoding.pem(authorities.issuer().intermediates)
        return [Signed(encoding.pem([each.certificate]), chain, (), "") for each in signed] + [
            Unsigned("no time", is_passing=True) for _ in wishes[number:]
        ]

    return ask


def test_what_had_no_time_is_sent_again(tmp_path: Path) -> None:
    """A batch's passing refusals go into the next one; where nothing passes, it is told, and counted as left."""
    paths = write_requests(tmp_path, 5)
    signing = many.Signing(Wish(""), asker([2, 1, 2]))
    signing.run(paths)
    assert signing.tally == many.Tally(5, signed=5)
    assert all(map(issued, paths))
    signing = many.Signing(Wish(""), asker([2, 0]))
    with pytest.raises(ClientError, match="no time or room"):
        signing.run(paths, anew=True)
    assert signing.tally == many.Tally(5, signed=2)


def test_a_batch_is_no_larger_than_the_contract_takes(tmp_path: Path) -> None:
    """Large requests make small batches: no body passes 4 MB."""
    path = tmp_path / "large.csr"
    path.write_bytes(csrs.pem(csrs.build()).ljust(130_000, b"\n"))
    sizes = []

    def ask(wishes: Sequence[Wish]) -> list[Signed | Unsigned]:
        sizes.append(len(json.dumps(client.batch_body(wishes))))
        return [Unsigned("no", is_passing=False) for _ in wishes]

    signing = many.Signing(Wish(""), ask)
    signing.run([path] * 40)
    assert signing.tally.failed == 40
    assert len(sizes) > 1
    assert max(sizes) <= client.BATCH_BYTES < max(sizes) + 2 * 130_000


def test_the_usage_plan_s_moment_is_waited_for(tmp_path: Path) -> None:
    """A 429 that asks for a second is waited for; 30 batches in a row find none refused."""
    wish = Wish(csrs.pem(csrs.build()).decode())
    with serving.serving(tmp_path) as limited:
        for _ in range(30):
            assert isinstance(client.sign_batch(limited.url, API_KEY, [wish])[0], Signed)
        assert '"status":429' in limited.logged()


def test_a_terminal_sees_a_bar(server: Server, tmp_path: Path) -> None:
    """On a terminal a bar counts what is done; elsewhere there is none."""
    names = [path.name for path in write_requests(tmp_path, 120)]
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", 0) as terminal:
        process = subprocess.Popen(
            [*CERTLET, "sign", *names],
            cwd=tmp_path,
            env=serving.environ(**environ(server.url)),
            stdout=subprocess.PIPE,
            stderr=theirs,
        )
        os.close(theirs)
        out, _ = process.communicate(timeout=60)
        shown = terminal.read(4096).decode()
    assert out == b"120 signed, 0 there already, 0 not signed\n"
    assert re.findall(r"\[(#*)-*\] +(\d+)/120", shown) == [("", "0"), ("#" * 30, "100"), ("#" * 36, "120")]
    quiet = certlet("sign", *names, cwd=tmp_path, env=environ(server.url))
    assert quiet.stderr == b""


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("a.csr", "b.csr", "--out", "x"), "--out is for one request"),
        (("a.csr", "-"), "no certificate can be written beside it"),
        (("a.csr", "a.pem"), "a.pem: no certificate can be written beside it, as a.crt"),
        (("a.csr", "b.crt"), "b.crt: no certificate can be written beside it"),
    ],
)
def test_commands_that_make_no_sense(tmp_path: Path, arguments: tuple[str, ...], word: str) -> None:
    """Two certificates for one file, or one over its own request, are refused before anything is asked."""
    run = certlet("sign", *arguments, cwd=tmp_path, env={"CERTLET_API_KEY": API_KEY})
    assert (run.returncode, run.stdout) == (2, b"")
    assert word in run.stderr.decode()

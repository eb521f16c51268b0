"""`certlet sign *.csr`: each certificate next to its request; a repetition signs only the rest."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from service import client
from service.cli import batch
from service.client import ClientError, Signed, SignFailure, SignRequest
from service.pki import encoding
from tests import csrs, factories, servers
from tests.cli import certlet
from tests.servers import API_KEY, CERTLET, Server


def write_requests(directory: Path, number: int) -> list[Path]:
    """So many requests, each of a key and name of its own."""
    paths = []
    for index in range(number):
        name = f"n{index}.example.com"
        builder = x509.CertificateSigningRequestBuilder().subject_name(factories.distinguished_name(name))
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        path = directory / f"n{index}.csr"
        path.write_bytes(
            csrs.encode_pem(builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()))
        )
        paths.append(path)
    return paths


def issued(path: Path) -> x509.Certificate:
    """The certificate next to a request, which is for its key, with the chain after it."""
    leaf, above = x509.load_pem_x509_certificates(batch.certificate_path(path).read_bytes())
    leaf.verify_directly_issued_by(above)
    assert leaf.public_key() == x509.load_pem_x509_csr(path.read_bytes()).public_key()
    return leaf


def test_each_certificate_is_written_next_to_its_request(server: Server, tmp_path: Path) -> None:
    """Several requests are one batch; each certificate is that of its own request, and has the chain."""
    paths = write_requests(tmp_path, 7)
    shutil.copy(paths[0], tmp_path / "other.pem")
    (tmp_path / "raw.der").write_bytes(csrs.encode_der(csrs.build()))
    run = certlet("sign", *paths, "other.pem", "raw.der")
    assert (run.returncode, run.stdout) == (0, b"9 signed, 0 skipped, 0 failed\n"), run.stderr
    for path in paths:
        assert issued(path).subject == factories.distinguished_name(path.stem + ".example.com")
    assert (tmp_path / "other.crt").exists()
    note = b"note: common name added to the subject alternative names: dns:a.example.com"
    assert run.stderr == b"raw.der: " + note + b"\n"


def test_output_directory_gets_the_certificates(server: Server, tmp_path: Path) -> None:
    """`--output-dir` treats one request as several; without it stdout has the certificate, and no file appears."""
    (path,) = write_requests(tmp_path, 1)
    assert certlet("sign", path).stdout.startswith(b"-----BEGIN CERTIFICATE-----")
    assert not batch.certificate_path(path).exists()
    assert certlet("sign", path, "--output-dir", ".", "--profile", "peer").stdout.startswith(b"1 signed")
    usages = issued(path).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert len(list(usages)) == 2
    other = tmp_path / "out" / path.name
    other.parent.mkdir()
    other.write_bytes(path.read_bytes())
    for summary in (b"1 signed, 0 skipped", b"0 signed, 1 skipped"):
        assert certlet("sign", path, "--output-dir", "out").stdout.startswith(summary)
    assert issued(other) != issued(path)
    refused = certlet("sign", path, "--output-dir", "none")
    assert (refused.returncode, b"none" in refused.stderr) == (1, True), refused.stderr
    refused = certlet("sign", path, other, "--output-dir", "out")
    assert b"its certificate cannot be written to out/" in refused.stderr


def test_bad_request_spoils_no_other(server: Server, tmp_path: Path) -> None:
    """What is refused, missing or no request is told by its file's name with every reason; the rest is signed."""
    paths = write_requests(tmp_path, 2)
    (tmp_path / "bad.csr").write_bytes(csrs.encode_pem(csrs.build("localhost", ["dns:_"])))
    (tmp_path / "junk.csr").write_bytes(b"\xffjunk")
    (tmp_path / "own.pem").write_text("-----BEGIN PRIVATE KEY-----\nMC4=\n-----END PRIVATE KEY-----\n")
    run = certlet("sign", "n0.csr", "bad.csr", "no.csr", "junk.csr", "own.pem", "n1.csr")
    assert (run.returncode, run.stdout) == (1, b"2 signed, 0 skipped, 4 failed\n")
    assert all(map(issued, paths))
    lines = run.stderr.decode().splitlines()
    assert lines[:2] == [
        "no.csr: No such file or directory",
        "own.pem: it holds a private key, so nothing of it was sent: give the request alone",
    ]
    assert lines[2].startswith("bad.csr: Request refused: 2 problems, see errors")
    assert "  subject_alt_name[0]: dns:_: profile 'server' permits no underscores" in run.stderr.decode()
    assert lines[-1].startswith("junk.csr: Certificate signing request not accepted: ")
    assert not (tmp_path / "bad.crt").exists()


def test_repetition_signs_only_the_rest(server: Server, tmp_path: Path) -> None:
    """An existing certificate stays, octet for octet, and is not asked for again."""
    paths = write_requests(tmp_path, 3)
    certlet("sign", *paths[:2])
    first = batch.certificate_path(paths[0])
    content, before = first.read_bytes(), server.read_log().count('"event":"intent"')
    again = certlet("sign", *paths)
    assert (again.stdout, again.stderr) == (b"1 signed, 2 skipped, 0 failed\n", b"")
    assert first.read_bytes() == content
    assert server.read_log().count('"event":"intent"') == before + 1
    other = certlet("sign", *paths, "--validity", "1d")
    assert other.stdout == b"0 signed, 3 skipped, 0 failed\n"
    note = b"note: what is there already may be of another profile or validity (--force asks anew)\n"
    assert other.stderr == note
    forced = certlet("sign", *paths, "--force")
    assert forced.stdout == b"3 signed, 0 skipped, 0 failed\n"
    assert first.read_bytes() != content


def test_certificate_of_another_key_is_not_replaced(server: Server, tmp_path: Path) -> None:
    """What exists and is not the request's certificate stays, and is told; `--force` replaces it."""
    first, second = write_requests(tmp_path, 2)
    certlet("sign", first, "--output-dir=.")
    target = batch.certificate_path(second)
    for content in (batch.certificate_path(first).read_bytes(), b"notes of somebody's"):
        target.write_bytes(content)
        run = certlet("sign", first.name, second.name)
        assert run.stdout == b"0 signed, 1 skipped, 1 failed\n"
        assert run.stderr == b"n1.csr: n1.crt is there, and is not its certificate (--force replaces it)\n"
        assert target.read_bytes() == content
    certlet("sign", second, "--output-dir=.", "--force")
    assert issued(second)


def sign_batch(results: list[int | str]) -> batch.SignBatch:
    """A service that issues as many of each batch as a number says, and has no time for the others."""
    authority = factories.authority()

    def sign(requests: Sequence[SignRequest]) -> list[Signed | SignFailure]:
        number = results.pop(0)
        if isinstance(number, str):
            raise ClientError(number)
        signed = [
            authority.issue(factories.issuance_request(request.csr.encode())) for request in requests[:number]
        ]
        chain = encoding.encode_pem(factories.create_issuer().intermediates)
        return [Signed(encoding.encode_pem([each.certificate]), chain, (), "") for each in signed] + [
            SignFailure("no time", retryable=True) for _ in requests[number:]
        ]

    return sign


def test_what_had_no_time_is_sent_again(tmp_path: Path) -> None:
    """A batch's passing refusals go into the next one; where nothing passes, it is told, and counted as left."""
    paths = write_requests(tmp_path, 5)
    signer = batch.BatchSigner(SignRequest(""), sign_batch([2, 1, 2]))
    signer.run(paths)
    assert signer.progress == batch.Progress(5, signed=5)
    assert all(map(issued, paths))
    signer = batch.BatchSigner(SignRequest(""), sign_batch([2, 0]))
    with pytest.raises(ClientError, match="no time or room"):
        signer.run(paths, overwrite=True)
    assert signer.progress == batch.Progress(5, signed=2)


def test_what_was_signed_before_an_interruption_stays(tmp_path: Path) -> None:
    """If the service is gone after a first batch, its certificates are there, and a repetition signs the rest."""
    paths = write_requests(tmp_path, 150)
    signer = batch.BatchSigner(SignRequest(""), sign_batch([100, "gone"]))
    with pytest.raises(ClientError, match="gone"):
        signer.run(paths)
    assert signer.progress == batch.Progress(150, signed=100)
    assert len(list(tmp_path.glob("*.crt"))) == 100
    signer = batch.BatchSigner(SignRequest(""), sign_batch([50]))
    signer.run(paths)
    assert signer.progress == batch.Progress(150, signed=50, skipped=100)


def test_certificate_that_has_ended_is_replaced(tmp_path: Path) -> None:
    """A request whose certificate has ended is signed again."""
    (path,) = write_requests(tmp_path, 1)
    order = factories.issuance_request(path.read_bytes(), validity="P1D")
    old = factories.authority(now=factories.NOW - timedelta(days=9)).issue(order)
    batch.certificate_path(path).write_text(encoding.encode_pem([old.certificate]))
    batch.BatchSigner(SignRequest(""), sign_batch([1])).run([path])
    assert issued(path).serial_number != old.certificate.serial_number


def test_batch_is_no_larger_than_the_contract_takes(tmp_path: Path) -> None:
    """Large requests make small batches: no body passes 4 MB."""
    path = tmp_path / "large.csr"
    path.write_bytes(csrs.encode_pem(csrs.build()).ljust(130_000, b"\n"))
    sizes = []

    def refuse(requests: Sequence[SignRequest]) -> list[Signed | SignFailure]:
        sizes.append(len(json.dumps({"requests": [request.to_json() for request in requests]})))
        return [SignFailure("no", retryable=False) for _ in requests]

    signer = batch.BatchSigner(SignRequest(""), refuse)
    signer.run([path] * 40)
    assert signer.progress.failed == 40
    assert len(sizes) > 1
    assert max(sizes) <= client.BATCH_BYTES < max(sizes) + 2 * 130_000


def test_usage_plan_s_moment_is_waited_for(tmp_path: Path) -> None:
    """A 429 that asks for a second is waited for; 30 batches in a row find none refused."""
    request = SignRequest(csrs.encode_pem(csrs.build()).decode())
    with servers.certlet_server(tmp_path) as limited:
        for _ in range(30):
            assert isinstance(client.sign_batch(limited.url, API_KEY, [request])[0], Signed)
        assert '"status":429' in limited.read_log()


def test_terminal_sees_a_bar(server: Server, tmp_path: Path) -> None:
    """On a terminal a bar counts what is done, and what fails has a line of its own; elsewhere there is none."""
    names = [path.name for path in write_requests(tmp_path, 120)]
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", 0) as terminal:
        process = subprocess.Popen(
            [*CERTLET, "sign", *names, "none.csr"],
            cwd=tmp_path,
            env=servers.environ(CERTLET_API_KEY=API_KEY, CERTLET_URL=server.url),
            stdout=subprocess.PIPE,
            stderr=theirs,
        )
        os.close(theirs)
        out, _ = process.communicate(timeout=60)
        shown = terminal.read(4096).decode()
    assert out == b"120 signed, 0 skipped, 1 failed\n"
    assert all(number in shown for number in ("0/121", "1/121", "101/121", "121/121"))
    assert "\r\x1b[Knone.csr: No such file or directory\r\n" in shown
    assert certlet("sign", *names).stderr == b""

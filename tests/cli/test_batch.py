"""`certlet sign *.csr`: each certificate is written next to its CSR; a repetition signs only the rest."""

from __future__ import annotations

import errno
import json
import os
import pty
import re
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
from service.cli.terminal import CommandError
from service.client import ClientError, Credentials, Signed, SignFailure, SignRequest
from service.exit_status import ExitStatus
from service.pki import encoding
from tests import csrs, factories, servers
from tests.cli import certlet, read_to_end
from tests.servers import API_KEY, CERTLET, Server


def write_requests(directory: Path, number: int) -> list[Path]:
    """Write CSRs, each with another key and name."""
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


def load_issued(path: Path) -> x509.Certificate:
    """Load the certificate next to a CSR; verify its key and its chain."""
    leaf, issuer = x509.load_pem_x509_certificates(batch.certificate_path(path).read_bytes())
    leaf.verify_directly_issued_by(issuer)
    assert leaf.public_key() == x509.load_pem_x509_csr(path.read_bytes()).public_key()
    return leaf


def test_each_certificate_is_written_next_to_its_request(server: Server, tmp_path: Path) -> None:
    """Each certificate is for the key of its CSR, and has the chain."""
    paths = write_requests(tmp_path, 7)
    shutil.copy(paths[0], tmp_path / "other.pem")
    (tmp_path / "raw.der").write_bytes(csrs.encode_der(csrs.build()))
    run = certlet("sign", *paths, "other.pem", "raw.der")
    assert (run.returncode, run.stdout) == (0, b"9 signed, 0 skipped, 0 failed\n"), run.stderr
    for path in paths:
        assert load_issued(path).subject == factories.distinguished_name(path.stem + ".example.com")
    assert (tmp_path / "other.crt").exists()
    note = b"note: raw.der: common name added to the subject alternative names: dns:a.example.com\n"
    assert run.stderr == note
    quiet = certlet("sign", *paths, "raw.der", "--force", "--quiet")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, b"", b"")


def test_output_directory_gets_the_certificates(server: Server, tmp_path: Path) -> None:
    """With `--output-dir` a single CSR is signed into a file; without it, the certificate is on stdout."""
    (path,) = write_requests(tmp_path, 1)
    assert certlet("sign", path).stdout.startswith(b"-----BEGIN CERTIFICATE-----")
    assert not batch.certificate_path(path).exists()
    assert certlet("sign", path, "--output-dir", ".", "--profile", "peer").stdout.startswith(b"1 signed")
    usages = load_issued(path).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert len(list(usages)) == 2
    other = tmp_path / "out" / path.name
    other.parent.mkdir()
    other.write_bytes(path.read_bytes())
    for summary in (b"1 signed, 0 skipped", b"0 signed, 1 skipped"):
        assert certlet("sign", path, "--output-dir", "out").stdout.startswith(summary)
    assert load_issued(other) != load_issued(path)
    refused = certlet("sign", path, "--output-dir", "none")
    assert (refused.returncode, b"none" in refused.stderr) == (1, True), refused.stderr
    refused = certlet("sign", path, other, "--output-dir", "out")
    assert b"its certificate would be out/" in refused.stderr


def test_bad_csr_does_not_stop_the_others(server: Server, tmp_path: Path) -> None:
    """Each failure is reported with its file and every reason; the rest is signed."""
    paths = write_requests(tmp_path, 2)
    (tmp_path / "bad.csr").write_bytes(csrs.encode_pem(csrs.build("localhost", ["dns:_"])))
    (tmp_path / "junk.csr").write_bytes(b"\xffjunk")
    (tmp_path / "own.pem").write_text("-----BEGIN PRIVATE KEY-----\nMC4=\n-----END PRIVATE KEY-----\n")
    run = certlet("sign", "n0.csr", "bad.csr", "no.csr", "junk.csr", "own.pem", ".", "n1.csr")
    assert (run.returncode, run.stdout) == (1, b"2 signed, 0 skipped, 5 failed\n")
    assert all(map(load_issued, paths))
    lines = run.stderr.decode().splitlines()
    assert lines[:3] == [
        "no.csr: No such file or directory",
        "own.pem contains a private key and was not sent: pass a file with only the CSR",
        ".: Is a directory",
    ]
    assert lines[3].startswith("bad.csr: Request refused: 2 problems, see errors")
    assert "  subject_alt_name[0]: dns:_: profile 'server' permits no underscores" in run.stderr.decode()
    assert lines[-1].startswith("junk.csr: Certificate signing request not accepted: ")
    assert not (tmp_path / "bad.crt").exists()


NOT_PERMITTED = SignFailure("profile 'server' is not for this caller", ExitStatus.NOT_PERMITTED)
DOWN = ClientError("connection refused", ExitStatus.UNREACHABLE)


@pytest.mark.parametrize(
    ("files", "result", "status"),
    [
        (("n0.csr", "n1.csr"), NOT_PERMITTED, 4),
        (("n0.csr", "none.csr"), NOT_PERMITTED, 1),
        (("n0.csr", "secret.csr"), NOT_PERMITTED, 4),
        (("n0.csr", "n1.csr"), SignFailure("refused"), 1),
        (("n0.csr", "n1.csr"), SignFailure("busy", ExitStatus.TRY_LATER), 3),
        (("n0.csr", "none.csr"), SignFailure("busy", ExitStatus.TRY_LATER), 1),
        (("n0.csr", "n1.csr"), DOWN, 5),
        (("n0.csr", "none.csr"), DOWN, 1),
    ],
)
def test_exit_status_is_that_of_every_failure(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: tuple[str, ...],
    result: SignFailure | ClientError,
    status: int,
) -> None:
    """If the failures differ, it is 1."""
    write_requests(tmp_path, 2)
    read_request, error = batch.read_request, PermissionError(errno.EACCES, "Permission denied")

    def read(path: Path) -> str:
        if path.name == "secret.csr":  # root, as which tests may run, may read every file
            raise CommandError(str(path)) from error
        return read_request(path)

    def sign(_service: object, _caller: object, requests: Sequence[SignRequest]) -> list[SignFailure]:
        if isinstance(result, ClientError):
            raise result
        return [result] * len(requests)

    monkeypatch.setattr(batch, "read_request", read)
    monkeypatch.setattr(client, "sign_batch", sign)
    assert certlet("sign", *files, "--api-key", "x").returncode == status


def test_repetition_signs_only_the_rest(server: Server, tmp_path: Path) -> None:
    """An existing certificate stays unchanged, and is not requested again."""
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
    note = b"note: skipped certificates may have another profile or validity (--force replaces them)\n"
    assert other.stderr == note
    forced = certlet("sign", *paths, "--force")
    assert forced.stdout == b"3 signed, 0 skipped, 0 failed\n"
    assert first.read_bytes() != content


def test_certificate_of_another_key_is_not_replaced(server: Server, tmp_path: Path) -> None:
    """Another file at the target stays unchanged and is reported; `--force` overwrites it."""
    first, second = write_requests(tmp_path, 2)
    certlet("sign", first, "--output-dir=.")
    target = batch.certificate_path(second)
    for content in (batch.certificate_path(first).read_bytes(), b"notes of a user"):
        target.write_bytes(content)
        run = certlet("sign", first.name, second.name)
        assert run.stdout == b"0 signed, 1 skipped, 1 failed\n"
        assert (
            run.stderr
            == b"n1.csr: n1.crt exists and is not the certificate of this CSR (--force overwrites it)\n"
        )
        assert target.read_bytes() == content
    certlet("sign", second, "--output-dir=.", "--force")
    assert load_issued(second)


def sign_batch(results: list[int | str]) -> batch.SignBatch:
    """A service that issues this number of each batch, and refuses the rest as busy; a text is an error."""
    authority = factories.authority()

    def sign(requests: Sequence[SignRequest]) -> list[Signed | SignFailure]:
        number = results.pop(0)
        if isinstance(number, str):
            raise ClientError(number)
        signed = [
            authority.issue(factories.issuance_request(request.csr.encode())) for request in requests[:number]
        ]
        chain = encoding.encode_pem(factories.create_issuer().intermediates)
        return [Signed(encoding.encode_pem([issued.certificate]), chain, (), "") for issued in signed] + [
            SignFailure("no time", ExitStatus.TRY_LATER) for _ in requests[number:]
        ]

    return sign


def test_certificate_for_another_key_is_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is a failure of its CSR only."""
    first, second = write_requests(tmp_path, 2)
    sign, request = sign_batch([2]), SignRequest(first.read_text())
    signer = batch.BatchSigner(SignRequest(""), lambda _: sign([request, request]))
    signer.run([first, second])
    assert signer.progress == batch.Progress(2, signed=1, failures=[ExitStatus.REFUSED])
    assert capsys.readouterr().err == f"{second}: the service returned a certificate for another key\n"
    assert load_issued(first)
    assert not batch.certificate_path(second).exists()


def test_retryable_refusal_is_sent_again(tmp_path: Path) -> None:
    """Retryable refusals go into the next batch; if all are refused, the command fails, and they count as left."""
    paths = write_requests(tmp_path, 5)
    signer = batch.BatchSigner(SignRequest(""), sign_batch([2, 1, 2]))
    signer.run(paths)
    assert signer.progress == batch.Progress(5, signed=5)
    assert all(map(load_issued, paths))
    signer = batch.BatchSigner(SignRequest(""), sign_batch([2, 0]))
    with pytest.raises(ClientError, match="too busy"):
        signer.run(paths, overwrite=True)
    assert signer.progress == batch.Progress(5, signed=2)


def test_certificates_from_before_an_interruption_stay(tmp_path: Path) -> None:
    """If the service fails after the first batch, that batch is written, and a repetition signs the rest."""
    paths = write_requests(tmp_path, 150)
    signer = batch.BatchSigner(SignRequest(""), sign_batch([100, "gone"]))
    with pytest.raises(ClientError, match="gone"):
        signer.run(paths)
    assert signer.progress == batch.Progress(150, signed=100)
    assert len(list(tmp_path.glob("*.crt"))) == 100
    signer = batch.BatchSigner(SignRequest(""), sign_batch([50]))
    signer.run(paths)
    assert signer.progress == batch.Progress(150, signed=50, skipped=100)


def test_expired_certificate_is_replaced(tmp_path: Path) -> None:
    """A CSR with an expired certificate is signed again."""
    (path,) = write_requests(tmp_path, 1)
    request = factories.issuance_request(path.read_bytes(), validity="P1D")
    old = factories.authority(now=factories.NOW - timedelta(days=9)).issue(request)
    batch.certificate_path(path).write_text(encoding.encode_pem([old.certificate]))
    batch.BatchSigner(SignRequest(""), sign_batch([1])).run([path])
    assert load_issued(path).serial_number != old.certificate.serial_number


def test_batch_is_within_the_size_limit(tmp_path: Path) -> None:
    """Large CSRs are sent in small batches: no body exceeds 4 MiB."""
    path = tmp_path / "large.csr"
    path.write_bytes(csrs.encode_pem(csrs.build()).ljust(130_000, b"\n"))
    sizes = []

    def refuse(requests: Sequence[SignRequest]) -> list[Signed | SignFailure]:
        sizes.append(len(json.dumps({"requests": [request.to_json() for request in requests]})))
        return [SignFailure("no") for _ in requests]

    signer = batch.BatchSigner(SignRequest(""), refuse)
    signer.run([path] * 40)
    assert signer.progress.failed == 40
    assert len(sizes) > 1
    assert max(sizes) <= client.MAX_BATCH_BYTES < max(sizes) + 2 * 130_000


def test_retry_after_of_the_usage_plan_is_honoured(tmp_path: Path) -> None:
    """The client waits for the second that a 429 requests, so that none of 30 batches fails."""
    request = SignRequest(csrs.encode_pem(csrs.build()).decode())
    with servers.certlet_server(tmp_path) as limited:
        for _ in range(30):
            assert isinstance(
                client.sign_batch(client.Service(limited.url), Credentials(API_KEY), [request])[0], Signed
            )
        assert '"status":429' in limited.read_log()


def test_progress_bar_is_shown_on_a_terminal(server: Server, tmp_path: Path) -> None:
    """On a terminal a progress bar counts results, and errors have their own lines; elsewhere there is no bar."""
    names = [path.name for path in write_requests(tmp_path, 120)]

    def sign_at_terminal(*arguments: str) -> tuple[bytes, str]:
        parent_end, child_end = pty.openpty()
        with os.fdopen(parent_end, "rb", 0) as terminal:
            process = subprocess.Popen(
                [*CERTLET, "sign", *names, *arguments],
                cwd=tmp_path,
                env=servers.environ(CERTLET_API_KEY=API_KEY, CERTLET_URL=server.url, FORCE_COLOR="1"),
                stdout=subprocess.PIPE,
                stderr=child_end,
            )
            os.close(child_end)
            out, _ = process.communicate(timeout=60)
            return out, read_to_end(terminal).decode()

    out, output = sign_at_terminal("none.csr")
    assert out == b"120 signed, 0 skipped, 1 failed\n"
    assert all(number in output for number in ("0/121", "1/121", "101/121", "121/121"))
    assert not re.search(r"\x1b\[[0-9;]*m", output)  # colors
    assert "\r\x1b[Knone.csr: No such file or directory\r\n" in output
    assert certlet("sign", *names).stderr == b""
    assert sign_at_terminal("--quiet") == (b"", "")

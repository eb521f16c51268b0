"""`certlet sign *.csr`: sign several CSRs in batches, each into its own file; a repetition resumes."""

from __future__ import annotations

import base64
import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeAlias

import click
from cryptography import x509

from service import atomic_write, exit_status
from service.cli.terminal import CommandError, describe_os_error, is_quiet, note, warn
from service.client import MAX_BATCH_BYTES, ClientError, Signed, SignFailure, SignRequest
from service.exit_status import ExitStatus
from service.pki import certificate_reader, csr, input_formats
from service.pki.errors import IssuanceError

MAX_BATCH: Final = 100  # requests; the progress bar moves after each batch
_ENVELOPE: Final = len('{"requests": []}')

_Job: TypeAlias = tuple[Path, SignRequest]
SignBatch: TypeAlias = Callable[[Sequence[SignRequest]], list[Signed | SignFailure]]


@dataclass
class Progress:
    """The number of requests, by result; of those that failed, their exit statuses."""

    total: int = 0
    signed: int = 0
    skipped: int = 0
    failures: list[ExitStatus] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """The number of requests that failed."""
        return len(self.failures)

    @property
    def done(self) -> int:
        """The number of requests with a final result."""
        return self.signed + self.skipped + self.failed


def certificate_path(path: Path, output_dir: Path | None = None) -> Path:
    """Return the path of the certificate for a CSR: in `output_dir`, or next to the CSR."""
    return (output_dir or path.parent) / f"{path.stem}.crt"  # with_suffix() raises ValueError for `.`


def read_request(path: Path) -> str:
    """Read the CSR in a file (`-`: stdin) for a JSON body: text unchanged, other octets in base64.

    Raises:
        CommandError: the file cannot be read, or contains a private key.
    """
    size = csr.MAX_TEXT_BYTES + 1  # one byte too many: the service reports the limit
    try:
        with click.open_file(str(path), "rb") as file:
            data = file.read(size)
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from error
    if input_formats.contains_private_key(data):
        raise CommandError(f"{path} contains a private key and was not sent: pass a file with only the CSR")
    try:
        return str(data, "utf-8", "replace" if b"-----BEGIN " in data else "strict")
    except UnicodeDecodeError:
        return base64.b64encode(data).decode()


@dataclass
class BatchSigner:
    """Gets a certificate for each of several CSRs, and reports failures on stderr.

    `request` has the options of all requests, without a CSR. `output_dir` is that of `certificate_path`.
    """

    request: SignRequest
    sign_batch: SignBatch
    output_dir: Path | None = None
    progress: Progress = field(default_factory=Progress)

    def run(self, paths: Sequence[Path], *, overwrite: bool = False) -> None:
        """Sign the CSRs in these files; overwrite existing certificates if `overwrite`.

        Raises:
            ClientError: a whole batch was refused, or the service cannot be reached. Files that were written
                before remain.
        """
        self.progress = Progress(len(paths))
        hidden = is_quiet() or not sys.stderr.isatty()
        with click.progressbar(
            length=len(paths), file=sys.stderr, hidden=hidden, show_pos=True, show_eta=False
        ) as bar:
            waiting = [job for path in paths if (job := self._create_job(path, overwrite=overwrite))]
            bar.update(self.progress.done)
            while waiting:
                batch = list(_first_batch(waiting))
                retryable = [
                    job for job, is_done in zip(batch, self._sign(batch), strict=True) if not is_done
                ]
                if len(retryable) == len(batch):
                    raise ClientError(
                        "the service is too busy for any request of the batch: try again later",
                        ExitStatus.TRY_LATER,
                    )
                waiting = retryable + waiting[len(batch) :]
                bar.update(len(batch) - len(retryable))

    def _create_job(self, path: Path, *, overwrite: bool) -> _Job | None:
        """Create the job for a file; None, after counting the result, if there is nothing to sign."""
        target = certificate_path(path, self.output_dir)
        status = ExitStatus.REFUSED
        problem = f"{path}: {target} exists and is not the certificate of this CSR (--force overwrites it)"
        try:
            request = replace(self.request, csr=read_request(path))
            atomic_write.verify_writable(target)
            if overwrite or not target.exists():
                return path, request
            certificate = certificate_reader.parse_pem(target.read_bytes())
            if certificate.public_key() == csr.parse(request.csr.encode("utf-8", "replace")).public_key:
                if certificate.not_valid_after_utc < datetime.now(UTC):
                    return path, request
                self.progress.skipped += 1
                return None
        except CommandError as error:
            problem, status = str(error), exit_status.of_error(error)
        except OSError as error:
            status = exit_status.of_error(error)
            problem = f"{path}: {describe_os_error(error, path)}"
        except (ValueError, IssuanceError):  # not a certificate, or not a CSR
            pass
        self._fail(problem, status)
        return None

    def _sign(self, batch: Sequence[_Job]) -> Iterator[bool]:
        """Send a batch, and yield for each request whether its result is final."""
        results = self.sign_batch([request for _, request in batch])
        for (path, request), result in zip(batch, results, strict=True):
            if isinstance(result, Signed):
                self._write(path, request, result)
            elif not result.retryable:
                self._fail(f"{path}: {result.reason}", result.exit_status)
            yield isinstance(result, Signed) or not result.retryable

    def _write(self, path: Path, request: SignRequest, signed: Signed) -> None:
        try:
            parse_signed(request, signed)
            write_certificate(certificate_path(path, self.output_dir), signed)
        except CommandError as error:
            self._fail(f"{path}: {error}", exit_status.of_error(error))
            return
        self.progress.signed += 1
        for text in signed.notes:
            _erase_progress_bar()
            note(f"{path}: {text}")

    def _fail(self, message: str, status: ExitStatus) -> None:
        self.progress.failures.append(status)
        _erase_progress_bar()
        warn(message)


def _erase_progress_bar() -> None:
    if sys.stderr.isatty():
        click.echo("\r\x1b[K", nl=False, err=True)


def _first_batch(jobs: Sequence[_Job]) -> Iterator[_Job]:
    """Yield the first jobs, up to the limits of a batch."""
    bytes_left = MAX_BATCH_BYTES - _ENVELOPE
    for path, request in jobs[:MAX_BATCH]:
        bytes_left -= len(json.dumps(request.to_json())) + len(", ")
        if bytes_left < 0:
            return
        yield path, request


def parse_signed(request: SignRequest, signed: Signed) -> x509.Certificate:
    """Parse the certificate from the service.

    Raises:
        CommandError: it is malformed, or for another key than that of the CSR.
    """
    try:
        certificate = certificate_reader.parse_pem(signed.crt_pem.encode())
    except ValueError as error:
        raise CommandError(f"the service returned a malformed certificate: {error}") from error
    key = None  # None: not known, so not compared
    with contextlib.suppress(IssuanceError):  # a later version of the service may read more CSRs
        key = csr.parse(request.csr.encode("utf-8", "replace")).public_key
    if key is not None and key != certificate.public_key():
        raise CommandError("the service returned a certificate for another key")
    return certificate


def write_certificate(path: Path, signed: Signed) -> None:
    """Write a certificate and its chain atomically.

    Raises:
        CommandError: the file cannot be written. The certificate is printed on stdout instead.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe, or a terminal
            path.write_text(signed.pem, encoding="ascii")
        else:
            atomic_write.write_atomically(path, signed.pem.encode("ascii"), 0o644)
    except OSError as error:
        sys.stdout.write(signed.pem)
        raise CommandError(
            f"{path}: {error.strerror}; the certificate was issued and printed on stdout"
        ) from error

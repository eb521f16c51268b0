"""`certlet sign *.csr`: each certificate in a file of its own, in batches; a repetition signs the rest."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeAlias

import click

from service import atomic_write
from service.cli.terminal import CommandError, os_error, warn
from service.client import BATCH_BYTES, ClientError, Signed, SignFailure, SignRequest
from service.pki import certificate_reader, csr, pem
from service.pki.errors import IssuanceError

AT_ONCE: Final = 100  # of a batch, so that something is seen to happen
_ENVELOPE: Final = len('{"requests": []}')

_Job: TypeAlias = tuple[Path, SignRequest]
SignBatch: TypeAlias = Callable[[Sequence[SignRequest]], list[Signed | SignFailure]]


@dataclass
class Progress:
    """How many requests there are, and what became of them."""

    total: int = 0
    signed: int = 0
    skipped: int = 0
    failed: int = 0

    @property
    def done(self) -> int:
        """How many are not sent any more."""
        return self.signed + self.skipped + self.failed


def certificate_path(path: Path, output_dir: Path | None = None) -> Path:
    """Where the certificate of the request in a file goes: next to it, if no directory is given."""
    target = path.with_suffix(".crt")
    return output_dir / target.name if output_dir else target


def read_request(path: Path) -> str:
    """The request in a file (stdin for `-`) as JSON carries it: text as it is, DER in base64.

    Raises:
        CommandError: the file cannot be read, or a private key is in it, which nobody else may see.
    """
    size = csr.MAX_TEXT_BYTES + 1  # one more than any Certlet takes: it says so itself
    try:
        with click.open_file(str(path), "rb") as file:
            data = file.read(size)
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from error
    if csr.contains_private_key(data):
        raise CommandError(
            f"{path}: it holds a private key, so nothing of it was sent: give the request alone"
        )
    return base64.b64encode(data).decode() if pem.is_der(data) else data.decode("utf-8", "replace")


@dataclass
class BatchSigner:
    """Signs the requests of several files, each into a file of its own, and says on stderr what fails.

    `request` is what every request has in common: all but its CSR. `output_dir` is as in certificate_path.
    """

    request: SignRequest
    sign_batch: SignBatch
    output_dir: Path | None = None
    progress: Progress = field(default_factory=Progress)

    def run(self, paths: Sequence[Path], *, overwrite: bool = False) -> None:
        """Sign the requests in these files, and replace existing certificates if `overwrite`.

        Raises:
            ClientError: a batch was refused as a whole, or there is no service; what was written stays.
        """
        self.progress = Progress(len(paths))
        hidden = not sys.stderr.isatty()
        with click.progressbar(
            length=len(paths), file=sys.stderr, hidden=hidden, show_pos=True, show_eta=False
        ) as bar:
            waiting = [job for path in paths if (job := self._job(path, overwrite=overwrite))]
            bar.update(self.progress.done)
            while waiting:
                batch = list(_first_batch(waiting))
                left = [job for job, is_done in zip(batch, self._sign(batch), strict=True) if not is_done]
                if len(left) == len(batch):
                    raise ClientError("the service had no time or room for any request: try again")
                waiting = left + waiting[len(batch) :]
                bar.update(len(batch) - len(left))

    def _job(self, path: Path, *, overwrite: bool) -> _Job | None:
        """What is to be done for a file; None, and counted, if it is nothing."""
        target = certificate_path(path, self.output_dir)
        problem = f"{path}: {target} is there, and is not its certificate (--force replaces it)"
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
            problem = str(error)
        except OSError as error:
            problem = f"{path}: {os_error(error, path)}"
        except (ValueError, IssuanceError):  # no certificate, or no request: none that belongs to the other
            pass
        self._fail(problem)
        return None

    def _sign(self, batch: Sequence[_Job]) -> Iterator[bool]:
        """Whether each request of a batch is done with."""
        results = self.sign_batch([request for _, request in batch])
        for (path, _), result in zip(batch, results, strict=True):
            if isinstance(result, Signed):
                self._write(path, result)
            elif not result.retryable:
                self._fail(f"{path}: {result.reason}")
            yield isinstance(result, Signed) or not result.retryable

    def _write(self, path: Path, signed: Signed) -> None:
        try:
            write_certificate(certificate_path(path, self.output_dir), signed)
        except CommandError as error:
            self._fail(f"{path}: {error}")
            return
        self.progress.signed += 1
        for note in signed.notes:
            _warn(f"{path}: note: {note}")

    def _fail(self, message: str) -> None:
        self.progress.failed += 1
        _warn(message)


def _warn(message: str) -> None:
    if sys.stderr.isatty():  # where the bar stands in this line
        click.echo("\r\x1b[K", nl=False, err=True)
    warn(message)


def _first_batch(jobs: Sequence[_Job]) -> Iterator[_Job]:
    """The first of the jobs, as many as one batch takes."""
    room = BATCH_BYTES - _ENVELOPE
    for path, request in jobs[:AT_ONCE]:
        room -= len(json.dumps(request.to_json())) + len(", ")
        if room < 0:
            return
        yield path, request


def write_certificate(path: Path, signed: Signed) -> None:
    """Write a certificate, and the chain after it: the whole file, or none.

    Raises:
        CommandError: it cannot be written. It is on stdout instead, since it is the only copy.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe, or a terminal
            path.write_text(signed.pem, encoding="ascii")
        else:
            atomic_write.write_atomically(path, signed.pem.encode("ascii"), 0o644)
    except OSError as error:
        sys.stdout.write(signed.pem)
        raise CommandError(
            f"{path}: {error.strerror}; the certificate was signed, and is on stdout"
        ) from error

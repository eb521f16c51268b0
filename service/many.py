"""`certlet sign *.csr`: each certificate beside its request, in batches; what is there already is kept.

A certificate is written as soon as it is here, whole, so that after a cut-off the same command signs only
the rest.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click
from cryptography import x509

from service import client, files
from service.pki import csr, keys, pem
from service.pki.errors import IssuanceError, printable

AT_ONCE: Final = 100  # of a batch, so that something is seen to happen
_ENVELOPE: Final = len('{"requests": []}')

Asker = Callable[[Sequence[client.Wish]], list[client.Signed | client.Unsigned]]
"""Has a batch signed: what became of each."""


@dataclass
class Tally:
    """How many requests there are, and what became of them."""

    total: int
    signed: int = 0
    present: int = 0
    failed: int = 0

    @property
    def done(self) -> int:
        """How many are not to be asked for any more."""
        return self.signed + self.present + self.failed


@dataclass(frozen=True)
class _Job:
    path: Path
    wish: client.Wish

    @property
    def target(self) -> Path:
        return beside(self.path)


def beside(path: Path) -> Path:
    """Where the certificate of the request in a file goes."""
    return path.with_suffix(".crt")


def read(path: Path) -> str:
    """The request in a file (stdin for `-`) as JSON carries it: text as it is, DER in base64.

    Raises:
        OSError: the file cannot be read.
        ClientError: a private key is in it, which is nobody else's to see.
    """
    if str(path) == "-":
        data = sys.stdin.buffer.read(csr.MAX_TEXT_BYTES + 1)
    else:
        with path.open("rb") as file:
            data = file.read(csr.MAX_TEXT_BYTES + 1)  # one more than any Certlet takes: it says so itself
    if csr.holds_private_key(data):
        raise client.ClientError("it holds a private key, so nothing of it was sent: give the request alone")
    return base64.b64encode(data).decode() if pem.is_der(data) else data.decode("utf-8", "replace")


class Signing:
    """The requests of several files, on their way to certificates."""

    def __init__(self, wish: client.Wish, ask: Asker) -> None:
        """Begin with no file.

        Args:
            wish: what is asked for each request, but for the request itself.
            ask: has a batch signed.
        """
        self._wish = wish
        self._ask = ask
        self.tally = Tally(0)

    def run(self, paths: Sequence[Path], *, anew: bool = False) -> None:
        """Sign the requests in these files, each into a file beside it; say on stderr what is to be known.

        Args:
            paths: the files.
            anew: whether to replace a certificate that is there.

        Raises:
            ClientError: a batch was refused as a whole, or no service answers; what was written before it
                stays.
        """
        self.tally = Tally(len(paths))
        with click.progressbar(
            length=len(paths), show_pos=True, file=sys.stderr, hidden=not sys.stderr.isatty()
        ) as bar:
            waiting = [job for path in paths if (job := self._job(path, anew=anew))]
            bar.update(self.tally.done)
            while waiting:
                batch = list(_fitting(waiting))
                left = [job for job, is_done in zip(batch, self._batch(batch), strict=True) if not is_done]
                if len(left) == len(batch):
                    raise client.ClientError("the service had no time or room for any request: try again")
                waiting = left + waiting[len(batch) :]
                bar.update(self.tally.done - bar.pos)

    def _job(self, path: Path, *, anew: bool) -> _Job | None:
        """What is to be done for a file; None, and counted, if it is nothing."""
        try:
            wish = replace(self._wish, csr=read(path))
            job = _Job(path, wish)
            files.verify_writable(job.target)
            if anew or not job.target.exists():
                return job
            certificate = _certificate(job.target)
        except client.ClientError as error:
            self._fail(path, str(error))
            return None
        except OSError as error:
            where = f"{error.filename}: " if error.filename != str(path) else ""
            self._fail(path, f"{where}{error.strerror}")
            return None
        if not certificate or keys.subject_public_key_info(certificate.public_key()) != _public_key(wish.csr):
            self._fail(path, f"{job.target} is there, and is not its certificate (--force replaces it)")
            return None
        if certificate.not_valid_after_utc < datetime.now(UTC):
            return job
        self.tally.present += 1
        return None

    def _batch(self, batch: Sequence[_Job]) -> Iterator[bool]:
        """Whether each of a batch is done with."""
        for job, outcome in zip(batch, self._ask([job.wish for job in batch]), strict=True):
            if isinstance(outcome, client.Unsigned):
                if outcome.is_passing:
                    yield False
                    continue
                self._fail(job.path, outcome.why)
            else:
                self._keep(job, outcome)
            yield True

    def _keep(self, job: _Job, signed: client.Signed) -> None:
        try:
            keep(job.target, signed)
        except OSError as error:
            self._fail(job.path, lost(job.target, signed, error))
            return
        self.tally.signed += 1
        for note in signed.notes:
            self._tell(f"{job.path}: note: {note}")

    def _fail(self, path: Path, why: str) -> None:
        self.tally.failed += 1
        self._tell(f"{path}: {why}")

    def _tell(self, line: str) -> None:
        shown = "\n".join(map(printable, line.split("\n")))
        click.echo(f"\r\x1b[K{shown}" if sys.stderr.isatty() else shown, err=True)  # over the bar


def _fitting(jobs: Sequence[_Job]) -> Iterator[_Job]:
    """The first of the jobs, as many as one batch takes."""
    room = client.BATCH_BYTES - _ENVELOPE
    for job in jobs[:AT_ONCE]:
        room -= len(json.dumps(job.wish.stated())) + len(", ")
        if room < 0:
            return
        yield job


def _public_key(text: str) -> bytes | None:
    """The SubjectPublicKeyInfo of a request, DER; None if it is none, which the service says better."""
    with suppress(IssuanceError):
        return csr.load(text.encode("utf-8", "replace")).subject_public_key_info
    return None


def _certificate(path: Path) -> x509.Certificate | None:
    """The first certificate in a PEM file; None if it holds none."""
    data = path.read_bytes()
    with suppress(ValueError):
        return x509.load_pem_x509_certificate(data)
    return None


def keep(path: Path, signed: client.Signed) -> None:
    """Write a certificate, and the chain after it: the whole file, or none.

    Raises:
        OSError: it cannot be written.
    """
    files.write_atomically(path, (signed.crt_pem + signed.chain_pem).encode("ascii"), 0o644)


def lost(path: Path, signed: client.Signed, error: OSError) -> str:
    """Put a certificate that could not be written on stdout, for there is no other; and say why."""
    sys.stdout.write(signed.crt_pem + signed.chain_pem)
    return f"{path}: {error.strerror}; the certificate was signed, and is on stdout"

"""`certlet sign`: get certificates for existing CSRs."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import click

from service import atomic_write as output
from service import client, exit_status
from service.cli import batch, inspection, options
from service.cli.input_files import DIRECTORY, FILE
from service.cli.terminal import Command, CommandError, is_json, json_option, note, report, warn
from service.pki import input_formats


@click.command(cls=Command, uses_service=True, epilog="Example: certlet sign my.csr --out my.crt")
@click.argument("files", nargs=-1, required=True, type=FILE, metavar="FILE...")
@options.service_options
@options.profile_option("chosen by the service")
@options.validity_options
@click.option("--dry-run", is_flag=True, help="Describe the certificate without issuing it.")
@click.option(
    "--out",
    type=FILE,
    show_default="stdout",
    help="Write the certificate of a single CSR to this file.",
)
@click.option(
    "--output-dir",
    type=DIRECTORY,
    show_default="that of each CSR, if there are several",
    help="Write NAME.crt for each NAME.csr to this directory.",
)
@options.force_option
@json_option
def sign(
    *,
    files: tuple[Path, ...],
    service: client.Service,
    credentials: Callable[[], client.Credentials],
    dry_run: bool,
    out: Path | None,
    output_dir: Path | None,
    force: bool,
    **members: str | None,
) -> int:
    """Get certificates for certificate signing requests (CSRs).

    FILE is a CSR in PEM or DER; - is stdin. With several FILEs, or with --output-dir, existing certificates
    are not replaced.
    """
    options.forbid_together("--validity", "--not-after")
    options.forbid_together("--out", "--output-dir")
    caller = credentials()
    request = client.SignRequest("", **members)
    if dry_run:
        if out or output_dir:
            raise click.UsageError("--dry-run writes no file: omit --out and --output-dir")
        return _dry_run(files, functools.partial(client.dry_run, service, caller), request)
    if output_dir or len(files) > 1:
        if out:
            raise click.UsageError("--out accepts only one CSR: use --output-dir for several")
        signer = batch.BatchSigner(request, functools.partial(client.sign_batch, service, caller), output_dir)
        return _sign_batch(files, signer, overwrite=force)
    (path,) = files
    if out:
        _verify_out(out, overwrite=force)
    request = replace(request, csr=batch.read_request(path))
    signed = client.sign(service, caller, request)
    certificate = batch.parse_signed(request, signed)
    for text in signed.notes:
        note(text)
    if out:
        batch.write_certificate(out, signed)
    result = {"certificate": str(out)} if out else {"crt_pem": signed.crt_pem, "chain_pem": signed.chain_pem}
    if is_json():
        facts = {**result, **inspection.certificate_facts(certificate), "notes": signed.notes}
        report(facts, result="" if out else signed.pem)
    elif out:
        report({}, f"Signed    {out}, valid until {signed.not_after}")
    else:
        sys.stdout.write(signed.pem)
    return 0


def _verify_out(out: Path, *, overwrite: bool) -> None:
    """Check before signing that `out` is writable, and would overwrite nothing but a certificate."""
    if out.exists() and not (out.is_file() or out.is_dir()):  # a pipe, or a terminal
        return
    output.verify_writable(out)
    if not out.exists():
        return
    existing = out.read_bytes()
    if b"BEGIN CERTIFICATE-----" not in existing or input_formats.contains_private_key(existing):
        raise CommandError(f"{out} exists and is not just a certificate; not overwritten")
    if not overwrite:
        raise CommandError(f"{out} exists; not overwritten (--force overwrites it)")


def _dry_run(
    paths: Sequence[Path], dry_run: Callable[[client.SignRequest], client.DryRun], request: client.SignRequest
) -> int:
    failures = []
    for path in paths:
        try:
            result = dry_run(replace(request, csr=batch.read_request(path)))
        except (CommandError, client.ClientError) as error:
            if len(paths) == 1:
                raise
            warn(str(error) if isinstance(error, CommandError) else f"{path}: {error}")
            failures.append(exit_status.of_error(error))
            continue
        file = [f"File      {path}"] if len(paths) > 1 else []
        report({"file": str(path), **asdict(result)}, *file, *_describe_dry_run(result))
    return exit_status.of_all(failures)


def _sign_batch(paths: Sequence[Path], signer: batch.BatchSigner, *, overwrite: bool) -> int:
    targets: dict[Path, Path] = {}
    for path in paths:
        target = batch.certificate_path(path, signer.output_dir)
        if (
            str(path) == "-"
            or path.absolute() == target.absolute()
            or targets.setdefault(target, path) != path
        ):
            raise click.UsageError(f"{path}: its certificate would be {target}: sign it separately")
    try:
        signer.run(list(targets.values()), overwrite=overwrite)
    except client.ClientError as error:
        status = exit_status.of_all([*signer.progress.failures, error.exit_status])
        raise client.ClientError(str(error), status) from error
    finally:
        progress = signer.progress
        left = progress.total - progress.done
        counts = {"signed": progress.signed, "skipped": progress.skipped, "failed": progress.failed}
        counts |= {"left": left} if left else {}
        report(counts, ", ".join(f"{count} {name}" for name, count in counts.items()))
        if progress.skipped and signer.request != client.SignRequest(""):
            note("skipped certificates may have another profile or validity (--force replaces them)")
    return exit_status.of_all(progress.failures)


def _describe_dry_run(result: client.DryRun) -> Iterator[str]:
    yield f"Subject   {result.subject or '(empty)'}"
    yield f"Names     {', '.join(result.names) or '(none)'}"
    yield f"Valid     {result.not_before} to {result.not_after}"
    yield f"Profile   {result.profile}"
    for text in result.notes:
        yield f"Note      {text}"

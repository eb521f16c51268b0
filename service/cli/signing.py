"""`certlet sign`: requests that are there already."""

from __future__ import annotations

import argparse
import functools
import sys
from dataclasses import replace
from pathlib import Path

from service import client, files, many
from service.cli import arguments
from service.cli.arguments import Commands
from service.cli.terminal import ArgumentsError, CommandError, say, warn
from service.pki import csr


def add_to(commands: Commands) -> None:
    """Add `sign`."""
    sign = commands.add_parser("sign", help="have certification requests signed")
    sign.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="a request, PEM or DER; - alone is stdin"
    )
    arguments.take_service(sign)
    arguments.take_profile(sign, "the default one")
    arguments.take_validity(sign)
    sign.add_argument("--dry-run", action="store_true", help="say what would be signed, and sign nothing")
    where = sign.add_mutually_exclusive_group()
    where.add_argument("--out", type=Path, metavar="FILE", help="for one request; else stdout")
    where.add_argument(
        "--beside", action="store_true", help="NAME.crt beside each NAME.csr, as for several requests"
    )
    sign.add_argument("--force", action="store_true", help="replace the certificates that are there")
    sign.set_defaults(run=_sign)


def _sign(options: argparse.Namespace) -> int:
    api_key = arguments.api_key(options)
    wish = client.Wish("", options.profile, options.validity, options.not_after)
    if options.dry_run:
        return _examine(options, api_key, wish)
    if options.beside or len(options.files) > 1:
        return _sign_beside(options, api_key, wish)
    (path,) = options.files
    if options.out:
        _verify_out(options.out, anew=options.force)
    signed = client.sign(options.url, api_key, replace(wish, csr=_read(path)))
    for note in signed.notes:
        warn(f"note: {note}")
    if options.out:
        _keep(options.out, signed)
        say(f"Signed    {options.out}, until {signed.not_after}")
    else:
        sys.stdout.write(signed.crt_pem + signed.chain_pem)
    return 0


def _verify_out(out: Path, *, anew: bool) -> None:
    """Before it is made: that it can be written, and takes the place of nothing but another."""
    if out.exists() and not (out.is_file() or out.is_dir()):  # a pipe, or a terminal
        return
    files.verify_writable(out)
    if not out.exists():
        return
    held = out.read_bytes()
    if b"BEGIN CERTIFICATE-----" not in held or csr.holds_private_key(held):
        raise CommandError(f"{out} is there already, and holds no certificate alone; nothing was changed")
    if not anew:
        raise CommandError(f"{out} is there already; nothing was changed (--force replaces it)")


def _keep(out: Path, signed: client.Signed) -> None:
    try:
        if out.exists() and not out.is_file():
            out.write_text(signed.crt_pem + signed.chain_pem, encoding="ascii")
        else:
            many.keep(out, signed)
    except OSError as error:
        raise CommandError(many.lost(out, signed, error)) from error


def _examine(options: argparse.Namespace, api_key: str, wish: client.Wish) -> int:
    if options.out or options.beside:
        raise ArgumentsError("--dry-run writes nothing: leave --out and --beside out")
    failed = False
    for path in options.files:
        try:
            planned = client.examine(options.url, api_key, replace(wish, csr=_read(path)))
        except (CommandError, client.ClientError) as error:
            if len(options.files) == 1:
                raise
            warn(str(error) if isinstance(error, CommandError) else f"{path}: {error}")
            failed = True
            continue
        if len(options.files) > 1:
            say(f"File      {path}")
        _show(planned)
    return int(failed)


def _read(path: Path) -> str:
    try:
        return many.read(path)
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from error
    except client.ClientError as error:
        raise CommandError(f"{path}: {error}") from error


def _sign_beside(options: argparse.Namespace, api_key: str, wish: client.Wish) -> int:
    if options.out:
        raise ArgumentsError("--out is for one request; several go beside theirs")
    meant: dict[Path, Path] = {}
    for path in options.files:
        target = many.beside(path)
        if str(path) == "-" or path == target or meant.setdefault(target, path) != path:
            raise ArgumentsError(f"{path}: no certificate can be written beside it, as {target}")
    signing = many.Signing(wish, functools.partial(client.sign_batch, options.url, api_key))
    try:
        signing.run(list(meant.values()), anew=options.force)
    finally:
        tally = signing.tally
        left = f", {tally.total - tally.done} left" if tally.done < tally.total else ""
        say(f"{tally.signed} signed, {tally.present} there already, {tally.failed} not signed{left}")
        if tally.present and wish != client.Wish(""):
            warn("note: what is there already may be of another profile or validity (--force asks anew)")
    return int(tally.failed > 0)


def _show(planned: client.Planned) -> None:
    say(f"Subject   {planned.subject or '(empty)'}")
    say(f"Names     {', '.join(planned.names) or '(none)'}")
    say(f"Valid     {planned.not_before} to {planned.not_after}")
    say(f"Profile   {planned.profile}")
    for note in planned.notes:
        say(f"Note      {note}")

"""`certlet api-key`: the API keys of the local gateway."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import click

from service.cli import options
from service.cli.options import API_KEY, KEY_FILE
from service.cli.terminal import (
    CommandError,
    Group,
    describe_os_error,
    echo_lines,
    format_table,
    is_json,
    json_option,
    note,
    report,
)
from service.gateway import api_keys
from service.gateway.api_keys import ApiKey
from service.pki import encoding
from service.pki.profile import parse_duration

_HEADINGS: Final = ("ID", "Principal", "Created", "Expires")


def _parse_expiry(text: str) -> datetime:
    """Parse the end of a key: a duration from now, a time of RFC 3339, or a date (00:00 UTC)."""
    now = datetime.now(UTC)
    is_date = re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text)
    try:
        end = encoding.parse_timestamp(f"{text}T00:00:00Z" if is_date else text)
    except ValueError:
        try:
            end = now + parse_duration(text)
        except ValueError:
            expected = "a duration such as 90d, or a date or time such as 2030-12-31 or 2030-12-31T12:00:00Z"
            raise ValueError(f"{text!r} is not {expected}") from None
        except OverflowError:
            raise ValueError(f"{text!r} ends after the year 9999") from None
    if end <= now:
        raise ValueError(f"{text!r} is not in the future")
    return end


@click.group(cls=Group, no_args_is_help=False, epilog="Example: certlet api-key add ci")
def api_key() -> None:
    """Manage the API keys of the local gateway."""


@api_key.command(epilog="Example: certlet api-key add ci --expires 90d")
@click.argument("name")
@click.option(
    "--expires",
    type=_parse_expiry,
    metavar="TIME",
    help="Refuse the key from this time on: 12h, 90d or 4w from now, or 2030-12-31 or 2030-12-31T12:00:00Z. "
    "A date begins at 00:00 UTC.",
)
@click.option("--from-env", is_flag=True, help=f"Register the key in ${API_KEY} instead of creating one.")
@click.option(
    "--from-stdin", is_flag=True, help="Register the key on stdin, one line, instead of creating one."
)
@options.ca_option
@json_option
def add(*, name: str, expires: datetime | None, from_env: bool, from_stdin: bool, ca: Path) -> None:
    """Create an API key for NAME and print it once.

    If NAME has a key, both keys are valid, until one expires or is removed.
    """
    options.forbid_together("--from-env", "--from-stdin")
    key_file, value = _key_file(ca), ""
    if from_env:
        value = os.environ.get(API_KEY, "")
    elif from_stdin:
        value = sys.stdin.read(api_keys.MAX_KEY_LENGTH + 2).removesuffix("\n")
    if (from_env or from_stdin) and not value:
        raise CommandError(f"${API_KEY} is not set" if from_env else "there is no key on stdin")
    created = value or api_keys.generate_key()
    try:
        *others, added = key_file.add(name, created, datetime.now(UTC), expires)
    except api_keys.KeyFileError as error:
        raise CommandError(str(error)) from error
    if value:
        note(f"added the key {f'in ${API_KEY}' if from_env else 'on stdin'}")
    new_key = "" if value else created
    facts = {**_to_dict(added, datetime.now(UTC)), "key": new_key or None}
    try:
        report(facts, *([new_key] if new_key else ()), result=new_key)
    except OSError as error:
        if not new_key:
            raise
        key_file.remove(added.key_id)  # no one knows it
        raise CommandError(f"{describe_os_error(error)}, so the key was removed again") from error
    if others:
        ids = ", ".join(key.key_id for key in others)
        count = len(others) + 1
        note(f"{name} has {count} keys now; remove the old one when it is no longer used: {ids}")


@api_key.command("list", epilog="Example: certlet api-key list --json")
@json_option
@options.ca_option
def list_keys(*, ca: Path) -> None:
    """List the API keys: ID, principal, creation and end.

    The ID is the first 12 digits of the SHA-256 of a key. Times are UTC.
    """
    keys, now = _key_file(ca).read(), datetime.now(UTC)
    if is_json():
        echo_lines(json.dumps(_to_dict(key, now)) for key in keys)
    else:
        echo_lines(format_table(_HEADINGS, lambda: (_to_cells(key, now) for key in keys)))


@api_key.command(epilog="Example: certlet api-key remove 4c8b1f0a92d7")
@json_option
@click.argument("key", metavar="ID|NAME")
@options.ca_option
def remove(*, key: str, ca: Path) -> None:
    """Remove an API key, with immediate effect.

    ID is that of certlet api-key list. NAME is accepted if it has one key.
    """
    removed, others = _key_file(ca).remove(key)
    remaining = ", ".join(other.key_id for other in others)
    rest = f"it still has {remaining}" if others else "it has no other key"
    report(
        {"id": removed.key_id, "principal": removed.name, "remaining": [other.key_id for other in others]},
        f"Removed {removed.key_id} of {removed.name}: {rest}",
    )


def _key_file(ca: Path) -> api_keys.KeyFile:
    return api_keys.KeyFile(options.require_ca(ca) / KEY_FILE)


def _to_dict(key: ApiKey, now: datetime) -> dict[str, str | None]:
    return {
        "id": key.key_id,
        "principal": key.name,
        "created": api_keys.format_time(key.created),
        "expires": api_keys.format_time(key.expires),
        "status": "expired" if key.is_expired(now) else "valid",
    }


def _to_cells(key: ApiKey, now: datetime) -> tuple[str, ...]:
    created = api_keys.format_time(key.created) or "unknown"
    return key.key_id, key.name, created, _describe_expiry(key, now)


def _describe_expiry(key: ApiKey, now: datetime) -> str:
    if key.expires is None:
        return "never"
    days = math.ceil((key.expires - now) / timedelta(days=1))
    note = "expired" if key.is_expired(now) else f"{days} {'day' if days == 1 else 'days'} left"
    return f"{api_keys.format_time(key.expires)} ({note})"

"""The options that several commands take, and how their values are read."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import shlex
import stat
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
from click.core import ParameterSource

from service.cli.terminal import CommandError, warn
from service.pki import keys, names
from service.pki.errors import IssuanceError
from service.settings import PROFILES, PUBLIC_URL, parse_public_url

if TYPE_CHECKING:  # both take a while to load, and most commands need neither
    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

    from service import openapi

_Command = TypeVar("_Command", bound=Callable[..., Any])

URL: Final = "CERTLET_URL"
API_KEY: Final = "CERTLET_API_KEY"  # the variable's name, not its value
KEY_PASSPHRASE: Final = "CERTLET_KEY_PASSPHRASE"  # noqa: S105 - as above
KEY_FILE: Final = "api-keys.json"
DEFAULT_CA: Final = Path("ca")
_DEFAULT_URL: Final = "http://127.0.0.1:8080"

# Whether a file exists or can be read is found where it is opened: that is no error of the arguments.
FILE: Final = click.Path(path_type=Path, readable=False)
FILE.name = "file"
DIRECTORY: Final = click.Path(path_type=Path, readable=False)
DIRECTORY.name = "dir"

_UNITS: Final = {"h": "hours", "d": "days", "w": "weeks"}


class _KeyType(click.Choice[str]):
    """A type of key, as `keys.generate_private_key` takes it; `p256` and `RSA2048` are understood too."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Read a value from the arguments."""
        plain = value.lower().replace("-", "")
        return super().convert(
            next((choice for choice in self.choices if choice.replace("-", "") == plain), value), param, ctx
        )


def forbid_together(*options: str) -> None:
    """Raise a UsageError if the arguments have more than one of these options."""
    source = click.get_current_context().get_parameter_source
    parameters = {option: option[2:].replace("-", "_") for option in options}
    names = [option for option in options if source(parameters[option]) is ParameterSource.COMMANDLINE]
    if len(names) > 1:
        raise click.UsageError(f"{names[1]} is not allowed with {names[0]}")


def parse_span(text: str) -> timedelta:
    """A number of hours, days or weeks, as `30d`; ValueError if it is none."""
    if not re.fullmatch("[0-9]{1,5}[hdw]", text):
        raise ValueError(f"{text!r} is no number of hours, days or weeks, such as 12h, 30d, 4w")
    return timedelta(**{_UNITS[text[-1]]: int(text[:-1])})


def _parse_validity(text: str) -> str:
    """A span as the contract has it, ISO 8601; of one in ISO 8601 the service is the judge."""
    if text.startswith("P"):
        return text
    span = parse_span(text)
    return f"P{span.days}D" if span.seconds == 0 else f"PT{span // timedelta(hours=1)}H"


def _parse_time(text: str) -> str:
    try:
        datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise ValueError(f"{text!r} is not a time in UTC, such as 2027-01-31T12:00:00Z") from None
    return text


def _parse_dns_name(text: str) -> str:
    try:
        return names.dns_name(text, "", wildcard=False)
    except IssuanceError as error:
        raise ValueError(str(error)) from error


def parse_host(text: str) -> str:
    """A DNS name or an IP address; ValueError if it is neither."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return _parse_dns_name(text)


def parse_domain(text: str) -> str:
    """A DNS subtree, with or without a leading dot; ValueError if it is none."""
    return _parse_dns_name(text.removeprefix("."))


def matching(pattern: str, kind: str) -> Callable[[str], str]:
    """A parser of texts that match a regular expression as a whole; `kind` is for its ValueError."""

    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"{text!r} is not {kind}")
        return text

    return parse


_KEY_TYPE: Final = _KeyType(sorted(keys.GENERATORS))

profiles_option: Final = click.option(
    "--profiles",
    type=FILE,
    envvar=PROFILES,
    show_envvar=True,
    help="Merge these profiles over the contract's.",
)
url_option: Final = click.option(
    "--url",
    metavar="URL",
    envvar=URL,
    show_envvar=True,
    default=_DEFAULT_URL,
    help="Ask this service, stage included.",
)


def parse_https_url(text: str) -> str:
    """Parse a public URL on AWS, where an API has only HTTPS."""
    url = parse_public_url(text)
    if not url.startswith("https://"):
        raise ValueError(f"{text!r} is not an https URL")
    return url


def public_url_option(
    name: str, parse: Callable[[str], str] = parse_public_url
) -> Callable[[_Command], _Command]:
    """Add the option for the URL under which users reach the API."""
    return click.option(
        name,
        "public_url",
        metavar="URL",
        envvar=PUBLIC_URL,
        show_envvar=True,
        type=parse,
        help="Name the URL of the API for its users: it becomes the base of problem types, and the server in "
        "the document.",
    )


api_key_option: Final = click.option(
    "--api-key",
    metavar="KEY",
    envvar=API_KEY,
    show_envvar=True,
    help="Use this API key, which ps shows to others.",
)
key_type_option: Final = click.option(
    "--key-type",
    type=_KEY_TYPE,
    metavar="TYPE",
    default="p-256",
    help=f"Make a key of this type: {', '.join(_KEY_TYPE.choices)}.",
)
ca_option: Final = click.option(
    "--ca", type=DIRECTORY, default=DEFAULT_CA, help="Use the CA in this directory."
)
kms_option: Final = click.option("--kms", metavar="KEY-ID", help="Sign with this key in AWS KMS.")
force_option: Final = click.option("--force", is_flag=True, help="Replace files that exist.")


def service_options(command: _Command) -> _Command:
    """Add `--url` and `--api-key`."""
    return url_option(api_key_option(command))


def profile_option(default: str) -> Callable[[_Command], _Command]:
    """Add `--profile`, with what applies if it is not given."""
    return click.option("--profile", metavar="NAME", show_default=default, help="Issue under this profile.")


def validity_options(command: _Command) -> _Command:
    """Add `--validity` and `--not-after`, which the command forbids together."""
    not_after = click.option(
        "--not-after",
        type=_parse_time,
        metavar="TIME",
        help="Ask for this end, such as 2027-01-31T12:00:00Z.",
    )
    validity_help = "Ask for so many h, d or w, such as 30d, or for an ISO 8601 duration."
    return click.option("--validity", type=_parse_validity, metavar="DURATION", help=validity_help)(
        not_after(command)
    )


def require_api_key(api_key: str | None) -> str:
    """The API key that the arguments or the environment give; CommandError if neither does."""
    if not api_key:
        raise CommandError(
            f"an API key is needed: --api-key, or ${API_KEY} "
            "(certlet api-key add NAME makes one, beside the CA)"
        )
    return api_key


def require_ca(directory: Path, option: str = "--ca") -> Path:
    """The directory of a CA that exists, which this option gives.

    Raises a CommandError if there is none in it, a PermissionError if it cannot be read.
    """
    from service.keystore import ca_directory  # noqa: PLC0415 - see above

    if not ca_directory.has_ca(directory):
        raise CommandError(
            f"there is no CA in {directory}: say where with {option}, or make one (certlet init)"
        )
    return directory


def read_secret(variable: str) -> bytes | None:
    """The passphrase in an environment variable; None if it is not set, CommandError if it is empty."""
    value = os.environ.get(variable)
    if value == "":
        raise CommandError(f"{variable} is set but empty")
    return os.fsencode(value) if value else None


def load_private_key(path: Path, variable: str = KEY_PASSPHRASE) -> CertificateIssuerPrivateKeyTypes:
    """A private key, whose passphrase is in an environment variable; CAError if it cannot be read.

    Warns if others can read it, too.
    """
    from service.keystore import ca_directory  # noqa: PLC0415 - see above

    key = ca_directory.load_private_key(path, read_secret(variable), variable)
    for warning in exposures([path]):
        warn(f"warning: {warning}")
    return key


def exposures(paths: Iterable[Path]) -> Iterator[str]:
    """Say which of these files, if they exist, their group or every user can read, and how to end that."""
    for path in paths:
        with contextlib.suppress(OSError):  # what opens it reports that
            mode = path.stat().st_mode
            if stat.S_ISREG(mode) and mode & (stat.S_IRGRP | stat.S_IROTH):
                readers = "every user" if mode & stat.S_IROTH else "its group"
                yield f"{path} can be read by {readers}: chmod 600 {shlex.quote(str(path))}"


def load_document(overrides: Path | None) -> openapi.OpenAPIDocument:
    """The contract, with the operator's own profiles merged over it; CommandError if either has faults."""
    from service import openapi  # noqa: PLC0415 - see above
    from service.overrides import OverridesError  # noqa: PLC0415 - see above
    from service.pki.profile_loader import ProfileError  # noqa: PLC0415 - see above

    try:
        document = openapi.load(overrides)
        openapi.parse_policy(document)
    except OverridesError as error:
        raise CommandError(f"{overrides}: {error}") from error
    except ProfileError as error:
        raise CommandError(f"the profiles have faults: {error}") from error
    return document

"""The arguments that several commands take, and what their texts are read as."""

from __future__ import annotations

import argparse
import ipaddress
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, TypeAlias

from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

from service import contract
from service.cli.terminal import CommandError
from service.overrides import OverridesError
from service.pki import keys, names
from service.pki.errors import IssuanceError
from service.pki.profile_loader import ProfileError
from service.settings import PROFILES
from service.signers import file

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001 - its only name

URL: Final = "CERTLET_URL"
API_KEY: Final = "CERTLET_API_KEY"  # the variable's name, not its value
KEY_PASSPHRASE: Final = "CERTLET_KEY_PASSPHRASE"  # noqa: S105 - as above
KEY_FILE: Final = "api-keys.json"
DEFAULT_CA: Final = Path("ca")
DEFAULT_URL: Final = "http://127.0.0.1:8080"

_UNITS: Final = {"h": "hours", "d": "days", "w": "weeks"}


def take_profiles(parser: argparse.ArgumentParser) -> None:
    """Add `--profiles`: a file of the operator's own, else the one that the environment names."""
    given = os.environ.get(PROFILES)
    parser.add_argument(
        "--profiles",
        type=Path,
        default=Path(given) if given else None,
        metavar="FILE",
        help="your own, merged over the contract's",
    )


def take_service(parser: argparse.ArgumentParser, *, key: bool = True) -> None:
    """Add `--url`, and `--api-key` where one is needed."""
    parser.add_argument(
        "--url",
        default=os.environ.get(URL, DEFAULT_URL),
        help=f"of the service, its stage included; else ${URL}, or {DEFAULT_URL}",
    )
    if key:
        parser.add_argument("--api-key", metavar="KEY", help=f"else ${API_KEY}, which ps does not show")


def take_profile(parser: argparse.ArgumentParser, otherwise: str) -> None:
    """Add `--profile`, which is some other where it is not given."""
    parser.add_argument("--profile", metavar="NAME", help=f"the certificate profile; else {otherwise}")


def take_key(parser: argparse.ArgumentParser) -> None:
    """Add `--key`: the kind of key that is made."""
    kinds = sorted(keys.GENERATORS)
    parser.add_argument(
        "--key",
        choices=kinds,
        default="p-256",
        type=key_kind,
        metavar="KIND",
        help=f"{', '.join(kinds)}; else p-256",
    )


def take_ca(parser: argparse.ArgumentParser) -> None:
    """Add `--ca`: the CA's directory."""
    parser.add_argument(
        "--ca", type=Path, default=DEFAULT_CA, metavar="DIR", help=f"the CA's directory; else {DEFAULT_CA}"
    )


def ca(directory: Path, given: str = "--ca") -> Path:
    """The directory of a CA that is there, which the argument `given` says.

    Raises:
        CommandError: there is none in it.
        PermissionError: nobody lets us look.
    """
    if not file.exists(directory):
        raise CommandError(
            f"there is no CA in {directory}: say where with {given}, or make one (certlet init)"
        )
    return directory


def take_validity(parser: argparse.ArgumentParser) -> None:
    """Add `--validity` and `--not-after`, of which one is given at most."""
    end = parser.add_mutually_exclusive_group()
    end.add_argument(
        "--validity",
        type=_validity,
        metavar="30d",
        help="how long, in h, d or w, or ISO 8601; else the profile's",
    )
    end.add_argument(
        "--not-after", type=_time, metavar="TIME", help="until when instead, UTC, as 2027-01-31T12:00:00Z"
    )


def span(text: str) -> timedelta:
    """A number of hours, days or weeks, as `30d`."""
    if not re.fullmatch("[0-9]{1,5}[hdw]", text):
        raise argparse.ArgumentTypeError("a number of hours, days or weeks: 12h, 30d, 4w")
    return timedelta(**{_UNITS[text[-1]]: int(text[:-1])})


def _validity(text: str) -> str:
    """A span as the contract has it, ISO 8601; of one in ISO 8601 the service is the judge."""
    if text.startswith("P"):
        return text
    found = span(text)
    return f"P{found.days}D" if found.seconds == 0 else f"PT{found // timedelta(hours=1)}H"


def _time(text: str) -> str:
    try:
        datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise argparse.ArgumentTypeError("a time in UTC, as 2027-01-31T12:00:00Z") from error
    return text


def api_key(options: argparse.Namespace) -> str:
    """The API key that the arguments or the environment give.

    Raises:
        CommandError: neither does.
    """
    found = options.api_key or os.environ.get(API_KEY)
    if not found:
        raise CommandError(
            f"an API key is needed: --api-key, or ${API_KEY} (certlet key add NAME makes one, beside the CA)"
        )
    return str(found)


def secret(variable: str) -> bytes | None:
    """The passphrase in an environment variable; None if it is not set. Never an argument: `ps` shows those.

    Raises:
        CommandError: it is set but empty.
    """
    found = os.environ.get(variable)
    if found == "":
        raise CommandError(f"{variable} is set but empty")
    return os.fsencode(found) if found else None


def private_key(path: Path) -> CertificateIssuerPrivateKeyTypes:
    """A certificate's key, as `certlet new` writes it.

    Raises:
        CommandError: its passphrase is set but empty.
        IssuerError: it cannot be read.
    """
    return file.private_key(path, secret(KEY_PASSPHRASE), KEY_PASSPHRASE)


def document(own: Path | None) -> contract.Document:
    """The contract, with the operator's own profiles merged over it.

    Raises:
        CommandError: either has faults.
    """
    try:
        found = contract.load(own)
        contract.profiles(found)
    except OverridesError as error:
        raise CommandError(f"{own}: {error}") from error
    except ProfileError as error:
        raise CommandError(f"the profiles have faults: {error}") from error
    return found


def _dns_name(text: str) -> str:
    try:
        return names.dns_name(text, "", wildcard=False)
    except IssuanceError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def host(text: str) -> str:
    """A DNS name or an IP address."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return _dns_name(text)


def port(text: str) -> int:
    """A TCP port, 0 for a free one."""
    if not text.isdigit() or int(text) > 65535:  # noqa: PLR2004 - TCP's bound
        raise argparse.ArgumentTypeError("a port is a number from 0 to 65535")
    return int(text)


def key_kind(text: str) -> str:
    """A kind of key, as `keys.generate` takes it; `p256` and `RSA2048` are understood too."""
    plain = text.lower().replace("-", "")
    return next((each for each in keys.GENERATORS if each.replace("-", "") == plain), text)


def stage(text: str) -> str:
    """A stage's name, as API Gateway takes it."""
    if not re.fullmatch("[A-Za-z0-9_-]{1,128}", text):
        raise argparse.ArgumentTypeError("a stage has 1 to 128 letters, digits, _ and -")
    return text


def count(text: str) -> int:
    """How many calls at once."""
    if not text.isdigit() or not 1 <= int(text) <= 64:  # noqa: PLR2004 - more serve nobody
        raise argparse.ArgumentTypeError("a number from 1 to 64")
    return int(text)


def account(text: str) -> str:
    """An AWS account id."""
    if not re.fullmatch("[0-9]{12}", text):
        raise argparse.ArgumentTypeError("an AWS account id has 12 digits")
    return text


def domain(text: str) -> str:
    """A DNS subtree, with or without a leading dot."""
    return _dns_name(text.removeprefix("."))


def network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """An IP network in CIDR notation."""
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error

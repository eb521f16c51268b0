"""The settings in the environment variables: parsed and validated once, all problems reported at once."""

from __future__ import annotations

import ipaddress
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeVar

from service import log_level
from service.credentials import RESERVED_PREFIXES
from service.pki import encoding
from service.pki.errors import quote
from service.pki.profile import parse_duration
from service.pki.renewal_info import EarlyRenewal
from service.quota import parse_quota

CA: Final = "CERTLET_CA"
CA_KEY: Final = "CERTLET_CA_KEY"
CA_PASSPHRASE_PARAMETER: Final = "CERTLET_CA_PASSPHRASE_PARAMETER"  # noqa: S105 - as below
CA_PASSPHRASE: Final = "CERTLET_CA_PASSPHRASE"  # noqa: S105 - the variable's name, not its value
CA_PASSPHRASE_FILE: Final = "CERTLET_CA_PASSPHRASE_FILE"  # noqa: S105 - as above; only the commands read it
API_KEY_NAMES: Final = "CERTLET_API_KEY_NAMES"
PROFILES: Final = "CERTLET_PROFILES"
AUDIT_LOG: Final = "CERTLET_AUDIT_LOG"
METRICS: Final = "CERTLET_METRICS"
PUBLIC_URL: Final = "CERTLET_PUBLIC_URL"
STATUS_URL: Final = "CERTLET_STATUS_URL"
EST_LINE_LENGTH: Final = "CERTLET_EST_LINE_LENGTH"
IDENTITIES_IN_ZIP: Final = "identities"
EST_LINE_LENGTHS: Final = (
    "0",
    "64",
    "76",
)  # one line (RFC 8951 3.1), as in PEM (RFC 7468 2), in MIME (RFC 2045 6.8)
LEDGER: Final = "CERTLET_LEDGER"
LEDGER_TABLE: Final = "CERTLET_LEDGER_TABLE"
ORDER_QUOTA: Final = "CERTLET_ORDER_QUOTA"
TOKEN_USAGE_KEY: Final = "CERTLET_TOKEN_USAGE_KEY"  # noqa: S105 - the variable's name, not its value
RENEW_BEFORE: Final = "CERTLET_RENEW_BEFORE"
RENEW_OVER: Final = "CERTLET_RENEW_OVER"
DEFAULT_RENEW_OVER: Final = "P1D"
# No query, fragment or user; and no character that a JSON or Velocity template would need to escape.
_URL: Final = re.compile(
    r"https?://(?:[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"
    r"(?:/(?:[A-Za-z0-9._~-]|%[0-9A-Fa-f]{2})+)*"
)
_T = TypeVar("_T")


class KeySource(StrEnum):
    """The place of the CA's key."""

    FILE = "file"
    SECRETS_MANAGER = "secretsmanager"
    KMS = "kms"


class SettingsError(ValueError):
    """An environment variable is invalid; the message lists every problem, without values of secrets."""


def parse_key_location(text: str) -> tuple[KeySource, str]:
    """Parse the place of a CA's key, such as `kms:KEY-ID`, to its source and its name there.

    Raises:
        ValueError: the text is not such a place.
    """
    source, colon, name = text.partition(":")
    if not colon or source not in list(KeySource) or (source != KeySource.FILE and not name):
        raise ValueError("expected file:PATH, secretsmanager:NAME or kms:KEY-ID")
    return KeySource(source), name


def parse_public_url(text: str) -> str:
    """Parse the URL under which users reach the API, and remove a final slash.

    Raises:
        ValueError: the URL is malformed, or has a query or fragment.
    """
    url = text.removesuffix("/")
    if not _URL.fullmatch(url):
        raise ValueError(f"{text!r} is not an http or https URL without query and fragment")
    return url


def is_loopback(host: str) -> bool:
    """Whether a host, an IP address or a name, is only this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def parse_renew_before(text: str, now: datetime) -> datetime:
    """Parse the time before which certificates were issued that are renewed early.

    Args:
        text: RFC 3339, in any time zone.
        now: the current time, UTC.

    Raises:
        ValueError: the text is not such a time, or the time is in the future, where it would include
            certificates that are not issued yet.
    """
    try:
        time = encoding.parse_timestamp(text)
    except ValueError:
        example = "2030-12-31T23:59:59Z"
        raise ValueError(f"{text!r} is not a time with a zone, such as {example} (RFC 3339)") from None
    if time > now:
        raise ValueError(f"{text!r} is in the future: set a time that has passed")
    return time


def parse_renew_over(text: str) -> timedelta:
    """Parse the period over which early renewals are spread, a duration such as `12h` or `P1D`.

    Raises:
        ValueError: the text is not such a duration, or shorter than a minute.
    """
    period = parse_duration(text)
    if period < timedelta(minutes=1):
        raise ValueError(f"{text!r} is shorter than a minute")
    return period


def find_ledger_problems(environ: Mapping[str, str]) -> list[str]:
    """Return what is wrong with the variables that name a ledger."""
    table, problems = environ.get(LEDGER_TABLE, ""), []
    if not re.fullmatch("([A-Za-z0-9_.-]{3,255})?", table):
        problems.append(f"{LEDGER_TABLE}: {table!r} is not a table: 3 to 255 of A-Z a-z 0-9 _ . -")
    if table and environ.get(LEDGER):
        problems.append(f"{LEDGER} and {LEDGER_TABLE} are both set; set only one")
    return problems


def _parse_log_level(text: str) -> str:
    if text not in log_level.LEVELS:
        raise ValueError(f"{text!r} is not one of {', '.join(log_level.LEVELS)}")
    return text


def _parse_est_line_length(text: str) -> int:
    if text not in EST_LINE_LENGTHS:
        raise ValueError(f"{text!r} is not 0, 64 or 76")
    return int(text)


def _parse_variable(
    environ: Mapping[str, str], name: str, parse: Callable[[str], _T], problems: list[str]
) -> _T | None:
    """Parse a variable; None if it is not set, empty or malformed, which is added to `problems`."""
    try:
        return parse(environ[name]) if environ.get(name) else None
    except ValueError as error:
        problems.append(f"{name}: {error}")
        return None


def _parse_api_key_names(text: str) -> dict[str, str]:
    try:
        names = json.loads(text)
    except ValueError:
        names = None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ValueError("not a JSON object that maps key IDs to names")
    if reserved := [name for name in names.values() if name.startswith(RESERVED_PREFIXES)]:
        raise ValueError(f"{quote(reserved[0])} cannot be the name of a key: other callers have such names")
    return names


def identity_directory(profiles: Path | None) -> Path:
    """Return the directory of the files that rules for tokens name.

    Args:
        profiles: the operator's file, next to which they are; None for the Lambda zip.
    """
    return profiles.parent if profiles else Path(__file__).parent.parent / IDENTITIES_IN_ZIP


@dataclass(frozen=True)
class Settings:
    """The function's settings.

    Attributes:
        ca: the directory of the CA's certificates, lists and, by default, keys.
        key_source: the place of the signing CA's key.
        key_name: the key's file, secret name or KMS key ID; '' for the default file.
        ca_passphrase_parameter: the SSM SecureString that contains the passphrase; '' for none.
        ca_passphrase: the passphrase of the signing CA's key; None if it is not encrypted.
        api_key_names: API Gateway's key ID -> the name of the principal. An ID that is not listed is
            the name itself, as the local gateway's are.
        profiles: the operator's profiles file; None to use only the contract's profiles.
        audit_log: the audit log's file; None for stderr.
        metrics: the CloudWatch namespace of the metrics in the audit log; '' for no metrics.
        public_url: the URL under which users reach the API, without a final slash; '' if not set.
        status_url: the URL under which verifiers reach CRLs, OCSP and issuer certificates, without a final
            slash; '' if not set.
        est_line_length: the characters in a line of EST's responses; 0 for one line.
        early_renewal: the order to renew certificates early; None if not set.
        ledger: the ledger's SQLite file; None if not set.
        ledger_table: the ledger's DynamoDB table; '' if not set. At most one of both is set.
        order_quota: how many orders of ACME a principal may create, as `parse_quota` parses it; '' for the
            contract's quota.
        token_usage_key: the API key of API Gateway that all callers with a token share; '' for none.
        log_level: one of `log_level.LEVELS`; '' for the default.
    """

    ca: Path
    key_source: KeySource = KeySource.FILE
    key_name: str = ""
    ca_passphrase_parameter: str = ""
    ca_passphrase: bytes | None = field(default=None, repr=False)
    api_key_names: Mapping[str, str] = field(default_factory=dict)
    profiles: Path | None = None
    audit_log: Path | None = None
    metrics: str = ""
    public_url: str = ""
    status_url: str = ""
    est_line_length: int = 0
    early_renewal: EarlyRenewal | None = None
    ledger: Path | None = None
    ledger_table: str = ""
    order_quota: str = ""
    token_usage_key: str = field(default="", repr=False)
    log_level: str = ""

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], now: datetime) -> Settings:
        """Parse the environment variables.

        `CERTLET_CA` (directory); `CERTLET_CA_KEY` (`file:PATH`, `secretsmanager:NAME` or `kms:KEY-ID`;
        default: `signing-ca.key` in that directory); `CERTLET_CA_PASSPHRASE`, or
        `CERTLET_CA_PASSPHRASE_PARAMETER`; `CERTLET_API_KEY_NAMES` (a JSON object); `CERTLET_PROFILES` and
        `CERTLET_AUDIT_LOG` (files); `CERTLET_METRICS` (a CloudWatch namespace); `CERTLET_PUBLIC_URL` and
        `CERTLET_STATUS_URL`; `CERTLET_EST_LINE_LENGTH` (0, 64 or 76); `CERTLET_RENEW_BEFORE` (a time until
        `now`, UTC) and `CERTLET_RENEW_OVER` (a duration); `CERTLET_LEDGER` (a file) or
        `CERTLET_LEDGER_TABLE` (a DynamoDB table); `CERTLET_ORDER_QUOTA` (such as `10000/DAY`, or `none`);
        `CERTLET_TOKEN_USAGE_KEY` (the value of an API key); `CERTLET_LOG_LEVEL`.

        Raises:
            SettingsError: a variable is missing or malformed.
        """
        problems: list[str] = []
        if not environ.get(CA):
            problems.append(f"{CA} is not set: set it to the directory of the CA")
        names = _parse_variable(environ, API_KEY_NAMES, _parse_api_key_names, problems) or {}
        source, key_name = KeySource.FILE, ""
        try:
            source, key_name = parse_key_location(environ.get(CA_KEY, "file:"))
        except ValueError as error:
            problems.append(f"{CA_KEY} is invalid; {error}")
        if environ.get(CA_PASSPHRASE) and environ.get(CA_PASSPHRASE_PARAMETER):
            problems.append(f"{CA_PASSPHRASE} and {CA_PASSPHRASE_PARAMETER} are both set; set only one")
        if CA_PASSPHRASE in environ and not environ[CA_PASSPHRASE]:
            problems.append(f"{CA_PASSPHRASE} is set but empty; unset it if the key is not encrypted")
        if not re.fullmatch("[A-Za-z0-9._/#:-]{0,255}", environ.get(METRICS, "")):
            problems.append(f"{METRICS} is not a CloudWatch namespace: up to 255 of A-Z a-z 0-9 . _ / # : -")
        public_url = _parse_variable(environ, PUBLIC_URL, parse_public_url, problems)
        status_url = _parse_variable(environ, STATUS_URL, parse_public_url, problems)
        est_line_length = _parse_variable(environ, EST_LINE_LENGTH, _parse_est_line_length, problems)
        renew_before = _parse_variable(
            environ, RENEW_BEFORE, lambda text: parse_renew_before(text, now), problems
        )
        renew_over = _parse_variable(environ, RENEW_OVER, parse_renew_over, problems)
        renew_over = renew_over or parse_renew_over(DEFAULT_RENEW_OVER)
        problems += find_ledger_problems(environ)
        _parse_variable(environ, ORDER_QUOTA, parse_quota, problems)
        level = _parse_variable(environ, log_level.VARIABLE, _parse_log_level, problems)
        if not re.fullmatch("([!-~]{20,128})?", environ.get(TOKEN_USAGE_KEY, "")):
            problems.append(f"{TOKEN_USAGE_KEY} is not an API key: 20 to 128 visible ASCII characters")
        if problems:
            raise SettingsError("; ".join(problems))
        passphrase = environ.get(CA_PASSPHRASE)
        return cls(
            ca=Path(environ[CA]),
            key_source=source,
            key_name=key_name,
            ca_passphrase_parameter=environ.get(CA_PASSPHRASE_PARAMETER, ""),
            ca_passphrase=os.fsencode(passphrase) if passphrase else None,
            api_key_names=names,
            profiles=Path(environ[PROFILES]) if environ.get(PROFILES) else None,
            audit_log=Path(environ[AUDIT_LOG]) if environ.get(AUDIT_LOG) else None,
            metrics=environ.get(METRICS, ""),
            public_url=public_url or "",
            status_url=status_url or "",
            est_line_length=est_line_length or 0,
            early_renewal=EarlyRenewal(renew_before, renew_over) if renew_before else None,
            ledger=Path(environ[LEDGER]) if environ.get(LEDGER) else None,
            ledger_table=environ.get(LEDGER_TABLE, ""),
            order_quota=environ.get(ORDER_QUOTA, ""),
            token_usage_key=environ.get(TOKEN_USAGE_KEY, ""),
            log_level=level or "",
        )

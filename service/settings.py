"""What the environment says: a frozen value, validated once, with all faults reported at once."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

CA: Final = "CERTLET_CA"
CA_KEY: Final = "CERTLET_CA_KEY"
CA_PASSPHRASE_PARAMETER: Final = "CERTLET_CA_PASSPHRASE_PARAMETER"  # noqa: S105 - as below
CA_PASSPHRASE: Final = "CERTLET_CA_PASSPHRASE"  # noqa: S105 - the variable's name, not its value
API_KEY_NAMES: Final = "CERTLET_API_KEY_NAMES"
PROFILES: Final = "CERTLET_PROFILES"
AUDIT_LOG: Final = "CERTLET_AUDIT_LOG"
METRICS: Final = "CERTLET_METRICS"


class KeySource(StrEnum):
    """Where the CA's key lives."""

    FILE = "file"
    SECRETS_MANAGER = "secretsmanager"
    KMS = "kms"


class SettingsError(ValueError):
    """The environment is wrong; the message names every fault, and no value that may be secret."""


@dataclass(frozen=True)
class Settings:
    """The function's settings.

    Attributes:
        ca: the directory that holds the CA's certificates, and its key unless that is elsewhere.
        key_source: where the signing CA's key lives.
        key_name: the file, the secret's name, or the KMS key's id.
        ca_passphrase_parameter: the SSM SecureString that holds the passphrase; '' for none.
        ca_passphrase: what its signing key is encrypted under; None if it is not.
        api_key_names: API Gateway's key id -> the name of the principal. An id that is not in it
            is its own name: the local gateway's ids are names already.
        profiles: the operator's own profiles; None for the contract's alone.
        audit_log: the file that audit lines are added to; None for stderr.
        metrics: the CloudWatch namespace of the metrics in audit lines; '' for none.
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

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Settings:
        """Read the environment.

        `CERTLET_CA`; `CERTLET_CA_KEY`, which is `file:PATH`, `secretsmanager:NAME` or `kms:KEY-ID`, and
        `signing-ca.key` beside the certificates if it is not set; `CERTLET_CA_PASSPHRASE`, or
        `CERTLET_CA_PASSPHRASE_PARAMETER`; `CERTLET_API_KEY_NAMES` (a JSON object); `CERTLET_PROFILES` and
        `CERTLET_AUDIT_LOG` (files); and `CERTLET_METRICS` (a CloudWatch namespace).

        Raises:
            SettingsError: at least one is missing or malformed.
        """
        faults = []
        if not environ.get(CA):
            faults.append(f"{CA} is not set: the directory that holds the CA")
        try:
            names = json.loads(environ.get(API_KEY_NAMES, "{}"))
        except ValueError:
            names = None
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            faults.append(f"{API_KEY_NAMES} is not a JSON object of key ids and names")
        source, colon, key_name = environ.get(CA_KEY, "file:").partition(":")
        if not colon or source not in list(KeySource) or (source != KeySource.FILE and not key_name):
            faults.append(f"{CA_KEY} is none of file:PATH, secretsmanager:NAME, kms:KEY-ID")
        if environ.get(CA_PASSPHRASE) and environ.get(CA_PASSPHRASE_PARAMETER):
            faults.append(f"{CA_PASSPHRASE} and {CA_PASSPHRASE_PARAMETER} are both set")
        if CA_PASSPHRASE in environ and not environ[CA_PASSPHRASE]:
            faults.append(f"{CA_PASSPHRASE} is set but empty")
        if not re.fullmatch("[A-Za-z0-9._/#:-]{0,255}", environ.get(METRICS, "")):
            faults.append(f"{METRICS} is not a CloudWatch namespace")
        if faults:
            raise SettingsError("; ".join(faults))
        passphrase = environ.get(CA_PASSPHRASE)
        return cls(
            ca=Path(environ[CA]),
            key_source=KeySource(source),
            key_name=key_name,
            ca_passphrase_parameter=environ.get(CA_PASSPHRASE_PARAMETER, ""),
            ca_passphrase=os.fsencode(passphrase) if passphrase else None,
            api_key_names=names,
            profiles=Path(environ[PROFILES]) if environ.get(PROFILES) else None,
            audit_log=Path(environ[AUDIT_LOG]) if environ.get(AUDIT_LOG) else None,
            metrics=environ.get(METRICS, ""),
        )

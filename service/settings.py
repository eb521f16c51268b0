"""What the environment says: a frozen value, validated once, with all faults reported at once."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

CA: Final = "CERTLET_CA"
CA_PASSPHRASE: Final = "CERTLET_CA_PASSPHRASE"  # noqa: S105 - the variable's name, not its value
API_KEY_NAMES: Final = "CERTLET_API_KEY_NAMES"


class SettingsError(ValueError):
    """The environment is wrong; the message names every fault, and no value that may be secret."""


@dataclass(frozen=True)
class Settings:
    """The function's settings.

    Attributes:
        ca: the directory that holds the CA.
        ca_passphrase: what its signing key is encrypted under; None if it is not.
        api_key_names: API Gateway's key id -> the name of the principal. An id that is not in it
            is its own name: the local gateway's ids are names already.
    """

    ca: Path
    ca_passphrase: bytes | None = field(default=None, repr=False)
    api_key_names: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Settings:
        """Read `CERTLET_CA`, `CERTLET_CA_PASSPHRASE` and `CERTLET_API_KEY_NAMES` (a JSON object).

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
        if CA_PASSPHRASE in environ and not environ[CA_PASSPHRASE]:
            faults.append(f"{CA_PASSPHRASE} is set but empty")
        if faults:
            raise SettingsError("; ".join(faults))
        passphrase = environ.get(CA_PASSPHRASE)
        return cls(
            ca=Path(environ[CA]),
            ca_passphrase=os.fsencode(passphrase) if passphrase else None,
            api_key_names=names,
        )

"""The CA that is in use: its issuer, and what its operator configured for it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

from service.pki import serial
from service.pki.ca_status import CAStatus
from service.pki.issuer import Issuer
from service.pki.renewal_info import EarlyRenewal
from service.pki.serial import SerialKeys, SerialNumbers
from service.pki.weak_keys import DenyList


@dataclass(frozen=True)
class LoadedCA:
    """An issuer, and what its operator configured for it.

    Attributes:
        serial_keys: the keys of its serial numbers; None for random ones.
        deny_list: the denied keys.
        early_renewal: the order to renew certificates early; None if there is none.
        statuses: OCSP responses about CA certificates, which the root signed in advance.
    """

    issuer: Issuer
    serial_keys: SerialKeys | None = None
    deny_list: DenyList = field(default_factory=DenyList)
    early_renewal: EarlyRenewal | None = None
    statuses: Sequence[CAStatus] = ()

    @functools.cached_property
    def serial_numbers(self) -> tuple[SerialNumbers, ...]:
        """The serial numbers of the issuer, and of its predecessors; none without keys."""
        if self.serial_keys is None:
            return ()
        return serial.for_issuers(self.serial_keys, self.issuer.certificate, self.issuer.predecessors)

"""The CA that is in use: its issuer, and what its operator configured for it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from cryptography import x509

from service.pki import serial
from service.pki.acme_key import AcmeKey
from service.pki.ca_status import CAStatus
from service.pki.issuer import Issuer
from service.pki.renewal_info import EarlyRenewal
from service.pki.serial import SerialKeys, SerialNumbers
from service.pki.weak_keys import DenyList


class PreviousIssuer(NamedTuple):
    """A CA from before a rollover. Its key signs only CRLs and OCSP responses.

    Attributes:
        certificate: its certificate.
        load: returns the issuer, or None if there is no key; raises `CAUnavailable` if the key is not usable.
    """

    certificate: x509.Certificate
    load: Callable[[], Issuer | None]


@dataclass(frozen=True)
class LoadedCA:
    """An issuer, and what its operator configured for it.

    Attributes:
        serial_keys: the keys of its serial numbers; None for random ones.
        deny_list: the denied keys.
        early_renewal: the order to renew certificates early; None if there is none.
        statuses: OCSP responses about CA certificates, which the root signed in advance.
        previous: the CAs from before a rollover.
        acme_key: the key of ACME; None if there is none.
    """

    issuer: Issuer
    serial_keys: SerialKeys | None = None
    deny_list: DenyList = field(default_factory=DenyList)
    early_renewal: EarlyRenewal | None = None
    statuses: Sequence[CAStatus] = ()
    previous: tuple[PreviousIssuer, ...] = ()
    acme_key: AcmeKey | None = None

    @functools.cached_property
    def serial_numbers(self) -> tuple[SerialNumbers, ...]:
        """The serial numbers of the issuer, and of its predecessors; none without keys."""
        if self.serial_keys is None:
            return ()
        return serial.for_issuers(self.serial_keys, self.issuer.certificate, self.issuer.predecessors)

    def find_issuer(self, is_wanted: Callable[[x509.Certificate], bool]) -> Issuer | None:
        """Return the first issuer with such a certificate: this one, or a previous one with a key.

        Raises:
            CAUnavailable: the key of the previous issuer is not usable.
        """
        if is_wanted(self.issuer.certificate):
            return self.issuer
        loaded = (previous.load() for previous in self.previous if is_wanted(previous.certificate))
        return next(filter(None, loaded), None)

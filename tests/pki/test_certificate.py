from __future__ import annotations

from dataclasses import fields, replace
from datetime import timedelta

import pytest
from cryptography import x509

from service.pki.certificate import CertificateSpec, encode_extension
from service.pki.errors import CAError
from tests import csrs, factories

SECOND = timedelta(seconds=1)


def test_builder_takes_every_field() -> None:
    """What an issuer signs is the specification, extension by extension, in order."""
    spec = factories.evaluate(csrs.build(sans=["dns:a.example.com", "ip:10.0.0.1"]))
    certificate = factories.create_issuer().sign(spec.builder(0x1234))
    assert certificate.serial_number == 0x1234
    assert certificate.subject == spec.subject
    assert certificate.public_key() == spec.public_key
    assert certificate.not_valid_before_utc == spec.not_before
    assert certificate.not_valid_after_utc == spec.not_after
    assert [(each.oid, each.critical, each.value.public_bytes()) for each in certificate.extensions] == [
        (value.oid, value.critical, value.value.value) for value, _ in spec.extensions
    ]


def test_only_the_evaluated_spec_can_be_signed() -> None:
    """A field of the certificate that is replaced after the evaluation gives no builder; a note does."""
    spec = factories.evaluate(csrs.build(sans=["dns:a.example.com"]))
    assert replace(spec, notes=("one more",)).builder(1)
    for change in (
        {"subject": factories.distinguished_name("other")},
        {"public_key": csrs.private_key("p-384").public_key()},
        {"extensions": spec.extensions[1:]},
    ):
        with pytest.raises(CAError, match="not what was evaluated"):
            replace(spec, **change).builder(1)


def test_digest_covers_every_field() -> None:
    """Any change of what the certificate will hold changes the digest (RFC 5280 4.1.2)."""
    spec = factories.evaluate(csrs.build(sans=["dns:a.example.com"]))
    changed = {
        "subject": replace(spec, subject=factories.distinguished_name("other")),
        "public_key": replace(spec, public_key=csrs.private_key("p-384").public_key()),
        "not_before": replace(spec, not_before=spec.not_before + SECOND),
        "not_after": replace(spec, not_after=spec.not_after - SECOND),
        "extensions": replace(spec, extensions=spec.extensions[::-1]),
    }
    # What the extensions hold, and what is not in the certificate.
    others = {"common_name", "names", "profile", "notes", "evaluated_digest"}
    assert changed.keys() | others == {each.name for each in fields(CertificateSpec)}
    for position, (held, _) in enumerate(spec.extensions):
        other = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), held.value.value)
        empty = x509.UnrecognizedExtension(held.oid, b"\4\0")
        before, after = spec.extensions[:position], spec.extensions[position + 1 :]
        changed |= {
            f"{position} left out": replace(spec, extensions=(*before, *after)),
            **{
                f"{position} {variant}": replace(spec, extensions=(*before, variant, *after))
                for variant in (
                    encode_extension(other, critical=held.critical),
                    encode_extension(held.value, critical=not held.critical),
                    encode_extension(empty, critical=held.critical),
                )
            },
        }
    assert replace(spec).digest == spec.digest
    assert len({each.digest for each in (spec, *changed.values())}) == 1 + len(changed)

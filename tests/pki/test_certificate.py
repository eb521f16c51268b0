from __future__ import annotations

from dataclasses import fields, replace
from datetime import timedelta

import pytest
from cryptography import x509

from service.pki.certificate import CertificateSpec, encode_extension
from service.pki.errors import CAError
from tests import csrs, factories

SECOND = timedelta(seconds=1)


def test_builder_has_every_field_of_the_spec() -> None:
    """The signed certificate has the fields of the specification, and its extensions in the same order."""
    spec = factories.evaluate(csrs.build(sans=["dns:a.example.com", "ip:10.0.0.1"]))
    certificate = factories.create_issuer().sign(spec.builder(0x1234))
    assert certificate.serial_number == 0x1234
    assert certificate.subject == spec.subject
    assert certificate.public_key() == spec.public_key
    assert certificate.not_valid_before_utc == spec.not_before
    assert certificate.not_valid_after_utc == spec.not_after
    assert [
        (extension.oid, extension.critical, extension.value.public_bytes())
        for extension in certificate.extensions
    ] == [(extension.oid, extension.critical, extension.value.value) for extension, _ in spec.extensions]


def test_spec_changed_after_evaluation_cannot_be_signed() -> None:
    """The builder refuses a specification with a replaced field; a replaced note is accepted."""
    spec = factories.evaluate(csrs.build(sans=["dns:a.example.com"]))
    assert replace(spec, notes=("one more",)).builder(1)
    for change in (
        {"subject": factories.distinguished_name("other")},
        {"public_key": csrs.private_key("p-384").public_key()},
        {"extensions": spec.extensions[1:]},
    ):
        with pytest.raises(CAError, match="changed after its evaluation"):
            replace(spec, **change).builder(1)


def test_digest_covers_every_field() -> None:
    """Any change to a field of the certificate changes the digest (RFC 5280 4.1.2)."""
    spec = factories.evaluate(csrs.build(sans=["dns:a.example.com"]))
    variants = {
        "subject": replace(spec, subject=factories.distinguished_name("other")),
        "public_key": replace(spec, public_key=csrs.private_key("p-384").public_key()),
        "not_before": replace(spec, not_before=spec.not_before + SECOND),
        "not_after": replace(spec, not_after=spec.not_after - SECOND),
        "extensions": replace(spec, extensions=spec.extensions[::-1]),
    }
    # Fields that the extensions contain, and fields that are not in the certificate.
    excluded = {"common_name", "names", "profile", "notes", "evaluated_digest"}
    assert variants.keys() | excluded == {field.name for field in fields(CertificateSpec)}
    for position, (extension, _) in enumerate(spec.extensions):
        other = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), extension.value.value)
        empty = x509.UnrecognizedExtension(extension.oid, b"\4\0")
        before, after = spec.extensions[:position], spec.extensions[position + 1 :]
        variants |= {
            f"{position} removed": replace(spec, extensions=(*before, *after)),
            **{
                f"{position} {replacement}": replace(spec, extensions=(*before, replacement, *after))
                for replacement in (
                    encode_extension(other, critical=extension.critical),
                    encode_extension(extension.value, critical=not extension.critical),
                    encode_extension(empty, critical=extension.critical),
                )
            },
        }
    assert replace(spec).digest == spec.digest
    assert len({variant.digest for variant in (spec, *variants.values())}) == 1 + len(variants)

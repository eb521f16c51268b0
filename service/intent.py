"""Audit records: the intent to sign a certificate, and the caller's token in any record."""

from __future__ import annotations

import hashlib
from datetime import datetime

from service.audit import AuditRecord
from service.pki import encoding
from service.pki.certificate import CertificateSpec
from service.pki.token_identity import TokenIdentity


def intent_record(
    spec: CertificateSpec,
    serial_number: int,
    now: datetime,
    *,
    request_id: str,
    principal: str,
    session: str = "",
) -> AuditRecord:
    """Return the intent to sign a certificate for a request at this time (UTC)."""
    return AuditRecord(
        event="intent",
        time=encoding.format_timestamp(now),
        request_id=request_id,
        principal=principal,
        session=session,
        profile=spec.profile.name,
        serial_number=encoding.format_serial(serial_number),
        names=tuple(map(str, spec.names)),
        common_name=spec.common_name,
        subject_public_key_sha256=hashlib.sha256(spec.subject_public_key_info).hexdigest(),
        content_sha256=spec.digest.hex(),
        not_before=encoding.format_timestamp(spec.not_before),
        not_after=encoding.format_timestamp(spec.not_after),
    )


def with_token(record: AuditRecord, token: TokenIdentity | None) -> AuditRecord:
    """Return a record with the claims that identify the caller's token, if it has one."""
    if token is None:
        return record
    return record._replace(token_issuer=token.issuer, token_subject=token.subject, token_id=token.token_id)

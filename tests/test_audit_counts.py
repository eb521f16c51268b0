"""What is counted of the audit log."""

from __future__ import annotations

from typing import Any

from service.audit import AuditRecord
from service.audit_counts import AuditCounts


def record(event: Any, profile: str = "", *reasons: str) -> AuditRecord:
    return AuditRecord(event, "2026-11-23T12:00:00Z", "r", "ci", profile, reasons=reasons)


def test_records_are_counted_by_event_and_labels() -> None:
    """An intent is not an outcome. A retry and each request of a batch count."""
    counts = AuditCounts()
    counts.add([record("intent", "server"), record("intent", "server"), record("intent", "client")])
    counts.add([record("result", "server"), record("result", "server"), record("result", "client")])
    counts.add([record("result", "server")])
    counts.add([record("revocation", "", "keyCompromise"), record("revocation")])
    assert sorted(counts.take()) == [
        ("result", ("client",), 1),
        ("result", ("server",), 3),
        ("revocation", ("",), 1),
        ("revocation", ("keyCompromise",), 1),
    ]


def test_reason_of_a_refusal_is_its_code() -> None:
    """Several reasons with one code have that code; others are compound. Details do not matter."""
    counts = AuditCounts()
    name = "rejectedIdentifier csr.names: a.example.com is not permitted"
    counts.add([record("refusal", "server", name), record("refusal", "server", name, name + "?")])
    counts.add(
        [
            record("refusal", "server", name, "badPublicKey csr: weak"),
            record("refusal", "", "unauthorized : x"),
        ]
    )
    assert sorted(counts.take()) == [
        ("refusal", ("", "unauthorized"), 1),
        ("refusal", ("server", "compound"), 1),
        ("refusal", ("server", "rejectedIdentifier"), 2),
    ]


def test_counts_are_taken_once() -> None:
    counts = AuditCounts()
    assert counts.take() == []
    counts.add([record("result", "server")])
    assert counts.take() == [("result", ("server",), 1)]
    assert counts.take() == []
    counts.add([record("intent", "server")])
    assert counts.take() == []

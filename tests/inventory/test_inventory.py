"""The inventory: what it reads from the audit log, and which certificates have a successor."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import audit
from service.inventory import Certificate, Inventory, Status, parse_certificate

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def timestamp(time: datetime) -> str:
    return time.replace(tzinfo=None).isoformat() + "Z"


def record(number: int = 1, event: Any = "result", *, day: int = 0, end: int = 90, **change: Any) -> bytes:
    """A line of the audit log, about a certificate of `day` that ends at `end` (days from NOW)."""
    values: dict[str, Any] = {
        "time": timestamp(NOW + day * DAY),
        "request_id": "r",
        "principal": "ci",
        "profile": "server",
        "serial_number": f"{number:02x}",
        "names": ("dns:a.example.com",),
        "common_name": "a.example.com",
        "not_after": timestamp(NOW + end * DAY),
        "fingerprint_sha256": "ab" * 32 if event == "result" else "",
    }
    return audit.serialize(audit.AuditRecord(event=event, **{**values, **change}))


def statuses(*lines: bytes, revoked: set[int] | None = None) -> dict[int, str]:
    """The status of each certificate of these lines, by serial number, in the order of the list."""
    with closing(Inventory(NOW)) as inventory:
        assert inventory.add_lines(lines).damaged == 0
        return {
            certificate.serial_number: status.value
            for certificate, status in inventory.certificates(revoked or ())
        }


def test_result_becomes_a_certificate() -> None:
    line = record(0x0A1B, names=("ip:10.0.0.1", "dns:a.example.com"))
    assert parse_certificate(line, NOW) == Certificate(
        serial_number=0x0A1B,
        not_after=NOW + 90 * DAY,
        time=NOW,
        profile="server",
        principal="ci",
        names=("dns:a.example.com", "ip:10.0.0.1"),
        common_name="a.example.com",
        fingerprint=b"\xab" * 32,
    )


@pytest.mark.parametrize(
    "line",
    [
        record(end=-1),
        record(1, "intent", end=-1),
        record(1, "refusal", serial_number="", reasons=("badCSR",)),
        record(1, "revocation", names=(), reasons=("keyCompromise",)),
        b'{"access":"2026-11-23T12:00:00Z","request_id":"r","path":"/sign","status":200}\n',
    ],
    ids=["expired", "expired intent", "refusal", "revocation", "access log"],
)
def test_other_records_are_no_certificates(line: bytes) -> None:
    """Expired certificates, other events and the access log are neither listed nor damaged."""
    assert parse_certificate(line, NOW) is None


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        record()[:200],
        record()[100:],
        b"Traceback (most recent call last):\n",
        b"[" * 100_000,
        b"\xff" + record(),
        b'["result"]\n',
        b"7\n",
        b'{"event":"ready"}\n',
        b'{"event":["result"]}\n',
        record(not_after=""),
        record(not_after="soon"),
        record(not_after="2027-01-01T00:00:00"),
        record(not_after="2027-01-01T00:00:00+01:00"),
        record(time=""),
        record(serial_number=""),
        record(serial_number="xyz"),
        record(profile=""),
        record(fingerprint_sha256=""),
        record(fingerprint_sha256="zz"),
        record(names="dns:a.example.com"),
        record(names=(1,)),
        record(names=("dns:a\0.example.com",)),
        *(record(**{name: 7}) for name in ("not_after", "time", "serial_number", "fingerprint_sha256")),
        *(record(**{name: 7}) for name in ("profile", "principal", "common_name")),
    ],
)
def test_damaged_line_is_no_record(line: bytes) -> None:
    """Such a line is counted; no value raises another error, and the lines around it are read."""
    with pytest.raises(ValueError):  # noqa: PT011 - the messages are not shown
        parse_certificate(line, NOW)
    with closing(Inventory(NOW)) as inventory:
        assert inventory.add_lines([record(1), line, record(2)]) == (3, 1, 2)
        assert {certificate.serial_number for certificate, _ in inventory.certificates()} == {1, 2}


@pytest.mark.parametrize(
    "line",
    [
        record(2**159 - 1),
        record(1, "intent"),
        record(names=(), common_name="x", principal="certificate:02"),
        record(
            names=("dns:\ud800", "dns:", "email:\u00fc@example.com"), common_name="\udfff", principal="\ud800"
        ),
        record(not_after="9999-12-31T23:59:59.999999Z", time="0001-01-01T00:00:00.000001Z"),
    ],
)
def test_certificate_is_listed_as_parsed(line: bytes) -> None:
    with closing(Inventory(NOW)) as inventory:
        inventory.add_lines([line])
        assert [certificate for certificate, _ in inventory.certificates()] == [parse_certificate(line, NOW)]


def test_memory_does_not_grow_with_the_log() -> None:
    """Neither certificates, expired or not, nor refusals and damaged lines stay in memory."""
    lines = [record(end=-1), record(2, "refusal"), b"damaged\n"]

    def read_lines(count: int) -> Iterator[bytes]:
        for number in range(1, count + 1):
            yield from (*lines, record(number, "intent"), record(number))

    with closing(Inventory(NOW)) as inventory:
        inventory.add_lines(read_lines(10))
        log = list(read_lines(2_000))  # CPython 3.11 never reuses the memory of 2,000 tuples of 20 items
        tracemalloc.start()
        try:
            assert inventory.add_lines(log) == (10_000, 2_000, 3)
            assert sum(1 for _ in inventory.certificates()) == 2_000
            assert tracemalloc.get_traced_memory()[1] < 100_000
        finally:
            tracemalloc.stop()


def test_intent_without_result_is_unconfirmed() -> None:
    """The certificate may exist. The order of the lines does not matter: logs may be read in any order."""
    assert statuses(record(1, "intent")) == {1: "unconfirmed"}
    for lines in ([record(1, "intent"), record(1)], [record(1), record(1, "intent")]):
        assert statuses(*lines) == {1: "valid"}


def test_result_may_be_far_from_its_intent() -> None:
    """Between them are more intents than are in memory."""
    lines = [record(number, "intent") for number in range(1, 1_203)]
    lines += [record(number) for number in range(2, 1_202)]
    expected = {1: "unconfirmed", **dict.fromkeys(range(2, 1_202), "valid"), 1_202: "unconfirmed"}
    assert statuses(*lines) == expected


@pytest.mark.parametrize("event", ["intent", "result"])
def test_first_record_of_a_retry_is_listed(event: str) -> None:
    lines = [record(1, event, day=-1), record(1, event)]
    for order in (lines, lines[::-1]):
        with closing(Inventory(NOW)) as inventory:
            inventory.add_lines(order)
            assert [certificate.time for certificate, _ in inventory.certificates()] == [NOW - DAY]


def test_list_is_sorted_by_end() -> None:
    lines = [record(number, names=(f"dns:{number}",), end=end) for number, end in ((1, 30), (2, 10), (3, 20))]
    assert list(statuses(*lines)) == [2, 3, 1]


@pytest.mark.parametrize(
    ("successor", "replaced"),
    [
        ({}, True),
        ({"names": ("dns:b.example.com",)}, False),
        ({"common_name": "b.example.com"}, False),
        ({"profile": "client"}, False),
        ({"principal": "ops"}, False),
        ({"event": "intent"}, False),
        ({"end": 90}, False),
        ({"day": -2}, False),
        ({"day": 0}, True),
    ],
)
def test_successor_is_a_later_result_for_the_same(successor: dict[str, Any], *, replaced: bool) -> None:
    """It has the same names, profile and principal; it is no intent, is not earlier, and ends later."""
    change = {"day": 30, "end": 120, **successor}
    before = record(1, end=90)
    assert statuses(before, record(2, **change))[1] == ("replaced" if replaced else "valid")
    assert statuses(record(2, **change), before)[1] == ("replaced" if replaced else "valid")


def test_callers_with_tokens_of_a_rule_are_one_principal() -> None:
    """The claims in the records do not matter, nor that records of earlier versions have none."""
    claims: dict[str, Any] = {
        "token_issuer": "https://a",
        "token_subject": "x" * 1024 + "\n\ud800",
        "token_id": "1",
    }
    first, second = (record(1, principal="oidc:deploy"), record(2, principal="oidc:deploy", day=1, end=91))
    token = record(1, principal="oidc:deploy", **claims)
    assert parse_certificate(token, NOW) == parse_certificate(first, NOW)
    later = record(2, principal="oidc:deploy", day=1, end=91, **claims | {"token_id": "2"})
    for lines in ((first, second), (first, later), (token, later)):
        assert statuses(*lines) == {1: "replaced", 2: "valid"}


def test_names_in_another_order_are_the_same() -> None:
    names = ("dns:a.example.com", "dns:b.example.com")
    lines = [record(1, names=names), record(2, names=names[::-1], day=30, end=120)]
    assert statuses(*lines) == {1: "replaced", 2: "valid"}


def test_revoked_certificate_is_no_successor() -> None:
    """A certificate whose only successor was revoked expires; a revoked certificate is not replaced."""
    lines = [record(1, end=90), record(2, day=30, end=120), record(3, day=60, end=150)]
    assert statuses(*lines) == {1: "replaced", 2: "replaced", 3: "valid"}
    assert statuses(*lines, revoked={3}) == {1: "replaced", 2: "valid", 3: "revoked"}
    assert statuses(*lines, revoked={2, 3}) == {1: "valid", 2: "revoked", 3: "revoked"}


def test_renewal_with_a_client_certificate_is_a_successor() -> None:
    """Its principal is the certificate that it renews, also for a series of renewals."""
    lines = [
        record(1, end=90),
        record(2, day=30, end=120, principal="certificate:01"),
        record(3, day=60, end=150, principal="certificate:02"),
    ]
    assert statuses(*lines) == {1: "replaced", 2: "replaced", 3: "valid"}
    assert statuses(*lines[1:]) == {2: "replaced", 3: "valid"}
    other = record(4, day=30, end=120, principal="certificate:01", names=("dns:b.example.com",))
    assert statuses(lines[0], other) == {1: "valid", 4: "valid"}


def test_circular_principals_end() -> None:
    """No service writes such records, but the log is a file."""
    lines = [record(1, principal="certificate:02"), record(2, principal="certificate:01")]
    assert set(statuses(*lines, record(3, principal="certificate:x")).values()) == {"valid"}


@given(
    st.lists(
        st.tuples(
            st.integers(-30, 5),
            st.integers(0, 8),
            st.sampled_from(["a", "b"]),
            st.sampled_from(["ci", "ops"]),
            st.sampled_from(["result", "intent"]),
            st.booleans(),
        ),
        max_size=12,
    ),
    st.randoms(),
)
def test_statuses_follow_the_definition(
    certificates: list[tuple[int, int, str, str, str, bool]], random: Any
) -> None:
    """Each certificate has the status that the definition gives it, compared pair by pair, in any order of lines."""
    lines = [
        record(number, event, day=day, end=end, names=(name,), principal=principal)
        for number, (day, end, name, principal, event, _) in enumerate(certificates, 1)
    ]
    random.shuffle(lines)
    revoked = {number for number, certificate in enumerate(certificates, 1) if certificate[5]}
    expected = {}
    for number, (day, end, name, principal, event, is_revoked) in enumerate(certificates, 1):
        has_successor = any(
            other[2:] == (name, principal, "result", False) and other[0] >= day and other[1] > end
            for other in certificates
        )
        expected[number] = (
            Status.REVOKED
            if is_revoked
            else Status.REPLACED
            if has_successor
            else Status.VALID
            if event == "result"
            else Status.UNCONFIRMED
        )
    assert statuses(*lines, revoked=revoked) == expected


@given(
    st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists),
    st.data(),
)
def test_no_value_raises_another_error(value: Any, data: Any) -> None:
    """Any JSON in place of a field makes the line a certificate, nothing, or a ValueError."""
    fields = json.loads(record())
    fields[data.draw(st.sampled_from(sorted(fields)))] = value
    try:
        certificate = parse_certificate(json.dumps(fields).encode(), NOW)
    except ValueError:
        return
    assert certificate is None or isinstance(certificate.serial_number, int)

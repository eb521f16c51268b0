"""The printed matrix: a row for every profile, CA key type and subject key type, a column for every verifier."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from tests.interop.certificate_cases import DEFECTS, Case
from tests.interop.known_deviations import (
    UNCHECKED_DEFECTS,
    UNSUPPORTED_KEYS,
    KnownDeviation,
    known_deviation,
    mismatch,
)
from tests.interop.verifiers import NAMES, Results

LEGEND = "ok: as expected · number: known deviation, see below · FAIL: unexpected result"


def _cell(results: Results, verifier: str, cases: list[Case], numbers: dict[KnownDeviation, int]) -> str:
    """Return a verifier's worst result for the cases."""
    if any(mismatch(verifier, case, results[verifier, case]) for case in cases):
        return "FAIL"
    deviations = {numbers[deviation] for case in cases if (deviation := known_deviation(verifier, case))}
    return ",".join(map(str, sorted(deviations))) or "ok"


def _row(headings: tuple[str, ...], cells: tuple[str, ...]) -> str:
    widths = (7, 18, 53) if len(headings) == 3 else (80,)
    left = " ".join(heading.ljust(width) for heading, width in zip(headings, widths, strict=True))
    right = " ".join(cell.rjust(max(len(name), 4)) for cell, name in zip(cells, NAMES, strict=True))
    return f"{left} {right}"


def format_matrix(results: Results, seconds: dict[str, float]) -> Iterator[str]:
    """Yield the lines: certificates, defects, known deviations and times; keys with the same results share a line."""
    numbers = {
        deviation: number for number, deviation in enumerate((*UNSUPPORTED_KEYS, *UNCHECKED_DEFECTS), 1)
    }
    cases = sorted({case for _, case in results}, key=lambda case: (case.profile, case.ca, case.key_type))
    valid_cases = [case for case in cases if not case.defect]
    yield f"{len(valid_cases)} checks of valid certificates, {len(cases) - len(valid_cases)} of certificates with a defect, {len(NAMES)} verifiers. {LEGEND}"
    yield _row(("profile", "CA key", "subject keys"), NAMES)
    for (profile, ca), group in groupby(valid_cases, key=lambda case: (case.profile, case.ca)):
        rows: dict[tuple[str, ...], list[str]] = {}
        for key_type, same_key in groupby(group, key=lambda case: case.key_type):
            key_cases = list(same_key)
            cells = tuple(_cell(results, verifier, key_cases, numbers) for verifier in NAMES)
            rows.setdefault(cells, []).append(key_type)
        for cells, key_types in rows.items():
            yield _row((profile, ca, " ".join(key_types) if len(rows) > 1 else "all"), cells)
    yield _row(("defects, where the verifier supports the keys",), NAMES)
    for defect in DEFECTS:
        supported = {verifier: [case for case in cases if case.defect == defect and known_deviation(verifier, case) not in UNSUPPORTED_KEYS] for verifier in NAMES}  # fmt: skip
        yield _row(
            (defect,), tuple(_cell(results, verifier, supported[verifier], numbers) for verifier in NAMES)
        )
    yield "known deviations"
    labels_by_reason: dict[str, list[str]] = {}
    for deviation, number in numbers.items():
        labels_by_reason.setdefault(deviation.reason, []).append(f"[{number}] {deviation.verifier}")
    for reason, labels in labels_by_reason.items():
        yield f"  {', '.join(labels)}: {reason}"
    yield "seconds: " + ", ".join(f"{names} {duration:.1f}" for names, duration in seconds.items())

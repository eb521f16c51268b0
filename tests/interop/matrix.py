"""The matrix, as it is printed: every profile, kind of CA key and kind of subject key, judge by judge."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from tests.interop.certificate_cases import TWINS, Case
from tests.interop.known_deviations import KINDS, OVERSIGHTS, Gap, fault, gap
from tests.interop.verifiers import NAMES, Verdicts

LEGEND = "ok: judged rightly · a number: a gap, see below · FAIL: neither"


def _cell(verdicts: Verdicts, judge: str, cases: list[Case], numbers: dict[Gap, int]) -> str:
    """One judge's in a word: of several cases, the worst."""
    if any(fault(judge, case, verdicts[judge, case]) for case in cases):
        return "FAIL"
    found = {numbers[each] for case in cases if (each := gap(judge, case))}
    return ",".join(map(str, sorted(found))) or "ok"


def _row(heads: tuple[str, ...], cells: tuple[str, ...]) -> str:
    widths = (7, 18, 53) if len(heads) == 3 else (80,)
    left = " ".join(head.ljust(width) for head, width in zip(heads, widths, strict=True))
    right = " ".join(cell.rjust(max(len(name), 4)) for cell, name in zip(cells, NAMES, strict=True))
    return f"{left} {right}"


def lines(verdicts: Verdicts, seconds: dict[str, float]) -> Iterator[str]:
    """The whole: certificates, twins, gaps, times. Subject keys that are judged alike share a line."""
    numbers = {each: number for number, each in enumerate((*KINDS, *OVERSIGHTS), 1)}
    cases = sorted({case for _, case in verdicts}, key=lambda case: (case.profile, case.ca, case.kind))
    positives = [case for case in cases if not case.twin]
    yield f"{len(positives)} questions on certificates, {len(cases) - len(positives)} on twins, {len(NAMES)} judges. {LEGEND}"
    yield _row(("profile", "CA key", "subject keys"), NAMES)
    for (profile, ca), group in groupby(positives, key=lambda case: (case.profile, case.ca)):
        alike: dict[tuple[str, ...], list[str]] = {}
        for kind, same in groupby(group, key=lambda case: case.kind):
            asked = list(same)
            cells = tuple(_cell(verdicts, judge, asked, numbers) for judge in NAMES)
            alike.setdefault(cells, []).append(kind)
        for cells, kinds in alike.items():
            yield _row((profile, ca, " ".join(kinds) if len(alike) > 1 else "all"), cells)
    yield _row(("negative twins, where the judge knows the keys",), NAMES)
    for twin in TWINS:
        known = {judge: [case for case in cases if case.twin == twin and gap(judge, case) not in KINDS] for judge in NAMES}  # fmt: skip
        yield _row((twin,), tuple(_cell(verdicts, judge, known[judge], numbers) for judge in NAMES))
    yield "gaps"
    merged: dict[str, list[str]] = {}
    for each, number in numbers.items():
        merged.setdefault(each.why, []).append(f"[{number}] {each.judge}")
    for why, judges in merged.items():
        yield f"  {', '.join(judges)}: {why}"
    yield "seconds: " + ", ".join(f"{names} {took:.1f}" for names, took in seconds.items())

"""Counts of what a process writes into the audit log, for the metrics of `certlet serve`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from service.audit import AuditRecord

_Outcome = tuple[str, tuple[str, ...]]


class AuditCounts:
    """Counts of results and refusals by profile, and of refusals and revocations by reason."""

    def __init__(self) -> None:
        self._counts: Counter[_Outcome] = Counter()

    def add(self, entries: Iterable[AuditRecord]) -> None:
        """Count records that were written."""
        self._counts.update(_outcome(entry) for entry in entries if entry.event != "intent")

    def take(self) -> list[tuple[str, tuple[str, ...], int]]:
        """Return event, labels and number of all records since the last call; empty if there are none.

        The label of a result is its profile, those of a refusal are its profile and the code of its reason,
        that of a revocation is its reason; '' for none. A refusal with several codes has `compound`.
        """
        counts, self._counts = self._counts, Counter()
        return [(event, labels, number) for (event, labels), number in counts.items()]


def _outcome(entry: AuditRecord) -> _Outcome:
    match entry.event:
        case "refusal":
            codes = {reason.partition(" ")[0] for reason in entry.reasons}
            return "refusal", (entry.profile, codes.pop() if len(codes) == 1 else "compound")
        case "revocation":
            return "revocation", ("".join(entry.reasons),)
        case _:
            return entry.event, (entry.profile,)

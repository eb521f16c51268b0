"""`certlet check`: problems of the certificate profiles, or warnings, with file and line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from service import contract
from service.overrides import OverridesError, Source, verify
from service.pki.profile_loader import JSONPath, ProfileError

_IN_CONTRACT: Final = {
    "profiles": (contract.PROFILES,),
    "principals": (contract.PRINCIPALS,),
    "default": ("components", "schemas", "ProfileName", "default"),
}


@dataclass(frozen=True, order=True)
class Finding:
    """One fault, or one warning."""

    file: str
    line: int
    text: str
    is_fault: bool = True

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {'' if self.is_fault else 'warning: '}{self.text}"


def lint(overrides: Path | None) -> list[Finding]:
    """Every fault of the profiles, or every warning if there is no fault, sorted by file and line.

    Args:
        overrides: the operator's own profiles; None for those of the contract only.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        document = contract.load(overrides)
    except OverridesError as error:
        return [Finding(str(overrides), line, detail) for line, detail in error.problems]
    in_contract = Source(contract.source(), "CSafeLoader")

    def line(path: JSONPath) -> int:
        return in_contract.line((*_IN_CONTRACT[str(path[0])], *path[1:]))

    try:
        if overrides is None:
            verify(contract.policy(document))
    except ProfileError as error:
        return sorted(Finding("openapi.yaml", line(fault.path), str(fault)) for fault in error.faults)
    findings = []
    in_overrides = Source.read(overrides) if overrides else None
    for name, text in contract.profiles(document).warnings():
        path = ("profiles", name)
        if in_overrides and path in in_overrides.lines:
            findings.append(Finding(str(overrides), in_overrides.lines[path], text, is_fault=False))
        else:
            findings.append(Finding("openapi.yaml", line(path), text, is_fault=False))
    return sorted(findings)

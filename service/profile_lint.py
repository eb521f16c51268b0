"""`certlet check`: problems of the certificate profiles, or warnings, with file and line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from service import openapi
from service.overrides import OverridesError, YAMLSource, verify_policy
from service.pki.profile import Revocation, format_duration
from service.pki.profile_loader import JSONPath, ProfileError

_IN_CONTRACT: Final = {
    "profiles": (openapi.PROFILES,),
    "principals": (openapi.PRINCIPALS,),
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

    `overrides` are the operator's own profiles, or None; OSError if they cannot be read.
    """
    in_contract = YAMLSource(openapi.read_source(), "CSafeLoader")

    def line(path: JSONPath) -> int:
        return in_contract.locate((*_IN_CONTRACT[str(path[0])], *path[1:]))

    try:
        document = openapi.load(overrides)
        if overrides is None:
            verify_policy(openapi.policy_data(document))
    except OverridesError as error:
        return [Finding(str(overrides), *problem) for problem in error.problems]
    except ProfileError as error:
        return sorted(Finding("openapi.yaml", line(fault.path), str(fault)) for fault in error.violations)
    lines = YAMLSource.from_file(overrides).lines if overrides else {}
    findings = []
    for profile in openapi.parse_policy(document):
        if profile.revocation is Revocation.NONE and profile.max_validity > profile.short_lived:
            path = ("profiles", profile.name)
            place = (str(overrides), lines[path]) if path in lines else ("openapi.yaml", line(path))
            text = f"nobody can revoke certificates of up to {format_duration(profile.max_validity)}"
            findings.append(Finding(*place, f"{profile.name}: {text}", is_fault=False))
    return sorted(findings)

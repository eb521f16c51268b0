"""`certlet check`: list the problems of the certificate profiles, or warnings, with file and line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from service import openapi
from service.overrides import OverridesError, YAMLSource, verify_policy
from service.pki.profile import Profile, Revocation, format_duration
from service.pki.profile_loader import JSONPath, ProfileError

HTTP_ONLY: Final = "nginx and other verifiers do not fetch it by https: name an http:// URL"

_IN_CONTRACT: Final = {
    "profiles": (openapi.PROFILES,),
    "principals": (openapi.PRINCIPALS,),
    "default": ("components", "schemas", "ProfileName", "default"),
}


@dataclass(frozen=True, order=True)
class Finding:
    """One error or warning."""

    file: str
    line: int
    text: str
    is_error: bool = True

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {'' if self.is_error else 'warning: '}{self.text}"


def lint(overrides: Path | None) -> list[Finding]:
    """List the errors of the profiles, or the warnings if there are no errors, sorted by file and line.

    Args:
        overrides: the operator's profiles file, if any.

    Raises:
        OSError: the file cannot be read.
    """
    contract = YAMLSource(openapi.read_source(), "CSafeLoader")

    def locate(path: JSONPath) -> int:
        return contract.locate((*_IN_CONTRACT[str(path[0])], *path[1:]))

    try:
        document = openapi.load(overrides)
        if overrides is None:
            verify_policy(openapi.policy_data(document))
    except OverridesError as error:
        return [Finding(str(overrides), *problem) for problem in error.problems]
    except ProfileError as error:
        return sorted(
            Finding("openapi.yaml", locate(violation.path), str(violation)) for violation in error.violations
        )
    lines = YAMLSource.from_file(overrides).lines if overrides else {}
    findings = []
    for profile in openapi.parse_policy(document):
        path = ("profiles", profile.name)
        position = (str(overrides), lines[path]) if path in lines else ("openapi.yaml", locate(path))
        findings += [
            Finding(*position, f"{profile.name}: {text}", is_error=False) for text in _warnings(profile)
        ]
    return sorted(findings)


def _warnings(profile: Profile) -> Iterator[str]:
    if profile.revocation is Revocation.NONE and profile.max_validity > profile.short_lived:
        yield f"certificates valid for up to {format_duration(profile.max_validity)} cannot be revoked"
    for url in (profile.ca_issuers, profile.crl):
        if is_https(url):
            yield f"{url}: {HTTP_ONLY}"
    if not profile.certificate_policies:
        yield "certificates cannot be renewed, except by certlet renew --profile: set certificate_policies"


def is_https(url: str) -> bool:
    """Whether verifiers need HTTPS for this URL, and so the status of one more certificate."""
    return url.lower().startswith("https:")

"""`certlet check`: list the problems of the certificate profiles, or warnings, with file and line."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from service import openapi
from service.overrides import OverridesError, YAMLSource, verify_policy
from service.pki.identity_rules import IdentityRule
from service.pki.policy_parser import JSONPath, ProfileError
from service.pki.profile import Profile, Revocation, format_duration
from service.pki.token_identity import KeysUnavailableError
from service.settings import identity_directory, is_loopback

HTTP_ONLY: Final = "nginx and other verifiers do not fetch it by https: name an http:// URL"
LOOPBACK: Final = "only this machine reaches it: name a host that verifiers reach"

_IN_CONTRACT: Final = {
    "profiles": (openapi.PROFILES,),
    "principals": (openapi.PRINCIPALS,),
    "identities": (openapi.IDENTITIES,),
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


def lint(overrides: Path | None, *, has_status_url: bool = False) -> list[Finding]:
    """List the errors of the profiles, or the warnings if there are no errors, sorted by file and line.

    Args:
        overrides: the operator's profiles file, if any.
        has_status_url: whether the service has a URL for its own CRLs and OCSP.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        document = openapi.load(overrides)
        if overrides is None:
            verify_policy(openapi.policy_data(document))
    except OverridesError as error:
        return [Finding(str(overrides), *problem) for problem in error.problems]
    except ProfileError as error:
        return sorted(
            Finding("openapi.yaml", _locate(violation.path), str(violation)) for violation in error.violations
        )
    source = YAMLSource.from_file(overrides) if overrides else None
    lines = source.lines if source else {}
    limited = openapi.parse_policy(document)
    findings = []
    if source and overrides and limited.identities:
        findings = [
            Finding(str(overrides), source.locate(path), text)
            for path, text in _find_key_violations(limited.identities, identity_directory(overrides))
        ]
        findings += [
            Finding(str(overrides), source.locate(path), text, is_error=False)
            for path, text in _find_unrestricted_names(limited.identities)
        ]
    for profile in openapi.parse_policy(document, "http://example.com"):
        path, warnings = ("profiles", profile.name), [*_warnings(profile)]
        if path in lines and not has_status_url:
            warnings += _limit_warnings(limited.get(profile.name), profile.max_validity)
        if warnings:
            position = (str(overrides), lines[path]) if path in lines else ("openapi.yaml", _locate(path))
            findings += [Finding(*position, f"{profile.name}: {text}", is_error=False) for text in warnings]
    return sorted(findings)


def _locate(path: JSONPath) -> int:
    """Return the line of a part of the policy in the contract."""
    return _contract().locate((*_IN_CONTRACT[str(path[0])], *path[1:]))


@functools.cache
def _contract() -> YAMLSource:
    return YAMLSource(openapi.read_source(), "CSafeLoader")


def _find_key_violations(rules: Sequence[IdentityRule], directory: Path) -> Iterator[tuple[JSONPath, str]]:
    """Yield what is wrong with the files of rules for tokens. Nothing is downloaded."""
    from service.oidc.key_sets import create_key_sets  # noqa: PLC0415 - slow to import

    for rule in rules:
        member = "jwks_file" if rule.jwks_file else "ca_file" if rule.ca_file else "jwks_url"
        try:
            key_set = create_key_sets([rule], directory, lambda: datetime.now(UTC))[rule.name]
            if rule.jwks_file:
                key_set.find("", "")
        except (ValueError, KeysUnavailableError) as error:
            yield ("identities", rule.name, member), str(error)


def _find_unrestricted_names(rules: Sequence[IdentityRule]) -> Iterator[tuple[JSONPath, str]]:
    """Yield where a rule for tokens permits all names of a kind."""
    for rule in rules:
        for kind, policy in rule.names.to_dict().items():
            if isinstance(policy, dict) and not {"permitted", "hosts"} & policy.keys():
                path = ("identities", rule.name, "names", kind)
                yield path, f"rule {rule.name}: names of kind {kind} are not restricted: set permitted"


def _limit_warnings(profile: Profile, max_validity: timedelta) -> Iterator[str]:
    if profile.max_validity < max_validity:
        yield (
            f"certificates are valid for up to {format_duration(profile.max_validity)} without a status URL: "
            "set it with certlet init --url, or set revocation: none"
        )


def _warnings(profile: Profile) -> Iterator[str]:
    if profile.revocation is Revocation.NONE and profile.max_validity > profile.short_lived:
        yield f"certificates valid for up to {format_duration(profile.max_validity)} cannot be revoked"
    for url in (profile.ca_issuers, profile.crl, profile.ocsp):
        yield from find_url_problems(url)
    if not profile.certificate_policies:
        yield "certificates cannot be renewed, except by certlet renew --profile: set certificate_policies"


def find_url_problems(url: str) -> Iterator[str]:
    """Yield why verifiers may not reach a URL of a CRL, an OCSP responder or an issuer's certificate."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        host = ""
    if url.lower().startswith("https:"):  # they would need the status of one more certificate
        yield f"{url}: {HTTP_ONLY}"
    if is_loopback(host):
        yield f"{url}: {LOOPBACK}"

"""`certlet check`: what is wrong with the certificate profiles."""

from __future__ import annotations

from pathlib import Path

import click

from service import profile_lint
from service.cli import options


@click.command(epilog="Example: certlet check --profiles own.yaml")
@options.profiles_option
def check(*, profiles: Path | None) -> int:
    """Check the certificate profiles, your own among them."""
    findings = profile_lint.lint(profiles)
    for finding in findings:
        click.echo(finding)
    return int(any(finding.is_error for finding in findings))

"""`certlet check`: check the certificate profiles."""

from __future__ import annotations

from pathlib import Path

import click

from service import profile_lint
from service.cli import options


@click.command(epilog="Example: certlet check --profiles own.yaml")
@options.profiles_option
def check(*, profiles: Path | None) -> int:
    """Check the certificate profiles.

    Exit status: 0 if the profiles are valid, even with warnings; 1 if they are not.
    """
    findings = profile_lint.lint(profiles)
    for finding in findings:
        click.echo(finding)
    return int(any(finding.is_error for finding in findings))

"""`certlet check`: check the certificate profiles."""

from __future__ import annotations

from pathlib import Path

import click

from service import profile_lint
from service.cli import options
from service.keystore import ca_directory


@click.command(epilog="Example: certlet check --profiles own.yaml")
@options.profiles_option
@options.ca_option
def check(*, profiles: Path | None, ca: Path) -> int:
    """Check the certificate profiles.

    If there is a CA, its keys of serial numbers are checked, too.

    Exit status: 0 if the profiles are valid, even with warnings; 1 if they are not.
    """
    findings = profile_lint.lint(profiles)
    for finding in findings:
        click.echo(finding)
    if ca_directory.has_ca(ca) and ca_directory.load_serial_keys(ca) is None:
        click.echo(
            f"{ca / ca_directory.SERIAL_KEY}: warning: does not exist, so the CA does not recognise its "
            "serial numbers: no OCSP, no ARI, no end of CRL entries (certlet rotate-serial-key creates it)"
        )
    return int(any(finding.is_error for finding in findings))

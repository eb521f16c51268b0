"""The command line. Errors are one clear line on stderr and a non-zero exit, never a traceback.

making       new
signing      sign
renewing     renew
showing      show, with what inspection finds
trusting     trust
serving      serve, key
ceremonies   init, rollover, revoke, openapi, check
completing   completion
arguments    what several of them take
terminal     what they print
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import warnings
from collections.abc import Sequence

from service import client
from service.cli import (
    arguments,
    ceremonies,
    completing,
    making,
    renewing,
    serving,
    showing,
    signing,
    trusting,
)
from service.cli.terminal import ArgumentsError, CommandError, say, warn
from service.foreman import ServeError
from service.gateway import usage
from service.pki.errors import IssuanceError


def main(given: list[str] | None = None) -> int:
    """Run `certlet` with these arguments (those of the process for None).

    Returns:
        0; 1 if it failed; 2 if the arguments make no sense; 130 after Ctrl-C; 141 if nobody reads on.
    """
    # The library warns of common names of more than 64 octets; we count characters.
    warnings.filterwarnings("ignore", "Attribute's length", UserWarning)
    status = 1
    try:
        options = parser().parse_args(given)
        return int(options.run(options) or 0)
    except ArgumentsError as error:
        message, status = str(error), 2
    except (CommandError, client.ClientError, ServeError, usage.KeyFileError, IssuanceError) as error:
        message = str(error)
    except BrokenPipeError:
        # Who reads has enough, as head has: nothing is wrong, and what is still in the buffer goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
    except KeyboardInterrupt:
        return 130
    warn(f"certlet: {message}")
    return status


class _Version(argparse.Action):
    """Says the contract's version, which is the package's: read only where it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:  # noqa: A002 - argparse's
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        say(f"certlet {arguments.document(None)['info']['version']}")
        parser.exit()


def parser() -> argparse.ArgumentParser:
    """What reads the arguments, with every command that there is."""
    made = argparse.ArgumentParser(
        prog="certlet",
        description="A private certificate authority.",
        epilog="Exit status: 0 if it is done; 1 if it is refused or fails, and stderr says why; "
        "2 if the arguments make no sense.",
    )
    made.add_argument("--version", action=_Version, help="say which version this is")
    commands = made.add_subparsers(metavar="COMMAND", required=True)
    # In the order that --help has them: who needs a certificate comes first.
    making.add_to(commands)
    signing.add_to(commands)
    renewing.add_to(commands)
    showing.add_to(commands)
    trusting.add_to(commands)
    serving.add_to(commands)
    ceremonies.add_to(commands)
    completing.add_to(commands, made)
    return made

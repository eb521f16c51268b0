"""The command line: an error is one line on stderr and a non-zero exit status, never a traceback.

Each command has a module of its name, except that `ca` has `init`, `rollover`, `rotate-serial-key` and
`sign-ca-status`, `print_openapi` has `openapi`, and `list_certificates` has `list`. `options` has the shared
options, `input_files` reads files that arguments name, `terminal` prints, and `inspection` analyses files for
`show`.
"""

from __future__ import annotations

import gc

gc.set_threshold(50_000)  # allocations between collections; most objects live until the command ends

# ruff: noqa: E402 - the imports create most objects
import importlib
import os
import signal
import sys
import warnings
from typing import Final

import click

from service import exit_status
from service.cli.terminal import Group, describe_os_error, warn
from service.exit_status import ExitStatus

COMPLETION: Final = "_CERTLET_COMPLETE"  # set by the completion script of a shell

# The module and the summary of each command. With these, --help and completion need not import the modules.
_COMMANDS: Final = {
    "new": ("new", "Create a private key and get a certificate for it."),
    "sign": ("sign", "Get certificates for certificate signing requests (CSRs)."),
    "renew": ("renew", "Renew certificates that expire soon."),
    "show": ("show", "Explain a CSR, a certificate or the chain of a server, and list errors."),
    "login": ("login", "Store a service, its root and an API key for the other commands."),
    "logout": ("contexts", "Delete a context, and with it the API key on this machine."),
    "context": ("contexts", "Choose between the services of certlet login."),
    "verify": ("verify", "Verify the chain of a certificate or of a server."),
    "trust": ("trust", "Print the commands that add the root to trust stores."),
    "serve": ("serve", "Run the certificate authority on this machine."),
    "list": ("list_certificates", "List the certificates that have not expired."),
    "api-key": ("api_key", "Manage the API keys of the local gateway."),
    "acme": ("acme", "Manage the principals that may have ACME accounts."),
    "init": ("ca", "Create a root CA and a signing CA."),
    "rollover": ("ca", "Create the successor of a CA."),
    "revoke": ("revoke", "Revoke a certificate."),
    "rotate-serial-key": ("ca", "Add a new key for serial numbers."),
    "sign-ca-status": ("ca", "Sign the OCSP responses about the signing CA again."),
    "openapi": ("print_openapi", "Print the OpenAPI document."),
    "doctor": ("doctor", "Find what is wrong with this machine, a CA and a service."),
    "check": ("check", "Check the certificate profiles."),
    "completion": ("completion", "Print a completion script for a shell."),
}


def main(argv: list[str] | None = None) -> int:
    """Run `certlet` with these arguments (default: `sys.argv`), and return the exit status."""
    # The library warns about common names of more than 64 bytes (the limit is 64 characters) and about serial
    # numbers that are not positive. Its warnings quote our source code.
    for message in ("Attribute's length", "Parsed a serial number"):
        warnings.filterwarnings("ignore", message, UserWarning)
    _open_closed_streams()
    _handle_signals()
    status: int = ExitStatus.REFUSED
    try:
        if instruction := os.environ.get(COMPLETION):
            from click.shell_completion import shell_complete  # noqa: PLC0415 - slow to import

            return shell_complete(certlet, {}, "certlet", COMPLETION, instruction)
        with certlet.make_context("certlet", sys.argv[1:] if argv is None else argv) as context:
            return int(certlet.invoke(context) or 0)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.UsageError as error:
        message, status = _format_usage_error(error), error.exit_code
    except BrokenPipeError:  # the reader, such as head, closed the pipe
        _discard_output()
        return 128 + signal.SIGPIPE
    except OSError as error:
        message, status = describe_os_error(error), exit_status.of_error(error)
    except (KeyboardInterrupt, click.Abort):
        return 128 + signal.SIGINT
    except Exception as error:
        if not type(error).__module__.startswith("service."):  # the messages of our own errors are complete
            raise
        message, status = str(error), exit_status.of_error(error)
    _discard_output()
    warn(f"certlet: {message}")
    return status


def _discard_output() -> None:
    """Discard output that cannot be written. Python would try again at the exit, with the exit status 120."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_closed_streams() -> None:
    """Open /dev/null as each standard stream that the caller closed, for which Python has None."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)  # the lowest that is free: that of the stream
            os.set_inheritable(descriptor, True)  # noqa: FBT003 - a standard library signature
            setattr(sys, name, os.fdopen(descriptor, mode, closefd=False))


def _handle_signals() -> None:
    """Raise SystemExit for a signal that would kill the process, so that temporary files are deleted."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup has it ignored
            signal.signal(number, lambda number, _: sys.exit(128 + number))


def _format_usage_error(error: click.UsageError) -> str:
    """Format a usage error as one line that refers to the --help of the command."""
    message = " ".join(error.format_message().split()).removesuffix(".")
    command = error.ctx.command_path if error.ctx else "certlet"
    return f"{message[:1].lower()}{message[1:]} (see {command} --help)"


class _Command(click.Command):
    """A command whose module is imported on first use."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **context_settings: object,
    ) -> click.Context:
        """Import the command's module, and create the context of the real command."""
        module = importlib.import_module(f"service.cli.{_COMMANDS[str(self.name)][0]}")
        command = next(
            value
            for value in vars(module).values()
            if isinstance(value, click.Command) and value.name == self.name
        )
        return command.make_context(info_name, args, parent, **context_settings)


def _print_version(ctx: click.Context, _: click.Parameter, value: object) -> None:
    """Print the version, which is that of the contract and of the package."""
    if value:
        from service.cli import options, terminal  # noqa: PLC0415 - slow to import

        terminal.echo(f"certlet {options.load_document(None)['info']['version']}")
        ctx.exit()


@click.group(
    cls=Group,
    uses_service=True,
    commands=[_Command(name, short_help=text) for name, (_, text) in _COMMANDS.items()],
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
    epilog="Example: certlet new www.example.com",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version and exit.",
)
def certlet() -> None:
    """Run a private certificate authority, and get certificates from it."""

"""The command line. Errors are one clear line on stderr and a non-zero exit, never a traceback.

Each command is the module of its name; `init`, `rollover` and `revoke` are in `ca`. `options` has what
several commands take, `terminal` prints, `inspection` is behind `show`.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import warnings
from typing import Final

import click
from click.shell_completion import shell_complete

from service.cli.terminal import os_error, warn

COMPLETION: Final = "_CERTLET_COMPLETE"  # the variable by which a shell asks for completions

# Each command with its module and its first sentence: --help and a shell's Tab load nothing else.
_COMMANDS: Final = {
    "new": ("new", "Make a private key and have its certificate signed."),
    "sign": ("sign", "Have certificate signing requests signed."),
    "renew": ("renew", "Have certificates that end soon signed again."),
    "show": ("show", "Print what is in a request or certificate."),
    "trust": ("trust", "Print the commands that make a machine trust the root."),
    "serve": ("serve", "Serve the contract on this machine."),
    "api-key": ("api_key", "Manage the API keys of the local gateway."),
    "init": ("ca", "Make a root CA and a signing CA."),
    "rollover": ("ca", "Make the CA that takes over from another."),
    "revoke": ("ca", "Revoke a certificate."),
    "openapi": ("print_openapi", "Print the document that API Gateway imports."),
    "check": ("check", "Check the certificate profiles, your own among them."),
    "completion": ("completion", "Print what lets a shell complete the arguments of certlet."),
}


def main(argv: list[str] | None = None) -> int:
    """Run `certlet` with these arguments (those of the process for None): the exit status."""
    # The library warns of common names of more than 64 octets, where we count characters, and of serial
    # numbers that are not positive, in lines that name its caller's source.
    for message in ("Attribute's length", "Parsed a serial number"):
        warnings.filterwarnings("ignore", message, UserWarning)
    status = 1
    try:
        if instruction := os.environ.get(COMPLETION):
            return shell_complete(certlet, {}, "certlet", COMPLETION, instruction)
        with certlet.make_context("certlet", sys.argv[1:] if argv is None else argv) as context:
            return int(certlet.invoke(context) or 0)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.UsageError as error:
        message, status = _usage(error), error.exit_code
    except BrokenPipeError:
        # The reader has enough, as head has: that is no error. What is still in the buffer goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        message = os_error(error)
    except (KeyboardInterrupt, click.Abort):
        return 128 + signal.SIGINT
    except Exception as error:
        if not type(error).__module__.startswith("service."):  # our own errors are written for people
            raise
        message = str(error)
    warn(f"certlet: {message}")
    return status


def _usage(error: click.UsageError) -> str:
    """A usage error as one line: what is wrong, then which help to read."""
    message = " ".join(error.format_message().split()).removesuffix(".")
    command = error.ctx.command_path if error.ctx else "certlet"
    return f"{message[:1].lower()}{message[1:]} (see {command} --help)"


class _Command(click.Command):
    """A command whose module is loaded when it runs, completes its arguments or explains itself."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: object
    ) -> click.Context:
        """The context of the command itself."""
        module = importlib.import_module(f"service.cli.{_COMMANDS[str(self.name)][0]}")
        command: click.Command = getattr(module, str(self.name).replace("-", "_"))
        return command.make_context(info_name, args, parent, **extra)


def _print_version(ctx: click.Context, _: click.Parameter, value: object) -> None:
    """Print the contract's version, which is the package's."""
    if value:
        from service.cli import options, terminal  # noqa: PLC0415 - the contract is read only for this

        terminal.say(f"certlet {options.load_document(None)['info']['version']}")
        ctx.exit()


@click.group(
    commands=[_Command(name, short_help=text) for name, (_, text) in _COMMANDS.items()],
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
    epilog="Exit status: 0 if it is done; 1 if it is refused or fails, and stderr says why; 2 if the "
    "arguments make no sense.",
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
    """Run a private certificate authority, and get certificates from one."""

"""Options that several commands share, and parsers of their values."""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
from click.core import ParameterSource

from service import settings
from service.cli.input_files import DIRECTORY, FILE
from service.cli.terminal import CommandError
from service.pki import keys, names
from service.pki.errors import IssuanceError
from service.pki.profile import RequestedValidity, parse_duration
from service.settings import PROFILES, PUBLIC_URL, parse_public_url

if TYPE_CHECKING:  # slow to import, and most commands need neither
    from service import client, openapi
    from service.cli import contexts

_Command = TypeVar("_Command", bound=Callable[..., Any])

URL: Final = "CERTLET_URL"
CONTEXT: Final = "CERTLET_CONTEXT"
API_KEY: Final = "CERTLET_API_KEY"  # the variable's name, not its value
KEY_FILE: Final = "api-keys.json"
DEFAULT_CA: Final = Path("ca")
MAX_PORT: Final = 65535
DEFAULT_URL: Final = "http://127.0.0.1:8080"
_EXAMPLE_URL: Final = "https://ca.example.com"
# RFC 3986 3; unlike the URLs of a contract, these may have any host and path, such as those in containers.
_SERVICE_URL: Final = re.compile(
    r"(?P<origin>https?://(?:[\w.-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?)"
    r"(?P<path>(?:/[\w.~%!$&'()*+,;=:@-]*)*)",
    re.ASCII | re.IGNORECASE,
)


class _KeyType(click.Choice[str]):
    """A key type of `keys.generate_private_key`; accepts spellings such as `p256` and `RSA2048` too."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Convert an argument to its canonical spelling."""
        letters = value.lower().replace("-", "")
        return super().convert(
            next((choice for choice in self.choices if choice.replace("-", "") == letters), value), param, ctx
        )


def is_option(parameter: str) -> bool:
    """Whether a parameter is among the arguments, and not from its variable or its default."""
    return click.get_current_context().get_parameter_source(parameter) is ParameterSource.COMMANDLINE


def forbid_together(*options: str) -> None:
    """Raise a UsageError if the arguments contain more than one of these options."""
    names = [option for option in options if is_option(option[2:].replace("-", "_"))]
    if len(names) > 1:
        raise click.UsageError(f"{names[1]} is not allowed with {names[0]}")


def _parse_validity(text: str) -> str:
    parse_duration(text)
    return text


def _parse_time(text: str) -> str:
    try:
        RequestedValidity.parse(None, text)
    except IssuanceError as error:
        raise ValueError(str(error)) from error
    return text


def _parse_dns_name(text: str) -> str:
    try:
        return names.dns_name(text, "", wildcard=False)
    except IssuanceError as error:
        raise ValueError(str(error)) from error


def parse_host(text: str) -> str:
    """Parse a DNS name or an IP address; ValueError if it is neither."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return _parse_dns_name(text)


def parse_listener(text: str) -> tuple[str, int]:
    """Parse `[ADDRESS:]PORT` to address and port; 127.0.0.1 if there is no address.

    Raises:
        ValueError: the text is malformed.
    """
    host, _, port = text.rpartition(":")
    is_port = re.fullmatch("[0-9]{1,5}", port) and int(port) <= MAX_PORT
    if not is_port or (":" in host and not re.fullmatch(r"\[[^][]+\]", host)):
        raise ValueError(f"{text!r} is not a port, or an address and a port, such as 9464 or [::1]:9464")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)


def parse_network(text: str) -> str:
    """Parse a network in CIDR notation; ValueError if it is malformed."""
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise ValueError(f"{text!r} is not a network such as 10.0.0.0/8 or fd00::/8") from error


def parse_domain(text: str) -> str:
    """Parse a DNS domain, with or without a leading dot; ValueError if it is malformed."""
    return _parse_dns_name(text.removeprefix("."))


def create_parser(pattern: str, kind: str) -> Callable[[str], str]:
    """Create a parser of texts that match a regular expression; `kind` describes them in errors."""

    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"{text!r} is not {kind}")
        return text

    return parse


_KEY_TYPE: Final = _KeyType(sorted(keys.GENERATORS))

profiles_option: Final = click.option(
    "--profiles",
    type=FILE,
    envvar=PROFILES,
    show_envvar=True,
    help="Merge the profiles in this YAML file over the default ones.",
)


def parse_service_url(text: str) -> str:
    """Parse the URL of a service, and remove final slashes; its scheme and host become lower-case.

    Raises:
        ValueError: it is not an http or https URL, or has credentials, a query or a fragment.
    """
    if re.match(r"(?:[^/?#]*:)?//[^/?#]*@", text):
        raise ValueError("the URL contains a user name or a password: remove it, and log in with an API key")
    match = _SERVICE_URL.fullmatch(text)
    if not match or not 0 < int(match["port"] or 1) <= MAX_PORT:
        raise ValueError(f"{text!r} is not an http or https URL such as {_EXAMPLE_URL}, without ? and #")
    return (match["origin"].lower() + match["path"]).rstrip("/")


url_option: Final = click.option(
    "--url",
    type=parse_service_url,
    metavar="URL",
    envvar=URL,
    show_envvar=True,
    show_default=f"that of certlet login, or {DEFAULT_URL}",
    help="Use the service at this URL, which includes the stage.",
)


def context_option(text: str) -> Callable[[_Command], _Command]:
    """Add `--context`, with a help text."""
    return click.option(
        "--context",
        metavar="NAME",
        envvar=CONTEXT,
        show_envvar=True,
        show_default="the current one",
        help=text,
    )


def parse_https_url(text: str) -> str:
    """Parse a public URL on AWS, where an API has only HTTPS."""
    url = parse_public_url(text)
    if not url.startswith("https://"):
        raise ValueError(f"{text!r} is not an https URL")
    return url


def parse_renew_before(text: str) -> str:
    """Check a time of `CERTLET_RENEW_BEFORE`, and return it unchanged; '' is not set."""
    if text:
        settings.parse_renew_before(text, datetime.now(UTC))
    return text


def parse_renew_over(text: str) -> str:
    """Check a duration of `CERTLET_RENEW_OVER`, and return it unchanged; '' is not set."""
    if text:
        settings.parse_renew_over(text)
    return text


def public_url_option(
    name: str, parse: Callable[[str], str] = parse_public_url
) -> Callable[[_Command], _Command]:
    """Add the option for the URL under which users reach the API."""
    return click.option(
        name,
        "public_url",
        metavar="URL",
        envvar=PUBLIC_URL,
        show_envvar=True,
        type=parse,
        help="Name the URL of the API for its users: it becomes the base of problem types, and the server in "
        "the document.",
    )


api_key_option: Final = click.option(
    "--api-key",
    metavar="KEY",
    envvar=API_KEY,
    show_envvar=True,
    help="Use this API key. Prefer the variable, since ps shows arguments.",
)
_oidc_option: Final = click.option(
    "--oidc",
    is_flag=True,
    help="Instead of an API key, use the token of this job of GitHub Actions or GitLab CI, or of this pod.",
)
_token_file_option: Final = click.option(
    "--token-file", type=FILE, help="Instead of an API key, use the token (JWT) in this file."
)
_audience_option: Final = click.option(
    "--audience",
    metavar="TEXT",
    show_default="the URL of the service",
    help="With --oidc in GitHub Actions, request a token for this audience.",
)
key_type_option: Final = click.option(
    "--key-type",
    type=_KEY_TYPE,
    metavar="TYPE",
    default="p-256",
    help=f"Create a key of this type: {', '.join(_KEY_TYPE.choices)}.",
)
ca_option: Final = click.option(
    "--ca", type=DIRECTORY, default=DEFAULT_CA, help="Use the CA in this directory."
)
kms_option: Final = click.option("--kms", metavar="KEY-ID", help="Use this AWS KMS key for the signing CA.")
force_option: Final = click.option("--force", is_flag=True, help="Overwrite existing files.")


def service_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--url`, `--context`, and the options for credentials.

    The command gets `service`, and `credentials`, a function that returns the caller's or raises
    `CommandError`.
    """

    @functools.wraps(command)
    def wrapper(
        *,
        url: str | None,
        context: str | None,
        api_key: str | None,
        oidc: bool,
        token_file: Path | None,
        audience: str | None,
        **others: Any,  # noqa: ANN401 - of any command
    ) -> Any:  # noqa: ANN401 - of any command
        forbid_together("--api-key", "--oidc", "--token-file")
        forbid_together("--url", "--context")
        if audience and not oidc:
            raise click.UsageError("--audience requires --oidc")
        stored = find_context(url, context)
        service = stored.service
        if is_option("context") and not is_option("api_key"):  # the key of the variable may be of another one
            api_key = stored.api_key

        def credentials() -> client.Credentials:
            from service import client  # noqa: PLC0415 - slow to import
            from service.cli import id_token  # noqa: PLC0415 - imports the client

            if oidc or token_file:
                return id_token.load_credentials(service.url, token_file, audience or service.url)
            return client.Credentials(require_api_key(api_key or stored.api_key, url))

        return command(service=service, credentials=credentials, **others)

    decorators = (
        _audience_option,
        _token_file_option,
        _oidc_option,
        api_key_option,
        context_option("Use the service and the API key of this context of certlet login."),
        url_option,
    )
    return functools.reduce(lambda decorated, decorate: decorate(decorated), decorators, wrapper)


def find_context(url: str | None, name: str | None = None) -> contexts.Context:
    """Find a context of `certlet login`; one without a root and an API key if it stored none.

    Args:
        url: the service's URL; None for that of the context.
        name: the name of a context; None for the current one. If it is that of --context, the URL, which is
            then that of the variable, is ignored.
    """
    from service.cli import contexts  # noqa: PLC0415 - imports the client, which is slow to import

    if is_option("context"):
        url = None
    return contexts.load().find(name, url) or contexts.Context(url or DEFAULT_URL)


def profile_option(default: str) -> Callable[[_Command], _Command]:
    """Add `--profile`, with a description of its default."""
    return click.option("--profile", metavar="NAME", show_default=default, help="Use this profile.")


def validity_options(command: _Command) -> _Command:
    """Add `--validity` and `--not-after`; the command must forbid both together."""
    not_after = click.option(
        "--not-after",
        type=_parse_time,
        metavar="TIME",
        help="Request a certificate that is valid until this time, such as 2027-01-31T12:00:00Z.",
    )
    validity_help = "Request this validity: 12h, 30d, 4w, or in ISO 8601 PT12H or P30D."
    return click.option("--validity", type=_parse_validity, metavar="DURATION", help=validity_help)(
        not_after(command)
    )


def require_api_key(api_key: str | None, url: str | None) -> str:
    """Return the API key; CommandError if it is not set.

    Args:
        api_key: that of the arguments, the variable or the context.
        url: the URL of the service; None for that of a context.
    """
    if not api_key:
        from service.cli import contexts  # noqa: PLC0415 - imports the client, which is slow to import

        stored = contexts.load()
        if url is None and stored.by_name and not stored.current:
            raise CommandError("no API key and no current context: choose one with certlet context use NAME")
        raise CommandError(
            f"no API key: run certlet login URL, set ${API_KEY} or pass --api-key (the operator creates one "
            "with certlet api-key add NAME)"
        )
    return api_key


def require_ca(directory: Path, option: str = "--ca") -> Path:
    """Return `directory`, the value of this option, if it contains a CA.

    Raises:
        CommandError: it does not contain a CA.
        PermissionError: it cannot be read.
    """
    from service.keystore import ca_directory  # noqa: PLC0415 - slow to import

    if not ca_directory.has_ca(directory):
        raise CommandError(
            f"no CA in {directory}: pass another directory as {option}, or create a CA with certlet init"
        )
    return directory


def load_document(overrides: Path | None) -> openapi.OpenAPIDocument:
    """Load the contract with the operator's profiles merged over it; CommandError if they are invalid."""
    from service import openapi  # noqa: PLC0415 - slow to import
    from service.overrides import OverridesError  # noqa: PLC0415 - slow to import
    from service.pki.policy_parser import ProfileError  # noqa: PLC0415 - slow to import

    try:
        document = openapi.load(overrides)
        openapi.parse_policy(document)
    except OverridesError as error:
        raise CommandError(f"{overrides}: {error}") from error
    except ProfileError as error:
        raise CommandError(f"invalid profiles: {error}") from error
    return document

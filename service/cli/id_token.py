"""The token of a workload: find it in the environment of a job or a pod, and never print it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from service import client
from service.cli.terminal import CommandError
from service.settings import is_loopback

ID_TOKEN: Final = "CERTLET_ID_TOKEN"  # noqa: S105 - the variable's name, not its value
TOKEN_FILE: Final = "CERTLET_TOKEN_FILE"  # noqa: S105 - as above
DEFAULT_FILE: Final = Path("/var/run/secrets/certlet/token")
_GITHUB: Final = "GITHUB_ACTIONS"
_REQUEST_URL: Final = "ACTIONS_ID_TOKEN_REQUEST_URL"
_REQUEST_TOKEN: Final = "ACTIONS_ID_TOKEN_REQUEST_TOKEN"  # noqa: S105 - the variable's name, not its value
_MAX_FILE: Final = 16_384  # octets


def load_credentials(url: str, file: Path | None, audience: str) -> client.Credentials:
    """Load the token in a file, or in the environment if there is no file.

    Args:
        url: the service's URL, to which the token will be sent.
        file: the file.
        audience: the audience of a token that GitHub Actions issues on request.

    Raises:
        CommandError: there is no token, or the service uses plain HTTP on another machine.
        ClientError: GitHub issues no token.
        OSError: the file cannot be read.
    """
    target = urlsplit(url)
    if target.scheme != "https" and not is_loopback(target.hostname or ""):
        raise CommandError(f"a token is not sent over plain HTTP to {target.hostname}: use its https URL")
    token = _read(file) if file else _find(os.environ, audience)
    return client.Credentials(token=token)


def _find(environ: Mapping[str, str], audience: str) -> str:
    if environ.get(_REQUEST_URL):
        request_url = environ[_REQUEST_URL]
        return client.fetch_id_token(request_url, environ.get(_REQUEST_TOKEN, ""), audience)
    if environ.get(_GITHUB):
        raise CommandError("this job may not request a token: add permissions: {id-token: write} to it")
    if environ.get(ID_TOKEN):
        return environ[ID_TOKEN].strip()
    file = Path(environ.get(TOKEN_FILE) or DEFAULT_FILE)
    if environ.get(TOKEN_FILE) or file.exists():
        return _read(file)
    raise CommandError(
        f"no token: in GitHub Actions, add permissions: {{id-token: write}}; in GitLab CI, add {ID_TOKEN} to "
        f"id_tokens; in a pod, mount a projected token at {DEFAULT_FILE}, or set ${TOKEN_FILE}"
    )


def _read(file: Path) -> str:
    with file.open("rb") as stream:
        return stream.read(_MAX_FILE).decode("ascii", "replace").strip()

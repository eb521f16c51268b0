"""AWS clients with bounds on time, and AWS's failures in our words."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from service.pki.errors import CAUnavailable

# Two attempts of three seconds at most stay within the integration's ten.
_CONFIG: Final = Config(
    connect_timeout=1, read_timeout=2, retries={"total_max_attempts": 2, "mode": "standard"}
)


def create_client(service: str) -> Any:  # noqa: ANN401 - boto3 makes its clients at run time
    """A client of an AWS service, by the environment; raise `CAUnavailable` without a region."""
    with translate_errors(service):
        return boto3.client(service, config=_CONFIG)


@contextlib.contextmanager
def translate_errors(what: str) -> Iterator[None]:
    """Raise `CAUnavailable` for whatever AWS fails with, which is its cause, for the log only."""
    try:
        yield
    except (ClientError, BotoCoreError) as error:
        raise CAUnavailable(f"the CA's key is not to be had from {what}") from error

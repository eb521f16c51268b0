"""Clients of AWS services with time limits; AWS's errors as `CAUnavailable`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from service.pki.errors import CAUnavailable

# Two attempts take at most six of the integration's ten seconds.
_CONFIG: Final = Config(
    connect_timeout=1, read_timeout=2, retries={"total_max_attempts": 2, "mode": "standard"}
)


def create_client(service: str) -> Any:  # noqa: ANN401 - boto3 creates its clients at run time
    """Create a client of an AWS service from the environment; raise `CAUnavailable` if no region is set."""
    with translate_errors(service):
        return boto3.client(service, config=_CONFIG)


@contextlib.contextmanager
def translate_errors(service: str) -> Iterator[None]:
    """Raise `CAUnavailable` for an error of AWS, which becomes the cause and appears only in the log."""
    try:
        yield
    except (ClientError, BotoCoreError) as error:
        raise CAUnavailable(f"{service} is unavailable") from error

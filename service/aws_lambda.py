"""The Lambda function: `handler(event, context)`. On a laptop the local gateway calls this very one."""

from __future__ import annotations

import functools
import gc
import logging
import os
import sys
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from wsgiref.types import WSGIApplication

import awsgi

from service import audit, openapi
from service.authority import Authority, MapFunction
from service.keystore import CurrentCA, revocation_file
from service.pki.encoding import format_timestamp
from service.pki.errors import CAError, CAUnavailable
from service.settings import KeySource, Settings
from service.web import app, authorizer

GC_THRESHOLD: Final = 20_000  # containers before the next look for circles, of which a request leaves few
KMS_CONCURRENCY: Final = 8  # signatures that are waited for at once; botocore keeps ten connections

_log = logging.getLogger(__name__)

# What belongs to the connection, or is a length that the event's body no longer has.
_NOT_FORWARDED: Final = frozenset({"Connection", "Content-Length", "Transfer-Encoding", "Upgrade"})


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Answer one REST API proxy event (payload 1.0), or one of a REQUEST authorizer.

    Returns:
        A proxy result: statusCode, headers, body, isBase64Encoded; or a policy.

    Raises:
        UnauthorizedError: the authorizer finds no credentials, as API Gateway wants to be told.
        SettingsError: the environment is wrong.
        ProfileError, OverridesError: the profiles are.
        OSError: the profiles or the audit log cannot be opened.
    """
    if authorizer.is_authorizer_event(event):
        return authorizer.authorize(event)
    result = awsgi.response(_application(), _normalise_event(event), context, app.BINARY_CONTENT_TYPES)
    return {**result, "statusCode": int(result["statusCode"])}


def init() -> None:
    """Do at once what the first event would have to wait for: Lambda's init phase.

    Raises:
        SettingsError, ProfileError, OverridesError, OSError: as `handler`.
        CAError: the CA cannot be loaded, or a certificate of its chain has ended.
    """
    _application()
    try:
        if (end := _ca().load().issuer.not_after) < datetime.now(UTC):  # it never passes
            ended = f"the CA's chain ended at {format_timestamp(end)}"
            raise CAError(f"{ended}: make another CA (certlet rollover or init)")
    except CAUnavailable as error:  # it may pass: each request tries again, and is 503 until then
        _log.warning("%s: %s", error.detail, error.__cause__)
    try:
        revocation_file.load_revoked(_settings().ca)  # seconds, if it is long
    except CAError as error:  # as above, for the requests that need it
        _log.warning("%s", error.detail)
    gc.collect()
    gc.freeze()  # what is here by now stays: no later collection has to look through it
    gc.set_threshold(GC_THRESHOLD)


@functools.cache
def _settings() -> Settings:
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    # The library warns, through the module, of common names of more than 64 octets; we count characters.
    warnings.filterwarnings("ignore", "Attribute's length", UserWarning)
    return Settings.from_environ(os.environ)


@functools.cache
def _ca() -> CurrentCA:
    return CurrentCA(_settings())


@functools.cache
def _application() -> WSGIApplication:
    """The application, composed once."""
    settings = _settings()
    document = openapi.load(settings.profiles)
    authority = Authority(
        load_ca=_ca().load,
        profiles=openapi.parse_policy(document),
        clock=lambda: datetime.now(UTC),
        record=audit.fd_recorder(audit.open_log(settings.audit_log), settings.metrics),
        load_revoked=lambda: revocation_file.load_revoked(settings.ca),
        parallel_map=_thread_pool_map,
    )
    return app.create(document, authority, settings.api_key_names)


@functools.cache
def _thread_pool_map() -> MapFunction:
    is_remote = _settings().key_source is KeySource.KMS
    return thread_pool_map(KMS_CONCURRENCY if is_remote else len(os.sched_getaffinity(0)))


def thread_pool_map(number: int) -> MapFunction:
    """As `map`, in so many threads."""
    if number == 1:
        return map
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - for a batch alone, not for a cold start

    return ThreadPoolExecutor(number).map


def _normalise_event(event: Mapping[str, Any]) -> dict[str, Any]:
    """The event as aws-wsgi needs it.

    aws-wsgi insists on `queryStringParameters`, loses repeated values of the query and of headers (which
    RFC 9110 5.2 joins), takes the server's port from a header, and finds headers by their exact spelling;
    to WSGI `Content_Type` is `Content-Type`, so no header with an underscore gets there. WSGI has a path's
    octets as Latin-1 (PEP 3333).
    """
    query = event.get("multiValueQueryStringParameters") or {}
    pairs = [(name, value) for name, values in query.items() for value in values]
    single = event.get("queryStringParameters") or {}
    repeated = event.get("multiValueHeaders") or {}
    several = {given: ", ".join(values) for given, values in repeated.items() if len(values) > 1}
    headers = {
        name: value
        for given, value in ((event.get("headers") or {}) | several).items()
        if (name := given.title()) not in _NOT_FORWARDED and "_" not in given
    }
    headers.setdefault("X-Forwarded-Port", "443")
    return {
        **event,
        # The gateway's route, which has no slash at its end.
        "path": (event["path"].removesuffix("/") or "/").encode("utf-8", "replace").decode("latin-1"),
        "queryStringParameters": pairs or list(single.items()),
        "headers": headers,
    }

"""The Lambda function: `handler(event, context)`. The local gateway calls the same function."""

from __future__ import annotations

import functools
import gc
import json
import logging
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import unquote
from wsgiref.types import WSGIApplication

import awsgi

from service import audit, challenge_queue, log_level, openapi
from service.audit import AuditRecord
from service.audit_counts import AuditCounts
from service.authority import Authority, MapFunction
from service.keystore import CurrentCA, acme_principals, ca_directory, revocation_file
from service.ledger import open_ledger
from service.ledger_protocol import Ledger
from service.pki.encoding import format_timestamp
from service.pki.errors import CAError, CAUnavailable, quote
from service.pki.profile_loader import IssuancePolicy
from service.pki.revocation import MergedList
from service.quota import parse_quota
from service.settings import LEDGER, LEDGER_TABLE, KeySource, Settings, SettingsError, identity_directory
from service.trace_context import find_trace_id
from service.web import app, authorizer, problems
from service.web.acme import AcmeStore

GC_THRESHOLD: Final = 20_000  # allocations between collections; a request creates few reference cycles
KMS_CONCURRENCY: Final = 8  # parallel signatures; botocore pools ten connections

_log = logging.getLogger(__name__)

# Connection-specific headers, and the length, which the decoded body may no longer have.
_NOT_FORWARDED: Final = frozenset({"Connection", "Content-Length", "Transfer-Encoding", "Upgrade"})
_trace_id: ContextVar[str] = ContextVar("trace_id", default="")  # of the current event
_audit_counts: Final = AuditCounts()
_PARAMETER: Final = re.compile(r"\{([^{}+]+)(\+?)\}")  # {name}, or {name+} for several segments


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Handle one event of a REST API proxy integration (payload 1.0) or of a REQUEST authorizer.

    An Application Load Balancer also sends such events. It identifies no caller, so that only the operations
    that need none work. Events of other sources are logged and get a 500 response.

    Returns:
        A proxy response (statusCode, headers, body, isBase64Encoded), or an authorizer's policy.

    Raises:
        UnauthorizedError: the authorizer found no credentials; API Gateway then responds with 401.
        KeysUnavailableError: the authorizer cannot verify a token; API Gateway then responds with 503.
        SettingsError: an environment variable is invalid, or a rule for tokens needs a ledger.
        ProfileError, OverridesError: the profiles are invalid.
        ValueError: a file of a rule for tokens is not usable.
        CAError: the CA directory has a malformed status URL, or the ledger cannot be opened.
        OSError: the profiles or the audit log cannot be opened.
    """
    if kind := _unsupported_kind(event):
        return _unsupported_response(kind, str(getattr(context, "aws_request_id", "")))
    if authorizer.is_authorizer_event(event):
        return authorizer.authorize(event, _verify_token(), _settings().token_usage_key)
    _trace_id.set(find_trace_id(_header_items(event)))
    result = awsgi.response(_application(), _normalise_event(event), context, app.BINARY_CONTENT_TYPES)
    return {**result, "statusCode": int(result["statusCode"])}


def init() -> None:
    """Load everything that the first event would otherwise wait for (Lambda's init phase).

    Raises:
        SettingsError, ProfileError, OverridesError, OSError, ValueError: as `handler`.
        CAError: the CA cannot be loaded, a certificate of its chain has expired, or the ledger cannot be
            opened.
    """
    _application()
    _verify_token()
    try:
        if (end := _ca().load().issuer.not_after) < datetime.now(UTC):  # a permanent error
            expired = f"the CA's chain expired at {format_timestamp(end)}"
            raise CAError(f"{expired}: create another CA (certlet rollover or init)")
    except CAUnavailable as error:  # may be temporary: each request tries again, and gets 503 until then
        _log.warning("%s: %s", error.detail, error.__cause__)
    _ledger()
    try:
        _revoked().load()  # a long list takes seconds
    except CAError as error:  # only CRLs and renewals need it
        _log.warning("%s", error.detail)
    gc.freeze()  # these objects stay: exclude them from later collections
    gc.set_threshold(GC_THRESHOLD)


def take_counts() -> list[tuple[str, tuple[str, ...], int]]:
    """Return what was recorded since the last call, as `AuditCounts.take`, for the gateway."""
    return _audit_counts.take()


@functools.cache
def _settings() -> Settings:
    # cryptography warns of common names longer than 64 octets, but the limit is 64 characters.
    warnings.filterwarnings("ignore", "Attribute's length", UserWarning)
    warnings.filterwarnings("ignore", "EdDSA is deprecated", UserWarning)  # ACME clients use this name
    settings = Settings.from_environ(os.environ, datetime.now(UTC))
    log_level.configure(settings.log_level)
    return settings


@functools.cache
def _ca() -> CurrentCA:
    return CurrentCA(_settings())


@functools.cache
def _application() -> WSGIApplication:
    """Create the application, once."""
    settings, document = _settings(), _document()
    authority = Authority(
        load_ca=_ca().load,
        profiles=_policy(),
        clock=_now,
        record=functools.partial(
            _record, audit.fd_recorder(audit.open_log(settings.audit_log), settings.metrics)
        ),
        load_revoked=_revoked().load,
        parallel_map=_thread_pool_map,
        ledger=_ledger(),
    )
    return app.create(
        document,
        authority,
        settings.api_key_names,
        settings.public_url,
        settings.est_line_length,
        acme_store=_acme_store(document),
    )


def _record(write: audit.Recorder, entries: Sequence[AuditRecord]) -> None:
    """Write audit records with the trace of the current event, and count them."""
    trace_id = _trace_id.get()
    write([entry._replace(trace_id=trace_id) for entry in entries] if trace_id else entries)
    _audit_counts.add(entries)


def _acme_store(document: openapi.OpenAPIDocument) -> AcmeStore | None:
    ledger, settings, plan = _ledger(), _settings(), document["x-usage-plan"]
    if ledger is None:
        return None
    quota = settings.order_quota or (f"{plan['quota']}/{plan['period']}" if plan else "none")
    load_principals = functools.partial(acme_principals.load, settings.ca)
    queue = challenge_queue.find_queue(os.environ)
    return AcmeStore(ledger, load_principals, parse_quota(quota), queue)


@functools.cache
def _ledger() -> Ledger | None:
    return open_ledger(_settings().ledger, _settings().ledger_table, _now)


@functools.cache
def _revoked() -> MergedList:
    """The revoked certificates of `revoked.yaml` and of the ledger."""
    directory, ledger = _settings().ca, _ledger()
    loaders = [functools.partial(revocation_file.load_revoked, directory)]
    return MergedList(*loaders, *([ledger.load_revoked] if ledger else []))


def _now() -> datetime:
    return datetime.now(UTC)


@functools.cache
def _document() -> openapi.OpenAPIDocument:
    return openapi.load(_settings().profiles)


@functools.cache
def _policy() -> IssuancePolicy:
    settings = _settings()
    status_url = ca_directory.resolve_status_url(settings.ca, settings.status_url, settings.public_url)
    has_ocsp = (settings.ca / ca_directory.SERIAL_KEY).exists()
    policy = openapi.parse_policy(_document(), status_url, has_ocsp=has_ocsp)
    if policy.once_rule and _ledger() is None:
        detail = f"rule '{policy.once_rule}' of identities has once: true, which needs a ledger"
        raise SettingsError(f"{detail}: set {LEDGER_TABLE} or {LEDGER}")
    return policy


@functools.cache
def _verify_token() -> authorizer.Verify | None:
    """Return the function that verifies a token; None if no rule accepts any."""
    rules = _policy().identities
    if not rules:
        return None
    from service.oidc.tokens import create_verifier  # noqa: PLC0415 - saves time at a cold start without rules

    return create_verifier(rules, identity_directory(_settings().profiles), _now).verify


@functools.cache
def _thread_pool_map() -> MapFunction:
    is_remote = _settings().key_source is KeySource.KMS
    return thread_pool_map(KMS_CONCURRENCY if is_remote else len(os.sched_getaffinity(0)))


def thread_pool_map(threads: int) -> MapFunction:
    """Return a function like `map` for one iterable that uses this number of threads."""
    if threads == 1:
        return map
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - only batches need it; saves time at a cold start

    return ThreadPoolExecutor(threads).map


def _unsupported_kind(event: Any) -> str:  # noqa: ANN401 - a trigger may send any JSON
    """Describe an event that the function does not support, without unescaped text of it; '' if it does."""
    if not event:
        return "an empty event"
    if not isinstance(event, dict):
        return "an event that is not an object"
    is_request = isinstance(event.get("httpMethod"), str) and isinstance(event.get("path"), str)
    if is_request or authorizer.is_authorizer_event(event):
        return ""
    if event.get("version") == "2.0":
        return "an event in payload format 2.0 (HTTP API or function URL)"
    if "detail-type" in event:
        return f"a {quote(str(event['detail-type']))} event from EventBridge"
    return f"an event with the members {quote(', '.join(event))}"


def _unsupported_response(kind: str, request_id: str) -> dict[str, Any]:
    """Log an unsupported event, and return a response for a trigger that expects one."""
    detail = f"Unsupported event, {kind}: invoke the function only through a REST API or a load balancer"
    _log.error("%s", detail)
    document = problems.http_problem_document(500, detail, request_id)
    return {
        "statusCode": 500,
        "headers": {"Content-Type": "application/problem+json", "Cache-Control": "no-store"},
        "body": json.dumps(document),
        "isBase64Encoded": False,
    }


def _header_items(event: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the name and value of each header; a load balancer sends either of the two members."""
    repeated = event.get("multiValueHeaders") or {}
    items = [(name, value) for name, values in repeated.items() for value in values]
    return items or list((event.get("headers") or {}).items())


def _normalise_event(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the event in the form that aws-wsgi requires.

    aws-wsgi requires `queryStringParameters`, loses repeated query parameters and headers (joined here, as
    RFC 9110 5.2 allows), reads the server's port from a header, and matches header names case-sensitively.
    Headers with an underscore are removed, since to WSGI `Content_Type` is `Content-Type`.
    """
    query = event.get("multiValueQueryStringParameters") or {}
    pairs = [(name, value) for name, values in query.items() for value in values]
    single = event.get("queryStringParameters") or {}
    repeated = event.get("multiValueHeaders") or {}
    joined = {name: ", ".join(values) for name, values in repeated.items() if len(values) > 1}
    headers = {
        title: value
        for name, value in ((event.get("headers") or {}) | joined).items()
        if (title := name.title()) not in _NOT_FORWARDED and "_" not in name
    }
    headers.setdefault("X-Forwarded-Port", "443")
    return {
        **event,
        "path": _wsgi_path(event),
        "queryStringParameters": pairs or list(single.items()),
        "headers": headers,
    }


def _wsgi_path(event: Mapping[str, Any]) -> str:
    """Return the path of the operation, without a trailing slash, decoded as PEP 3333 requires.

    It is built from `resource` if possible, since `path` may begin with the base path of a custom domain.
    """
    resource, values = event.get("resource") or "", event.get("pathParameters") or {}
    names = [name for name, _ in _PARAMETER.findall(resource)]
    if resource and all(isinstance(values.get(name), str) for name in names):
        path = _PARAMETER.sub(
            lambda match: (_decode_path if match[2] else _decode_segment)(values[match[1]]), resource
        )
    else:  # a load balancer sends no resource
        path = _decode_path(event["path"])
    return (path.removesuffix("/") or "/").encode("utf-8", "replace").decode("latin-1")


def _decode_path(path: str) -> str:
    return "/".join(map(_decode_segment, path.split("/")))


def _decode_segment(value: str) -> str:
    """Decode a path segment, except a slash: otherwise a parameter could lead to another route."""
    return unquote(value).replace("/", "%2F")

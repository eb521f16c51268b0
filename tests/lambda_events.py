"""Proxy events as API Gateway sends them, and calls of the Lambda handler with them."""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import multiprocessing
import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from wsgiref.types import WSGIApplication

import awsgi
import pytest

from service import aws_lambda
from service.web import app
from tests import csrs, factories, servers
from tests.cli import certlet

CSR_PEM = csrs.encode_pem(csrs.build(sans=["dns:a.example.com"])).decode()
METHOD_ARN = "arn:aws:execute-api:eu-central-1:123456789012:abcdef123/prod/POST"
ANONYMOUS: dict[str, Any] = {"requestContext": {"requestId": "x", "identity": {}}}
# Each call of `invoke_handler` is in a process of its own, which need not import these modules again.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__])


def proxy_event(path: str = "/sign", method: str = "POST", **change: Any) -> dict[str, Any]:
    """A proxy event with an API key that the gateway has verified."""
    body = json.dumps({"csr": CSR_PEM}).encode() if method == "POST" else b""
    return {
        "resource": path,
        "path": path,
        "httpMethod": method,
        "headers": {"Content-Type": "application/json", "X-Forwarded-Proto": "https"},
        "multiValueHeaders": {"Content-Type": ["application/json"]},
        "queryStringParameters": None,
        "multiValueQueryStringParameters": None,
        "pathParameters": None,
        "stageVariables": None,
        "requestContext": {
            "requestId": "c6af9ac6-7b61-11e6-9a41-93e8deadbeef",
            "identity": {"apiKeyId": "abc123", "sourceIp": "192.0.2.1"},
        },
        "body": base64.b64encode(body).decode() or None,
        "isBase64Encoded": bool(body),
        **change,
    }


def from_request(method: str, url: str, headers: Mapping[str, str], content: bytes) -> dict[str, Any]:
    """The proxy event of a request to a REST API with binary media types `*/*`."""
    parts = urlsplit(url)
    query = parse_qs(parts.query, keep_blank_values=True)
    is_known = headers.get("x-api-key") == servers.API_KEY
    identity = {"apiKeyId": "abc123" if is_known else None, "sourceIp": "192.0.2.1"}
    return proxy_event(
        parts.path,
        method,
        headers=dict(headers),
        multiValueHeaders={name: [value] for name, value in headers.items()},
        queryStringParameters={name: values[-1] for name, values in query.items()} or None,
        multiValueQueryStringParameters=query or None,
        requestContext={"requestId": str(uuid.uuid4()), "stage": "prod", "identity": identity},
        body=base64.b64encode(content).decode() or None,
        isBase64Encoded=bool(content),
    )


def authorizer_event(resource: str, **headers: str) -> dict[str, Any]:
    """The event of a REQUEST authorizer, with the members in AWS's documentation."""
    forwarded = {"X-Forwarded-Proto": "https", "X-Forwarded-Port": "443", "X-Forwarded-For": "192.0.2.1"}
    received = {"Accept": "*/*", "Content-Type": "application/json", **forwarded, **headers}
    path = resource.replace("{label}", "server")
    return {
        "type": "REQUEST",
        "methodArn": METHOD_ARN + path,
        "resource": resource,
        "path": path,
        "httpMethod": "POST",
        "headers": received,
        "multiValueHeaders": {name: [value] for name, value in received.items()},
        "queryStringParameters": {},
        "multiValueQueryStringParameters": {},
        "pathParameters": {} if path == resource else {"label": "server"},
        "stageVariables": {},
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "abcdef123",
            "domainName": "abcdef123.execute-api.eu-central-1.amazonaws.com",
            "httpMethod": "POST",
            "identity": {"apiKey": headers.get("x-api-key"), "sourceIp": "192.0.2.1"},
            "path": f"/prod{path}",
            "requestId": "c6af9ac6-7b61-11e6-9a41-93e8deadbeef",
            "resourceId": "05c7jb",
            "resourcePath": resource,
            "stage": "prod",
        },
    }


def authorized_event(result: dict[str, Any], event: dict[str, Any]) -> dict[str, Any]:
    """The proxy event after an authorizer's result: API Gateway makes each value of the context a string."""
    (statement,) = result["policyDocument"]["Statement"]
    assert statement["Effect"] == "Allow"
    texts = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in result.get("context", {}).items()
    }
    authorizer = {"principalId": result["principalId"], "integrationLatency": 212, **texts}
    identity = {"apiKey": result["usageIdentifierKey"], "apiKeyId": "shared1", "sourceIp": "192.0.2.1"}
    context = {**event["requestContext"], "identity": identity, "authorizer": authorizer}
    return {**event, "requestContext": context}


def est_event(**change: Any) -> dict[str, Any]:
    """An event of EST's simpleenroll."""
    headers = {"Content-Type": "application/pkcs10", "X-Forwarded-Proto": "https"}
    base64_csr = base64.b64encode(csrs.encode_der(csrs.build("device.example.com"))).decode()
    members = {"headers": headers, "body": base64_csr, "isBase64Encoded": False}
    return proxy_event("/.well-known/est/simpleenroll") | members | change


def invoke_application(
    document: dict[str, Any], *events: dict[str, Any], **more: Any
) -> tuple[list[dict[str, Any]], factories.RecordingLog]:
    """The application's responses to events, through aws-wsgi, and the audit log of its authority."""
    is_shared = document is factories.document() and not more
    application, log = _contract_application() if is_shared else create_application(document, **more)
    log.clear()
    return invoke(application, *events), factories.RecordingLog(log)


def invoke(application: WSGIApplication, *events: dict[str, Any]) -> list[dict[str, Any]]:
    """An application's responses to events, through aws-wsgi."""
    return [
        awsgi.response(application, aws_lambda._normalise_event(event), None, app.BINARY_CONTENT_TYPES)
        for event in events
    ]


def create_application(
    document: dict[str, Any], **more: Any
) -> tuple[WSGIApplication, factories.RecordingLog]:
    """Create an application, and the audit log of its authority."""
    log = factories.RecordingLog()
    authority = factories.authority(log, **{"clock": lambda: datetime.now(UTC), **more})
    return app.create(document, authority, {"abc123": "ci"}), log


@functools.cache
def _contract_application() -> tuple[WSGIApplication, factories.RecordingLog]:
    """Return an application of the unchanged contract: Connexion takes long to validate a document."""
    return create_application(factories.document())


def invoke_handler(
    directory: Path, *events: dict[str, Any], before: str = "", left: Any = (), **env: str
) -> tuple[list[dict[str, Any]], str]:
    """The handler's results in a separate process, and its log.

    Args:
        directory: contains the CA, `ca`.
        events: the events, in order.
        before: a program that runs before the first event.
        left: the remaining milliseconds that the context returns, in order; it repeats the last.
        env: more environment variables.
    """
    with tempfile.TemporaryDirectory() as path:
        output, log = Path(path, "output"), Path(path, "log")
        output.touch()
        environ = servers.environ(**{"CERTLET_CA": str(directory / "ca"), **env})
        arguments = (environ, before, events, left, output, log)
        process = PROCESSES.Process(target=_invoke_in_process, args=arguments, daemon=True)
        process.start()
        process.join(60)
        return [json.loads(line) for line in output.read_text().splitlines()], log.read_text()


class Context:
    """The second argument of the handler, with the remaining times that it returns."""

    def __init__(self, milliseconds: Sequence[int]) -> None:
        self._milliseconds = list(milliseconds)

    def get_remaining_time_in_millis(self) -> int:
        """The next remaining time, or the last one again."""
        return self._milliseconds.pop(0) if self._milliseconds[1:] else self._milliseconds[0]


def _invoke_in_process(
    environ: dict[str, str],
    before: str,
    events: Sequence[object],
    left: Sequence[int],
    output: Path,
    log: Path,
) -> None:
    with log.open("w") as file:
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ.update(environ)
    exec(before, {**globals()})  # noqa: S102 - the program of a test
    for event in events:
        result = aws_lambda.handler(event, Context(left) if left else None)  # type: ignore[arg-type]  # any JSON
        with output.open("a") as file:
            file.write(json.dumps(result) + "\n")


def decode_body(result: dict[str, Any]) -> bytes:
    """The decoded body of a result."""
    text: str = result["body"]
    return base64.b64decode(text) if result["isBase64Encoded"] else text.encode()


@contextlib.contextmanager
def handler_environment(directory: Path, **env: str) -> Iterator[Path]:
    """Set the environment of a handler in this process, with a new CA; yield the CA's directory."""
    assert certlet("init", "ca", cwd=directory).returncode == 0
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("CERTLET_")]:
            patch.delenv(name)
        for name, value in {"CERTLET_CA": str(directory / "ca"), **env}.items():
            patch.setenv(name, value)
        yield directory / "ca"

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from io import BytesIO
from typing import Any

import pytest
import requests
from hypothesis import settings
from requests.adapters import HTTPAdapter
from schemathesis.specs.openapi.checks import ignored_auth
from urllib3 import HTTPResponse

from service import aws_lambda
from service.gateway.worker import Context
from tests import factories, lambda_events, servers
from tests.fuzz import schemathesis_setup

sign_schema = schemathesis_setup.load(refusable=True).include(schemathesis_setup.is_sign_operation)
public_schema = (
    schemathesis_setup.load()
    .exclude(schemathesis_setup.is_sign_operation)
    .exclude(schemathesis_setup.is_other_key_operation)
    .exclude(schemathesis_setup.is_page_operation)
)
api_key_schema = schemathesis_setup.load(batched=True).include(schemathesis_setup.is_other_key_operation)
est_schema = schemathesis_setup.load(enrollable=True).include(schemathesis_setup.is_est_operation)
status_counts = schemathesis_setup.StatusCounts()


class LambdaAdapter(HTTPAdapter):
    """Converts HTTP requests to proxy events like API Gateway, and calls the handler."""

    def send(self, request: requests.PreparedRequest, *_args: object, **_kwargs: object) -> requests.Response:
        """Return the response of the handler."""
        body = request.body.encode() if isinstance(request.body, str) else request.body or b""
        headers = {name: str(value) for name, value in request.headers.items() if name != "Content-Length"}
        event = lambda_events.from_request(str(request.method), str(request.url), headers, body)
        result = aws_lambda.handler(event, Context("fuzz", time.monotonic() + 10))
        assert set(result) == {"statusCode", "headers", "body", "isBase64Encoded"}
        assert "content-length" not in {name.lower() for name in result["headers"]}
        content, status = BytesIO(lambda_events.decode_body(result)), result["statusCode"]
        response = HTTPResponse(content, result["headers"], status, preload_content=False)
        return self.build_response(request, response)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[requests.Session]:
    """Create a session that calls the handler in this process, with a new CA."""
    names = {"CERTLET_API_KEY_NAMES": '{"abc123": "fuzz"}', "CERTLET_STATUS_URL": "http://ca.example.com"}
    directory = tmp_path_factory.mktemp("handler")
    with lambda_events.handler_environment(directory, **names), requests.Session() as session:
        session.mount("http://", LambdaAdapter())
        yield session


def send(case: Any, session: requests.Session, headers: Mapping[str, str]) -> None:
    """Send one case, and apply all checks that concern the function."""
    if case.method not in methods(case.path):  # the gateway responds without the function
        return
    response = case.call(base_url="http://function.example", session=session, headers=dict(headers))
    status_counts[f"{case.method} {case.path}", response.status_code] += 1
    # ignored_auth needs a server; tests/fuzz/test_server.py applies it.
    case.validate_response(response, headers=dict(headers), excluded_checks=[ignored_auth])


def methods(path: str) -> set[str]:
    """Return the methods of a path that reach the function."""
    return {method.upper() for method in factories.document()["paths"][path] if method in ("get", "post")}


@sign_schema.parametrize()  # type: ignore[untyped-decorator]  # Schemathesis's
@settings(max_examples=250, deadline=None, suppress_health_check=schemathesis_setup.SUPPRESSED_CHECKS)
def test_sign_operations_follow_the_contract(case: Any, session: requests.Session) -> None:
    """The Lambda handler follows the contract for generated requests to sign."""
    send(case, session, {"x-api-key": servers.API_KEY})


@api_key_schema.parametrize()  # type: ignore[untyped-decorator]  # Schemathesis's
@settings(max_examples=50, deadline=None, suppress_health_check=schemathesis_setup.SUPPRESSED_CHECKS)
def test_operations_with_api_key_follow_the_contract(case: Any, session: requests.Session) -> None:
    """Batches and the profiles of the caller follow the contract."""
    send(case, session, {"x-api-key": servers.API_KEY})


@public_schema.parametrize()  # type: ignore[untyped-decorator]  # Schemathesis's
@settings(max_examples=25, deadline=None, suppress_health_check=schemathesis_setup.SUPPRESSED_CHECKS)
def test_public_operations_follow_the_contract(case: Any, session: requests.Session) -> None:
    """The public operations follow the contract."""
    send(case, session, {})


@est_schema.parametrize()  # type: ignore[untyped-decorator]  # Schemathesis's
@settings(max_examples=50, deadline=None, suppress_health_check=schemathesis_setup.SUPPRESSED_CHECKS)
def test_est_operations_follow_the_contract(case: Any, session: requests.Session) -> None:
    """EST over HTTPS follows the contract."""
    send(case, session, {"x-api-key": servers.API_KEY, "X-Forwarded-Proto": "https"})


def test_fuzzing_reached_minimum_responses(session: requests.Session) -> None:
    """The tests above got enough certificates and enough refusals."""
    assert session
    assert sum(status_counts.values()) >= 500, status_counts
    assert status_counts["POST /sign", 200] >= 30, status_counts
    assert status_counts["POST /sign", 422] >= 50, status_counts
    assert status_counts["POST /sign/batch", 200] >= 15, status_counts
    assert status_counts["POST /.well-known/est/simpleenroll", 200] >= 5, status_counts
    assert status_counts["POST /.well-known/est/simpleenroll", 400] >= 5, status_counts
    assert status_counts["GET /.well-known/est/{label}/csrattrs", 204] >= 1, status_counts

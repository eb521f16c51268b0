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

sign = schemathesis_setup.load(refusable=True).include(schemathesis_setup.signs)
public = (
    schemathesis_setup.load()
    .exclude(schemathesis_setup.signs)
    .exclude(schemathesis_setup.keyed)
    .exclude(schemathesis_setup.pages)
)
keyed = schemathesis_setup.load(batched=True).include(schemathesis_setup.keyed)
est = schemathesis_setup.load(enrollable=True).include(schemathesis_setup.enrolls)
tally = schemathesis_setup.Tally()


class Events(HTTPAdapter):
    """Turns an HTTP request into the proxy event that API Gateway makes of it, and calls the handler."""

    def send(self, request: requests.PreparedRequest, *_args: object, **_kwargs: object) -> requests.Response:
        """Answer one request."""
        body = request.body.encode() if isinstance(request.body, str) else request.body or b""
        headers = {name: str(value) for name, value in request.headers.items() if name != "Content-Length"}
        event = lambda_events.of_request(str(request.method), str(request.url), headers, body)
        result = aws_lambda.handler(event, Context("fuzz", time.monotonic() + 10))
        assert set(result) == {"statusCode", "headers", "body", "isBase64Encoded"}
        assert "content-length" not in {name.lower() for name in result["headers"]}
        content, status = BytesIO(lambda_events.body(result)), result["statusCode"]
        answer = HTTPResponse(content, result["headers"], status, preload_content=False)
        return self.build_response(request, answer)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[requests.Session]:
    """The handler in this process, with a CA of its own, behind a requests session."""
    names = {"CERTLET_API_KEY_NAMES": '{"abc123": "fuzz"}'}
    directory = tmp_path_factory.mktemp("handler")
    with lambda_events.handler_environment(directory, **names), requests.Session() as made:
        made.mount("http://", Events())
        yield made


def ask(case: Any, session: requests.Session, headers: Mapping[str, str]) -> None:
    """Send one case, and apply every check that is the function's."""
    if case.method not in methods(case.path):  # the gateway's own answer, which no event reaches
        return
    response = case.call(base_url="http://function.example", session=session, headers=dict(headers))
    tally[f"{case.method} {case.path}", response.status_code] += 1
    # ignored_auth asks again over a socket; tests/fuzz/test_server.py has it, and tests/test_lambda.py.
    case.validate_response(response, headers=dict(headers), excluded_checks=[ignored_auth])


def methods(path: str) -> set[str]:
    """The methods of a path that reach the function."""
    return {method.upper() for method in factories.document()["paths"][path] if method in ("get", "post")}


@sign.parametrize()  # type: ignore[untyped-decorator]  # Schemathesis's
@settings(max_examples=250, deadline=None, suppress_health_check=schemathesis_setup.RELAXED)
def test_signing_by_events(case: Any, session: requests.Session) -> None:
    """The Lambda handler answers real proxy events as the contract says, whatever is in them."""
    ask(case, session, {"x-api-key": servers.API_KEY})


@keyed.parametrize()  # type: ignore[untyped-decorator]  # Schemathesis's
@settings(max_examples=50, deadline=None, suppress_health_check=schemathesis_setup.RELAXED)
def test_operations_with_a_key_by_events(case: Any, session: requests.Session) -> None:
    """A batch, and what the caller may have, answer events as the contract says."""
    ask(case, session, {"x-api-key": servers.API_KEY})


@public.parametrize()  # type: ignore[untyped-decorator]  # Schemathesis's
@settings(max_examples=25, deadline=None, suppress_health_check=schemathesis_setup.RELAXED)
def test_public_operations_by_events(case: Any, session: requests.Session) -> None:
    """The public operations answer events as the contract says."""
    ask(case, session, {})


@est.parametrize()  # type: ignore[untyped-decorator]  # Schemathesis's
@settings(max_examples=50, deadline=None, suppress_health_check=schemathesis_setup.RELAXED)
def test_est_by_events(case: Any, session: requests.Session) -> None:
    """EST over HTTPS answers events as the contract says, whatever is sent."""
    ask(case, session, {"x-api-key": servers.API_KEY, "X-Forwarded-Proto": "https"})


def test_there_was_enough_by_events(session: requests.Session) -> None:
    """A figure that means something, issued and refused."""
    assert session
    assert sum(tally.values()) >= 500, tally
    assert tally["POST /sign", 200] >= 50, tally
    assert tally["POST /sign", 422] >= 50, tally
    assert tally["POST /sign/batch", 200] >= 15, tally
    assert tally["POST /.well-known/est/simpleenroll", 200] >= 5, tally
    assert tally["POST /.well-known/est/simpleenroll", 400] >= 5, tally
    assert tally["GET /.well-known/est/{label}/csrattrs", 204] >= 1, tally

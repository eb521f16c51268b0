"""Assertions on HTTP responses, against the schemas of the contract."""

from __future__ import annotations

import secrets
import time
import uuid
from typing import Any

from jsonschema import Draft4Validator

from service import openapi
from tests import factories
from tests.servers import API_KEY, Response

DOCUMENT = openapi.resolve_refs(factories.document(), factories.document())
KEY = {"x-api-key": API_KEY}
JSON = {"Content-Type": "application/json", **KEY}
PEM = {"Content-Type": "application/x-pem-file"}
PROBLEM = Draft4Validator(DOCUMENT["components"]["schemas"]["Problem"])


def uuid7() -> str:
    """Create a UUIDv7 (RFC 9562 5.7) with the current time."""
    return str(uuid.UUID(int=int(time.time() * 1000) << 80 | 7 << 76 | 0b10 << 62 | secrets.randbits(62)))


def assert_problem(response: Response, status: int, code: str) -> Any:
    """Verify that a response is a problem document with this status and code, and return it."""
    assert response.status == status, response.body
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    document = response.json()
    PROBLEM.validate(document)
    assert (document["status"], document["code"], document["type"]) == (status, code, f"/problems#{code}")
    assert document["instance"] == f"urn:uuid:{response.headers['x-amzn-RequestId']}"
    return document


def assert_documented(path: str, method: str, response: Response, document: Any = DOCUMENT) -> Any:
    """Validate the JSON of a response against the contract, and return it."""
    expected = document["paths"][path][method]["responses"][str(response.status)]
    body = response.json()
    Draft4Validator(expected["content"]["application/json"]["schema"]).validate(body)
    return body

"""Answers of the whole path, as the contract says that they are."""

from __future__ import annotations

import secrets
import time
import uuid
from typing import Any

from jsonschema import Draft4Validator

from service import openapi
from tests import factories
from tests.servers import API_KEY, Answer

DOCUMENT = openapi.resolve(factories.document(), factories.document())
KEY = {"x-api-key": API_KEY}
JSON = {"Content-Type": "application/json", **KEY}
PEM = {"Content-Type": "application/x-pem-file"}
PROBLEM = Draft4Validator(DOCUMENT["components"]["schemas"]["Problem"])


def uuid7() -> str:
    """A UUIDv7 (RFC 9562 5.7) of now."""
    return str(uuid.UUID(int=int(time.time() * 1000) << 80 | 7 << 76 | 0b10 << 62 | secrets.randbits(62)))


def assert_problem(answer: Answer, status: int, code: str) -> Any:
    """The problem document of an answer, which is of the contract's shape."""
    assert answer.status == status, answer.body
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    found = answer.json()
    PROBLEM.validate(found)
    assert (found["status"], found["code"], found["type"]) == (status, code, f"/problems#{code}")
    assert found["instance"] == f"urn:uuid:{answer.headers['x-amzn-RequestId']}"
    return found


def assert_documented(path: str, method: str, answer: Answer, document: Any = DOCUMENT) -> Any:
    """The JSON of an answer, which is as the contract says."""
    response = document["paths"][path][method]["responses"][str(answer.status)]
    found = answer.json()
    Draft4Validator(response["content"]["application/json"]["schema"]).validate(found)
    return found

"""Whether a request is what the contract says: every fault of it at once.

Connexion's own validators stop at the first fault, check no body that is not JSON, and would answer
in their own words; so they are off, and this reads the same contract, once, when the app is made.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl
from wsgiref.types import WSGIEnvironment

import fastjsonschema
from jsonschema import Draft4Validator

from service.pki.errors import quoted
from service.web.problems import Reason

MAX_BODY_BYTES: Final = 262_144  # where the contract states no x-max-bytes
_JSON: Final = "application/json"
_TYPES: Final = {"string": "text", "boolean": "true or false", "object": "an object", "array": "an array"}


class UnsupportedMediaTypeError(Exception):
    """The Content-Type is none of those that the operation takes; the message lists them."""


class TooLargeError(Exception):
    """The body is larger than the operation takes; the message says how large it may be."""


class MalformedError(Exception):
    """The request is not what the contract says."""

    def __init__(self, reasons: Sequence[Reason]) -> None:
        super().__init__(reasons)
        self.reasons = reasons


@dataclass(frozen=True)
class Accepted:
    """What an operation may rely on: the path's parameters as sent, the query, the headers that the contract
    names, the body as JSON or as bytes, and how many seconds there are until nobody waits for the answer
    any more.
    """

    path: Mapping[str, str]
    query: Mapping[str, Any]
    headers: Mapping[str, str] = field(repr=False)
    json: Mapping[str, Any] = field(repr=False)
    body: bytes = field(repr=False)
    time_left: Callable[[], float]


class _Parameter:
    """A parameter: text, unless its schema says that it is a boolean."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._is_boolean = schema.get("type") == "boolean"
        self._validator = Draft4Validator(schema)

    def read(self, text: str, field: str, faults: list[Reason]) -> object:
        value = {"true": True, "false": False}.get(text, text) if self._is_boolean else text
        faults += [_fault(field, each) for each in _sentences(list(self._validator.iter_errors(value)))]
        return value


class Expectation:
    """What one operation expects, read from the contract."""

    def __init__(self, operation: Mapping[str, Any]) -> None:
        """Compile the validators of an operation object, which holds no `$ref`."""
        body = operation.get("requestBody", {})
        self._max_bytes = int(body.get("x-max-bytes", MAX_BODY_BYTES))
        content = body.get("content", {})
        self._media_types = tuple(content)
        self._schema = content.get(_JSON, {}).get("schema", {})
        stated = operation.get("parameters", ())
        self._query = {each["name"]: _Parameter(each["schema"]) for each in stated if each["in"] == "query"}
        self._headers = {
            each["name"]: _Parameter(each["schema"]) for each in stated if each["in"] == "header"
        }
        self._variables = {name: f"HTTP_{name.upper().replace('-', '_')}" for name in self._headers}

    def check(
        self, environ: WSGIEnvironment, path: Mapping[str, str], time_left: Callable[[], float]
    ) -> Accepted:
        """Read a request.

        Args:
            environ: the request, as PEP 3333 has it.
            path: the path's parameters.
            time_left: for `Accepted`.

        Raises:
            TooLargeError: the body is larger than the operation takes.
            UnsupportedMediaTypeError: the Content-Type is none that the operation takes.
            MalformedError: the query, a header or the body is not what the contract says.
        """
        faults: list[Reason] = []
        query = self._read_query(environ["QUERY_STRING"], faults)
        headers = self._read_headers(environ, faults)
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])) if self._media_types else b""
        if len(body) > self._max_bytes:
            raise TooLargeError(str(self._max_bytes))
        if self._media_types and not body:
            faults.append(_fault("", "the body is missing"))
        elif self._media_types and _media_type(environ) not in self._media_types:
            raise UnsupportedMediaTypeError(", ".join(self._media_types))
        document = self._read_json(body, faults) if _JSON in self._media_types and body else {}
        if faults:
            raise MalformedError(faults)
        return Accepted(path, query, headers, document, body, time_left)

    def _read_headers(self, environ: WSGIEnvironment, faults: list[Reason]) -> dict[str, str]:
        headers = {name: environ[here] for name, here in self._variables.items() if here in environ}
        for name, text in headers.items():
            self._headers[name].read(text, f"header.{name}", faults)
        return headers

    def _read_query(self, text: str, faults: list[Reason]) -> dict[str, Any]:
        query: dict[str, Any] = {}
        given: dict[str, list[str]] = {}
        for name, value in parse_qsl(text, keep_blank_values=True):
            given.setdefault(name, []).append(value)
        for name, values in given.items():
            field = f"query.{name[:40]}"
            if name not in self._query:
                faults.append(_fault(field, f"there is no query parameter {quoted(name)}"))
            elif len(values) > 1:
                faults.append(_fault(field, "given more than once"))
            else:
                query[name] = self._query[name].read(values[0], field, faults)
        return query

    def _read_json(self, body: bytes, faults: list[Reason]) -> Mapping[str, Any]:
        try:
            document = json.loads(
                body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
            )
        except (ValueError, RecursionError) as error:
            faults.append(_fault("", f"the body is not JSON: {_no_json(error)}"))
            return {}
        try:
            self._accept(document)
        except fastjsonschema.JsonSchemaValueException:
            found: dict[str, list[Any]] = {}
            for each in Draft4Validator(self._schema).iter_errors(document):
                found.setdefault(_path(each.absolute_path), []).append(each)
            faults += [_fault(path, said) for path, errors in found.items() for said in _sentences(errors)]
        return document if isinstance(document, Mapping) else {}

    @functools.cached_property
    def _accept(self) -> Callable[[object], object]:
        """The schema as a program, which stops at the first fault; jsonschema then says them all."""
        schema = {"$schema": "http://json-schema.org/draft-04/schema#", **self._schema}
        return fastjsonschema.compile(schema, use_default=False, use_formats=False)


def _media_type(environ: WSGIEnvironment) -> str:
    """The Content-Type without parameters."""
    stated: str = environ.get("CONTENT_TYPE") or ""
    return stated.partition(";")[0].strip(" \t").lower()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member stands twice in one object")
    return members


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _no_json(error: ValueError | RecursionError) -> str:
    match error:
        case RecursionError():
            return "it is nested too deeply"
        case UnicodeDecodeError():
            return f"octet {error.start + 1} of it is not UTF-8"
        case json.JSONDecodeError():
            return f"{error.msg}, at line {error.lineno}, column {error.colno}"
    return str(error)


def _sentences(errors: Sequence[Any]) -> list[str]:
    """What is wrong with one value: of another type, or not what its schema's title says; else each fault."""
    mistyped = [each for each in errors if each.validator == "type"]
    titled = [each for each in errors if isinstance(each.instance, str) and "title" in each.schema]
    if titled:
        text, title = titled[0].instance, titled[0].schema["title"]
        return [f"{quoted(text, 40)} is not {title}" if text else "it is empty"]
    return [_sentence(each) for each in mistyped or errors]


def _sentence(error: Any) -> str:  # noqa: ANN401 - jsonschema's own error class is not typed
    """What is wrong, without repeating a body of any size."""
    value, bound = error.instance, error.validator_value
    match error.validator:
        case "additionalProperties":
            unknown = sorted(set(value) - set(error.schema.get("properties", {})))
            said = "unknown: " + ", ".join(quoted(name, 40) for name in unknown[:10])
        case "required":
            said = "missing: " + ", ".join(name for name in bound if name not in value)
        case "type":
            said = f"this must be {_TYPES.get(bound, bound)}"
        case "enum":
            said = f"{quoted(str(value))} is none of: {', '.join(bound)}"
        case "minLength" | "minItems" if not value:
            said = "it is empty"
        case "maxLength" | "maxItems" as which:
            things = "characters" if which == "maxLength" else "items"
            said = f"it has {len(value)} {things}; {bound} are accepted"
        case other:
            said = f"{other} {bound} is not kept"
    return said


def _path(parts: Sequence[str | int]) -> str:
    return ".".join(str(part)[:40] for part in parts)


def _fault(field: str, detail: str) -> Reason:
    return Reason("malformed", field.encode("unicode_escape").decode("ascii"), detail)

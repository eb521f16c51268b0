"""Validators for Connexion's `validator_map`, which report all problems of a request at once.

Connexion's own validators stop at the first problem, only check JSON bodies, and have other error texts. The
body validator runs first and stores its problems in Connexion's context. The parameter validator adds its own
problems and refuses the request.
"""

from __future__ import annotations

import codecs
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

import connexion
from connexion.exceptions import ProblemException
from jsonschema import Draft4Validator

from service.pki.errors import quote
from service.pki.strict_json import parse_json
from service.web.problems import FieldProblem, MalformedError

_PROBLEMS: Final = (
    "problems"  # key in Connexion's context, so no operation may have an argument with this name
)
_TYPES: Final = {"string": "a string", "boolean": "true or false", "object": "an object", "array": "an array"}
_BOOLEANS: Final = {"true": True, "false": False, "1": True, "0": False}  # in the query
_DEFAULT_MEDIA_TYPE: Final = "application/octet-stream"  # of a body without a Content-Type (RFC 9110 8.3)
_PEM: Final = b"-----BEGIN "

_T = TypeVar("_T")


class BodyValidator:
    """Validates that a body exists, its coding and media type, and the schema of a JSON body."""

    def __init__(self, schema: Mapping[str, Any], consumes: Sequence[str], *_: object, **_kw: object) -> None:
        """Create the validator from an operation's `requestBody`."""
        self._media_types = consumes
        is_json = all(media_type.endswith(("/json", "+json")) for media_type in consumes)
        self._validator = Draft4Validator(schema) if is_json else None

    def __call__(self, function: Callable[[Any], _T]) -> Callable[[Any], _T]:
        """Decorate the function that Connexion calls with its request."""

        @functools.wraps(function)
        def validated(request: Any) -> _T:  # noqa: ANN401 - Connexion is not typed
            request.context[_PROBLEMS] = list(self._problems(request))
            return function(request)

        return validated

    def _problems(self, request: Any) -> Iterator[FieldProblem]:  # noqa: ANN401 - Connexion is not typed
        if not request.body:
            yield _problem("", "The body is missing")
            return
        self._verify_type(request.body)
        if self._validator and _is_pem(request.body):
            yield _problem("", "The body is PEM, not JSON: send it to /sign.pem")
        elif self._validator:
            try:
                document = parse_json(request.body)
            except ValueError as error:
                yield _problem("", f"The body is not JSON: {error}")
            else:
                request.json_getter = lambda: document
                yield from _schema_problems(self._validator, document)

    def _verify_type(self, body: bytes) -> None:
        """Refuse a content coding (RFC 9110 8.4) other than the name for none, and a wrong media type."""
        headers = connexion.request.headers
        codings = [coding.strip() for coding in headers.get("Content-Encoding", "").split(",")]
        if unsupported := [coding for coding in codings if coding.lower() not in {"", "identity"}]:
            detail = (
                f"Content-Encoding {quote(unsupported[0], 40)} is not supported: send the body without it"
            )
            raise ProblemException(status=415, detail=detail, headers={"Accept-Encoding": "identity"})
        if (connexion.request.mimetype or _DEFAULT_MEDIA_TYPE) not in self._media_types:
            detail = f"The operation accepts only {', '.join(self._media_types)}"
            if self._validator and _is_pem(body):
                detail += ": send PEM to /sign.pem"
            raise ProblemException(status=415, detail=detail)


def _is_pem(body: bytes) -> bool:
    return body.removeprefix(codecs.BOM_UTF8).lstrip().startswith(_PEM)


class ParameterValidator:
    """Validates query and headers, rejects an unexpected body, and refuses the request if it has a problem.

    Path parameters are not validated: the operation reports an unknown label.
    """

    def __init__(
        self, parameters: Iterable[Mapping[str, Any]], _api: object = None, *, strict_validation: bool
    ) -> None:
        """Create the validator from an operation's `parameters`."""
        self._parameters = {
            (parameter["in"], parameter["name"]): (parameter, Draft4Validator(parameter["schema"]))
            for parameter in parameters
            if parameter["in"] in {"query", "header"}
        }
        self._booleans = [
            name
            for (location, name), (parameter, _) in self._parameters.items()
            if location == "query" and parameter["schema"].get("type") == "boolean"
        ]
        self._strict = strict_validation

    def __call__(self, function: Callable[..., _T]) -> Callable[..., _T]:
        """Decorate the function that Connexion calls with its request, or an operation."""

        @functools.wraps(function)
        def validated(*arguments: Any, **parameters: object) -> _T:  # noqa: ANN401 - Connexion is not typed
            body_problems = connexion.context.get(_PROBLEMS)
            if (
                body_problems is None and connexion.request.content_length
            ):  # the operation has no body validator
                body_problems = [_problem("", "The operation accepts no body")]
            if problems := [*self._problems(), *(body_problems or ())]:
                raise MalformedError(problems)
            for name in self._booleans:  # Connexion's own conversion does not know 1 and 0
                query = arguments[0].query
                if name in query:
                    query[name] = _BOOLEANS[query[name]]
            return function(*arguments, **parameters)

        return validated

    def _problems(self) -> Iterator[FieldProblem]:
        query, headers = connexion.request.args, connexion.request.headers
        values_by_parameter = {("query", name): query.getlist(name) for name in query}
        for location, name in self._parameters:
            if location == "header" and name in headers:
                values_by_parameter[location, name] = [headers[name]]
        for (location, name), values in values_by_parameter.items():
            field = f"{location}.{name[:40]}"
            _, validator = self._parameters.get((location, name), ({}, None))
            if len(values) > 1 and validator:
                yield _problem(field, "The parameter must not occur more than once")
            elif validator:
                value = _BOOLEANS.get(values[0], values[0]) if name in self._booleans else values[0]
                yield from _schema_problems(validator, value, field)
            elif self._strict:
                yield _problem(field, f"Unknown query parameter {quote(name)}")
        for (location, name), (parameter, _) in self._parameters.items():
            if parameter.get("required") and (location, name) not in values_by_parameter:
                yield _problem(f"{location}.{name}", "The required parameter is missing")


def _schema_problems(validator: Draft4Validator, value: object, field: str = "") -> Iterator[FieldProblem]:
    """Validate a value. Each invalid part of it is a field."""
    errors: dict[str, list[Any]] = {}
    for error in validator.iter_errors(value):
        path = ".".join(str(part)[:40] for part in error.absolute_path)
        errors.setdefault(field or path, []).append(error)
    for name, field_errors in errors.items():
        yield from (_problem(name, message) for message in _messages(field_errors))


def _messages(errors: Sequence[Any]) -> list[str]:
    """Describe the errors of one value: a mismatch with its schema's title, wrong types, or all errors."""
    type_errors = [error for error in errors if error.validator == "type"]
    titled = [error for error in errors if isinstance(error.instance, str) and "title" in error.schema]
    if titled:
        text, title = titled[0].instance, titled[0].schema["title"]
        return [f"{quote(text, 40)} is not {title}" if text else "Must not be empty"]
    return list(dict.fromkeys(_message(error) for error in type_errors or errors))


def _message(error: Any) -> str:  # noqa: ANN401 - jsonschema's error class is not typed
    """Describe one error, without quoting long values."""
    value, bound = error.instance, error.validator_value
    match error.validator:
        case "additionalProperties":
            unknown = sorted(set(value) - set(error.schema.get("properties", {})))
            message = "Unknown members: " + ", ".join(quote(name, 40) for name in unknown[:10])
        case "required":
            message = "Missing members: " + ", ".join(name for name in bound if name not in value)
        case "type":
            message = f"Must be {_TYPES.get(bound, bound)}"
        case "enum":
            message = f"{quote(str(value))} is not one of: {', '.join(bound)}"
        case "minLength" | "minItems" if not value:
            message = "Must not be empty"
        case "maxLength" | "maxItems" as keyword:
            unit = "characters" if keyword == "maxLength" else "items"
            message = f"Too long: {len(value)} {unit}, the limit is {bound}"
        case keyword:
            message = f"Violates {keyword} {bound}"
    return message


def _problem(field: str, detail: str) -> FieldProblem:
    return FieldProblem("malformed", field.encode("unicode_escape").decode("ascii"), detail)

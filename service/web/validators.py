"""Whether a request is what the contract says: Connexion's validators, which report every problem at once.

Connexion's own stop at the first problem, check no body that is not JSON, and answer in their own words.
These take their place in its `validator_map`. The body validator runs first and leaves its problems in
Connexion's context; the parameter validator adds its own and refuses.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

import connexion
from connexion.exceptions import ProblemException
from jsonschema import Draft4Validator

from service.pki.errors import quote
from service.web.problems import FieldProblem, MalformedError
from service.web.strict_json import StrictJson

_PROBLEMS: Final = "problems"  # the key in Connexion's context; no operation has an argument of this name
_TYPES: Final = {"string": "text", "boolean": "true or false", "object": "an object", "array": "an array"}
_BOOLEANS: Final = {"true": True, "false": False}

_T = TypeVar("_T")


class BodyValidator:
    """Checks a body's media type, that there is one, and if it is JSON its schema."""

    def __init__(self, schema: Mapping[str, Any], consumes: Sequence[str], *_: object, **_kw: object) -> None:
        """Take what Connexion says of an operation's `requestBody`."""
        self._media_types = consumes
        is_json = all(media_type.endswith(("/json", "+json")) for media_type in consumes)
        self._validator = Draft4Validator(schema) if is_json else None

    def __call__(self, function: Callable[[Any], _T]) -> Callable[[Any], _T]:
        """Decorate what Connexion calls with its request."""

        @functools.wraps(function)
        def validated(request: Any) -> _T:  # noqa: ANN401 - Connexion is not typed
            request.context[_PROBLEMS] = list(self._problems(request))
            return function(request)

        return validated

    def _problems(self, request: Any) -> Iterator[FieldProblem]:  # noqa: ANN401 - Connexion is not typed
        if not request.body:
            yield _problem("", "the body is missing")
        elif connexion.request.mimetype not in self._media_types:
            raise ProblemException(status=415, detail=f"This takes {', '.join(self._media_types)}.")
        elif self._validator:
            try:
                document = StrictJson.loads(request.body)
            except ValueError as error:
                yield _problem("", f"the body is not JSON: {error}")
            else:
                request.json_getter = lambda: document
                yield from _schema_problems(self._validator, document)


class ParameterValidator:
    """Checks the query and the headers, and refuses the request for any problem, an unexpected body included.

    A parameter in the path is a part of a name: what it names exists or not, which the operation says.
    """

    def __init__(
        self, parameters: Iterable[Mapping[str, Any]], _api: object = None, *, strict_validation: bool
    ) -> None:
        """Take what Connexion says of an operation's `parameters`."""
        self._parameters = {
            (each["in"], each["name"]): (each, Draft4Validator(each["schema"]))
            for each in parameters
            if each["in"] in {"query", "header"}
        }
        self._strict = strict_validation

    def __call__(self, function: Callable[..., _T]) -> Callable[..., _T]:
        """Decorate what Connexion calls with its request, or an operation itself."""

        @functools.wraps(function)
        def validated(*arguments: object, **named: object) -> _T:
            body_problems = connexion.context.get(_PROBLEMS)
            if body_problems is None and connexion.request.content_length:  # there is no body validator
                body_problems = [_problem("", "this takes no body")]
            if problems := [*self._problems(), *(body_problems or ())]:
                raise MalformedError(problems)
            return function(*arguments, **named)

        return validated

    def _problems(self) -> Iterator[FieldProblem]:
        query, headers = connexion.request.args, connexion.request.headers
        sent = {("query", name): query.getlist(name) for name in query}
        for place, name in self._parameters:
            if place == "header" and name in headers:
                sent[place, name] = [headers[name]]
        for (place, name), values in sent.items():
            field = f"{place}.{name[:40]}"
            parameter, validator = self._parameters.get((place, name), ({}, None))
            if len(values) > 1 and validator:
                yield _problem(field, "given more than once")
            elif validator:
                is_boolean = parameter["schema"].get("type") == "boolean"
                value = _BOOLEANS.get(values[0], values[0]) if is_boolean else values[0]
                yield from _schema_problems(validator, value, field)
            elif self._strict:
                yield _problem(field, f"there is no query parameter {quote(name)}")
        for (place, name), (parameter, _) in self._parameters.items():
            if parameter.get("required") and (place, name) not in sent:
                yield _problem(f"{place}.{name}", "it is missing")


def _schema_problems(validator: Draft4Validator, value: object, field: str = "") -> Iterator[FieldProblem]:
    """What is wrong with a value, or with parts of it, each of which is a field."""
    errors: dict[str, list[Any]] = {}
    for error in validator.iter_errors(value):
        path = ".".join(str(part)[:40] for part in error.absolute_path)
        errors.setdefault(field or path, []).append(error)
    for name, of_field in errors.items():
        yield from (_problem(name, sentence) for sentence in _messages(of_field))


def _messages(errors: Sequence[Any]) -> list[str]:
    """What is wrong with one value: of another type, or not what its schema's title says; else each fault."""
    mistyped = [each for each in errors if each.validator == "type"]
    titled = [each for each in errors if isinstance(each.instance, str) and "title" in each.schema]
    if titled:
        text, title = titled[0].instance, titled[0].schema["title"]
        return [f"{quote(text, 40)} is not {title}" if text else "it is empty"]
    return [_message(each) for each in mistyped or errors]


def _message(error: Any) -> str:  # noqa: ANN401 - jsonschema's own error class is not typed
    """What is wrong, without repeating a body of any size."""
    value, bound = error.instance, error.validator_value
    match error.validator:
        case "additionalProperties":
            unknown = sorted(set(value) - set(error.schema.get("properties", {})))
            said = "unknown: " + ", ".join(quote(name, 40) for name in unknown[:10])
        case "required":
            said = "missing: " + ", ".join(name for name in bound if name not in value)
        case "type":
            said = f"this must be {_TYPES.get(bound, bound)}"
        case "enum":
            said = f"{quote(str(value))} is none of: {', '.join(bound)}"
        case "minLength" | "minItems" if not value:
            said = "it is empty"
        case "maxLength" | "maxItems" as which:
            things = "characters" if which == "maxLength" else "items"
            said = f"it has {len(value)} {things}; {bound} are accepted"
        case other:
            said = f"{other} {bound} is not kept"
    return said


def _problem(field: str, detail: str) -> FieldProblem:
    return FieldProblem("malformed", field.encode("unicode_escape").decode("ascii"), detail)

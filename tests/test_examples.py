"""The contract's examples: each is sent or asked for on the whole path, and compared with what is answered."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft4Validator

from service import openapi
from tests import examples, factories
from tests.examples import EXAMPLES, Sites, normal, value
from tests.servers import Answer

DOCUMENT = factories.document()
STATED = DOCUMENT["components"]["examples"]
ANY = "x-amazon-apigateway-any-method"


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    """All that is asked."""
    with examples.sites(tmp_path_factory.mktemp("examples")) as running:
        yield running


def operations() -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            yield f"{method} {path}", operation


def answers() -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Place, status, media type and media type object of every answer with a body."""
    for place, operation in operations():
        for status, response in operation["responses"].items():
            stated = response
            if "$ref" in response:
                stated = DOCUMENT["components"]["responses"][response["$ref"].rpartition("/")[2]]
            for media_type, content in stated.get("content", {}).items():
                yield f"{place} {status}", status, media_type, content


def named(content: dict[str, Any]) -> list[str]:
    """The examples of a media type object, by their names in components."""
    return [each["$ref"].removeprefix("#/components/examples/") for each in content["examples"].values()]


SUCCESSES = {
    name: content for _, status, _, content in answers() if status.startswith("2") for name in named(content)
}
SENT = [
    (operation["operationId"], media_type)
    for _, operation in operations()
    for media_type in operation.get("requestBody", {}).get("content", {})
]


def test_everything_has_its_example() -> None:
    """Each media type of a body, and each answer with one, problems among them, has an example; none is of no answer."""
    for place, operation in operations():
        for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
            assert content["example"], (place, media_type)
    used = set()
    for place, status, _, content in answers():
        assert content["examples"], place
        for name in named(content):
            assert EXAMPLES[name].status == int(status), place
            used.add(name)
    assert used == set(STATED) == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_what_is_answered(at: Sites, name: str) -> None:
    """The answer has the example's status and media type, is of its schema, and is the example but for time and keys."""
    answer = EXAMPLES[name].ask(at)
    assert answer.status == EXAMPLES[name].status, answer.body
    assert STATED[name]["summary"] == EXAMPLES[name].summary
    assert normal(value(answer)) == normal(STATED[name]["value"])
    places = [(media_type, content) for _, _, media_type, content in answers() if name in named(content)]
    for media_type, content in places:
        assert answer.headers["Content-Type"].partition(";")[0] == media_type
        schema = openapi.resolve(content["schema"], DOCUMENT)
        for each in (value(answer), STATED[name]["value"]):
            Draft4Validator(schema).validate(each)


@pytest.mark.parametrize(("name", "media_type"), SENT)
def test_a_request_s_example_is_granted(at: Sites, name: str, media_type: str) -> None:
    """Each operation's example, in each of its media types, is answered with the example of its success."""
    if name.endswith("implereenroll"):  # with a certificate in the handshake, which is of the profile peer
        label = "/peer" if "Labelled" in name else ""
        answer = examples.enrolled(at, f"{label}/simplereenroll")
    elif name.startswith("est"):
        path = "/.well-known/est/server/simpleenroll" if "Labelled" in name else ""
        answer = examples.sent(at.tls, name, path, media_type)
    else:
        answer = examples.sent(at.plain, name, media_type=media_type)
    responses = openapi.operations(DOCUMENT)[name]["responses"]
    (success,) = [each for content in responses["200"]["content"].values() for each in named(content)]
    assert answer.status == 200, answer.body
    assert normal(value(answer)) == normal(STATED[success]["value"])


def leaves(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every member and element."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, each in pairs:
        yield (*path, key)
        yield from leaves(each, (*path, key))


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_difference_is_seen(name: str) -> None:
    """The negative twin: a member more, less, of another type or of other words is no longer the example."""
    stated = STATED[name]["value"]
    if isinstance(stated, str):
        assert normal(stated + "x") != normal(stated)
    for *path, last in leaves(stated):
        for change in ("less", "type", "words"):
            changed = copy.deepcopy(stated)
            node = changed
            for key in path:
                node = node[key]
            if change == "less":
                del node[last]
            elif change == "type":
                node[last] = {"x": node[last]}
            elif isinstance(node[last], str):
                node[last] += "x"
            else:
                continue
            assert normal(changed) != normal(stated), (path, last, change)


def test_another_certificate_is_another(at: Sites) -> None:
    """What a certificate holds is compared: of another profile, name or validity it is not the example's."""
    body = DOCUMENT["paths"]["/sign"]["post"]["requestBody"]["content"]["application/json"]["example"]
    kept = normal(STATED["sign"]["value"])["crt_pem"]

    def signed(**change: str) -> Answer:
        return at.plain.sign({**body, **change})

    assert normal(signed().json()["crt_pem"]) == kept
    for change in ({"profile": "client"}, {"validity": "P89D"}, {"csr": examples.other_request()}):
        assert normal(signed(**change).json()["crt_pem"]) != kept, change


def test_examples_are_not_imported() -> None:
    """API Gateway takes no examples: nowhere in what it imports is one left."""
    for est in (False, True):
        rendered = openapi.for_api_gateway(DOCUMENT, "eu-central-1", "123456789012", "certlet", est=est)
        assert not re.search('"examples?":', json.dumps(rendered))
    assert re.search('"example":', json.dumps(DOCUMENT))

"""The examples in the contract: each request is sent to a server, and the response compared with the example."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft4Validator

from service import api_gateway, openapi
from service.web.acme_problems import NAMESPACE
from tests import examples, factories
from tests.examples import EXAMPLES, Sites, normalize, value
from tests.servers import Response
from tests.web.acme_client import JOSE

DOCUMENT = factories.document()
EXAMPLES_IN_CONTRACT = DOCUMENT["components"]["examples"]
ANY = "x-amazon-apigateway-any-method"


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    """Start the servers that the examples need."""
    with examples.start_sites(tmp_path_factory.mktemp("examples")) as example_sites:
        yield example_sites


def operations() -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            yield f"{method} {path}", operation


def responses_with_body() -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Return operation, status, media type and media type object of each response with a body."""
    for operation_name, operation in operations():
        for status, response in operation["responses"].items():
            resolved = response
            if "$ref" in response:
                resolved = DOCUMENT["components"]["responses"][response["$ref"].rpartition("/")[2]]
            for media_type, content in resolved.get("content", {}).items():
                yield f"{operation_name} {status}", status, media_type, content


def example_names(content: dict[str, Any]) -> list[str]:
    """Return the names of the examples of a media type object."""
    references = content["examples"].values()
    return [reference["$ref"].removeprefix("#/components/examples/") for reference in references]


SUCCESSES = {
    name: content
    for _, status, _, content in responses_with_body()
    if status.startswith("2")
    for name in example_names(content)
}
REQUESTS = [
    (operation["operationId"], media_type)
    for _, operation in operations()
    for media_type in operation.get("requestBody", {}).get("content", {})
]


def test_every_body_has_an_example() -> None:
    """Each media type of a request or response body has an example, and each example is used."""
    for operation_name, operation in operations():
        for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
            assert content["example"], (operation_name, media_type)
    names = set()
    for operation_name, status, _, content in responses_with_body():
        assert content["examples"], operation_name
        for name in example_names(content):
            assert EXAMPLES[name].status == int(status), operation_name
            names.add(name)
    assert names == set(EXAMPLES_IN_CONTRACT) == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_response_equals_the_example(sites: Sites, name: str) -> None:
    """The response has the status, media type and schema of the example, and equals it except for times and keys."""
    response = EXAMPLES[name].send(sites)
    assert response.status == EXAMPLES[name].status, response.body
    assert EXAMPLES_IN_CONTRACT[name]["summary"] == EXAMPLES[name].summary
    assert normalize(value(response)) == normalize(EXAMPLES_IN_CONTRACT[name]["value"])
    contents = [
        (media_type, content)
        for _, _, media_type, content in responses_with_body()
        if name in example_names(content)
    ]
    for media_type, content in contents:
        assert response.headers["Content-Type"].partition(";")[0] == media_type
        schema = openapi.resolve_refs(content["schema"], DOCUMENT)
        for instance in (value(response), EXAMPLES_IN_CONTRACT[name]["value"]):
            Draft4Validator(schema).validate(instance)


@pytest.mark.parametrize(("name", "media_type"), REQUESTS)
def test_example_request_is_accepted(sites: Sites, name: str, media_type: str) -> None:
    """The example request of each operation and media type gets the example of its success."""
    if name.endswith("implereenroll"):  # with a client certificate of the profile peer
        label = "/peer" if "Labelled" in name else ""
        response = examples.renew_with_certificate(sites, f"{label}/simplereenroll")
    elif name == "ocsp":  # about a certificate of the server
        response = examples.ask_about_certificate(sites)
    elif name == "revoke":  # of another CA
        response = examples.send_example(sites.tls, name)
        assert response.json()["errors"][0]["field"] == "serial_number"
        return
    elif name.startswith("acme"):  # its nonce has expired, and it was signed for new-account
        assert_acme_example_is_refused(sites, name)
        return
    elif name.startswith("est"):
        path = "/.well-known/est/server/simpleenroll" if "Labelled" in name else ""
        response = examples.send_example(sites.tls, name, path, media_type)
    else:
        response = examples.send_example(sites.plain, name, media_type=media_type)
    responses = openapi.operations_by_id(DOCUMENT)[name]["responses"]
    (success,) = [
        example for content in responses["200"]["content"].values() for example in example_names(content)
    ]
    assert response.status == 200, response.body
    assert normalize(value(response)) == normalize(EXAMPLES_IN_CONTRACT[success]["value"])


def assert_acme_example_is_refused(sites: Sites, name: str) -> None:
    """Send the example request of an operation of ACME, which has the form of the contract."""
    path, operation = next(
        (path, item["post"])
        for path, item in DOCUMENT["paths"].items()
        if item.get("post", {}).get("operationId") == name
    )
    body = json.dumps(operation["requestBody"]["content"]["application/jose+json"]["example"]).encode()
    response = sites.acme.send("POST", path, body, JOSE)
    code = "badNonce" if name == "acmeNewAccount" else "unauthorized"
    assert response.json()["type"] == NAMESPACE + code


def paths(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Return the path of each member and element."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in pairs:
        yield (*path, key)
        yield from paths(child, (*path, key))


@pytest.mark.parametrize("name", EXAMPLES)
def test_normalize_keeps_differences(name: str) -> None:
    """A value with a changed, missing or mistyped member does not equal the example."""
    example = EXAMPLES_IN_CONTRACT[name]["value"]
    if isinstance(example, str):
        assert normalize(example + "x") != normalize(example)
    for *path, last in paths(example):
        for change in ("remove", "type", "text"):
            modified = copy.deepcopy(example)
            node = modified
            for key in path:
                node = node[key]
            if change == "remove":
                del node[last]
            elif change == "type":
                node[last] = {"x": node[last]}
            elif isinstance(node[last], str):
                node[last] += "x"
            else:
                continue
            assert normalize(modified) != normalize(example), (path, last, change)


def test_normalize_keeps_the_content_of_certificates(sites: Sites) -> None:
    """A certificate with another profile, name or validity does not equal the example."""
    body = DOCUMENT["paths"]["/sign"]["post"]["requestBody"]["content"]["application/json"]["example"]
    expected = normalize(EXAMPLES_IN_CONTRACT["sign"]["value"])["crt_pem"]

    def sign(**change: str) -> Response:
        return sites.plain.sign({**body, **change})

    assert normalize(sign().json()["crt_pem"]) == expected
    for change in ({"profile": "client"}, {"validity": "P89D"}, {"csr": examples.build_other_csr()}):
        assert normalize(sign(**change).json()["crt_pem"]) != expected, change


def test_examples_are_not_rendered() -> None:
    """API Gateway does not accept examples, so the rendered document has none."""
    for est in (False, True):
        rendered = api_gateway.for_api_gateway(
            DOCUMENT, "eu-central-1", "123456789012", "certlet", api_gateway.Options(est=est)
        )
        assert not re.search('"examples?":', json.dumps(rendered))
    assert re.search('"example":', json.dumps(DOCUMENT))

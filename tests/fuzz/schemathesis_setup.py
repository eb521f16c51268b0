"""The contract for Schemathesis, with valid and invalid data and all checks."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import schemathesis
from hypothesis import HealthCheck
from schemathesis.config import SchemathesisConfig

from service import openapi
from tests import factories
from tests.fuzz import strategies

schemathesis.openapi.format("csr", strategies.csr)
schemathesis.openapi.format("est-csr", strategies.est_csr)
schemathesis.openapi.format("certificate-id", strategies.certificate_id)
schemathesis.openapi.format("key-id", strategies.key_id)
schemathesis.openapi.format("date-time", strategies.date_time)
schemathesis.openapi.format("base64url", strategies.base64url)
schemathesis.openapi.format("jws-member", strategies.jws_member)
schemathesis.openapi.format("index", strategies.index)
schemathesis.openapi.format("dns-name", strategies.dns_name)
schemathesis.openapi.format("ip-address", strategies.ip_address)
schemathesis.openapi.format("path", strategies.base64_ocsp_request)
schemathesis.openapi.media_type("application/ocsp-request", strategies.ocsp_request)

SUPPRESSED_CHECKS: Final = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]

StatusCounts = Counter[tuple[str, int]]
"""Number of responses by operation and status."""

Coverage = Counter[tuple[str, str, str]]
"""Number of requests by operation, phase and mode, such as `("POST /sign", "coverage", "negative")`."""

# The phases and modes of each operation. Only operations with a body have examples. Without a schema, no
# invalid request can be generated; the coverage phase tests other errors, such as wrong methods.
_WITHOUT_BODY: Final = {("coverage", "positive"), ("coverage", "negative"), ("fuzzing", "positive")}
_WITH_BODY: Final = _WITHOUT_BODY | {("examples", "positive"), ("fuzzing", "negative")}
# Bodies of any octets that a strategy generates: none is invalid, and the base64 of an example is not such a body.
_ANY_OCTETS: Final = {"POST /ocsp"}

# A body that only violates the maximum length of the schema may be 413 instead of 400.
_ERROR_STATUSES: Final = ["400", "401", "403", "404", "405", "413", "415", "422"]
_ERROR_CHECK: Final = {"negative_data_rejection": {"expected-statuses": _ERROR_STATUSES}}
# The sign operations return 422 for a valid body with a CSR that is refused.
_SIGN_CHECK: Final = {"positive_data_acceptance": {"expected-statuses": ["2xx", "422"]}}
# A batch reports problems of a request in its result, so an invalid `format` does not violate its schema.
_BATCH_CHECK: Final = {"negative_data_rejection": {"expected-statuses": ["200", *_ERROR_STATUSES]}}
# EST returns 400 instead, and 403 without a client certificate.
_EST_CHECK: Final = {"positive_data_acceptance": {"expected-statuses": ["2xx", "400", "403"]}}
# Generated requests of ACME are not signed.
_UNSIGNED_CHECK: Final = {"positive_data_acceptance": {"expected-statuses": ["400", "403"]}}
# Whether ACME accepts an identifier in a path depends on the account; of other values, on the ledger and the policy, too.
_ACME_CHECK: Final = {"positive_data_acceptance": {"expected-statuses": ["2xx", "403", "404"]}}
_ACME_VALUE_CHECK: Final = {
    "positive_data_acceptance": {"expected-statuses": ["2xx", "400", "403", "404", "409"]}
}
_ACME_VALUES: Final = "^/acme/(new-account|new-order|key-change|revoke-cert|.*/orders|.*/finalize)$"
NO_PAYLOAD: Final = "no payload"
_NO_PAYLOAD: Final = {"required": False, "schema": {"enum": [NO_PAYLOAD]}}


def is_sign_operation(context: Any) -> bool:
    """Return whether an operation signs one CSR."""
    return context.operation.label in {"POST /sign", "POST /sign.pem"}


def is_est_operation(context: Any) -> bool:
    """Return whether an operation belongs to EST."""
    return "/.well-known/est/" in context.operation.label


def is_other_key_operation(context: Any) -> bool:
    """Return whether an operation needs an API key, but does not sign one CSR."""
    return context.operation.label in {"POST /sign/batch", "GET /profiles/mine"}


def is_signed_operation(context: Any) -> bool:
    """Return whether an operation needs a signed request."""
    return bool(context.operation.label.startswith("POST /acme/"))


def is_page_operation(context: Any) -> bool:
    """Return whether a path has a web page, which the gateway serves without the function."""
    return context.operation.label.rpartition(" ")[2] in {"/", "/sign", "/problems"}


def record_coverage(coverage: Coverage, case: Any) -> None:
    """Count a case by its phase and mode."""
    coverage[case.operation.label, case.meta.phase.name.value, case.meta.generation.mode.value] += 1


def missing_coverage(coverage: Coverage) -> set[tuple[str, str, str]]:
    """Return the operations, phases and modes without a request."""
    expected = set()
    for result in load(refusable=False).get_all_operations():
        operation = result.ok()
        has_schema = operation.body and operation.label not in _ANY_OCTETS
        kinds = _WITH_BODY if has_schema else _WITHOUT_BODY
        expected |= {(operation.label, phase, mode) for phase, mode in kinds}
    return expected - set(coverage)


def _document() -> dict[str, Any]:
    """Return a copy of the contract, in which the members of a JWS have a format of their own."""
    document = copy.deepcopy(factories.document())
    for member in document["components"]["schemas"]["Jws"]["properties"].values():
        member["format"] = "jws-member"
    return document


@schemathesis.serializer("application/pkcs10", "application/x-pem-file")
def _as_text(_context: object, value: object) -> bytes:
    value = getattr(value, "data", value)  # octets of the format `binary` are wrapped in an empty string
    if isinstance(value, bytes):
        return value
    return (value if isinstance(value, str) else json.dumps(value)).encode("utf-8", "surrogatepass")


def load(
    *, refusable: bool = False, enrollable: bool = False, batched: bool = False, unsigned: bool = False
) -> Any:
    """Load the schema for parametrized tests.

    Args:
        refusable: expect 422 for CSRs that are refused (sign operations).
        enrollable: expect 400 for CSRs that are refused, and 403 (EST operations).
        batched: expect 200 for invalid data (operations with an API key, including the batch).
        unsigned: expect only refusals (operations with signed requests).
    """
    accepted = _SIGN_CHECK if refusable else _EST_CHECK if enrollable else _UNSIGNED_CHECK if unsigned else {}
    return _load(_document(), {**(_BATCH_CHECK if batched else _ERROR_CHECK), **accepted})


def load_payloads() -> Any:
    """Load the operations with signed requests, whose bodies are the payloads instead of the JWS."""
    document = _document()
    document["paths"] = {
        path: {"post": _with_payload(item["post"])}
        for path, item in document["paths"].items()
        if path.startswith("/acme/") and "post" in item
    }
    values = {"include-path-regex": _ACME_VALUES, "checks": _ACME_VALUE_CHECK}
    return _load(document, {**_ERROR_CHECK, **_ACME_CHECK}, [values])


def find_links() -> set[tuple[str, str]]:
    """Return source and target of each link in the contract, such as `("POST /sign", "POST /sign")`."""
    operations = {
        f"{method.upper()} {path}": operation
        for path, item in factories.document()["paths"].items()
        for method, operation in item.items()
        if method in openapi.METHODS
    }
    labels = {
        operation["operationId"]: label
        for label, operation in operations.items()
        if "operationId" in operation
    }
    return {
        (label, labels[link["operationId"]])
        for label, operation in operations.items()
        for response in operation["responses"].values()
        for link in response.get("links", {}).values()
    }


def load_links() -> Any:
    """Load the operations that have links and those that links lead to, with valid data only."""
    labels = {label for link in find_links() for label in link}
    schema = _load(_document(), _ERROR_CHECK | _SIGN_CHECK, mode="positive")
    return schema.include(lambda context: context.operation.label in labels)


def _with_payload(operation: Mapping[str, Any]) -> dict[str, Any]:
    payload = operation.get("x-jws-payload", _NO_PAYLOAD)
    content = {"application/jose+json": {"schema": payload["schema"]}}
    parameters = [
        item | ({"example": strategies.OWN} if item["schema"].get("format") == "base64url" else {})
        for item in operation.get("parameters", ())
    ]
    body = {"required": payload["required"], "content": content}
    return {**operation, "parameters": parameters, "requestBody": body}


def _load(
    document: Any,
    checks: Mapping[str, Any],
    operations: Sequence[Mapping[str, Any]] = (),
    mode: str = "all",
) -> Any:
    config = SchemathesisConfig.from_dict(
        {
            "checks": checks,
            "generation": {"mode": mode, "with-security-parameters": False},
            "operations": [*operations],
        }
    )
    return schemathesis.openapi.from_dict(document, config=config)

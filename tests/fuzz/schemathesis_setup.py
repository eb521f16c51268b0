"""The contract as Schemathesis takes it: good and bad data, all checks."""

from __future__ import annotations

import copy
import json
from collections import Counter
from typing import Any, Final

import schemathesis
from hypothesis import HealthCheck
from schemathesis.config import SchemathesisConfig

from tests import factories
from tests.fuzz import strategies

schemathesis.openapi.format("csr", strategies.csr)
schemathesis.openapi.format("est-csr", strategies.encoded)
schemathesis.openapi.format("duration", strategies.duration)
schemathesis.openapi.format("date-time", strategies.moment)

RELAXED: Final = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]

Tally = Counter[tuple[str, int]]
"""How many answers of each status each operation gave."""

Ways = Counter[tuple[str, str, str]]
"""How many requests of each phase and mode each operation got: `("POST /sign", "coverage", "negative")`."""

# What each operation gets. A contract has examples only of what it takes a body for, and no request that
# breaks a schema can be drawn where nothing is stated; the coverage phase has wrong methods and so on.
_PLAIN: Final = {("coverage", "positive"), ("coverage", "negative"), ("fuzzing", "positive")}
_BODY: Final = _PLAIN | {("examples", "positive"), ("fuzzing", "negative")}

# What violates the schema by its length alone is 413, and that is a refusal as good as 400.
_REFUSALS: Final = ["400", "401", "403", "404", "405", "413", "415", "422"]
_REFUSED: Final = {"negative_data_rejection": {"expected-statuses": _REFUSALS}}
# A request that is well-formed, and is refused for what it asks, is 422: of the sign operations alone.
_REFUSABLE: Final = {"positive_data_acceptance": {"expected-statuses": ["2xx", "422"]}}
# What is wrong with a request of a batch is told in its result: to break a `format` alone breaks no schema.
_BATCHED: Final = {"negative_data_rejection": {"expected-statuses": ["200", *_REFUSALS]}}
# EST says 400 instead, and 403 to whoever presents no certificate.
_ENROLLABLE: Final = {"positive_data_acceptance": {"expected-statuses": ["2xx", "400", "403"]}}


def signs(context: Any) -> bool:
    """Whether an operation is one of the two that sign one request."""
    return context.operation.label in {"POST /sign", "POST /sign.pem"}


def enrolls(context: Any) -> bool:
    """Whether an operation is EST's."""
    return "/.well-known/est/" in context.operation.label


def keyed(context: Any) -> bool:
    """Whether an operation is another one that wants an API key."""
    return context.operation.label in {"POST /sign/batch", "GET /profiles/mine"}


def pages(context: Any) -> bool:
    """Whether a path has a page, which the gateway answers by itself."""
    return context.operation.label.rpartition(" ")[2] in {"/sign", "/problems"}


def count(ways: Ways, case: Any) -> None:
    """Note how a case was made."""
    ways[case.operation.label, case.meta.phase.name.value, case.meta.generation.mode.value] += 1


def missing(ways: Ways) -> set[tuple[str, str, str]]:
    """Which phases and modes which operations did not get."""
    wanted = set()
    for each in load(refusable=False).get_all_operations():
        operation = each.ok()
        kinds = _BODY if operation.body else _PLAIN
        wanted |= {(operation.label, phase, mode) for phase, mode in kinds}
    return wanted - set(ways)


@schemathesis.serializer("application/pkcs10", "application/x-pem-file")
def _as_text(_context: object, value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    return (value if isinstance(value, str) else json.dumps(value)).encode("utf-8", "surrogatepass")


def load(*, refusable: bool = False, enrollable: bool = False, batched: bool = False) -> Any:
    """The schema, to be parametrized; `refusable` for the sign operations, `enrollable` for EST's, `batched`
    for those with a key, of which one is the batch.
    """
    accepted = _REFUSABLE if refusable else _ENROLLABLE if enrollable else {}
    config = SchemathesisConfig.from_dict(
        {
            "checks": {**(_BATCHED if batched else _REFUSED), **accepted},
            "generation": {"mode": "all", "with-security-parameters": False},
        }
    )
    return schemathesis.openapi.from_dict(copy.deepcopy(factories.document()), config=config)

"""The dashboard and the alert rules use metrics that exist."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from service.gateway.metrics import DEFINITIONS
from tests.servers import ROOT

FOLDER = ROOT / "deploy/monitoring"
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())
RULES = [
    rule
    for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]


def expressions() -> Iterator[str]:
    """The PromQL of the dashboard and of the alert rules."""
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    yield from (rule["expr"] for rule in RULES)


def test_expressions_use_metrics_that_exist() -> None:
    """With their labels, too. Each metric is in the dashboard or an alert."""
    series: dict[str, set[str]] = {}
    for name, definition in DEFINITIONS.items():
        suffixes = ("_bucket", "_count", "_sum") if definition.kind == "histogram" else ("",)
        series |= {name + suffix: {*definition.labels, "le", "instance"} for suffix in suffixes}
    used = set()
    for expression in expressions():
        names = re.findall(r"certlet_\w+", re.sub(r'"[^"]*"', "", expression))
        assert {*names} <= series.keys(), expression
        used |= {*names}
        for name, selector in re.findall(r"(certlet_\w+)\{([^}]*)\}", expression):
            assert set(re.findall(r"(\w+)(?:=|!)", selector)) <= series[name], expression
        labels = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", expression))))
        assert labels <= set.union(*(series[name] for name in names)) if names else not labels
    assert {re.sub("_(bucket|count|sum)$", "", name) for name in used} == DEFINITIONS.keys()


def test_operations_in_expressions_exist() -> None:
    """Each alternative of `operation` matches an operationId of the contract."""
    operations = re.findall(r"operationId: (\w+)", (ROOT / "openapi.yaml").read_text())
    for expression in expressions():
        for texts in re.findall(r'operation=~"([^"]*)"', expression):
            for text in texts.split("|"):
                assert any(re.fullmatch(text, operation) for operation in operations), text


def test_dashboard_can_be_imported() -> None:
    """Panels have different ids and do not overlap; each query uses the variables, and values of no instance."""
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len({*ids}) == len(ids)
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    source = {"type": "prometheus", "uid": "${datasource}"}
    assert variables["datasource"]["query"] == "prometheus"
    assert variables["instance"]["datasource"] == source
    for panel in DASHBOARD["panels"]:
        assert panel["datasource"] == source
        refs = [target["refId"] for target in panel["targets"]]
        assert len({*refs}) == len(refs)
        for target in panel["targets"]:
            assert target["datasource"] == source
            metrics = re.findall(r"certlet_\w+", target["expr"])
            assert target["expr"].count('{instance=~"$instance"}') == len(metrics) > 0
    for first, second in itertools.combinations([panel["gridPos"] for panel in DASHBOARD["panels"]], 2):
        assert not overlap(first, second), (first, second)


def overlap(first: dict[str, int], second: dict[str, int]) -> bool:
    return all(
        first[start] < second[start] + second[size] and second[start] < first[start] + first[size]
        for start, size in (("x", "w"), ("y", "h"))
    )


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_alert_is_described(rule: dict[str, Any]) -> None:
    """An alert has a severity, and says which server it is about. Each is tested with promtool."""
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert rule["annotations"].keys() == {"summary", "description"}
    assert "$labels.instance" in rule["annotations"]["description"]
    assert f'alertname="{rule["alert"]}"' in (ROOT / "tests/interop/alerts_test.yaml").read_text()

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import build
from service import openapi
from tests import factories, servers

TEMPLATE = servers.ROOT / "deploy" / "template.yaml"


class Loader(yaml.SafeLoader):
    """Reads CloudFormation's short forms: `!Ref X` as {"Ref": "X"}, `!If […]` as {"If": […]}."""


def _short(loader: Loader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.ScalarNode):
        return {suffix: loader.construct_scalar(node)}
    assert isinstance(node, yaml.SequenceNode)
    return {suffix: loader.construct_sequence(node, deep=True)}


Loader.add_multi_constructor("!", _short)
TREE: dict[str, Any] = yaml.load(TEMPLATE.read_text(), Loader=Loader)  # noqa: S506 - a safe one
RESOURCES: dict[str, Any] = TREE["Resources"]


def integrations(document: openapi.Document) -> list[dict[str, Any]]:
    """What API Gateway puts behind each operation."""
    found = openapi.operations(document).values()
    return [operation["x-amazon-apigateway-integration"] for operation in found]


@pytest.mark.parametrize("command", [("cfn-lint",), ("sam", "validate", "--lint", "--template-file")])
def test_the_judges_of_templates_find_nothing(tmp_path: Path, command: tuple[str, ...]) -> None:
    """`cfn-lint` and `sam validate --lint` are clean; and with a fault put in, they are not."""
    program = Path(os.environ["SAM_PYTHON"]).parent / command[0]
    env = servers.environ(AWS_DEFAULT_REGION="eu-central-1", SAM_CLI_TELEMETRY="0", HOME=str(tmp_path))
    servers.run(program, *command[1:], TEMPLATE, env=env)
    broken = tmp_path / "template.yaml"
    broken.write_text(TEMPLATE.read_text().replace("MemorySize:", "MemorySze:"))
    assert servers.run(program, *command[1:], broken, env=env, check=False).returncode != 0


def test_the_role_may_do_what_the_function_does_and_no_more() -> None:
    """The policy's actions and resources are this list; tests/deploy/test_keys.py records the calls."""
    allowed = []
    (policy,) = RESOURCES["Role"]["Properties"]["Policies"]
    for statement in policy["PolicyDocument"]["Statement"]:
        condition, chosen = "", statement
        if "If" in statement:
            condition, chosen, otherwise = statement["If"]
            assert otherwise == {"Ref": "AWS::NoValue"}
        actions = chosen["Action"] if isinstance(chosen["Action"], list) else [chosen["Action"]]
        allowed += [(condition, action, json.dumps(chosen["Resource"])) for action in actions]
        assert chosen["Effect"] == "Allow"
    parameter = "arn:${AWS::Partition}:ssm:${AWS::Region}:${AWS::AccountId}:parameter${CaPassphraseParameter}"
    assert allowed == [
        ("", "logs:CreateLogStream", '{"GetAtt": "LogGroup.Arn"}'),
        ("", "logs:PutLogEvents", '{"GetAtt": "LogGroup.Arn"}'),
        ("KeyInKms", "kms:GetPublicKey", '{"Ref": "CaKeyArn"}'),
        ("KeyInKms", "kms:Sign", '{"Ref": "CaKeyArn"}'),
        ("KeyInSecret", "secretsmanager:GetSecretValue", '{"Ref": "CaKeyArn"}'),
        ("PassphraseInParameter", "ssm:GetParameter", json.dumps({"Sub": parameter})),
    ]
    assert "ManagedPolicyArns" not in RESOURCES["Role"]["Properties"]


def test_the_defaults_are_the_contract_s() -> None:
    """The usage plan's parameters are `x-usage-plan`, by default and as `make deploy` passes them."""
    plan = factories.document()["x-usage-plan"]
    parameters = TREE["Parameters"]
    assert {name: parameters[name.title()]["Default"] for name in plan} == plan
    passed = servers.run(sys.executable, "-m", "deploy.parameters", cwd=servers.ROOT)
    assert passed.stdout == "Rate=10 Burst=20 Quota=10000 Period=DAY\n"
    assert set(dict(each.split("=") for each in passed.stdout.split())) <= set(parameters)


def test_est_is_off_and_goes_with_its_document() -> None:
    """`make deploy EST=on` says it to the document and to the template; by default there is no domain."""
    parameters = TREE["Parameters"]
    assert (parameters["Est"]["Default"], parameters["EstDomain"]["Default"]) == ("off", "")
    passed = servers.run(sys.executable, "-m", "deploy.parameters", "--est", cwd=servers.ROOT)
    assert passed.stdout == "Rate=10 Burst=20 Quota=10000 Period=DAY Est=on\n"
    makefile = (servers.ROOT / "Makefile").read_text()
    assert makefile.count("$(WITH_EST)") == 2
    for kind in ("Est", "EstRenewal"):
        domain, mapping = RESOURCES[f"{kind}DomainName"], RESOURCES[f"{kind}Mapping"]
        condition = "WithEstDomain" if kind == "Est" else "WithEstRenewal"
        assert domain["Condition"] == mapping["Condition"] == condition
        assert {"Equals": [{"Ref": "Est"}, "on"]} in TREE["Conditions"][condition]["And"]
        assert "BasePath" not in mapping["Properties"]  # mapped at /
        assert domain["Properties"]["SecurityPolicy"] == "TLS_1_2"
        mutual = domain["Properties"].get("MutualTlsAuthentication")
        assert mutual == ({"TruststoreUri": {"Ref": "EstTruststore"}} if kind == "EstRenewal" else None)


def test_with_est_the_authorizer_is_the_template_s_function() -> None:
    """The included document's authorizer is the very function, by an address that CloudFormation resolves."""
    included = openapi.for_cloudformation(factories.document(), est=True)
    scheme = included["components"]["securitySchemes"]["authorizer"]
    uri = scheme["x-amazon-apigateway-authorizer"]["authorizerUri"]
    assert uri == openapi.operations(included)["sign"]["x-amazon-apigateway-integration"]["uri"]
    assert "${Function.Arn}" in uri["Fn::Sub"]


def test_the_function_outlives_the_integration_by_a_second() -> None:
    """A Lambda time-out shorter than the integration's would be 502 instead of 504."""
    behind = integrations(factories.document())
    timeouts = {each["timeoutInMillis"] for each in behind if each["type"] != "mock"}
    assert timeouts == {(RESOURCES["Function"]["Properties"]["Timeout"] - 1) * 1000}


def test_the_function_is_the_zip_s() -> None:
    """Handler, runtime and architecture are what `make zip` builds by default."""
    properties = RESOURCES["Function"]["Properties"]
    assert properties["Handler"] == build.HANDLER
    assert properties["Runtime"] == "python3.13"
    assert TREE["Parameters"]["Architecture"]["Default"] == "arm64"
    assert set(TREE["Parameters"]["Architecture"]["AllowedValues"]) == set(build.PLATFORMS)


def test_every_api_key_is_in_the_plan_and_has_a_name() -> None:
    """Whichever keys there are, each is in the usage plan, and the function knows its name."""
    names = json.dumps(RESOURCES["Function"]["Properties"]["Environment"])
    for slot in "AB":
        key, planned = RESOURCES[f"ApiKey{slot}"], RESOURCES[f"UsagePlanKey{slot}"]
        assert key["Condition"] == planned["Condition"] == f"WithKey{slot}"
        assert planned["Properties"]["KeyId"] == {"Ref": f"ApiKey{slot}"}
        assert names.count(f"${{ApiKey{slot}}}") == 2  # alone, and beside the other
    assert RESOURCES["Api"]["Properties"]["MethodSettings"][0]["MetricsEnabled"] is False


def test_the_permission_is_for_this_api_alone() -> None:
    """Only this API of API Gateway may call the function."""
    permission = RESOURCES["Permission"]["Properties"]
    assert permission["Principal"] == "apigateway.amazonaws.com"
    assert "${Api}/" in permission["SourceArn"]["Sub"]


def test_what_is_included_names_the_template_s_function() -> None:
    """`certlet openapi --format cloudformation` keeps `Fn::Sub` on the function of the template, and nothing foreign."""
    included = openapi.for_cloudformation(factories.document())
    uris = {json.dumps(each["uri"]) for each in integrations(included) if each["type"] != "mock"}
    (uri,) = uris
    assert "${Function.Arn}" in uri
    assert RESOURCES["Function"]["Type"] == "AWS::Serverless::Function"
    assert "x-usage-plan" not in included
    assert "${" not in json.dumps(included).replace(uri, "")

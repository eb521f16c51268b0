from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import build
from service import api_gateway, openapi
from tests import factories, servers

TEMPLATE = servers.ROOT / "deploy" / "template.yaml"


class Loader(yaml.SafeLoader):
    """Load CloudFormation's short forms: `!Ref X` as {"Ref": "X"}, `!If […]` as {"If": […]}."""


def _construct_short_form(loader: Loader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.ScalarNode):
        return {suffix: loader.construct_scalar(node)}
    assert isinstance(node, yaml.SequenceNode)
    return {suffix: loader.construct_sequence(node, deep=True)}


Loader.add_multi_constructor("!", _construct_short_form)
TREE: dict[str, Any] = yaml.load(TEMPLATE.read_text(), Loader=Loader)  # noqa: S506 - a subclass of SafeLoader
RESOURCES: dict[str, Any] = TREE["Resources"]


def integrations(document: openapi.OpenAPIDocument) -> list[dict[str, Any]]:
    """Each operation's integration."""
    operations = openapi.operations_by_id(document).values()
    return [operation["x-amazon-apigateway-integration"] for operation in operations]


@pytest.mark.parametrize("command", [("cfn-lint",), ("sam", "validate", "--lint", "--template-file")])
def test_template_passes_cfn_lint_and_sam_validate(tmp_path: Path, command: tuple[str, ...]) -> None:
    """`cfn-lint` and `sam validate --lint` accept the template, and refuse it with an error put in."""
    program = Path(os.environ["SAM_PYTHON"]).parent / command[0]
    env = servers.environ(AWS_DEFAULT_REGION="eu-central-1", SAM_CLI_TELEMETRY="0", HOME=str(tmp_path))
    servers.run(program, *command[1:], TEMPLATE, env=env)
    broken = tmp_path / "template.yaml"
    broken.write_text(TEMPLATE.read_text().replace("MemorySize:", "MemorySze:"))
    assert servers.run(program, *command[1:], broken, env=env, check=False).returncode != 0


def test_role_permits_only_the_listed_actions() -> None:
    """The policy's actions and resources are this list; test_key_stores.py records the function's calls."""
    allowed = []
    (policy,) = RESOURCES["Role"]["Properties"]["Policies"]
    for statement in policy["PolicyDocument"]["Statement"]:
        condition, effective = "", statement
        if "If" in statement:
            condition, effective, alternative = statement["If"]
            assert alternative == {"Ref": "AWS::NoValue"}
        actions = effective["Action"] if isinstance(effective["Action"], list) else [effective["Action"]]
        allowed += [(condition, action, json.dumps(effective["Resource"])) for action in actions]
        assert effective["Effect"] == "Allow"
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


def test_defaults_match_the_contract_s_usage_plan() -> None:
    """The usage plan's parameters are those of `x-usage-plan`, by default and as `make deploy` passes them."""
    plan = factories.document()["x-usage-plan"]
    parameters = TREE["Parameters"]
    assert {name: parameters[name.title()]["Default"] for name in plan} == plan
    printed = servers.run(sys.executable, "-m", "deploy.parameters", cwd=servers.ROOT)
    assert printed.stdout == "Rate=10 Burst=20 Quota=10000 Period=DAY\n"
    assert set(dict(pair.split("=") for pair in printed.stdout.split())) <= set(parameters)


def test_est_is_off_by_default() -> None:
    """`make deploy EST=on` adds EST to the document and sets the parameter; by default there is no domain."""
    parameters = TREE["Parameters"]
    assert (parameters["Est"]["Default"], parameters["EstDomain"]["Default"]) == ("off", "")
    printed = servers.run(sys.executable, "-m", "deploy.parameters", "--est", cwd=servers.ROOT)
    assert printed.stdout == "Rate=10 Burst=20 Quota=10000 Period=DAY Est=on\n"
    makefile = (servers.ROOT / "Makefile").read_text()
    assert makefile.count("$(WITH_EST)") == 2
    for kind in ("Est", "EstRenewal"):
        domain, mapping = RESOURCES[f"{kind}DomainName"], RESOURCES[f"{kind}Mapping"]
        condition = "WithEstDomain" if kind == "Est" else "WithEstRenewal"
        assert domain["Condition"] == mapping["Condition"] == condition
        assert {"Equals": [{"Ref": "Est"}, "on"]} in TREE["Conditions"][condition]["And"]
        assert "BasePath" not in mapping["Properties"]  # mapped at /
        assert domain["Properties"]["SecurityPolicy"] == "TLS_1_2"
        mutual_tls = domain["Properties"].get("MutualTlsAuthentication")
        assert mutual_tls == ({"TruststoreUri": {"Ref": "EstTruststore"}} if kind == "EstRenewal" else None)


def test_est_authorizer_is_the_template_s_function() -> None:
    """The included document's authorizer is the same function, by a URI that CloudFormation resolves."""
    included = api_gateway.for_cloudformation(factories.document(), api_gateway.Options(est=True))
    scheme = included["components"]["securitySchemes"]["authorizer"]
    uri = scheme["x-amazon-apigateway-authorizer"]["authorizerUri"]
    assert uri == openapi.operations_by_id(included)["sign"]["x-amazon-apigateway-integration"]["uri"]
    assert "${Function.Arn}" in uri["Fn::Sub"]


def test_function_timeout_exceeds_the_integration_timeout() -> None:
    """If Lambda timed out before the integration, clients would get 502 instead of 504."""
    timeouts = {
        integration["timeoutInMillis"]
        for integration in integrations(factories.document())
        if integration["type"] != "mock"
    }
    assert timeouts == {(RESOURCES["Function"]["Properties"]["Timeout"] - 1) * 1000}


def test_function_settings_match_the_zip() -> None:
    """Handler, runtime and architecture are the defaults of `make zip`."""
    properties = RESOURCES["Function"]["Properties"]
    assert properties["Handler"] == build.HANDLER
    assert properties["Runtime"] == "python3.13"
    assert TREE["Parameters"]["Architecture"]["Default"] == "arm64"
    assert set(TREE["Parameters"]["Architecture"]["AllowedValues"]) == set(build.PLATFORMS)


def test_api_keys_have_usage_plans_and_names() -> None:
    """Each API key is in the usage plan, and the function knows its name."""
    names = json.dumps(RESOURCES["Function"]["Properties"]["Environment"])
    for slot in "AB":
        key, plan_key = RESOURCES[f"ApiKey{slot}"], RESOURCES[f"UsagePlanKey{slot}"]
        assert key["Condition"] == plan_key["Condition"] == f"WithKey{slot}"
        assert plan_key["Properties"]["KeyId"] == {"Ref": f"ApiKey{slot}"}
        assert names.count(f"${{ApiKey{slot}}}") == 2  # in the mapping of one key, and of both
    assert RESOURCES["Api"]["Properties"]["MethodSettings"][0]["MetricsEnabled"] is False


def test_permission_is_limited_to_this_api() -> None:
    """Of all APIs of API Gateway, only this one may invoke the function."""
    permission = RESOURCES["Permission"]["Properties"]
    assert permission["Principal"] == "apigateway.amazonaws.com"
    assert "${Api}/" in permission["SourceArn"]["Sub"]


def test_included_document_invokes_the_template_s_function() -> None:
    """`certlet openapi --format cloudformation` keeps only the `Fn::Sub` on the template's function."""
    included = api_gateway.for_cloudformation(factories.document())
    uris = {json.dumps(part["uri"]) for part in integrations(included) if part["type"] != "mock"}
    (uri,) = uris
    assert "${Function.Arn}" in uri
    assert RESOURCES["Function"]["Type"] == "AWS::Serverless::Function"
    assert "x-usage-plan" not in included
    assert "${" not in json.dumps(included).replace(uri, "")

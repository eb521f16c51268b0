"""The Terraform module against the SAM template, resource by resource. No provider is available to validate it."""

from __future__ import annotations

import json
import os
import re
from typing import Any, Final

import pytest

from service import api_gateway
from tests import factories, servers
from tests.deploy.test_template import RESOURCES, TREE

MODULE: Final = servers.ROOT / "deploy" / "terraform"
PARSE: Final = """
import hcl2, json, pathlib, sys
print(json.dumps([hcl2.loads(pathlib.Path(path).read_text()) for path in sys.argv[1:]]))
"""
# Terraform's variables that the template has no parameter for: SAM itself knows the name, the zip and the document.
OWN: Final = {"name", "zip", "openapi", "tags"}
# The module reads it from the document, which CloudFormation cannot do.
IN_DOCUMENT: Final = {"ExecuteApiEndpoint"}
API: Final = {
    "aws_api_gateway_rest_api.api": {"name": "Name", "fail_on_warnings": "FailOnWarnings"},
    "aws_api_gateway_stage.stage": {"stage_name": "StageName"},
    "aws_api_gateway_deployment.deployment": {},
    "aws_api_gateway_method_settings.settings": {},
}
DOMAIN: Final = {
    "domain_name": "DomainName",
    "regional_certificate_arn": "RegionalCertificateArn",
    "security_policy": "SecurityPolicy",
}
LOGS: Final = {"retention_in_days": "RetentionInDays"}
KEY: Final = {"enabled": "Enabled"}
# Terraform's resource -> the template's, and the attributes that must be equal.
RESOURCE: Final[dict[str, tuple[str, dict[str, str]]]] = {
    "aws_lambda_function.function": (
        "Function",
        {
            "function_name": "FunctionName",
            "handler": "Handler",
            "runtime": "Runtime",
            "architectures": "Architectures",
            "memory_size": "MemorySize",
            "timeout": "Timeout",
        },
    ),
    "aws_cloudwatch_log_group.log_group": ("LogGroup", LOGS),
    "aws_cloudwatch_log_group.access_log_group": ("AccessLogGroup", LOGS),
    "aws_dynamodb_table.ledger_table": (
        "LedgerTable",
        {"billing_mode": "BillingMode", "deletion_protection_enabled": "DeletionProtectionEnabled"},
    ),
    "aws_iam_role.role": ("Role", {}),
    "aws_iam_role_policy.policy": ("Role", {}),
    **{name: ("Api", attributes) for name, attributes in API.items()},
    "aws_api_gateway_domain_name.api_domain_name": ("ApiDomainName", DOMAIN),
    "aws_api_gateway_base_path_mapping.api_mapping": ("ApiMapping", {}),
    "aws_api_gateway_domain_name.est_domain_name": ("EstDomainName", DOMAIN),
    "aws_api_gateway_base_path_mapping.est_mapping": ("EstMapping", {}),
    "aws_api_gateway_domain_name.est_renewal_domain_name": ("EstRenewalDomainName", DOMAIN),
    "aws_api_gateway_base_path_mapping.est_renewal_mapping": ("EstRenewalMapping", {}),
    "aws_cloudfront_cache_policy.status": ("StatusCachePolicy", {}),
    "aws_cloudfront_origin_request_policy.status": ("StatusRequestPolicy", {}),
    "aws_cloudfront_function.status": ("StatusRefusal", {}),
    "aws_cloudfront_distribution.status": ("StatusDistributionResource", {}),
    "aws_lambda_permission.permission": ("Permission", {"action": "Action", "principal": "Principal"}),
    "aws_api_gateway_api_key.a": ("ApiKeyA", KEY),
    "aws_api_gateway_api_key.b": ("ApiKeyB", KEY),
    "aws_api_gateway_api_key.tokens": ("ApiKeyTokens", KEY),
    "aws_api_gateway_usage_plan.usage_plan": ("UsagePlan", {"name": "UsagePlanName"}),
    "aws_api_gateway_usage_plan_key.a": ("UsagePlanKeyA", {"key_type": "KeyType"}),
    "aws_api_gateway_usage_plan_key.b": ("UsagePlanKeyB", {"key_type": "KeyType"}),
    "aws_api_gateway_usage_plan_key.tokens": ("UsagePlanKeyTokens", {"key_type": "KeyType"}),
    "aws_cloudwatch_metric_alarm.alarm": (
        "Alarm",
        {
            "alarm_description": "AlarmDescription",
            "namespace": "Namespace",
            "metric_name": "MetricName",
            "statistic": "Statistic",
            "period": "Period",
            "evaluation_periods": "EvaluationPeriods",
            "threshold": "Threshold",
            "comparison_operator": "ComparisonOperator",
            "treat_missing_data": "TreatMissingData",
        },
    ),
}


def camel(name: str) -> str:
    """Return the template's name of a variable."""
    return "AWS::StackName" if name == "name" else "".join(part.title() for part in name.split("_"))


def plain(value: Any) -> Any:
    """Return a value of either language in one form, where a reference is `->` and the parameter's name."""
    if isinstance(value, dict) and "Ref" in value:
        return f"->{value['Ref']}"
    if isinstance(value, list):
        return [plain(item) for item in value]
    if not isinstance(value, str):
        return value
    if reference := re.fullmatch(r"\$\{var\.(\w+)\}", value):
        return f"->{camel(reference[1])}"
    return value[1:-1] if value.startswith('"') else value


@pytest.fixture(scope="module")
def module() -> dict[str, Any]:
    """The module: kind of block -> name, with the type of a resource before it -> attributes."""
    files = sorted(MODULE.glob("*.tf"))
    parsed = json.loads(servers.run(os.environ["SAM_PYTHON"], "-c", PARSE, *files).stdout)
    blocks: dict[str, Any] = {"resource": {}, "variable": {}, "data": {}, "locals": {}}
    for document in parsed:
        for block in document.get("locals", []):
            blocks["locals"] |= block
        for block in document.get("variable", []):
            blocks["variable"] |= {plain(name): body for name, body in block.items()}
        for kind in ("resource", "data"):
            for block in document.get(kind, []):
                for label, named in block.items():
                    blocks[kind] |= {f"{plain(label)}.{plain(name)}": body for name, body in named.items()}
    return blocks


def test_variables_are_the_template_s_parameters(module: dict[str, Any]) -> None:
    """Names and defaults are equal; a variable may be null or a list where a parameter is an empty string."""
    variables = {name: body for name, body in module["variable"].items() if name not in OWN}
    parameters = TREE["Parameters"]
    assert {camel(name) for name in variables} == set(parameters) - IN_DOCUMENT
    for name, body in variables.items():
        default = plain(body["default"])
        assert (default if default not in (None, "null", []) else "") == parameters[camel(name)]["Default"], (
            name
        )


def test_every_resource_has_its_counterpart(module: dict[str, Any]) -> None:
    assert set(module["resource"]) == set(RESOURCE)
    assert {name for name, _ in RESOURCE.values()} == set(RESOURCES)


@pytest.mark.parametrize("name", RESOURCE)
def test_resource_equals_the_template_s(module: dict[str, Any], name: str) -> None:
    """Attributes are equal, and a resource is optional in both or in neither."""
    block, (counterpart, attributes) = module["resource"][name], RESOURCE[name]
    properties = RESOURCES[counterpart]["Properties"]
    assert {key: plain(block[key]) for key in attributes} == {
        key: plain(properties[other]) for key, other in attributes.items()
    }
    assert ("count" in block) == ("Condition" in RESOURCES[counterpart])


def test_distribution_has_the_operations_of_plain_http(module: dict[str, Any]) -> None:
    """Its behaviours are the paths that the contract marks with `x-plain-http`; all others are refused."""
    paths = {
        re.sub(r"\{\w+\}", "*", path): any(method == "post" for method in item)
        for path, item in factories.document()["paths"].items()
        if any(isinstance(item[method], dict) and item[method].get("x-plain-http") for method in item)
    }
    configuration = RESOURCES["StatusDistributionResource"]["Properties"]["DistributionConfig"]
    behaviors = {
        item["PathPattern"]: "POST" in item["AllowedMethods"] for item in configuration["CacheBehaviors"]
    }
    assert behaviors == paths
    assert configuration["DefaultCacheBehavior"]["FunctionAssociations"]
    (block,) = module["resource"]["aws_cloudfront_distribution.status"]["dynamic"]
    assert {plain(path) for path in block['"ordered_cache_behavior"']["for_each"]} == set(paths)


def test_distribution_without_an_api_that_it_reaches_is_refused(module: dict[str, Any]) -> None:
    """The preconditions are the assertions of the template's rule; one reads the rendered document."""
    (lifecycle,) = module["resource"]["aws_cloudfront_distribution.status"]["lifecycle"]
    conditions = [item["condition"] for item in lifecycle["precondition"]]
    assert conditions == ["${!local.private}", '${local.execute_api_endpoint || var.api_domain != ""}']
    (rule,) = TREE["Rules"].values()
    assert len(conditions) == len(rule["Assertions"])
    path = re.search(r'servers\[0\]\["(.+?)"\]\.(\w+), false', module["locals"]["execute_api_endpoint"])
    assert path
    for is_disabled in (True, None):
        options = api_gateway.Options(disable_execute_api_endpoint=bool(is_disabled))
        document = api_gateway.for_cloudformation(factories.document(), options)
        assert document["servers"][0].get(path[1], {}).get(path[2]) is is_disabled


def test_function_has_the_template_s_environment(module: dict[str, Any]) -> None:
    (environment,) = module["resource"]["aws_lambda_function.function"]["environment"]
    assert set(environment["variables"]) - {"__is_block__"} == set(
        RESOURCES["Function"]["Properties"]["Environment"]["Variables"]
    )
    quota = environment["variables"]["CERTLET_ORDER_QUOTA"]
    assert quota == '${var.order_quota != "" ? var.order_quota : "${var.quota}/${var.period}"}'


def test_policy_has_the_template_s_actions(module: dict[str, Any]) -> None:
    statements = json.dumps(module["data"]["aws_iam_policy_document.policy"])
    template = json.dumps(RESOURCES["Role"]["Properties"]["Policies"])
    pattern = r'"(?:\\")?((?:logs|kms|ssm|secretsmanager|dynamodb):[A-Z]\w+)(?:\\")?"'
    assert re.findall(pattern, statements)
    assert set(re.findall(pattern, statements)) == set(re.findall(pattern, template))


def test_throttles_are_the_template_s(module: dict[str, Any]) -> None:
    """The stage's limits and the usage plan's have parameters of their own, in both."""
    (settings,) = module["resource"]["aws_api_gateway_method_settings.settings"]["settings"]
    (throttle,) = module["resource"]["aws_api_gateway_usage_plan.usage_plan"]["throttle_settings"]
    (stage,) = RESOURCES["Api"]["Properties"]["MethodSettings"]
    plan = RESOURCES["UsagePlan"]["Properties"]["Throttle"]
    assert [plain(settings[f"throttling_{name}_limit"]) for name in ("rate", "burst")] == [
        plain(stage[f"Throttling{name}Limit"]) for name in ("Rate", "Burst")
    ]
    assert [plain(throttle[f"{name}_limit"]) for name in ("rate", "burst")] == [
        plain(plan[f"{name}Limit"]) for name in ("Rate", "Burst")
    ]


def test_ledger_has_the_template_s_keys(module: dict[str, Any]) -> None:
    block, properties = (
        module["resource"]["aws_dynamodb_table.ledger_table"],
        RESOURCES["LedgerTable"]["Properties"],
    )
    keys = [plain(block["hash_key"]), plain(block["range_key"])]
    assert keys == [item["AttributeName"] for item in properties["KeySchema"]]
    assert {(plain(item["name"]), plain(item["type"])) for item in block["attribute"]} == {
        (item["AttributeName"], item["AttributeType"]) for item in properties["AttributeDefinitions"]
    }
    (ttl,) = block["ttl"]
    assert plain(ttl["attribute_name"]) == properties["TimeToLiveSpecification"]["AttributeName"]
    assert ttl["enabled"]
    assert block["point_in_time_recovery"][0]["enabled"]


def test_changed_contract_is_deployed_again(module: dict[str, Any]) -> None:
    """Terraform deploys a REST API only when a trigger changes."""
    deployment = module["resource"]["aws_api_gateway_deployment.deployment"]
    assert deployment["triggers"] == {"body": "${sha1(aws_api_gateway_rest_api.api.body)}"}


def test_access_log_format_is_the_template_s(module: dict[str, Any]) -> None:
    (setting,) = module["resource"]["aws_api_gateway_stage.stage"]["dynamic"]
    (settings,) = setting['"access_log_settings"']["content"]
    expected = RESOURCES["Api"]["Properties"]["AccessLogSetting"]["If"][1]["Format"]
    assert json.loads(json.loads(settings["format"])) == json.loads(expected)

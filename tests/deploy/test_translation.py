"""The template after SAM's transform, which is what CloudFormation deploys."""

from __future__ import annotations

import functools
import json
import os
from typing import Any

import pytest

from tests import servers
from tests.deploy.test_template import TEMPLATE

# As SAM CLI does before the transform: artifacts are S3 objects, and the included document's name is its MD5.
TRANSLATE = """
import json, sys
from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse
class Policies:
    def load(self):
        return {}
template = yaml_parse(sys.stdin.read())
template["Resources"]["Function"]["Properties"]["CodeUri"] = "s3://bucket/zip"
body = template["Resources"]["Api"]["Properties"]["DefinitionBody"]
body["Fn::Transform"]["Parameters"]["Location"] = "s3://bucket/" + sys.argv[1]
print(json.dumps(transform(template, {}, Policies())["Resources"]))
"""


@functools.cache
def translate(digest: str = "0", *, without: str = "") -> dict[str, Any]:
    """Return the resources of the translated template, logical id -> resource."""
    text = "".join(
        line for line in TEMPLATE.read_text().splitlines(keepends=True) if not without or without not in line
    )
    translated = servers.run(
        *(os.environ["SAM_PYTHON"], "-c", TRANSLATE, digest),
        stdin=text,
        env=servers.environ(AWS_DEFAULT_REGION="eu-central-1"),
    )
    resources: dict[str, Any] = json.loads(translated.stdout)
    return resources


def ids(resources: dict[str, Any], kind: str) -> list[str]:
    """Return the logical ids of the resources of a type."""
    return [name for name, resource in resources.items() if resource["Type"] == f"AWS::{kind}"]


def test_template_deploys_exactly_one_stage() -> None:
    """SAM adds a second stage to the deployment if the API has no OpenApiVersion."""
    resources = translate()
    assert ids(resources, "ApiGateway::Stage") == ["ApiStage"]
    (deployment,) = ids(resources, "ApiGateway::Deployment")
    assert "StageName" not in resources[deployment]["Properties"]
    broken = translate(without="OpenApiVersion")
    (deployment,) = ids(broken, "ApiGateway::Deployment")
    assert broken[deployment]["Properties"]["StageName"] == "Stage"


def test_deployment_id_depends_on_the_contract() -> None:
    """A changed contract is a new deployment, and an unchanged one is not."""
    first, second, same = (ids(translate(digest), "ApiGateway::Deployment") for digest in "aba")
    assert first == same != second


def test_log_group_has_no_fixed_name() -> None:
    """The retained log group of a deleted stack does not collide with the next stack's."""
    log_group = translate()["LogGroup"]
    assert log_group["DeletionPolicy"] == "RetainExceptOnCreate"
    assert "LogGroupName" not in log_group["Properties"]


@pytest.mark.parametrize(
    ("resource", "name", "condition"),
    [
        ("Function", "ReservedConcurrentExecutions", "WithConcurrency"),
        ("EstRenewalDomainName", "OwnershipVerificationCertificateArn", "WithOwnershipCertificate"),
        ("ApiMapping", "BasePath", "WithApiBasePath"),
        ("Alarm", "AlarmActions", "WithAlarmTopic"),
    ],
)
def test_opt_in_property_is_absent_by_default(resource: str, name: str, condition: str) -> None:
    choice = translate()[resource]["Properties"][name]["Fn::If"]
    assert (choice[0], choice[2]) == (condition, {"Ref": "AWS::NoValue"})

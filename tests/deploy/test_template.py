from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import moto
import pytest
import yaml

from deploy import build
from service import api_gateway, aws, openapi
from service.ledger import dynamodb
from service.ledger.dynamodb import DynamoDbLedger
from service.pki.revocation import RevokedCertificate
from service.quota import parse_quota
from service.settings import Settings
from tests import factories, servers
from tests.factories import NOW

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
    """Return the integration of every operation."""
    return [
        operation["x-amazon-apigateway-integration"]
        for item in document["paths"].values()
        for method, operation in item.items()
        if method in openapi.METHODS  # HEAD has no operationId
    ]


@pytest.mark.parametrize("command", [("cfn-lint",), ("sam", "validate", "--lint", "--template-file")])
def test_template_passes_cfn_lint_and_sam_validate(tmp_path: Path, command: tuple[str, ...]) -> None:
    """`cfn-lint` and `sam validate --lint` accept the template, and reject it with a misspelt property."""
    program = Path(os.environ["SAM_PYTHON"]).parent / command[0]
    env = servers.environ(AWS_DEFAULT_REGION="eu-central-1", SAM_CLI_TELEMETRY="0", HOME=str(tmp_path))
    servers.run(program, *command[1:], TEMPLATE, env=env)
    invalid_template = tmp_path / "template.yaml"
    invalid_template.write_text(TEMPLATE.read_text().replace("Handler:", "Handlr:"))
    assert servers.run(program, *command[1:], invalid_template, env=env, check=False).returncode != 0


def test_role_permits_only_the_listed_actions() -> None:
    """The policy allows exactly these actions and resources; test_key_stores.py records the function's calls."""
    permissions = []
    (policy,) = RESOURCES["Role"]["Properties"]["Policies"]
    for statement in policy["PolicyDocument"]["Statement"]:
        condition, effective = "", statement
        if "If" in statement:
            condition, effective, alternative = statement["If"]
            assert alternative == {"Ref": "AWS::NoValue"}
        actions = effective["Action"] if isinstance(effective["Action"], list) else [effective["Action"]]
        permissions += [(condition, action, json.dumps(effective["Resource"])) for action in actions]
        assert effective["Effect"] == "Allow"
    parameter = "arn:${AWS::Partition}:ssm:${AWS::Region}:${AWS::AccountId}:parameter${CaPassphraseParameter}"
    assert permissions == [
        ("", "logs:CreateLogStream", '{"GetAtt": "LogGroup.Arn"}'),
        ("", "logs:PutLogEvents", '{"GetAtt": "LogGroup.Arn"}'),
        ("KeyInKms", "kms:GetPublicKey", '{"Ref": "CaKeyArn"}'),
        ("KeyInKms", "kms:Sign", '{"Ref": "CaKeyArn"}'),
        *(("WithLedger", action, '{"GetAtt": "LedgerTable.Arn"}') for action in dynamodb.ACTIONS),
        ("KeyInSecret", "secretsmanager:GetSecretValue", '{"Ref": "CaKeyArn"}'),
        *(
            ("WithPreviousKeys", action, '{"Ref": "PreviousKeyArns"}')
            for action in ("kms:GetPublicKey", "kms:Sign", "secretsmanager:GetSecretValue")
        ),
        ("PassphraseInParameter", "ssm:GetParameter", json.dumps({"Sub": parameter})),
        ("WithDecryptKey", "kms:Decrypt", '{"Ref": "CaDecryptKeyArn"}'),
    ]
    assert "ManagedPolicyArns" not in RESOURCES["Role"]["Properties"]


def test_ledger_works_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table has the keys and the TTL attribute of the ledger. It is kept, and its name is a setting."""
    table = RESOURCES["LedgerTable"]
    assert (table["Condition"], table["DeletionPolicy"], table["UpdateReplacePolicy"]) == (
        "WithLedger",
        "Retain",
        "Retain",
    )
    variables = RESOURCES["Function"]["Properties"]["Environment"]["Variables"]
    assert variables["CERTLET_LEDGER_TABLE"] == {"If": ["WithLedger", {"Ref": "LedgerTable"}, ""]}
    assert TREE["Parameters"]["Ledger"]["Default"] == "none"
    properties = dict(table["Properties"])
    assert properties.pop("TimeToLiveSpecification") == {"AttributeName": "expires", "Enabled": True}
    assert properties.pop("PointInTimeRecoverySpecification") == {"PointInTimeRecoveryEnabled": True}
    assert properties["DeletionProtectionEnabled"]
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    with moto.mock_aws():
        client = aws.create_client("dynamodb")
        client.create_table(TableName="ledger", **properties)
        ledger = DynamoDbLedger("ledger", lambda: NOW, client)
        ledger.add_revocation(RevokedCertificate(1, NOW.replace(microsecond=0)))
        assert ledger.consume_nonce("a", NOW)
        assert list(ledger.load_revoked()) == [1]


@pytest.mark.parametrize("period", ["DAY", "WEEK", "MONTH"])
def test_quota_of_orders_is_that_of_the_usage_plan_by_default(period: str) -> None:
    """Without `OrderQuota`, the function gets the parameters of the plan, in the form that it parses."""
    variables = RESOURCES["Function"]["Properties"]["Environment"]["Variables"]
    condition, own, default = variables["CERTLET_ORDER_QUOTA"]["If"]
    assert (condition, own) == ("WithOrderQuota", {"Ref": "OrderQuota"})
    assert TREE["Conditions"]["WithOrderQuota"] == {"Not": [{"Equals": [{"Ref": "OrderQuota"}, ""]}]}
    assert TREE["Parameters"]["OrderQuota"]["Default"] == ""
    assert parse_quota(default["Sub"].replace("${Quota}", "7").replace("${Period}", period))
    assert period in TREE["Parameters"]["Period"]["AllowedValues"]


@pytest.mark.parametrize(
    "text", ["none", "0/DAY", "999999999/WEEK", "7/MONTH", "7", "7/YEAR", "1000000000/DAY", " 7/DAY"]
)
def test_order_quota_permits_what_the_function_parses(text: str) -> None:
    """CloudFormation refuses what the function would refuse at its start."""
    try:
        parse_quota(text)
        is_valid = True
    except ValueError:
        is_valid = False
    assert bool(re.fullmatch(TREE["Parameters"]["OrderQuota"]["AllowedPattern"], text)) == is_valid


# As SAM CLI parses the values of --parameter-overrides.
PARSE = """
import json, sys
from samcli.cli.types import CfnParameterOverridesType
print(json.dumps(CfnParameterOverridesType().convert(tuple(sys.argv[1:]), None, None)))
"""


def parse_overrides(*values: str, check: bool = True) -> dict[str, str]:
    """Return the parameters that SAM sets; {} if it refuses the values."""
    parsed = servers.run(os.environ["SAM_PYTHON"], "-c", PARSE, *values, check=check)
    return json.loads(parsed.stdout) if parsed.returncode == 0 else {}


def test_usage_plan_defaults_match_the_contract() -> None:
    """The usage plan's parameters are those of `x-usage-plan`."""
    plan = factories.document()["x-usage-plan"]
    assert {name: TREE["Parameters"][name.title()]["Default"] for name in plan} == plan


def test_stage_limits_all_callers_and_the_plan_each_key() -> None:
    """By default, one key cannot use up a method, and a flooded method leaves half of a new account's requests."""
    (settings,) = RESOURCES["Api"]["Properties"]["MethodSettings"]
    assert (settings["ResourcePath"], settings["HttpMethod"]) == ("/*", "*")
    names = {"rate": "ThrottlingRateLimit", "burst": "ThrottlingBurstLimit"}
    assert {key: settings[name]["Ref"] for key, name in names.items()} == {
        "rate": "StageRate",
        "burst": "StageBurst",
    }
    throttle = RESOURCES["UsagePlan"]["Properties"]["Throttle"]
    assert throttle == {"RateLimit": {"Ref": "Rate"}, "BurstLimit": {"Ref": "Burst"}}
    default = {name: parameter.get("Default") for name, parameter in TREE["Parameters"].items()}
    new_account = 10 * 10  # concurrent executions, requests/s of each
    assert default["Rate"] < default["StageRate"] <= new_account / 2
    assert default["Burst"] < default["StageBurst"] <= new_account


def test_documented_limits_are_the_defaults() -> None:
    """The table in docs/how-to/aws.md has the defaults of the parameters."""
    text = (servers.ROOT / "docs" / "how-to" / "aws.md").read_text()
    rows = re.findall(
        r"^\| (`\w+`(?:, `\w+`)*) \(([\w, ]+)\) \|", text.partition("## Set the limits")[2], re.MULTILINE
    )
    documented = {
        name.strip("`"): value.replace("not set", "")
        for names, values in rows
        for name, value in zip(names.split(", "), values.split(", "), strict=True)
    }
    assert documented == {name: str(TREE["Parameters"][name]["Default"]) for name in LIMITS}


LIMITS = ("Rate", "Burst", "Quota", "Period", "StageRate", "StageBurst", "Concurrency", "MemorySize")
USAGE_PLAN = {"Rate": "10", "Burst": "20", "Quota": "10000", "Period": "DAY"}
OFF = {
    "Est": "off",
    "Oidc": "off",
    "Auth": "api-key",
    "PublicUrl": "",
    "VpcEndpointIds": "",
    "ExecuteApiEndpoint": "on",
}


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ((), {}),
        (("--est",), {"Est": "on"}),
        (("--oidc",), {"Oidc": "on"}),
        (("--est", "--oidc"), {"Est": "on", "Oidc": "on"}),
        (("--auth", "iam"), {"Auth": "iam"}),
        (("--disable-execute-api-endpoint",), {"ExecuteApiEndpoint": "off"}),
        (("--public-url", "https://a.example/x/"), {"PublicUrl": "https://a.example/x"}),
        (
            ("--vpc-endpoint", "vpce-01234567", "--vpc-endpoint", "vpce-89abcdef"),
            {"VpcEndpointIds": "vpce-01234567,vpce-89abcdef"},
        ),
    ],
)
def test_printed_parameters_match_the_options(options: tuple[str, ...], changes: dict[str, str]) -> None:
    """Every parameter that depends on the options is always printed: SAM keeps the old value of a missing one."""
    printed = servers.run(sys.executable, "-m", "deploy.parameters", *options, cwd=servers.ROOT)
    (line,) = printed.stdout.splitlines()
    assert parse_overrides(*line.split()) == {**USAGE_PLAN, **OFF, **changes}
    for name, value in {**OFF, **changes}.items():
        parameter = TREE["Parameters"][name]
        assert value in parameter.get("AllowedValues", [value])
        assert re.fullmatch(parameter.get("AllowedPattern", ".*"), value)
    assert {name: TREE["Parameters"][name]["Default"] for name in OFF} == OFF


def test_sam_requires_quotes_for_an_empty_parameter() -> None:
    """SAM refuses `NAME=`, which is why deploy/parameters.py prints quotes."""
    assert parse_overrides('A=""', "B=1") == {"A": "", "B": "1"}
    assert parse_overrides("A=", "B=1", check=False) == {}


@pytest.mark.parametrize("option", ["--est", "--oidc"])
def test_options_that_exclude_each_other_print_no_parameters(option: str) -> None:
    printed = servers.run(
        *(sys.executable, "-m", "deploy.parameters", option, "--auth", "iam"), cwd=servers.ROOT, check=False
    )
    assert (printed.returncode, printed.stdout) == (2, "")
    assert "a method of API Gateway has one authorizer" in printed.stderr


RECORD = """
name=$(basename "$0")
printf '%s\\n' "$name" "$@" "" >> calls
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose environment is ready, and whose `sam`, `aws` and build only record their arguments."""
    for name in ("deploy", "openapi.yaml", "pyproject.toml", "service"):
        (tmp_path / name).symlink_to(servers.ROOT / name)
    for name in ("sam", "aws"):
        servers.create_script(tmp_path / "bin" / name, f"{RECORD}[ $2 != describe-stacks ] || echo bucket-1")
    python = f'case "$*" in *deploy.build*) {RECORD};; *) exec {sys.executable} "$@";; esac'
    servers.create_script(tmp_path / ".venv" / "bin" / "python", python)
    servers.create_script(tmp_path / ".venv" / "bin" / "certlet")
    (tmp_path / "build").mkdir()
    return tmp_path


def make_deploy(
    checkout: Path, *variables: str, check: bool = True
) -> tuple[subprocess.CompletedProcess[str], list[list[str]]]:
    """Run `make deploy`: its result, and the recorded commands."""
    env = servers.environ(PATH=f"{checkout / 'bin'}:{os.environ['PATH']}")
    done = servers.run(
        "make", "--file", servers.ROOT / "Makefile", "deploy", *variables, cwd=checkout, env=env, check=check
    )
    return done, [call.split("\n") for call in (checkout / "calls").read_text().strip().split("\n\n")]


def option(command: list[str], name: str) -> list[str]:
    """Return the values of an option, up to the next option."""
    values = command[command.index(name) + 1 :]
    return values[: next((index for index, value in enumerate(values) if value.startswith("--")), None)]


def test_make_deploy_uses_the_bucket_of_its_own_stack(checkout: Path) -> None:
    """The bucket's stack is deployed first, and its output is where SAM uploads to; no change is no failure."""
    _, (build_zip, bucket, describe, sam) = make_deploy(checkout, "STACK=pki")
    assert "deploy.build" in build_zip
    assert bucket[:3] == ["aws", "cloudformation", "deploy"]
    assert option(bucket, "--template-file") == ["deploy/bucket.yaml"]
    assert option(bucket, "--stack-name") == option(describe, "--stack-name") == ["pki-bucket"]
    assert option(describe, "--query") == ["Stacks[0].Outputs[?OutputKey==`Bucket`].OutputValue"]
    assert "Bucket" in yaml.load((servers.ROOT / "deploy" / "bucket.yaml").read_text(), Loader)["Outputs"]  # noqa: S506 - as above
    assert sam[:2] == ["sam", "deploy"]
    assert option(sam, "--s3-bucket") == ["bucket-1"]
    assert "--resolve-s3" not in sam
    assert "--no-fail-on-empty-changeset" in bucket
    assert "--no-fail-on-empty-changeset" in sam
    assert "--tags" not in [*bucket, *sam]
    assert parse_overrides(*option(sam, "--parameter-overrides")) == {**USAGE_PLAN, **OFF}


def test_make_deploy_passes_the_options_to_document_and_parameters(checkout: Path) -> None:
    """OPENAPI reaches `certlet openapi` and the parameters, PARAMETERS follow, and TAGS tag both stacks."""
    variables = (
        "OPENAPI=--auth iam --public-url https://a.example",
        "PARAMETERS=Stage=test",
        "TAGS=team=pki cost=1",
    )
    _, (_, bucket, _, sam) = make_deploy(checkout, *variables)
    changes = {"Auth": "iam", "PublicUrl": "https://a.example", "Stage": "test"}
    assert parse_overrides(*option(sam, "--parameter-overrides")) == {**USAGE_PLAN, **OFF, **changes}
    assert option(bucket, "--tags") == option(sam, "--tags") == ["team=pki", "cost=1"]
    document = json.loads((checkout / "build" / "openapi.json").read_text())
    options = api_gateway.Options(auth=api_gateway.Auth.IAM, public_url="https://a.example")
    assert document == api_gateway.for_cloudformation(factories.document(), options)


def test_make_deploy_stops_if_the_bucket_is_unknown(checkout: Path) -> None:
    """A failed command ends the deployment before SAM runs."""
    servers.create_script(checkout / "bin" / "aws", f"{RECORD}[ $2 != describe-stacks ]")
    done, calls = make_deploy(checkout, check=False)
    assert done.returncode != 0
    assert [call[0] for call in calls] == ["python", "aws", "aws"]


def test_est_has_no_domain_by_default() -> None:
    """EST's domains exist only with EST and a name; the one for renewal requires client certificates."""
    parameters = TREE["Parameters"]
    assert (parameters["EstDomain"]["Default"], parameters["EstRenewalDomain"]["Default"]) == ("", "")
    for kind in ("Est", "EstRenewal"):
        domain, mapping = RESOURCES[f"{kind}DomainName"], RESOURCES[f"{kind}Mapping"]
        condition = "WithEstDomain" if kind == "Est" else "WithEstRenewal"
        assert domain["Condition"] == mapping["Condition"] == condition
        assert {"Equals": [{"Ref": "Est"}, "on"]} in TREE["Conditions"][condition]["And"]
        assert "BasePath" not in mapping["Properties"]  # mapped at /
        assert domain["Properties"]["SecurityPolicy"] == "TLS_1_2"
        mutual_tls = domain["Properties"].get("MutualTlsAuthentication", {})
        assert mutual_tls.get("TruststoreUri") == ({"Ref": "EstTruststore"} if kind == "EstRenewal" else None)


def evaluate(rule: Any, parameters: dict[str, str]) -> Any:
    """Return the value of a function of CloudFormation's rules; a list is a parameter with commas."""
    if not isinstance(rule, dict):
        return rule
    ((name, argument),) = rule.items()
    if name == "Ref":
        return parameters[argument]
    arguments = [evaluate(item, parameters) for item in argument]
    if name == "Fn::EachMemberEquals":
        return all(item == arguments[1] for item in arguments[0].split(","))
    return {"Equals": len(set(arguments)) == 1, "Not": not arguments[0], "Or": any(arguments)}[name]


@pytest.mark.parametrize(
    ("change", "violations"),
    [
        ({}, []),
        ({"StatusDistribution": "on"}, []),
        ({"VpcEndpointIds": "vpce-1,vpce-2", "ExecuteApiEndpoint": "off"}, []),
        ({"StatusDistribution": "on", "VpcEndpointIds": "vpce-1"}, ["a private API"]),
        ({"StatusDistribution": "on", "VpcEndpointIds": "vpce-1,vpce-2"}, ["a private API"]),
        ({"StatusDistribution": "on", "ExecuteApiEndpoint": "off"}, ["needs ApiDomain"]),
        ({"StatusDistribution": "on", "ExecuteApiEndpoint": "off", "ApiDomain": "a.example"}, []),
        (
            {"StatusDistribution": "on", "VpcEndpointIds": "vpce-1", "ExecuteApiEndpoint": "off"},
            ["a private API", "needs ApiDomain"],
        ),
    ],
)
def test_distribution_without_an_api_that_it_reaches_is_refused(
    change: dict[str, str], violations: list[str]
) -> None:
    """CloudFormation refuses the parameters before it creates anything, with the description."""
    parameters = {name: str(body.get("Default", "")) for name, body in TREE["Parameters"].items()} | change
    (rule,) = TREE["Rules"].values()
    failed = [
        assertion["AssertDescription"]
        for assertion in rule["Assertions"]
        if evaluate(rule["RuleCondition"], parameters) and not evaluate(assertion["Assert"], parameters)
    ]
    assert len(failed) == len(violations)
    assert all(text in description for text, description in zip(violations, failed, strict=True))


def test_est_authorizer_invokes_the_function_of_the_template() -> None:
    """The authorizer's URI is that of the operations, which CloudFormation resolves."""
    included = api_gateway.for_cloudformation(factories.document(), api_gateway.Options(est=True))
    scheme = included["components"]["securitySchemes"]["authorizer"]
    uri = scheme["x-amazon-apigateway-authorizer"]["authorizerUri"]
    assert uri == included["paths"]["/sign"]["post"]["x-amazon-apigateway-integration"]["uri"]
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
    assert properties["MemorySize"] == {"Ref": "MemorySize"}
    assert TREE["Parameters"]["Architecture"]["Default"] == "arm64"
    assert set(TREE["Parameters"]["Architecture"]["AllowedValues"]) == set(build.PLATFORMS)


def test_api_keys_have_usage_plans_and_names() -> None:
    """Each API key is in the usage plan, and its name is in the function's environment."""
    names = json.dumps(RESOURCES["Function"]["Properties"]["Environment"])
    for slot in "AB":
        key, plan_key = RESOURCES[f"ApiKey{slot}"], RESOURCES[f"UsagePlanKey{slot}"]
        assert key["Condition"] == plan_key["Condition"] == f"WithKey{slot}"
        assert plan_key["Properties"]["KeyId"] == {"Ref": f"ApiKey{slot}"}
        assert names.count(f"${{ApiKey{slot}}}") == 2  # in the mapping of one key, and in that of both
    assert RESOURCES["Api"]["Properties"]["MethodSettings"][0]["MetricsEnabled"] is False


def test_callers_with_tokens_share_a_key_that_the_function_knows() -> None:
    """The key is in the usage plan and names no principal; without `--oidc` there is none."""
    key, plan_key = RESOURCES["ApiKeyTokens"], RESOURCES["UsagePlanKeyTokens"]
    assert key["Condition"] == plan_key["Condition"] == "WithTokens"
    assert TREE["Conditions"]["WithTokens"]["And"] == [
        {"Condition": "WithKeys"},
        {"Equals": [{"Ref": "Oidc"}, "on"]},
    ]
    assert plan_key["Properties"]["KeyId"] == {"Ref": "ApiKeyTokens"}
    variables = RESOURCES["Function"]["Properties"]["Environment"]["Variables"]
    value = key["Properties"]["Value"]
    assert variables["CERTLET_TOKEN_USAGE_KEY"] == {"If": ["WithTokens", value, ""]}
    assert "ApiKeyTokens" not in json.dumps(variables["CERTLET_API_KEY_NAMES"])
    index, split = value["Select"]
    assert split == {"Split": ["/", {"Ref": "AWS::StackId"}]}
    uuid = "51af3dc0-da77-11e4-872e-1234567db123"
    stack_id = f"arn:aws:cloudformation:us-east-1:123456789012:stack/certlet/{uuid}"
    assert stack_id.split("/")[int(index)] == uuid
    environ = {"CERTLET_CA": "ca", "CERTLET_TOKEN_USAGE_KEY": uuid}
    assert Settings.from_environ(environ, NOW).token_usage_key == uuid


def test_permission_is_limited_to_this_api() -> None:
    """Only this API may invoke the function."""
    permission = RESOURCES["Permission"]["Properties"]
    assert permission["Principal"] == "apigateway.amazonaws.com"
    assert "${Api}/" in permission["SourceArn"]["Sub"]


def test_included_document_invokes_the_function_of_the_template() -> None:
    """`certlet openapi --format cloudformation` keeps only the `Fn::Sub` on the template's function."""
    included = api_gateway.for_cloudformation(factories.document())
    uris = {json.dumps(part["uri"]) for part in integrations(included) if part["type"] != "mock"}
    (uri,) = uris
    assert "${Function.Arn}" in uri
    assert RESOURCES["Function"]["Type"] == "AWS::Serverless::Function"
    assert "x-usage-plan" not in included
    assert "${" not in json.dumps(included).replace(uri, "")

"""LocalStack 4.13.1, which the tests that need it run on a free loopback port."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import boto3

from tests import servers

REGION = "eu-central-1"


def environ(endpoint: str) -> dict[str, str]:
    """The environment that makes boto3 use LocalStack, which accepts any credentials."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }


def client(endpoint: str, service: str) -> Any:
    credentials = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    return boto3.client(service, endpoint_url=endpoint, region_name=REGION, **credentials)


@contextlib.contextmanager
def running_localstack(directory: Path) -> Iterator[str]:
    """Run LocalStack with the Python interpreter in $LOCALSTACK_PYTHON; yield its endpoint."""
    address = f"127.0.0.1:{servers.free_port()}"
    settings = {
        "GATEWAY_LISTEN": address,
        "SKIP_SSL_CERT_DOWNLOAD": "1",
        "DISABLE_EVENTS": "1",
        "LOCALSTACK_VOLUME_DIR": str(directory / "volume"),
        "FILESYSTEM_ROOT": str(directory / "root"),
    }
    with (directory / "localstack.log").open("w") as log:
        process = subprocess.Popen(
            [os.environ["LOCALSTACK_PYTHON"], "-m", "localstack.runtime.main"],
            cwd=directory,
            env=servers.environ(**settings),
            stdout=log,
            stderr=log,
        )
    try:
        servers.wait_until(lambda: _responds(f"http://{address}/_localstack/health"), 60)
        yield f"http://{address}"
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        process.kill()
        process.wait()


def deploy_api(endpoint: str, document: Mapping[str, Any]) -> str:
    """Import a document, import it again as an update does, deploy it with `API_KEY`, and return its URL."""
    api_gateway, body = client(endpoint, "apigateway"), json.dumps(document)
    api = api_gateway.import_rest_api(failOnWarnings=True, body=body)["id"]
    before = api_gateway.get_resources(restApiId=api, limit=500)["items"]
    api_gateway.put_rest_api(restApiId=api, mode="overwrite", failOnWarnings=True, body=body)
    after = api_gateway.get_resources(restApiId=api, limit=500)["items"]
    assert {resource["path"] for resource in before} == {resource["path"] for resource in after}
    api_gateway.create_deployment(restApiId=api, stageName="prod")
    plan = api_gateway.create_usage_plan(name="plan", apiStages=[{"apiId": api, "stage": "prod"}])
    key = api_gateway.create_api_key(name="tests", enabled=True, value=servers.API_KEY)
    api_gateway.create_usage_plan_key(usagePlanId=plan["id"], keyId=key["id"], keyType="API_KEY")
    return f"{endpoint}/_aws/execute-api/{api}/prod"


def _responds(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(url):  # noqa: S310 - a loopback URL
        return True
    return False

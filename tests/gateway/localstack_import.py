"""Imports a document into a running LocalStack, deploys it, and makes a key: run by LocalStack's Python.

Arguments: the endpoint, the API key's value. The document comes on stdin; the API's id goes to stdout.
"""

from __future__ import annotations

import sys

import boto3


def main(endpoint: str, key_value: str) -> None:
    """Import twice, as an update does; then a stage, a usage plan and a key."""
    client = boto3.client(
        "apigateway",
        endpoint_url=endpoint,
        region_name="eu-central-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",  # noqa: S106 - LocalStack takes any
    )
    document = sys.stdin.buffer.read()
    api = client.import_rest_api(failOnWarnings=True, body=document)["id"]
    client.put_rest_api(restApiId=api, mode="overwrite", failOnWarnings=True, body=document)
    client.create_deployment(restApiId=api, stageName="prod")
    plan = client.create_usage_plan(name="plan", apiStages=[{"apiId": api, "stage": "prod"}])
    key = client.create_api_key(name="tests", enabled=True, value=key_value)
    client.create_usage_plan_key(usagePlanId=plan["id"], keyId=key["id"], keyType="API_KEY")
    sys.stdout.write(api)


if __name__ == "__main__":
    main(*sys.argv[1:])

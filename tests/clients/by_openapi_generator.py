"""The client that openapi-generator makes for Python, used: URL, API key, good request, bad request."""

import json
import sys
from pathlib import Path

import openapi_client as made

url, key, good, bad = sys.argv[1], sys.argv[2], *(Path(name).read_text() for name in sys.argv[3:])


def client(api_key: str) -> made.ApiClient:
    return made.ApiClient(made.Configuration(host=url, api_key={"apiKey": api_key}))


def refusal(api_key: str, csr: str) -> dict[str, object]:
    try:
        made.SignApi(client(api_key)).sign(made.SignRequest(csr=csr))
    except made.ApiException as error:
        problem = error.data
        assert isinstance(problem, made.Problem), problem
        fields = [each.var_field for each in problem.errors or []]  # `field` is pydantic's
        return {"status": problem.status, "code": problem.code, "fields": fields}
    raise AssertionError("signed")


signing, authority = made.SignApi(client(key)), made.AuthorityApi(client(key))
signed = signing.sign(made.SignRequest(csr=good, profile=made.ProfileName.CLIENT))
profiles = authority.profiles()
items = [made.BatchItem(csr=good), made.BatchItem(csr=bad)]
batch = signing.sign_batch(made.BatchRequest(requests=items))
first, second = batch.results
assert first.certificate
assert second.problem
told = {
    "certificate": signed.crt_pem,
    "not_after": int(signed.not_after.timestamp()),
    "refused": refusal(key, bad),
    "forbidden": refusal("x" * 40, good),
    "root": authority.ca().root_pem,
    "profiles": [each.name.value for each in profiles.profiles],
    "batch": [first.certificate.crt_pem, second.problem.code],
    "crl": bytes(authority.ca_crl()).hex(),
}
sys.stdout.write(json.dumps(told))

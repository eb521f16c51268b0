"""The client that openapi-python-client makes, used: URL, API key, good request, bad request."""

import json
import sys
from pathlib import Path

from certlet_client import AuthenticatedClient, Client, models
from certlet_client.api.authority import ca, ca_crl, profiles
from certlet_client.api.sign import sign, sign_batch
from certlet_client.types import File

url, key, good, bad = sys.argv[1], sys.argv[2], *(Path(name).read_text() for name in sys.argv[3:])


def client(api_key: str) -> AuthenticatedClient:
    return AuthenticatedClient(url, api_key, prefix="", auth_header_name="x-api-key")


def refusal(api_key: str, csr: str) -> dict[str, object]:
    with client(api_key) as caller:
        problem = sign.sync(client=caller, body=models.SignRequest(csr=csr))
    assert isinstance(problem, models.Problem), problem
    fields = [each.field for each in problem.errors or []]
    return {"status": problem.status, "code": problem.code, "fields": fields}


with client(key) as caller, Client(url) as anybody:
    order = models.SignRequest(csr=good, profile=models.ProfileName.CLIENT)
    signed = sign.sync(client=caller, body=order)
    authority, offered, revoked = (each.sync(client=anybody) for each in (ca, profiles, ca_crl))
    items = [models.BatchItem(csr=good), models.BatchItem(csr=bad)]
    batch = sign_batch.sync(client=caller, body=models.BatchRequest(requests=items))
assert isinstance(signed, models.SignedCertificate)
assert isinstance(authority, models.CertificateAuthority)
assert isinstance(offered, models.ProfileList)
assert isinstance(revoked, File)
assert isinstance(batch, models.BatchResults)
first, second = batch.results
assert isinstance(first.certificate, models.BatchCertificate)
assert isinstance(second.problem, models.Problem)
told = {
    "certificate": signed.crt_pem,
    "not_after": int(signed.not_after.timestamp()),
    "refused": refusal(key, bad),
    "forbidden": refusal("x" * 40, good),
    "root": authority.root_pem,
    "profiles": [each.name.value for each in offered.profiles],
    "batch": [first.certificate.crt_pem, second.problem.code],
    "crl": revoked.payload.read().hex(),
}
sys.stdout.write(json.dumps(told))

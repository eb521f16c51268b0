"""EST by the client that openapi-python-client makes: URL, API key, good request, bad request, the root's file."""

import base64
import io
import json
import ssl
import sys
from pathlib import Path

from certlet_client import AuthenticatedClient, models
from certlet_client.api.est import est_cacerts, est_simpleenroll
from certlet_client.types import File

url, key = sys.argv[1:3]
context = ssl.create_default_context(cafile=sys.argv[5])
credentials = base64.b64encode(f"device:{key}".encode()).decode()


def encoded(name: str) -> File:
    """The base64 between the lines of PEM, as EST has it; what is taken for octets goes in as a file."""
    return File(io.BytesIO("".join(Path(name).read_text().splitlines()[1:-1]).encode()))


with AuthenticatedClient(url, credentials, prefix="Basic", verify_ssl=context) as device:
    authority = est_cacerts.sync_detailed(client=device)
    enrolled = est_simpleenroll.sync_detailed(client=device, body=encoded(sys.argv[3]))
    problem = est_simpleenroll.sync(client=device, body=encoded(sys.argv[4]))
assert enrolled.status_code == 200, enrolled.content
assert isinstance(problem, models.Problem)
told = {
    "authority": authority.content.decode(),
    "enrolled": enrolled.content.decode(),
    "refused": {"status": problem.status, "code": problem.code},
}
sys.stdout.write(json.dumps(told))

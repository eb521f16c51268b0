"""The example responses in the contract: how to request each, and which parts depend on CA, key or time.

`make examples` sends the requests, and writes the responses to the end of the contract.
"""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from cryptography import x509
from cryptography.hazmat.asn1 import encode_der
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from cryptography.x509 import ocsp

from service.keystore.acme_principals import ACME_PRINCIPALS
from service.pki import certificate_reader
from service.pki.acme_key import AcmeKey
from service.pki.certificate import to_text
from tests import csrs, factories, servers
from tests.est.devices import client_context, encode_body, parse_certificates
from tests.gateway import second_api
from tests.gateway.cases import JSON, KEY
from tests.servers import Response, Server
from tests.web import jws_requests
from tests.web.acme_client import JOSE, AcmeClient

CONTRACT: Final = servers.ROOT / "openapi.yaml"
MARK: Final = (
    "  # Recorded responses: `make examples` sends the requests and writes the responses here.\n  examples:\n"
)
EST: Final = "/.well-known/est"
PKCS10: Final = {"Content-Type": "application/pkcs10"}
PAGE_LINES: Final = 6  # of an example of a page


@dataclass
class Sites:
    """The servers that the examples need.

    Attributes:
        plain: `certlet serve` without usage plan.
        tls: the same over HTTPS, with a ledger; the API key is that of an operator.
        misconfigured: `certlet serve` with usage plan and a malformed revocation file.
        broken: the contract with a function that fails on request, and a malformed mock.
        acme: an ACME client of `certlet serve` with a ledger, with an account.
        acme_ca: the directory of that server's CA.
    """

    plain: Server
    tls: Server
    misconfigured: Server
    broken: Server
    acme: AcmeClient
    acme_ca: Path


ACME_URL: Final = "https://ca.example.com"
ACME_KEY: Final = AcmeKey(bytes(32))
PRINCIPALS: Final = "{web: {generation: 1}, bulk: {generation: 1}}"
ORDER_QUOTA: Final = {"CERTLET_ORDER_QUOTA": "20/MONTH"}
STATUS_URL: Final = ("--status-url", "http://ca.example.com")
OPERATOR: Final = {"role": "operator", "dns": {}}


@contextlib.contextmanager
def start_sites(directory: Path) -> Iterator[Sites]:
    """Start all servers, and stop them at the end of the block."""
    for name in ("plain", "tls", "misconfigured", "broken", "acme"):
        (directory / name).mkdir()
    servers.create_ca(directory / "misconfigured" / "ca")
    (directory / "misconfigured" / "ca" / "revoked.yaml").write_text("{}")
    (directory / "tls" / "own.yaml").write_text(json.dumps({"principals": {"default": OPERATOR}}))
    with_ledger = ("--profiles", "own.yaml", "--ledger", "ledger.db")
    document = json.loads(json.dumps(factories.document()))
    for item in document["paths"].values():
        item.get("get", {}).get("x-amazon-apigateway-integration", {})["timeoutInMillis"] = 900
    form = document["paths"]["/sign"]["get"]["x-amazon-apigateway-integration"]
    form["requestTemplates"] = {"application/json": "{"}
    with (
        servers.certlet_server(directory / "plain", "--no-usage-plan", *STATUS_URL) as plain,
        servers.certlet_server(
            directory / "tls", "--no-usage-plan", "--tls", *STATUS_URL, *with_ledger
        ) as tls,
        servers.certlet_server(directory / "misconfigured") as misconfigured,
        second_api.gateway_server(directory / "broken", document) as broken,
        acme_server(directory / "acme") as acme,
    ):
        yield Sites(plain, tls, misconfigured, broken, acme, directory / "acme" / "ca")


@contextlib.contextmanager
def acme_server(directory: Path) -> Iterator[AcmeClient]:
    """Start `certlet serve` with a ledger, and register an ACME client; stop the server at the end of the block."""
    servers.create_ca(directory / "ca")
    (directory / "ca" / "acme.key").write_bytes(bytes(32))
    (directory / "ca" / ACME_PRINCIPALS).write_text(PRINCIPALS)
    with servers.certlet_server(
        directory,
        "--no-usage-plan",
        "--url",
        ACME_URL,
        "--ledger",
        "ledger.db",
        env={"CERTLET_API_KEY": servers.API_KEY, **ORDER_QUOTA},
    ) as server:

        def send(method: str, url: str, body: bytes | None, headers: Mapping[str, str]) -> Response:
            return server.request(method, url.removeprefix(ACME_URL), body, headers)

        client = AcmeClient(send, f"{ACME_URL}/acme/directory")
        assert client.register(ACME_KEY, "web").status == 201
        yield client


def exceed_order_quota(sites: Sites) -> Response:
    """Create orders of another principal, until it may create no more."""
    client = AcmeClient(sites.acme.send, f"{ACME_URL}/acme/directory", jws_requests.new_key("ES256"))
    assert client.register(ACME_KEY, "bulk").status == 201
    responses = (client.order("dns:a.example.com") for _ in range(21))
    return next(response for response in responses if response.status == 429)


def send_example(site: Server, name: str, path: str = "", media_type: str = "", **headers: str) -> Response:
    """Send the example request of an operation, to its path or to a path with parameters."""
    for operation_path, item in factories.document()["paths"].items():
        for method, operation in item.items():
            if operation.get("operationId") == name:
                content = operation["requestBody"]["content"]
                content_type = media_type or next(iter(content))
                example = content[content_type]["example"]
                body = (example if isinstance(example, str) else json.dumps(example)).encode()
                context = client_context(site) if site.url.startswith("https:") else None
                all_headers = {"Content-Type": content_type, **KEY, **headers}
                return site.request(method.upper(), path or operation_path, body, all_headers, context)
    raise KeyError(name)


def get(path: str, **headers: str) -> Callable[[Sites], Response]:
    """Return a function that gets a path of the plain server."""
    return lambda sites: sites.plain.request("GET", path, headers=headers)


def post(path: str, body: object, **headers: str) -> Callable[[Sites], Response]:
    """Return a function that posts JSON to the plain server, with an API key."""
    return lambda sites: sites.plain.request(
        "POST", path, json.dumps(body).encode(), {**JSON, **KEY, **headers}
    )


def request_est(
    method: str, path: str, body: bytes | None = None, **headers: str
) -> Callable[[Sites], Response]:
    """Return a function that sends an EST request over HTTPS without client certificate."""
    all_headers = {**(PKCS10 if body else {}), **headers}
    return lambda sites: sites.tls.request(method, EST + path, body, all_headers, client_context(sites.tls))


def renew_with_certificate(sites: Sites, path: str = "/simplereenroll") -> Response:
    """Send the example of a renewal, with a client certificate for the same names."""
    csr = encode_body(csrs.build("www.example.com", ["dns:www.example.com"]))
    first = request_est("POST", "/peer/simpleenroll", csr, **KEY)(sites)
    context = client_context(sites.tls, parse_certificates(first.body)[0])
    example = factories.document()["paths"][f"{EST}/simplereenroll"]["post"]["requestBody"]["content"]
    renewal = example["application/pkcs10"]["example"].encode()
    return sites.tls.request("POST", EST + path, renewal, PKCS10, context)


def revoke_certificate(sites: Sites) -> Response:
    """Revoke a certificate of the server with a ledger, as an operator."""
    return _revoke(sites, KEY)


def revoke_without_role(sites: Sites) -> Response:
    """Send the same request with the API key of another principal."""
    added = servers.certlet("api-key", "add", "other", "--ca", "ca", cwd=sites.tls.log.parent)
    return _revoke(sites, {"x-api-key": added.stdout.decode().split()[-1]})


def _revoke(sites: Sites, key: dict[str, str]) -> Response:
    crt = send_example(sites.tls, "signPem", "/sign.pem").body.decode()
    body = json.dumps({"certificate": crt, "reason": "keyCompromise"}).encode()
    return sites.tls.request("POST", "/revoke", body, {**JSON, **key}, client_context(sites.tls))


def ask_about_certificate(sites: Sites) -> Response:
    """Send an OCSP request about a certificate of the plain server."""
    leaf, issuer = x509.load_pem_x509_certificates(send_example(sites.plain, "signPem").body)
    request = ocsp.OCSPRequestBuilder().add_certificate(leaf, issuer, hashes.SHA256()).build()
    headers = {"Content-Type": "application/ocsp-request"}
    return sites.plain.request("POST", "/ocsp", request.public_bytes(Encoding.DER), headers)


def ask_for_renewal(sites: Sites) -> Response:
    """Ask when to renew a certificate of the plain server."""
    leaf, _ = x509.load_pem_x509_certificates(send_example(sites.plain, "signPem").body)
    return sites.plain.request("GET", f"/renewal-info/{certificate_id(leaf)}")


def get_of_issuer(sites: Sites, path: str) -> Response:
    """Get a path that ends with the key identifier of the issuing CA of the plain server."""
    issuer = x509.load_der_x509_certificate(get("/ca.crt")(sites).body)
    return sites.plain.request("GET", path + certificate_reader.key_id(issuer))


def certificate_id(certificate: x509.Certificate) -> str:
    """Return the identifier of a certificate (RFC 9773 4.1)."""
    identifier = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    serial = encode_der(certificate.serial_number)[2:]
    octets = (identifier.key_identifier or b"", serial)
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in octets)


def build_other_csr() -> str:
    return csrs.encode_pem(csrs.build("other.example.com")).decode()


def send_invalid_csr(sites: Sites) -> Response:
    """Send a CSR with two problems."""
    csr = csrs.build("localhost.", [], [x509.BasicConstraints(ca=True, path_length=None)])
    return sites.plain.sign({"csr": csrs.encode_pem(csr).decode()})


def exceed_rate_limit(sites: Sites) -> Response:
    """Send more requests than the usage plan allows."""
    responses = [sites.misconfigured.request("GET", "/profiles") for _ in range(200)]
    return next(response for response in responses if response.status == 429)


def get_malformed_crl(sites: Sites) -> Response:
    """Get the CRL of a malformed revocation file, as soon as the usage plan allows it."""
    responses = (sites.misconfigured.request("GET", "/ca.crl") for _ in range(1000))
    return next(response for response in responses if response.status != 429)


def invoke(command: str) -> Callable[[Sites], Response]:
    """Return a function that sends a command to the broken server's function, as soon as one is ready."""

    def send(sites: Sites) -> Response:
        servers.wait_until(lambda: sites.broken.request("GET", "/health").status == 200)
        return sites.broken.request("GET", f"/health?do={command}")

    return send


def request_busy_function(sites: Sites) -> Response:
    """Send several requests while one occupies the only function, and return the 503."""
    invoke("")(sites)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(sites.broken.request, "GET", "/health?do=hang") for _ in range(4)]
        return next(future.result() for future in futures if future.result().status == 503)


def order(sites: Sites) -> dict[str, Any]:
    """Order a certificate by ACME."""
    ordered: dict[str, Any] = sites.acme.order("dns:www.example.com").json()
    return ordered


def download_certificate(sites: Sites) -> Response:
    """Issue a certificate by ACME for the CSR of the example of `POST /sign`."""
    content = factories.document()["paths"]["/sign"]["post"]["requestBody"]["content"]
    csr = x509.load_pem_x509_csr(content["application/json"]["example"]["csr"].encode())
    finalized = sites.acme.finalize(order(sites), csr.public_bytes(Encoding.DER))
    return sites.acme.post(finalized.json()["certificate"])


def new_client(sites: Sites) -> AcmeClient:
    """Return another client of ACME."""
    return AcmeClient(sites.acme.send, f"{ACME_URL}/acme/directory", jws_requests.new_key("ES256"))


def register(sites: Sites) -> Response:
    """Register a new client of ACME."""
    return new_client(sites).register(ACME_KEY, "web")


def list_orders(sites: Sites) -> Response:
    """List the order of a new account."""
    client = new_client(sites)
    client.register(ACME_KEY, "web")
    client.order("dns:www.example.com")
    return client.post(f"{client.account}/orders")


def list_principals_malformed(sites: Sites) -> Response:
    """Send a request while the list of principals is malformed."""
    path = sites.acme_ca / ACME_PRINCIPALS
    try:
        path.write_text("web: 1")
        return sites.acme.post(sites.acme.account)
    finally:
        path.write_text(PRINCIPALS)


def conflict(sites: Sites) -> Response:
    """Order two certificates that replace the same one."""
    leaf = x509.load_pem_x509_certificates(sites.acme.issue("dns:www.example.com").encode())[0]
    responses = [sites.acme.order("dns:www.example.com", replaces=certificate_id(leaf)) for _ in range(2)]
    return responses[1]


@dataclass(frozen=True)
class Example:
    """An example response: its summary, its status, and a function that requests it."""

    summary: str
    status: int
    send: Callable[[Sites], Response]


ENROLLED: Final = "The certificate as PKCS#7 in base64."
BINARY: Final = "Shown in base64. The response is binary."
EXAMPLES: Final = {
    "form": Example("The start of the page.", 200, get("/sign")),
    "home": Example("The start of the page.", 200, get("/")),
    "problems": Example("The start of the page.", 200, get("/problems")),
    "sign": Example("The certificate for the example request.", 200, lambda sites: send_example(sites.plain, "sign")),
    "dryRun": Example("What would be issued for the example request.", 202, lambda sites: send_example(sites.plain, "sign", "/sign?dry_run=true")),
    "signPem": Example("A certificate and its issuer.", 200, lambda sites: send_example(sites.plain, "signPem")),
    "signBatch": Example("Two certificates.", 200, lambda sites: send_example(sites.plain, "signBatch")),
    "revoke": Example("A certificate that names CRL and OCSP.", 200, revoke_certificate),
    "ca": Example("A CA without a rollover.", 200, get("/ca")),
    "caCrt": Example(BINARY, 200, get("/ca.crt")),
    "issuer": Example(BINARY, 200, lambda sites: get_of_issuer(sites, "/issuer/")),
    "caPem": Example("The issuing CA and its root.", 200, get("/ca.pem")),
    "caP7c": Example(BINARY, 200, get("/ca.p7c")),
    "caCrl": Example(BINARY, 200, get("/ca.crl")),
    "crl": Example(BINARY, 200, lambda sites: get_of_issuer(sites, "/crl/")),
    "ocsp": Example(BINARY, 200, ask_about_certificate),
    "renewalInfo": Example("A certificate of 90 days.", 200, ask_for_renewal),
    "rootCrt": Example(BINARY, 200, get("/root.crt")),
    "profiles": Example("The profiles in this document.", 200, get("/profiles")),
    "myProfiles": Example("A caller that may use all profiles.", 200, get("/profiles/mine", **KEY)),
    "health": Example("Ready.", 200, get("/health")),
    "estCacerts": Example("The issuing CA and its root.", 200, request_est("GET", "/cacerts")),
    "estSimpleenroll": Example(ENROLLED, 200, lambda sites: send_example(sites.tls, "estSimpleenroll")),
    "estSimplereenroll": Example(ENROLLED, 200, renew_with_certificate),
    "acmeDirectory": Example("A CA with ACME.", 200, lambda sites: sites.acme.send("GET", f"{ACME_URL}/acme/directory", None, {})),
    "acmeNewAccount": Example("A new account with an external account binding.", 201, register),
    "acmeAccount": Example("An account with an external account binding.", 200, lambda sites: sites.acme.post(sites.acme.account)),
    "acmeNewOrder": Example("An order for one name.", 201, lambda sites: sites.acme.order("dns:www.example.com")),
    "acmeOrder": Example("An order for one name, with a certificate.", 200, lambda sites: sites.acme.finalize(order(sites))),
    "acmeOrders": Example("A page of the URLs.", 200, list_orders),
    "acmeAuthorization": Example("A name that the policy permits.", 200, lambda sites: sites.acme.post(order(sites)["authorizations"][0])),
    "acmeChallenge": Example("A challenge that needs no response.", 200, lambda sites: sites.acme.post(order(sites)["authorizations"][0].replace("authorization", "challenge"))),
    "acmeCertificate": Example("A certificate and its issuer.", 200, download_certificate),
    "acmeMethodNotAllowed": Example("A resource, by GET.", 405, lambda sites: sites.acme.send("GET", sites.acme.account, None, {})),
    "noAcme": Example("A CA without a ledger.", 404, get("/acme/directory")),
    "acmeMalformed": Example("A request without a signature.", 400, lambda sites: sites.acme.send("POST", sites.acme.account, b"{}", JOSE)),
    "acmeForbidden": Example("A name that the policy does not permit.", 403, lambda sites: sites.acme.order("dns:www.example.com", "dns:*.com")),
    "acmeConflict": Example("A certificate that another order replaces.", 409, conflict),
    "acmeTooLarge": Example("A body of 200 kilobytes.", 413, lambda sites: sites.acme.send("POST", sites.acme.account, b" " * 200_000, JOSE)),
    "acmeUnsupportedMediaType": Example("A body of another type.", 415, lambda sites: sites.acme.send("POST", sites.acme.account, b"{}", JSON)),
    "acmeQuotaExceeded": Example("More orders of a principal than its quota.", 429, exceed_order_quota),
    "acmeUnavailable": Example("A malformed list of principals.", 503, list_principals_malformed),
    "methodNotAllowed": Example("A path that does not support DELETE.", 405, lambda sites: sites.plain.request("DELETE", "/ca")),
    "malformed": Example("A body without `csr`, and with an unknown profile.", 400, post("/sign", {"profile": "admin"})),
    "forbidden": Example("No API key.", 403, post("/sign", {}, **{"x-api-key": ""})),
    "httpsRequired": Example("EST over plain HTTP.", 403, get(f"{EST}/cacerts")),
    "unknownLabel": Example("A label that is not the name of a profile.", 404, request_est("GET", "/admin/cacerts")),
    "unknownCertificate": Example("A certificate of another CA.", 404, get("/renewal-info/aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE")),
    "notAnOperator": Example("An API key without the role.", 403, revoke_without_role),
    "notIssued": Example("A serial number of another CA.", 404, lambda sites: send_example(sites.tls, "revoke")),
    "noLedger": Example("A service without a ledger.", 404, lambda sites: send_example(sites.plain, "revoke")),
    "unknownIssuer": Example("The key identifier of another CA.", 404, get("/crl/00")),
    "unauthorized": Example("No credentials.", 401, request_est("POST", "/simpleenroll", b"x")),
    "invalidToken": Example("A CA without rules for tokens.", 401, post("/sign", {}, Authorization="Bearer e30.e30.e30", **{"x-api-key": ""})),
    "enrollmentRefused": Example("A body that is not a CSR.", 400, request_est("POST", "/simpleenroll", b"garbage", **KEY)),
    "enrollmentForbidden": Example("A wrong API key.", 403, request_est("POST", "/simpleenroll", b"x", **{"x-api-key": "wrong"})),
    "renewalForbidden": Example("No client certificate.", 403, request_est("POST", "/simplereenroll", b"x")),
    "tooLarge": Example("A body of one megabyte.", 413, lambda sites: sites.plain.request("POST", "/sign", b" " * 1_048_576, {**JSON, **KEY})),
    "unsupportedMediaType": Example("A body in XML.", 415, lambda sites: sites.plain.request("POST", "/sign", b"<csr/>", {"Content-Type": "application/xml", **KEY})),
    "refused": Example("A name that ends with a dot, and a request for a CA certificate.", 422, send_invalid_csr),
    "rateLimited": Example("Too many requests at once.", 429, exceed_rate_limit),
    "internalError": Example("An internal error.", 500, lambda sites: sites.broken.request("GET", "/sign")),
    "badGateway": Example("A function that failed.", 502, invoke("raise")),
    "unavailable": Example("A malformed revocation file.", 503, get_malformed_crl),
    "busy": Example("All functions are busy.", 503, request_busy_function),
    "timedOut": Example("A function that took too long.", 504, invoke("hang")),
}  # fmt: skip


def value(response: Response) -> Any:
    """Return a response as an example: JSON, text, the start of a page, or base64."""
    media_type = response.headers["Content-Type"].partition(";")[0]
    if media_type.endswith("json"):
        return response.json()
    if media_type == "text/html":
        return "".join(response.body.decode().splitlines(keepends=True)[:PAGE_LINES])
    if media_type == "application/pem-certificate-chain" or "Content-Transfer-Encoding" in response.headers:
        return response.body.decode()
    return base64.b64encode(response.body).decode()


_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n", re.DOTALL)
_CA: Final = re.compile(r"(CA) [0-9a-f]{6}\b")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_REQUEST_ID: Final = re.compile(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_HASH: Final = re.compile(r"(?<![0-9A-Za-z])([0-9a-f]{2}){16,32}(?![0-9A-Za-z])")
_ACME_ID: Final = re.compile(r"(?<=/)[A-Za-z0-9_-]{22}(?=/|$)|^[A-Za-z0-9_-]{22}$")
_VOLATILE_TEXT: Final = re.compile(
    r"(Serial Number:|Signature Value:|Authority Key Identifier:)\s+([0-9A-Fa-f]{2}:\s*)+[0-9A-Fa-f]{2}"
    r"|(Not Before:|Not After :) [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4} GMT"
)
_CA_KEY: Final = re.compile(r"(pub:|Subject Key Identifier:)\s+([0-9A-Fa-f]{2}:\s*)+[0-9A-Fa-f]{2}")


def normalize(node: Any) -> Any:
    """Replace the parts of an example that depend on the CA or on time: times, serial numbers, keys, the CA's name.

    The content of certificates and CRLs stays, as text.
    """
    if isinstance(node, dict):
        is_jws = node.keys() == {"protected", "payload", "signature"}
        return {
            name: f"{len(value)} characters"
            if is_jws and isinstance(value, str) and name != "protected"
            else normalize(value)
            for name, value in node.items()
        }
    if isinstance(node, list):
        return [normalize(element) for element in node]
    return _normalize_text(node) if isinstance(node, str) else node


def _normalize_text(text: str) -> Any:
    description = _describe_base64(text)
    if description is not None:
        return description
    text = _PEM.sub(
        lambda match: _describe_certificate(x509.load_pem_x509_certificate(match[0].encode())), text
    )
    for pattern, replacement in (
        (_VOLATILE_TEXT, lambda match: f"{match[1] or match[3]} …"),
        (_CA, r"\1 …"),
        (_TIME, "a time"),
        (_REQUEST_ID, "a request"),
        (_HASH, "a hash"),
        (_ACME_ID, "an ID"),
    ):
        text = pattern.sub(replacement, text)
    return text


def _describe_base64(text: str) -> list[str] | str | None:
    """Describe certificates, a CRL or an OCSP response in base64; None if the text is something else."""
    try:
        der = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    for load in (x509.load_der_x509_certificate, pkcs7.load_der_pkcs7_certificates, x509.load_der_x509_crl):
        with contextlib.suppress(ValueError):
            return _describe(load(der))
    with contextlib.suppress(ValueError):
        return _describe_status(ocsp.load_der_ocsp_response(der))
    return None


def _describe_status(response: ocsp.OCSPResponse) -> str:
    """Describe an OCSP response, without times, serial number and the CA's keys."""
    if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
        return str(response.response_status)
    (answer,) = response.responses
    period = answer.next_update_utc and answer.next_update_utc - answer.this_update_utc
    algorithms = (answer.hash_algorithm.name, response.signature_algorithm_oid.dotted_string)
    return f"{answer.certificate_status} {period} {algorithms} {list(response.extensions)}"


def _describe(value: Any) -> list[str] | str:
    if isinstance(value, x509.Certificate):
        return _describe_certificate(value)
    if isinstance(value, list):
        return [_describe_certificate(certificate) for certificate in value]
    period = value.next_update_utc - value.last_update_utc
    issuer = _CA.sub(r"\1 …", value.issuer.rfc4514_string())
    extensions = [(extension.oid.dotted_string, extension.critical) for extension in value.extensions]
    return f"{issuer} {value.signature_algorithm_oid.dotted_string} {period} {extensions} {len(value)}"


def _describe_certificate(certificate: x509.Certificate) -> str:
    """Describe a certificate and its validity, without times, serial number and the CA's keys."""
    text = _VOLATILE_TEXT.sub(lambda match: f"{match[1] or match[3]} …", to_text(certificate))
    if "CA:TRUE" in text:
        text = _CA_KEY.sub(r"\1 …", text)
    validity = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return _HASH.sub("a hash", _CA.sub(r"\1 …", text)) + str(validity)


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as a block."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def write(values: dict[str, Any]) -> None:
    """Replace the examples at the end of the contract."""
    examples = {name: {"summary": EXAMPLES[name].summary, "value": value} for name, value in values.items()}
    text = yaml.dump(examples, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)
    before = CONTRACT.read_text(encoding="utf-8").partition(MARK)[0]
    lines = "".join(f"    {line}" if line.strip() else line for line in text.splitlines(keepends=True))
    CONTRACT.write_text(before + MARK + lines, encoding="utf-8")


def main() -> int:
    """Request each example, and write those that are out of date."""
    existing = factories.document()["components"].get("examples", {})
    with tempfile.TemporaryDirectory() as directory, start_sites(Path(directory)) as sites:
        values = {}
        for name, example in EXAMPLES.items():
            response = example.send(sites)
            assert response.status == example.status, (name, response)
            old, new = existing.get(name, {}).get("value"), value(response)
            values[name] = old if normalize(old) == normalize(new) else new
    write(values)
    sys.stdout.write(f"{len(values)} examples\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

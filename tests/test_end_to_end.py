"""The whole path of a request: HTTP, gateway, event, aws-wsgi, Connexion, operations, authority, pki."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509.oid import AttributeOID, ExtendedKeyUsageOID

from service import openapi
from service.pki import encoding
from service.web.acme_problems import NAMESPACE
from service.web.app import MAX_BODY_BYTES
from tests import csrs, factories, input_forms, servers
from tests.assertions import JSON, KEY, PEM, assert_documented, assert_problem, uuid7
from tests.examples import certificate_id
from tests.servers import API_KEY, Server

GOOD = csrs.encode_pem(csrs.build(sans=["dns:a.example.com", "ip:10.0.0.1"])).decode()


def test_csr_is_signed(server: Server) -> None:
    """`POST /sign` returns each member of the contract, and the members match the certificate."""
    response = server.sign({"csr": GOOD})
    assert response.status == 200
    signed = assert_documented("/sign", "post", response)
    certificate = x509.load_pem_x509_certificate(signed["crt_pem"].encode())
    assert signed["serial_number"] == encoding.format_serial(certificate.serial_number)
    assert signed["fingerprint_sha256"] == certificate.fingerprint(hashes.SHA256()).hex()
    assert signed["not_before"] == f"{certificate.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}"
    assert signed["not_after"] == f"{certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
    assert signed["profile"] == "server"
    assert signed["notes"] == []
    assert "DNS:a.example.com, IP Address:10.0.0.1" in signed["crt_text"]
    chain = x509.load_pem_x509_certificates(signed["chain_pem"].encode())
    certificate.verify_directly_issued_by(chain[0])
    assert all(ca.subject != ca.issuer for ca in chain)
    assert response.headers["Cache-Control"] == "no-store"


def test_text_false_omits_crt_text(server: Server) -> None:
    """`text: false` omits only `crt_text`."""
    signed = assert_documented("/sign", "post", server.sign({"csr": GOOD, "text": False}))
    assert "crt_text" not in signed
    assert signed["crt_pem"]


def test_several_problems_are_compound(server: Server) -> None:
    """All problems of one CSR are reported at once, each with its code."""
    request = csrs.build("x", ["dns:_"], [x509.BasicConstraints(ca=True, path_length=None)])
    problem = assert_problem(server.sign({"csr": csrs.encode_pem(request).decode()}), 422, "compound")
    assert [error["code"] for error in problem["errors"]] == ["rejectedIdentifier"] * 2 + ["badCSR"]


def test_problems_of_key_and_names_are_reported_together(server: Server) -> None:
    """A key or signature algorithm that is not accepted does not hide the problems of the content."""
    sans = x509.SubjectAlternativeName([x509.DNSName(name) for name in ("*", "a..b", "-.example")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    request = builder.add_extension(sans, critical=False).sign(
        rsa.generate_private_key(65537, 1024), hashes.SHA256()
    )
    problem = assert_problem(server.sign({"csr": csrs.encode_pem(request).decode()}), 422, "compound")
    fields = ["public_key", "subject_alt_name[0]", "subject_alt_name[1]", "subject_alt_name[2]"]
    assert [error["field"] for error in problem["errors"]] == fields
    refusal = next(
        record for record in map(json.loads, server.read_log().splitlines()[::-1]) if record.get("names")
    )
    assert (refusal["event"], refusal["names"]) == ("refusal", ["dns:*", "dns:a..b", "dns:-.example"])


def test_problems_of_query_and_body_are_reported_together(server: Server) -> None:
    """One 400 lists the problems of the query and of the body."""
    response = server.request("POST", "/sign?x=1", b'{"csr":1}', JSON)
    assert [error["field"] for error in assert_problem(response, 400, "malformed")["errors"]] == [
        "query.x",
        "csr",
    ]


@pytest.mark.parametrize("key", ["", "x", API_KEY + "x", API_KEY[:-1], "é" * 40])
@pytest.mark.parametrize("path", ["/sign", "/sign.pem"])
def test_wrong_api_key_is_403(server: Server, path: str, key: str) -> None:
    """A missing or wrong API key is 403, before the body is validated."""
    headers = {"x-api-key": key.encode("utf-8").decode("latin-1")} if key else {}
    assert_problem(server.request("POST", path, b"garbage", headers), 403, "unauthorized")


@pytest.mark.parametrize(
    ("path", "media_type"), [("/sign", "text/plain"), ("/sign.pem", "application/json"), ("/sign", "")]
)
def test_unsupported_media_type_is_415(server: Server, path: str, media_type: str) -> None:
    """An unsupported Content-Type is 415, and the response lists the supported ones."""
    response = server.request("POST", path, GOOD.encode(), {"Content-Type": media_type, **KEY})
    assert "application/" in assert_problem(response, 415, "unsupportedMediaType")["detail"]


def test_content_type_may_have_parameters(server: Server) -> None:
    """`application/json; charset=utf-8` is JSON."""
    headers = {"Content-Type": "application/json; charset=utf-8", **KEY}
    assert server.request("POST", "/sign", json.dumps({"csr": GOOD}).encode(), headers).status == 200


def test_body_over_the_limit_is_413(server: Server) -> None:
    """A body over the limit is 413; a body at the limit is validated."""
    assert_problem(server.request("POST", "/sign", b" " * (MAX_BODY_BYTES + 1), JSON), 413, "tooLarge")
    assert_problem(server.request("POST", "/sign", b" " * MAX_BODY_BYTES, JSON), 400, "malformed")
    large = GOOD.encode() + b" " * MAX_BODY_BYTES
    assert_problem(server.request("POST", "/sign.pem", large, KEY | PEM), 413, "tooLarge")
    assert_problem(server.request("POST", "/sign.pem", large[:MAX_BODY_BYTES], KEY | PEM), 422, "badCSR")


@pytest.mark.parametrize(
    "media_type",
    ["application/x-www-form-urlencoded", "application/x-pem-file", "text/plain", "application/octet-stream"],
)
def test_sign_pem_returns_certificate_and_chain(server: Server, media_type: str) -> None:
    """`POST /sign.pem` accepts the default Content-Type of curl, and returns the leaf and its chain."""
    response = server.request("POST", "/sign.pem", GOOD.encode(), {"Content-Type": media_type, **KEY})
    assert response.status == 200
    assert response.headers["Content-Type"] == "application/pem-certificate-chain"
    leaf, signing = x509.load_pem_x509_certificates(response.body)
    leaf.verify_directly_issued_by(signing)


def test_sign_pem_accepts_der_and_profile(server: Server) -> None:
    """`POST /sign.pem` accepts DER, and `profile` in the query."""
    headers = {"Content-Type": "application/pkcs10", **KEY}
    response = server.request("POST", "/sign.pem?profile=client", csrs.encode_der(csrs.build()), headers)
    (leaf, _) = x509.load_pem_x509_certificates(response.body)
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


@pytest.mark.parametrize("name", input_forms.ALL)
def test_csr_in_every_form_is_signed(server: Server, name: str) -> None:
    """JSON, a batch and `/sign.pem` with any Content-Type sign the same forms of a CSR; JSON has base64 of octets."""
    data = input_forms.ALL[name]
    body = {"csr": data.decode() if data.isascii() else base64.b64encode(data).decode()}
    signed = assert_documented("/sign", "post", server.sign(body))
    results = server.request("POST", "/sign/batch", json.dumps({"requests": [body]}).encode(), JSON).json()
    pems = [signed["crt_pem"].encode(), results["results"][0]["certificate"]["crt_pem"].encode()]
    for media_type in ("application/x-www-form-urlencoded", "application/pkcs10"):
        headers = {"Content-Type": media_type, **KEY}
        pems.append(server.request("POST", "/sign.pem", data, headers).body)
    for pem in pems:
        certificate = x509.load_pem_x509_certificate(pem)
        assert certificate.public_key() == csrs.private_key("rsa-2048").public_key()
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert list(names) == [x509.DNSName("x.example")]


@pytest.mark.parametrize("option", ["--data", "--data-binary", "--data-urlencode"])
def test_curl_sends_a_csr(server: Server, tmp_path: Path, option: str) -> None:
    """`curl --data @file` removes the line ends, and `--data-urlencode` encodes the file as a form."""
    (tmp_path / "my.csr").write_text(GOOD)
    file = "csr@my.csr" if option == "--data-urlencode" else "@my.csr"
    command = ("curl", "-sS", "--fail", "-H", f"x-api-key: {API_KEY}", option, file, f"{server.url}/sign.pem")
    output = servers.run(*command, cwd=tmp_path).stdout
    assert len(x509.load_pem_x509_certificates(output.encode())) == 2


@pytest.mark.parametrize("name", [*input_forms.OTHER_FORMATS, *input_forms.PRIVATE_KEYS])
def test_other_format_is_422(server: Server, name: str) -> None:
    """Another format is badCSR and named, and a private key is badPublicKey, in JSON and in `/sign.pem`."""
    data, fragment = input_forms.OTHER_FORMATS.get(name) or (input_forms.PRIVATE_KEYS[name], "private key")
    code = "badCSR" if name in input_forms.OTHER_FORMATS else "badPublicKey"
    for response in (
        server.sign({"csr": base64.b64encode(data).decode()}),
        server.request("POST", "/sign.pem", data, KEY | PEM),
    ):
        problem = assert_problem(response, 422, code)
        assert fragment in problem["detail"]
        assert [error["field"] for error in problem["errors"]] == ["csr"]


def test_ca_certificates_are_the_same_in_all_formats(server: Server) -> None:
    """JSON, DER, PEM and PKCS#7 contain the same certificates, root last."""
    authority = assert_documented("/ca", "get", server.request("GET", "/ca"))
    chain = x509.load_pem_x509_certificates(authority["chain_pem"].encode())
    issuing, root = chain
    issuing.verify_directly_issued_by(root)
    root.verify_directly_issued_by(root)
    assert authority["ca_pem"] + authority["root_pem"] == authority["chain_pem"]
    assert authority["fingerprint_sha256"] == issuing.fingerprint(hashes.SHA256()).hex()
    assert authority["root_fingerprint_sha256"] == root.fingerprint(hashes.SHA256()).hex()
    assert authority["key"] == "P-256"
    formats: dict[str, tuple[str, Callable[[bytes], list[x509.Certificate]]]] = {
        "/ca.crt": ("application/pkix-cert", lambda body: [x509.load_der_x509_certificate(body)]),
        "/root.crt": ("application/pkix-cert", lambda body: [x509.load_der_x509_certificate(body)]),
        "/ca.pem": ("application/pem-certificate-chain", x509.load_pem_x509_certificates),
        "/ca.p7c": ("application/pkcs7-mime", pkcs7.load_der_pkcs7_certificates),
    }
    expected = {"/ca.crt": [issuing], "/root.crt": [root], "/ca.pem": chain, "/ca.p7c": chain}
    for path, (media_type, load) in formats.items():
        response = server.request("GET", path, headers={"Accept": "*/*"})
        assert (response.status, response.headers["Content-Type"]) == (200, media_type)
        assert response.headers["Cache-Control"] == "public, max-age=3600"
        assert sorted(load(response.body), key=hash) == sorted(expected[path], key=hash)


def test_profiles_are_those_of_the_contract(server: Server) -> None:
    """`GET /profiles` returns `x-certificate-profiles`, and `POST /sign` uses the requested profile."""
    profiles = assert_documented("/profiles", "get", server.request("GET", "/profiles"))
    expected = factories.document()["x-certificate-profiles"]
    assert profiles["default"] == "server"
    assert [profile["name"] for profile in profiles["profiles"]] == list(expected)
    for profile in profiles["profiles"]:
        name = profile["name"]
        without_url = {"revocation": "none", "validity": "P7D", "max_validity": "P7D"}
        assert (expected[name] | without_url).items() <= profile.items()
        assert server.sign({"csr": GOOD, "profile": name}).json()["profile"] == name


@pytest.mark.parametrize("validity", ["1d", "P1D", "24h", "PT24H", "1440m"])
def test_validity_has_the_same_forms_everywhere(server: Server, validity: str) -> None:
    """JSON, query, batch and dry run accept a duration in its short form and in ISO 8601."""
    one = server.sign({"csr": GOOD, "validity": validity}).json()["crt_pem"]
    pem = server.request("POST", f"/sign.pem?validity={validity}", GOOD.encode(), KEY | PEM).body.decode()
    body = json.dumps({"requests": [{"csr": GOOD, "validity": validity}]}).encode()
    batch = server.request("POST", "/sign/batch", body, JSON).json()["results"][0]["certificate"]["crt_pem"]
    for certificate in (x509.load_pem_x509_certificate(text.encode()) for text in (one, pem, batch)):
        period = certificate.not_valid_after_utc - certificate.not_valid_before_utc
        assert period == timedelta(days=1, seconds=-1)
    body = json.dumps({"csr": GOOD, "validity": validity}).encode()
    assert server.request("POST", "/sign?dry_run=true", body, JSON).status == 202


def test_shorter_validity_may_be_requested(server: Server) -> None:
    """`validity` and `not_after` set the end of the certificate, in JSON and in the query."""
    signed = assert_documented("/sign", "post", server.sign({"csr": GOOD, "validity": "PT1H"}))
    certificate = x509.load_pem_x509_certificate(signed["crt_pem"].encode())
    validity = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert validity == timedelta(hours=1, seconds=-1)
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(days=3)
    not_after = f"{end:%Y-%m-%dT%H:%M:%SZ}"
    assert server.sign({"csr": GOOD, "not_after": not_after}).json()["not_after"] == not_after
    for query, expected in ((f"not_after={not_after}", end), ("validity=P1D", None)):
        response = server.request("POST", f"/sign.pem?{query}", GOOD.encode(), KEY | PEM)
        certificate = x509.load_pem_x509_certificate(response.body)
        validity = certificate.not_valid_after_utc - certificate.not_valid_before_utc
        assert certificate.not_valid_after_utc == expected if expected else validity < timedelta(days=1)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"validity": "P91D"}, "validity"),
        ({"not_after": "2099-01-01T00:00:00Z"}, "not_after"),
        ({"not_after": "2001-01-01T00:00:00Z"}, "not_after"),
        ({"not_after": "2030-02-31T00:00:00Z"}, "not_after"),
        ({"validity": "P1D", "not_after": "2030-01-01T00:00:00Z"}, "validity"),
    ],
)
def test_invalid_validity_is_refused(server: Server, options: dict[str, object], field: str) -> None:
    """A validity that is too long or too short, an invalid date, or two values are 422; tests/test_validators.py tests the 400s."""
    problem = assert_problem(server.sign({"csr": GOOD, **options}), 422, "rejectedValidity")
    assert {error["field"] for error in problem["errors"]} == {field}


def test_dry_run_signs_nothing(server: Server) -> None:
    """A dry run returns 202 with the fields of the certificate, and records no intent."""
    before = server.read_log().count('"event"')
    path, body = "/sign?dry_run=true", json.dumps({"csr": GOOD, "validity": "P1D"}).encode()
    response = server.request("POST", path, body, JSON)
    assert (response.status, response.headers["Cache-Control"]) == (202, "no-store")
    dry_run = assert_documented("/sign", "post", response)
    assert dry_run["names"] == ["dns:a.example.com", "ip:10.0.0.1"]
    assert (dry_run["subject"], dry_run["key"]) == ("CN=a.example.com", "P-256")
    assert server.read_log().count('"event"') == before
    signed = server.request("POST", "/sign?dry_run=false", body, JSON)
    assert signed.status == 200
    for member in ("not_after", "profile", "notes"):
        assert dry_run[member][:16] == signed.json()[member][:16]


@pytest.mark.parametrize(("value", "status"), [("1", 202), ("true", 202), ("0", 200), ("false", 200)])
def test_dry_run_may_be_a_digit(server: Server, value: str, status: int) -> None:
    """Generated PHP clients send a boolean in the query as 1 or 0."""
    body = json.dumps({"csr": GOOD}).encode()
    assert server.request("POST", f"/sign?dry_run={value}", body, JSON).status == status


@pytest.mark.parametrize("value", ["", "2", "01", "yes", "True", "1.0", "%31%00"])
def test_dry_run_that_is_not_a_boolean_is_refused(server: Server, value: str) -> None:
    """Any other value is malformed, so that a request that is meant as a dry run never issues."""
    body = json.dumps({"csr": GOOD}).encode()
    problem = assert_problem(server.request("POST", f"/sign?dry_run={value}", body, JSON), 400, "malformed")
    assert [error["field"] for error in problem["errors"]] == ["query.dry_run"]


def test_dry_run_reports_all_problems(server: Server) -> None:
    """A dry run needs the same API key and has the same refusals, with an audit record."""
    bad = csrs.encode_pem(
        csrs.build("Anna", ["dns:a..b"], [x509.BasicConstraints(ca=True, path_length=None)])
    )
    body = json.dumps({"csr": bad.decode()}).encode()
    dry = assert_problem(server.request("POST", "/sign?dry_run=true", body, JSON), 422, "compound")
    assert dry["errors"] == assert_problem(server.sign({"csr": bad.decode()}), 422, "compound")["errors"]
    assert json.loads(server.read_log().splitlines()[-2])["event"] == "refusal"
    unauthenticated = JSON | {"x-api-key": "x"}
    assert_problem(server.request("POST", "/sign?dry_run=true", body, unauthenticated), 403, "unauthorized")


def test_retry_returns_the_same_certificate(server: Server) -> None:
    """With the same Idempotency-Key, each worker returns the same certificate, as JSON and PEM."""
    key = {"Idempotency-Key": uuid7()}
    body = json.dumps({"csr": GOOD}).encode()
    certificates = [
        assert_documented("/sign", "post", server.request("POST", "/sign", body, JSON | key))
        for _ in range(3)
    ]
    assert certificates[0] == certificates[1] == certificates[2]
    assert certificates[0]["idempotent_until"] > certificates[0]["not_before"]
    pem = server.request("POST", "/sign.pem", GOOD.encode(), KEY | PEM | key).body.decode()
    assert pem == certificates[0]["crt_pem"] + certificates[0]["chain_pem"]
    second = server.request("POST", "/sign", body, JSON | {"Idempotency-Key": uuid7()}).json()
    assert second["serial_number"] != certificates[0]["serial_number"]
    assert "idempotent_until" not in server.sign({"csr": GOOD}).json()


def test_profiles_of_the_caller(server: Server) -> None:
    """`GET /profiles/mine` returns the principal of the API key; without a key it is 403."""
    mine = assert_documented("/profiles/mine", "get", server.request("GET", "/profiles/mine", headers=KEY))
    assert (mine["principal"], mine["default"]) == ("default", "server")
    assert mine["profiles"] == server.request("GET", "/profiles").json()["profiles"]
    assert_problem(server.request("GET", "/profiles/mine"), 403, "unauthorized")


def test_health_returns_ready_until(server: Server) -> None:
    """The CA is ready until an hour before its chain ends."""
    health = assert_documented("/health", "get", server.request("GET", "/health"))
    assert health["status"] == "ready"
    authority = server.request("GET", "/ca").json()
    assert health["ready_until"] < authority["not_after"]


def test_form_is_served_from_the_contract(server: Server) -> None:
    """`GET /sign` returns the page in the contract, octet for octet, with its Content-Security-Policy."""
    response = server.request("GET", "/sign")
    form = factories.document()["paths"]["/sign"]["get"]["x-amazon-apigateway-integration"]
    assert response.body.decode() == form["responses"]["default"]["responseTemplates"]["text/html"]
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "script-src 'sha256-" in response.headers["Content-Security-Policy"]


GET_PATHS = [
    path for path, item in factories.document()["paths"].items() if "get" in item and "/est/" not in path
]


@pytest.fixture(scope="module")
def path_parameters(server: Server) -> dict[str, str]:
    """Valid values of the parameters in paths."""
    signed = server.sign({"csr": GOOD}).json()
    issuer = x509.load_pem_x509_certificate(signed["chain_pem"].encode())
    key_id = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest.hex()
    leaf = x509.load_pem_x509_certificate(signed["crt_pem"].encode())
    return {"certificate_id": certificate_id(leaf), "key_id": key_id, "request": "MA=="}


NEW_NONCE = "/acme/new-nonce"  # has an operation for HEAD
DOCS = ["/docs", "/docs/swagger-ui-bundle.js", "/openapi.json"]


@pytest.mark.parametrize("path", [*(path for path in GET_PATHS if path != NEW_NONCE), *DOCS])
def test_head_response_is_that_of_get_without_a_body(
    server: Server, path: str, path_parameters: dict[str, str]
) -> None:
    """RFC 9110 9.3.2: wherever there is GET, the status and the headers of HEAD are those of GET."""
    is_acme = path.startswith(openapi.ACME_PREFIX)  # this server has no ledger, so without ACME
    path = path.format_map(path_parameters)
    get, head = (server.request(method, path, headers=KEY) for method in ("GET", "HEAD"))
    assert (head.status, head.body) == (get.status, b"")
    assert get.status == (404 if is_acme else 200)
    each = {"date", "x-amzn-requestid", "x-amz-apigw-id"}  # differ in each response
    headers = [
        {n.lower(): v for n, v in response.headers.items() if n.lower() not in each}
        for response in (get, head)
    ]
    assert headers[0] == headers[1]
    assert headers[1]["content-length"] == str(len(get.body))


def test_head_errors_are_those_of_get(server: Server) -> None:
    """HEAD of an unknown path, without a needed key, and where there is only POST."""
    for path, status in (("/nope", 404), ("/profiles/mine", 403), ("/sign.pem", 405), ("/health?x=1", 400)):
        response = server.request("HEAD", path)
        assert (response.status, response.body) == (status, b""), path
        assert response.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("path", GET_PATHS)
def test_content_type_of_get_does_not_matter(
    server: Server, path: str, path_parameters: dict[str, str]
) -> None:
    """A GET has no body, so its Content-Type is about nothing: no 415."""
    status = 404 if path.startswith(openapi.ACME_PREFIX) else 200  # this server has no ledger
    path = path.format_map(path_parameters)
    for media_type in ("text/csv", "application/pkcs10", "?", "multipart/form-data"):
        assert server.request("GET", path, headers={**KEY, "Content-Type": media_type}).status == status


METHODS = {
    path: [method.upper() for method in ("get", "post") if method in item]
    for path, item in factories.document()["paths"].items()
}
PATHS = [path for path in METHODS if not path.startswith(openapi.EST_PREFIX)]


@pytest.mark.parametrize("path", PATHS)
def test_unsupported_method_is_405(server: Server, path: str) -> None:
    """An unsupported method is 405 with Allow."""
    for method in {"GET", "POST", "PUT", "DELETE", "PATCH", "TRACE"} - set(METHODS[path]):
        response = server.request(method, path)
        if METHODS[path] == ["POST"] and path.startswith(openapi.ACME_PREFIX):
            assert (response.status, response.json()["type"]) == (
                405,
                f"{NAMESPACE}malformed",
            )  # RFC 8555 6.3
        else:
            assert_problem(response, 405, "methodNotAllowed")
        assert response.headers["Allow"] == ", ".join([*METHODS[path], "OPTIONS"]).replace("GET", "GET, HEAD")


@pytest.mark.parametrize("path", PATHS)
def test_options_returns_204_with_cors(server: Server, path: str) -> None:
    """OPTIONS is the CORS preflight: 204, with the methods and the API key header."""
    response = server.request("OPTIONS", path, headers={"Origin": "https://other.example"})
    assert (response.status, response.body) == (204, b"")
    assert response.headers["Access-Control-Allow-Methods"] == ", ".join(METHODS[path])
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert "x-api-key" in response.headers["Access-Control-Allow-Headers"]


@pytest.mark.parametrize("path", [path for path in METHODS if path not in PATHS])
def test_est_has_no_cors(server: Server, path: str) -> None:
    """OPTIONS on a path of EST is an unsupported method: 405 with Allow, without CORS."""
    (allowed,) = METHODS[path]
    for method in {"GET", "POST", "PUT", "DELETE", "PATCH", "TRACE", "OPTIONS"} - {allowed}:
        response = server.request(method, path.replace("{label}", "peer"))
        assert (response.status, response.json()["code"]) == (405, "methodNotAllowed")
        assert response.headers["Allow"] == allowed.replace("GET", "GET, HEAD")
        assert not [name for name in response.headers if name.lower().startswith("access-control-")]


@pytest.mark.parametrize("path", ["//", "/nope", "/sign/x", "/%2e%2e/sign", "//sign"])
def test_unknown_path_is_404(server: Server, path: str) -> None:
    """A path that is not in the contract is 404 for each method."""
    assert_problem(server.request("GET", path), 404, "notFound")
    assert_problem(server.request("DELETE", path), 404, "notFound")


def test_trailing_slash_is_ignored(server: Server) -> None:
    """`/ca.pem/` equals `/ca.pem`, and `/sign/` is the form."""
    assert server.request("GET", "/ca.pem/").body == server.request("GET", "/ca.pem").body
    assert server.request("GET", "/sign/").body == server.request("GET", "/sign").body


def test_secrets_are_not_logged(server: Server) -> None:
    """API keys, challenge passwords and control characters are not logged."""
    request = x509.CertificateSigningRequestBuilder().subject_name(csrs.build().subject)
    request = request.add_attribute(AttributeOID.CHALLENGE_PASSWORD, b"hunter22")
    response = server.sign(
        {"csr": csrs.encode_pem(request.sign(csrs.private_key(), hashes.SHA256())).decode()}
    )
    assert response.json()["notes"][0] == "challengePassword ignored"
    server.sign({"csr": "\x1b[2Jgarbage"})
    server.request("GET", "/nope%0d%0ax?%1b")
    logged = server.read_log()
    assert API_KEY not in logged
    assert "hunter22" not in logged
    assert "\x1b" not in logged
    assert all(json.loads(line) for line in logged.splitlines())


def test_trace_of_a_request_is_logged_next_to_its_unique_id(server: Server) -> None:
    """The access log and each audit record have the ID in `traceparent`; a malformed one is ignored."""
    trace_id = uuid.uuid4().hex
    headers = {**KEY, "Content-Type": "application/json", "traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}
    malformed = headers | {"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01-more"}
    csr = csrs.encode_pem(csrs.build()).decode()
    before = len(server.read_log())
    responses = [
        server.request("POST", "/sign", json.dumps({"csr": text}).encode(), fields)
        for text, fields in ((csr, headers), (csr, headers), ("x", headers), (csr, malformed))
    ]
    assert [response.status for response in responses] == [200, 200, 422, 200]
    records = [json.loads(line) for line in server.read_log()[before:].splitlines()]
    request_ids = [response.headers["x-amzn-RequestId"] for response in responses]
    assert len({*request_ids, trace_id}) == 5
    kinds = {"intent", "result", "access"}
    for request_id, expected in zip(request_ids, (kinds, kinds, {"refusal", "access"}, kinds), strict=True):
        of_request = [record for record in records if record["request_id"] == request_id]
        assert {record.get("event", "access") for record in of_request} == expected
        ids = {record.get("trace_id") for record in of_request}
        assert ids == {None if request_id == request_ids[3] else trace_id}

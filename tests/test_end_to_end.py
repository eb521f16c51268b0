"""The whole path: HTTP, gateway, event, aws-wsgi, Connexion, operations, authority, core."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509.oid import AttributeOID, ExtendedKeyUsageOID

from service import openapi
from service.web.app import MAX_BODY_BYTES
from tests import csrs, factories
from tests.assertions import JSON, KEY, PEM, assert_documented, assert_problem, uuid7
from tests.servers import API_KEY, Server

GOOD = csrs.encode_pem(csrs.build(sans=["dns:a.example.com", "ip:10.0.0.1"])).decode()


def test_a_request_is_signed(server: Server) -> None:
    """`POST /sign` answers every member of the contract, and they agree with the certificate."""
    answer = server.sign({"csr": GOOD})
    assert answer.status == 200
    signed = assert_documented("/sign", "post", answer)
    certificate = x509.load_pem_x509_certificate(signed["crt_pem"].encode())
    assert signed["serial_number"].lstrip("0") == f"{certificate.serial_number:x}"
    assert signed["fingerprint_sha256"] == certificate.fingerprint(hashes.SHA256()).hex()
    assert signed["not_before"] == f"{certificate.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}"
    assert signed["not_after"] == f"{certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
    assert signed["profile"] == "server"
    assert signed["notes"] == []
    assert "DNS:a.example.com, IP Address:10.0.0.1" in signed["crt_text"]
    chain = x509.load_pem_x509_certificates(signed["chain_pem"].encode())
    certificate.verify_directly_issued_by(chain[0])
    assert all(each.subject != each.issuer for each in chain)
    assert answer.headers["Cache-Control"] == "no-store"


def test_without_text(server: Server) -> None:
    """`text: false` leaves `crt_text` out, and nothing else."""
    signed = assert_documented("/sign", "post", server.sign({"csr": GOOD, "text": False}))
    assert "crt_text" not in signed
    assert signed["crt_pem"]


def test_several_reasons_are_compound(server: Server) -> None:
    """Several reasons of one request are told at once, each with its own code."""
    request = csrs.build("x", ["dns:_"], [x509.BasicConstraints(ca=True, path_length=None)])
    found = assert_problem(server.sign({"csr": csrs.encode_pem(request).decode()}), 422, "compound")
    assert [each["code"] for each in found["errors"]] == ["rejectedIdentifier"] * 2 + ["badCSR"]


def test_query_and_body_faults_come_together(server: Server) -> None:
    """One 400 lists the faults of the query and those of the body."""
    answer = server.request("POST", "/sign?x=1", b'{"csr":1}', JSON)
    assert [each["field"] for each in assert_problem(answer, 400, "malformed")["errors"]] == [
        "query.x",
        "csr",
    ]


@pytest.mark.parametrize("key", ["", "x", API_KEY + "x", API_KEY[:-1], "é" * 40])
@pytest.mark.parametrize("path", ["/sign", "/sign.pem"])
def test_a_wrong_key_is_403(server: Server, path: str, key: str) -> None:
    """A missing or wrong API key is 403, before anything is read."""
    headers = {"x-api-key": key.encode("utf-8").decode("latin-1")} if key else {}
    assert_problem(server.request("POST", path, b"garbage", headers), 403, "unauthorized")


@pytest.mark.parametrize(
    ("path", "media_type"), [("/sign", "text/plain"), ("/sign.pem", "application/json"), ("/sign", "")]
)
def test_other_media_types_are_415(server: Server, path: str, media_type: str) -> None:
    """A Content-Type that the operation does not take is 415, and the answer lists those it takes."""
    answer = server.request("POST", path, GOOD.encode(), {"Content-Type": media_type, **KEY})
    assert "application/" in assert_problem(answer, 415, "unsupportedMediaType")["detail"]


def test_a_content_type_may_have_parameters(server: Server) -> None:
    """`application/json; charset=utf-8` is JSON."""
    headers = {"Content-Type": "application/json; charset=utf-8", **KEY}
    assert server.request("POST", "/sign", json.dumps({"csr": GOOD}).encode(), headers).status == 200


def test_a_large_body_is_413(server: Server) -> None:
    """A body over the bound is 413; one at the bound is read (and is no request)."""
    assert_problem(server.request("POST", "/sign", b" " * (MAX_BODY_BYTES + 1), JSON), 413, "tooLarge")
    assert_problem(server.request("POST", "/sign", b" " * MAX_BODY_BYTES, JSON), 400, "malformed")
    large = GOOD.encode() + b" " * MAX_BODY_BYTES
    assert_problem(server.request("POST", "/sign.pem", large, KEY | PEM), 413, "tooLarge")
    assert_problem(server.request("POST", "/sign.pem", large[:MAX_BODY_BYTES], KEY | PEM), 422, "badCSR")


@pytest.mark.parametrize(
    "media_type",
    ["application/x-www-form-urlencoded", "application/x-pem-file", "text/plain", "application/octet-stream"],
)
def test_pem_in_pem_out(server: Server, media_type: str) -> None:
    """`POST /sign.pem` takes curl's own Content-Type, and answers the leaf and its chain."""
    answer = server.request("POST", "/sign.pem", GOOD.encode(), {"Content-Type": media_type, **KEY})
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/pem-certificate-chain"
    leaf, signing = x509.load_pem_x509_certificates(answer.body)
    leaf.verify_directly_issued_by(signing)


def test_der_in_pem_out_by_profile(server: Server) -> None:
    """`application/pkcs10` is DER; `profile` is in the query."""
    headers = {"Content-Type": "application/pkcs10", **KEY}
    answer = server.request("POST", "/sign.pem?profile=client", csrs.encode_der(csrs.build()), headers)
    (leaf, _) = x509.load_pem_x509_certificates(answer.body)
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_the_ca_in_every_form(server: Server) -> None:
    """JSON, DER, PEM and PKCS#7 all hold the same certificates, root last."""
    authority = assert_documented("/ca", "get", server.request("GET", "/ca"))
    chain = x509.load_pem_x509_certificates(authority["chain_pem"].encode())
    issuing, root = chain
    issuing.verify_directly_issued_by(root)
    root.verify_directly_issued_by(root)
    assert authority["ca_pem"] + authority["root_pem"] == authority["chain_pem"]
    assert authority["fingerprint_sha256"] == issuing.fingerprint(hashes.SHA256()).hex()
    assert authority["root_fingerprint_sha256"] == root.fingerprint(hashes.SHA256()).hex()
    assert authority["key"] == "P-256"
    forms: dict[str, tuple[str, Callable[[bytes], list[x509.Certificate]]]] = {
        "/ca.crt": ("application/pkix-cert", lambda body: [x509.load_der_x509_certificate(body)]),
        "/root.crt": ("application/pkix-cert", lambda body: [x509.load_der_x509_certificate(body)]),
        "/ca.pem": ("application/pem-certificate-chain", x509.load_pem_x509_certificates),
        "/ca.p7c": ("application/pkcs7-mime", pkcs7.load_der_pkcs7_certificates),
    }
    expected = {"/ca.crt": [issuing], "/root.crt": [root], "/ca.pem": chain, "/ca.p7c": chain}
    for path, (media_type, load) in forms.items():
        answer = server.request("GET", path, headers={"Accept": "*/*"})
        assert (answer.status, answer.headers["Content-Type"]) == (200, media_type)
        assert answer.headers["Cache-Control"] == "public, max-age=3600"
        assert sorted(load(answer.body), key=hash) == sorted(expected[path], key=hash)


def test_the_profiles_are_those_of_the_contract(server: Server) -> None:
    """`GET /profiles` says what `x-certificate-profiles` says, and the profile that is asked for is answered."""
    found = assert_documented("/profiles", "get", server.request("GET", "/profiles"))
    stated = factories.document()["x-certificate-profiles"]
    assert found["default"] == "server"
    assert [each["name"] for each in found["profiles"]] == list(stated)
    for each in found["profiles"]:
        assert stated[each["name"]].items() <= each.items()
        assert server.sign({"csr": GOOD, "profile": each["name"]}).json()["profile"] == each["name"]


def test_less_validity_may_be_asked_for(server: Server) -> None:
    """`validity` or `not_after`, in JSON and in the query; the certificate ends then."""
    signed = assert_documented("/sign", "post", server.sign({"csr": GOOD, "validity": "PT1H"}))
    certificate = x509.load_pem_x509_certificate(signed["crt_pem"].encode())
    span = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert span == timedelta(hours=1, seconds=-1)
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(days=3)
    stated = f"{end:%Y-%m-%dT%H:%M:%SZ}"
    assert server.sign({"csr": GOOD, "not_after": stated}).json()["not_after"] == stated
    for query, expected in ((f"not_after={stated}", end), ("validity=P1D", None)):
        answer = server.request("POST", f"/sign.pem?{query}", GOOD.encode(), KEY | PEM)
        certificate = x509.load_pem_x509_certificate(answer.body)
        span = certificate.not_valid_after_utc - certificate.not_valid_before_utc
        assert certificate.not_valid_after_utc == expected if expected else span < timedelta(days=1)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"validity": "P91D"}, "validity"),
        ({"not_after": "2099-01-01T00:00:00Z"}, "not_after"),
        ({"not_after": "2001-01-01T00:00:00Z"}, "not_after"),
        ({"not_after": "2030-02-31T00:00:00Z"}, "not_after"),
        ({"validity": "P1D", "not_after": "2030-01-01T00:00:00Z"}, "validity"),
    ],
)
def test_validities_that_are_not_given(server: Server, asked: dict[str, object], field: str) -> None:
    """Too much, too little, no day of the calendar, or two of them: 422; tests/test_validators.py has the 400s."""
    found = assert_problem(server.sign({"csr": GOOD, **asked}), 422, "rejectedValidity")
    assert {each["field"] for each in found["errors"]} == {field}


def test_a_dry_run_signs_nothing(server: Server) -> None:
    """202 with what would be issued, by the same code; no intent, and no certificate."""
    before = server.logged().count('"event"')
    path, body = "/sign?dry_run=true", json.dumps({"csr": GOOD, "validity": "P1D"}).encode()
    answer = server.request("POST", path, body, JSON)
    assert (answer.status, answer.headers["Cache-Control"]) == (202, "no-store")
    planned = assert_documented("/sign", "post", answer)
    assert planned["names"] == ["dns:a.example.com", "ip:10.0.0.1"]
    assert (planned["subject"], planned["key"]) == ("CN=a.example.com", "P-256")
    assert server.logged().count('"event"') == before
    signed = server.request("POST", "/sign?dry_run=false", body, JSON)
    assert signed.status == 200
    for member in ("not_after", "profile", "notes"):
        assert planned[member][:16] == signed.json()[member][:16]


def test_a_dry_run_gives_every_reason_against(server: Server) -> None:
    """The same credentials, and the same refusals, recorded as such."""
    bad = csrs.encode_pem(
        csrs.build("Anna", ["dns:a..b"], [x509.BasicConstraints(ca=True, path_length=None)])
    )
    body = json.dumps({"csr": bad.decode()}).encode()
    dry = assert_problem(server.request("POST", "/sign?dry_run=true", body, JSON), 422, "compound")
    assert dry["errors"] == assert_problem(server.sign({"csr": bad.decode()}), 422, "compound")["errors"]
    assert json.loads(server.logged().splitlines()[-2])["event"] == "refusal"
    nobody = JSON | {"x-api-key": "x"}
    assert_problem(server.request("POST", "/sign?dry_run=true", body, nobody), 403, "unauthorized")


def test_a_retry_through_the_whole_path(server: Server) -> None:
    """With the same Idempotency-Key, another worker answers the same certificate, whatever the form."""
    key = {"Idempotency-Key": uuid7()}
    body = json.dumps({"csr": GOOD}).encode()
    answers = [
        assert_documented("/sign", "post", server.request("POST", "/sign", body, JSON | key))
        for _ in range(3)
    ]
    assert answers[0] == answers[1] == answers[2]
    assert answers[0]["idempotent_until"] > answers[0]["not_before"]
    pem = server.request("POST", "/sign.pem", GOOD.encode(), KEY | PEM | key).body.decode()
    assert pem == answers[0]["crt_pem"] + answers[0]["chain_pem"]
    other = server.request("POST", "/sign", body, JSON | {"Idempotency-Key": uuid7()}).json()
    assert other["serial_number"] != answers[0]["serial_number"]
    assert "idempotent_until" not in server.sign({"csr": GOOD}).json()


def test_what_the_caller_may_have(server: Server) -> None:
    """`GET /profiles/mine` knows the caller by its key; without one it is 403."""
    found = assert_documented("/profiles/mine", "get", server.request("GET", "/profiles/mine", headers=KEY))
    assert (found["principal"], found["default"]) == ("default", "server")
    assert found["profiles"] == server.request("GET", "/profiles").json()["profiles"]
    assert_problem(server.request("GET", "/profiles/mine"), 403, "unauthorized")


def test_health_says_until_when(server: Server) -> None:
    """Ready, until an hour before the chain ends."""
    found = assert_documented("/health", "get", server.request("GET", "/health"))
    assert found["status"] == "ready"
    authority = server.request("GET", "/ca").json()
    assert found["ready_until"] < authority["not_after"]


def test_the_form_is_served_from_the_document(server: Server) -> None:
    """`GET /sign` is the document's page, byte for byte, under its Content-Security-Policy."""
    answer = server.request("GET", "/sign")
    form = factories.document()["paths"]["/sign"]["get"]["x-amazon-apigateway-integration"]
    assert answer.body.decode() == form["responses"]["default"]["responseTemplates"]["text/html"]
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "script-src 'sha256-" in answer.headers["Content-Security-Policy"]


METHODS = {
    path: [method.upper() for method in ("get", "post") if method in item]
    for path, item in factories.document()["paths"].items()
}
PATHS = [path for path in METHODS if not path.startswith(openapi.EST)]


@pytest.mark.parametrize("path", PATHS)
def test_other_methods_are_405(server: Server, path: str) -> None:
    """A method that a path does not have is 405 with Allow."""
    for method in {"GET", "POST", "PUT", "DELETE", "PATCH", "TRACE"} - set(METHODS[path]):
        answer = server.request(method, path)
        assert_problem(answer, 405, "methodNotAllowed")
        assert answer.headers["Allow"] == ", ".join([*METHODS[path], "OPTIONS"])


@pytest.mark.parametrize("path", PATHS)
def test_preflight(server: Server, path: str) -> None:
    """OPTIONS is the CORS preflight: 204, the path's methods, the key's header."""
    answer = server.request("OPTIONS", path, headers={"Origin": "https://other.example"})
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["Access-Control-Allow-Methods"] == ", ".join(METHODS[path])
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "x-api-key" in answer.headers["Access-Control-Allow-Headers"]


@pytest.mark.parametrize("path", [path for path in METHODS if path not in PATHS])
def test_est_has_no_preflight(server: Server, path: str) -> None:
    """OPTIONS is a method like all others that a path of EST's has not: 405, Allow, and no CORS."""
    (allowed,) = METHODS[path]
    for method in {"GET", "POST", "PUT", "DELETE", "PATCH", "TRACE", "OPTIONS"} - {allowed}:
        answer = server.request(method, path.replace("{label}", "peer"))
        assert (answer.status, answer.json()["code"]) == (405, "methodNotAllowed")
        assert answer.headers["Allow"] == allowed
        assert not [name for name in answer.headers if name.lower().startswith("access-control-")]


@pytest.mark.parametrize("path", ["/", "/nope", "/sign/x", "/%2e%2e/sign", "//sign"])
def test_an_unknown_path_is_404(server: Server, path: str) -> None:
    """A path that the contract does not have is 404, whatever the method."""
    assert_problem(server.request("GET", path), 404, "notFound")
    assert_problem(server.request("DELETE", path), 404, "notFound")


def test_a_slash_at_the_end_does_not_count(server: Server) -> None:
    """`/ca.pem/` is `/ca.pem`, and `/sign/` the form."""
    assert server.request("GET", "/ca.pem/").body == server.request("GET", "/ca.pem").body
    assert server.request("GET", "/sign/").body == server.request("GET", "/sign").body


def test_nothing_secret_is_logged(server: Server) -> None:
    """Neither an API key nor a challenge password reaches the log; control characters do not either."""
    request = x509.CertificateSigningRequestBuilder().subject_name(csrs.build().subject)
    request = request.add_attribute(AttributeOID.CHALLENGE_PASSWORD, b"hunter22")
    answer = server.sign({"csr": csrs.encode_pem(request.sign(csrs.private_key(), hashes.SHA256())).decode()})
    assert answer.json()["notes"][0] == "challengePassword ignored"
    server.sign({"csr": "\x1b[2Jgarbage"})
    server.request("GET", "/nope%0d%0ax?%1b")
    logged = server.logged()
    assert API_KEY not in logged
    assert "hunter22" not in logged
    assert "\x1b" not in logged
    assert all(json.loads(line) for line in logged.splitlines())

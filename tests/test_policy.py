"""An operator's own profiles and principals, and the files beside the CA, through the whole path."""

from __future__ import annotations

import fcntl
import functools
import json
import os
import re
import select
import subprocess
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.x509.oid import ExtensionOID, NameOID

from service import contract
from tests import authorities, csrs
from tests.serving import API_KEY, CERTLET, ROOT, Server, certlet, serving
from tests.test_path import JSON, PEM, documented, problem, uuid7

OWN = ROOT / "tests" / "policies.yaml"
MERGED = contract.load(OWN)
DOCUMENT = contract.resolve(MERGED, MERGED)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA with a second API key, `ci`."""
    made = tmp_path_factory.mktemp("policy")
    assert not certlet("init", "ca", cwd=made).returncode
    assert not certlet("key", "add", "ci", "--ca", "ca", cwd=made, env={"CERTLET_API_KEY": CI}).returncode
    assert not certlet(
        "key", "add", "default", "--ca", "ca", cwd=made, env={"CERTLET_API_KEY": API_KEY}
    ).returncode
    return made


CI = "ci-key-0123456789-0123456789-0123456789-01"


@pytest.fixture(scope="module")
def own(directory: Path) -> Iterator[Server]:
    """A server with the operator's own profiles, four workers and an audit log."""
    arguments = ["--profiles", str(OWN), "--workers", "4", "--unlimited", "--audit-log", "audit.jsonl"]
    with serving(directory, "--ca", "ca", *arguments, env={}) as server:
        yield server


def team(sans: list[str], **change: object) -> str:
    """A request for the profile `team`."""
    return csrs.pem(csrs.build(None, sans, **change)).decode()  # type: ignore[arg-type]


def test_own_profiles_are_merged_over_the_contract_s(own: Server) -> None:
    """RFC 7396: null takes one away, a member changes one, a new name adds one; nobody is named."""
    found = {
        each["name"]: each
        for each in documented("/profiles", "get", own.request("GET", "/profiles"), DOCUMENT)["profiles"]
    }
    assert list(found) == ["server", "peer", "team", "secret"]
    assert (found["peer"]["validity"], found["peer"]["extended_key_usage"]) == (
        "P1D",
        ["serverAuth", "clientAuth"],
    )
    assert "principals" not in json.dumps(found)
    assert '"ci"' not in json.dumps(found)
    stated = yaml.safe_load(OWN.read_text())["profiles"]["team"]
    del stated["principals"]
    stated["extensions"] = ["1.3.6.1.5.5.7.1.24"]
    assert stated.items() <= found["team"].items()
    assert problem(own.sign({"csr": team(["dns:a.example"]), "profile": "client"}), 400, "malformed")


def test_a_profile_of_one_s_own_is_enforced(own: Server) -> None:
    """Subject, usages, policies, addresses and validity are those that the file states."""
    signed = own.sign(
        {"csr": team(["dns:a.team.example.com", "ip:10.1.2.3"]), "profile": "team", "validity": "P300D"}
    )
    assert signed.status == 200, signed.body
    certificate = x509.load_pem_x509_certificate(signed.json()["crt_pem"].encode())
    assert [each.value for each in certificate.subject] == ["CH", "Example AG"]
    assert [each.oid for each in certificate.subject] == [NameOID.COUNTRY_NAME, NameOID.ORGANIZATION_NAME]
    found = {each.oid for each in certificate.extensions}
    assert {ExtensionOID.CRL_DISTRIBUTION_POINTS, ExtensionOID.CERTIFICATE_POLICIES} < found
    assert ExtensionOID.AUTHORITY_INFORMATION_ACCESS in found


@pytest.mark.parametrize("name", ["*.team.example.com", "db.team.example.com", "a.db.team.example.com"])
def test_no_wildcard_stands_for_an_excluded_name(own: Server, name: str) -> None:
    """The excluded name, those beneath it, and the wildcard that would match it; another wildcard is given."""
    found = problem(own.sign({"csr": team([f"dns:{name}"]), "profile": "team"}), 422, "rejectedIdentifier")
    assert "excludes names in db.team.example.com" in found["detail"]
    assert own.sign({"csr": team(["dns:*.x.team.example.com"]), "profile": "team"}).status == 200


def test_every_reason_of_a_policy_at_once(own: Server) -> None:
    """Key, names and validity are refused together, each with its field and in words."""
    request = team(
        ["dns:db.team.example.com", "dns:a.other.example.com", "ip:192.0.2.1", "email:a@evil.example"]
        + ["uri:spiffe://example.com/a", "uri:https://example.com/b"],
        kind="p-384",
    )
    found = problem(own.sign({"csr": request, "profile": "team", "validity": "P366D"}), 422, "compound")
    assert [(each["code"], each["field"]) for each in found["errors"]] == [
        ("badPublicKey", "public_key"),
        *[("rejectedIdentifier", f"subject_alt_name[{position}]") for position in (0, 1, 2, 3, 5)],
        ("rejectedIdentifier", "subject_alt_name"),
        ("rejectedValidity", "validity"),
    ]


def test_a_profile_is_for_those_that_it_names(own: Server) -> None:
    """Another caller is 403 in the contract's words, recorded as a refusal; `/profiles/mine` says so first."""
    body = {"csr": team(["dns:a.ci.example.com"]), "profile": "secret"}
    refused = problem(own.sign(body), 403, "unauthorized")
    assert refused["detail"] == "The profile secret is not for this caller."
    assert [each["field"] for each in refused["errors"]] == ["profile"]
    assert "errors" not in problem(own.sign(body, "x" * 40), 403, "unauthorized")  # which is about the key
    assert own.sign(body, CI).status == 200
    for key, names in ((API_KEY, ["server", "peer", "team"]), (CI, ["server", "peer", "team", "secret"])):
        answer = own.request("GET", "/profiles/mine", headers={"x-api-key": key})
        assert [
            each["name"] for each in documented("/profiles/mine", "get", answer, DOCUMENT)["profiles"]
        ] == names


def test_a_principal_is_held_to_its_subtrees(own: Server) -> None:
    """Whatever the profile gives, the principal gets its own names alone, and is told which."""
    assert own.sign({"csr": team(["dns:x.ci.example.com"])}, CI).status == 200
    found = problem(own.sign({"csr": team(["dns:x.example.com"])}, CI), 422, "rejectedIdentifier")
    assert "the principal ci permits names in ci.example.com, team.example.com" in found["detail"]
    mine = own.request("GET", "/profiles/mine", headers={"x-api-key": CI}).json()
    assert mine["names"] == {"dns": {"permitted": ["ci.example.com", "team.example.com"]}}
    assert "names" not in own.request("GET", "/profiles/mine", headers={"x-api-key": API_KEY}).json()


@pytest.mark.parametrize(
    ("cn", "given"), [("Anna", True), ("a.ci.example.com", True), ("root.example.com", False)]
)
def test_a_common_name_is_no_way_round(own: Server, cn: str, *, given: bool) -> None:
    """Whom a client certificate names without any alternative name is held to the principal's subtrees too."""
    answer = own.sign({"csr": csrs.pem(csrs.build(cn)).decode(), "profile": "secret"}, CI)
    if given:
        assert answer.status == 200
        return
    found = problem(answer, 422, "rejectedIdentifier")
    assert [each["field"] for each in found["errors"]] == ["subject.common_name"]


@pytest.mark.parametrize(("member", "text"), [("validity", "PT"), ("not_after", "2030-02-31T00:00:00Z")])
def test_a_validity_that_is_none_hides_nothing(own: Server, member: str, text: str) -> None:
    """What cannot be read as a validity comes together with what is wrong with the names."""
    found = problem(own.sign({"csr": team(["dns:a..b"]), member: text}), 422, "compound")
    assert {each["field"] for each in found["errors"]} == {"subject_alt_name[0]", member}


def test_audit_lines_of_four_workers_never_mix(own: Server, directory: Path) -> None:
    """Each line is one write: a hundred names, four workers at once, and every line is whole."""
    sans = [f"dns:a-rather-long-name-{number}.ci.example.com" for number in range(100)]
    body = json.dumps({"csr": team(sans)}).encode()
    before = len((directory / "audit.jsonl").read_text().splitlines())
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: own.request("POST", "/sign", body, JSON), range(60)))
    assert {answer.status for answer in answers} == {200}
    lines = [json.loads(line) for line in (directory / "audit.jsonl").read_text().splitlines()[before:]]
    assert len(lines) == 120
    issued = {answer.json()["serial_number"]: answer.json() for answer in answers}
    for event in ("intent", "result"):
        told = [line for line in lines if line["event"] == event]
        assert {line["serial_number"] for line in told} == set(issued)
        assert all(line["names"] == sans for line in told)
    for line in (line for line in lines if line["event"] == "result"):
        assert line["fingerprint_sha256"] == issued[line["serial_number"]]["fingerprint_sha256"]
        assert (line["principal"], line["profile"]) == ("default", "server")
        assert line["milliseconds"] >= 0
        assert re.fullmatch("[0-9a-f]{64}", line["template_sha256"])
    assert (directory / "audit.jsonl").stat().st_mode & 0o777 == 0o600
    assert "serial_number" not in own.logged()


def test_audit_lines_never_mix_in_a_pipe(directory: Path, tmp_path: Path) -> None:
    """A pipe tears what is longer than 4096 octets when it is full: whoever writes waits for the others."""
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, select.PIPE_BUF)
    command = ["bash", "-c", f'exec 2>&{write} "$@"', "bash", *CERTLET, "serve", "--port", "0"]
    arguments = ["--ca", str(directory / "ca"), "--workers", "4", "--unlimited"]
    sans = [f"dns:a-rather-long-name-{number}.team.example.com" for number in range(100)]
    body = json.dumps({"csr": team(sans)}).encode()
    with ThreadPoolExecutor(5) as pool, os.fdopen(read, "rb", 0) as end:
        reading = pool.submit(lambda: b"".join(iter(functools.partial(end.read, 512), b"")))
        with serving(tmp_path, *arguments, command=command, env={}, pass_fds=[write]) as server:
            os.close(write)
            asked = [pool.submit(server.request, "POST", "/sign", body, JSON) for _ in range(40)]
            assert {each.result().status for each in asked} == {200}
        written = reading.result().splitlines()
    lines = [json.loads(line) for line in written]  # those of the access log stand among them
    assert max(map(len, written)) > select.PIPE_BUF
    for member, number in (("fingerprint_sha256", 40), ("event", 80), ("access", 40)):
        assert sum(member in line for line in lines) == number


def test_an_audit_log_that_is_full(tmp_path: Path) -> None:
    """Through HTTP: no intent, no signature; no result, no certificate: 503, and every line of the log is whole."""
    body = {"csr": team(["dns:a.example.com"])}
    log = tmp_path / "audit.jsonl"
    with serving(tmp_path, "--ca", "ca", "--audit-log", str(log)) as server:
        assert server.sign(body).status == 200
        intent, result = log.read_bytes().splitlines(keepends=True)
    with serving(tmp_path, "--ca", "ca", "--audit-log", "/dev/full") as server:
        found = problem(server.sign(body), 503, "unavailable")
        assert found["detail"] == "the audit log cannot be written"
        problem(server.sign({"csr": "garbage!"}), 503, "unavailable")
        problem(
            server.request("POST", "/sign?dry_run=true", json.dumps({"csr": "garbage!"}).encode(), JSON),
            503,
            "unavailable",
        )
    # Room for the intent and a part of the result: 16 KiB are the most that any file may have.
    filler = b'{"filler":"' + b"x" * (16384 - len(intent) - len(result) // 2 - 14) + b'"}\n'
    log.write_bytes(filler)
    command = ["bash", "-c", 'ulimit -f 16 && exec "$@"', "bash", *CERTLET, "serve", "--port", "0"]
    with serving(tmp_path, "--ca", "ca", "--audit-log", str(log), command=command) as server:
        found = problem(server.sign(body), 503, "unavailable")
        assert "crt_pem" not in json.dumps(found)
    with serving(tmp_path, "--ca", "ca", "--audit-log", str(log)) as server:
        assert server.sign(body).status == 200
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line.get("event") for line in lines] == [None, "intent", "intent", "result"]
    assert len({line["serial_number"] for line in lines[1:]}) == 2


def test_a_retry_reaches_another_worker(own: Server) -> None:
    """Four workers share the secret, so whichever of them answers gives the same certificate."""
    body = json.dumps({"csr": team(["dns:a.team.example.com"])}).encode()
    headers = JSON | {"Idempotency-Key": "one-and-the-same"}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: own.request("POST", "/sign", body, headers), range(16)))
    # The clock's window may end in between: then there are two, and each is the only one of its window.
    found = {(answer.json()["idempotent_until"], answer.json()["crt_pem"]) for answer in answers}
    assert len(found) == len({until for until, _ in found}) <= 2


def test_a_retry_after_a_restart(tmp_path: Path) -> None:
    """Nothing but `serial.key` is needed for it, through HTTP; without that file the answer says so."""
    body = json.dumps({"csr": team(["dns:a.example.com"])}).encode()
    key = {"Idempotency-Key": uuid7()}
    answers = []
    for _ in range(2):
        with serving(tmp_path, "--ca", "ca") as server:
            answers.append(server.request("POST", "/sign", body, JSON | key))
    first, again = answers
    assert first.body == again.body
    assert "idempotent_until" in first.json()
    (tmp_path / "ca" / "serial.key").unlink()
    with serving(tmp_path, "--ca", "ca") as server:
        other = documented("/sign", "post", server.request("POST", "/sign", body, JSON | key))
    assert other["serial_number"] != first.json()["serial_number"]
    assert "idempotent_until" not in other
    assert other["notes"] == ["a retry will get another certificate: this CA has no serial.key"]


def test_a_retry_of_what_has_ended(own: Server) -> None:
    """Through HTTP: what its key's window began has ended, so another one is issued, which has not, and says so."""
    made = int(time.time() * 1000) - 240_000
    headers = JSON | {"Idempotency-Key": str(uuid.UUID(int=made << 80 | 7 << 76 | 0b10 << 62))}
    body = json.dumps({"csr": team(["dns:a.team.example.com"]), "validity": "PT6M"}).encode()
    found = documented("/sign", "post", own.request("POST", "/sign", body, headers), DOCUMENT)
    assert found["not_after"] > f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    assert "idempotent_until" not in found
    assert "has ended" in found["notes"][-1]


FAULTY = """\
profiles:
  server:
    validity: P1Y
  new:
    description: x
    validity: P1D
    backdate: PT5M
    extended_key_usage: [serverAuth, codesigning]
    names:
      dns:
        permitted:
          - example.com
          - '-'
    colour: red
principals:
  ci:
    dn: {}
default: nobody
"""


def test_check_and_serve_refuse_bad_profiles(tmp_path: Path) -> None:
    """Both give the line of each fault, all at once, and fail; nothing is made or served."""
    (tmp_path / "own.yaml").write_text(FAULTY)
    run = certlet("check", "--profiles", "own.yaml", cwd=tmp_path)
    assert run.returncode == 1
    faults = [line.removeprefix("own.yaml:").partition(": ") for line in run.stdout.decode().splitlines()]
    assert [int(number) for number, _, _ in faults] == [3, 8, 13, 14, 17, 18]
    assert faults[0][2] == (
        "profiles.server.validity: 'P1Y': expected an ISO 8601 duration of days and smaller"
    )
    run = certlet("serve", "--port", "0", "--profiles", "own.yaml", cwd=tmp_path)
    problems = "; ".join(f"line {number}: {detail}" for number, _, detail in faults)
    assert (run.returncode, run.stderr.decode()) == (1, f"certlet: own.yaml: {problems}\n")
    assert not (tmp_path / "ca").exists()


def test_a_file_of_profiles_that_is_not_there(tmp_path: Path) -> None:
    """It is named, with the system's word."""
    missing = certlet("check", "--profiles", "nowhere.yaml", cwd=tmp_path)
    assert (missing.returncode, missing.stderr) == (1, b"certlet: nowhere.yaml: No such file or directory\n")


def test_the_imported_document_has_the_merged_names(tmp_path: Path) -> None:
    """What API Gateway imports takes the operator's profiles' names, and no vendor extension of ours."""
    run = certlet("openapi", "--template", "--profiles", OWN, cwd=tmp_path)
    document = json.loads(run.stdout)
    assert document["components"]["schemas"]["ProfileName"]["enum"] == ["server", "peer", "team", "secret"]
    assert not any(name.startswith("x-certificate") for name in document)


def test_a_key_on_the_deny_list_is_refused(tmp_path: Path) -> None:
    """`denied-keys.txt` beside the CA holds SHA-256 of public keys; a malformed one is not none: nothing starts."""
    assert not certlet("init", "ca", cwd=tmp_path).returncode
    run = subprocess.run(["openssl", "sha256", "-r"], input=spki(), capture_output=True, check=True)
    denied = tmp_path / "ca" / "denied-keys.txt"
    denied.write_bytes(b"# stolen\n" + run.stdout)
    with serving(tmp_path, "--ca", "ca") as server:
        found = problem(server.sign({"csr": team(["dns:a.example.com"])}), 422, "badPublicKey")
        assert "deny list" in found["detail"]
        found = problem(server.sign({"csr": team(["dns:a..b"])}), 422, "compound")
        assert [each["field"] for each in found["errors"]] == ["public_key", "subject_alt_name[0]"]
        assert server.sign({"csr": team(["dns:a.example.com"], kind="p-384")}).status == 200
    denied.write_text("nonsense\n")
    run = certlet("serve", "--port", "0", "--ca", "ca", cwd=tmp_path)
    assert run.returncode == 1
    assert "denied-keys.txt" in run.stderr.decode()


def test_the_ca_s_own_keys_are_refused(tmp_path: Path) -> None:
    """A request that is signed by the CA's own key, or its root's, would speak for the CA: 422."""
    assert not certlet("init", "ca", cwd=tmp_path).returncode
    with serving(tmp_path, "--ca", "ca") as server:
        for name in ("signing-ca.key", "root-ca.key"):
            request = subprocess.run(
                ["openssl", "req", "-new", "-key", str(tmp_path / "ca" / name), "-subj", "/CN=a.example.com"],
                capture_output=True,
                check=True,
            ).stdout.decode()
            found = problem(server.sign({"csr": request}), 422, "badPublicKey")
            assert found["detail"] == "this is the CA's own key"
        assert server.sign({"csr": team(["dns:a.example.com"])}).status == 200


LONG = "profiles: {server: {max_validity: P9999D}}"


@pytest.mark.parametrize("asked", [{"validity": "P9000D"}, {"not_after": "2051-01-01T00:00:00Z"}])
def test_beyond_the_chain_is_refused(tmp_path: Path, asked: dict[str, str]) -> None:
    """What the profile would give and the chain does not is 422 if it was asked for in so many words."""
    (tmp_path / "own.yaml").write_text(LONG)
    with serving(tmp_path, "--ephemeral", "--profiles", "own.yaml") as server:
        request = team(["dns:a.example.com"])
        found = problem(server.sign({"csr": request, **asked}), 422, "rejectedValidity")
        assert [each["field"] for each in found["errors"]] == list(asked)
        assert "the CA's own certificates end at" in found["detail"]
        assert server.sign({"csr": request, "validity": "P1000D"}).status == 200


def spki() -> bytes:
    """The public key of `csrs.build`'s requests, DER."""
    request = csrs.pem(csrs.build())
    out = subprocess.run(
        ["openssl", "req", "-pubkey", "-noout"], input=request, capture_output=True, check=True
    )
    return subprocess.run(
        ["openssl", "pkey", "-pubin", "-outform", "DER"], input=out.stdout, capture_output=True, check=True
    ).stdout


def test_metrics_are_an_option(tmp_path: Path) -> None:
    """CloudWatch's embedded format: three metrics at most, the profile their only dimension; off by default."""
    with serving(
        tmp_path, "--ephemeral", env={"CERTLET_API_KEY": API_KEY, "CERTLET_METRICS": "Certlet"}
    ) as server:
        assert server.sign({"csr": team(["dns:a.example.com"])}).status == 200
        assert server.request("POST", "/sign.pem?profile=peer", b"garbage!", JSON | PEM).status == 422
        lines = [json.loads(line) for line in server.logged().splitlines()]
    embedded = {line["event"]: line for line in lines if "_aws" in line}
    assert set(embedded) == {"result", "refusal"}
    names = set()
    for line in embedded.values():
        (directive,) = line["_aws"]["CloudWatchMetrics"]
        assert (directive["Namespace"], directive["Dimensions"]) == ("Certlet", [["profile"]])
        for metric in directive["Metrics"]:
            assert isinstance(line[metric["Name"]], int)
            names.add(metric["Name"])
    assert names == {"issued", "refused", "milliseconds"}
    assert embedded["refusal"]["profile"] == "peer"
    with serving(tmp_path, "--ephemeral") as server:
        server.sign({"csr": team(["dns:a.example.com"])})
        assert "_aws" not in server.logged()


def test_the_default_of_an_operator(tmp_path: Path) -> None:
    """`default` names the profile of those who name none."""
    (tmp_path / "own.yaml").write_text("default: client")
    with serving(tmp_path, "--ephemeral", "--profiles", "own.yaml") as server:
        assert server.request("GET", "/profiles").json()["default"] == "client"
        assert server.sign({"csr": csrs.pem(csrs.build("Anna")).decode()}).json()["profile"] == "client"
    assert authorities.profiles().default == "server"


def test_the_manual_s_profiles_are_good(tmp_path: Path) -> None:
    """What docs/profiles.md shows is read as it stands, and says nothing that is not permitted."""
    text = (ROOT / "docs" / "profiles.md").read_text()
    (tmp_path / "own.yaml").write_text(text.partition("```yaml\n")[2].partition("```")[0])
    run = certlet("check", "--profiles", "own.yaml", cwd=tmp_path)
    assert run.returncode == 0, run.stdout
    assert [line.split(": ")[2] for line in run.stdout.decode().splitlines()] == ["peer", "server"]

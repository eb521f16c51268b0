"""An operator's own profiles and principals, and the files beside the CA, through the whole path."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import os
import select
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from service import openapi
from tests import csrs
from tests.assertions import JSON, PEM, assert_documented, assert_problem, uuid7
from tests.servers import API_KEY, CERTLET, ROOT, Server, certlet, certlet_server

OWN = ROOT / "tests" / "policies.yaml"
MERGED = openapi.load(OWN)
DOCUMENT = openapi.resolve_refs(MERGED, MERGED)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA with a second API key, `ci`."""
    made = tmp_path_factory.mktemp("policy")
    assert not certlet("init", "ca", cwd=made).returncode
    for name, key in (("ci", CI), ("default", API_KEY)):
        added = certlet("api-key", "add", name, "--ca", "ca", cwd=made, env={"CERTLET_API_KEY": key})
        assert not added.returncode
    return made


CI = "ci-key-0123456789-0123456789-0123456789-01"


@pytest.fixture(scope="module")
def own(directory: Path) -> Iterator[Server]:
    """A server with the operator's own profiles, four workers and an audit log."""
    arguments = ["--profiles", str(OWN), "--workers", "4", "--no-usage-plan", "--audit-log", "audit.jsonl"]
    with certlet_server(directory, "--ca", "ca", *arguments, env={"CERTLET_METRICS": "Certlet"}) as server:
        yield server


def team(sans: list[str], **change: object) -> str:
    return csrs.encode_pem(csrs.build(None, sans, **change)).decode()  # type: ignore[arg-type]


def test_profiles_lists_the_merged_profiles(own: Server) -> None:
    """RFC 7396: null takes one away, a member changes one, a new name adds one; nobody is named."""
    listed = assert_documented("/profiles", "get", own.request("GET", "/profiles"), DOCUMENT)["profiles"]
    found = {each["name"]: each for each in listed}
    assert list(found) == ["server", "peer", "team", "secret"]
    assert found["peer"]["validity"] == "P1D"
    assert found["peer"]["extended_key_usage"] == ["serverAuth", "clientAuth"]
    assert "principals" not in json.dumps(found)
    assert '"ci"' not in json.dumps(found)
    stated = yaml.safe_load(OWN.read_text())["profiles"]["team"]
    del stated["principals"]
    stated["extensions"] = ["1.3.6.1.5.5.7.1.24"]
    assert stated.items() <= found["team"].items()
    assert assert_problem(own.sign({"csr": team(["dns:a.example"]), "profile": "client"}), 400, "malformed")


def test_policy_violations_are_collected(own: Server) -> None:
    """Key, names and validity are refused together, each with its field and in words."""
    request = team(
        ["dns:db.team.example.com", "dns:a.other.example.com", "ip:192.0.2.1", "email:a@evil.example"]
        + ["uri:spiffe://example.com/a", "uri:https://example.com/b"],
        key_type="p-384",
    )
    found = assert_problem(own.sign({"csr": request, "profile": "team", "validity": "PT"}), 422, "compound")
    assert [(each["code"], each["field"]) for each in found["errors"]] == [
        ("badPublicKey", "public_key"),
        *[("rejectedIdentifier", f"subject_alt_name[{position}]") for position in (0, 1, 2, 3, 5)],
        ("rejectedIdentifier", "subject_alt_name"),
        ("rejectedValidity", "validity"),
    ]


def test_profile_with_principals_refuses_others(own: Server) -> None:
    """Another caller is 403 in the contract's words, recorded as a refusal; `/profiles/mine` says so first."""
    body = {"csr": team(["dns:a.ci.example.com"]), "profile": "secret"}
    refused = assert_problem(own.sign(body), 403, "unauthorized")
    assert refused["detail"] == "Caller 'default' may not use profile 'secret'"
    assert [each["field"] for each in refused["errors"]] == ["profile"]
    assert "errors" not in assert_problem(
        own.sign(body, "x" * 40), 403, "unauthorized"
    )  # which is about the key
    assert own.sign(body, CI).status == 200
    for key, names in ((API_KEY, ["server", "peer", "team"]), (CI, ["server", "peer", "team", "secret"])):
        answer = own.request("GET", "/profiles/mine", headers={"x-api-key": key})
        mine = assert_documented("/profiles/mine", "get", answer, DOCUMENT)["profiles"]
        assert [each["name"] for each in mine] == names


def test_principal_gets_only_its_own_names(own: Server) -> None:
    """Whatever the profile gives, the principal gets its own names alone, and is told which."""
    assert own.sign({"csr": team(["dns:x.ci.example.com"])}, CI).status == 200
    found = assert_problem(own.sign({"csr": team(["dns:x.example.com"])}, CI), 422, "rejectedIdentifier")
    assert (
        "the policy for caller 'ci' permits only names in ci.example.com, team.example.com" in found["detail"]
    )
    mine = own.request("GET", "/profiles/mine", headers={"x-api-key": CI}).json()
    assert mine["names"] == {"dns": {"permitted": ["ci.example.com", "team.example.com"]}}
    assert "names" not in own.request("GET", "/profiles/mine", headers={"x-api-key": API_KEY}).json()


def test_audit_lines_never_mix_in_a_pipe(directory: Path, tmp_path: Path) -> None:
    """A pipe tears what is longer than 4096 octets when it is full: whoever writes waits for the others."""
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, select.PIPE_BUF)
    command = ["bash", "-c", f'exec 2>&{write} "$@"', "bash", *CERTLET, "serve", "--port", "0"]
    arguments = ["--ca", str(directory / "ca"), "--workers", "4", "--no-usage-plan"]
    sans = [f"dns:a-rather-long-name-{number}.team.example.com" for number in range(100)]
    body = json.dumps({"csr": team(sans)}).encode()
    with ThreadPoolExecutor(5) as pool, os.fdopen(read, "rb", 0) as end:
        reading = pool.submit(lambda: b"".join(iter(functools.partial(end.read, 512), b"")))
        with certlet_server(tmp_path, *arguments, command=command, env={}, pass_fds=[write]) as server:
            os.close(write)
            asked = [pool.submit(server.request, "POST", "/sign", body, JSON) for _ in range(40)]
            assert {each.result().status for each in asked} == {200}
        written = reading.result().splitlines()
    lines = [json.loads(line) for line in written]  # those of the access log stand among them
    assert max(map(len, written)) > select.PIPE_BUF
    for member, number in (("fingerprint_sha256", 40), ("event", 80), ("access", 40), ("_aws", 0)):
        assert sum(member in line for line in lines) == number


def test_full_audit_log_is_503(tmp_path: Path) -> None:
    """Through HTTP: without a record nothing is signed, refused or examined: 503."""
    with certlet_server(tmp_path, "--ca", "ca", "--audit-log", "/dev/full") as server:
        found = assert_problem(server.sign({"csr": team(["dns:a.example.com"])}), 503, "unavailable")
        assert found["detail"] == "the audit log cannot be written"
        assert_problem(server.sign({"csr": "garbage!"}), 503, "unavailable")
        dry_run = server.request("POST", "/sign?dry_run=true", json.dumps({"csr": "garbage!"}).encode(), JSON)
        assert_problem(dry_run, 503, "unavailable")


def test_retry_gets_the_same_certificate_from_any_worker(own: Server) -> None:
    """Four workers share the secret, so whichever of them answers gives the same certificate."""
    body = json.dumps({"csr": team(["dns:a.team.example.com"])}).encode()
    headers = JSON | {"Idempotency-Key": "one-and-the-same"}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: own.request("POST", "/sign", body, headers), range(16)))
    # The clock's window may end in between: then there are two, and each is the only one of its window.
    found = {(answer.json()["idempotent_until"], answer.json()["crt_pem"]) for answer in answers}
    assert len(found) == len({until for until, _ in found}) <= 2


def test_retry_gets_the_same_certificate_after_a_restart(tmp_path: Path) -> None:
    """Through HTTP: nothing but the CA's directory is needed for it."""
    body = json.dumps({"csr": team(["dns:a.example.com"])}).encode()
    key = {"Idempotency-Key": uuid7()}
    answers = []
    for _ in range(2):
        with certlet_server(tmp_path, "--ca", "ca") as server:
            answers.append(server.request("POST", "/sign", body, JSON | key))
    first, again = answers
    assert first.body == again.body
    assert "idempotent_until" in first.json()


def test_check_and_serve_refuse_bad_profiles(tmp_path: Path) -> None:
    """Both give the line of each fault, all at once, and fail; nothing is made or served."""
    (tmp_path / "own.yaml").write_text("profiles:\n  server:\n    validity: P1Y\ndefault: nobody\n")
    run = certlet("check", "--profiles", "own.yaml", cwd=tmp_path)
    assert run.returncode == 1
    faults = [line.removeprefix("own.yaml:").partition(": ") for line in run.stdout.decode().splitlines()]
    assert [int(number) for number, _, _ in faults] == [3, 4]
    assert faults[0][2] == (
        "profiles.server.validity: 'P1Y': expected an ISO 8601 duration in days, hours, minutes and seconds"
    )
    run = certlet("serve", "--port", "0", "--profiles", "own.yaml", cwd=tmp_path)
    problems = "; ".join(f"line {number}: {detail}" for number, _, detail in faults)
    assert (run.returncode, run.stderr.decode()) == (1, f"certlet: own.yaml: {problems}\n")
    assert not (tmp_path / "ca").exists()
    missing = certlet("check", "--profiles", "nowhere.yaml", cwd=tmp_path)
    assert (missing.returncode, missing.stderr) == (1, b"certlet: nowhere.yaml: No such file or directory\n")


def test_denied_key_is_refused(tmp_path: Path) -> None:
    """`denied-keys.txt` beside the CA holds SHA-256 of public keys; a malformed one is not none: nothing starts."""
    assert not certlet("init", "ca", cwd=tmp_path).returncode
    spki = csrs.build().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    denied = tmp_path / "ca" / "denied-keys.txt"
    denied.write_text(f"# stolen\n{hashlib.sha256(spki).hexdigest()}  -\n")
    with certlet_server(tmp_path, "--ca", "ca") as server:
        found = assert_problem(server.sign({"csr": team(["dns:a.example.com"])}), 422, "badPublicKey")
        assert "deny list" in found["detail"]
        found = assert_problem(server.sign({"csr": team(["dns:a..b"])}), 422, "compound")
        assert [each["field"] for each in found["errors"]] == ["public_key", "subject_alt_name[0]"]
        assert server.sign({"csr": team(["dns:a.example.com"], key_type="p-384")}).status == 200
    denied.write_text("nonsense\n")
    run = certlet("serve", "--port", "0", "--ca", "ca", cwd=tmp_path)
    assert run.returncode == 1
    assert "denied-keys.txt" in run.stderr.decode()


def test_audit_log_embeds_metrics(own: Server, directory: Path) -> None:
    """CloudWatch's embedded format: three metrics at most, the profile their only dimension."""
    assert own.sign({"csr": team(["dns:a.example.com"])}).status == 200
    assert own.request("POST", "/sign.pem?profile=peer", b"garbage!", JSON | PEM).status == 422
    log = directory / "audit.jsonl"
    assert log.stat().st_mode & 0o777 == 0o600
    names = set()
    for line in map(json.loads, log.read_text().splitlines()[-3:]):
        assert ("_aws" in line) is (line["event"] != "intent")
        for directive in line.get("_aws", {}).get("CloudWatchMetrics", ()):
            assert (directive["Namespace"], directive["Dimensions"]) == ("Certlet", [["profile"]])
            assert line["profile"] in {"server", "peer"}
            assert all(isinstance(line[metric["Name"]], int) for metric in directive["Metrics"])
            names |= {metric["Name"] for metric in directive["Metrics"]}
    assert names == {"issued", "refused", "milliseconds"}

"""Profiles and principals of the operator, and the files in the CA directory, through the whole path."""

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
from tests import csrs, servers
from tests.assertions import JSON, PEM, assert_documented, assert_problem, uuid7
from tests.cli import certlet
from tests.servers import API_KEY, ROOT, Server, certlet_server

PROFILES_FILE = ROOT / "tests" / "policies.yaml"
MERGED = openapi.load(PROFILES_FILE)
DOCUMENT = openapi.resolve_refs(MERGED, MERGED)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA with a second API key, `ci`."""
    path = tmp_path_factory.mktemp("policy")
    assert not certlet("init", "ca", cwd=path).returncode
    for name, key in (("ci", CI), ("default", API_KEY)):
        result = certlet(
            "api-key", "add", name, "--from-env", "--ca", "ca", cwd=path, env={"CERTLET_API_KEY": key}
        )
        assert not result.returncode
    return path


CI = "ci-key-0123456789-0123456789-0123456789-01"


@pytest.fixture(scope="module")
def policy_server(directory: Path) -> Iterator[Server]:
    """A server with the operator's profiles, two workers and an audit log."""
    arguments = [
        "--profiles",
        str(PROFILES_FILE),
        "--workers",
        "2",
        "--no-usage-plan",
        "--audit-log",
        "audit.jsonl",
    ]
    with certlet_server(directory, *arguments, env={"CERTLET_METRICS": "Certlet"}) as server:
        yield server


def team(sans: list[str], **change: object) -> str:
    return csrs.encode_pem(csrs.build(None, sans, **change)).decode()  # type: ignore[arg-type]


def test_profiles_lists_the_merged_profiles(policy_server: Server) -> None:
    """RFC 7396: null removes a profile, a member changes it, a new name adds one; no principal is listed."""
    profile_list = assert_documented("/profiles", "get", policy_server.request("GET", "/profiles"), DOCUMENT)[
        "profiles"
    ]
    profiles = {profile["name"]: profile for profile in profile_list}
    assert list(profiles) == ["server", "peer", "team", "secret"]
    assert profiles["peer"]["validity"] == "P1D"
    assert profiles["peer"]["extended_key_usage"] == ["serverAuth", "clientAuth"]
    assert "principals" not in json.dumps(profiles)
    assert '"ci"' not in json.dumps(profiles)
    team_profile = yaml.safe_load(PROFILES_FILE.read_text())["profiles"]["team"]
    del team_profile["principals"]
    team_profile["extensions"] = ["1.3.6.1.5.5.7.1.24"]
    assert team_profile.items() <= profiles["team"].items()
    assert assert_problem(
        policy_server.sign({"csr": team(["dns:a.example"]), "profile": "client"}), 400, "malformed"
    )


def test_policy_violations_are_collected(policy_server: Server) -> None:
    """One refusal lists the problems of key, names and validity, each with its field."""
    request = team(
        ["dns:db.team.example.com", "dns:a.other.example.com", "ip:192.0.2.1", "email:a@evil.example"]
        + ["uri:spiffe://example.com/a", "uri:https://example.com/b"],
        key_type="p-384",
    )
    problem = assert_problem(
        policy_server.sign({"csr": request, "profile": "team", "validity": "P999D"}), 422, "compound"
    )
    assert [(error["code"], error["field"]) for error in problem["errors"]] == [
        ("badPublicKey", "public_key"),
        *[("rejectedIdentifier", f"subject_alt_name[{position}]") for position in (0, 1, 2, 3, 5)],
        ("rejectedIdentifier", "subject_alt_name"),
        ("rejectedValidity", "validity"),
    ]


def test_profile_with_principals_refuses_others(policy_server: Server) -> None:
    """Another caller gets 403, and `/profiles/mine` lists only the profiles that the caller may use."""
    body = {"csr": team(["dns:a.ci.example.com"]), "profile": "secret"}
    problem = assert_problem(policy_server.sign(body), 403, "unauthorized")
    assert problem["detail"] == (
        "Caller 'default' may not use profile 'secret'; use profile 'server' or 'peer' or 'team'"
    )
    assert [error["field"] for error in problem["errors"]] == ["profile"]
    assert "errors" not in assert_problem(
        policy_server.sign(body, "x" * 40), 403, "unauthorized"
    )  # a wrong key
    assert policy_server.sign(body, CI).status == 200
    for key, names in ((API_KEY, ["server", "peer", "team"]), (CI, ["server", "peer", "team", "secret"])):
        response = policy_server.request("GET", "/profiles/mine", headers={"x-api-key": key})
        mine = assert_documented("/profiles/mine", "get", response, DOCUMENT)["profiles"]
        assert [profile["name"] for profile in mine] == names


def test_policy_of_a_principal_restricts_its_names(policy_server: Server) -> None:
    """A principal gets only names that its policy permits, and the refusal lists them."""
    assert policy_server.sign({"csr": team(["dns:x.ci.example.com"])}, CI).status == 200
    problem = assert_problem(
        policy_server.sign({"csr": team(["dns:x.example.com"])}, CI), 422, "rejectedIdentifier"
    )
    assert (
        "the policy for caller 'ci' permits only names in ci.example.com, team.example.com"
        in problem["detail"]
    )
    for name, status in (("ci", 200), ("ci/a", 422), ("Ci", 422)):
        request = team(["dns:team.example.com", f"uri:spiffe://example.com/{name}"])
        response = policy_server.sign({"csr": request, "profile": "team"}, CI)
        assert response.status == status
    assert "the policy for caller 'ci' permits only spiffe://example.com/ci" in response.json()["detail"]
    response = policy_server.request("GET", "/profiles/mine", headers={"x-api-key": CI})
    mine = assert_documented("/profiles/mine", "get", response, DOCUMENT)
    uris = {"permitted": ["spiffe://example.com/ci"]}
    assert mine["names"] == {"dns": {"permitted": ["ci.example.com", "team.example.com"]}, "uri": uris}
    assert (
        "names" not in policy_server.request("GET", "/profiles/mine", headers={"x-api-key": API_KEY}).json()
    )


def test_audit_lines_never_mix_in_a_pipe(directory: Path, tmp_path: Path) -> None:
    """A full pipe splits writes of more than 4096 octets, so each writer waits for the others."""
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, select.PIPE_BUF)
    command = ["bash", "-c", f'exec 2>&{write_end} "$@"', "bash", *servers.SERVE, "--port", "0"]
    arguments = ["--ca", str(directory / "ca"), "--workers", "4", "--no-usage-plan"]
    sans = [f"dns:a-rather-long-name-{number}.team.example.com" for number in range(100)]
    body = json.dumps({"csr": team(sans)}).encode()
    with ThreadPoolExecutor(5) as pool, os.fdopen(read_end, "rb", 0) as pipe:
        reader = pool.submit(lambda: b"".join(iter(functools.partial(pipe.read, 512), b"")))
        with certlet_server(tmp_path, *arguments, command=command, env={}, pass_fds=[write_end]) as server:
            os.close(write_end)
            responses = [pool.submit(server.request, "POST", "/sign", body, JSON) for _ in range(40)]
            assert {response.result().status for response in responses} == {200}
        output = reader.result().splitlines()
    lines = [json.loads(line) for line in output]  # including those of the access log
    assert max(map(len, output)) > select.PIPE_BUF
    for member, number in (("fingerprint_sha256", 40), ("event", 80), ("access", 40), ("_aws", 0)):
        assert sum(member in line for line in lines) == number


def test_full_audit_log_is_503(tmp_path: Path) -> None:
    """If the audit log cannot be written, signing, refusals and dry runs are all 503."""
    with certlet_server(tmp_path, "--audit-log", "/dev/full") as server:
        problem = assert_problem(server.sign({"csr": team(["dns:a.example.com"])}), 503, "unavailable")
        assert problem["detail"] == "the audit log cannot be written"
        assert_problem(server.sign({"csr": "garbage!"}), 503, "unavailable")
        dry_run = server.request("POST", "/sign?dry_run=true", json.dumps({"csr": "garbage!"}).encode(), JSON)
        assert_problem(dry_run, 503, "unavailable")


def test_retry_gets_the_same_certificate_from_any_worker(policy_server: Server) -> None:
    """The workers share the secret, so each of them returns the same certificate."""
    body = json.dumps({"csr": team(["dns:a.team.example.com"])}).encode()
    headers = JSON | {"Idempotency-Key": "the-same-key"}
    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(lambda _: policy_server.request("POST", "/sign", body, headers), range(16)))
    # If the idempotency window ends during the test, there are two certificates: one for each window.
    certificates = {
        (response.json()["idempotent_until"], response.json()["crt_pem"]) for response in responses
    }
    assert len(certificates) == len({until for until, _ in certificates}) <= 2


def test_retry_gets_the_same_certificate_from_another_server(ca_server: Server, tmp_path: Path) -> None:
    """It needs only the CA directory to return the same certificate, as after a restart."""
    body = json.dumps({"csr": team(["dns:a.example.com"])}).encode()
    key = {"Idempotency-Key": uuid7()}
    first = ca_server.request("POST", "/sign", body, JSON | key)
    with certlet_server(tmp_path, "--ca", str(ca_server.log.parent / "ca")) as server:
        second = server.request("POST", "/sign", body, JSON | key)
    assert first.body == second.body
    assert "idempotent_until" in first.json()


def test_check_and_serve_refuse_bad_profiles(tmp_path: Path) -> None:
    """Both report all problems with their lines and fail; no CA is created."""
    (tmp_path / "own.yaml").write_text("profiles:\n  server:\n    validity: P1Y\ndefault: nobody\n")
    run = certlet("check", "--profiles", "own.yaml", cwd=tmp_path)
    assert run.returncode == 1
    problems = [line.removeprefix("own.yaml:").partition(": ") for line in run.stdout.decode().splitlines()]
    assert [int(number) for number, _, _ in problems] == [3, 4]
    assert problems[0][2] == (
        "profiles.server.validity: 'P1Y': expected a duration such as 12h, 30d or 4w, "
        "or in ISO 8601 such as PT12H or P30D"
    )
    run = servers.certlet("serve", "--port", "0", "--profiles", "own.yaml", cwd=tmp_path)
    details = "; ".join(f"line {number}: {detail}" for number, _, detail in problems)
    assert (run.returncode, run.stderr.decode()) == (1, f"certlet: own.yaml: {details}\n")
    assert not (tmp_path / "ca").exists()
    missing = certlet("check", "--profiles", "nowhere.yaml", cwd=tmp_path)
    assert (missing.returncode, missing.stderr) == (1, b"certlet: nowhere.yaml: No such file or directory\n")


def test_denied_key_is_refused(tmp_path: Path) -> None:
    """`denied-keys.txt` lists SHA-256 hashes of public keys; if it is malformed, the server does not start."""
    assert not certlet("init", "ca", cwd=tmp_path).returncode
    spki = csrs.build().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    deny_list = tmp_path / "ca" / "denied-keys.txt"
    deny_list.write_text(f"# compromised\n{hashlib.sha256(spki).hexdigest()}  -\n")
    with certlet_server(tmp_path) as server:
        problem = assert_problem(server.sign({"csr": team(["dns:a.example.com"])}), 422, "badPublicKey")
        assert "deny list" in problem["detail"]
        problem = assert_problem(server.sign({"csr": team(["dns:a..b"])}), 422, "compound")
        assert [error["field"] for error in problem["errors"]] == ["public_key", "subject_alt_name[0]"]
        assert server.sign({"csr": team(["dns:a.example.com"], key_type="p-384")}).status == 200
    deny_list.write_text("nonsense\n")
    run = servers.certlet("serve", "--port", "0", "--ca", "ca", cwd=tmp_path)
    assert run.returncode == 1
    assert "denied-keys.txt" in run.stderr.decode()


def test_audit_log_embeds_metrics(policy_server: Server, directory: Path) -> None:
    """CloudWatch's embedded format: at most three metrics, with the profile as the only dimension."""
    assert policy_server.sign({"csr": team(["dns:a.example.com"])}).status == 200
    assert policy_server.request("POST", "/sign.pem?profile=peer", b"garbage!", JSON | PEM).status == 422
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

"""The rules of the pages in docs/how-to/identities, and tokens that have what the platforms document.

An issuer on loopback signs the tokens. Only the URL of the keys is replaced: `iss` is that of the page.
"""

from __future__ import annotations

import copy
import itertools
import re
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509

from service import openapi
from service.cli import id_token
from service.oidc import key_sets
from service.oidc.tokens import TokenVerifier
from service.pki.identity_rules import IdentityRule
from service.pki.token_identity import InvalidTokenError
from tests import oidc_issuer, servers
from tests.cli import certlet
from tests.oidc.platform_tokens import AZURE, GITHUB, GITLAB, GOOGLE, KUBERNETES, Platform
from tests.oidc_issuer import Issuer
from tests.servers import ROOT, Server

PAGES = ROOT / "docs/how-to/identities"
PLATFORMS = {
    "github-actions": GITHUB,
    "gitlab-ci": GITLAB,
    "kubernetes": KUBERNETES,
    "google-cloud": GOOGLE,
    "azure": AZURE,
}
SPIFFE_ID = "spiffe://example.com/ns/web/sa/shop"
NAMES: dict[str, dict[str, Any]] = {
    "github-actions": {"dns": {"permitted": ["shop.example.com"]}},
    "gitlab-ci": {"dns": {"permitted": ["shop.example.com"]}},
    "kubernetes": {
        "dns": {"permitted": ["shop.web.svc.cluster.local"]},
        "uri": {"permitted": [SPIFFE_ID]},
    },
    "google-cloud": {"dns": {"permitted": ["4340508760561261530.vm.example.com"]}},
    "azure": {"dns": {"permitted": ["shop.example.com"]}},
}
TENANT = "aaaaaaaa-5b6a-4978-8695-a4b3c2d1e0f9"
# Page, what differs -> members of claims that differ; ... removes one.
NEIGHBOURS: dict[tuple[str, str], dict[str, Any]] = {
    ("github-actions", "fork"): {
        "/repository_id": "9001",
        "/repository": "mallory/shop",
        "/repository_owner": "mallory",
        "/repository_owner_id": "666",
        "/sub": "repo:mallory@666/shop@9001:environment:production",
    },
    ("github-actions", "repository that was created again"): {"/repository_id": "9002"},
    ("github-actions", "owner whose name was free"): {
        "/repository_owner_id": "667",
        "/repository_id": "9003",
    },
    ("github-actions", "repository that moved to another owner"): {"/repository_owner_id": "667"},
    ("github-actions", "other branch"): {"/ref": "refs/heads/test"},
    ("github-actions", "tag of the same name"): {"/ref": "refs/tags/main", "/ref_type": "tag"},
    ("github-actions", "pull_request_target"): {"/event_name": "pull_request_target", "/head_ref": "patch"},
    ("github-actions", "other environment"): {"/environment": "staging"},
    ("github-actions", "no environment"): {"/environment": ...},
    ("github-actions", "issuer of an enterprise"): {
        "/iss": "https://token.actions.githubusercontent.com/octo"
    },
    ("gitlab-ci", "merge request of a fork"): {
        "/project_id": "9001",
        "/project_path": "mallory/shop",
        "/namespace_id": "666",
        "/namespace_path": "mallory",
        "/pipeline_source": "merge_request_event",
    },
    ("gitlab-ci", "push in a fork"): {
        "/project_id": "9001",
        "/namespace_id": "666",
        "/job_project_id": "9001",
        "/job_namespace_id": "666",
    },
    ("gitlab-ci", "merge request of a fork, before the fix"): {
        "/pipeline_source": "merge_request_event",
        "/job_project_id": ...,
    },
    ("gitlab-ci", "fork in the same group, whose pipeline runs here"): {"/project_id": "21"},
    ("gitlab-ci", "pipeline of another project"): {"/job_project_id": "21"},
    ("gitlab-ci", "project that moved to another group"): {"/namespace_id": "73"},
    ("gitlab-ci", "other protected branch"): {"/ref": "release", "/ref_path": "refs/heads/release"},
    ("gitlab-ci", "schedule"): {"/pipeline_source": "schedule"},
    ("gitlab-ci", "project that was created again"): {"/project_id": "9002", "/job_project_id": "9002"},
    ("gitlab-ci", "tag of the same name"): {"/ref_type": "tag", "/ref_path": "refs/tags/main"},
    ("gitlab-ci", "branch that is not protected"): {"/ref_protected": "false"},
    ("gitlab-ci", "other environment"): {"/environment": "staging"},
    ("gitlab-ci", "other instance"): {"/iss": "https://gitlab.example.com"},
    ("gitlab-ci", "several audiences"): {"/aud": ["https://ca.example.com", "https://vault.example.com"]},
    ("kubernetes", "other namespace"): {
        "/kubernetes.io/namespace": "test",
        "/sub": "system:serviceaccount:test:shop",
    },
    ("kubernetes", "other service account"): {"/kubernetes.io/serviceaccount/name": "cart"},
    ("kubernetes", "service account that was created again"): {
        "/kubernetes.io/serviceaccount/uid": "00000000-a7e2-420f-9f9a-dbc4507c3798"
    },
    ("kubernetes", "token for the API server"): {"/aud": ["https://kubernetes.default.svc.cluster.local"]},
    ("kubernetes", "other issuer"): {"/iss": "https://other.example"},
    ("google-cloud", "other service account"): {"/sub": "110987294251917851299"},
    ("google-cloud", "other project"): {"/google/compute_engine/project_number": 716149158342},
    ("google-cloud", "impersonation"): {"/google": ...},
    ("google-cloud", "user"): {"/google": ..., "/sub": "105", "/email": "mallory@example.com"},
    ("azure", "other tenant"): {"/iss": f"https://sts.windows.net/{TENANT}/", "/tid": TENANT},
    ("azure", "other identity"): {"/oid": "aaaaaaaa-7a8b-4c9d-8e1f-2a3b4c5d6e7f"},
    ("azure", "issuer of version 2"): {
        "/iss": "https://login.microsoftonline.com/1f2e3d4c-5b6a-4978-8695-a4b3c2d1e0f9/v2.0"
    },
    ("azure", "token for Azure itself"): {"/aud": "https://management.azure.com/"},
}


@dataclass
class Preset:
    """The rule of a page, with the keys of the issuer on loopback.

    Attributes:
        file: the operator's file, which has only the rule.
        rule: the rule.
    """

    platform: Platform
    issuer: Issuer
    file: Path
    rule: IdentityRule

    def token(self, changes: Mapping[str, Any] | None = None, age: int = 10) -> str:
        """A token of the platform; `changes` are JSON pointers and values, where ... removes a member."""
        now, platform = int(time.time()), self.platform
        times = {"iat": now - age, "nbf": now - age, "exp": now - age + platform.lifetime}
        audience = [self.rule.audience] if platform.has_audience_list else self.rule.audience
        claims = {**times, "iss": self.rule.issuer, "aud": audience, **copy.deepcopy(dict(platform.claims))}
        for pointer, value in (changes or {}).items():
            *parents, name = pointer.split("/")[1:]
            target = claims
            for parent in parents:
                target = target[parent]
            target[name] = value
        return self.issuer.token(_without_ellipses(claims), header=platform.header)

    def verify(self, token: str) -> dict[str, Any]:
        """Return the names that the token permits."""

        def clock() -> datetime:
            return datetime.now(UTC)

        sets = key_sets.create_key_sets((self.rule,), self.file.parent, clock)
        return TokenVerifier((self.rule,), sets, clock).verify(token).names.to_dict()


def _without_ellipses(value: Any, depth: int = 0) -> Any:
    """Leave out removed members, except those at the top, which the issuer would add."""
    if not isinstance(value, dict):
        return value
    members = {name: member for name, member in value.items() if member is not ... or not depth}
    return {name: _without_ellipses(member, depth + 1) for name, member in members.items()}


def text_of(name: str) -> str:
    return (PAGES / f"{name}.md").read_text()


def rules_of(name: str, issuer: Issuer | None = None) -> str:
    """The rule of a page, for an operator's file; with the keys of an issuer."""
    match = re.search(r"```yaml\n(.*?)```", text_of(name), re.DOTALL)
    assert match
    keys = f"jwks_url: {issuer.jwks_url}\n    ca_file: {issuer.ca_file}" if issuer else r"\g<0>"
    return re.sub("jwks_url: .*", keys, match[1])


def load(name: str, issuer: Issuer, directory: Path) -> Preset:
    file = directory / f"{name}.yaml"
    file.write_text(rules_of(name, issuer))
    (directory / "cluster-jwks.json").write_bytes(issuer.jwk_set())
    (rule,) = openapi.parse_policy(openapi.load(file)).identities
    return Preset(PLATFORMS[name], issuer, file, rule)


@pytest.fixture
def preset(request: pytest.FixtureRequest, issuer: Issuer, tmp_path: Path) -> Preset:
    return load(request.param, issuer, tmp_path)


each_preset = pytest.mark.parametrize(
    ("preset", "name"), [(name, name) for name in PLATFORMS], indirect=["preset"]
)


def test_each_page_has_tests() -> None:
    assert {path.stem for path in PAGES.glob("*.md")} == {*PLATFORMS, "aws-roles"}
    assert all(re.search(r"\*\*It was\s+not\s+run", text_of(path.stem)) for path in PAGES.glob("*.md"))


@pytest.mark.parametrize("name", [*PLATFORMS, "aws-roles"])
def test_file_of_a_page_has_no_errors(name: str, issuer: Issuer, tmp_path: Path) -> None:
    """As it is written, with a status URL, as in a real installation."""
    (tmp_path / "own.yaml").write_text(rules_of(name))
    (tmp_path / "cluster-jwks.json").write_bytes(issuer.jwk_set())
    result = certlet(
        "check",
        "--profiles",
        "own.yaml",
        cwd=tmp_path,
        env={"CERTLET_STATUS_URL": "http://status.example.com"},
    )
    note = b"note: checked the profiles only: there is no CA in ca\n"
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", note)


@each_preset
def test_token_of_the_platform_permits_the_names_of_the_page(preset: Preset, name: str) -> None:
    """When it is new, and shortly before its end."""
    assert preset.verify(preset.token()) == NAMES[name]
    assert preset.verify(preset.token(age=preset.platform.lifetime - 60)) == NAMES[name]


@each_preset
def test_each_claim_of_the_rule_matters(preset: Preset, name: str) -> None:
    """Another value, another type, or none is refused; the reason names the claim, and no value of the rule."""
    assert name
    for pointer, value in preset.rule.claims.items():
        other_type = str(value) if isinstance(value, int) else int(value) if value.isdigit() else [value]
        for other in (f"{value}x", f" {value}", other_type, None, ...):
            with pytest.raises(InvalidTokenError, match=pointer.rpartition("/")[2]) as caught:
                preset.verify(preset.token({pointer: other}))
            assert str(value) not in str(caught.value).replace(pointer, "")


@pytest.mark.parametrize(("preset", "neighbour"), NEIGHBOURS, indirect=["preset"])
def test_token_of_a_neighbour_is_refused(
    preset: Preset, neighbour: str, request: pytest.FixtureRequest
) -> None:
    changes = NEIGHBOURS[request.node.callspec.params["preset"], neighbour]
    with pytest.raises(InvalidTokenError):
        preset.verify(preset.token(changes))


@each_preset
def test_token_of_another_key_is_refused(preset: Preset, name: str, tmp_path: Path) -> None:
    """With the same claims and key ID: such as that of another cluster."""
    assert name
    (tmp_path / "other").mkdir()
    with oidc_issuer.running(tmp_path / "other") as other:
        token = Preset(preset.platform, other, preset.file, preset.rule).token()
    with pytest.raises(InvalidTokenError, match="the signature of the token is wrong"):
        preset.verify(token)


@pytest.fixture(scope="module")
def server(issuer: Issuer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the rules of all pages."""
    directory = tmp_path_factory.mktemp("server")
    (directory / "cluster-jwks.json").write_bytes(issuer.jwk_set())
    rules = {
        rule: data
        for name in PLATFORMS
        for rule, data in yaml.safe_load(rules_of(name, issuer))["identities"].items()
    }
    (directory / "policy.yaml").write_text(yaml.safe_dump({"identities": rules}))
    with servers.certlet_server(directory, "--profiles", "policy.yaml", "--ephemeral") as server:
        yield server


@each_preset
def test_commands_of_a_page_get_a_certificate(
    preset: Preset, name: str, server: Server, tmp_path: Path
) -> None:
    """Each `certlet new` of the page, with the token where the platform puts it."""
    lines = re.findall(r"^(?: +- )?(certlet new .*)", text_of(name), re.MULTILINE)
    assert lines
    for index, line in enumerate(lines):
        directory = tmp_path / str(index)
        directory.mkdir()
        servers.create_script(directory / "bin/certlet")
        (directory / "token").write_text(preset.token())
        path = f"{directory / 'bin'}:{Path(sys.executable).parent}:/usr/bin:/bin"
        environ = servers.environ(PATH=path, CERTLET_URL=server.url, id="4340508760561261530")
        if name == "kubernetes":
            environ["CERTLET_TOKEN_FILE"] = "token"  # noqa: S105 - a file's name
        elif "--oidc" in line:
            environ["CERTLET_ID_TOKEN"] = preset.token()
        servers.run("bash", "-ec", line, cwd=directory, env=environ)
        (file,) = directory.glob("*.crt")
        certificate = x509.load_pem_x509_certificate(file.read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        arguments = shlex.split(line.replace("$id", "4340508760561261530"))[2:]
        assert [name.value for name in names] == list(
            itertools.takewhile(lambda text: text[0] != "-", arguments)
        )


def test_manifests_of_the_pages_request_the_audience_of_the_rule() -> None:
    """And mount the token where `--oidc` looks for it."""
    _, pod = re.findall(r"```yaml\n(.*?)```", text_of("kubernetes"), re.DOTALL)
    spec = yaml.safe_load(pod)["spec"]
    (source,) = spec["volumes"][0]["projected"]["sources"]
    (mount,) = spec["containers"][0]["volumeMounts"]
    assert Path(mount["mountPath"], source["serviceAccountToken"]["path"]) == id_token.DEFAULT_FILE
    _, job = re.findall(r"```yaml\n(.*?)```", text_of("gitlab-ci"), re.DOTALL)
    audience = yaml.safe_load(job)["deploy"]["id_tokens"][id_token.ID_TOKEN]["aud"]
    for name, requested in (
        ("kubernetes", source["serviceAccountToken"]["audience"]),
        ("gitlab-ci", audience),
    ):
        (rule,) = yaml.safe_load(rules_of(name))["identities"].values()
        assert rule["audience"] == requested


def test_profile_of_the_page_about_aws_is_for_one_role(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(rules_of("aws-roles"))
    policy = openapi.parse_policy(openapi.load(tmp_path / "own.yaml"))
    (profile,) = policy
    assert (profile.name, profile.principals) == ("server", ("arn:aws:iam::123456789012:role/shop",))

"""Tokens with the claims and headers that platforms document, of workloads that the pages' rules accept.

Sources: GitHub, "OpenID Connect reference". GitLab, "OpenID Connect (OIDC) Authentication Using ID Tokens". Kubernetes,
"Managing Service Accounts". Google Cloud, "Verify VM identity". Microsoft, "Access token claims reference".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import EllipsisType
from typing import Any, Final


@dataclass(frozen=True)
class Platform:
    """What the tokens of a platform have.

    Attributes:
        claims: the claims, without issuer, audience and times. ... removes a claim that the platform does not have.
        header: the members of the header that differ from `alg`, `kid` and `typ`, in the same way.
        lifetime: from `iat` to `exp`, in seconds.
        has_audience_list: whether `aud` is a list.
    """

    claims: Mapping[str, Any]
    header: Mapping[str, str | EllipsisType] = field(default_factory=dict)
    lifetime: int = 3600
    has_audience_list: bool = False


GITHUB: Final = Platform(
    {
        "jti": "d4f5a0d3-1b1f-4f0e-8f6e-1f8c5b0f3c11",
        "sub": "repo:octo-org@6/shop@74:environment:production",
        "ref": "refs/heads/main",
        "sha": "714a629c0b401fdce83e847fc9589983fc6f46bc",
        "repository": "octo-org/shop",
        "repository_owner": "octo-org",
        "repository_owner_id": "6",
        "run_id": "17005551234",
        "run_number": "42",
        "run_attempt": "1",
        "repository_visibility": "private",
        "repository_id": "74",
        "actor_id": "583231",
        "actor": "octocat",
        "workflow": "deploy",
        "head_ref": "",
        "base_ref": "",
        "event_name": "push",
        "ref_protected": "true",
        "ref_type": "branch",
        "workflow_ref": "octo-org/shop/.github/workflows/deploy.yml@refs/heads/main",
        "workflow_sha": "714a629c0b401fdce83e847fc9589983fc6f46bc",
        "job_workflow_ref": "octo-org/shop/.github/workflows/deploy.yml@refs/heads/main",
        "job_workflow_sha": "714a629c0b401fdce83e847fc9589983fc6f46bc",
        "check_run_id": "48125551234",
        "runner_environment": "github-hosted",
        "environment": "production",
        "environment_node_id": "EN_kwDOAAAASs4",
    },
    {"x5t": "hpQRzwAg6rAhmYJhnzSyIfTGkuQ"},
    lifetime=300,
)
GITLAB: Final = Platform(
    {
        "jti": "235b3a54-b797-45c7-ae9a-f72d7bc6ef5b",
        "sub": "project_path:my-group/shop:ref_type:branch:ref:main",
        "namespace_id": "72",
        "namespace_path": "my-group",
        "project_id": "20",
        "project_path": "my-group/shop",
        "project_visibility": "private",
        "job_project_id": "20",
        "job_project_path": "my-group/shop",
        "job_namespace_id": "72",
        "job_namespace_path": "my-group",
        "user_id": "1",
        "user_login": "sample-user",
        "user_email": "sample-user@example.com",
        "user_access_level": "maintainer",
        "user_identities": [{"provider": "github", "extern_uid": "2435223452345"}],
        "groups_direct": ["my-group"],
        "pipeline_id": "574",
        "pipeline_source": "push",
        "job_id": "302",
        "ref": "main",
        "ref_type": "branch",
        "ref_path": "refs/heads/main",
        "ref_protected": "true",
        "environment": "production",
        "environment_protected": "true",
        "deployment_tier": "production",
        "environment_action": "start",
        "runner_id": 1,
        "runner_environment": "self-hosted",
        "sha": "714a629c0b401fdce83e847fc9589983fc6f46bc",
        "ci_config_ref_uri": "gitlab.com/my-group/shop//.gitlab-ci.yml@refs/heads/main",
        "ci_config_sha": "714a629c0b401fdce83e847fc9589983fc6f46bc",
    },
)
KUBERNETES: Final = Platform(
    {
        "jti": "ed4e2dd3-6d1b-4b2e-8bd1-2ad0f9b8a8f1",
        "sub": "system:serviceaccount:web:shop",
        "kubernetes.io": {
            "namespace": "web",
            "node": {"name": "node-1", "uid": "646e7c5e-32d6-4d42-9dbd-e504e6cbe6b1"},
            "pod": {"name": "shop-6b474f9b7-lx2kq", "uid": "5e0bd49b-f040-43b0-99b7-22765a53f7f3"},
            "serviceaccount": {"name": "shop", "uid": "14ee3fa4-a7e2-420f-9f9a-dbc4507c3798"},
        },
    },
    {"typ": ...},
    has_audience_list=True,
)
GOOGLE: Final = Platform(
    {
        "jti": ...,
        "nbf": ...,
        "sub": "110987294251917851298",
        "azp": "110987294251917851298",
        "email": "shop@my-project.iam.gserviceaccount.com",
        "email_verified": True,
        "google": {
            "compute_engine": {
                "instance_creation_timestamp": 1795953766,
                "instance_id": "4340508760561261530",
                "instance_name": "shop-1",
                "project_id": "my-project",
                "project_number": 716149158341,
                "zone": "europe-west3-a",
            }
        },
    },
)
AZURE: Final = Platform(
    {
        "jti": ...,
        "sub": "3c4d5e6f-7a8b-4c9d-8e1f-2a3b4c5d6e7f",
        "oid": "3c4d5e6f-7a8b-4c9d-8e1f-2a3b4c5d6e7f",
        "tid": "1f2e3d4c-5b6a-4978-8695-a4b3c2d1e0f9",
        "aio": "k2RgYEh4uPzo",
        "appid": "9a8b7c6d-5e4f-4a3b-8c2d-1e0f9a8b7c6d",
        "appidacr": "2",
        "idp": "https://sts.windows.net/1f2e3d4c-5b6a-4978-8695-a4b3c2d1e0f9/",
        "rh": "1.AS8A",
        "uti": "dRlDw3sQ4k2mRB",
        "ver": "1.0",
        "xms_mirid": "/subscriptions/0d1e/resourcegroups/shop/providers/Microsoft.Compute/virtualMachines/shop-1",
    },
    {"x5t": "hpQRzwAg6rAhmYJhnzSyIfTGkuQ"},
    lifetime=86_700,
)

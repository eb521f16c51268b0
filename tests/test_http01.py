"""http-01 through the whole path: `certlet serve`, its validator, and servers on ports 53 and 80.

A network namespace has these ports, and no other hosts.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests import servers

FILES = {"resolv.conf": "nameserver 127.0.0.1\nsearch corp.example\n", "nsswitch.conf": "hosts: files dns\n"}


def in_namespace(directory: Path, command: Sequence[str]) -> str:
    """Run a command in a new network namespace, and return its output."""
    mounts = []
    for name, text in FILES.items():
        (directory / name).write_text(text)
        mounts.append(f"mount --bind {directory / name} /etc/{name}")
    user = ["--user", "--map-root-user"] if os.geteuid() else []
    script = "\n".join(["set -e", *mounts, 'exec "$@"'])
    return servers.run("unshare", "--net", "--mount", *user, "sh", "-c", script, "sh", *command).stdout


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory = tmp_path_factory.mktemp("http01")
    return json.loads(in_namespace(directory, (sys.executable, "-m", "tests.http01_site", str(directory))))


def test_names_and_addresses_are_proven(results: Any) -> None:
    """A DNS name, and an IP address; then the certificate is issued."""
    assert results["dns:good.example.com"]["status"] == results["ip:127.0.0.1"]["status"] == "valid"
    assert results["finalized"]["status"] == "valid"


@pytest.mark.parametrize(
    ("name", "kind", "detail"),
    [
        ("dns:other.example.com", "incorrectResponse", "at 127.0.0.2 did not answer with "),
        ("dns:stalled.example.com", "dns", "the name servers of stalled.example.com did not answer within 5 sec"),
        ("dns:forbidden.example.com", "connection", "this CA does not connect to 127.0.0.100, the address of f"),
        ("ip:127.0.0.100", "connection", "this CA does not connect to 127.0.0.100, the address of 127.0.0.100"),
        ("dns:rebinding.example.com", "connection", "port 80 of rebinding.example.com (127.0.0.14) accepts no"),
    ],
)  # fmt: skip
def test_failed_challenge_has_its_reason(results: Any, name: str, kind: str, detail: str) -> None:
    challenge = results[name]
    assert (challenge["status"], challenge["error"]["type"]) == (
        "invalid",
        f"urn:ietf:params:acme:error:{kind}",
    )
    assert detail in challenge["error"]["detail"]


def test_invalid_order_is_not_finalized(results: Any) -> None:
    assert results["refused"]["type"] == "urn:ietf:params:acme:error:orderNotReady"


def test_address_outside_the_networks_gets_no_request(results: Any) -> None:
    """A name that resolves to it at the second query is asked for once (DNS rebinding)."""
    assert results["queries"]["rebinding.example.com"] == 1
    assert not [request for request in results["requests"] if request.startswith("127.0.0.100 ")]


def test_challenges_survive_a_killed_validator(results: Any) -> None:
    """One waits in the queue; the one that was being validated begins again with a poll of the client."""
    first, second = results["validators"]
    assert first != second
    assert results["queued"]["status"] == results["lost"]["status"] == "valid"
    assert "the validator of challenges exited with status -9" in results["log"]
    assert len([request for request in results["requests"] if request.startswith("127.0.0.3 ")]) == 2

"""The lines for ACME clients: shells, YAML and the clients' own parsers read the same values from them."""

from __future__ import annotations

import base64
import shlex
from pathlib import Path

import pytest
import yaml

from service.cli import acme_clients
from service.pki.acme_key import ExternalKeyId
from tests import servers

URL = "https://ca.example.com/v1/acme/directory"
KEY = f"-{'aB_9-' * 17}"  # 86 characters, like 64 octets
# Names that would be a home directory, a number, a comment, a variable or several words without encoding.
KEY_IDS = [ExternalKeyId(name, 12).encode() for name in ("web", "~root", "1", "#a", "$HOME `id` 'x'", "a:b")]


def configure(client: str, key_id: str = "web.12") -> str:
    return acme_clients.format_configuration(client, URL, key_id, KEY)


@pytest.mark.parametrize("client", acme_clients.NAMES)
@pytest.mark.parametrize("key_id", KEY_IDS)
def test_lines_contain_the_values(client: str, key_id: str) -> None:
    """No line is so long that a terminal breaks it more than once."""
    text = configure(client, key_id)
    assert all(value in text for value in (URL, key_id, KEY))
    assert max(map(len, text.splitlines())) <= 160
    assert text.endswith("\n")


@pytest.mark.parametrize("key_id", KEY_IDS)
@pytest.mark.parametrize(
    ("client", "expected"),
    [
        ("certbot", {"--eab-kid": "{kid}", f"--eab-hmac-key={KEY}": "-d", "--server": URL}),
        ("lego", {"--eab.kid": "{kid}", f"--eab.hmac={KEY}": "--http", "--kid": "{kid}", "--server": URL}),
        ("acme.sh", {"--eab-kid": "{kid}", "--eab-hmac-key": KEY, "--server": URL}),
        ("uacme", {"--eab": f"{{kid}}:{KEY}", "--acme-url": URL}),
    ],
)
def test_shell_passes_the_values(tmp_path: Path, client: str, expected: dict[str, str], key_id: str) -> None:
    """A real shell passes them to the client unchanged, each as one argument."""
    (tmp_path / client).write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / client).chmod(0o700)
    env = servers.environ(PATH=f"{tmp_path}:/usr/bin:/bin")
    result = servers.run("sh", "-ec", configure(client, key_id), cwd=tmp_path, env=env)
    arguments = result.stdout.splitlines()
    for option, value in expected.items():
        assert arguments[arguments.index(option) + 1] == value.replace("{kid}", key_id)


@pytest.mark.parametrize("key_id", KEY_IDS)
def test_manifest_for_cert_manager_is_applied(tmp_path: Path, key_id: str) -> None:
    """A real shell passes both objects to kubectl, with the root's certificate."""
    (tmp_path / "kubectl").write_text('#!/bin/sh\ntest "$*" = "apply -f -" && cat\n')
    (tmp_path / "kubectl").chmod(0o700)
    (tmp_path / "root-ca.crt").write_text("-----BEGIN CERTIFICATE-----\n" + "A" * 200 + "\n")
    env = servers.environ(PATH=f"{tmp_path}:/usr/bin:/bin")
    result = servers.run("sh", "-ec", configure("cert-manager", key_id), cwd=tmp_path, env=env)
    secret, issuer = yaml.safe_load_all(result.stdout)
    assert secret["stringData"] == {"key": KEY}
    spec = issuer["spec"]["acme"]
    assert base64.b64decode(spec["caBundle"]) == (tmp_path / "root-ca.crt").read_bytes()
    reference = {"name": secret["metadata"]["name"], "key": "key"}
    assert spec["externalAccountBinding"] == {"keyID": key_id, "keySecretRef": reference}
    assert spec["server"] == URL


@pytest.mark.parametrize("key_id", KEY_IDS)
def test_configuration_of_traefik_is_yaml(key_id: str) -> None:
    resolver = yaml.safe_load(configure("traefik", key_id))["certificatesResolvers"]["certlet"]["acme"]
    assert resolver["eab"] == {"kid": key_id, "hmacEncoded": KEY}
    assert (resolver["caServer"], resolver["caCertificates"]) == (URL, ["root-ca.crt"])


@pytest.mark.parametrize("key_id", KEY_IDS)
def test_directives_have_the_right_number_of_words(key_id: str) -> None:
    """Caddy and Apache separate words by spaces; neither expands what a key identifier can contain."""
    lines = [line.split() for line in configure("caddy", key_id).splitlines()]
    assert ["key_id", key_id] in lines
    assert ["mac_key", KEY] in lines
    lines = [shlex.split(line) for line in configure("mod_md", key_id).splitlines()]
    assert ["MDExternalAccountBinding", key_id, KEY] in lines


@pytest.mark.parametrize("client", ["certbot", "lego", "acme.sh", "uacme"])
def test_leading_tilde_is_quoted(client: str) -> None:
    """Otherwise zsh takes it for the home directory of a user."""
    assert " '~root.12'" in configure(client, "~root.12")
    assert " web.12" in configure(client)

"""The file of ACME principals: what is accepted, what is refused with its line, and how it is changed."""

from __future__ import annotations

import re
from pathlib import Path
from unittest import mock

import pytest

from service import atomic_write, keystore
from service.keystore import acme_principals, ca_directory
from service.keystore.acme_principals import ACME_PRINCIPALS, AcmePrincipal
from service.pki.acme_key import AcmePrincipals, ExternalKeyId
from service.pki.errors import CAError, CAUnavailable
from service.settings import Settings
from tests import factories

FIRST, SECOND = "A" * 43, "cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s"


def test_principals_are_loaded(tmp_path: Path) -> None:
    """Without the file there are none; a removed principal is not one, and its thumbprints are not valid."""
    assert acme_principals.load(tmp_path) == AcmePrincipals({})
    (tmp_path / ACME_PRINCIPALS).write_text(
        f"ci: {{generation: 1}}\n123:\n  generation: 999999\n  thumbprints: [{FIRST}]\n"
        f"old: {{generation: 2, removed: true, thumbprints: [{SECOND}]}}\n"
    )
    principals = acme_principals.load(tmp_path)
    assert principals == AcmePrincipals({"ci": 1, "123": 999_999}, {FIRST: "123"})
    assert principals.find(FIRST) == ExternalKeyId("123", 999_999)
    assert not principals.has(ExternalKeyId("old", 2))
    (tmp_path / ACME_PRINCIPALS).write_text("# none\n")
    assert acme_principals.load(tmp_path) == AcmePrincipals({})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- ci", "line 1: not a mapping of principals"),
        ("ci: [", "line 1: not YAML: "),
        ("ci: 1", "line 1: 'ci' is not a mapping with a generation"),
        ("ci: {generation: 1}\nci: {generation: 2}", "line 2: duplicate key 'ci'"),
        ("ci:\n  generation: 1\n  generation: 2", "line 3: duplicate key 'generation'"),
        ("ci: {}", "line 1: the generation of 'ci' is not a number from 1 to 999999"),
        ("ci:\n  generation: 0", "line 2: the generation of 'ci' is not a number"),
        ("ci:\n  generation: 1000000", "line 2: the generation of 'ci' is not a number"),
        ("ci:\n  generation: true", "line 2: the generation of 'ci' is not a number"),
        ("ci:\n  generation: '1'", "line 2: the generation of 'ci' is not a number"),
        ("ci:\n  generation: 1\n  removed: 1", "line 3: removed is not true or false"),
        ("ci:\n  generation: 1\n  key: x", "line 3: unknown key 'key'; known: generation, thumbprints"),
        ("ci:\n  generation: 1\n  thumbprints: x", "line 3: thumbprints is not a list"),
        (
            "ci:\n  generation: 1\n  thumbprints:\n  - '\\e[2J'\n  - [1]".replace("'", '"'),
            r"line 4: '\x1b[2J' is not a thumbprint: 43 characters of base64url (RFC 7638); line 5: '[1]' is",
        ),
        (f"ci: {{generation: 1, thumbprints: [{'A' * 42}B]}}", "is not a thumbprint"),
        (
            f"a: {{generation: 1, thumbprints: [{FIRST}]}}\nb: {{generation: 1, thumbprints: [{FIRST}]}}",
            f"line 2: the thumbprint '{FIRST}' is already listed for 'a'",
        ),
        ("'': {generation: 1}", "line 1: a principal's name has 1 to 128 printable ASCII characters: ''"),
        (
            '"a\\e": {generation: 1}',
            r"line 1: a principal's name has 1 to 128 printable ASCII characters: 'a\x1b'",
        ),
        (f"{'x' * 129}: {{generation: 1}}", "line 1: a principal's name has 1 to 128 printable"),
        ("certlet-serve: {generation: 1}", "line 1: a principal's name cannot begin with certlet-serve"),
        ("ci: {generation: 1} \n#" + "x" * 499_979, "has 500001 bytes, more than 500000"),
    ],
)
def test_malformed_file_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    """Both by `load`, whose message for clients has no detail, and by `load_all`."""
    path = tmp_path / ACME_PRINCIPALS
    path.write_text(text)
    with pytest.raises(CAError) as caught:
        acme_principals.load_all(tmp_path)
    detail = caught.value.detail
    assert detail.startswith(str(path))
    assert message in detail
    assert detail.isprintable()
    with pytest.raises(CAUnavailable) as unavailable:
        acme_principals.load(tmp_path)
    assert unavailable.value.detail == "the list of ACME principals cannot be loaded"
    assert str(unavailable.value.__cause__) == detail


def test_file_that_is_not_text_or_is_a_dangling_link_is_refused(tmp_path: Path) -> None:
    path = tmp_path / ACME_PRINCIPALS
    path.write_bytes(b"ci: {generation: 1}\n\xff")
    with pytest.raises(CAError, match=f"{re.escape(str(path))}: line 2: not UTF-8"):
        acme_principals.load_all(tmp_path)
    path.unlink()
    path.symlink_to("missing")
    with pytest.raises(CAError, match=f"{re.escape(str(path))}: No such file"):
        acme_principals.load_all(tmp_path)


def test_file_is_parsed_when_it_changes(tmp_path: Path) -> None:
    """Each request needs the principals; a malformed file is not parsed for each of them, either."""
    path = tmp_path / ACME_PRINCIPALS
    with mock.patch.object(acme_principals, "load_all", wraps=acme_principals.load_all) as parse:
        for text in ("ci: {generation: 1}", "ci: {generation: 22}", "[]"):
            path.write_text(text)
            for _ in range(3):
                if text == "[]":
                    with pytest.raises(CAUnavailable):
                        acme_principals.load(tmp_path)
                else:
                    assert acme_principals.load(tmp_path).generations == {"ci": 1 if len(text) == 19 else 22}
        assert parse.call_count == 3


def test_principal_is_changed_in_the_file(tmp_path: Path) -> None:
    """The file is replaced with one principal per line; the same value does not write it."""
    name = 'a "b": #c'
    for principal in (AcmePrincipal(1, (FIRST,)), AcmePrincipal(2, removed=True), AcmePrincipal(3)):
        assert acme_principals.change(tmp_path, name, mock.Mock(return_value=principal)) == principal
        assert acme_principals.load_all(tmp_path) == {name: principal}
    acme_principals.change(tmp_path, "ci", lambda present: present or AcmePrincipal(1, (FIRST, SECOND)))
    path = tmp_path / ACME_PRINCIPALS
    assert path.read_text().splitlines()[1:] == [
        r'"a \"b\": #c": {"generation": 3}',
        f'"ci": {{"generation": 1, "thumbprints": ["{FIRST}", "{SECOND}"]}}',
    ]
    assert path.stat().st_mode & 0o777 == 0o600
    version = atomic_write.file_version(path)
    acme_principals.change(tmp_path, "ci", lambda present: present or AcmePrincipal(9))
    assert atomic_write.file_version(path) == version


@pytest.mark.parametrize(
    ("name", "principal", "message"),
    [
        ("b", AcmePrincipal(1, (FIRST,)), f"the thumbprint '{FIRST}' is already listed for 'a'; nothing"),
        ("b", AcmePrincipal(1, ("x",)), "'x' is not a thumbprint"),
        ("a", AcmePrincipal(1_000_000), "the generation of 'a' is not a number from 1 to 999999; nothing"),
        ("", AcmePrincipal(1), "a principal's name has"),
        ("b", AcmePrincipal(1, (SECOND,) * 11_000), f"{ACME_PRINCIPALS} would have more than 500000 bytes"),
    ],
)
def test_impossible_change_is_refused(
    tmp_path: Path, name: str, principal: AcmePrincipal, message: str
) -> None:
    acme_principals.change(tmp_path, "a", lambda _: AcmePrincipal(1, (FIRST,)))
    content = (tmp_path / ACME_PRINCIPALS).read_bytes()
    with pytest.raises(CAError) as caught:
        acme_principals.change(tmp_path, name, lambda _: principal)
    assert message in caught.value.detail
    assert (tmp_path / ACME_PRINCIPALS).read_bytes() == content


def test_acme_key_is_loaded_with_the_ca(tmp_path: Path) -> None:
    """A CA without one has none, and a running server loads one that was created; a malformed one is refused."""
    ca_directory.save_hierarchy(tmp_path, factories.hierarchy(), None)
    current = keystore.CurrentCA(Settings(tmp_path))
    assert current.load().acme_key is None
    ca_directory.create_acme_key(tmp_path)
    loaded, expected = current.load().acme_key, ca_directory.load_acme_key(tmp_path)
    assert loaded
    assert expected
    key_id = ExternalKeyId("ci", 1)
    assert loaded.external_account_key(key_id) == expected.external_account_key(key_id)
    (tmp_path / ca_directory.ACME_KEY).write_bytes(b"short")
    with pytest.raises(CAError, match=r"acme\.key: 5 octets; expected 32"):
        keystore.load_ca(Settings(tmp_path))
    assert current.load().acme_key is loaded

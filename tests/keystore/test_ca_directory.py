"""Files in the CA's directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.keystore import ca_directory
from service.pki.acme_key import ExternalKeyId
from service.pki.errors import CAError

KEY_ID = ExternalKeyId("web", 1)


def test_acme_key_is_created_once(tmp_path: Path) -> None:
    """With mode 0600; an existing key is not replaced, since that would end all external account keys."""
    assert ca_directory.load_acme_key(tmp_path) is None
    ca_directory.create_acme_key(tmp_path)
    path = tmp_path / "acme.key"
    assert path.stat().st_mode & 0o777 == 0o600
    content = path.read_bytes()
    assert len(content) == 32
    ca_directory.create_acme_key(tmp_path)
    assert path.read_bytes() == content
    first, second = ca_directory.load_acme_key(tmp_path), ca_directory.load_acme_key(tmp_path)
    assert first
    assert second
    assert first.external_account_key(KEY_ID) == second.external_account_key(KEY_ID)


def test_directories_have_different_acme_keys(tmp_path: Path) -> None:
    derived = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        ca_directory.create_acme_key(tmp_path / name)
        key = ca_directory.load_acme_key(tmp_path / name)
        assert key
        derived.add(key.external_account_key(KEY_ID))
    assert len(derived) == 2


@pytest.mark.parametrize("content", [b"", b"secret", b"x" * 64])
def test_malformed_acme_key_is_refused(tmp_path: Path, content: bytes) -> None:
    """The error names the file, and contains no part of the key."""
    (tmp_path / "acme.key").write_bytes(content)
    with pytest.raises(CAError, match=f"acme.key: {len(content)} octets; expected 32") as caught:
        ca_directory.load_acme_key(tmp_path)
    assert "secret" not in caught.value.detail


def test_dangling_link_is_not_a_missing_acme_key(tmp_path: Path) -> None:
    """A volume that is not mounted must not lead to a new key."""
    (tmp_path / "acme.key").symlink_to(tmp_path / "missing")
    with pytest.raises(CAError, match=r"acme\.key"):
        ca_directory.load_acme_key(tmp_path)
    with pytest.raises(CAError, match=r"acme\.key"):
        ca_directory.create_acme_key(tmp_path)
    assert (tmp_path / "acme.key").is_symlink()

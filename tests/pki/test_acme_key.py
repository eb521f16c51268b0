from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.pki import acme_key
from service.pki.acme_key import AcmeKey, AcmePrincipals, ExternalKeyId, InvalidNonce
from tests.factories import NOW

KEY, OTHER = AcmeKey(bytes(range(32))), AcmeKey(bytes(range(1, 33)))
RANDOM = bytes(12)
SECOND = timedelta(seconds=1)
CREATED = NOW.replace(microsecond=0)
NONCE = KEY.create_nonce(RANDOM, NOW)
PRINCIPALS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)
KEY_IDS = st.builds(ExternalKeyId, PRINCIPALS, st.integers(1, 999_999))


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=f"^{length} octets; expected 32$"):
        AcmeKey(b"x" * length)


def test_key_does_not_appear_in_its_representation() -> None:
    assert "0102" not in repr(AcmeKey(b"0102" * 8))


@given(KEY_IDS)
def test_key_id_is_parsed_as_encoded(key_id: ExternalKeyId) -> None:
    """Any name of a principal is visible ASCII in it, without characters of a shell."""
    text = key_id.encode()
    assert ExternalKeyId.parse(text) == key_id
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~%")


def test_key_id_shows_the_principal() -> None:
    assert ExternalKeyId("web-1.example", 7).encode() == "web-1.example.7"


@pytest.mark.parametrize("text", ["", "web", ".1", "web.", "web.0", "web.01", "web.-1", "web.1 ", "web.1\n", "w b.1", "w%20b%2D.1", "w%2.1", "w%ff.1", "w%zz.1", "web.1000000", "é.1", "a" * 400 + ".1"])  # fmt: skip
def test_malformed_key_id_is_refused(text: str) -> None:
    """So is another encoding of the same name."""
    with pytest.raises(ValueError, match="not a key identifier of this CA"):
        ExternalKeyId.parse(text)


@given(KEY_IDS, KEY_IDS)
def test_external_account_keys_differ(first: ExternalKeyId, second: ExternalKeyId) -> None:
    """By principal, by generation and by `acme.key`; each is the same whenever it is derived."""
    key = KEY.external_account_key(first)
    assert key == AcmeKey(bytes(range(32))).external_account_key(first)
    assert len(key) == 64
    assert (key == KEY.external_account_key(second)) == (first == second)
    assert key != OTHER.external_account_key(first)
    assert key != KEY.external_account_key(first._replace(generation=first.generation + 1))


def test_digits_move_from_principal_to_generation_only_with_another_key() -> None:
    """The inputs of the derivation are delimited."""
    keys = {KEY.external_account_key(ExternalKeyId(*parts)) for parts in (("a1", 1), ("a", 11), ("a11", 1))}
    assert len(keys) == 3


@given(st.binary(min_size=12, max_size=12), st.integers(0, 2**34), st.integers(0, 3599))
def test_nonce_is_verified_until_it_expires(random: bytes, seconds: int, age: int) -> None:
    created = CREATED + seconds * SECOND
    nonce = KEY.create_nonce(random, created)
    assert len(nonce) == 44
    assert "=" not in nonce
    end = KEY.verify_nonce(nonce, created + age * SECOND)
    assert end == created + timedelta(hours=1, minutes=1)
    with pytest.raises(InvalidNonce, match="expired"):
        KEY.verify_nonce(nonce, created + acme_key.NONCE_LIFE)
    with pytest.raises(InvalidNonce):
        OTHER.verify_nonce(nonce, created)


def test_nonce_from_before_the_clock_was_set_back_is_accepted() -> None:
    """Its use is remembered until it ends by its own time."""
    end = KEY.verify_nonce(NONCE, CREATED - timedelta(days=1))
    assert end == KEY.verify_nonce(NONCE, CREATED)


@given(st.integers(0, 43), st.characters(codec="ascii"))
def test_changed_nonce_is_refused(position: int, character: str) -> None:
    """Every character is protected: there is one text for each nonce."""
    changed = NONCE[:position] + character + NONCE[position + 1 :]
    if changed != NONCE:
        with pytest.raises(InvalidNonce, match="not one of this CA"):
            KEY.verify_nonce(changed, NOW)


@pytest.mark.parametrize(
    "nonce", ["", NONCE + "A", NONCE[:-1], NONCE + "=", NONCE + "\n", "é" * 44, "A" * 44]
)
def test_malformed_nonce_is_refused(nonce: str) -> None:
    with pytest.raises(InvalidNonce):
        KEY.verify_nonce(nonce, NOW)


def test_nonces_differ_at_the_same_time() -> None:
    assert KEY.create_nonce(RANDOM, NOW) != KEY.create_nonce(b"x" * 12, NOW)


REGISTERED = AcmePrincipals({"web": 2, "mail": 1}, {"listed": "mail", "dangling": "removed"})


@pytest.mark.parametrize(
    ("key_id", "expected"),
    [(("web", 2), True), (("web", 1), False), (("web", 3), False), (("removed", 1), False)],
)
def test_only_the_current_key_of_a_principal_is_accepted(key_id: tuple[str, int], *, expected: bool) -> None:
    assert REGISTERED.has(ExternalKeyId(*key_id)) is expected


def test_listed_key_has_the_current_generation() -> None:
    """A key that is listed for a removed principal has none."""
    assert REGISTERED.find("listed") == ("mail", 1)
    assert REGISTERED.find("dangling") is None
    assert REGISTERED.find("other") is None

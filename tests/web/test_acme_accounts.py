"""Requests of accounts, and their registration, with a real ledger; and what strangers can cost."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import Key

from service.ledger.sqlite import SqliteLedger
from service.ledger_protocol import AccountStatus
from service.pki import weak_keys
from service.pki.acme_key import NONCE_LIFE, AcmeKey, AcmePrincipals, ExternalKeyId
from service.pki.errors import BadPublicKey
from service.web import acme_accounts, jws
from service.web.acme_accounts import AcmeAccounts
from service.web.acme_problems import AcmeError
from service.web.jws import AccountKey
from tests.ledger.conftest import Clock
from tests.web import jws_requests
from tests.web.jws_requests import P256, P384, RSA, URL, binding, request

ACME_KEY = AcmeKey(bytes(32))
ACCOUNTS = "https://ca.example/prod/acme/account/"
ORDER = "https://ca.example/prod/acme/new-order"
CHANGE = "https://ca.example/prod/acme/key-change"
OTHER = jws_requests.new_key("ES256")
THUMBPRINT = AccountKey.parse(jws_requests.jwk(P384)).thumbprint


class Site:
    """The accounts of a CA, and a client."""

    def __init__(self, path: Path) -> None:
        self.clock = Clock()
        self.ledger = SqliteLedger(path, self.clock)
        self.principals = AcmePrincipals({"web": 1, "mail": 3}, {THUMBPRINT: "mail"})
        self.accounts = AcmeAccounts(self.ledger, ACME_KEY, lambda: self.principals, self.clock)

    def binding(self, key: Key = P256, principal: str = "web", generation: int = 1) -> dict[str, Any]:
        key_id = ExternalKeyId(principal, generation)
        return binding(ACME_KEY.external_account_key(key_id), key_id.encode(), jws_requests.jwk(key))

    def register(
        self, payload: dict[str, Any] | None = None, key: Key = P256, algorithm: str = "ES256", **header: Any
    ) -> acme_accounts.Registration:
        """Register with an external account binding, or with the payload."""
        content = {"externalAccountBinding": self.binding(key)} if payload is None else payload
        nonce = self.accounts.create_nonce()
        body = request(content, key, algorithm, **{"nonce": nonce} | header)
        return self.accounts.register(json.loads(body), URL)

    def request(self, account_id: str, key: Key = P256, **header: Any) -> bytes:
        """A POST-as-GET of an account."""
        members = {
            "nonce": self.accounts.create_nonce(),
            "url": ORDER,
            "jwk": None,
            "kid": ACCOUNTS + account_id,
        }
        return request(None, key, **members | header)

    def authenticate(self, account_id: str, key: Key = P256, **header: Any) -> Any:
        return self.accounts.authenticate(
            json.loads(self.request(account_id, key, **header)), ORDER, ACCOUNTS
        )[0]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "ledger.db")
    yield site
    site.ledger.close()


def error_of(call: Callable[[], object]) -> AcmeError:
    with pytest.raises(AcmeError) as caught:
        call()
    return caught.value


def test_account_is_created_once(site: Site) -> None:
    """The second registration with the key returns the account (RFC 8555 7.3.1), bound or not."""
    payload = {"externalAccountBinding": site.binding(), "contact": ["mailto:admin@example.com"]}
    account, is_new = site.register(payload)
    assert is_new
    assert (account.principal, account.generation) == ("web", 1)
    assert account.contacts == ("mailto:admin@example.com",)
    assert json.loads(account.external_account_binding) == payload["externalAccountBinding"]
    for again in (payload, {}, {"onlyReturnExisting": True}):
        assert site.register(again) == (account, False)
    assert site.authenticate(account.id) == account


def test_listed_key_needs_no_external_account(site: Site) -> None:
    """Another key needs one."""
    account, is_new = site.register({}, P384, "ES384")
    assert is_new
    assert (account.principal, account.generation, account.external_account_binding) == ("mail", 3, "")
    assert error_of(lambda: site.register({})).code == "externalAccountRequired"


def test_refusal_of_an_unknown_key_shows_its_thumbprint(site: Site) -> None:
    """The administrator can list it."""
    thumbprint = AccountKey.parse(jws_requests.jwk(P256)).thumbprint
    assert thumbprint in error_of(lambda: site.register({})).detail
    error = error_of(lambda: site.register({"onlyReturnExisting": True}))
    assert error.code == "accountDoesNotExist"
    assert thumbprint in error.detail
    assert site.ledger.find_account(thumbprint) is None


@pytest.mark.parametrize("value", [None, 1, "true", []])
def test_only_return_existing_is_a_boolean(site: Site, value: object) -> None:
    """Another value creates no account."""
    payload = {"externalAccountBinding": site.binding()}
    assert error_of(lambda: site.register(payload | {"onlyReturnExisting": value})).code == "malformed"
    assert site.register(payload | {"onlyReturnExisting": False}).is_new


def test_existing_account_is_not_created_by_only_return_existing(site: Site) -> None:
    """Although the binding is right."""
    payload = {"externalAccountBinding": site.binding(), "onlyReturnExisting": True}
    assert error_of(lambda: site.register(payload)).code == "accountDoesNotExist"


@pytest.mark.parametrize(("principal", "generation"), [("web", 2), ("other", 1), ("mail", 1)])
def test_binding_to_another_principal_or_generation_is_refused(
    site: Site, principal: str, generation: int
) -> None:
    """Although its MAC is right; the answer is that to a wrong MAC."""
    payload = {"externalAccountBinding": site.binding(P256, principal, generation)}
    error = error_of(lambda: site.register(payload))
    assert (error.code, error.detail) == ("unauthorized", jws.WRONG_EXTERNAL_ACCOUNT)


@pytest.mark.parametrize("principals", [{"web": 2, "mail": 3}, {"mail": 3}], ids=["new key", "removed"])
def test_account_ends_with_the_external_account_key(site: Site, principals: dict[str, int]) -> None:
    """Its requests are refused, and registering again without a new binding does not help."""
    account, _ = site.register()
    site.principals = AcmePrincipals(principals)
    assert error_of(lambda: site.authenticate(account.id)).code == "unauthorized"
    assert error_of(lambda: site.register({})).code == "unauthorized"
    assert error_of(site.register).code == "unauthorized"
    site.principals = AcmePrincipals({"web": 1})
    assert site.authenticate(account.id) == account


def test_account_goes_on_with_a_new_external_account_key(site: Site) -> None:
    account, _ = site.register()
    site.principals = AcmePrincipals({"web": 2})
    payload = {"externalAccountBinding": site.binding(generation=2)}
    renewed, is_new = site.register(payload)
    assert not is_new
    assert (renewed.id, renewed.generation) == (account.id, 2)
    assert site.authenticate(account.id) == renewed


def test_listed_account_goes_on_after_its_principal_has_a_new_key(site: Site) -> None:
    """When it registers again, since the thumbprint is still listed."""
    account, _ = site.register({}, P384, "ES384")
    site.principals = AcmePrincipals({"mail": 4}, {THUMBPRINT: "mail"})
    assert site.register({}, P384, "ES384").account.generation == 4
    assert site.authenticate(account.id, P384, algorithm="ES384")


def test_deactivated_account_is_refused(site: Site) -> None:
    """Also with a binding: deactivation is final (RFC 8555 7.3.6)."""
    account, _ = site.register()
    assert site.accounts.update(account, {"status": "deactivated"}).status is AccountStatus.DEACTIVATED
    for call in (lambda: site.authenticate(account.id), site.register, lambda: site.register({})):
        assert error_of(call).code == "unauthorized"


def test_contacts_are_updated(site: Site) -> None:
    """Other members are ignored, and an empty update changes nothing (RFC 8555 7.3.2)."""
    account, _ = site.register()
    contact = ["mailto:a@example.com"]
    updated = site.accounts.update(account, {"contact": contact, "principal": "mail", "orders": "x"})
    assert (updated.contacts, updated.principal) == (("mailto:a@example.com",), "web")
    assert site.accounts.update(updated, {}) == updated
    assert site.ledger.get_account(account.id) == updated
    for status in ("revoked", None, 1, ["valid"], {"valid": 1}):
        change = {"status": status}
        assert error_of(lambda change=change: site.accounts.update(updated, change)).code == "malformed"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("contact", "code"),
    [
        ("mailto:a@example.com", "invalidContact"),
        (["mailto:a@example.com"] * 11, "invalidContact"),
        (["mailto:" + "a" * 320], "invalidContact"),
        (["mailto:a\n@example.com"], "invalidContact"),
        ([5], "invalidContact"),
        (["tel:+123"], "unsupportedContact"),
        (["javascript:alert(1)"], "unsupportedContact"),
    ],
)
def test_contact_that_is_refused(site: Site, contact: Any, code: str) -> None:
    payload = {"externalAccountBinding": site.binding(), "contact": contact}
    assert error_of(lambda: site.register(payload)).code == code
    assert site.ledger.find_account(AccountKey.parse(jws_requests.jwk(P256)).thumbprint) is None


def test_update_is_not_lost_in_a_conflict(site: Site) -> None:
    """The change is made to the account that another request has stored."""
    account, _ = site.register()
    site.accounts.update(account, {"contact": ["mailto:a@example.com"]})
    updated = site.accounts.update(account, {"contact": ["mailto:b@example.com"]})
    assert (updated.revision, updated.contacts) == (2, ("mailto:b@example.com",))
    site.accounts.update(updated, {"status": "deactivated"})
    assert error_of(lambda: site.accounts.update(updated, {"contact": []})).code == "unauthorized"


def inner(account_id: str, new: Key, **change: Any) -> dict[str, Any]:
    """The payload of a request for another key."""
    content = {"account": ACCOUNTS + account_id, "oldKey": jws_requests.jwk(P256)} | change.pop("content", {})
    signer = change.pop("signer", new)
    header = {"alg": "ES256", "url": CHANGE, "jwk": jws_requests.jwk(new)} | change
    header = {name: value for name, value in header.items() if value is not None}
    return jws_requests.sign(signer, header, json.dumps(content).encode())


def change_key(site: Site, account: Any, payload: dict[str, Any]) -> Any:
    return site.accounts.change_key(account, payload, CHANGE, ACCOUNTS + account.id)


def test_key_is_changed(site: Site) -> None:
    """The account is that of the new key only, and keeps its principal."""
    account, _ = site.register()
    changed = change_key(site, account, inner(account.id, OTHER))
    assert changed.principal == "web"
    assert site.authenticate(account.id, OTHER) == changed
    assert error_of(lambda: site.authenticate(account.id)).code == "malformed"
    assert site.register({}, OTHER) == (changed, False)
    assert error_of(lambda: site.register({})).code == "externalAccountRequired"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"content": {"account": ACCOUNTS + "other"}}, "malformed"),
        ({"content": {"oldKey": jws_requests.jwk(OTHER)}}, "malformed"),
        ({"content": {"oldKey": None}}, "malformed"),
        ({"url": URL}, "malformed"),
        ({"nonce": "n"}, "malformed"),
        ({"jwk": None, "kid": "x"}, "malformed"),
        ({"signer": P256}, "malformed"),
    ],
    ids=["other-account", "other-key", "no-key", "other-url", "nonce", "kid", "other-signer"],
)
def test_key_change_that_is_refused(site: Site, change: dict[str, Any], code: str) -> None:
    """The new key must have signed it, for this account and its key."""
    account, _ = site.register()
    assert error_of(lambda: change_key(site, account, inner(account.id, OTHER, **change))).code == code
    assert site.authenticate(account.id) == account


def test_key_of_another_account_is_a_conflict(site: Site) -> None:
    account, _ = site.register()
    site.register(key=OTHER)
    error = error_of(lambda: change_key(site, account, inner(account.id, OTHER)))
    assert (error.code, error.status) == ("conflict", 409)


def test_key_that_was_changed_meanwhile_changes_no_key(site: Site) -> None:
    """The earlier key has signed the request."""
    account, _ = site.register()
    third = jws_requests.new_key("ES256")
    change_key(site, account, inner(account.id, third))
    assert error_of(lambda: change_key(site, account, inner(account.id, OTHER))).code == "unauthorized"
    assert site.authenticate(account.id, third)


def test_nonce_is_accepted_once(site: Site) -> None:
    """Of any request; the second request is refused, although all else is right."""
    nonce = site.accounts.create_nonce()
    account, _ = site.register(nonce=nonce)
    assert error_of(lambda: site.register(nonce=nonce)).code == "badNonce"
    assert error_of(lambda: site.authenticate(account.id, nonce=nonce)).code == "badNonce"
    body = site.request(account.id)
    site.accounts.authenticate(json.loads(body), ORDER, ACCOUNTS)
    assert error_of(lambda: site.accounts.authenticate(json.loads(body), ORDER, ACCOUNTS)).code == "badNonce"


def test_request_is_accepted_once_by_threads(site: Site) -> None:
    """Ten threads send one request at the same time."""
    account, _ = site.register()
    body, outcomes = site.request(account.id), []

    def send() -> None:
        try:
            site.accounts.authenticate(json.loads(body), ORDER, ACCOUNTS)
            outcomes.append("ok")
        except AcmeError as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=send) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["badNonce"] * 9 + ["ok"]


def test_nonce_that_has_expired_or_is_foreign_is_refused(site: Site) -> None:
    nonce = site.accounts.create_nonce()
    site.clock.advance(NONCE_LIFE)
    for bad in (nonce, "A" * 44, "x"):
        assert error_of(lambda bad=bad: site.register(nonce=bad)).code == "badNonce"  # type: ignore[misc]


@pytest.mark.parametrize("kid", ["https://ca.example/prod/acme/account/x", "https://other.example/acme/account/1", "x", ACCOUNTS, ACCOUNTS + "\ud800", ACCOUNTS + "a" * 2_000, ACCOUNTS + "é" * 22])  # fmt: skip
def test_unknown_account_is_refused(site: Site, kid: str) -> None:
    error = error_of(lambda: site.authenticate("", kid=kid))
    assert error.code == "accountDoesNotExist"


def test_account_of_another_host_is_refused(site: Site) -> None:
    """The kid is a URL of this CA, not only an identifier."""
    account, _ = site.register()
    assert error_of(lambda: site.authenticate("", kid=account.id)).code == "accountDoesNotExist"


def test_key_is_only_for_registration(site: Site) -> None:
    """Other requests have a kid, and registration has a jwk (RFC 8555 6.2)."""
    account, _ = site.register()
    with_key = request(None, nonce=site.accounts.create_nonce(), url=ORDER)
    assert (
        error_of(lambda: site.accounts.authenticate(json.loads(with_key), ORDER, ACCOUNTS)).code
        == "malformed"
    )
    assert error_of(lambda: site.register(jwk=None, kid=ACCOUNTS + account.id)).code == "malformed"


def test_signature_of_another_key_is_refused_and_uses_no_nonce(site: Site) -> None:
    """So a stranger cannot use up the nonce of a client, nor fill the ledger."""
    account, _ = site.register()
    nonce = site.accounts.create_nonce()
    assert error_of(lambda: site.authenticate(account.id, OTHER, nonce=nonce)).code == "malformed"
    assert site.authenticate(account.id, nonce=nonce) == account


def test_strangers_cost_no_work_with_public_keys(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of these requests is refused before a key is even parsed."""
    account, _ = site.register()
    stored = site.ledger._scalar("SELECT count(*) FROM nonce")

    def fail(*_arguments: object) -> None:
        raise AssertionError("a public key was used")

    for name in ("parse", "decode"):
        monkeypatch.setattr(AccountKey, name, fail)
    wrong_mac = binding(b"x" * 64, "web.1", jws_requests.jwk(RSA))
    for call, code in (
        (lambda: site.register(nonce="A" * 44), "badNonce"),
        (lambda: site.authenticate(account.id, nonce="A" * 44), "badNonce"),
        (lambda: site.authenticate("unknown"), "accountDoesNotExist"),
        (lambda: site.register({"externalAccountBinding": wrong_mac}, RSA, "RS256"), "unauthorized"),
        (lambda: site.register({}, RSA, "RS256"), "externalAccountRequired"),
        (lambda: site.register({"onlyReturnExisting": True}, RSA, "RS256"), "accountDoesNotExist"),
    ):
        assert error_of(call).code == code
    assert site.ledger._scalar("SELECT count(*) FROM nonce") == stored


def test_weak_key_gets_no_account(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of certificates' keys applies."""

    def refuse(_key: object) -> None:
        raise BadPublicKey("weak")

    monkeypatch.setattr(weak_keys, "verify_strength", refuse)
    assert error_of(site.register).code == "badPublicKey"

"""Authenticate ACME's requests, and register accounts (RFC 8555 6, 7.3).

The checks are in the order of their cost: the form of the request, the MAC of its nonce, the account or the
MAC of its external account binding, and the signature. A nonce is stored as used only after that, so
strangers neither cost work with public keys nor fill the ledger. A request that is sent again may fail one of
these checks, since the first one has changed the account: its nonce is looked up before it is refused.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from service.ledger_protocol import Account, AccountStatus, Conflict, KeyInUse, Ledger, is_id, new_id
from service.pki import acme_key
from service.pki.acme_key import AcmeKey, AcmePrincipals, ExternalKeyId, InvalidNonce
from service.pki.errors import CAError, IssuanceError, quote
from service.web import jws
from service.web.acme_problems import AcmeError
from service.web.jws import AccountKey, SignedRequest

MAX_CONTACTS: Final = 10
MAX_CONTACT: Final = 320  # characters; 64 and 255 before and after the @ of an address (RFC 5321 4.5.3.1)
_REQUESTED_STATUSES: Final = (AccountStatus.VALID, AccountStatus.DEACTIVATED)
_ATTEMPTS: Final = 3  # of a change that conflicts with another one


class Registration(NamedTuple):
    """An account, and whether the request created it."""

    account: Account
    is_new: bool


class AcmeAccounts:
    """The accounts of a ledger, and the requests that they sign."""

    def __init__(
        self,
        ledger: Ledger,
        key: AcmeKey,
        load_principals: Callable[[], AcmePrincipals],
        clock: Callable[[], datetime],
    ) -> None:
        """Prepare to authenticate.

        Args:
            ledger: stores accounts and used nonces.
            key: creates and verifies nonces, and derives external account keys.
            load_principals: returns the principals that may have accounts. Called for each request.
            clock: returns the current time, UTC.
        """
        self._ledger = ledger
        self._key = key
        self._load_principals = load_principals
        self._clock = clock

    def create_nonce(self) -> str:
        """Create a nonce, which each response contains (RFC 8555 6.5)."""
        created_at = max(self._clock(), self._ledger.earliest_nonce())
        return self._key.create_nonce(secrets.token_bytes(acme_key.NONCE_RANDOM_BYTES), created_at)

    def authenticate(
        self, body: Mapping[str, Any], url: str, accounts_url: str
    ) -> tuple[Account, SignedRequest]:
        """Verify a request that an account signed.

        Args:
            body: the body of the request.
            url: the URL of the request, as clients know it.
            accounts_url: what is before the ID in the URLs of accounts.

        Raises:
            AcmeError: `badNonce`, `accountDoesNotExist`, `unauthorized`; or as `jws.parse_request`.
            CAUnavailable: the ledger is not available.
        """
        request = jws.parse_request(body, url)
        with self._consuming_nonce(request):
            if request.key is not None:
                raise AcmeError(
                    "malformed", "sign the request with the kid of your account, not with its jwk"
                )
            return self._authenticate(request, accounts_url), request

    def authenticate_revocation(
        self,
        body: Mapping[str, Any],
        url: str,
        accounts_url: str,
        verify_key: Callable[[SignedRequest, CertificatePublicKeyTypes], None],
    ) -> tuple[Account | None, SignedRequest]:
        """Verify a request that an account or the key of a certificate signed (RFC 8555 7.6).

        Args:
            body: the body of the request.
            url: the URL of the request, as clients know it.
            accounts_url: what is before the ID in the URLs of accounts.
            verify_key: called with a request and its key, before the signature is verified; raises an error
                if the key is not that of the certificate, or the CA did not issue the certificate.

        Returns:
            the account, None if the certificate's key signed; and the request.

        Raises:
            AcmeError: as `authenticate`, or of `verify_key`.
            CAUnavailable: the ledger is not available.
        """
        request = jws.parse_request(body, url)
        with self._consuming_nonce(request):
            if request.key is None:
                return self._authenticate(request, accounts_url), request
            key = AccountKey.parse(request.key)
            verify_key(request, key.public_key)
            request.verify(key)
        return None, request

    def _authenticate(self, request: SignedRequest, accounts_url: str) -> Account:
        account_id = request.key_id.removeprefix(accounts_url)
        is_account = account_id != request.key_id and is_id(account_id)
        account = self._ledger.get_account(account_id) if is_account else None
        if account is None:
            raise _unknown_account(f"the account {quote(request.key_id, 200)} does not exist")
        self._verify_active(account)
        request.verify(AccountKey.decode(account.public_key))
        return account

    def register(self, body: Mapping[str, Any], url: str) -> Registration:
        """Create an account (RFC 8555 7.3), or return that of the key.

        An account that exists gets the principal of a new external account binding, so that a new key of the
        principal does not need a new account key.

        Args:
            body: the body of the request.
            url: the URL of the request, as clients know it.

        Raises:
            AcmeError: `accountDoesNotExist`, `externalAccountRequired`, `unauthorized`, `badNonce`,
                `invalidContact`, `unsupportedContact`; or as `jws.parse_request` and `AccountKey.parse`.
            CAUnavailable: the ledger is not available.
        """
        request = jws.parse_request(body, url)
        with self._consuming_nonce(request):
            candidate, key_id, binding = self._verify_registration(request)
        if candidate:
            account = self._ledger.add_account(candidate)
            return Registration(account, account == candidate)
        return Registration(self._rebind(jws.thumbprint_of(request.key), key_id, binding), is_new=False)

    def _verify_registration(
        self, request: SignedRequest
    ) -> tuple[Account | None, ExternalKeyId | None, object]:
        """Return the new account, None if the key has one; its principal; and the binding."""
        if request.key is None:
            raise AcmeError("malformed", "sign the request for an account with the jwk of its key")
        payload = request.json()
        contacts = _parse_contacts(payload.get("contact", []))
        thumbprint = jws.thumbprint_of(request.key)
        existing = self._ledger.find_account(thumbprint)
        binding = payload.get("externalAccountBinding")
        key_id = self._external_account(binding, request, thumbprint)
        only_existing = payload.get("onlyReturnExisting", False)
        if not isinstance(only_existing, bool):
            raise AcmeError("malformed", "onlyReturnExisting is neither true nor false")
        if existing is None and only_existing:
            raise _unknown_account(f"the account key with the thumbprint {thumbprint} has no account")
        if existing is None and key_id is None:
            raise AcmeError(
                "externalAccountRequired",
                "this CA requires an external account binding: pass the key identifier and the HMAC key that "
                f"its administrator gave you; the account key has the thumbprint {thumbprint}",
            )
        key = AccountKey.parse(request.key)
        if existing is None:
            key.verify_strength()
        request.verify(key)
        if existing or key_id is None:
            return None, key_id, binding
        account = Account(
            new_id(), thumbprint, key.encode(), *key_id, self._clock(), _encode(binding), contacts
        )
        return account, key_id, binding

    def update(self, account: Account, payload: dict[str, Any]) -> Account:
        """Change the contacts of an account, or deactivate it (RFC 8555 7.3.2, 7.3.6); ignore other members.

        Raises:
            AcmeError: `malformed`, `invalidContact` or `unsupportedContact`.
        """
        if payload.get("status", "valid") not in _REQUESTED_STATUSES:
            raise AcmeError("malformed", "the status of an account can only be changed to deactivated")
        contacts = _parse_contacts(payload["contact"]) if "contact" in payload else account.contacts
        status = AccountStatus(payload.get("status", "valid"))
        return self._change(account, lambda stored: replace(stored, contacts=contacts, status=status))

    def change_key(self, account: Account, payload: dict[str, Any], url: str, account_url: str) -> Account:
        """Replace the key of an account (RFC 8555 7.3.5).

        Args:
            account: the account, which signed the request.
            payload: the payload of the request: a JWS by the new key.
            url: the URL of the request.
            account_url: the URL of the account.

        Raises:
            AcmeError: `malformed`, `badPublicKey`; or `conflict`, since another account has the key.
        """
        inner = jws.parse_inner_request(payload, url)
        if inner.key is None:
            raise AcmeError("malformed", "the inner JWS has no jwk: sign it with the new key")
        content = inner.json()
        if content.get("account") != account_url:
            raise AcmeError("malformed", "the account of the inner JWS is not the account of the request")
        if jws.thumbprint_of(content.get("oldKey")) != account.thumbprint:
            raise AcmeError("malformed", "the oldKey of the inner JWS is not the key of the account")
        key = AccountKey.parse(inner.key)
        key.verify_strength()
        inner.verify(key)

        def change(stored: Account) -> Account:
            if stored.thumbprint != account.thumbprint:
                raise AcmeError("unauthorized", "the key of the account has just been changed")
            return replace(stored, thumbprint=key.thumbprint, public_key=key.encode())

        try:
            return self._change(account, change)
        except KeyInUse as error:
            owner = self._ledger.find_account(key.thumbprint)
            location = {"Location": account_url.removesuffix(account.id) + owner.id} if owner else {}
            raise AcmeError("conflict", "the new key is that of another account", location) from error

    @contextlib.contextmanager
    def _consuming_nonce(self, request: SignedRequest) -> Iterator[None]:
        """Verify the nonce, then the request in the `with` statement, and then use the nonce up."""
        try:
            end = self._key.verify_nonce(request.nonce, self._clock())
        except InvalidNonce as error:
            raise _bad_nonce(str(error)) from error
        try:
            yield
        except (AcmeError, IssuanceError) as error:
            if not isinstance(error, CAError) and self._ledger.is_consumed(request.nonce):
                raise _used_nonce() from error
            raise
        if not self._ledger.consume_nonce(request.nonce, end):
            raise _used_nonce()

    def _verify_active(self, account: Account) -> None:
        _verify_valid(account)
        if not self._load_principals().has(ExternalKeyId(account.principal, account.generation)):
            raise AcmeError(
                "unauthorized",
                "the account has ended, since its external account key was replaced or removed: register "
                "again with the key that the CA administrator gives you",
            )

    def _external_account(
        self, binding: object, request: SignedRequest, thumbprint: str
    ) -> ExternalKeyId | None:
        """Return the principal of a binding, or for which the key is listed."""
        principals = self._load_principals()
        if binding is None:
            return principals.find(thumbprint)
        key_id = jws.verify_external_account(binding, request, self._key)
        if not principals.has(key_id):
            raise AcmeError("unauthorized", jws.WRONG_EXTERNAL_ACCOUNT)
        return key_id

    def _rebind(self, thumbprint: str, key_id: ExternalKeyId | None, binding: object) -> Account:
        """Return the account of a key, with the principal of a binding."""
        account = self._ledger.find_account(thumbprint)
        if account is None:
            raise _unknown_account("the key of the account has just been changed")
        has_ended = not self._load_principals().has(ExternalKeyId(account.principal, account.generation))
        is_bound_again = key_id is not None and (binding is not None or has_ended)
        if account.status is AccountStatus.VALID and is_bound_again and key_id:
            principal, generation = key_id
            account = self._change(
                account,
                lambda stored: replace(
                    stored,
                    principal=principal,
                    generation=generation,
                    external_account_binding=_encode(binding),
                ),
            )
        self._verify_active(account)
        return account

    def _change(self, account: Account, change: Callable[[Account], Account]) -> Account:
        """Store a change of an account; if another process has changed it, change the new value."""
        for _ in range(_ATTEMPTS):
            try:
                changed = change(account)
                return account if changed == account else self._ledger.update_account(changed)
            except Conflict:
                account = self._ledger.get_account(account.id) or account
                _verify_valid(account)
        raise AcmeError("conflict", "the account is being changed by other requests: try again")


def _verify_valid(account: Account) -> None:
    if account.status is not AccountStatus.VALID:
        raise AcmeError("unauthorized", f"the account is {account.status}: register with another key")


def _parse_contacts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_CONTACTS:
        raise AcmeError("invalidContact", f"contact is not a list of at most {MAX_CONTACTS} URLs")
    for contact in value:
        is_url = isinstance(contact, str) and len(contact) <= MAX_CONTACT and contact.isprintable()
        if not is_url:
            raise AcmeError("invalidContact", "a contact is not a URL such as mailto:admin@example.com")
        if not contact.lower().startswith("mailto:"):
            raise AcmeError("unsupportedContact", f"contact {quote(contact)} is not a mailto URL")
    return tuple(value)


def _encode(binding: object) -> str:
    return "" if binding is None else json.dumps(binding, separators=(",", ":"))


def _unknown_account(detail: str) -> AcmeError:
    return AcmeError("accountDoesNotExist", f"{detail}: register first")


def _used_nonce() -> AcmeError:
    return _bad_nonce("the nonce was used before")


def _bad_nonce(detail: str) -> AcmeError:
    return AcmeError("badNonce", f"{detail}: use the Replay-Nonce of this response")

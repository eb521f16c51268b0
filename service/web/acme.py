"""ACME (RFC 8555): the operations. The requests are signed, and have no API key."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

import flask
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from service.authority import Authority
from service.challenge_queue import ChallengeQueue
from service.ledger_protocol import (
    MAX_LISTED,
    Account,
    AuthorizationStatus,
    Ledger,
    Order,
    OrderStatus,
)
from service.openapi import ACME_PREFIX
from service.pki import certificate_reader, encoding
from service.pki.acme_key import AcmePrincipals
from service.pki.errors import CAUnavailable, RejectedIdentifier, Unauthorized
from service.pki.profile_loader import Challenge
from service.quota import Quota
from service.revocations import Revocation, RevocationRequest
from service.web import identity, jws
from service.web.acme_accounts import AcmeAccounts
from service.web.acme_challenges import WILDCARD, AcmeChallenges
from service.web.acme_orders import AcmeOrders
from service.web.acme_problems import NAMESPACE, AcmeError
from service.web.jws import SignedRequest
from service.web.responses import PEM_CHAIN, Response, json_response

RETRY_AFTER: Final = 2  # seconds until a client asks again for an order or a challenge that is processed
_UNPROVEN: Final = (
    "The account has not proven each name of the certificate by http-01 in the last hours, so it may not "
    "revoke it: sign the request with the certificate's key"
)
_NO_STORE: Final = "no-store"
_DIRECTORY: Final = {  # member -> path
    "newNonce": "new-nonce",
    "newAccount": "new-account",
    "newOrder": "new-order",
    "revokeCert": "revoke-cert",
    "keyChange": "key-change",
}


class AcmeStore(NamedTuple):
    """What ACME needs.

    Attributes:
        ledger: stores accounts and orders.
        load_principals: returns the principals that may have accounts.
        quota: how many orders each principal may create; None for any number.
        challenges: has challenges validated; None if nothing validates them.
    """

    ledger: Ledger
    load_principals: Callable[[], AcmePrincipals]
    quota: Quota | None = None
    challenges: ChallengeQueue | None = None


_REASONS: Final[dict[object, x509.ReasonFlags | None]] = {  # CRLReason (RFC 5280 5.3.1)
    0: None,
    1: x509.ReasonFlags.key_compromise,
    3: x509.ReasonFlags.affiliation_changed,
    4: x509.ReasonFlags.superseded,
    5: x509.ReasonFlags.cessation_of_operation,
    9: x509.ReasonFlags.privilege_withdrawn,
}


class _Call(NamedTuple):
    """A request whose signature was verified."""

    account: Account
    request: SignedRequest

    def payload(self) -> dict[str, Any]:
        """Parse the payload; a POST-as-GET has none."""
        return self.request.json() if self.request.payload else {}

    def require_no_payload(self) -> None:
        """Raise `AcmeError` if the request is not a POST-as-GET (RFC 8555 6.3)."""
        if self.request.payload:
            raise AcmeError("malformed", "the resource can only be read: send an empty payload")


class AcmeSite:
    """ACME's accounts and orders, if the CA has them."""

    def __init__(self, authority: Authority, store: AcmeStore | None) -> None:
        """Use the authority that issues the certificates; without a store, there is no ACME."""
        self.authority = authority
        self._store = store

    def require_accounts(self) -> AcmeAccounts:
        """Return the accounts; raise `AcmeError`, `notFound`, if the CA has no ACME."""
        store = self._require_store()
        if not identity.base_url():
            raise _no_acme("ACME needs the public URL: the administrator of this CA has to configure it")
        key = self.authority.load_acme_key()
        if key is None:
            raise _no_acme(
                "this CA has no ACME principal: its administrator has to add one (certlet acme add)"
            )
        return AcmeAccounts(store.ledger, key, store.load_principals, self.authority.clock)

    def require_orders(self) -> AcmeOrders:
        """Return the orders; raise `AcmeError`, `notFound`, if the CA has no ledger."""
        store = self._require_store()
        has_validator = store.challenges is not None
        return AcmeOrders(store.ledger, self.authority, store.quota, has_validator=has_validator)

    def require_challenges(self) -> AcmeChallenges:
        """Return the challenges; raise as `require_orders`."""
        store = self._require_store()
        return AcmeChallenges(store.ledger, self.authority.clock, store.challenges)

    def _require_store(self) -> AcmeStore:
        if self._store is None:
            raise _no_acme("ACME needs a ledger: the administrator of this CA has to configure one")
        return self._store

    def add_headers(self, response: flask.Response) -> flask.Response:
        """Add a nonce and the URL of the directory, which each response has (RFC 8555 6.5, 7.1)."""
        with contextlib.suppress(AcmeError, CAUnavailable):  # the response says so already
            accounts = self.require_accounts()
            response.headers["Replay-Nonce"] = accounts.create_nonce()
            links = (response.headers.get("Link"), _link(_url("directory"), "index"))  # aws-wsgi keeps one
            response.headers["Link"] = ", ".join(filter(None, links))
        return response

    def revoke(
        self, certificate: x509.Certificate, account: Account | None, reason: x509.ReasonFlags | None
    ) -> Revocation:
        """Revoke a certificate; without an account, its key has signed the request."""
        name = f"certificate:{encoding.format_serial(certificate.serial_number)}"
        request = RevocationRequest(
            certificate, reason, account.principal if account else name, "", identity.request_id()
        )
        authorize = functools.partial(self._verify_may_revoke, certificate, account)
        ledger = self._store.ledger if self._store else None
        return self.authority.revocations.revoke(request, ledger, authorize)

    def _verify_may_revoke(self, certificate: x509.Certificate, account: Account | None) -> None:
        """Verify that the account's principal is an operator, or may have every name (RFC 8555 7.6)."""
        if account is None or self.authority.profiles.is_operator(account.principal):
            return
        with contextlib.suppress(RejectedIdentifier):
            names = certificate_reader.alternative_names(certificate)
            if names and self.authority.may_have_names(names, account.principal):
                if not self.authority.profiles.challenge_for(account.principal):
                    return
                if self.require_challenges().has_proven(account, names):
                    return
                raise Unauthorized(_UNPROVEN)
        raise Unauthorized("The account may not have each name of the certificate, so it may not revoke it")


class AcmeOperations:
    """The operations; each method is named after its operationId."""

    def __init__(self, site: AcmeSite) -> None:
        self._site = site

    def acmeDirectory(self) -> Response:  # noqa: N802 - operationId
        """`GET /acme/directory`: the URLs of ACME (RFC 8555 7.1.1)."""
        self._site.require_accounts()
        profiles = {profile.name: profile.description for profile in self._site.authority.profiles}
        return json_response(
            {
                **{member: _url(path) for member, path in _DIRECTORY.items()},
                "renewalInfo": f"{identity.base_url()}/renewal-info",
                "meta": {"externalAccountRequired": True, "profiles": profiles},
            },
            _NO_STORE,
        )

    def acmeNewNonce(self) -> Response:  # noqa: N802 - operationId
        """`GET /acme/new-nonce`: a nonce in the header Replay-Nonce (RFC 8555 7.2)."""
        self._site.require_accounts()
        return Response(b"", "", _NO_STORE, HTTPStatus.NO_CONTENT)

    def acmeHeadNonce(self) -> Response:  # noqa: N802 - operationId
        """`HEAD /acme/new-nonce`: as `GET`, with the status that RFC 8555 7.2 requires."""
        self._site.require_accounts()
        return Response(b"", "", _NO_STORE)

    def acmeNewAccount(self, body: Mapping[str, Any]) -> Response:  # noqa: N802 - operationId
        """`POST /acme/new-account`: register, or find the account of a key (RFC 8555 7.3)."""
        account, is_new = self._site.require_accounts().register(body, identity.request_url())
        return _account_response(account, HTTPStatus.CREATED if is_new else HTTPStatus.OK)

    def acmeAccount(self, body: Mapping[str, Any], account_id: str) -> Response:  # noqa: N802 - operationId
        """`POST /acme/account/{account_id}`: show, update or deactivate an account (RFC 8555 7.3)."""
        call = self._authenticate(body)
        _require_own(call.account, account_id)
        return _account_response(self._site.require_accounts().update(call.account, call.payload()))

    def acmeOrders(self, body: Mapping[str, Any], account_id: str, cursor: str = "") -> Response:  # noqa: N802 - operationId
        """`POST /acme/account/{account_id}/orders`: the URLs of an account's orders (RFC 8555 7.1.2.1)."""
        call = self._authenticate(body)
        _require_own(call.account, account_id)
        call.require_no_payload()
        ids = self._site.require_orders().list_ids(call.account, cursor)
        response = json_response({"orders": [_url("order", order_id) for order_id in ids]}, _NO_STORE)
        if len(ids) == MAX_LISTED:
            query = urlencode({"cursor": ids[-1]})
            response.headers["Link"] = _link(f"{_url('account', account_id, 'orders')}?{query}", "next")
        return response

    def acmeKeyChange(self, body: Mapping[str, Any]) -> Response:  # noqa: N802 - operationId
        """`POST /acme/key-change`: replace the key of an account (RFC 8555 7.3.5)."""
        call = self._authenticate(body)
        account_url = _url("account", call.account.id)
        account = self._site.require_accounts().change_key(
            call.account, call.payload(), identity.request_url(), account_url
        )
        return _account_response(account)

    def acmeNewOrder(self, body: Mapping[str, Any]) -> Response:  # noqa: N802 - operationId
        """`POST /acme/new-order`: order a certificate (RFC 8555 7.4)."""
        call = self._authenticate(body)
        order = self._site.require_orders().create(call.account, call.payload())
        return self._order_response(order, HTTPStatus.CREATED)

    def acmeOrder(self, body: Mapping[str, Any], order_id: str) -> Response:  # noqa: N802 - operationId
        """`POST /acme/order/{order_id}`: show an order."""
        call, order = self._find_order(body, order_id)
        call.require_no_payload()
        return self._order_response(order)

    def acmeFinalize(self, body: Mapping[str, Any], order_id: str) -> Response:  # noqa: N802 - operationId
        """`POST /acme/order/{order_id}/finalize`: issue the certificate (RFC 8555 7.4)."""
        call, order = self._find_order(body, order_id)
        csr = jws.decode("csr", call.payload().get("csr"), jws.MAX_PAYLOAD)
        order = self._site.require_orders().finalize(call.account, order, csr, identity.request_id())
        return self._order_response(order)

    def acmeAuthorization(self, body: Mapping[str, Any], order_id: str, index: str) -> Response:  # noqa: N802 - operationId
        """`POST /acme/authorization/{order_id}/{index}`: an authorization (RFC 8555 7.5)."""
        call, order = self._find_order(body, order_id)
        position = _position(order, index)
        payload = call.payload()
        if payload.get("status") == "deactivated":
            order = self._site.require_orders().deactivate(order, position)
        elif "status" in payload:
            raise AcmeError("malformed", "the status of an authorization can only be changed to deactivated")
        else:
            self._site.require_challenges().repeat(call.account, order, position)
        return _validation_response(order, position, _authorization(order, position))

    def acmeChallenge(self, body: Mapping[str, Any], order_id: str, index: str) -> Response:  # noqa: N802 - operationId
        """`POST /acme/challenge/{order_id}/{index}`: show or start a challenge (RFC 8555 7.5.1)."""
        call, order = self._find_order(body, order_id)
        position = _position(order, index)
        challenges = self._site.require_challenges()
        if call.request.payload:
            call.request.json()  # an object; http-01 has no members
            order = challenges.start(call.account, order, position)
        else:
            challenges.repeat(call.account, order, position)
        response = _validation_response(order, position, _challenge(order, position))
        response.headers["Link"] = _link(_url("authorization", order.id, index), "up")
        return response

    def acmeCertificate(self, body: Mapping[str, Any], order_id: str) -> Response:  # noqa: N802 - operationId
        """`POST /acme/certificate/{order_id}`: the certificate and its chain (RFC 8555 7.4.2)."""
        call, order = self._find_order(body, order_id)
        call.require_no_payload()
        if not order.certificate:
            raise AcmeError("notFound", "the order has no certificate yet: finalize it")
        return Response(order.certificate.encode("ascii"), PEM_CHAIN, _NO_STORE)

    def acmeRevokeCert(self, body: Mapping[str, Any]) -> Response:  # noqa: N802 - operationId
        """`POST /acme/revoke-cert`: revoke a certificate (RFC 8555 7.6)."""
        accounts, url = self._site.require_accounts(), identity.request_url()
        account, request = accounts.authenticate_revocation(
            body, url, _url("account", ""), self._verify_certificate_key
        )
        reason = request.json().get("reason", 0)
        if isinstance(reason, bool) or not isinstance(reason, int) or reason not in _REASONS:
            accepted = ", ".join(map(str, _REASONS))
            raise AcmeError("badRevocationReason", f"the reason is not one of {accepted} (RFC 5280 5.3.1)")
        if not self._site.revoke(_certificate(request), account, _REASONS[reason]).is_new:
            raise AcmeError("alreadyRevoked", "the certificate is revoked already")
        return Response(b"", "", _NO_STORE)

    def _verify_certificate_key(self, request: SignedRequest, key: CertificatePublicKeyTypes) -> None:
        """Verify that a key is that of the certificate in a request, and that the CA issued it."""
        certificate = _certificate(request)
        if certificate.public_key() != key:
            raise AcmeError("unauthorized", "the request is not signed with the key of the certificate")
        self._site.authority.revocations.verify_issued(certificate)

    def _authenticate(self, body: Mapping[str, Any]) -> _Call:
        accounts = self._site.require_accounts()
        return _Call(*accounts.authenticate(body, identity.request_url(), _url("account", "")))

    def _find_order(self, body: Mapping[str, Any], order_id: str) -> tuple[_Call, Order]:
        call = self._authenticate(body)
        self._site.require_challenges().store_results()
        return call, self._site.require_orders().get(call.account, order_id)

    def _order_response(self, order: Order, status: int = HTTPStatus.OK) -> Response:
        order_status = order.status_at(self._site.authority.clock())
        document: dict[str, object] = {
            "status": order_status,
            "expires": encoding.format_timestamp(order.expires_at),
            "identifiers": [{"type": item.type, "value": item.value} for item in order.authorizations],
            "profile": order.profile,
            "authorizations": [
                _url("authorization", order.id, str(index)) for index in range(len(order.authorizations))
            ],
            "finalize": _url("order", order.id, "finalize"),
        }
        members = {"notBefore": order.not_before, "notAfter": order.not_after, "replaces": order.replaces}
        document |= {name: value for name, value in members.items() if value}
        if order.certificate:
            document["certificate"] = _url("certificate", order.id)
        response = json_response(document, _NO_STORE, status)
        response.headers["Location"] = _url("order", order.id)
        if order_status is OrderStatus.PROCESSING:
            response.headers["Retry-After"] = str(RETRY_AFTER)
        return response


def _no_acme(detail: str) -> AcmeError:
    return AcmeError("notFound", detail)


def _url(*segments: str) -> str:
    return f"{identity.base_url()}{ACME_PREFIX}{'/'.join(segments)}"


def _certificate(request: SignedRequest) -> x509.Certificate:
    der = jws.decode("certificate", request.json().get("certificate"), jws.MAX_PAYLOAD)
    try:
        return certificate_reader.parse_der(der)
    except ValueError as error:
        raise AcmeError("malformed", f"certificate: {error}") from error


def _link(url: str, relation: str) -> str:
    return f'<{url}>;rel="{relation}"'


def _require_own(account: Account, account_id: str) -> None:
    if account.id != account_id:
        raise AcmeError("unauthorized", "the request is not signed by this account")


def _account_response(account: Account, status: int = HTTPStatus.OK) -> Response:
    document: dict[str, object] = {
        "status": account.status,
        "contact": account.contacts,
        "orders": _url("account", account.id, "orders"),
    }
    if account.external_account_binding:
        document["externalAccountBinding"] = flask.json.loads(account.external_account_binding)
    response = json_response(document, _NO_STORE, status)
    response.headers["Location"] = _url("account", account.id)
    return response


def _position(order: Order, index: str) -> int:
    positions = {str(position): position for position in range(len(order.authorizations))}
    if index not in positions:
        raise AcmeError("notFound", "the order has no such authorization")
    return positions[index]


def _validation_response(order: Order, position: int, document: dict[str, object]) -> Response:
    """Create the response with a challenge or its authorization, which clients poll while it is validated."""
    response = json_response(document, _NO_STORE)
    if order.authorizations[position].status is AuthorizationStatus.PROCESSING:
        response.headers["Retry-After"] = str(RETRY_AFTER)
    return response


def _authorization(order: Order, position: int) -> dict[str, object]:
    item = order.authorizations[position]
    is_processing = item.status is AuthorizationStatus.PROCESSING
    is_wildcard = item.value.startswith(WILDCARD)  # no IP address does
    value = item.value.removeprefix(WILDCARD)
    return {
        "identifier": {"type": item.type, "value": value},
        "status": AuthorizationStatus.PENDING if is_processing else item.status,
        "expires": encoding.format_timestamp(order.expires_at),
        "challenges": [_challenge(order, position)],
        **({"wildcard": True} if is_wildcard else {}),
    }


def _challenge(order: Order, position: int) -> dict[str, object]:
    """The challenge of an authorization. Some clients require one, also in an authorization that is valid."""
    item = order.authorizations[position]
    is_deactivated = item.status is AuthorizationStatus.DEACTIVATED
    document: dict[str, object] = {
        "type": Challenge.HTTP_01,
        "url": _url("challenge", order.id, str(position)),
        "status": AuthorizationStatus.PENDING if is_deactivated else item.status,
        "token": item.token,
    }
    if item.status is AuthorizationStatus.VALID:
        document["validated"] = encoding.format_timestamp(item.challenged_at or order.created_at)
    if item.error:
        document["error"] = {"type": NAMESPACE + item.error.code, "detail": item.error.detail}
    return document

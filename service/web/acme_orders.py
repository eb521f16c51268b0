"""Orders of ACME (RFC 8555 7.4): create them, and issue their certificates once.

The principal's policy decides about names, so an order is ready from the start (RFC 8555 7.1.3),
unless the policy requires a challenge. Everything is evaluated again before the certificate is issued.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from service.authority import Approval, Authority, IssuanceRequest, Principal, PrincipalKind
from service.ledger_protocol import (
    Account,
    Authorization,
    AuthorizationStatus,
    Conflict,
    Ledger,
    Order,
    OrderNotReady,
    OrderStatus,
    is_id,
    new_id,
)
from service.pki import encoding, names
from service.pki.certificate import CertificateSpec
from service.pki.errors import IssuanceError, RejectedIdentifier, list_some, quote
from service.pki.names import Identifier, IdentifierKind
from service.pki.profile import Profile, RequestedValidity
from service.pki.renewal_info import CertificateId, UnknownCertificate
from service.quota import Quota
from service.web import acme_challenges, jws
from service.web.acme_problems import NAMESPACE, AcmeError

ORDER_LIFE: Final = timedelta(hours=8)
MAX_CLOCK_SKEW: Final = timedelta(minutes=1)  # between the client and the CA
_KINDS: Final = (IdentifierKind.DNS, IdentifierKind.IP)  # RFC 8555 9.7.7, RFC 8738


class AcmeOrders:
    """The orders of a ledger."""

    def __init__(
        self, ledger: Ledger, authority: Authority, quota: Quota | None, *, has_validator: bool
    ) -> None:
        """Use a ledger, and the authority that issues the certificates.

        Args:
            ledger: stores the orders.
            authority: issues the certificates.
            quota: that of each principal.
            has_validator: whether challenges can be validated.
        """
        self._ledger = ledger
        self._authority = authority
        self._quota = quota
        self._has_validator = has_validator

    def create(self, account: Account, payload: Mapping[str, Any]) -> Order:
        """Create an order (RFC 8555 7.4).

        Args:
            account: the account, which signed the request.
            payload: the payload of the request.

        Raises:
            AcmeError: `malformed`, `unsupportedIdentifier`, `rejectedIdentifier` with subproblems,
                `rateLimited`, `alreadyReplaced`; or `unauthorized`, since nothing validates the challenge
                that the principal's policy requires.
            IssuanceError: the principal may not use the profile, or the validity is refused.
            CAUnavailable: the ledger or the CA is not available.
        """
        identifiers = _parse_identifiers(payload.get("identifiers"))
        texts = {name: payload.get(name, "") for name in ("profile", "notBefore", "notAfter", "replaces")}
        if not all(isinstance(text, str) and text for name, text in texts.items() if name in payload):
            raise _malformed("profile, notBefore, notAfter and replaces are strings, which are not empty")
        profile = self._authority.profiles.get(texts["profile"] or None)
        now = self._authority.clock().replace(microsecond=0)
        times = {name: _parse_time(name, texts[name]) for name in ("notBefore", "notAfter")}
        _verify_not_before(times["notBefore"], profile, now)
        self._verify_not_after(times["notAfter"], profile, now)
        challenge = self._authority.profiles.challenge_for(account.principal)
        if challenge and not self._has_validator:
            raise AcmeError("unauthorized", acme_challenges.NO_VALIDATOR)
        violations = self._authority.name_violations(identifiers, account.principal, profile.name)
        unprovable = acme_challenges.unprovable_names(identifiers) if challenge else ()
        _raise_rejected(identifiers, [*violations, *unprovable])
        status = AuthorizationStatus.PENDING if challenge else AuthorizationStatus.VALID
        order = Order(
            id=new_id(),
            account=account.id,
            authorizations=tuple(
                Authorization(name.kind, name.value, status, new_id()) for name in identifiers
            ),
            status=OrderStatus.PENDING if challenge else OrderStatus.READY,
            created_at=now,
            expires_at=now + ORDER_LIFE,
            profile=profile.name,
            not_before=_format_time(times["notBefore"]),
            not_after=_format_time(times["notAfter"]),
            replaces=texts["replaces"],
        )
        self._count(account.principal, now)
        if order.replaces:
            self._mark_replaced(order, order.expires_at)
        self._ledger.add_order(order)
        return order

    def _count(self, principal: str, now: datetime) -> None:
        if self._quota is None:
            return
        period = self._quota.period_at(now)
        if not self._ledger.count(principal, period, self._quota.limit):
            orders = f"{self._quota.limit} orders, its quota"
            end = encoding.format_timestamp(period[1])
            detail = f"{quote(principal)} has created {orders}: try again at {end}"
            seconds = int((period[1] - now).total_seconds())
            raise AcmeError("rateLimited", detail, {"Retry-After": str(seconds)})

    def get(self, account: Account, order_id: str) -> Order:
        """Return an order of an account; raise `AcmeError` if there is none."""
        order = self._ledger.get_order(account.id, order_id) if is_id(order_id) else None
        if order is None:
            raise AcmeError(
                "notFound", "the account has no such order, or the order has expired: create another one"
            )
        return order

    def list_ids(self, account: Account, cursor: str) -> Sequence[str]:
        """Return the IDs of an account's orders after a cursor, at most `ledger_protocol.MAX_LISTED`."""
        if cursor and not is_id(cursor):
            raise _malformed("the cursor is not one of this CA")
        return self._ledger.list_orders(account.id, cursor)

    def deactivate(self, order: Order, index: int) -> Order:
        """Deactivate an authorization (RFC 8555 7.5.2). Its order becomes invalid, unless it is complete."""
        try:
            return self._ledger.update_order(order.deactivated(index))
        except Conflict as error:
            raise AcmeError("conflict", "the order is being changed by another request: try again") from error

    def finalize(self, account: Account, order: Order, csr: bytes, request_id: str) -> Order:
        """Issue the certificate of an order, once (RFC 8555 7.4).

        The order is claimed for the CSR first, and the certificate is stored before the order is returned.
        If this process is killed in between, another request with the same CSR takes over after a lease.

        Args:
            account: the account, which signed the request.
            order: its order.
            csr: the certificate signing request, DER.
            request_id: the gateway's ID of the request, for the audit log.

        Returns:
            the order, valid; or in the status `processing`, while another request issues its certificate.

        Raises:
            AcmeError: `orderNotReady`; or `badCSR`, since the CSR has other names, or an account's key.
            IssuanceError: as `Authority.issue`.
        """
        csr_sha256, holder = hashlib.sha256(csr).hexdigest(), new_id()
        if _is_of(order, csr_sha256) and order.status is OrderStatus.VALID:
            return order
        self._verify_proven(account, order)
        request = replace(
            _request(account, order.profile, request_id, not_after=order.not_after),
            csr=csr,
            idempotency_key=f"acme order {order.id}",
        )
        try:
            claimed = order.claimed(csr_sha256, holder, self._authority.clock())
            assert claimed.claim  # noqa: S101 - the line before sets it  # nosec B101
            approval = self._authority.approve(replace(request, issued_at=claimed.claim.issued_at))
            self._verify_csr(order, approval.spec)
            claimed = self._ledger.update_order(claimed)
        except (OrderNotReady, Conflict) as error:
            order = self.get(account, order.id)
            if _is_of(order, csr_sha256):
                return order
            detail = str(error) if isinstance(error, OrderNotReady) else "the order is being finalized"
            raise AcmeError("orderNotReady", f"{detail}: create another order") from error
        return self._issue(account, claimed, holder, approval)

    def _issue(self, account: Account, order: Order, holder: str, approval: Approval) -> Order:
        """Issue the certificate of an order that `holder` has claimed, and store it."""
        try:
            issued = self._authority.issue_approved(approval)
        except IssuanceError:
            with contextlib.suppress(Conflict, IssuanceError):  # the lease ends by itself
                self._ledger.update_order(order.released(holder))
            raise
        chain = encoding.encode_pem([issued.certificate, *issued.intermediates])
        try:
            completed = self._ledger.update_order(order.completed(holder, chain))
        except Conflict:  # another request has taken over after the lease
            return self.get(account, order.id)
        if order.replaces:
            with contextlib.suppress(AcmeError, IssuanceError):  # the mark then ends with the order
                self._mark_replaced(order, issued.spec.not_after)
        return completed

    def _verify_proven(self, account: Account, order: Order) -> None:
        """Verify that each name was proven, if the policy now requires it."""
        if order.status is OrderStatus.PENDING:
            raise AcmeError("orderNotReady", "the order is pending: respond to its challenges first")
        if order.status is OrderStatus.INVALID or all(item.is_proven for item in order.authorizations):
            return
        if self._authority.profiles.challenge_for(account.principal):
            raise AcmeError(
                "orderNotReady", "the policy of your account now requires http-01: create another order"
            )

    def _verify_csr(self, order: Order, spec: CertificateSpec) -> None:
        """Verify that the CSR has exactly the order's names, and no account's key (RFC 8555 7.4, 11.1)."""
        ordered = {(name.type, name.value) for name in order.authorizations}
        requested = {(str(name.kind), name.value) for name in spec.names}
        implied = names.identifier_in_cn(spec.common_name) if spec.common_name else None
        if spec.common_name and (implied is None or (str(implied.kind), implied.value) not in ordered):
            raise AcmeError(
                "badCSR",
                f"the common name {quote(spec.common_name)} of the CSR is not a name of the order: omit it",
            )
        if requested != ordered:
            extra, missing = _list(requested - ordered), _list(ordered - requested)
            detail = "; ".join(
                [
                    *([f"not in the order: {extra}"] if extra else []),
                    *([f"not in the CSR: {missing}"] if missing else []),
                ]
            )
            raise AcmeError("badCSR", f"the CSR and the order have different names; {detail}")
        thumbprint = jws.thumbprint_of_public_key(spec.public_key)
        if thumbprint and self._ledger.find_account(thumbprint):
            raise AcmeError(
                "badCSR", "the CSR has the key of an ACME account: create another key for the certificate"
            )

    def _verify_not_after(self, time: datetime | None, profile: Profile, now: datetime) -> None:
        requested = RequestedValidity(not_after=time)
        profile.validity_period(now, self._authority.load_issuer().not_before, requested)

    def _mark_replaced(self, order: Order, until: datetime) -> None:
        """Mark the certificate that an order replaces (RFC 9773 5)."""
        try:
            certificate_id = CertificateId.parse(order.replaces)
            self._authority.status.renewal_window(certificate_id)
        except (ValueError, UnknownCertificate) as error:
            raise _malformed(f"replaces: {error}") from error
        if not self._ledger.mark_replaced(order.replaces, order.id, until):
            raise AcmeError(
                "alreadyReplaced",
                "another order replaces this certificate: order without the member replaces",
            )


def _request(account: Account, profile: str, request_id: str, not_after: str) -> IssuanceRequest:
    principal = Principal(PrincipalKind.ACME, account.principal)
    return IssuanceRequest(b"", profile, principal, request_id, not_after=not_after or None)


def _is_of(order: Order, csr_sha256: str) -> bool:
    """Whether an order is finalized, or being finalized, with this CSR."""
    return order.claim is not None and order.claim.csr_sha256 == csr_sha256


def _parse_identifiers(value: object) -> list[Identifier]:
    if not isinstance(value, list) or not value:
        raise _malformed("identifiers is not a list with at least one identifier")
    if len(value) > names.MAX_NAMES:
        raise _malformed(
            f"{len(value)} identifiers; at most {names.MAX_NAMES} are accepted: create several orders"
        )
    parsed: dict[Identifier, None] = {}
    problems = []
    for item in value:
        if not isinstance(item, dict) or not all(
            isinstance(item.get(name), str) for name in ("type", "value")
        ):
            raise _malformed("an identifier is an object with the strings type and value")
        if item["type"] not in _KINDS:
            detail = f"identifiers of type {quote(item['type'], 40)} are not supported: use dns or ip"
            problems.append(_subproblem("unsupportedIdentifier", detail, item))
            continue
        try:
            parsed[_parse_identifier(IdentifierKind(item["type"]), item["value"])] = None
        except RejectedIdentifier as error:
            problems.append(_subproblem("rejectedIdentifier", error.detail, item))
    _raise_subproblems(problems)
    return list(parsed)


def _parse_identifier(kind: IdentifierKind, value: str) -> Identifier:
    if kind is not IdentifierKind.IP:
        return names.parse_identifier(kind, value, "")
    try:
        address = ipaddress.ip_address("" if "%" in value else value)  # a certificate has no zone
    except ValueError as error:
        raise RejectedIdentifier(f"{quote(value)} is not an IP address") from error
    return names.parse_identifier(kind, address, "")


def _raise_rejected(identifiers: Sequence[Identifier], violations: Sequence[tuple[int | None, str]]) -> None:
    def problems() -> Iterator[dict[str, object]]:
        for position, detail in violations:
            name = None if position is None else identifiers[position]
            identifier = {"type": str(name.kind), "value": name.value} if name else None
            yield _subproblem("rejectedIdentifier", detail, identifier)

    _raise_subproblems(list(problems()))


def _raise_subproblems(problems: Sequence[dict[str, object]]) -> None:
    """Refuse an order (RFC 8555 6.7.1). Clients print the detail, so it has the first reasons."""
    if not problems:
        return
    types = {str(problem["type"]).removeprefix(NAMESPACE) for problem in problems}
    code = types.pop() if len(types) == 1 else "rejectedIdentifier"
    details = [str(problem["detail"]) for problem in problems]
    raise AcmeError(code, list_some(details, "; "), subproblems=problems)


def _subproblem(code: str, detail: str, identifier: Mapping[str, str] | None) -> dict[str, object]:
    members = {"identifier": {name: identifier[name] for name in ("type", "value")}} if identifier else {}
    return {"type": NAMESPACE + code, "detail": detail, **members}


def _parse_time(name: str, text: str) -> datetime | None:
    """Parse a time of RFC 3339 to UTC and whole seconds; None if there is none."""
    try:
        return encoding.parse_timestamp(text).replace(microsecond=0) if text else None
    except ValueError as error:
        raise _malformed(f"{name} {quote(text, 40)} is {error}") from error


def _format_time(time: datetime | None) -> str:
    return encoding.format_timestamp(time) if time else ""


def _verify_not_before(time: datetime | None, profile: Profile, now: datetime) -> None:
    """A certificate is valid from the time of issue, less the profile's backdate."""
    if time and not now - profile.backdate <= time <= now + MAX_CLOCK_SKEW:
        raise _malformed(
            f"notBefore {quote(_format_time(time))} is not now: omit it, since certificates are valid from "
            "their issue"
        )


def _list(names_: set[tuple[str, str]]) -> str:
    return list_some(sorted(value for _, value in names_))


def _malformed(detail: str) -> AcmeError:
    return AcmeError("malformed", detail)

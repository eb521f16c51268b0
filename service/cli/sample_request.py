"""The commands that `certlet serve` suggests: the CA grants their CSR, as the evaluation of requests says."""

from __future__ import annotations

import ipaddress
import itertools
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Final, NamedTuple, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from service.cli.first_start import DEFAULT_KEY
from service.cli.options import API_KEY, KEY_FILE
from service.gateway import api_keys
from service.keystore import ca_directory
from service.pki import csr, evaluation
from service.pki.certificate_reader import extension_value
from service.pki.errors import IssuanceError
from service.pki.evaluation import IssuanceContext
from service.pki.issuer import Issuer
from service.pki.keys import RSA_MIN_BITS, KeyKind
from service.pki.names import Identifier, IdentifierKind, distinguished_name
from service.pki.profile import Profile
from service.pki.profile_loader import IssuancePolicy

_MAX_SUBTREES: Final = 50  # of a policy with thousands
_DOMAINS: Final = ("example.com", "example.org")
_NETWORKS: Final = (ipaddress.ip_network("192.0.2.0/24"), ipaddress.ip_network("2001:db8::/32"))
_SCHEMES: Final = ("https", "spiffe")
_SAFE: Final = re.compile("[A-Za-z0-9._:/@-]+")  # without a meaning for a shell, or for OpenSSL
_PREFIXES: Final = {
    IdentifierKind.DNS: "DNS",
    IdentifierKind.IP: "IP",
    IdentifierKind.EMAIL: "email",
    IdentifierKind.URI: "URI",
}
_CURVE: Final = "-newkey ec -pkeyopt ec_paramgen_curve:"
_KEY_OPTIONS: Final = {  # by preference; without ML-DSA, which OpenSSL before 3.5 does not have
    KeyKind.P256: f"{_CURVE}P-256",
    KeyKind.P384: f"{_CURVE}P-384",
    KeyKind.P521: f"{_CURVE}P-521",
    KeyKind.ED25519: "-newkey ed25519",
    KeyKind.RSA: "-newkey rsa:",
}


class SampleRequest(NamedTuple):
    """A request that the CA grants.

    Attributes:
        caller: the principal.
        profile: the profile; '' for the default profile.
        key_options: the options of `openssl req` for the key.
        name_options: its options for the subject and the name.
    """

    caller: str
    profile: str
    key_options: str
    name_options: str


def suggest(directory: Path, policy: IssuancePolicy, new_key: str, curl: str, url: str) -> Iterator[str]:
    """Yield commands that get a certificate; if none is found that does, one that lists the profiles.

    Args:
        directory: the CA's directory.
        policy: the policy of the CA.
        new_key: the API key that the start created; '' if it created none.
        curl: the command for curl, with a space at its end.
        url: the URL of the server.
    """
    now, callers = datetime.now(UTC), [DEFAULT_KEY]
    has_default_key = new_key or os.environ.get(API_KEY)
    if not has_default_key:
        keys = api_keys.KeyFile(directory / KEY_FILE).read()
        callers = list(dict.fromkeys(key.name for key in keys if not key.is_expired(now))) or callers
    sample = find_sample(directory, policy, callers, now)
    if sample is None:
        yield f"{curl}{shlex.quote(f'{url}/profiles')}"
        return
    if not has_default_key:
        yield f"# with an API key of {sample.caller}"
    yield f"openssl req -new {sample.key_options} -nodes \\"
    yield f"  -keyout my.key {sample.name_options} -out my.csr"
    query = f"?profile={sample.profile}" if sample.profile else ""
    key = f'-H "x-api-key: {new_key or f"${API_KEY}"}"'
    yield f"{curl}{key} --data-binary @my.csr {shlex.quote(f'{url}/sign.pem{query}')}"


def find_sample(
    directory: Path, policy: IssuancePolicy, callers: Sequence[str], now: datetime
) -> SampleRequest | None:
    """Find a request that the CA in a directory grants to one of these callers; None if none is found.

    The first caller and the default profile are preferred. The key of the CA is not needed.
    """
    issuer = _load_issuer(directory)
    profiles = sorted(policy, key=lambda profile: profile.name != policy.default)
    for caller, profile in itertools.product(callers, profiles):
        key_options = _key_options(profile)
        if not key_options or policy.challenge_for(caller) or not profile.permits_principal(caller):
            continue
        # It is evaluated with a P-256 key: the kind of key affects nothing else.
        evaluated = replace(profile, public_keys=((KeyKind.P256, 0),))
        context = IssuanceContext(evaluated, policy, caller, issuer, now, now)
        if name_options := next(_granted_name_options(context), ""):
            name = "" if profile.name == policy.default else profile.name
            return SampleRequest(caller, name, key_options, name_options)
    return None


def _load_issuer(directory: Path) -> Issuer:
    """Load the CA without its key: this process has no private key, and signs nothing."""
    certificate, chain = ca_directory.load_chain(directory)
    without_key = SimpleNamespace(public_key=certificate.public_key)
    return Issuer(certificate, chain, cast("CertificateIssuerPrivateKeyTypes", without_key))


def _key_options(profile: Profile) -> str:
    """Return the options for a kind of key that the profile accepts; '' if OpenSSL may have none."""
    min_sizes = dict(profile.public_keys)
    kind = next((kind for kind in _KEY_OPTIONS if kind in min_sizes), None)
    if kind is None:
        return ""
    size = str(max(min_sizes[kind], RSA_MIN_BITS)) if kind is KeyKind.RSA else ""
    return _KEY_OPTIONS[kind] + size


def _granted_name_options(context: IssuanceContext) -> Iterator[str]:
    """Yield options of `openssl req` for names that are granted."""
    for name in _names(context):
        if not _SAFE.fullmatch(name.value) or evaluation.name_violations([name], context):
            continue
        if name.kind is IdentifierKind.DNS and _is_granted(context, name.value, None):
            yield f"-subj /CN={name.value}"
        if _is_granted(context, "", name):
            yield f"-subj / -addext subjectAltName={_PREFIXES[name.kind]}:{name.value}"
    if _is_granted(context, "my", None):
        yield "-subj /CN=my"


def _is_granted(context: IssuanceContext, common_name: str, name: Identifier | None) -> bool:
    """Whether a request with a common name ('' for none), and a subject alternative name, is granted."""
    subject = ((NameOID.COMMON_NAME, common_name),) if common_name else ()
    builder = x509.CertificateSigningRequestBuilder().subject_name(distinguished_name(subject))
    if name:
        builder = builder.add_extension(x509.SubjectAlternativeName([name.general_name()]), critical=False)
    request = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    try:
        evaluation.evaluate(csr.parse(request.public_bytes(Encoding.DER)), context)
    except IssuanceError:
        return False
    return True


def _names(context: IssuanceContext) -> Iterator[Identifier]:
    """Yield names of each kind in the subtrees that the profile, the caller's policy and the CA permit."""
    policies = [context.profile.names, *(policy for policy, _ in context.caller_policies)]
    subtrees = list(_permitted_subtrees(context.issuer))
    domains = [str(subtree) for subtree in subtrees if isinstance(subtree, str)]
    networks = [subtree for subtree in subtrees if not isinstance(subtree, str)]
    uris: list[str] = []
    schemes: list[str] = []
    for policy in policies:
        domains += policy.dns.permitted[:_MAX_SUBTREES] if policy.dns else ()
        domains += policy.email.permitted[:_MAX_SUBTREES] if policy.email else ()
        domains += policy.uri.hosts[:_MAX_SUBTREES] if policy.uri else ()
        networks += policy.ip.permitted[:_MAX_SUBTREES] if policy.ip else ()
        uris += policy.uri.permitted[:_MAX_SUBTREES] if policy.uri else ()
        schemes += policy.uri.schemes if policy.uri else ()
    hosts = [host for domain in (*domains, *_DOMAINS) for host in _hosts(domain)]
    yield from (Identifier(IdentifierKind.DNS, host) for host in hosts)
    for network in (*networks, *_NETWORKS):
        yield Identifier(IdentifierKind.IP, str(next(iter(network.hosts()))))
    yield from (Identifier(IdentifierKind.EMAIL, f"me@{host}") for host in hosts)
    for uri in (*uris, *(f"{scheme}://{host}/my" for scheme in (*schemes, *_SCHEMES) for host in hosts)):
        yield Identifier(IdentifierKind.URI, uri)
    yield Identifier(IdentifierKind.URI, "urn:example:my")


def _hosts(domain: str) -> tuple[str, ...]:
    """Return names in a subtree; with a leading dot, only names below it are."""
    base = domain.removeprefix(".")
    return (f"my.{base}",) if base != domain else (f"my.{base}", base)


def _permitted_subtrees(issuer: Issuer) -> Iterator[str | ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """Yield the domains and networks that the name constraints of the CA permit (RFC 5280 4.2.1.10)."""
    for certificate in (issuer.certificate, *issuer.chain):
        constraints = extension_value(certificate, x509.NameConstraints)
        for subtree in (constraints and constraints.permitted_subtrees) or ():
            if isinstance(subtree, x509.DNSName | x509.RFC822Name | x509.UniformResourceIdentifier):
                yield subtree.value.rpartition("@")[2]
            elif isinstance(subtree, x509.IPAddress):
                yield ipaddress.ip_network(subtree.value)

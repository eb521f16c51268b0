"""Signed requests of ACME clients, also malformed ones."""

from __future__ import annotations

import base64
import json
import warnings
from collections.abc import Mapping
from typing import Any

from joserfc import jws
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

URL = "https://ca.example/prod/acme/new-account"
KID = "https://ca.example/prod/acme/account/1"
NONCE = "n" * 44
MEMBERS = ("kty", "crv", "x", "y", "n", "e")

CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}


def new_key(algorithm: str) -> Key:
    if algorithm == "RS256":
        return RSAKey.generate_key(2048)
    return ECKey.generate_key(CURVES[algorithm]) if algorithm in CURVES else OKPKey.generate_key("Ed25519")


KEYS = {algorithm: new_key(algorithm) for algorithm in (*CURVES, "EdDSA", "RS256")}
P256, P384, RSA = KEYS["ES256"], KEYS["ES384"], KEYS["RS256"]


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def jwk(key: Key) -> dict[str, Any]:
    return {name: value for name, value in key.as_dict(private=False).items() if name in MEMBERS}


def sign(key: Key, header: Mapping[str, Any], payload: bytes) -> dict[str, Any]:
    """Sign with any header and any algorithm."""
    registry = JWSRegistry(algorithms=[header["alg"]], strict_check_header=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dict(jws.serialize_json({"protected": dict(header)}, payload, key, registry=registry))


def request(payload: object = None, key: Key = P256, algorithm: str = "ES256", **header: Any) -> bytes:
    """A request signed with its JWK; None in the header omits a member, and None as the payload is empty.

    The payload is sent as it is, if it is of bytes, and else as JSON.
    """
    members = {"alg": algorithm, "nonce": NONCE, "url": URL, "jwk": jwk(key)} | header
    if not isinstance(payload, bytes):
        payload = b"" if payload is None else json.dumps(payload).encode()
    members = {name: value for name, value in members.items() if value is not None}
    return json.dumps(sign(key, members, payload)).encode()


def binding(
    mac_key: bytes, key_id: str, account_key: Mapping[str, Any], algorithm: str = "HS256", **header: Any
) -> dict[str, Any]:
    """An external account binding."""
    members = {"alg": algorithm, "kid": key_id, "url": URL} | header
    members = {name: value for name, value in members.items() if value is not None}
    return sign(OctKey.import_key(mac_key), members, json.dumps(account_key).encode())

"""The gateway's configuration; in a module of its own so that the supervisor does not import aiohttp."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Configuration:
    """What the gateway gets when it starts, as one JSON object.

    Attributes:
        document: the contract.
        public_document: the contract for readers: how it is served and who may have what is not for them.
        host, port: where to listen; port 0 takes a free one.
        workers: how many there are.
        key_file: the file of API keys.
        env_keys: name -> SHA-256 of keys that are in no file.
        no_usage_plan: whether the usage plan is off.
        stage: the first segment of every path, as on AWS; none if it is empty.
        tls_certificate, tls_key: files in PEM; plain HTTP if they are empty.
        tls_key_password: what the key is encrypted under; OpenSSL asks on the terminal if there is none.
        tls_signing_event: the event for a worker that issues that certificate, with `crt_pem`, `chain_pem`
            and `not_after` in the response; empty if the file exists.
        tls_client_ca_event: the event for a worker that responds with the CAs of client certificates, PEM;
            empty if these are not asked for.
    """

    document: dict[str, Any] = field(repr=False)
    public_document: dict[str, Any] = field(repr=False)
    host: str
    port: int
    workers: int
    key_file: str
    env_keys: dict[str, str] = field(repr=False)
    no_usage_plan: bool = False
    stage: str = ""
    tls_certificate: str = ""
    tls_key: str = ""
    tls_key_password: str | None = field(default=None, repr=False)
    tls_signing_event: dict[str, Any] = field(default_factory=dict)
    tls_client_ca_event: dict[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """One line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"

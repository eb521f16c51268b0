"""The gateway's configuration, in a separate module so that the supervisor does not import aiohttp."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class AccessLogFormat(StrEnum):
    """The format of the access log."""

    JSON = "json"
    COMBINED = "combined"  # that of Apache and nginx


@dataclass(frozen=True)
class Configuration:
    """The start-up configuration of the gateway; the supervisor sends it as one JSON object.

    Attributes:
        document: the contract, with `{name+}` for a path parameter of several segments.
        public_document: the contract without its extensions and the principals of profiles.
        listeners: the descriptors of the listening sockets, which the process inherits.
        port: their port.
        workers: the number of workers.
        key_file: the path of the file of API keys.
        ledger: the path of the ledger, which only the workers may read; '' for none.
        env_keys: name -> SHA-256 of the keys of the environment.
        no_usage_plan: whether the usage plan is off.
        access_log_format: an `AccessLogFormat`.
        stage: the first segment of every path, as on AWS; may be empty.
        status_listeners: the descriptors of those of plain HTTP next to HTTPS, for the status of
            certificates.
        metrics_listeners: the descriptors of those for monitoring.
        probe_events: name -> event, whose response the listener for monitoring reads: `health`, `ca`, `crl`.
        has_ledger: whether the workers have a ledger.
        tls_certificate, tls_key: paths of PEM files; empty for plain HTTP.
        tls_certificate_pem, tls_key_pem: at a reload, the content of the operator's files, since the process
            can no longer read them; empty if they did not change.
        tls_key_password: the password of the key; if None and the key is encrypted, OpenSSL prompts for it.
        tls_name: the host of the server's URL; empty for the address that the client connects to.
        tls_signing_event: the event for a worker that issues that certificate, with `crt_pem`, `chain_pem`
            and `not_after` in the response; empty if the operator supplies the certificate.
        health_event: the event that a worker answers with 200 if it can issue certificates; empty for none.
        tls_client_ca_event: the event for a worker that responds with the CAs of client certificates, PEM;
            empty if the server does not request client certificates.
    """

    document: dict[str, Any] = field(repr=False)
    public_document: dict[str, Any] = field(repr=False)
    listeners: list[int]
    port: int
    workers: int
    key_file: str
    env_keys: dict[str, str] = field(repr=False)
    ledger: str = ""
    no_usage_plan: bool = False
    access_log_format: str = AccessLogFormat.JSON
    stage: str = ""
    status_listeners: list[int] = field(default_factory=list)
    metrics_listeners: list[int] = field(default_factory=list)
    probe_events: dict[str, dict[str, Any]] = field(default_factory=dict)
    has_ledger: bool = False
    tls_certificate: str = ""
    tls_key: str = ""
    tls_certificate_pem: str = ""
    tls_key_pem: str = field(default="", repr=False)
    tls_key_password: str | None = field(default=None, repr=False)
    tls_name: str = ""
    tls_signing_event: dict[str, Any] = field(default_factory=dict)
    health_event: dict[str, Any] = field(default_factory=dict)
    tls_client_ca_event: dict[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Encode as one line of JSON."""
        return json.dumps(vars(self)).encode() + b"\n"

"""What the gateway is told when it starts; apart, so that who tells it need not load a server."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Configuration:
    """What the gateway is told when it starts, as one JSON object.

    Attributes:
        document: the contract.
        published: the contract for readers: how it is served and who may have what is not for them.
        host, port: where to listen; port 0 takes a free one.
        workers: the function's concurrency.
        key_file: the file of API keys.
        extra_keys: name -> SHA-256 of keys that are in no file.
        unlimited: whether the usage plan is off.
        stage: the first segment of every path, as on AWS; none if it is empty.
        tls_certificate, tls_key: files in PEM; plain HTTP if they are empty.
        tls_order: the event that has the function sign that certificate, with `crt_pem`, `chain_pem` and
            `not_after` in its answer; none if the file is there.
        tls_clients: the event that has it answer, in PEM, under what client certificates are taken; none
            if they are not.
    """

    document: dict[str, Any] = field(repr=False)
    published: dict[str, Any] = field(repr=False)
    host: str
    port: int
    workers: int
    key_file: str
    extra_keys: dict[str, str] = field(repr=False)
    unlimited: bool = False
    stage: str = ""
    tls_certificate: str = ""
    tls_key: str = ""
    tls_order: dict[str, Any] = field(default_factory=dict)
    tls_clients: dict[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """One line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"

"""A gateway of any document and any handler, for tests: `python -m tests.gateway.running DOCUMENT HANDLER`."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from service.foreman import Foreman
from service.gateway.configuration import Configuration
from service.gateway.usage import digest
from tests import serving

LIBRARIAN = "tests.gateway.librarian.handler"


def library() -> dict[str, Any]:
    """The second document."""
    text = Path(__file__).with_name("library.yaml").read_text()
    return json.loads(json.dumps(yaml.safe_load(text)))  # type: ignore[no-any-return]


@contextlib.contextmanager
def gateway(
    directory: Path,
    document: dict[str, Any],
    handler: str = LIBRARIAN,
    **change: Any,
) -> Iterator[serving.Server]:
    """Serve a document."""
    options = {"workers": 1, "unlimited": True, **change}
    path = directory / "document.json"
    path.write_text(json.dumps({"document": document, **options}))
    command = (sys.executable, "-m", "tests.gateway.running", str(path), handler)
    with serving.serving(directory, command=command) as server:
        yield server


def main() -> int:
    """Be that gateway."""
    path, handler = Path(sys.argv[1]), sys.argv[2]
    stated = json.loads(path.read_text())
    configuration = Configuration(
        host="127.0.0.1",
        port=0,
        key_file=str(path.with_name("keys.json")),
        extra_keys={"reader": digest(serving.API_KEY), "other": digest(serving.API_KEY[::-1])},
        **{"published": stated["document"], **stated},
    )
    scheme = "https" if configuration.tls_certificate else "http"

    def announce(port: int) -> None:
        print(f"Form      {scheme}://127.0.0.1:{port}/sign\nsign.pem", flush=True)  # noqa: T201

    return Foreman(handler, os.environ).run(configuration, announce)


if __name__ == "__main__":
    sys.exit(main())

"""A gateway for any document and handler: `python -m tests.gateway.second_api DOCUMENT HANDLER`."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from service.gateway import listening
from service.gateway.api_keys import hash_key
from service.gateway.configuration import Configuration
from service.supervisor import Apply, Setup, Supervisor
from tests import factories, servers
from tests.gateway import echo_handler

HANDLER = "tests.gateway.echo_handler.handler"


def document() -> dict[str, Any]:
    """A second API: the contract's gateway responses and security schemes, other paths, a short time-out."""
    contract = factories.document()
    integration = {"type": "aws_proxy", "timeoutInMillis": 700}
    operation = {"security": [], "x-amazon-apigateway-integration": integration}
    responses = ("x-amazon-apigateway-gateway-responses", "x-gateway-responses")
    return {
        "x-usage-plan": {"rate": 2, "burst": 4, "quota": 6, "period": "DAY"},
        **{name: contract[name] for name in responses},
        "components": {"securitySchemes": contract["components"]["securitySchemes"]},
        "paths": {
            "/books": {"get": operation, "post": {**operation, "security": [{"apiKey": []}]}},
            "/books/{isbn}": {"get": operation},
            "/files/{path+}": {"get": operation},
        },
    }


@contextlib.contextmanager
def gateway_server(
    directory: Path, document: dict[str, Any], handler: str = HANDLER, **change: Any
) -> Iterator[servers.Server]:
    """Serve a document until the end of the block."""
    options = {"workers": 1, "no_usage_plan": True, **change}
    path = directory / "document.json"
    path.write_text(json.dumps({"document": document, **options}))
    command = (sys.executable, "-m", "tests.gateway.second_api", str(path), handler)
    with servers.certlet_server(directory, command=command) as server:
        yield server


def count_begun(server: servers.Server) -> int:
    """Count the calls with a pause that the workers of a server have begun."""
    with contextlib.suppress(FileNotFoundError):
        return server.log.with_name(echo_handler.BEGUN).stat().st_size
    return 0


def main() -> int:
    """Run the gateway."""
    path, handler = Path(sys.argv[1]), sys.argv[2]
    options = json.loads(path.read_text())
    listeners = listening.listen("127.0.0.1", 0, "--port")
    port = listeners[0].getsockname()[1]
    metrics = listening.listen("127.0.0.1", 0, "--metrics") if "probe_events" in options else []
    configuration = Configuration(
        listeners=[listener.fileno() for listener in listeners],
        port=port,
        metrics_listeners=[listener.fileno() for listener in metrics],
        key_file=str(path.with_name("keys.json")),
        env_keys={"reader": hash_key(servers.API_KEY), "other": hash_key(servers.API_KEY[::-1])},
        **{"public_document": options["document"], **options},
    )
    scheme = "https" if configuration.tls_certificate else "http"

    metrics_url = "".join(
        f"Metrics   http://127.0.0.1:{listener.getsockname()[1]}/metrics\n" for listener in metrics
    )

    def announce() -> None:
        print(f"{metrics_url}Web pages {scheme}://127.0.0.1:{port}/\nsign.pem", flush=True)  # noqa: T201 - what `certlet serve` prints

    setup = Setup(configuration, os.environ)

    def reload(apply: Apply) -> str:
        apply(setup)
        return ""

    return Supervisor(handler).run(setup, [*listeners, *metrics], announce, reload)


if __name__ == "__main__":
    sys.exit(main())

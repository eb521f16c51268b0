from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.oidc.download import MAX_BODY, TIMEOUT, DownloadError, _Request, create_tls_context, download
from tests import oidc_issuer, servers
from tests.oidc_issuer import Fault, Issuer

SLOW = "there was no complete response within 0.5 seconds"
NO_RESPONSE = "the server sent no complete HTTP response"
NO_TLS = "the server does not speak TLS 1.2 or 1.3, or ended the connection"


@pytest.fixture
def issuer(tmp_path: Path) -> Iterator[Issuer]:
    with oidc_issuer.running(tmp_path) as running:
        yield running


def get(issuer: Issuer, **change: Any) -> bytes:
    arguments = {"url": issuer.jwks_url, "context": create_tls_context(issuer.ca_file)}
    return download(**{**arguments, **change})


def has_no_request() -> bool:
    return not any(isinstance(thread, _Request) for thread in threading.enumerate())


def refusal(issuer: Issuer, **change: Any) -> str:
    """The reason why nothing is downloaded; the thread of the request has ended."""
    with pytest.raises(DownloadError) as caught:
        get(issuer, **change)
    servers.wait_until(has_no_request)
    return str(caught.value)


def test_file_is_downloaded(issuer: Issuer) -> None:
    assert get(issuer) == issuer.jwk_set()
    assert get(issuer, url=f"{issuer.jwks_url}?version=2") == issuer.jwk_set()
    assert issuer.fetches == 2


def test_request_has_no_cookie_and_no_credentials(issuer: Issuer) -> None:
    get(issuer)
    get(issuer)
    assert set(issuer.headers) == {"Host", "Accept-Encoding", "Accept", "Connection"}


def test_proxy_of_the_environment_is_not_used(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{servers.free_port()}")
    assert get(issuer) == issuer.jwk_set()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault.REDIRECT, "the server redirects (status 302), which is not followed"),
        (Fault.ERROR, "the server answered with status 500"),
        (Fault.HUGE, "the server sent more than 65536 octets"),
        (Fault.CLOSE, NO_RESPONSE),
        (Fault.NOT_HTTP, NO_RESPONSE),
        (Fault.WRONG_NAME, "the certificate is refused: Hostname mismatch, certificate is not valid for 'localhost'."),
        (Fault.EXPIRED, "the certificate is refused: certificate has expired"),
        (Fault.UNTRUSTED, "the certificate is refused: "),
        (Fault.OLD_TLS, NO_TLS),
    ],
)  # fmt: skip
def test_faulty_response_is_refused(issuer: Issuer, fault: Fault, reason: str) -> None:
    issuer.fault = fault
    assert refusal(issuer).startswith(reason)
    assert issuer.fetches <= 1


@pytest.mark.parametrize("fault", [Fault.SILENT, Fault.SLOW_HEADER, Fault.SLOW_BODY])
def test_slow_response_ends_at_the_total_time_limit(issuer: Issuer, fault: Fault) -> None:
    issuer.fault = fault
    start = time.monotonic()
    with pytest.raises(DownloadError) as caught:
        get(issuer, timeout=0.5)
    assert (str(caught.value), time.monotonic() - start < 2) == (SLOW, True)
    servers.wait_until(has_no_request)  # though the server still sends
    assert not issuer.released.is_set()


def test_server_that_does_not_start_tls_ends_at_the_time_limit(issuer: Issuer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/"
        assert refusal(issuer, url=url, timeout=0.5) == SLOW


def test_name_lookup_counts_for_the_time_limit(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    answered, lookup = threading.Event(), socket.getaddrinfo

    def wait(*arguments: Any, **options: Any) -> Any:
        answered.wait(10)
        return lookup(*arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", wait)
    start = time.monotonic()
    with pytest.raises(DownloadError, match=SLOW):
        get(issuer, timeout=0.5)
    assert time.monotonic() - start < 2
    answered.set()
    servers.wait_until(has_no_request)
    assert issuer.fetches == 0  # the late connection sends nothing


def test_stalled_name_lookup_does_not_delay_the_exit_of_the_process() -> None:
    code = (
        "import socket, threading\n"
        "from service.oidc.download import DownloadError, create_tls_context, download\n"
        "socket.getaddrinfo = lambda *_: threading.Event().wait(60)\n"
        "try:\n"
        "    download('https://issuer.example/', create_tls_context(None), 0.1)\n"
        "except DownloadError as error:\n"
        "    print(error)\n"
    )
    done = servers.run(sys.executable, "-c", code, timeout=30)
    assert done.stdout == "there was no complete response within 0.1 seconds\n"


def test_time_limit_is_three_seconds() -> None:
    assert TIMEOUT == 3


def test_file_of_the_maximal_length_is_downloaded(issuer: Issuer) -> None:
    issuer.body = b" " * MAX_BODY
    assert len(get(issuer)) == MAX_BODY == 65536


def test_server_that_does_not_run_is_described(issuer: Issuer) -> None:
    assert refusal(issuer, url=f"https://localhost:{servers.free_port()}/") == "Connection refused"


def test_unknown_host_is_described(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert refusal(issuer).startswith("the name of the server has no address in the DNS")


def test_certificates_of_the_system_do_not_verify_a_private_ca(issuer: Issuer) -> None:
    reason = refusal(issuer, context=create_tls_context(None))
    assert reason.startswith("the certificate is refused: ")
    assert issuer.fetches == 0


def test_certificates_of_the_system_can_be_replaced(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(issuer.ca_file))
    assert get(issuer, context=create_tls_context(None)) == issuer.jwk_set()


def test_ca_file_without_certificate_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")
    for name in ("empty.pem", "missing.pem"):
        with pytest.raises(OSError):  # noqa: PT011 - of either kind
            create_tls_context(tmp_path / name)

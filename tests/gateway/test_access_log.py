"""The access log: its formats, and hostile text of clients in them."""

from __future__ import annotations

import json
import re
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from service.gateway.access_log import AccessLog, Exchange
from service.gateway.configuration import AccessLogFormat
from tests import servers
from tests.servers import API_KEY, Server

# Apache's and nginx's combined log format; a quoted text may contain `\x` and two digits.
QUOTED = r'"((?:[^"\\]|\\x[0-9A-F]{2})*)"'
COMBINED = re.compile(rf"(\S+) - (\S+) \[([^]]+)\] {QUOTED} ([0-9]{{3}}) ([0-9]+) {QUOTED} {QUOTED}")
EXCHANGE = Exchange(
    request_id="r",
    trace_id="",
    operation="health",
    source_ip="192.0.2.1",
    key="ci",
    key_id="0123456789ab",
    method="GET",
    path="/health",
    protocol="HTTP/1.1",
    referer="https://ca.example.com/sign",
    user_agent="curl/8",
    status=200,
    size=55,
    seconds=0.0123,
)
HOSTILE = [
    'a"b',
    'a\\"b\\',
    "a\nb",
    'a\r\n192.0.2.9 - - [x] "GET /" 200 0',
    "\x1b[31mred\x07",
    "\x00\x7f\x9b",
    "é € 😀",
    "an octet \udcff",
    "half a pair \ud83d",
    "\u202e\u2028",
    "%s %(name)s {0}",
    "-",
    " leading",
]


def write(capfd: pytest.CaptureFixture[str], line_format: AccessLogFormat, **change: Any) -> str:
    """Write the line of an exchange, and return it."""
    AccessLog(line_format).write_exchange(EXCHANGE._replace(**change))
    text = capfd.readouterr().err
    assert text.isascii()
    assert text.removesuffix("\n").isprintable()
    assert text.endswith("\n")
    return text.removesuffix("\n")


def unescape(text: str) -> str:
    """Return the text of a field of the combined format."""
    octets = re.sub(rb"\\x([0-9A-F]{2})", lambda match: bytes.fromhex(match[1].decode()), text.encode())
    return octets.decode("utf-8", "surrogateescape" if b"\xff" in octets else "surrogatepass")


def test_json_line_has_all_members(capfd: pytest.CaptureFixture[str]) -> None:
    record = json.loads(write(capfd, AccessLogFormat.JSON, trace_id="ab" * 16))
    written = datetime.fromisoformat(record.pop("access"))
    assert abs((datetime.now(UTC) - written).total_seconds()) < 60
    assert record == {
        "request_id": "r",
        "trace_id": "ab" * 16,
        "source_ip": "192.0.2.1",
        "key": "ci",
        "key_id": "0123456789ab",
        "method": "GET",
        "path": "/health",
        "status": 200,
        "bytes": 55,
        "milliseconds": 12.3,
        "protocol": "HTTP/1.1",
        "referer": "https://ca.example.com/sign",
        "user_agent": "curl/8",
    }
    nothing = {"trace_id": "", "key": None, "protocol": "", "referer": "", "user_agent": ""}
    record = json.loads(write(capfd, AccessLogFormat.JSON, **nothing))
    assert record["key"] is None
    assert not record.keys() & {"trace_id", "protocol", "referer", "user_agent"}


def test_combined_line_has_the_fields_of_apache(capfd: pytest.CaptureFixture[str]) -> None:
    match = COMBINED.fullmatch(write(capfd, AccessLogFormat.COMBINED))
    assert match
    address, user, written, *rest = match.groups()
    assert (address, user) == ("192.0.2.1", "ci")
    age = datetime.now(UTC) - datetime.strptime(written, "%d/%b/%Y:%H:%M:%S %z")
    assert abs(age.total_seconds()) < 60
    assert rest == ["GET /health HTTP/1.1", "200", "55", "https://ca.example.com/sign", "curl/8"]


def test_missing_fields_of_a_combined_line_are_hyphens(capfd: pytest.CaptureFixture[str]) -> None:
    texts = ("method", "path", "protocol", "referer", "user_agent")
    nothing = {"source_ip": None, "key": None, "size": 0, **dict.fromkeys(texts, "")}
    match = COMBINED.fullmatch(write(capfd, AccessLogFormat.COMBINED, **nothing))
    assert match
    assert match.groups()[:2] == ("-", "-")
    assert match.groups()[3:] == ("-", "200", "0", "-", "-")


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("field", ["method", "path", "protocol", "referer", "user_agent", "key"])
def test_hostile_text_is_escaped(capfd: pytest.CaptureFixture[str], field: str, text: str) -> None:
    """Each format gives the text back, and the line has the other fields in their places."""
    change: dict[str, Any] = {field: text}
    assert json.loads(write(capfd, AccessLogFormat.JSON, **change))[field] == text
    match = COMBINED.fullmatch(write(capfd, AccessLogFormat.COMBINED, **change))
    assert match
    _, user, _, request_line, status, size, referer, user_agent = match.groups()
    expected = EXCHANGE._replace(**change)
    assert unescape(user) == expected.key
    assert unescape(request_line) == f"{expected.method} {expected.path} {expected.protocol}"
    assert (status, size) == ("200", "55")
    assert [unescape(referer), unescape(user_agent)] == [expected.referer, expected.user_agent]


@pytest.mark.parametrize("line_format", AccessLogFormat)
def test_long_text_is_cut_off(capfd: pytest.CaptureFixture[str], line_format: AccessLogFormat) -> None:
    """Also if each character needs four octets, each of which is escaped."""
    texts = dict.fromkeys(("method", "path", "referer", "user_agent"), "😀" * 8190)
    line = write(capfd, line_format, **texts)
    assert line.count(r"\xF0\x9F\x98\x80" if line_format is AccessLogFormat.COMBINED else r"\ud83d") == 800


def test_unwritable_log_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:  # noqa: PTH123 - a device
        patch.setattr("sys.stderr", full)
        for line_format in AccessLogFormat:
            AccessLog(line_format).write_exchange(EXCHANGE)


@pytest.fixture(scope="module")
def combined_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`certlet serve --tls` with the combined format, and debug messages."""
    directory = tmp_path_factory.mktemp("combined")
    options = ("--tls", "--access-log-format", "combined", "--log-level", "debug", "--audit-log", "audit.log")
    with servers.certlet_server(directory, *options) as server:
        yield server


def send(server: Server, head: bytes) -> None:
    """Send the head of a request over TLS, and receive the response."""
    context = ssl.create_default_context(cafile=server.log.parent / "ca" / "root-ca.crt")
    with (
        socket.create_connection(("127.0.0.1", server.port), 20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as client,
    ):
        client.sendall(head + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
        while client.recv(65536):
            pass


def test_requests_are_logged_in_the_combined_format(combined_server: Server) -> None:
    """Malformed ones too, without query and key; a refused handshake is a warning."""
    before = len(combined_server.read_log())
    send(combined_server, b'GET /health?key=hidden HTTP/1.0\r\nUser-Agent: a"b\\c \xc3\xa9\xff\r\nReferer: "')
    send(combined_server, f"GET /profiles/mine HTTP/1.1\r\nx-api-key: {API_KEY}".encode())
    send(combined_server, b'GET /"><script>?x HTTP/1.1')
    send(combined_server, b"BREW /\x1b[31m?hidden HTTP/1.1")
    send(combined_server, b"GET / HTTP/2.0")
    send(combined_server, b"\x00\x01\x02")
    with socket.create_connection(("127.0.0.1", combined_server.port), 20) as plain:
        plain.sendall(b"GET /\x1b[31m HTTP/1.1\r\nHost: hidden\r\n\r\n")
        assert plain.recv(100) == b""
    log = combined_server.read_log()[before:]
    assert log.isascii()
    assert not re.search(f"hidden|\x1b|{API_KEY}", log)
    lines = [line for line in log.splitlines() if not line.startswith(("DEBUG:", "INFO:"))]
    matches = [match.groups() for line in lines if (match := COMBINED.fullmatch(line))]
    assert [(user, line, int(status), agent) for _, user, _, line, status, _, _, agent in matches] == [
        ("-", "GET /health HTTP/1.0", 400, r"a\x22b\x5Cc \xC3\xA9\xFF"),
        ("default", "GET /profiles/mine HTTP/1.1", 200, "-"),
        ("-", r"GET /\x22><script> HTTP/1.1", 404, "-"),
        ("-", r"BREW /\x1B[31m HTTP/1.1", 501, "-"),
        ("-", "GET / HTTP/2.0", 505, "-"),
        ("-", "-", 400, "-"),
    ]
    warning = "127.0.0.1: the TLS handshake was refused: plain HTTP on the port for HTTPS"
    assert [line for line in lines if not COMBINED.fullmatch(line)] == [
        f"WARNING:service.gateway.access_log:{warning}"
    ]


def test_debug_messages_of_all_processes_are_logged(combined_server: Server) -> None:
    """Those of the supervisor, a worker and the gateway, but not those of other packages."""
    send(combined_server, f"GET /profiles/mine HTTP/1.1\r\nx-api-key: {API_KEY}".encode())
    log = combined_server.read_log()
    for message in (
        r"INFO:service\.supervisor:worker 0 of service\.aws_lambda\.handler is ready: process \d+",
        r"INFO:service\.keystore:the CA with the fingerprint [0-9a-f]{64} is loaded; it is valid until \S+Z",
        r"INFO:service\.keystore\.revocation_file:\S+ is loaded: 0 certificates",
        r"INFO:service\.gateway\.api_keys:1 API keys are loaded",
        r"DEBUG:__main__:[0-9a-f-]{36}: the function took [0-9.]+ ms",
    ):
        assert re.search(f"^{message}$", log, re.MULTILINE), message
    named = re.findall(r"^[A-Z]+:([^:]*):", log, re.MULTILINE)
    assert {name.partition(".")[0] for name in named} == {"service", "__main__"}

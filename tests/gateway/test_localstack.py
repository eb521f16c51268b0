"""The table against LocalStack 4.13.1, with the document imported by `put_rest_api`.

It proves that the document imports there and behaves so; not that AWS will not warn. What it does not
implement is listed in the table, by the name of each row.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from service import contract
from tests import authorities, serving
from tests.gateway import table
from tests.gateway.table import CERTLET, Row
from tests.gateway.test_table import judge
from tests.serving import API_KEY, Server

IMPORT = Path(__file__).with_name("localstack_import.py")


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def localstack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """LocalStack with the contract imported, started and stopped here."""
    directory = tmp_path_factory.mktemp("localstack")
    endpoint = f"http://127.0.0.1:{free_port()}"
    environ = serving.environ(
        GATEWAY_LISTEN=endpoint.removeprefix("http://"),
        SKIP_SSL_CERT_DOWNLOAD="1",
        DISABLE_EVENTS="1",
        LOCALSTACK_VOLUME_DIR=str(directory / "volume"),
        FILESYSTEM_ROOT=str(directory / "root"),
    )
    python = os.environ["LOCALSTACK_PYTHON"]
    log = directory / "localstack.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [python, "-m", "localstack.runtime.main"],
            cwd=directory,
            env=environ,
            stdout=output,
            stderr=output,
        )
    try:
        await_health(endpoint)
        rendered = contract.importable(authorities.document(), "eu-central-1", "000000000000", "certlet")
        imported = subprocess.run(
            [python, str(IMPORT), endpoint, API_KEY],
            input=json.dumps(rendered).encode(),
            capture_output=True,
            check=False,
        )
        assert imported.returncode == 0, imported.stderr.decode()
        yield Server(process, f"{endpoint}/_aws/execute-api/{imported.stdout.decode()}/prod", [], log)  # type: ignore[arg-type]
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def await_health(endpoint: str) -> None:
    """Wait until it answers."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{endpoint}/_localstack/health"):  # noqa: S310
            return
        time.sleep(0.2)
    raise AssertionError("LocalStack did not start")


@pytest.mark.parametrize("row", [row for row in CERTLET if row.localstack is True], ids=lambda row: row.name)
def test_the_contract_through_localstack(localstack: Server, row: Row) -> None:
    """Each row that LocalStack implements has the very same answer there."""
    judge(row, localstack.request(row.method, row.path, row.content, row.send))


DIFFERENT = [row for row in CERTLET if isinstance(row.localstack, str) and row.localstack[0].isdigit()]


@pytest.mark.parametrize("row", DIFFERENT, ids=lambda row: row.name)
def test_where_localstack_differs(localstack: Server, row: Row) -> None:
    """Where LocalStack is known to answer otherwise it does so as the table says, so that news is noticed."""
    answer = localstack.request(row.method, row.path, row.content, row.send)
    assert answer.status == int(str(row.localstack)[:3])
    assert answer.headers["Content-Type"] == "application/json"
    assert set(answer.json()) == {"message"}
    if "x-amzn-ErrorType" in row.headers:
        assert answer.headers["x-amzn-ErrorType"] == row.headers["x-amzn-ErrorType"]


def test_what_localstack_does_not_implement_is_listed() -> None:
    """Every row that is not asked there has its reason."""
    silent = [row for row in CERTLET if row.localstack is not True and row not in DIFFERENT]
    assert {row.localstack for row in silent} == {table.NO_LAMBDA}
    print({row.name: row.localstack for row in silent})  # noqa: T201 - shown by -rA

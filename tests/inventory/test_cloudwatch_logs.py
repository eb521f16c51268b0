"""`certlet list --log-group`: the query of CloudWatch Logs Insights, evaluated by a fake of it."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from datetime import timedelta

import pytest

from service.inventory import Certificate, Inventory, InventoryError, Status, cloudwatch_logs
from tests import servers
from tests.cli import certlet
from tests.inventory import insights
from tests.inventory.insights import LOG_GROUP, Insights
from tests.inventory.test_inventory import NOW, record, timestamp

FAR = "2999-01-01T00:00:00Z"


def read() -> list[tuple[Certificate, Status]]:
    """The inventory of the log group at NOW, without waiting."""
    client = cloudwatch_logs.create_client()
    with closing(Inventory(NOW)) as inventory:
        lines = inventory.add_lines(cloudwatch_logs.read_lines(LOG_GROUP, NOW, client, lambda _: None))
        assert lines.damaged == 0
        return list(inventory.certificates())


def statuses() -> dict[int, str]:
    return {certificate.serial_number: status.value for certificate, status in read()}


def test_query_returns_a_result_or_its_intent(logs: Insights) -> None:
    """One query, one row for each certificate that has not expired; START, END and the access log are ignored."""
    logs.add(b"START RequestId: r\n" + record(1, "intent") + record(1) + b"END RequestId: r\n")
    logs.add(record(2, "intent", principal="ops") + record(3, day=-30, end=80) + record(4, end=-1, day=-91))
    logs.add(record(5, "refusal") + record(6, "revocation") + b'{"access":"2026-11-23T12:00:00Z"}\n')
    assert statuses() == {1: "valid", 2: "unconfirmed", 3: "replaced"}
    assert len(logs.queries) == 1
    (query,) = logs.queries.values()
    assert (query["startTime"], query["endTime"]) == (0, int(NOW.timestamp()) + 1)


@pytest.mark.parametrize("seconds", [-86_400 * 400, -61, -1, 0, 1, 59, 3_600, 86_400 * 9, 86_400 * 400])
def test_query_finds_ends_from_now_on(logs: Insights, seconds: int) -> None:
    """The regular expression of the query excludes only ends before now, to the second."""
    logs.add(record(not_after=timestamp(NOW + timedelta(seconds=seconds))))
    query = cloudwatch_logs._query_text(NOW)
    assert len(insights.evaluate(query, [message for _, message in logs.events])) == (seconds >= 0)


def test_certificate_with_a_hundred_names_is_found(logs: Insights) -> None:
    """Insights discovers 200 fields of an event; the embedded metrics follow the fields that the query needs."""
    names = tuple(f"dns:{number}.example.com" for number in range(100))
    logs.add(record(names=names))
    assert read()[0][0].names == tuple(sorted(names))


def test_all_pages_of_the_results_are_read(logs: Insights) -> None:
    """A response with a token has only some of the rows."""
    logs.page = 2
    logs.add(b"".join(record(number, names=(f"dns:{number}",)) for number in range(1, 6)))
    assert statuses() == dict.fromkeys(range(1, 6), "valid")
    assert len(logs.queries) == 1


@pytest.fixture
def _five_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A query returns at most five rows."""
    monkeypatch.setattr(insights, "MAX_ROWS", 5)
    monkeypatch.setattr(cloudwatch_logs, "_MAX_ROWS", 5)


@pytest.mark.usefixtures("_five_rows")
def test_more_rows_than_a_query_returns_are_read_in_parts(logs: Insights) -> None:
    """No certificate is lost or listed twice, at the borders of the parts neither."""
    for number in range(1, 41):
        time = timestamp(NOW - timedelta(seconds=number))
        logs.add(record(number, "intent", time=time, names=(f"dns:{number}",)))
        logs.add(record(number, time=time, names=(f"dns:{number}",)))
    assert statuses() == dict.fromkeys(range(1, 41), "valid")
    assert len(logs.queries) > 8


@pytest.mark.usefixtures("_five_rows")
def test_too_many_rows_of_one_second_are_an_error(logs: Insights) -> None:
    """An incomplete list would look complete."""
    logs.add(b"".join(record(number) for number in range(1, 6)))
    with pytest.raises(InventoryError, match=f"^{LOG_GROUP}: 5 certificates or more in a second"):
        read()


@pytest.mark.parametrize("status", ["Failed", "Cancelled", "Timeout"])
def test_query_that_fails_is_an_error(logs: Insights, status: str) -> None:
    logs.statuses = ("Running", status)
    with pytest.raises(InventoryError, match=f"the query ended with the status {status}"):
        read()


def test_query_that_does_not_end_is_an_error(logs: Insights) -> None:
    logs.statuses = ("Scheduled", "Unknown", "Running")
    with pytest.raises(InventoryError, match="did not end within ten minutes"):
        read()


@pytest.mark.parametrize(
    ("code", "fragment"),
    [
        ("AccessDeniedException", "not permitted: allow logs:StartQuery and logs:GetQueryResults"),
        ("LimitExceededException", "too many queries at the same time: try again later"),
        ("ExpiredTokenException", "the AWS credentials have expired"),
        ("ServiceUnavailableException", "CloudWatch Logs is unavailable (ServiceUnavailableException)"),
    ],
)
def test_error_of_aws_is_one_line(logs: Insights, code: str, fragment: str) -> None:
    logs.error = code
    run = certlet("list", "--log-group", LOG_GROUP, "--exit-code")
    assert (run.returncode, run.stdout) == (1, b"")
    (line,) = run.stderr.decode().splitlines()
    assert line.startswith(f"certlet: {LOG_GROUP}: {fragment}")


def test_unknown_log_group_is_an_error(logs: Insights) -> None:
    run = certlet("list", "--log-group", "other")
    assert (run.returncode, run.stderr) == (1, b"certlet: other: there is no such log group in this region\n")


def test_unreachable_service_is_an_error(logs: Insights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_CLOUDWATCH_LOGS", f"http://127.0.0.1:{servers.free_port()}")
    run = certlet("list", "--log-group", LOG_GROUP)
    assert run.stderr.decode() == f"certlet: {LOG_GROUP}: CloudWatch Logs cannot be reached\n"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"], f"{LOG_GROUP}: no AWS credentials"),
        (["AWS_REGION", "AWS_DEFAULT_REGION"], "no AWS region: set $AWS_REGION"),
    ],
)
def test_missing_configuration_of_aws_is_named(
    logs: Insights, monkeypatch: pytest.MonkeyPatch, variables: list[str], message: str
) -> None:
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    for name in variables:
        monkeypatch.delenv(name)
    run = certlet("list", "--log-group", LOG_GROUP)
    assert (run.returncode, run.stderr.decode()) == (1, f"certlet: {message}\n")


def test_missing_boto3_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    run = certlet("list", "--log-group", LOG_GROUP)
    assert run.stderr == b"certlet: CloudWatch Logs requires boto3: run pip install boto3\n"


def test_log_group_has_the_options_of_files(logs: Insights) -> None:
    """The same lines as a file give the same list."""
    lines = record(1, not_after=FAR) + record(2, "intent", not_after=FAR, names=("dns:b.example.com",))
    logs.add(lines)
    run = certlet("list", "--log-group", LOG_GROUP, "--json")
    same = certlet("list", "-", "--json", stdin=lines)
    assert (run.returncode, run.stdout, run.stderr) == (0, same.stdout, same.stderr)
    run = certlet("list", "--log-group", LOG_GROUP, "--name", "b.*", "--json", "--exit-code")
    assert run.returncode == 6
    assert json.loads(run.stdout)["status"] == "unconfirmed"


def test_log_group_and_file_exclude_each_other() -> None:
    """The file of $CERTLET_AUDIT_LOG is not read with a log group."""
    run = certlet("list", "audit.log", "--log-group", LOG_GROUP)
    assert (run.returncode, run.stdout) == (2, b"")
    assert b"--log-group is not allowed with FILE" in run.stderr


def test_fake_refuses_other_syntax() -> None:
    """The fake does not accept what Insights does not."""
    for query in ("select *", "filter event = 1 or x", "stats max(@message)", "limit 10001"):
        with pytest.raises(insights.MalformedQueryError):
            insights.evaluate(query, [])

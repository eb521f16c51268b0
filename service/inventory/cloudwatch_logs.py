"""The audit log in CloudWatch Logs, read by a query of CloudWatch Logs Insights.

https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_StartQuery.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Final

from service.inventory import InventoryError
from service.pki import encoding

_MAX_ROWS: Final = 10_000  # the default; up to 100,000 log events are documented, but nothing about `stats`
_DELAYS: Final = (0.2, 0.5, 1, 2, *[5] * 120)  # seconds between the requests for the results: ten minutes
_ERRORS: Final = {
    "AccessDeniedException": "not permitted: allow logs:StartQuery and logs:GetQueryResults",
    "ResourceNotFoundException": "there is no such log group in this region",
    "LimitExceededException": "too many queries at the same time: try again later",
    "UnrecognizedClientException": "the AWS credentials are not valid",
    "ExpiredTokenException": "the AWS credentials have expired",
}


def create_client() -> Any:  # noqa: ANN401 - boto3 creates its clients at run time
    """Create a client of CloudWatch Logs from the environment and the configuration files of AWS.

    Raises:
        InventoryError: boto3 is not installed, or no region is set.
    """
    try:
        import boto3  # noqa: PLC0415 - boto3 is optional, and slow to import
        from botocore.exceptions import BotoCoreError  # noqa: PLC0415 - as above
    except ImportError as error:
        raise InventoryError("CloudWatch Logs requires boto3: run pip install boto3") from error
    try:
        return boto3.Session().client("logs")
    except BotoCoreError as error:
        raise InventoryError("no AWS region: set $AWS_REGION") from error


def read_lines(
    log_group: str,
    now: datetime,
    client: Any,  # noqa: ANN401 - boto3's
    sleep: Callable[[float], None],
) -> Iterator[bytes]:
    """Yield a line for each certificate that has not expired: its result, or its intent if it has no result.

    Args:
        log_group: the name or ARN of the log group.
        now: the time, UTC.
        client: a client of CloudWatch Logs.
        sleep: waits for a number of seconds.

    Raises:
        InventoryError: AWS refuses the query, or does not complete it.
    """
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - boto3 is optional

    query = _Query(client, log_group, _query_text(now), sleep)
    try:
        yield from query.read_range(0, int(now.timestamp()) + 1)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        text = _ERRORS.get(code, f"CloudWatch Logs is unavailable ({code})")
        raise InventoryError(f"{log_group}: {text}") from error
    except BotoCoreError as error:
        missing = "Credentials" in type(error).__name__
        text = "no AWS credentials" if missing else "CloudWatch Logs cannot be reached"
        raise InventoryError(f"{log_group}: {text}") from error


def _query_text(now: datetime) -> str:
    """Return the query: for each serial number the result, which sorts after the intent.

    A regular expression finds the ends before now: it is not documented that `<` compares texts.
    """
    text = encoding.format_timestamp(now)
    before = "|".join(
        f"{text[:index]}[0-{int(digit) - 1}]" for index, digit in enumerate(text) if digit in "123456789"
    )
    return (
        f'filter event in ["intent", "result"] and not_after not like /^({before})/'
        f" | stats sortsLast(@message) as message by serial_number | limit {_MAX_ROWS}"
    )


class _Query:
    """A query that may be run for several time ranges."""

    def __init__(
        self,
        client: Any,  # noqa: ANN401 - boto3's
        log_group: str,
        text: str,
        sleep: Callable[[float], None],
    ) -> None:
        self._client = client
        self._log_group = log_group
        self._text = text
        self._sleep = sleep

    def read_range(self, start: int, end: int) -> Iterator[bytes]:
        """Yield the lines of a time range, in seconds; of its halves if there may be more than the maximum.

        The halves have a second in common, since only times of whole seconds are documented as included.
        """
        rows = self._run(start, end)
        if len(rows) < _MAX_ROWS:
            for row in rows:
                yield {cell["field"]: cell["value"] for cell in row}["message"].encode()
        elif end - start <= 1:
            raise InventoryError(f"{self._log_group}: {_MAX_ROWS} certificates or more in a second")
        else:
            middle = (start + end) // 2
            yield from self.read_range(start, middle)
            yield from self.read_range(middle, end)

    def _run(self, start: int, end: int) -> list[list[dict[str, str]]]:
        """Run the query for a time range and wait for its end; return its rows."""
        query_id = self._client.start_query(
            logGroupIdentifiers=[self._log_group], startTime=start, endTime=end, queryString=self._text
        )["queryId"]
        for delay in _DELAYS:
            response = self._client.get_query_results(queryId=query_id)
            status = response["status"]
            if status == "Complete":
                rows: list[list[dict[str, str]]] = response["results"]
                while token := response.get("nextToken"):
                    response = self._client.get_query_results(queryId=query_id, nextToken=token)
                    rows += response["results"]
                return rows
            if status not in ("Scheduled", "Running", "Unknown"):
                raise InventoryError(f"{self._log_group}: the query ended with the status {status}")
            self._sleep(delay)
        raise InventoryError(f"{self._log_group}: the query did not end within ten minutes")

"""A fake of CloudWatch Logs Insights: an HTTP server that holds log events, and evaluates the queries it gets.

It follows the documented semantics: queries run asynchronously, results are partial until the status is
Complete, a query returns at most 10,000 rows, both ends of its time range are included (as seconds), fields of
events in JSON are discovered up to 200, and a query in another syntax is malformed.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest

from tests.servers import QuietHandler, http_server

MAX_ROWS = 10_000
LOG_GROUP = "certlet-LogGroup-1a2b"
_CONDITION = re.compile(
    r"(?P<field>\w+) (?:in \[(?P<values>[^\]]*)\]|(?P<negated>not )?like /(?P<pattern>[^/]*)/)"
)


class MalformedQueryError(Exception):
    """The query uses a syntax that the fake does not know."""


def discover_fields(message: str) -> dict[str, str]:
    """The fields of an event in JSON, at most 200; members of arrays and objects are `name.0` and `name.key`."""
    fields: dict[str, str] = {}

    def walk(value: Any, name: str) -> None:
        items = (
            value.items()
            if isinstance(value, dict)
            else enumerate(value)
            if isinstance(value, list)
            else None
        )
        for key, child in items or ():
            walk(child, f"{name}.{key}" if name else str(key))
        if items is None and len(fields) < 200:
            fields[name] = str(value)

    try:
        walk(json.loads(message), "")
    except ValueError:
        return {}
    return fields | {"@message": message}


def evaluate(query: str, messages: list[str]) -> list[dict[str, str]]:
    """The rows of a query: `filter`, then `stats sortsLast(…) as … by …`, then `limit`."""
    events = [discover_fields(message) for message in messages]
    for command in query.split(" | "):
        name, _, rest = command.partition(" ")
        if name == "filter":
            conditions = [_CONDITION.fullmatch(condition) for condition in rest.split(" and ")]
            if not all(conditions):
                raise MalformedQueryError(command)
            events = [
                event for event in events if all(_is_true(match, event) for match in conditions if match)
            ]
        elif name == "stats" and (match := re.fullmatch(r"sortsLast\(([@\w]+)\) as (\w+) by (\w+)", rest)):
            value, alias, key = match.groups()
            groups: dict[str, str] = {}
            for event in events:
                if key in event:
                    groups[event[key]] = max(groups.get(event[key], ""), event.get(value, ""))
            events = [{key: group, alias: last} for group, last in groups.items()]
        elif name == "limit" and rest.isdecimal() and 0 < int(rest) <= MAX_ROWS:
            events = events[: int(rest)]
        else:
            raise MalformedQueryError(command)
    return events[:MAX_ROWS]


def _is_true(match: re.Match[str], event: dict[str, str]) -> bool:
    value = event.get(match["field"])
    if match["values"] is not None:
        return value in json.loads(f"[{match['values']}]")
    found = value is not None and re.search(match["pattern"], value) is not None
    return found != bool(match["negated"])


@dataclass
class Insights:
    """The log group's events, each with its time in milliseconds, and the queries so far."""

    events: list[tuple[int, str]] = field(default_factory=list)
    statuses: tuple[str, ...] = ("Scheduled", "Running", "Complete")
    page: int = MAX_ROWS  # rows of one response; the others follow with its token
    error: str = ""  # the code of an error of each query
    url: str = ""
    queries: dict[str, dict[str, Any]] = field(default_factory=dict)
    polls: dict[str, int] = field(default_factory=dict)

    def add(self, lines: bytes) -> None:
        """Add lines of the audit log, each at its time."""
        for line in lines.decode().splitlines():
            try:
                time = json.loads(line)["time"]
            except (ValueError, LookupError):
                time = "2026-11-23T12:00:00Z"
            self.events.append((int(datetime.fromisoformat(time).timestamp() * 1000) + 500, line))

    def start_query(self, request: dict[str, Any]) -> dict[str, Any]:
        if self.error or request["logGroupIdentifiers"] != [LOG_GROUP]:
            raise LookupError(self.error or "ResourceNotFoundException")
        evaluate(request["queryString"], [])
        query_id = str(uuid.uuid4())
        self.queries[query_id], self.polls[query_id] = request, 0
        return {"queryId": query_id}

    def get_query_results(self, request: dict[str, Any]) -> dict[str, Any]:
        query_id = request["queryId"]
        query, status = (
            self.queries[query_id],
            self.statuses[min(self.polls[query_id], len(self.statuses) - 1)],
        )
        self.polls[query_id] += 1
        start, end = query["startTime"] * 1000, query["endTime"] * 1000
        rows = evaluate(
            query["queryString"], [message for time, message in self.events if start <= time <= end]
        )
        if status != "Complete":
            rows = rows[:1] if status == "Running" else []
        first = int(request.get("nextToken", 0))
        page = rows[first : first + self.page]
        more = {"nextToken": str(first + self.page)} if first + self.page < len(rows) else {}
        results = [[{"field": name, "value": value} for name, value in row.items()] for row in page]
        return {"status": status, "results": results, **more}


@contextmanager
def serve(insights: Insights) -> Iterator[Insights]:
    """Serve the log group until the end of the block, at `url`."""

    class Handler(QuietHandler):
        def respond(self) -> None:
            operation = self.headers["X-Amz-Target"].removeprefix("Logs_20140328.")
            method = {"StartQuery": insights.start_query, "GetQueryResults": insights.get_query_results}[
                operation
            ]
            try:
                status, result = 200, method(json.loads(self.body()))
            except LookupError as error:
                status, result = 400, {"__type": error.args[0], "message": "no"}
            except MalformedQueryError as error:
                status, result = 400, {"__type": "MalformedQueryException", "message": str(error)}
            self.reply(status, json.dumps(result).encode(), Content_Type="application/x-amz-json-1.1")

    with http_server(Handler) as insights.url:
        yield insights


@contextmanager
def configured(monkeypatch: pytest.MonkeyPatch) -> Iterator[Insights]:
    """Serve a log group, with the environment of boto3 set to it."""
    environ = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "eu-central-1",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_MAX_ATTEMPTS": "1",
    }
    with serve(Insights()) as running:
        for name, value in {**environ, "AWS_ENDPOINT_URL_CLOUDWATCH_LOGS": running.url}.items():
            monkeypatch.setenv(name, value)
        yield running

"""A function that misbehaves on request: `?do=…`."""

from __future__ import annotations

import itertools
import json
import os
import time
from typing import Any, Final

RESULTS: Final[dict[str, Any]] = {
    "null": None,
    "list": [],
    "text": "hello",
    "empty": {},
    "extra": {"statusCode": 200, "body": "x", "cookies": []},
    "no-status": {"body": "x"},
    "status-text": {"statusCode": "201", "body": "x"},
    "status-word": {"statusCode": "fine"},
    "status-float": {"statusCode": 200.5},
    "status-99": {"statusCode": 99},
    "status-bool": {"statusCode": True},
    "body-object": {"statusCode": 200, "body": {"a": 1}},
    "body-number": {"statusCode": 200, "body": 0},
    "body-none": {"statusCode": 204, "body": None},
    "headers-list": {"statusCode": 200, "headers": ["a"]},
    "header-object": {"statusCode": 200, "headers": {"a": {}}},
    "header-newline": {"statusCode": 200, "headers": {"a": "x\r\nb: y"}},
    "header-name": {"statusCode": 200, "headers": {"a b": "x"}},
    "header-number": {"statusCode": 200, "headers": {"X-Number": 7, "X-Flag": True}},
    "header-hop": {"statusCode": 200, "headers": {"Transfer-Encoding": "chunked"}},
    "header-remapped": {
        "statusCode": 200,
        "headers": {"Date": "never", "Server": "mine", "WWW-Authenticate": "Basic", "Content-Length": "3"},
    },
    "multi": {
        "statusCode": 200,
        "headers": {"X-One": "single", "X-Two": "lost"},
        "multiValueHeaders": {"X-Two": ["a", "b"]},
    },
    "multi-text": {"statusCode": 200, "multiValueHeaders": {"X-Two": 7}},
    "encoded-text": {"statusCode": 200, "body": "x", "isBase64Encoded": "false"},
    "png": {
        "statusCode": 200,
        "headers": {"Content-Type": "image/png"},
        "body": "iVBORw==",
        "isBase64Encoded": True,
    },
    "bad-base64": {"statusCode": 200, "body": "*", "isBase64Encoded": True},
}


_calls = itertools.count(1)


def handler(event: dict[str, Any], context: Any) -> Any:
    """Do what the query asks; tell the event, and which call of this process's it is, otherwise."""
    number = next(_calls)
    do = (event["queryStringParameters"] or {}).get("do", "")
    match do:
        case "raise":
            raise RuntimeError("secret")
        case "exit":
            os._exit(3)
        case "hang":
            time.sleep(30)
        case "nap":
            time.sleep(0.4)
        case "doze":
            time.sleep(1.4)
        case "echo":
            return {"statusCode": 200, "body": event["body"]}
        case "unencodable":
            return {1, 2}
    if do in RESULTS:
        return RESULTS[do]
    left = context.get_remaining_time_in_millis()
    told = {"event": event, "pid": os.getpid(), "left": left, "number": number}
    return {"statusCode": 200, "headers": {"X-Seen": "yes"}, "body": json.dumps(told)}

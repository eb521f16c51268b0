"""A function that echoes its event, or misbehaves on request: `?do=…`."""

from __future__ import annotations

import gc
import itertools
import json
import os
import time
from pathlib import Path
from typing import Any

BEGUN = "begun"  # a file with one octet for each call with a pause that has begun
_PAUSES = {"hang": 30, "nap": 0.4, "doze": 2}  # seconds
_calls = itertools.count(1)
_collects_at_start = gc.isenabled()


def handler(event: dict[str, Any], context: Any) -> Any:
    """Misbehave as the query requests; by default, return the event and the number of this process's call."""
    number, began = next(_calls), time.monotonic()
    match do := (event["queryStringParameters"] or {}).get("do", ""):
        case "raise":
            raise RuntimeError("secret")
        case "exit":
            os._exit(3)
        case "hang" | "nap" | "doze":
            with Path(BEGUN).open("a") as file:
                file.write(".")
            time.sleep(_PAUSES[do])
        case "echo":
            return {"statusCode": 200, **{name: event.get(name) for name in ("body", "isBase64Encoded")}}
        case "png":
            png = {"Content-Type": "image/png"}
            return {"statusCode": 200, "headers": png, "body": "iVBORw==", "isBase64Encoded": True}
        case "unencodable":
            return {1, 2}
        case "malformed":
            return {"body": "x"}
    left = context.get_remaining_time_in_millis()
    body = {"event": event, "pid": os.getpid(), "left": left, "number": number}
    body["collects"] = [_collects_at_start, gc.isenabled()]
    body["period"] = [began, time.monotonic()]
    return {"statusCode": 200, "headers": {"X-Seen": "yes"}, "body": json.dumps(body)}

"""A function that echoes its event, or misbehaves on request: `?do=…`."""

from __future__ import annotations

import gc
import itertools
import json
import os
import time
from typing import Any

_calls = itertools.count(1)
_collects_at_start = gc.isenabled()


def handler(event: dict[str, Any], context: Any) -> Any:
    """Misbehave as the query requests; by default, return the event and the number of this process's call."""
    number = next(_calls)
    match (event["queryStringParameters"] or {}).get("do", ""):
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
    return {"statusCode": 200, "headers": {"X-Seen": "yes"}, "body": json.dumps(body)}

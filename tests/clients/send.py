"""Sends the calls given on stdin with a real Python SDK, and tells on stdout how it went.

stdin: {"sdk": "segment" | "rudder", "url", "key", "options": {}, "calls": [...]}
stdout: {"errors": [...]}
"""

import datetime
import importlib
import json
import sys
from typing import Any

PACKAGES = {"segment": "segment.analytics.client", "rudder": "rudderstack.analytics.client"}
NAMES = {
    "userId": "user_id",
    "anonymousId": "anonymous_id",
    "messageId": "message_id",
    "groupId": "group_id",
    "previousId": "previous_id",
}


def main() -> None:
    """Call what is to be called, and wait until it is delivered or given up."""
    job = json.load(sys.stdin)
    errors: list[str] = []
    client = importlib.import_module(PACKAGES[job["sdk"]]).Client(
        job["key"], host=job["url"], on_error=lambda error, _: errors.append(str(error)), **job["options"]
    )
    for call in job["calls"]:
        getattr(client, call.pop("type"))(**_arguments(call))
    client.flush()
    client.join()
    sys.stdout.write(json.dumps({"errors": errors}))


def _arguments(call: dict[str, Any]) -> dict[str, Any]:
    if "timestamp" in call:
        call["timestamp"] = datetime.datetime.fromisoformat(call["timestamp"])
    return {NAMES.get(name, name): value for name, value in call.items()}


main()

"""The OpenAPI document as the server gives it, and every operation of it on that server."""

import json
from typing import Any

import pytest

from profilelake.manage.openapi import document
from served import Served

pytestmark = pytest.mark.timeout(240)

PLACES = {
    "space": "default",
    "collection": "users",
    "id": "user_id:nobody",
    "source": "no-such-source",
    "job": "no-such-job",
    "key": "no-such-key",
    "token": "no-such-token",
    "trait": "no-such-trait",
    "profile": "use_000000000000000000000000000",
    "writeKey": "no-such-key",
    "file": "no-such-file.js",
    "destination": "no-such-destination",
    "secret": "no-such-secret",
    "preview": "no-such-preview",
    "event": "no-such-event",
    "property": "no-such-property",
}
OPERATIONS = [
    (method, path, operation)
    for path, item in document()["paths"].items()
    for method, operation in item.items()
    if method != "parameters"
]


def test_the_document_is_open_to_everybody(served: Served) -> None:
    answer = served.request("GET", "/api/openapi.json")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json == json.loads(json.dumps(document()))


@pytest.mark.parametrize(
    ("method", "path", "operation"),
    OPERATIONS,
    ids=[operation["operationId"] for *_, operation in OPERATIONS],
)
def test_each_operation_is_answered_as_documented(
    served: Served, method: str, path: str, operation: dict[str, Any]
) -> None:
    address = path.format_map(PLACES)
    answer = served.request(method.upper(), address)
    assert answer.status != 405
    assert str(answer.status) in operation["responses"], answer.body
    if operation["security"] and {} not in operation["security"]:
        assert answer.status == 401
    else:
        assert answer.status != 404 or b"no such" in answer.body or b"bundle" in answer.body, answer.body

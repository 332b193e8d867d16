"""Requests made up from the OpenAPI document, good and bad ones, against the server users run.

Whatever is asked, the answer is one the document has: no 500, no other status, no other shape.
"""

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from profilelake.manage.openapi import document
from served import ADMIN_TOKEN, READ_TOKEN, WRITE_KEY, Served, basic, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SEED = 20_240_229
EXAMPLES = 15
CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]
HEADERS = {
    "management": {"Authorization": f"Bearer {ADMIN_TOKEN}"},
    "profiles": {"Authorization": f"Bearer {READ_TOKEN}"},
    "tracking": {"Authorization": basic(WRITE_KEY)},
    "browser": {},
    "health": {},
}
JSON = {"Content-Type": "application/json"}
SECONDS_MAX = 0.2
"""How long made-up requests may wait where the API lets them choose."""
SCHEMA = schemathesis.openapi.from_dict(document())
OPERATIONS = {
    operation.label: operation for operation in (found.ok() for found in SCHEMA.get_all_operations())
}
MODES = {mode.value: mode for mode in schemathesis.GenerationMode}


KNOWN = {
    "source": "known",
    "id": "user_id:known",
    "writeKey": WRITE_KEY,
    "space": "default",
    "collection": "users",
}
"""What is there to be found: half of the requests ask for it."""


@pytest.fixture(scope="module")
def hit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that nothing else asks; it is as good at the end as at the start."""
    with serving(tmp_path_factory.mktemp("fuzzed") / "data") as running:
        known = running.request(
            "POST", "/api/sources", {"slug": "known"}, headers=HEADERS["management"] | JSON
        )
        assert known.status == 201
        event = {"userId": "known", "event": "Sent", "traits": {"a": 1}, "properties": {"b": [2]}}
        for path in ("/v1/track", "/v1/identify"):
            assert running.post(path, event).status == 200
        running.committed()
        yield running
        assert running.post("/v1/track", {"userId": "after", "event": "Sent"}).status == 200
        status = running.committed()
        assert status["balanced"]
        assert status["in_flight"] == 0


def cases(operation: Any, mode: Any) -> st.SearchStrategy[Any]:
    """Return requests about made-up things, and about what is there to be found."""
    named = {parameter.name for parameter in operation.path_parameters}
    made_up = operation.as_strategy(generation_mode=mode)
    if not named or not named <= KNOWN.keys():
        return made_up
    known = {name: KNOWN[name] for name in named}
    return made_up | operation.as_strategy(generation_mode=mode, path_parameters=known)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("label", OPERATIONS)
def test_answers_are_as_documented(hit: Served, label: str, mode: str) -> None:
    operation = OPERATIONS[label]
    headers = HEADERS[operation.tags[0]]

    @seed(SEED)
    @settings(
        max_examples=EXAMPLES,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases(operation, MODES[mode]))
    def ask(case: Any) -> None:
        for name in ("timeout", "wait"):
            if case.query and name in case.query:
                case.query[name] = SECONDS_MAX
        answer = case.call(base_url=hit.url, headers=headers)
        waited = label == "GET /api/status" and answer.status_code == 504
        case.validate_response(answer, checks=CHECKS if waited else [*CHECKS, not_a_server_error])

    try:
        ask()
    except Unsatisfiable:
        # There is nothing bad that one could send where nothing is asked for.
        assert mode == "negative"
        assert not operation.definition.raw.get("requestBody")


WORDS = st.text(max_size=30) | st.sampled_from(
    (
        "default",
        "users",
        "../../etc/passwd",
        "%00",
        "%2e%2e",
        "\x00",
        "a" * 9_000,
        "use_",
        "email:",
        "💥",
        "lookup",
    )
)


@seed(SEED)
@settings(
    max_examples=400,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(
    st.sampled_from(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")),
    st.sampled_from(sorted({path.partition("{")[0] for path in document()["paths"]})),
    st.lists(WORDS, max_size=5),
    st.dictionaries(st.text(max_size=12), WORDS, max_size=3),
    st.binary(max_size=200),
    st.sampled_from(sorted(HEADERS)),
)
def test_no_path_brings_a_fault(
    hit: Served,
    method: str,
    start: str,
    parts: list[str],
    query: dict[str, str],
    body: bytes,
    who: str,
) -> None:
    path = start + "/".join(quote(part, safe="") for part in parts)
    asked = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in query.items())
    answer = hit.request(
        method,
        f"{path}?{asked}",
        body if method in ("POST", "PUT", "PATCH") else b"",
        headers=HEADERS[who] | {"Content-Type": "application/json"},
    )
    assert answer.status < 500 or path == "/readyz", (method, path, answer)

"""Management and health in the OpenAPI document."""

from typing import Final

import msgspec

from profilelake.manage._openapi_parts import (
    ADMIN,
    ONCE,
    OPEN,
    PAGE,
    TIME,
    Json,
    answer,
    array,
    closed,
    data,
    json_body,
    nullable,
    operation,
    path_parameter,
    problems,
    query_parameter,
    ref,
    text,
)
from profilelake.manage.sources import NewKey, NewSource, SourceChange
from profilelake.manage.suppressions import NewSuppression, Subjects
from profilelake.manage.tail import ROWS_MAX
from profilelake.manage.tail import WAIT_SECONDS_MAX as TAIL_SECONDS_MAX
from profilelake.manage.tokens import NewToken
from profilelake.manage.waiting import WAIT_SECONDS_MAX

_COUNT: Final[Json] = {"type": "integer", "minimum": 0}
_OFFSETS: Final[Json] = {"type": "object", "additionalProperties": _COUNT}
_COUNTED: Final = (
    "accepted",
    "in_lake",
    "duplicates",
    "failed",
    "suppressed",
    "erased",
    "expired",
    "in_flight",
)
_GUARDED: Final = (401, 403, 503)
_SOURCE: Final = path_parameter("source", "Id of the source.")


def schemas() -> dict[str, Json]:
    """Return the schemas of management: requests as they are decoded, and answers."""
    _, requests = msgspec.json.schema_components(
        [NewSource, SourceChange, NewKey, NewToken, Subjects, NewSuppression],
        ref_template="#/components/schemas/{name}",
    )
    return requests | {
        "Source": closed(
            id=text(),
            slug=text("The same as `id`."),
            name=text(),
            workspaceId=text(),
            enabled={"type": "boolean"},
            writeKeys=array(text("A key that is live; the oldest comes first.")),
            trusted={"type": "boolean"},
            eventsPerSecond=_COUNT | {"description": "What is taken of it; 0 for no limit."},
        ),
        "WriteKey": closed(key=text(), createdAt=TIME, revokedAt=nullable(TIME)),
        "Token": closed(
            id=text(),
            kind=text(enum=["read", "admin"]),
            workspaceId=text(),
            scope=text("What a read token may read, as words; empty is everything."),
            createdAt=TIME,
            expiresAt=nullable(TIME),
            revoked={"type": "boolean"},
        ),
        "IssuedToken": {
            "description": "A token with its secret, which is shown this once.",
            "type": "object",
            "properties": {"secret": text(), "id": text()},
            "required": ["id", "kind", "secret"],
        },
        "Suppression": {
            "description": "An identifier whose events are not stored, known by its keyed hash only.",
            **closed(
                subjectType=text(), collection=text(), subjectHash=text(), reason=text(), createdAt=TIME
            ),
        },
        "Pagination": {
            "type": "object",
            "properties": {
                "totalEntries": _COUNT,
                "current": text("Cursor of this page."),
                "next": text("Cursor of the next page; missing on the last one."),
            },
            "required": ["current"],
            "additionalProperties": False,
        },
        "Status": closed(
            version=text(),
            workspace=text(),
            **dict.fromkeys(_COUNTED, _COUNT),
            balanced={"type": "boolean", "description": "Every event read off the log is accounted for."},
            position=closed(accepted=_OFFSETS, committed=_OFFSETS),
            stages=array(
                closed(name=text(), lag_events=_COUNT, lag_seconds={"type": "number", "minimum": 0})
            ),
            limits_hit=array(
                closed(
                    name=text(),
                    count=_COUNT | {"description": "How often in the last ten minutes."},
                    last_at=TIME,
                    change=text("What to do about it."),
                )
            ),
        ),
        "Tail": {
            "type": "object",
            "properties": {
                "events": array({"type": "object"}),
                "missed": _COUNT,
                "suppressed": _COUNT,
                "cursor": text("Where to go on from."),
            },
            "required": ["cursor", "events", "missed", "suppressed"],
        },
        "Problem": {
            "description": "An error as RFC 9457 has it. `code` is stable, `detail` is for people.",
            **closed(
                type=text(),
                title=text(),
                status={"type": "integer"},
                code=text(),
                detail=text(),
            ),
        },
    }


def paths() -> dict[str, Json]:
    """Return the paths of management and health."""
    return _health() | _status() | _sources() | _tokens() | _suppressions()


def _health() -> dict[str, Json]:
    plain = answer("It does.", text(), media="text/plain")
    return {
        "/": {"get": _up("root", "Whether a process answers")},
        "/health": {"get": _up("health", "Whether a process answers")},
        "/livez": {"get": _up("livez", "Whether a process answers")},
        "/readyz": {
            "get": operation(
                "readyz",
                "Whether events are taken",
                tag="health",
                security=OPEN,
                about="200 only while the event log can be written and the keys are loaded.",
                answers={"200": plain, **problems(503)},
            )
        },
        "/metrics": {
            "get": operation(
                "metrics",
                "Metrics in the format of Prometheus",
                tag="health",
                security=[{}, *ADMIN],
                about="Open to this machine; from elsewhere with an admin token.",
                answers={"200": answer("All metrics.", text(), media="text/plain"), **problems(*_GUARDED)},
            )
        },
        "/api/openapi.json": {
            "get": operation(
                "openapi",
                "This document",
                tag="health",
                security=OPEN,
                answers={"200": answer("OpenAPI 3.1.", {"type": "object"})},
            )
        },
    }


def _up(name: str, summary: str) -> Json:
    plain = answer("It does.", text(), media="text/plain")
    return operation(name, summary, tag="health", security=OPEN, answers={"200": plain})


def _status() -> dict[str, Json]:
    wait = (
        "`committed` waits until everything accepted before is in state and lake; 504 when time is up first."
    )
    seconds: Json = {"type": "number", "minimum": 0, "maximum": WAIT_SECONDS_MAX}
    filters = ("type", "event", "source", "user_id", "anonymous_id", "message_id")
    return {
        "/api/status": {
            "get": operation(
                "getStatus",
                "Where every accepted event is",
                tag="management",
                security=ADMIN,
                parameters=[
                    query_parameter("wait_for", wait, text(enum=["committed"])),
                    query_parameter("timeout", "Seconds to wait at most.", seconds),
                ],
                answers={
                    "200": answer("The status.", ref("Status")),
                    "504": answer("The status when time was up.", ref("Status")),
                    **problems(400, *_GUARDED),
                },
            )
        },
        "/api/tail": {
            "get": operation(
                "tail",
                "What becomes of events, as it happens",
                tag="management",
                security=ADMIN,
                about="Begins now where no cursor is given. `Accept: application/x-ndjson` gives lines.",
                parameters=[
                    query_parameter("cursor", "The cursor of the answer before."),
                    query_parameter(
                        "limit", "Events at most.", {"type": "integer", "minimum": 1, "maximum": ROWS_MAX}
                    ),
                    query_parameter(
                        "wait",
                        "Seconds to wait for the first one.",
                        {"type": "number", "minimum": 0, "maximum": TAIL_SECONDS_MAX},
                    ),
                    *(query_parameter(name, f"Only events of this {name}.") for name in filters),
                    query_parameter("status", "Only these.", text(enum=["accepted", "duplicate", "failed"])),
                    query_parameter("reason", "Only those that failed for it."),
                ],
                answers={
                    "200": {
                        "description": "Events, and where to go on.",
                        "content": {
                            "application/json": {"schema": ref("Tail")},
                            "application/x-ndjson": {"schema": {}},
                        },
                    },
                    **problems(400, *_GUARDED),
                },
            )
        },
    }


def _sources() -> dict[str, Json]:
    one = data(source=ref("Source"))
    return {
        "/api/sources": {
            "get": operation(
                "listSources",
                "List the sources",
                tag="management",
                security=ADMIN,
                parameters=PAGE,
                answers={
                    "200": answer(
                        "A page of sources.", data(sources=array(ref("Source")), pagination=ref("Pagination"))
                    ),
                    **problems(400, *_GUARDED),
                },
            ),
            "post": operation(
                "addSource",
                "Add a source",
                tag="management",
                security=ADMIN,
                parameters=ONCE,
                body=json_body(ref("NewSource")),
                answers={
                    "201": answer("The source with its write key.", one),
                    **problems(400, 409, 413, 415, *_GUARDED),
                },
            ),
        },
        "/api/sources/{source}": {
            "parameters": [_SOURCE],
            "get": operation(
                "getSource",
                "Show a source",
                tag="management",
                security=ADMIN,
                answers={"200": answer("The source.", one), **problems(404, *_GUARDED)},
            ),
            "patch": operation(
                "changeSource",
                "Change a source",
                tag="management",
                security=ADMIN,
                body=json_body(ref("SourceChange")),
                answers={
                    "200": answer("The source as it is now.", one),
                    **problems(400, 404, 413, 415, *_GUARDED),
                },
            ),
        },
        "/api/sources/{source}/keys": {
            "parameters": [_SOURCE],
            "get": operation(
                "listWriteKeys",
                "List all keys a source ever had",
                tag="management",
                security=ADMIN,
                answers={
                    "200": answer("The keys, the oldest first.", data(keys=array(ref("WriteKey")))),
                    **problems(404, *_GUARDED),
                },
            ),
            "post": operation(
                "addWriteKey",
                "Add a write key beside those that are live",
                tag="management",
                security=ADMIN,
                parameters=ONCE,
                body=json_body(ref("NewKey")),
                answers={
                    "201": answer("The key and its source.", data(key=ref("WriteKey"), source=ref("Source"))),
                    **problems(400, 404, 409, 413, 415, *_GUARDED),
                },
            ),
        },
        "/api/sources/{source}/keys/{key}": {
            "parameters": [_SOURCE, path_parameter("key", "The write key; it may hold slashes.")],
            "delete": operation(
                "revokeWriteKey",
                "Make a write key bad for good",
                tag="management",
                security=ADMIN,
                answers={"200": answer("The source as it is now.", one), **problems(404, *_GUARDED)},
            ),
        },
    }


def _tokens() -> dict[str, Json]:
    return {
        "/api/tokens": {
            "get": operation(
                "listTokens",
                "List the tokens, those that are no longer good included",
                tag="management",
                security=ADMIN,
                parameters=PAGE,
                answers={
                    "200": answer(
                        "A page of tokens.", data(tokens=array(ref("Token")), pagination=ref("Pagination"))
                    ),
                    **problems(400, *_GUARDED),
                },
            ),
            "post": operation(
                "issueToken",
                "Issue a token; its secret is shown this once",
                tag="management",
                security=ADMIN,
                parameters=ONCE,
                body=json_body(ref("NewToken")),
                about="A repeated request gets 409: the secret is not kept, so it cannot be shown again.",
                answers={
                    "201": answer("The token and its secret.", data(token=ref("IssuedToken"))),
                    **problems(400, 409, 413, 415, *_GUARDED),
                },
            ),
        },
        "/api/tokens/{token}": {
            "parameters": [path_parameter("token", "Id of the token, not its secret.")],
            "delete": operation(
                "revokeToken",
                "Make a token bad for good",
                tag="management",
                security=ADMIN,
                answers={
                    "200": answer("The token as it is now.", data(token=ref("Token"))),
                    **problems(404, *_GUARDED),
                },
            ),
        },
    }


def _suppressions() -> dict[str, Json]:
    def asking(name: str, summary: str, shape: str, about: str, **members: Json) -> Json:
        return {
            "post": operation(
                name,
                summary,
                tag="management",
                security=ADMIN,
                body=json_body(ref(shape)),
                answers={"200": answer(about, data(**members)), **problems(400, 409, 413, 415, *_GUARDED)},
            )
        }

    listed = operation(
        "listSuppressions",
        "List whose events are not stored",
        tag="management",
        security=ADMIN,
        parameters=PAGE,
        answers={
            "200": answer(
                "A page of hashes.",
                data(suppressed=array(ref("Suppression")), pagination=ref("Pagination")),
            ),
            **problems(400, *_GUARDED),
        },
    )
    add = asking(
        "suppress",
        "Store no events of these people any more",
        "NewSuppression",
        "How many were named, and how many of them are new.",
        suppressed=_COUNT,
        added=_COUNT,
    )
    return {
        "/api/suppressions": {"get": listed} | add,
        "/api/suppressions/remove": asking(
            "unsuppress", "Store events of these people again", "Subjects", "How many.", removed=_COUNT
        ),
        "/api/suppressions/check": asking(
            "checkSuppressions",
            "Say for each identifier whether it is suppressed",
            "Subjects",
            "One answer for each.",
            suppressed=array({"type": "boolean"}),
        ),
    }

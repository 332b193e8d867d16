"""SQL over HTTP in the OpenAPI document."""

from typing import Any, Final

import msgspec

from profilelake.manage._openapi_parts import (
    ADMIN,
    READ,
    Json,
    answer,
    json_body,
    operation,
    path_parameter,
    problems,
    ref,
    text,
)
from profilelake.manage.sql import FORMATS, SqlAsked, SqlJob

_REFUSED: Final = (401, 403, 503)
_ASKERS: Final = [*READ, *ADMIN]


def schemas() -> dict[str, Json]:
    """Return the schemas of the question, as it is decoded, of jobs, and of what is wrong with a query."""
    _, made = msgspec.json.schema_components([SqlAsked, SqlJob], ref_template="#/components/schemas/{name}")
    problem: Json = {
        "type": "object",
        "description": "An RFC 9457 problem; `line` and `column` count from 1, where the place is known.",
        "properties": {
            "type": text(),
            "title": text(),
            "status": {"type": "integer"},
            "code": text("Stays the same; see docs/sql.md."),
            "detail": text(),
            "line": {"type": "integer", "minimum": 1},
            "column": {"type": "integer", "minimum": 1},
        },
        "required": ["code", "detail", "status", "title", "type"],
    }
    return {**made, "SqlProblem": problem}


def paths() -> dict[str, Json]:
    """Return the paths."""
    job = path_parameter("job", "Id of the job.")
    shown = answer("The job.", ref("SqlJob"))
    too_fast = _wrong(429, "The token sends more than its rate; retry after `Retry-After` seconds.")
    return {
        "/api/sql": {
            "post": operation(
                "sql",
                "Ask the tables in SQL",
                about=(
                    "The result is a stream; one that breaks off ends without its end, so a client notices. "
                    "With mode `async` the query becomes a job."
                ),
                tag="sql",
                security=_ASKERS,
                body=json_body(ref("SqlAsked")),
                answers={
                    "200": _result(),
                    "202": answer("The job.", ref("SqlJob")),
                    **_wrong(400, "It is no query that can be answered; the code says why."),
                    **_wrong(404, "There is no such table."),
                    **_wrong(422, "It would take more than a query may: memory, rows, bytes."),
                    **_wrong(
                        429,
                        "Too many queries run, or requests come; retry after as many seconds as `Retry-After` says.",
                    ),
                    **_wrong(504, "It took too long."),
                    **problems(*_REFUSED, 413, 415),
                },
            )
        },
        "/api/sql/jobs/{job}": {
            "get": operation(
                "sqlJob",
                "How a job stands",
                tag="sql",
                security=_ASKERS,
                parameters=[job],
                answers={"200": shown, **too_fast, **problems(404, *_REFUSED)},
            ),
            "delete": operation(
                "cancelSqlJob",
                "End a job that runs, or throw a result away",
                tag="sql",
                security=_ASKERS,
                parameters=[job],
                answers={"200": shown, **too_fast, **problems(404, *_REFUSED)},
            ),
        },
        "/api/sql/jobs/{job}/result": {
            "get": operation(
                "sqlJobResult",
                "The result of a job that is done",
                tag="sql",
                security=_ASKERS,
                parameters=[job],
                answers={
                    "200": _result(),
                    **_wrong(400, "The job has failed, as `code` says."),
                    **_wrong(422, "The job would have taken more than a query may."),
                    **_wrong(504, "The job took too long."),
                    **too_fast,
                    **problems(404, 409, *_REFUSED),
                },
            )
        },
    }


def _result() -> Json:
    content: dict[str, Any] = {
        media: {"schema": {} if media == FORMATS["json"] else {"type": "string", "format": "binary"}}
        for media in FORMATS.values()
    }
    return {"description": "The rows.", "content": content}


def _wrong(status: int, about: str) -> Json:
    return {str(status): answer(about, ref("SqlProblem"), media="application/problem+json")}

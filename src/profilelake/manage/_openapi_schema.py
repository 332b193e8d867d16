"""The route that lists shapes in the OpenAPI document."""

from typing import Final

import msgspec

from profilelake.manage._openapi_parts import (
    ADMIN,
    PAGE,
    Json,
    answer,
    array,
    data,
    operation,
    problems,
    query_parameter,
    ref,
    text,
)
from profilelake.semantics.events import EVENT_TYPES
from profilelake.semantics.shapes import PARTS
from profilelake.shapes.asking import AT_ODDS, ShapeSeen

_ANSWERS: Final = (400, 401, 403, 503)


def schemas() -> dict[str, Json]:
    """Return the schema of answers, as they are encoded."""
    _, made = msgspec.json.schema_components([ShapeSeen], ref_template="#/components/schemas/{name}")
    return made


def paths() -> dict[str, Json]:
    """Return the paths."""
    return {
        "/api/schema": {
            "get": operation(
                "listSchema",
                "Which paths events were sent with, and of which types",
                tag="management",
                security=ADMIN,
                about="As of the last publication. Values are never shown, only their form.",
                parameters=[
                    query_parameter("event", "Only of events with this name."),
                    query_parameter("type", "Only of calls of this type.", text(enum=list(EVENT_TYPES))),
                    query_parameter("part", "Only of this part.", text(enum=list(PARTS))),
                    query_parameter("path", "Only this path and what lies below it."),
                    query_parameter(
                        "new_since", "Only what was first seen since then: a while such as 1h, or a time."
                    ),
                    query_parameter(
                        "at_odds",
                        "Only paths with several types, that differ in case only, or that share a column.",
                        text(enum=[*AT_ODDS, "any"]),
                    ),
                    *PAGE,
                ],
                answers={
                    "200": answer(
                        "A page of paths, one row per type of value.",
                        data(schema=array(ref("ShapeSeen")), pagination=ref("Pagination")),
                    ),
                    **problems(*_ANSWERS),
                },
            ),
        },
    }

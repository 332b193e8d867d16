"""A profile's past, and exports, in the OpenAPI document."""

from typing import Final

from profilelake.manage._openapi_parts import (
    READ,
    TIME,
    Json,
    answer,
    array,
    closed,
    nullable,
    operation,
    path_parameter,
    query_parameter,
    ref,
    text,
)

_PROFILES: Final = "/collections/{collection}/profiles"
_ROWS_MAX: Final = 1_000
_MEDIA: Final = {
    "application/x-ndjson": text("One JSON object a line."),
    "text/csv": text(),
    "application/vnd.apache.arrow.stream": {"type": "string", "contentMediaType": "application/octet-stream"},
    "application/vnd.apache.parquet": {"type": "string", "contentMediaType": "application/octet-stream"},
}
_AS_OF: Final = (
    query_parameter("as_of", "As it was then: what was received until that time.", TIME),
    query_parameter(
        "rules",
        "With `as_of`: the identity rules of then, or those of today.",
        text(enum=["then", "current"]),
    ),
)
_FULL: Final = (
    query_parameter("history", "All events and not only recent ones.", text(enum=["full"])),
    query_parameter("type", "With `history=full`: only these types, separated by commas."),
    {
        "name": "property",
        "in": "query",
        "required": False,
        "style": "deepObject",
        "explode": True,
        "description": "With `history=full`: `property.NAME=VALUE` or `property.NAME[lt|lte|gt|gte|exists]=VALUE`.",
        "schema": {"type": "object", "additionalProperties": True},
    },
)


def schemas() -> dict[str, Json]:
    """Return the schemas of a profile's past."""
    identifier = {"collection": text(), "type": text(), "id": text(), "encoding": text()}
    return {
        "EventHistory": closed(
            data=array(
                closed(
                    external_ids=array(closed(**identifier)),
                    context={},
                    properties={},
                    traits={},
                    type=text(),
                    message_id=text(),
                    source_id=text(),
                    timestamp=TIME,
                    received_at=TIME,
                    event=text(),
                    related={"type": "object", "additionalProperties": text()},
                )
            ),
            cursor=ref("Cursor"),
        ),
        "TraitHistory": closed(
            trait=text(),
            data=array(
                closed(
                    value={"description": "What was written; null where the trait was removed."},
                    removed={"type": "boolean"},
                    timestamp=TIME,
                    received_at=TIME,
                    source_id=text(),
                    message_id=text(),
                    in_force={"type": "boolean"},
                    in_force_from=nullable(TIME),
                    in_force_until=nullable(TIME),
                )
            ),
            cursor=ref("Cursor"),
        ),
    }


def paths() -> dict[str, Json]:
    """Return the paths that only the lake answers, for spaces and as they were called before."""
    found: dict[str, Json] = {}
    for word, names in (("spaces", ""), ("namespaces", "OfNamespace")):
        root = f"/v1/{word}/{{space}}{_PROFILES}"
        place = [
            path_parameter("space", "Id of the space; a workspace is one."),
            path_parameter("collection", "Of people or of accounts.", enum=["users", "accounts"]),
        ]
        profile = path_parameter("id", "`type:value`, such as `email:ana@example.org`, or a `use_…` id.")
        found[f"{root}/{{id}}/traits/{{trait}}/history"] = {
            "parameters": [*place, profile, path_parameter("trait", "Name of the trait.")],
            "get": _reading(
                f"getTraitHistory{names}",
                "Read every write of a trait, and when it was in force",
                answer("The newest write first.", ref("TraitHistory")),
                [
                    query_parameter("next", "What `cursor.next` of the page before is."),
                    query_parameter(
                        "limit",
                        "Rows of a page; 10 if not given.",
                        {"type": "integer", "minimum": 1, "maximum": _ROWS_MAX},
                    ),
                ],
            ),
        }
        found[f"{root}/{{id}}/explain/{{trait}}"] = {
            "parameters": [*place, profile, path_parameter("trait", "Key of the definition.")],
            "get": _reading(
                f"explainDefinition{names}",
                "Explain why a profile is in an audience, or how a computed trait comes by its value",
                answer("Each condition, what it found and what it asks for.", {"type": "object"}),
                [query_parameter("as_of", "A time in the past; now if not given.", text(format="date-time"))],
            ),
        }
        found[f"{root}/export"] = {
            "parameters": place,
            "get": _reading(
                f"exportProfiles{names}",
                "Read all profiles as one stream, in the format of `Accept`",
                {
                    "description": "Every profile as it is published.",
                    "content": {media: {"schema": shape} for media, shape in _MEDIA.items()},
                },
                [
                    query_parameter(
                        "format",
                        "In place of `Accept`.",
                        text(enum=["arrow", "parquet", "ndjson", "csv"]),
                    ),
                    query_parameter("since", "Only profiles seen from this time on.", TIME),
                ],
                {"406": answer("There is no such format.", ref("ProfileRefusal"))},
            ),
        }
    return found


def extend(paths: dict[str, Json]) -> None:
    """Add to what is read of a profile how it is read as of a time, and all its events."""
    for word in ("spaces", "namespaces"):
        root = f"/v1/{word}/{{space}}{_PROFILES}/{{id}}"
        for below in ("", "/traits", "/external_ids"):
            paths[root + below]["get"]["parameters"] += _AS_OF
        events = paths[f"{root}/events"]["get"]
        events["parameters"] += _FULL
        shown = events["responses"]["200"]["content"]["application/json"]
        shown["schema"] = {"anyOf": [shown["schema"], ref("EventHistory")]}


def _reading(
    name: str, summary: str, found: Json, parameters: list[Json], more: dict[str, Json] | None = None
) -> Json:
    refused = ref("ProfileRefusal")
    answers = {
        "200": found,
        "400": answer("The request cannot be answered as it is.", refused),
        "401": answer("There is no good token for this space.", refused),
        "403": answer("The token does not open it.", refused),
        "404": answer("There is no such profile or trait.", refused),
        "429": answer("The space asks for more than it may: retry after `Retry-After` seconds.", refused),
        "500": answer("A fault of ours.", refused),
        "503": answer("The lake cannot be read now: retry after `Retry-After` seconds.", refused),
        **(more or {}),
    }
    return operation(name, summary, tag="profiles", security=READ, answers=answers, parameters=parameters)

"""The routes of audiences, computed traits and the names to define them with in the OpenAPI document."""

from typing import Final

import msgspec

from profilelake.manage import _computed_shapes as shapes
from profilelake.manage._openapi_parts import (
    ADMIN,
    ONCE,
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
from profilelake.manage.computed import Resync
from profilelake.manage.previews import Preview
from profilelake.manage.waiting import WAIT_SECONDS_MAX
from profilelake.shapes.names import Named

_READ: Final = (401, 403, 404, 422, 503)
_CHANGE: Final = (401, 403, 404, 409, 413, 415, 422, 503)
_STATUSES: Final = ["Backfilling", "Computing", "Live", "Failed", "Disabled"]
_TYPES: Final = ["USERS", "ACCOUNTS"]
_SPACE: Final = path_parameter("space", "Id of the space; the only one there is.", enum=["default"])
_ID: Final = path_parameter("id", "Id or key of the definition.")
_WAIT: Final = [
    query_parameter(
        "wait_for", "`committed` waits until it is applied and published.", text(enum=["committed"])
    ),
    query_parameter(
        "timeout", "Seconds to wait at most.", {"type": "number", "minimum": 0, "maximum": WAIT_SECONDS_MAX}
    ),
]
_FLAGS: Final = [
    query_parameter("expected_version", "Refuse it where another version holds.", {"type": "integer"}),
    query_parameter("override", "Also where a file says what holds.", {"type": "boolean"}),
    query_parameter("accept_changes", "Also where very many profiles change.", {"type": "boolean"}),
]


def schemas() -> dict[str, Json]:
    """Return the schemas of requests, as they are decoded, and of answers."""
    _, made = msgspec.json.schema_components(
        [
            shapes.NewAudience,
            shapes.NewComputedTrait,
            shapes.AudienceChange,
            shapes.ComputedTraitChange,
            shapes.NewPreview,
            Resync,
            Preview,
            Named,
        ],
        ref_template="#/components/schemas/{name}",
    )
    shape = {
        "id": text(),
        "spaceId": text(),
        "name": text(),
        "description": text(),
        "key": text(),
        "enabled": {"type": "boolean"},
        "definition": closed(query=text(), type=text(enum=_TYPES)),
        "status": text(enum=_STATUSES),
        "createdBy": text(),
        "createdAt": TIME,
        "updatedBy": text(),
        "updatedAt": TIME,
        "version": {"type": "integer"},
        "managedBy": nullable(text("The file that says what holds.")),
        "failureReason": nullable(text()),
    }
    historical: Json = {"includeHistoricalData": {"type": "boolean"}}
    return made | {
        "Audience": closed(
            **shape,
            audienceType=text(enum=_TYPES),
            computeCadence=closed(type=text(enum=["REALTIME", "BATCH"])),
            size=closed(count={"type": "integer"}, type=text(enum=_TYPES)),
            options=closed(**historical, filterByExternalIds=array(text())),
        ),
        "ComputedTrait": closed(
            **shape, options=closed(**historical, includeAnonymousUsers={"type": "boolean"})
        ),
        "Schedule": closed(
            id=text(),
            strategy=text(enum=["PERIODIC"]),
            config=closed(type=text(enum=["PERIODIC"]), interval={"type": "integer"}),
        ),
    }


def paths() -> dict[str, Json]:
    """Return the paths."""
    preview = answer(
        "The preview; ask for it until it is COMPLETED or FAILED.", data(audiencePreview=ref("Preview"))
    )
    return {
        **_of("audiences", "audience", "Audience", "audiences"),
        **_of("computed-traits", "computedTrait", "ComputedTrait", "computedTraits"),
        "/api/spaces/{space}/audiences/previews": {
            "post": operation(
                "createAudiencePreview",
                "Try an audience out: who would be in it now",
                tag="management",
                security=ADMIN,
                parameters=[_SPACE],
                body=json_body(ref("NewPreview")),
                answers={"202": preview, **problems(409, 413, 415, 429, *_READ)},
            )
        },
        "/api/spaces/{space}/audiences/previews/{preview}": {
            "get": operation(
                "getAudiencePreview",
                "What became of a preview",
                tag="management",
                security=ADMIN,
                parameters=[_SPACE, path_parameter("preview", "Id of the preview.")],
                answers={"200": preview, **problems(*_READ)},
            )
        },
        **_names(),
    }


def _of(noun: str, word: str, schema: str, words: str) -> dict[str, Json]:
    base = f"/api/spaces/{{space}}/{noun}"
    one = answer("It, as it is now.", data(**{word: ref(schema)}))
    made = answer("It, as it will be; or only that nothing changed.", {"type": "object"})
    late = answer("It is recorded, but was not applied and published in time.", {"type": "object"})
    what = "audience" if word == "audience" else "computed trait"

    def act(name: str, summary: str, **more: object) -> Json:
        return operation(name, summary, tag="management", security=ADMIN, **more)  # type: ignore[arg-type]

    return {
        base: {
            "get": act(
                f"list{schema}s",
                f"The {what}s there are, in order of their keys",
                parameters=[_SPACE, *PAGE],
                answers={
                    "200": answer(
                        f"A page of {what}s.",
                        data(**{words: array(ref(schema)), "pagination": ref("Pagination")}),
                    ),
                    **problems(*_READ),
                },
            ),
            "post": act(
                f"create{schema}",
                f"Define a {what}" if what != "audience" else "Define an audience",
                parameters=[_SPACE, *ONCE, *_WAIT],
                body=json_body(ref(f"New{schema}")),
                answers={"201": one, "504": late, **problems(*_CHANGE)},
            ),
        },
        f"{base}/{{id}}": {
            "get": act(
                f"get{schema}",
                f"One {what}",
                parameters=[_SPACE, _ID],
                answers={"200": one, **problems(*_READ)},
            ),
            "patch": act(
                f"update{schema}",
                f"Change a {what}: what is not given stays",
                parameters=[_SPACE, _ID, *ONCE, *_WAIT, *_FLAGS],
                body=json_body(ref(f"{schema}Change")),
                answers={"200": made, "504": late, **problems(*_CHANGE)},
            ),
            "delete": act(
                f"remove{schema}",
                f"Drop a {what}; its values go",
                parameters=[_SPACE, _ID, *ONCE, *_WAIT, *_FLAGS],
                answers={"200": made, "504": late, **problems(*_CHANGE)},
            ),
        },
        f"{base}/{{id}}/runs": {
            "post": act(
                f"run{schema}",
                "Compute it now; refused for what is computed as events come",
                parameters=[_SPACE, _ID],
                answers=problems(*_CHANGE),
            )
        },
        f"{base}/{{id}}/resyncs": {
            "post": act(
                f"resync{schema}",
                "Announce everything it is worth once more",
                parameters=[_SPACE, _ID, *ONCE, *_WAIT],
                body=json_body(ref("Resync")),
                answers={"202": made, "504": late, **problems(*_CHANGE)},
            )
        },
        f"{base}/{{id}}/schedules": {
            "get": act(
                f"list{schema}Schedules",
                "When it is computed; nothing for what is computed as events come",
                parameters=[_SPACE, _ID],
                answers={
                    "200": answer("The schedules.", data(**{f"{word}Schedules": array(ref("Schedule"))})),
                    **problems(*_READ),
                },
            )
        },
        f"{base}/{{id}}/{word.lower()}-references": {
            "get": act(
                f"list{schema}References",
                "Which definitions read it",
                parameters=[_SPACE, _ID],
                answers={
                    "200": answer(
                        "What reads it.",
                        data(references=array(closed(id=text(), key=text(), name=text(), type=text()))),
                    ),
                    **problems(*_READ),
                },
            )
        },
    }


def _names() -> dict[str, Json]:
    event, path = path_parameter("event", "Name of the event."), path_parameter("property", "Its path.")
    search = query_parameter("search", "Only names that contain it.")
    collection = query_parameter("collection", "Traits of whom.", text(enum=["users", "accounts"]))
    listed = {
        "traits": ("Traits", "The traits profiles were sent with", [_SPACE, collection, search, *PAGE]),
        "events": ("Events", "The events there are", [_SPACE, search, *PAGE]),
        "properties": (
            "PropertiesFromEvent",
            "The properties events of a name were sent with",
            [_SPACE, event, search, *PAGE],
        ),
    }
    places = {"properties": "/api/spaces/{space}/events/{event}/properties"}
    made = {
        places.get(name, f"/api/spaces/{{space}}/{name}"): {
            "get": operation(
                f"list{word}",
                summary,
                tag="management",
                security=ADMIN,
                parameters=parameters,
                answers={
                    "200": answer(
                        "A page of names.",
                        data(**{name: array(ref("Named")), "pagination": ref("Pagination")}),
                    ),
                    **problems(400, *_READ),
                },
            )
        }
        for name, (word, summary, parameters) in listed.items()
    }
    return made | {
        "/api/spaces/{space}/events/{event}/properties/{property}/sample-values": {
            "get": operation(
                "listSampleValuesFromEventProperty",
                "The most frequent values of a property among the newest events",
                tag="management",
                security=ADMIN,
                parameters=[_SPACE, event, path],
                answers={
                    "200": answer(
                        "Values.", data(sampleValues=array(closed(value={}, count={"type": "integer"})))
                    ),
                    **problems(*_READ),
                },
            )
        }
    }

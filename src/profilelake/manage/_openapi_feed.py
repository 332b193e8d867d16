"""The feed and the destinations in the OpenAPI document."""

from typing import Final

import msgspec

from profilelake.manage._openapi_parts import (
    ADMIN,
    PAGE,
    READ,
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
from profilelake.manage.destinations import DestinationAsked, LettersAsked, ResyncAsked, SecretAsked

_NUMBER: Final[Json] = {"type": "integer", "minimum": 0}
_READING: Final = (400, 401, 403, 503)
_NAMED: Final = (400, 401, 403, 404, 503)
_CHANGING: Final = (*_NAMED, 409, 413, 415)
_PROBLEM: Final = "application/problem+json"


def schemas() -> dict[str, Json]:
    """Return the schemas, of bodies as they are decoded."""
    asked = [DestinationAsked, LettersAsked, ResyncAsked, SecretAsked]
    _, told = msgspec.json.schema_components(asked, ref_template="#/components/schemas/{name}")
    # Defaults may be tuples, which are no JSON.
    made: dict[str, Json] = msgspec.json.decode(msgspec.json.encode(told))
    identifier = closed(type=text(), id=text())
    change = closed(
        definition=text("Key of the computed trait or audience."),
        kind=text(enum=["audience", "trait", "sql_audience", "sql_trait"]),
        version=_NUMBER,
        collection=text(enum=["users", "accounts"]),
        profile_id=text(),
        value={"description": "What it is worth now: true or false of an audience, null for no value."},
        previous={"description": "What it was worth before."},
        at=TIME,
        cause=text("event, timer, identity, definition, resync or rebuild."),
        idempotency_key=text("Equal for the same change, however often it is told."),
        cursor=text("The place behind this change."),
    )
    change["properties"]["external_ids"] = array(identifier)
    return made | {
        "FeedChange": change,
        "Destination": {
            "type": "object",
            "description": "What was said of it, and how it goes. Of secrets it has the names.",
            "properties": {
                "name": text(),
                "state": text(enum=["live", "snapshot", "failing", "full", "paused", "disabled"]),
                "paused": nullable(text()),
                "delivered": _NUMBER,
                "waiting": _NUMBER,
                "dead": _NUMBER,
                "letters": ref("DeadLetters"),
                "trouble": text(),
            },
            "required": ["name", "state"],
        },
        "DeadLetters": closed(
            taken=_NUMBER,
            held=_NUMBER,
            replayed=_NUMBER,
            outdated=_NUMBER,
            discarded=_NUMBER,
            expired=_NUMBER,
            expired_at=nullable(TIME),
            full_since=nullable(TIME),
            replaying={"type": "boolean"},
        ),
        "DeadLetter": closed(
            id=_NUMBER,
            at=TIME,
            definition=text(),
            profile_id=text(),
            idempotency_key=text(),
            status=_NUMBER,
            attempts=_NUMBER,
            reason=text(),
            body={"description": "What was sent."},
        ),
    }


def paths() -> dict[str, Json]:
    """Return the paths."""
    root = "/api/destinations"
    one = f"{root}/{{destination}}"
    name = [path_parameter("destination", "Name of the destination.")]
    shown = answer("The destination.", data(destination=ref("Destination")))
    return {
        "/api/feed": {"get": _feed()},
        root: {
            "get": operation(
                "listDestinations",
                "List who is told of changes",
                tag="activation",
                security=ADMIN,
                parameters=PAGE,
                answers={
                    "200": answer(
                        "A page of destinations.",
                        data(destinations=array(ref("Destination")), pagination=ref("Pagination")),
                    ),
                    **problems(*_READING),
                },
            )
        },
        one: {
            "parameters": name,
            "get": _admin("getDestination", "Show a destination", shown, _NAMED),
            "put": _admin(
                "putDestination",
                "Let a destination hold",
                shown,
                _CHANGING,
                json_body(ref("DestinationAsked")),
            ),
            "delete": _admin(
                "removeDestination",
                "Have nothing sent there any more",
                answer("It is gone.", data(status=text(enum=["removed"]))),
                (*_NAMED, 409),
            ),
        },
        f"{one}/pause": {
            "parameters": name,
            "post": _admin("pauseDestination", "Send nothing until it is resumed", shown, _NAMED),
        },
        f"{one}/resume": {
            "parameters": name,
            "post": _admin("resumeDestination", "Go on sending", shown, _NAMED),
        },
        f"{one}/resync": {
            "parameters": name,
            "post": _admin(
                "resyncDestination",
                "Tell everything anew",
                answer("It begins.", data(definitions=array(text()))),
                _CHANGING,
                json_body(ref("ResyncAsked")),
                "202",
            ),
        },
        f"{one}/dead": {
            "parameters": name,
            "get": operation(
                "listDeadLetters",
                "List records that were given up",
                tag="activation",
                security=ADMIN,
                parameters=PAGE,
                answers={
                    "200": answer(
                        "A page of them.", data(dead=array(ref("DeadLetter")), pagination=ref("Pagination"))
                    ),
                    **problems(*_NAMED),
                },
            ),
        },
        f"{one}/replay": {
            "parameters": name,
            "post": _admin(
                "replayDeadLetters",
                "Send records that were given up again, unless something newer was told since",
                answer("They are, one after the other.", data(asked=_NUMBER)),
                _CHANGING,
                json_body(ref("LettersAsked")),
                "202",
            ),
        },
        f"{one}/discard": {
            "parameters": name,
            "post": _admin(
                "discardDeadLetters",
                "Put records that were given up away unsent",
                answer("They are gone.", data(discarded=_NUMBER)),
                _CHANGING,
                json_body(ref("LettersAsked")),
            ),
        },
        "/api/destination-secrets/{secret}": {
            "parameters": [path_parameter("secret", "What destinations call it.")],
            "put": _admin(
                "putDestinationSecret",
                "Store a secret, which nobody can ask for again",
                answer("It is stored.", data(secret=text())),
                _CHANGING,
                json_body(ref("SecretAsked")),
            ),
        },
    }


def _feed() -> Json:
    page = closed(changes=array(ref("FeedChange")), cursor=text(), more={"type": "boolean"})
    return operation(
        "readFeed",
        "Read changes of computed traits and audiences, in order",
        tag="activation",
        security=[*READ, *ADMIN],
        about="With `Accept: text/event-stream` they come as server-sent events; their ids are cursors.",
        parameters=[
            query_parameter("after", "`start`, `now`, or the cursor of an answer before."),
            query_parameter("definition", "Only of this definition; may be given more than once."),
            query_parameter("collection", "Only of these profiles.", text(enum=["users", "accounts"])),
            query_parameter("expand", "Whose they are.", text(enum=["external_ids"])),
            query_parameter(
                "limit", "Changes of one answer.", {"type": "integer", "minimum": 1, "maximum": 1000}
            ),
            query_parameter(
                "wait", "Seconds to wait for a change.", {"type": "number", "minimum": 0, "maximum": 60}
            ),
        ],
        answers={
            "200": {
                "description": "What follows, and the cursor behind it.",
                "content": {"application/json": {"schema": page}, "text/event-stream": {"schema": text()}},
            },
            **problems(*_READING),
            "410": answer(
                "What follows is not kept any more: read what holds, then go on from now.",
                ref("Problem"),
                media=_PROBLEM,
            ),
            "429": answer("The token asks for more than it may.", ref("Problem"), media=_PROBLEM),
        },
    )


def _admin(
    name: str,
    summary: str,
    found: Json,
    refused: tuple[int, ...],
    body: Json | None = None,
    status: str = "200",
) -> Json:
    return operation(
        name,
        summary,
        tag="activation",
        security=ADMIN,
        answers={status: found, **problems(*refused)},
        body=body,
    )

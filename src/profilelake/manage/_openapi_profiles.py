"""The Profile API in the OpenAPI document."""

from collections.abc import Sequence
from typing import Final

from profilelake.manage._openapi_parts import (
    ADMIN,
    ONCE,
    READ,
    TIME,
    Json,
    answer,
    array,
    closed,
    json_body,
    nullable,
    operation,
    path_parameter,
    query_parameter,
    ref,
    text,
)

_PROFILES: Final = "/collections/{collection}/profiles"
_RESOURCES: Final = ("traits", "external_ids", "events", "metadata", "links", "consent")
_OF_MANY: Final = tuple(name for name in _RESOURCES if name != "events")
"""What can be read of many profiles at once."""
_KNOWN: Final[Json] = {
    "name": "If-None-Match",
    "in": "header",
    "description": "`ETag` of an answer the client has kept.",
    "schema": {"type": "string"},
}
_SWITCH: Final = text(enum=["true", "false"])


def schemas() -> dict[str, Json]:
    """Return the schemas of the Profile API."""
    cursor = closed(
        url=text("Path of the next page, as it can be asked for; empty at the end."),
        has_more={"type": "boolean"},
        next=text("What `next` of the next page is."),
        limit={"type": "integer"},
    )
    seen = {
        "created_at": TIME,
        "updated_at": TIME,
        "expires_at": nullable(TIME),
        "first_message_id": text(),
        "first_source_id": text(),
        "last_message_id": text(),
        "last_source_id": text(),
    }
    identifier = {"collection": text(), "type": text(), "id": text(), "encoding": text()}
    shown = {
        "segment_id": text(),
        "collection": text(),
        "traits": ref("Traits"),
        "external_ids": ref("ExternalIds"),
        "events": ref("Events"),
        "metadata": ref("Metadata"),
        "links": ref("Links"),
        "consent": ref("Consent"),
    }
    return {
        "Cursor": cursor,
        "Traits": closed(
            traits={
                "description": "Name to value; with `verbose=true` to value, source and time.",
                "type": "object",
                "additionalProperties": True,
            },
            cursor=ref("Cursor"),
        ),
        "ExternalIds": closed(
            data=array(ref("ExternalId")),
            cursor=ref("Cursor"),
        ),
        "ExternalId": closed(**identifier, source_id=text(), created_at=TIME, first_message_id=text()),
        "Events": closed(
            data=array(
                closed(
                    external_ids=array(closed(**identifier)),
                    context={},
                    properties={},
                    type=text(),
                    message_id=text(),
                    source_id=text(),
                    timestamp=TIME,
                    event=text(),
                    related={"type": "object", "additionalProperties": text()},
                )
            ),
            cursor=ref("Cursor"),
        ),
        "Metadata": closed(**seen, segment_id=text(), metadata=closed(**seen)),
        "Links": closed(
            data=array(
                closed(
                    to_collection=text(enum=["users", "accounts"]),
                    segment_id=text(),
                    linked_at=TIME,
                    unlinked_at=nullable(TIME),
                    external_ids=array(ref("ExternalId")),
                )
            ),
            cursor=ref("Cursor"),
        ),
        "Consent": closed(
            consent={
                "description": "By category.",
                "type": "object",
                "additionalProperties": closed(
                    value=text(enum=["true", "false", "conflict"]),
                    updated_at=TIME,
                    source_id=text(),
                    message_id=text(),
                ),
            },
            policy=text(enum=["most_restrictive", "latest", "conflict"]),
        ),
        "Profiles": closed(data=array(ref("Profile")), cursor=ref("Cursor")),
        "Profile": {
            "type": "object",
            "properties": shown,
            "required": ["collection", "segment_id"],
        },
        "Lookup": {
            "type": "object",
            "properties": {
                "ids": {"type": "array", "maxItems": 100, "items": text("As it would stand in a path.")},
                "expand": array(text(enum=list(_OF_MANY))),
            },
            "required": ["ids"],
            "additionalProperties": False,
        },
        "LookupAnswer": closed(
            data=array(
                {
                    "description": "A profile, or the error of this one id.",
                    "type": "object",
                    "properties": {"id": text(), "error": ref("ProfileError")},
                    "required": ["id"],
                }
            )
        ),
        "Deletion": {
            "type": "object",
            "properties": {
                "delete_external_ids": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": 1,
                    "items": {
                        "type": "object",
                        "properties": {"id": text(), "type": text()},
                        "required": ["id", "type"],
                    },
                }
            },
            "required": ["delete_external_ids"],
        },
        "Deleted": closed(code=text(enum=["success"]), message=text()),
        "ProfileError": closed(code=text(), message=text()),
        "ProfileRefusal": closed(error=ref("ProfileError")),
    }


def paths() -> dict[str, Json]:
    """Return the paths of the Profile API, once for spaces and once as they were called before."""
    found: dict[str, Json] = {}
    for word, names in (("spaces", ""), ("namespaces", "OfNamespace")):
        found |= _paths_under(f"/v1/{word}/{{space}}{_PROFILES}", names)
    return found


def _paths_under(root: str, names: str) -> dict[str, Json]:
    place = [
        path_parameter("space", "Id of the space; a workspace is one."),
        path_parameter("collection", "Of people or of accounts.", enum=["users", "accounts"]),
    ]
    profile = path_parameter("id", "`type:value`, such as `email:ana@example.org`, or a `use_…` id.")
    pages = [
        query_parameter("next", "What `cursor.next` of the page before is."),
        query_parameter("include", "Only these, separated by commas."),
    ]
    parameters = {
        "traits": [
            *pages,
            _limit(200),
            query_parameter("verbose", "Show source and time of each.", _SWITCH),
            query_parameter("class", "Only these.", text(enum=["audience", "computed_trait"])),
        ],
        "external_ids": [*pages, _limit(25)],
        "events": [
            *pages,
            _limit(100),
            query_parameter("exclude", "None of these, separated by commas."),
            query_parameter("sort", "Newest first (`desc`) or oldest first.", text(enum=["asc", "desc"])),
            query_parameter("start", "Not before this time.", TIME),
            query_parameter("end", "Before this time.", TIME),
        ],
        "metadata": [query_parameter("verbose", "Changes nothing.", _SWITCH)],
        "links": [
            pages[0],
            _limit(20),
            query_parameter("ended", "Show links that have ended as well.", _SWITCH),
        ],
        "consent": [],
    }
    found: dict[str, Json] = {
        root: {
            "parameters": place,
            "get": _reading(
                f"listProfiles{names}",
                "List all profiles of a collection",
                "Profiles",
                [pages[0], _limit(1000), _expand(_OF_MANY)],
                about="With `expand` a page has at most 100 profiles. A page may hold fewer than asked for;"
                " the last one is the one without `has_more`.",
            ),
        },
        f"{root}/{{id}}": {
            "parameters": [*place, profile],
            "get": _reading(
                f"getProfile{names}",
                "Read several resources of a profile in one answer",
                "Profile",
                [_expand(_RESOURCES)],
            ),
        },
        f"{root}/lookup": {
            "parameters": place,
            "post": _reading(
                f"lookUpProfiles{names}",
                "Read many profiles, with the ids in the body and not in the URL",
                "LookupAnswer",
                [],
                body=json_body(ref("Lookup")),
            ),
        },
    }
    found[f"{root}/{{id}}/external_ids/delete"] = {
        "parameters": [*place, profile],
        "post": _deleting(f"deleteExternalId{names}"),
    }
    for resource in _RESOURCES:
        name = "".join(word.capitalize() for word in resource.split("_"))
        found[f"{root}/{{id}}/{resource}"] = {
            "parameters": [*place, profile],
            "get": _reading(
                f"get{name}{names}",
                f"Read {resource.replace('_', ' ')} of a profile",
                name,
                parameters[resource],
            ),
        }
    return found


def _deleting(name: str) -> Json:
    refused = ref("ProfileRefusal")
    return operation(
        name,
        "Take one identifier off a person, for good",
        tag="profiles",
        security=ADMIN,
        answers={
            "200": answer("It is taken off, and applied within seconds.", ref("Deleted")),
            "400": answer(
                "The request cannot be carried out (`bad_request`, `unsupported_eid_type`).", refused
            ),
            "401": answer("There is no good token.", refused),
            "403": answer("The token does not administer this space.", refused),
            "404": answer(
                "There is no such profile (`not_found`), or not this identifier in it (`eid_not_found`).",
                refused,
            ),
            "413": answer("The body is larger than is read.", refused),
            "503": answer("It cannot be recorded now: retry after `Retry-After` seconds.", refused),
        },
        parameters=ONCE,
        body=json_body(ref("Deletion")),
        about="The profile is named by its user id. The identifier is unlinked from that user id, in all"
        " that was and will be; `POST /api/identity/decisions` takes it back.",
    )


def _expand(resources: Sequence[str]) -> Json:
    return query_parameter("expand", f"Some of {', '.join(resources)}, separated by commas.")


def _limit(most: int) -> Json:
    return query_parameter(
        "limit", "Rows of a page; 10 if not given.", {"type": "integer", "minimum": 1, "maximum": most}
    )


def _reading(
    name: str,
    summary: str,
    shape: str,
    parameters: list[Json],
    *,
    body: Json | None = None,
    about: str = "",
) -> Json:
    refused = ref("ProfileRefusal")
    answers = {
        "200": answer("What was asked for.", ref(shape)),
        "400": answer("The request cannot be answered as it is.", refused),
        "401": answer("There is no good token for this space.", refused),
        "403": answer("The scope of the token leaves this out.", refused),
        "404": answer("There is no such profile.", refused),
        "429": answer("The space asks for more than it may: retry after `Retry-After` seconds.", refused),
        "500": answer("A fault of ours.", refused),
        "503": answer("Profiles cannot be read now: retry after `Retry-After` seconds.", refused),
    }
    if body is None:
        answers["304"] = answer("The answer still is the one with the tag given in `If-None-Match`.")
        parameters = [*parameters, _KNOWN]
    else:
        answers["413"] = answer("The body is larger than is read.", refused)
    return operation(
        name,
        summary,
        tag="profiles",
        security=READ,
        answers=answers,
        parameters=parameters,
        body=body,
        about=about,
    )

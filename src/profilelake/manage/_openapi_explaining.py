"""The routes that explain identity in the OpenAPI document."""

from typing import Final

import msgspec

from profilelake.identity.told import Chain, History, Quarantined, Refused, SetShown
from profilelake.manage._openapi_parts import (
    ADMIN,
    PAGE,
    TIME,
    Json,
    answer,
    array,
    data,
    json_body,
    operation,
    path_parameter,
    problems,
    query_parameter,
    ref,
    text,
)
from profilelake.manage.identity import HistoryAsked, RefusalsAsked, WhyAsked
from profilelake.semantics.rules import COLLECTIONS

_GUARDED: Final = (401, 403, 503)
_READ: Final = (400, 404, *_GUARDED)
_POSTED: Final = (400, 404, 413, 415, *_GUARDED)


def schemas() -> dict[str, Json]:
    """Return the schemas of questions, as they are decoded, and of answers, as they are encoded."""
    _, made = msgspec.json.schema_components(
        [WhyAsked, RefusalsAsked, HistoryAsked, Chain, Refused, SetShown, History, Quarantined],
        ref_template="#/components/schemas/{name}",
    )
    return made


def paths() -> dict[str, Json]:
    """Return the paths."""
    collection = query_parameter(
        "collection", "Whose identifiers; without it their types say so.", text(enum=list(COLLECTIONS))
    )
    paging = {"pagination": ref("Pagination")}
    chain = answer("The chain, or what stands between the two.", data(chain=ref("Chain")))
    refusals = answer(
        "A page of refusals, the newest first; of an event also its sets with what became of each identifier.",
        data(refusals=array(ref("Refused")), sets=array(ref("SetShown")), **paging),
    )
    history = answer("A page of steps, the first one first.", data(history=ref("History"), **paging))
    return {
        "/api/identity/why": {
            "get": operation(
                "whyOnePerson",
                "The shortest chain of events that makes two identifiers one person",
                tag="management",
                security=ADMIN,
                parameters=[
                    query_parameter("from", "TYPE:VALUE", text(), required=True),
                    query_parameter("to", "TYPE:VALUE", text(), required=True),
                    collection,
                ],
                answers={"200": chain, **problems(*_READ)},
            ),
            "post": operation(
                "whyOnePersonInBody",
                "The same, with the identifiers in the body",
                tag="management",
                security=ADMIN,
                body=json_body(ref("WhyAsked")),
                answers={"200": chain, **problems(*_POSTED)},
            ),
        },
        "/api/identity/refusals": {
            "get": operation(
                "listRefusals",
                "Which identifiers did not join a profile, and by which rule",
                tag="management",
                security=ADMIN,
                about="Of an identifier or of an event: give one of the two.",
                parameters=[
                    query_parameter("identifier", "TYPE:VALUE"),
                    query_parameter("message_id", "The messageId of an event."),
                    collection,
                    *PAGE,
                ],
                answers={"200": refusals, **problems(*_READ)},
            ),
            "post": operation(
                "listRefusalsInBody",
                "The same, with what is asked for in the body",
                tag="management",
                security=ADMIN,
                parameters=PAGE,
                body=json_body(ref("RefusalsAsked")),
                answers={"200": refusals, **problems(*_POSTED)},
            ),
        },
        "/api/identity/profiles/{profile}/history": {
            "parameters": [path_parameter("profile", "Any id that the profile ever had, or TYPE:VALUE.")],
            "get": operation(
                "profileHistory",
                "How a profile formed, event by event",
                tag="management",
                security=ADMIN,
                about="Under the rules and decisions in force; `identity_updates` has what was announced.",
                parameters=[
                    query_parameter("as_of", "Only what was received before this time.", TIME),
                    collection,
                    *PAGE,
                ],
                answers={"200": history, **problems(*_READ)},
            ),
        },
        "/api/identity/history": {
            "post": operation(
                "profileHistoryInBody",
                "The same, with what is asked for in the body",
                tag="management",
                security=ADMIN,
                parameters=PAGE,
                body=json_body(ref("HistoryAsked")),
                answers={"200": history, **problems(*_POSTED)},
            ),
        },
        "/api/identity/quarantine": {
            "get": operation(
                "listQuarantine",
                "Which identifiers link nobody, by decision or because they met too many others",
                tag="management",
                security=ADMIN,
                parameters=PAGE,
                answers={
                    "200": answer(
                        "A page of identifiers, the latest first.",
                        data(quarantined=array(ref("Quarantined")), **paging),
                    ),
                    **problems(400, *_GUARDED),
                },
            ),
        },
    }

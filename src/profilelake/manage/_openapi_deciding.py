"""The routes of decisions about identity in the OpenAPI document."""

from typing import Final

import msgspec

from profilelake.identity import decide
from profilelake.identity.decisions import Decision
from profilelake.manage._openapi_parts import (
    ADMIN,
    ONCE,
    PAGE,
    Json,
    answer,
    array,
    data,
    json_body,
    nullable,
    operation,
    problems,
    query_parameter,
    ref,
    text,
)
from profilelake.manage.waiting import WAIT_SECONDS_MAX
from profilelake.pipeline.told_effects import EXAMPLES_MAX, Effects

_GUARDED: Final = (401, 403, 503)
_ASKED: Final = (
    decide.AskUnlink,
    decide.AskRelink,
    decide.AskRemove,
    decide.AskQuarantine,
    decide.AskRelease,
    decide.AskRetract,
    decide.AskRestore,
    decide.AskRules,
    decide.AskLeave,
    decide.AskRejoin,
)


def schemas() -> dict[str, Json]:
    """Return the schemas of requests, as they are decoded, and of answers, as they are encoded."""
    _, made = msgspec.json.schema_components(
        [*_ASKED, Decision, Effects], ref_template="#/components/schemas/{name}"
    )
    return made


def paths() -> dict[str, Json]:
    """Return the paths."""
    asked = json_body(
        {
            "oneOf": [ref(shape.__name__) for shape in _ASKED],
            "discriminator": {
                "propertyName": "decision",
                "mapping": {
                    str(shape.__struct_config__.tag): f"#/components/schemas/{shape.__name__}"
                    for shape in _ASKED
                },
            },
        }
    )
    seconds: Json = {"type": "number", "minimum": 0, "maximum": WAIT_SECONDS_MAX}
    made = data(changed={"type": "boolean"}, decisions=array(ref("Decision")))
    return {
        "/api/identity/decisions": {
            "get": operation(
                "listDecisions",
                "What people decided about identity, the newest first",
                tag="management",
                security=ADMIN,
                parameters=PAGE,
                answers={
                    "200": answer(
                        "A page of decisions.",
                        data(decisions=array(ref("Decision")), pagination=ref("Pagination")),
                    ),
                    **problems(400, *_GUARDED),
                },
            ),
            "post": operation(
                "decide",
                "Decide something about identity",
                tag="management",
                security=ADMIN,
                parameters=[
                    *ONCE,
                    query_parameter(
                        "wait_for",
                        "`committed` waits until it is applied and published.",
                        text(enum=["committed"]),
                    ),
                    query_parameter("timeout", "Seconds to wait at most.", seconds),
                ],
                body=asked,
                about="A decision that is in force already is not recorded again.",
                answers={
                    "200": answer(
                        "It is applied and published, or it was in force already (`changed` tells).", made
                    ),
                    "202": answer("It is recorded, and will be applied.", made),
                    "504": answer("It is recorded, but was not applied and published in time.", made),
                    **problems(400, 404, 409, 413, 415, *_GUARDED),
                },
            ),
        },
        "/api/identity/plan": {
            "post": operation(
                "planDecision",
                "What a decision would change; nothing is changed",
                tag="management",
                security=ADMIN,
                parameters=[
                    query_parameter(
                        "examples",
                        "Examples at most.",
                        {"type": "integer", "minimum": 1, "maximum": EXAMPLES_MAX},
                    )
                ],
                body=asked,
                answers={
                    "200": answer(
                        "What it would record and change.",
                        data(
                            unchanged={"type": "boolean"},
                            facts=array({"type": "object"}),
                            effects=ref("Effects"),
                        ),
                    ),
                    **problems(400, 404, 409, 413, 415, *_GUARDED),
                },
            )
        },
        "/api/identity/rules": {
            "get": operation(
                "getIdentityRules",
                "The identity rules in force",
                tag="management",
                security=ADMIN,
                answers={
                    "200": answer(
                        "The rules, as YAML and as they are understood.",
                        data(
                            version={"type": "integer"},
                            position=nullable(text("Where they were decided; null for the defaults.")),
                            yaml=text(),
                            rules={"type": "object"},
                        ),
                    ),
                    **problems(*_GUARDED),
                },
            )
        },
    }

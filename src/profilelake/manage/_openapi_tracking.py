"""The tracking API in the OpenAPI document: what SDKs, pixels and browsers send and load."""

from typing import Final

from profilelake.manage._openapi_parts import (
    OPEN,
    WRITE,
    Json,
    answer,
    json_body,
    operation,
    path_parameter,
    query_parameter,
    ref,
    text,
)

_CALLS: Final = {
    "identify": "Say who somebody is, and traits of them",
    "track": "Say what somebody did",
    "page": "Say which page somebody saw",
    "screen": "Say which screen somebody saw",
    "group": "Say which account somebody belongs to, and traits of it",
    "alias": "Say which id somebody had before",
}
_TAKEN: Final = "The events are durable."
_KEY: Final = query_parameter("writeKey", "The write key.")


def schemas() -> dict[str, Json]:
    """Return the schemas of the tracking API."""
    about = {
        "type": "The kind of call; needed inside a batch.",
        "userId": "Who it is, as your own database knows them: text.",
        "anonymousId": "Who it is, before they are known: text.",
        "messageId": "Id of this event: text. The same one again counts once.",
        "event": "What was done, for `track`: text.",
        "name": "Name of the page or screen: text.",
        "groupId": "The account, for `group`: text.",
        "previousId": "The id before, for `alias`: text.",
        "properties": "Anything about the event: an object.",
        "traits": "Anything about the person or account: an object.",
        "context": "Where it comes from: an object.",
        "integrations": "For which destinations: an object.",
        "timestamp": "When it happened: an ISO 8601 time.",
        "originalTimestamp": "When it happened by the clock of the device.",
        "sentAt": "When it was sent by the clock of the device.",
        "writeKey": "The write key, where no header names it: text.",
    }
    return {
        "Event": {
            "description": (
                "One event. It is stored whatever its fields hold; one that cannot be understood is found"
                " among the failed events, with the reason."
            ),
            "type": "object",
            "properties": {name: {"description": meaning} for name, meaning in about.items()},
            "additionalProperties": True,
        },
        "Batch": {
            "description": "Up to 10,000 events. What stands beside `batch` holds for each of them.",
            "type": "object",
            "properties": {
                "batch": {"type": "array", "maxItems": 10_000, "items": ref("Event")},
                "sentAt": {"description": "When it was sent by the clock of the device."},
                "context": {"description": "Where all of them come from: an object."},
                "integrations": {"description": "For which destinations: an object."},
                "writeKey": {"description": "The write key, where no header names it: text."},
            },
            "required": ["batch"],
            "additionalProperties": True,
        },
        "Taken": {
            "type": "object",
            "properties": {"success": {"const": True}},
            "required": ["success"],
            "additionalProperties": False,
        },
        "Refusal": {
            "description": "Why nothing was taken: `code` as SDKs know it, `reason` more exactly.",
            "type": "object",
            "properties": {"success": {"const": False}, "message": text(), "code": text(), "reason": text()},
            "required": ["code", "message", "success"],
            "additionalProperties": False,
        },
    }


def paths() -> dict[str, Json]:
    """Return the paths of the tracking API. A slash at the end of those that take events is no matter."""
    taking: dict[str, Json] = {}
    for name, summary in _CALLS.items():
        taking[f"/v1/{name}"] = {"post": _taking(name, summary, "Event")}
        taking[f"/v1/{name[0]}"] = {"post": _taking(f"{name}Short", f"{summary}; short path", "Event")}
    taking["/v1/batch"] = {"post": _taking("batch", "Send many events", "Batch")}
    taking["/v1/b"] = {"post": _taking("batchShort", "Send many events; short path", "Batch")}
    taking["/v1/import"] = {"post": _taking("import", "Send many events, as of the past", "Batch")}
    beacon = _taking("beacon", "Send many events, from a page that is closing", "Batch")
    beacon["parameters"] = [_KEY]
    beacon["requestBody"]["content"]["text/plain"] = {"schema": text("The same as JSON text.")}
    taking["/beacon/v1/batch"] = {"post": beacon}
    return taking | _pixels() | _loaded() | _client_metrics()


def _taking(name: str, summary: str, schema: str) -> Json:
    refused = ref("Refusal")
    return operation(
        name,
        summary,
        tag="tracking",
        security=WRITE,
        body=json_body(ref(schema)),
        about=(
            "The body may be sent with `Content-Encoding: gzip`, and with any Content-Type. 400 and 401 are"
            " for good; after 429, 500 and 503 send it again."
        ),
        answers={
            "200": answer(_TAKEN, ref("Taken")),
            "400": answer("It can never be taken as it is.", refused),
            "401": answer("There is no good write key.", refused),
            "415": answer("This Content-Encoding is not read.", refused),
            "429": answer("Too much at once: retry after `Retry-After` seconds.", refused),
            "500": answer("A fault of ours: send it again.", refused),
            "503": answer(
                "The log or the keys cannot be reached: retry after `Retry-After` seconds.", refused
            ),
        },
    )


def _pixels() -> dict[str, Json]:
    places = {f"/v1/pixel/{name}": name for name in _CALLS}
    places |= {"/pixel/v1/track": "track", "/pixel/v1/page": "page"}
    image = {"description": "Always the same image.", "content": {"image/gif": {"schema": {}}}}
    return {
        path: {
            "get": operation(
                "pixel" + "".join(part.capitalize() for part in path.split("/")),
                f"{_CALLS[call]}, by showing an image",
                tag="tracking",
                security=OPEN,
                about="Answers the image whatever becomes of the event; refusals are counted in the metrics.",
                parameters=[
                    query_parameter("data", "The event as JSON in base64."),
                    _KEY,
                    query_parameter("userId", "As any field of an event; dots open objects: `properties.a`."),
                ],
                answers={"200": image},
            )
        }
        for path, call in places.items()
    }


def _loaded() -> dict[str, Json]:
    refused = {
        "400": answer("It cannot be answered as it is.", ref("Refusal")),
        "404": answer("There is no such write key.", ref("Refusal")),
        "500": answer("A fault of ours.", ref("Refusal")),
        "503": answer("The keys cannot be reached: retry after `Retry-After` seconds.", ref("Refusal")),
    }
    document = {
        "200": answer("The document.", {"type": "object"}),
        "304": answer("The client has it as it is."),
    }
    script: Json = {
        "200": {"description": "The script.", "content": {"text/javascript": {"schema": {}}}},
        "304": answer("The client has it as it is."),
        "404": {
            "description": "There is no such write key or file, or no scripts are served here.",
            "content": {
                "text/plain": {"schema": text()},
                "application/json": {"schema": ref("Refusal")},
            },
        },
        "500": refused["500"],
        "503": refused["503"],
    }
    key = path_parameter("writeKey", "The write key.")
    file = path_parameter("file", "Name of the file; it may hold slashes.")

    def loading(name: str, summary: str, answers: Json, parameters: list[Json]) -> Json:
        made = operation(name, summary, tag="browser", security=OPEN, answers=answers, parameters=parameters)
        return {"get": made}

    source_config = loading("sourceConfig", "What RudderStack's browser SDK loads first", {}, [_KEY])
    source_config["get"]["security"] = WRITE
    source_config["get"]["responses"] = (
        document | refused | {"401": answer("No write key is named.", ref("Refusal"))}
    )
    return {
        "/v1/projects/{writeKey}/settings": loading(
            "settings", "What analytics.js and mobile SDKs load first", document | refused, [key]
        ),
        "/sourceConfig": source_config,
        "/analytics.js/v1/{writeKey}/analytics.min.js": loading(
            "analyticsJs", "analytics.js for the snippet of a page", script, [key]
        ),
        "/analytics-next/bundles/{file}": loading("bundle", "A part of analytics.js", script, [file]),
        "/rudder/{file}": loading("rudder", "A part of RudderStack's browser SDK", script, [file]),
    }


def _client_metrics() -> dict[str, Json]:
    return {
        "/v1/m": {
            "post": operation(
                "clientMetrics",
                "Metrics of analytics.js itself, which are thrown away",
                tag="browser",
                security=OPEN,
                answers={"200": answer("Thrown away.", ref("Taken"))},
            )
        }
    }

"""The pieces an OpenAPI document is put together from, so that each operation says only what is its own."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

Json: TypeAlias = dict[str, Any]

ADMIN: Final[list[Json]] = [{"adminToken": []}, {"adminTokenBasic": []}]
READ: Final[list[Json]] = [{"readToken": []}, {"readTokenBasic": []}]
WRITE: Final[list[Json]] = [{"writeKey": []}, {}]
"""A write key may also stand in the body or the query, which is why nothing is good as well."""
OPEN: Final[list[Json]] = []

PAGE: Final[list[Json]] = [
    {"$ref": "#/components/parameters/limit"},
    {"$ref": "#/components/parameters/cursor"},
]
ONCE: Final[list[Json]] = [{"$ref": "#/components/parameters/idempotencyKey"}]


def operation(
    name: str,
    summary: str,
    *,
    tag: str,
    security: list[Json],
    answers: Mapping[str, Json],
    parameters: Sequence[Json] = (),
    body: Json | None = None,
    about: str = "",
) -> Json:
    """Return one operation; `name` is what generated clients call it."""
    made: Json = {
        "operationId": name,
        "summary": summary,
        "tags": [tag],
        "security": security,
        "responses": dict(answers),
    }
    if about:
        made["description"] = about
    if parameters:
        made["parameters"] = list(parameters)
    if body is not None:
        made["requestBody"] = body
    return made


def ref(schema: str) -> Json:
    """Return a reference to one of the document's schemas."""
    return {"$ref": f"#/components/schemas/{schema}"}


def answer(about: str, schema: Json | None = None, *, media: str = "application/json") -> Json:
    """Return an answer, with a body of `schema` where there is one."""
    return {"description": about} | ({} if schema is None else {"content": {media: {"schema": schema}}})


def json_body(schema: Json, *, required: bool = True) -> Json:
    """Return a JSON request body."""
    return {"required": required, "content": {"application/json": {"schema": schema}}}


def data(**members: Json) -> Json:
    """Return the schema of a management answer: `data` around what was asked for."""
    return closed(data=closed(**members))


def closed(**members: Json) -> Json:
    """Return an object that always has exactly these members."""
    return {
        "type": "object",
        "properties": members,
        "required": sorted(members),
        "additionalProperties": False,
    }


def array(items: Json) -> Json:
    """Return a list of `items`."""
    return {"type": "array", "items": items}


def text(about: str = "", **more: Any) -> Json:
    """Return a string."""
    return {"type": "string"} | ({"description": about} if about else {}) | more


def nullable(schema: Json) -> Json:
    """Return `schema` or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def path_parameter(name: str, about: str, **schema: Any) -> Json:
    """Return a part of the path."""
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": about,
        "schema": {"type": "string", "minLength": 1} | schema,
    }


def query_parameter(name: str, about: str, schema: Json | None = None, *, required: bool = False) -> Json:
    """Return a field of the query."""
    return {
        "name": name,
        "in": "query",
        "required": required,
        "description": about,
        "schema": schema or {"type": "string"},
    }


def problems(*statuses: int) -> Json:
    """Return the refusals of management by status, each an RFC 9457 problem."""
    return {str(status): {"$ref": f"#/components/responses/problem{status}"} for status in statuses}


PROBLEMS: Final = {
    400: "The request cannot be carried out as it is; `detail` says what to change.",
    401: "There is no good token.",
    403: "The token opens something else.",
    404: "There is no such thing.",
    409: "It exists already, or it would pass a limit.",
    413: "The body is larger than is read.",
    415: "The body is not sent as JSON.",
    422: "A member of the request cannot be used; `detail` says what to change.",
    429: "Too many at once: retry after as many seconds as `Retry-After` says.",
    503: "Retry after as many seconds as `Retry-After` says.",
}
"""What each refusal of management means."""
TIME: Final = {"type": "string", "format": "date-time"}

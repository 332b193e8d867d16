"""`/api/openapi.json`: everything that is served, as one OpenAPI 3.1 document.

It is open to everybody: it tells what is in the documentation, and nothing of this installation.
"""

from functools import cache
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import profilelake
from profilelake.manage import (
    _openapi_computed,
    _openapi_deciding,
    _openapi_explaining,
    _openapi_feed,
    _openapi_history,
    _openapi_management,
    _openapi_profiles,
    _openapi_schema,
    _openapi_sql,
    _openapi_tracking,
)
from profilelake.manage._openapi_parts import PROBLEMS, Json, answer, query_parameter, ref
from profilelake.manage.answers import PAGE_ROWS_MAX
from profilelake.manage.changes import IDEMPOTENCY_KEY_CHARACTERS_MAX

_AREAS: Final = (
    _openapi_tracking,
    _openapi_profiles,
    _openapi_management,
    _openapi_explaining,
    _openapi_deciding,
    _openapi_schema,
    _openapi_history,
    _openapi_sql,
    _openapi_feed,
    _openapi_computed,
)


def openapi_route() -> Route:
    """Return the route of the document."""
    return Route("/api/openapi.json", _show)


def document() -> Json:
    """Return the document."""
    paths: Json = {}
    schemas: Json = {}
    for area in _AREAS:
        paths |= area.paths()
        schemas |= area.schemas()
    _openapi_history.extend(paths)
    bearer = {"type": "http", "scheme": "bearer"}
    basic = {"type": "http", "scheme": "basic"}
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "profilelake",
            "version": profilelake.__version__,
            "summary": "Customer events in, people and open tables out.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [
            {"name": "tracking", "description": "Events in, as SDKs send them."},
            {"name": "browser", "description": "What browsers load before they send."},
            {"name": "profiles", "description": "People and accounts out."},
            {"name": "sql", "description": "Questions to the tables."},
            {"name": "activation", "description": "Changes of traits and audiences, told to others."},
            {"name": "management", "description": "Sources, tokens, and how it goes."},
            {"name": "health", "description": "For load balancers, monitoring and tools."},
        ],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "writeKey": basic | {"description": "A write key as user name, with no password."},
                "readToken": bearer | {"description": "A read token of the space."},
                "readTokenBasic": basic | {"description": "A read token as user name, with no password."},
                "adminToken": bearer | {"description": "An admin token of the workspace."},
                "adminTokenBasic": basic | {"description": "An admin token as user name, with no password."},
            },
            "parameters": {
                "limit": query_parameter(
                    "limit", "Rows of a page.", {"type": "integer", "minimum": 1, "maximum": PAGE_ROWS_MAX}
                ),
                "cursor": query_parameter("cursor", "`pagination.next` of the page before."),
                "idempotencyKey": {
                    "name": "Idempotency-Key",
                    "in": "header",
                    "required": False,
                    "description": "Makes a repeated request the same one, for 24 hours.",
                    "schema": {
                        "type": "string",
                        "minLength": 1,
                        "maxLength": IDEMPOTENCY_KEY_CHARACTERS_MAX,
                    },
                },
            },
            "responses": {
                f"problem{status}": answer(about, ref("Problem"), media="application/problem+json")
                for status, about in PROBLEMS.items()
            },
            "schemas": schemas,
        },
    }


@cache
def _encoded() -> bytes:
    return msgspec.json.encode(document())


async def _show(_request: Request) -> Response:
    return Response(_encoded(), media_type="application/json", headers={"Cache-Control": "max-age=300"})

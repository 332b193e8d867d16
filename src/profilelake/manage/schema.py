"""`GET /api/schema`: which paths and types events were sent with, since when, and what is at odds."""

from pathlib import Path
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from profilelake.manage.answers import page_answer, page_asked
from profilelake.manage.decisions import LakeQuestion, LakeReader
from profilelake.manage.guard import Guard
from profilelake.ops.clock import Clock
from profilelake.shapes.asking import ShapeSeen, schema_asked

FILTERS: Final = ("event", "type", "part", "path", "new_since", "at_odds")


def schema_routes(guard: Guard, directory: Path, clock: Clock) -> list[Route]:
    """Return the route; the lake of the data directory is read by a process of its own."""
    reader = LakeReader(directory)

    async def shapes(request: Request) -> Response:
        page = page_asked(request)
        filters = {name: request.query_params.get(name) for name in FILTERS}
        asked = schema_asked(**filters, after=page.after, rows=page.rows + 1, now=clock())
        found = msgspec.json.decode(await reader.ask(LakeQuestion(schema=asked)), type=list[ShapeSeen])
        return page_answer("schema", found, page, ShapeSeen.place, lambda shape: shape)

    return [guard.route("/api/schema", GET=shapes)]

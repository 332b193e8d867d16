"""`/api/spaces/…/events`, `…/properties`, `…/sample-values` and `…/traits`: what there is to define something with."""

from dataclasses import dataclass
from pathlib import Path

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from profilelake.errors import Invalid, NotFound
from profilelake.manage.answers import json_answer, page_answer, page_asked
from profilelake.manage.decisions import LakeQuestion, LakeReader
from profilelake.manage.guard import Guard
from profilelake.shapes.names import SAMPLES_MAX, Named, NamesAsked, What

SEARCH_CHARACTERS_MAX = 200


def space_schema_routes(guard: Guard, directory: Path) -> list[Route]:
    """Return the routes; the lake of the data directory is read by a process of its own."""
    answers = _Names(guard.workspace, LakeReader(directory))
    base = "/api/spaces/{space}"
    return [
        guard.route(f"{base}/traits", GET=answers.traits),
        guard.route(f"{base}/events", GET=answers.events),
        guard.route(f"{base}/events/{{event}}/properties", GET=answers.properties),
        guard.route(f"{base}/events/{{event}}/properties/{{property}}/sample-values", GET=answers.samples),
    ]


@dataclass(frozen=True, slots=True)
class _Names:
    workspace: str
    reader: LakeReader

    async def events(self, request: Request) -> Response:
        return await self._page(request, "events", "events")

    async def properties(self, request: Request) -> Response:
        return await self._page(request, "properties", "properties")

    async def traits(self, request: Request) -> Response:
        return await self._page(request, "traits", "traits")

    async def samples(self, request: Request) -> Response:
        self._check_space(request)
        asked = NamesAsked(
            "samples",
            event=request.path_params["event"],
            path=request.path_params["property"],
            rows=SAMPLES_MAX,
        )
        found = await self.reader.ask(LakeQuestion(names=asked))
        return json_answer(200, {"data": {"sampleValues": msgspec.Raw(found)}})

    async def _page(self, request: Request, what: What, name: str) -> Response:
        self._check_space(request)
        page, query = page_asked(request), request.query_params
        search, collection = query.get("search", ""), query.get("collection", "users")
        if len(search) > SEARCH_CHARACTERS_MAX:
            raise Invalid(f"search: it has {len(search):,} characters, the most is {SEARCH_CHARACTERS_MAX}")
        if collection not in ("users", "accounts"):
            raise Invalid(f"collection={collection[:40]!r}: it is one of users, accounts")
        asked = NamesAsked(
            what,
            event=request.path_params.get("event", ""),
            collection=collection,
            search=search,
            after=page.after,
            rows=page.rows + 1,
        )
        found = msgspec.json.decode(await self.reader.ask(LakeQuestion(names=asked)), type=list[Named])
        return page_answer(name, found, page, lambda one: one.name, lambda one: one)

    def _check_space(self, request: Request) -> None:
        space = request.path_params["space"]
        if space != self.workspace:
            raise NotFound(f"space {space[:100]!r}: there is none; this server has {self.workspace}")

"""`/api/sources`: who may send events, as Segment's Public API shows sources, with trust and quota."""

from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from profilelake.errors import NotFound
from profilelake.manage.answers import json_answer, page_answer, page_asked
from profilelake.manage.changes import Changes
from profilelake.manage.guard import Guard
from profilelake.manage.requests import decoded, read_body, read_json
from profilelake.semantics.times import format_time
from profilelake.workspaces import Source, WriteKey
from profilelake.workspaces.control import Control


class NewSource(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """A source to add; `slug` becomes its id."""

    slug: str
    name: str | None = None
    enabled: bool = True
    trusted: bool = True
    events_per_second: int = 0
    write_key: str | None = None


class SourceChange(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """What is to be changed of a source; what is not given stays."""

    name: str | None = None
    enabled: bool | None = None
    trusted: bool | None = None
    events_per_second: int | None = None


class NewKey(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """A write key to add, made up if none is given."""

    write_key: str | None = None


def source_routes(guard: Guard, changes: Changes) -> list[Route]:
    """Return the routes of sources and their write keys."""
    answers = _Sources(changes)
    return [
        guard.route("/api/sources", GET=answers.list, POST=answers.add),
        guard.route("/api/sources/{source}", GET=answers.show, PATCH=answers.change),
        guard.route("/api/sources/{source}/keys", GET=answers.keys, POST=answers.add_key),
        # A key may be any string, so the rest of the path is it.
        guard.route("/api/sources/{source}/keys/{key:path}", DELETE=answers.revoke_key),
    ]


@dataclass(frozen=True, slots=True)
class _Sources:
    changes: Changes

    async def list(self, request: Request) -> Response:
        page = page_asked(request)
        sources = await self.changes.run(lambda control, _: control.sources(self.changes.workspace))
        rows = [source for source in sources if source.id > page.after]
        return page_answer("sources", rows, page, lambda source: source.id, _shape)

    async def show(self, request: Request) -> Response:
        source = await self.changes.run(lambda control, _: self._source(control, request))
        return json_answer(200, {"data": {"source": _shape(source)}})

    async def add(self, request: Request) -> Response:
        body = await read_body(request)
        new = decoded(body, NewSource)

        def act(control: Control, now: int) -> dict[str, Any]:
            source = control.add_source(
                self.changes.workspace,
                new.slug,
                name=new.name or new.slug,
                trusted=new.trusted,
                now=now,
                write_key=new.write_key,
                events_per_second=new.events_per_second,
                disabled=not new.enabled,
            )
            return {"source": _shape(source)}

        answer, _ = await self.changes.once(request, body, act)
        return json_answer(201, {"data": answer}, headers={"Location": f"/api/sources/{new.slug}"})

    async def change(self, request: Request) -> Response:
        wanted = await read_json(request, SourceChange)

        def act(control: Control, _: int) -> Source:
            return control.change_source(
                self._source(control, request).id,
                name=wanted.name,
                trusted=wanted.trusted,
                disabled=None if wanted.enabled is None else not wanted.enabled,
                events_per_second=wanted.events_per_second,
            )

        return json_answer(200, {"data": {"source": _shape(await self.changes.run(act))}})

    async def keys(self, request: Request) -> Response:
        keys = await self.changes.run(
            lambda control, _: control.write_keys(self._source(control, request).id)
        )
        return json_answer(200, {"data": {"keys": [_key_shape(key) for key in keys]}})

    async def add_key(self, request: Request) -> Response:
        body = await read_body(request)
        new = decoded(body, NewKey)

        def act(control: Control, now: int) -> dict[str, Any]:
            source = self._source(control, request)
            key = control.add_write_key(source.id, now=now, write_key=new.write_key)
            found = next(known for known in control.write_keys(source.id) if known.key == key)
            return {"key": _key_shape(found), "source": _shape(control.source(source.id))}

        answer, _ = await self.changes.once(request, body, act)
        return json_answer(201, {"data": answer})

    async def revoke_key(self, request: Request) -> Response:
        key = request.path_params["key"]

        def act(control: Control, now: int) -> Source:
            source = self._source(control, request)
            if control.source_of(key).id != source.id:
                raise NotFound(f"revoking a write key: source {source.id!r} has no such key")
            control.revoke_write_key(key, now=now)
            return control.source(source.id)

        return json_answer(200, {"data": {"source": _shape(await self.changes.run(act))}})

    def _source(self, control: Control, request: Request) -> Source:
        """Return the source a path names. One of another workspace is none."""
        source = control.source(request.path_params["source"])
        if source.workspace != self.changes.workspace:
            raise NotFound(f"looking for source {source.id!r}: there is none; list the sources to see all")
        return source


def _shape(source: Source) -> dict[str, Any]:
    return {
        "id": source.id,
        "slug": source.id,
        "name": source.name,
        "workspaceId": source.workspace,
        "enabled": not source.disabled,
        "writeKeys": list(source.write_keys),
        "trusted": source.trusted,
        "eventsPerSecond": source.events_per_second,
    }


def _key_shape(key: WriteKey) -> dict[str, Any]:
    return {
        "key": key.key,
        "createdAt": format_time(key.created_at),
        "revokedAt": None if key.revoked_at is None else format_time(key.revoked_at),
    }

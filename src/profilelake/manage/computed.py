"""`/api/spaces/…/audiences` and `…/computed-traits`: definitions over HTTP, as Segment's Public API has them.

A definition is one record of the event log, like every decision. What a change would do to profiles is read
from the lake by a process of its own.
"""

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from profilelake.audiences.applying import Estimate, objection
from profilelake.audiences.deciding import (
    AskDefine,
    AskDrop,
    Asked,
    AskResync,
    Decided,
    Defined,
    decide,
    entry_of,
    load,
    read_by,
)
from profilelake.audiences.history import Authors, authors
from profilelake.errors import Conflict, Invalid, NotFound, ProfilelakeError, Unavailable
from profilelake.manage import _computed_shapes as shapes
from profilelake.manage._computed_shapes import Seen
from profilelake.manage.answers import json_answer, page_answer, page_asked, problem
from profilelake.manage.changes import Changes
from profilelake.manage.decisions import LakeQuestion, LakeReader
from profilelake.manage.guard import Guard, Handler, asked_by
from profilelake.manage.previews import Preview, Previews
from profilelake.manage.recording import Recording, or_nothing
from profilelake.manage.requests import decoded, read_body, read_json
from profilelake.manage.waiting import wait_asked
from profilelake.ops.clock import Clock
from profilelake.semantics.definitions import Held
from profilelake.state.computed import decode_definition
from profilelake.state.store import Db

PREVIEW_RESULTS_MAX: Final = 20
"""Profiles that a preview shows of those it counts."""
_BODIES: Final[dict[str, tuple[Any, Any]]] = {
    "audiences": (shapes.NewAudience, shapes.AudienceChange),
    "computed-traits": (shapes.NewComputedTrait, shapes.ComputedTraitChange),
}
_WORDS: Final = {
    "audiences": ("audience", "audiences"),
    "computed-traits": ("computedTrait", "computedTraits"),
}
_SHAPES: Final = {"audiences": shapes.audience_shape, "computed-traits": shapes.trait_shape}

Noun: TypeAlias = str


def computed_routes(
    guard: Guard, changes: Changes, recording: Recording, directory: Path, previews: Path, clock: Clock
) -> list[Route]:
    """Return the routes; the lake of the data directory is read by a process of its own."""
    kept = Previews(previews, clock, lambda: secrets.token_hex(12))
    reader = LakeReader(directory)
    found = []
    for noun in _BODIES:
        answers = _Definitions(
            noun, guard.workspace, changes, recording, reader, kept, previewing=LakeReader(directory)
        )
        base = f"/api/spaces/{{space}}/{noun}"

        def route(path: str, **handlers: Handler) -> Route:
            return guard.route(path, **{method: _told(handler) for method, handler in handlers.items()})

        if noun == "audiences":
            # Before the route of one: `previews` is no id.
            found += [
                route(f"{base}/previews", POST=answers.preview),
                route(f"{base}/previews/{{preview}}", GET=answers.previewed),
            ]
        found += [
            route(base, GET=answers.list, POST=answers.add),
            route(f"{base}/{{id}}", GET=answers.show, PATCH=answers.change, DELETE=answers.drop),
            route(f"{base}/{{id}}/runs", POST=answers.run),
            route(f"{base}/{{id}}/resyncs", POST=answers.resync),
            route(f"{base}/{{id}}/schedules", GET=answers.schedules),
            route(f"{base}/{{id}}/{_WORDS[noun][0].lower()}-references", GET=answers.references),
        ]
    return found


def _told(handler: Handler) -> Handler:
    """Return `handler` with the codes that clients of Segment's Public API know: 422 and 429."""

    async def told(request: Request) -> Response:
        try:
            return await handler(request)
        except Invalid as error:
            return problem(422, "invalid_request", str(error))

    return told


@dataclass(frozen=True, slots=True)
class _Here:
    """What is defined at one moment, by key."""

    defined: Defined
    seen: dict[str, Seen]


@dataclass(frozen=True, slots=True)
class _Definitions:
    """Answers for `audiences`, or for `computed-traits`."""

    noun: Noun
    workspace: str
    changes: Changes
    recording: Recording
    reader: LakeReader
    previews: Previews
    previewing: LakeReader
    """Reads for previews alone, so that one that takes long holds up no decision."""
    preview_turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def list(self, request: Request) -> Response:
        self._check_space(request)
        page = page_asked(request)
        here = await asyncio.to_thread(self._here)
        mine = [one for key, one in sorted(here.seen.items()) if shapes.is_of(self.noun, one.held)]
        rows = [one for one in mine if one.key > page.after]
        return page_answer(_WORDS[self.noun][1], rows, page, lambda one: one.key, self._shape)

    async def show(self, request: Request) -> Response:
        here = await asyncio.to_thread(self._here)
        return json_answer(200, self._answer(self._asked_for(request, here)))

    async def add(self, request: Request) -> Response:
        self._check_space(request)
        body = await read_body(request)
        new = decoded(body, _BODIES[self.noun][0])

        def asked(here: _Here) -> Sequence[Asked]:
            definition = shapes.defined_by(new)
            if definition.key in here.defined.held:
                raise Conflict(
                    f"defining {definition.key}: there is a definition with this key; change that one, or give"
                    " another `key`"
                )
            return [AskDefine(definition=definition)]

        return await self._decided(request, body, asked, 201)

    async def change(self, request: Request) -> Response:
        body = await read_body(request)
        wanted = decoded(body, _BODIES[self.noun][1])
        options = _Options.of(request)

        def asked(here: _Here) -> Sequence[Asked]:
            before = self._asked_for(request, here).held.definition
            made = shapes.changed_by(wanted, before)
            return [AskDefine(definition=made, expected_version=options.version, override=options.override)]

        return await self._decided(request, body, asked, 200)

    async def drop(self, request: Request) -> Response:
        options = _Options.of(request)

        def asked(here: _Here) -> Sequence[Asked]:
            key = self._asked_for(request, here).key
            return [AskDrop(key=key, expected_version=options.version, override=options.override)]

        return await self._decided(request, b"", asked, 200)

    async def resync(self, request: Request) -> Response:
        body = await read_body(request)
        wanted = decoded(body, Resync)

        def asked(here: _Here) -> Sequence[Asked]:
            key = self._asked_for(request, here).key
            return [AskResync(key=key, destination=wanted.destination or "")]

        return await self._decided(request, body, asked, 202)

    async def run(self, request: Request) -> Response:
        here = await asyncio.to_thread(self._here)
        seen = self._asked_for(request, here)
        if not shapes.schedules(seen.held.definition):
            raise Conflict(
                f"running {seen.key}: it is computed as events come, so there is nothing to run; to announce"
                f" everything once more, POST to /api/spaces/{self.workspace}/{self.noun}/{seen.id}/resyncs"
            )
        raise Conflict(f"running {seen.key}: SQL runs by its schedule; change `every` to run it more often")

    async def schedules(self, request: Request) -> Response:
        here = await asyncio.to_thread(self._here)
        found = shapes.schedules(self._asked_for(request, here).held.definition)
        return json_answer(200, {"data": {f"{_WORDS[self.noun][0]}Schedules": found}})

    async def references(self, request: Request) -> Response:
        here = await asyncio.to_thread(self._here)
        key = self._asked_for(request, here).key
        readers = [here.seen[reader] for reader in sorted(read_by(here.defined, key)) if reader in here.seen]
        found = [
            {
                "id": one.id,
                "key": one.key,
                "name": one.held.definition.name or one.key,
                "type": _type(one.held),
            }
            for one in readers
        ]
        return json_answer(200, {"data": {"references": found}})

    async def preview(self, request: Request) -> Response:
        self._check_space(request)
        new = await read_json(request, shapes.NewPreview)
        definition = shapes.previewed(new)
        here = await asyncio.to_thread(self._here)
        decide([AskDefine(definition=definition)], here.defined, asked_by(request))  # whether it can be

        async def compute() -> Preview:
            question = LakeQuestion(preview=definition, examples=PREVIEW_RESULTS_MAX)
            async with self.preview_turn:
                return msgspec.json.decode(await self.previewing.ask(question), type=Preview)

        try:
            started = self.previews.start(new.audience_type, compute)
        except Unavailable as error:
            retry = {"Retry-After": str(error.retry_after_seconds)}
            return problem(429, "too_many_requests", str(error), headers=retry)
        return json_answer(202, {"data": {"audiencePreview": started}})

    async def previewed(self, request: Request) -> Response:
        self._check_space(request)
        found = await asyncio.to_thread(self.previews.get, request.path_params["preview"])
        return json_answer(200, {"data": {"audiencePreview": found}})

    async def _decided(self, request: Request, body: bytes, asked: Any, status: int) -> Response:
        """Record what is asked of what is defined, once for the Idempotency-Key, and answer with what holds then."""
        self._check_space(request)
        seconds = wait_asked(request.query_params.get("wait_for"), request.query_params.get("timeout"))
        loop, by = asyncio.get_running_loop(), asked_by(request)
        look = f"GET /api/spaces/{self.workspace}/{self.noun}"

        def act(_control: object, now: int) -> dict[str, Any]:
            here = self._here()
            decided = decide(asked(here), here.defined, by)
            entries = [entry_of(self.workspace, fact) for fact in decided.facts]
            positions = self.recording.record(entries, loop, look) if entries else []
            return self._made(decided, here, [one.to_bytes() for one in positions], by, now)

        async with self.recording.in_turn():
            await self._agreed(request, asked, by)
            answer, _ = await self.changes.once(request, body, act)
        if seconds is not None and not await self.recording.committed(seconds):
            status = 504
        return json_answer(status, {"data": answer})

    async def _agreed(self, request: Request, asked: Any, by: str) -> None:
        """Refuse what changes more profiles than may without the client's word for it."""
        if _flag(request, "accept_changes"):
            return
        here = await asyncio.to_thread(self._here)
        try:
            decided = decide(asked(here), here.defined, by)
        except ProfilelakeError:
            return  # told in its turn; a repeated request may even have been carried out
        weighty = [change for change in decided.changes if change.what not in ("new", "resync")]
        if not weighty:
            return
        told = await self.reader.ask(LakeQuestion(changes=tuple(weighty)))
        estimates = msgspec.json.decode(told, type=dict[str, Estimate])
        objections = [
            why for change in weighty if (why := objection(change, estimates[change.key])) is not None
        ]
        if objections:
            raise Conflict(f"{'; '.join(objections)}; if that is meant, say accept_changes=true")

    def _made(
        self, decided: Decided, here: _Here, positions: Sequence[bytes], by: str, now: int
    ) -> dict[str, Any]:
        """Return the answer for what was decided; it need not be applied yet."""
        change = decided.changes[0] if decided.changes else None
        if change is not None and change.what == "dropped":
            return {"status": "SUCCESS"}
        if change is None or change.what == "resync" or change.after is None:
            return {"status": "SUCCESS", "changed": change is not None}
        before = here.seen.get(change.key)
        position = positions[0]
        made = int.from_bytes(position[:8], "big") if position else now
        version = 1 + (
            before.held.version if before is not None else here.defined.versions.get(change.key, 0)
        )
        held = Held(change.after, version, position, before.held.created if before is not None else position)
        first = (before.authors.created_by, before.authors.created_at) if before is not None else (by, made)
        seen = Seen(held, Authors(*first, by, made), before.record if before is not None else None)
        return {_WORDS[self.noun][0]: self._shape(seen)}

    def _here(self) -> _Here:
        def read() -> _Here:
            with self.recording.state().read(self.workspace) as tx:
                known = load(tx, self.workspace)
                who = authors(tx, self.workspace)
                records = {
                    key.decode(): decode_definition(value)
                    for key, value in tx.items(self.workspace, Db.DEFINITION)
                }
            seen = {key: Seen(held, who[key], records.get(key)) for key, held in known.held.items()}
            return _Here(known, seen)

        found: _Here = or_nothing(read, _Here(Defined({}, {}), {}))
        return found

    def _asked_for(self, request: Request, here: _Here) -> Seen:
        """Return the definition that a path names, by its id or its key."""
        self._check_space(request)
        named = request.path_params["id"]
        for one in here.seen.values():
            if shapes.is_of(self.noun, one.held) and named in (one.id, one.key):
                return one
        raise NotFound(
            f"{named[:100]}: there is no such one; GET /api/spaces/{self.workspace}/{self.noun} lists them"
        )

    def _check_space(self, request: Request) -> None:
        space = request.path_params["space"]
        if space != self.workspace:
            raise NotFound(f"space {space[:100]!r}: there is none; this server has {self.workspace}")

    def _shape(self, seen: Seen) -> dict[str, Any]:
        return _SHAPES[self.noun](seen, self.workspace)

    def _answer(self, seen: Seen) -> dict[str, Any]:
        return {"data": {_WORDS[self.noun][0]: self._shape(seen)}}


class Resync(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """A resync to ask for: to one destination, or to all."""

    destination: str | None = None


@dataclass(frozen=True, slots=True)
class _Options:
    """What a request says beside its body: the version it expects, and that a file may be overridden."""

    version: int | None
    override: bool

    @classmethod
    def of(cls, request: Request) -> "_Options":
        said = request.query_params.get("expected_version")
        if said is None:
            return cls(None, _flag(request, "override"))
        if not (said.isascii() and said.isdigit() and len(said) <= 9):
            raise Invalid(f"expected_version={said[:40]!r}: give the version that was read")
        return cls(int(said), _flag(request, "override"))


def _flag(request: Request, name: str) -> bool:
    said = request.query_params.get(name, "false")
    if said not in ("true", "false"):
        raise Invalid(f"{name}={said[:40]!r}: it is true or false")
    return said == "true"


def _type(held: Held) -> str:
    return {"audience": "AUDIENCE", "sql_audience": "AUDIENCE", "entity": "ENTITY"}.get(
        held.definition.kind, "COMPUTED_TRAIT"
    )

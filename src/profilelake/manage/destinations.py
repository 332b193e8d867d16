"""`/api/destinations`: who is told of changes, how that goes, and what was given up."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from profilelake.activate import resync, secret_files
from profilelake.activate.journal import Journal
from profilelake.activate.letters import Dead, DeadLetters
from profilelake.activate.shown import shape
from profilelake.errors import Conflict, Invalid, Unavailable
from profilelake.manage.answers import json_answer, page_answer, page_asked
from profilelake.manage.changes import Changes
from profilelake.manage.guard import Guard, asked_by
from profilelake.manage.requests import read_json
from profilelake.semantics.destinations import (
    CALLS,
    DEFAULT_IDS,
    EVERY,
    Destination,
    IdSync,
    fault_of_secret_name,
)
from profilelake.semantics.times import format_time
from profilelake.state.store import State
from profilelake.workspaces.control import Control
from profilelake.workspaces.destinations import Held

_Answer = TypeVar("_Answer")


class DestinationIds(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Which values of an identifier type are told, and under which name."""

    type: str
    strategy: Literal["first", "last", "all"] = "last"
    map_to: str = ""


class DestinationAsked(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A destination as a client says it."""

    type: Literal["webhook", "segment"]
    url: str
    secret: str
    definitions: tuple[str, ...] = (EVERY,)
    previous_secret: str = ""
    enabled: bool = True
    backfill: bool = True
    ids: tuple[DestinationIds, ...] = ()
    consent: tuple[str, ...] = ()
    headers: dict[str, str] = {}
    batch: int = 100
    parallel: int = 4
    retry_hours: float = 24.0
    send: tuple[Literal["identify", "track"], ...] = CALLS
    entered: str = "Audience Entered"
    exited: str = "Audience Exited"
    computed: str = "Trait Computed"
    traits: tuple[str, ...] = ()
    integrations: dict[str, bool] = {}

    def destination(self, name: str) -> Destination:
        """Return it under a name.

        Raises:
            Invalid: it asks for something of the server's environment, which is not for clients to send anywhere.
        """
        for field, secret in (("secret", self.secret), ("previous_secret", self.previous_secret)):
            if secret.startswith("$"):
                raise Invalid(
                    f"destination {name[:80]!r}: {field}: variables of the server's environment are named in"
                    " destinations.yaml only; give the name of a stored secret"
                )
        return Destination(
            name=name,
            type=self.type,
            url=self.url,
            definitions=self.definitions,
            secret=self.secret,
            previous_secret=self.previous_secret,
            enabled=self.enabled,
            backfill=self.backfill,
            ids=tuple(IdSync(one.type, one.strategy, one.map_to) for one in self.ids) or DEFAULT_IDS,
            consent=self.consent,
            headers=tuple(self.headers.items()),
            batch=self.batch,
            parallel=self.parallel,
            retry_hours=self.retry_hours,
            send=self.send,
            entered=self.entered,
            exited=self.exited,
            computed=self.computed,
            traits=self.traits,
            integrations=tuple(self.integrations.items()),
        )


class SecretAsked(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A secret to store."""

    secret: str


class ResyncAsked(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Which definitions are told anew; all of them where none is named."""

    definitions: list[str] = []


class LettersAsked(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Which dead letters are meant: those named, or all."""

    ids: list[int] | None = None
    all: bool = False


def destination_routes(
    guard: Guard, changes: Changes, journal: Path, secrets: Path, state: Callable[[], State]
) -> list[Route]:
    """Return the routes."""
    answers = _Destinations(changes, journal, secrets, state)
    one = "/api/destinations/{destination}"
    return [
        guard.route("/api/destinations", GET=answers.list),
        guard.route(one, GET=answers.show, PUT=answers.put, DELETE=answers.remove),
        guard.route(f"{one}/pause", POST=answers.pause),
        guard.route(f"{one}/resume", POST=answers.resume),
        guard.route(f"{one}/resync", POST=answers.resync),
        guard.route(f"{one}/dead", GET=answers.dead),
        guard.route(f"{one}/replay", POST=answers.replay),
        guard.route(f"{one}/discard", POST=answers.discard),
        guard.route("/api/destination-secrets/{secret}", PUT=answers.secret),
    ]


@dataclass(frozen=True, slots=True)
class _Destinations:
    changes: Changes
    journal: Path
    secrets: Path
    state: Callable[[], State]

    async def list(self, request: Request) -> Response:
        page = page_asked(request)
        shown = await self._run(
            lambda control, journal, _: [
                shape(held, journal.health(held.destination.name))
                for held in control.destinations(self.changes.workspace).all()
                if held.destination.name > page.after
            ]
        )
        return page_answer("destinations", shown, page, lambda one: str(one["name"]), lambda one: one)

    async def show(self, request: Request) -> Response:
        return await self._shown(request, lambda control, name, _: _of(control, self, name))

    async def put(self, request: Request) -> Response:
        asked = await read_json(request, DestinationAsked)
        return await self._shown(
            request,
            lambda control, name, now: control.destinations(self.changes.workspace).put(
                asked.destination(name), now=now
            ),
        )

    async def remove(self, request: Request) -> Response:
        name = request.path_params["destination"]

        def act(control: Control, _journal: Journal, _now: int) -> None:
            held = _of(control, self, name)
            if held.destination.managed_by:
                raise Conflict(
                    f"removing destination {name!r}: {held.destination.managed_by} says that it is; take it out there"
                )
            control.destinations(self.changes.workspace).remove(name)

        await self._run(act)
        return json_answer(200, {"data": {"status": "removed"}})

    async def pause(self, request: Request) -> Response:
        by = asked_by(request)
        return await self._shown(
            request,
            lambda control, name, now: control.destinations(self.changes.workspace).pause(
                name, f"by {by}", now=now
            ),
        )

    async def resume(self, request: Request) -> Response:
        return await self._shown(
            request,
            lambda control, name, now: control.destinations(self.changes.workspace).resume(name, now=now),
        )

    async def resync(self, request: Request) -> Response:
        asked = await read_json(request, ResyncAsked)
        name = request.path_params["destination"]
        try:
            state = self.state()
        except Unavailable:
            state = None
        # In this thread: the state is open for the event loop alone.
        with Journal.open(self.journal) as journal:
            held = await self._run(lambda control, _journal, _now: _of(control, self, name))
            told = resync.ask(
                state,
                self.changes.workspace,
                journal,
                held.destination,
                asked.definitions,
                now=self.changes.clock(),
            )
        return json_answer(202, {"data": {"definitions": told}})

    async def dead(self, request: Request) -> Response:
        page = page_asked(request)
        name = request.path_params["destination"]
        after = int(page.after) if page.after.isascii() and page.after.isdigit() else 0

        def act(control: Control, journal: Journal, _now: int) -> list[Dead]:
            _of(control, self, name)
            return journal.letters.listed(name, after, page.rows + 1)

        found = await self._run(act)
        return page_answer("dead", found, page, lambda one: str(one.id), _dead_shape)

    async def replay(self, request: Request) -> Response:
        return json_answer(202, {"data": {"asked": await self._letters(request, DeadLetters.ask_replay)}})

    async def discard(self, request: Request) -> Response:
        return json_answer(200, {"data": {"discarded": await self._letters(request, DeadLetters.discard)}})

    async def _letters(
        self, request: Request, what: Callable[[DeadLetters, str, Sequence[int] | None], int]
    ) -> int:
        asked = await read_json(request, LettersAsked)
        name = request.path_params["destination"]
        if (asked.ids is None) != asked.all:
            raise Invalid("dead letters: give `ids`, or `all`: true")

        def act(control: Control, journal: Journal, _now: int) -> int:
            return what(journal.letters, _of(control, self, name).destination.name, asked.ids)

        return await self._run(act)

    async def secret(self, request: Request) -> Response:
        asked = await read_json(request, SecretAsked)
        name = request.path_params["secret"]
        fault = fault_of_secret_name(name)
        if fault:
            raise Invalid(f"storing secret {name[:80]!r}: {fault}")
        await asyncio.to_thread(secret_files.store, self.secrets, name, asked.secret)
        return json_answer(200, {"data": {"secret": name}})

    async def _shown(self, request: Request, act: Callable[[Control, str, int], Held]) -> Response:
        name = request.path_params["destination"]

        def run(control: Control, journal: Journal, now: int) -> dict[str, Any]:
            return shape(act(control, name, now), journal.health(name))

        return json_answer(200, {"data": {"destination": await self._run(run)}})

    async def _run(self, action: Callable[[Control, Journal, int], _Answer]) -> _Answer:
        def opened(control: Control, now: int) -> _Answer:
            with Journal.open(self.journal) as journal:
                return action(control, journal, now)

        return await self.changes.run(opened)


def _of(control: Control, answers: _Destinations, name: str) -> Held:
    return control.destinations(answers.changes.workspace).one(name)


def _dead_shape(one: Dead) -> dict[str, Any]:
    return {
        "id": one.id,
        "at": format_time(one.at),
        "definition": one.definition,
        "profile_id": one.profile_id,
        "idempotency_key": one.idempotency_key,
        "status": one.status,
        "attempts": one.attempts,
        "reason": one.reason,
        "body": msgspec.Raw(one.body),
    }

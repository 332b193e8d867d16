"""Routes of the process that reads the lake: a profile's past, and exports.

Who asks was checked by the process in front; it says so in headers that clients cannot send.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, Protocol, TypeVar, cast
from urllib.parse import quote, unquote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route as StarletteRoute

from profilelake.errors import Invalid, NotFound, Unavailable
from profilelake.semantics.rules import Collection, IdentityRules
from profilelake.serve._answer import Refused, encode, invalid, time_text
from profilelake.serve._past import Past
from profilelake.serve._profile import Found, find
from profilelake.serve._request import Query, Route, check_collection, route
from profilelake.serve._resources import EXTERNAL_IDS_MAX, TRAITS_MAX, external_ids, traits
from profilelake.serve.as_of import AsOf, FoundThen, Reading, find_then
from profilelake.serve.event_history import event_history
from profilelake.serve.explaining import explained
from profilelake.serve.export import MEDIA_TYPES, Export, export
from profilelake.serve.forwarded import EXPLAIN, EXPORT, SCOPE_HEADER, SPACE_HEADER, TRAIT_HISTORY
from profilelake.serve.trait_history import trait_history
from profilelake.state.store import State, Tx

QUESTIONS_MAX: Final = 8
"""Questions about profiles that are answered at a time."""
EXPORTS_MAX: Final = 2
"""Exports that run at a time: each holds a connection for as long as its reader takes."""

_ATTEMPTS: Final = 3
_LOG: Final = logging.getLogger(__name__)
_METHODS: Final = ("GET",)
_THEN: Final = {"traits": (traits, TRAITS_MAX), "external_ids": (external_ids, EXTERNAL_IDS_MAX)}
_ANYTHING: Final = frozenset({"", "*/*", "application/*"})
_Answer = TypeVar("_Answer")


class Reach(Protocol):
    """What a token may read; None is everything. `workspaces.scopes.Scope` is one."""

    @property
    def collections(self) -> frozenset[str] | None:
        """Collections it opens."""
        ...

    @property
    def resources(self) -> frozenset[str] | None:
        """Resources it opens."""
        ...

    @property
    def traits(self) -> frozenset[str] | None:
        """Traits it shows."""
        ...


@dataclass(frozen=True, slots=True)
class Everything:
    """What a token without a scope may read."""

    collections: frozenset[str] | None = None
    resources: frozenset[str] | None = None
    traits: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class History:
    """What the past is read from.

    `reach` reads the scope of a token. `rules` are those where nobody has set any, `rules_now` gives those
    in force. `untrusted` gives the sources that strangers can write to. `now` is in microseconds UTC.
    """

    state: Callable[[], State]
    past: Past
    identifier_key: Callable[[str], bytes]
    rules: IdentityRules
    rules_now: Callable[[str], IdentityRules]
    untrusted: Callable[[], frozenset[str]]
    reach: Callable[[str], Reach]
    now: Callable[[], int]


def history_routes(history: History) -> list[StarletteRoute]:
    """Return the routes, at the paths of the Profile API."""
    answers = _Answers(history)
    return [
        StarletteRoute(f"/v1/{spaces}/{{rest:path}}", answers.answer, methods=_METHODS)
        for spaces in ("spaces", "namespaces")
    ]


@dataclass(frozen=True, slots=True)
class _Asked:
    place: Route
    query: Query
    accept: str
    reach: Reach

    @property
    def collection(self) -> Collection:
        return cast("Collection", self.place.collection)

    def open(self, *resources: str) -> None:
        """Refuse what the token does not open."""
        allowed, collections = self.reach.resources, self.reach.collections
        if collections is not None and self.place.collection not in collections:
            raise _outside(f"the collection `{self.place.collection}`")
        for resource in resources:
            if allowed is not None and resource not in allowed:
                raise _outside(f"the resource `{resource}`")


class _Answers:
    def __init__(self, history: History) -> None:
        self._history = history
        self._questions = threading.BoundedSemaphore(QUESTIONS_MAX)
        self._exports = threading.BoundedSemaphore(EXPORTS_MAX)

    async def answer(self, request: Request) -> Response:
        """Answer one request that was let in."""
        try:
            asked = self._asked(request)
            if asked.place.profile == EXPORT and not asked.place.resource:
                return await run_in_threadpool(self._export, asked, is_read=request.method == "GET")
            return await run_in_threadpool(self._question, asked)
        except Exception as error:  # noqa: BLE001 - it is logged and answered
            return _refusal(error)

    def _asked(self, request: Request) -> _Asked:
        place = route(request.scope["raw_path"])
        space, scope = request.headers.get(SPACE_HEADER), request.headers.get(SCOPE_HEADER)
        # An empty scope is everything; one that nobody checked is nothing.
        if space is None or scope is None or unquote(space) != place.space:
            raise Refused(
                401, "authentication_error", "The access token is missing or not valid for this space."
            )
        check_collection(place.collection)
        return _Asked(
            place,
            Query(request.scope["query_string"]),
            request.headers.get("accept", ""),
            self._history.reach(unquote(scope)),
        )

    def _question(self, asked: _Asked) -> Response:
        with _one_of(self._questions, "questions about the past"):
            place, query, past, seen = asked.place, asked.query, self._history.past, asked.reach.traits
            if place.resource == TRAIT_HISTORY:
                asked.open("history", "traits")
                shown: object = self._reading(
                    asked, lambda tx: trait_history(self._found(tx, asked), place.trait, query, past, seen)
                )
            elif place.resource == "events":
                asked.open("history", "events")
                _check_events(query)
                shown = self._reading(
                    asked, lambda tx: event_history(self._found(tx, asked), query, past, seen)
                )
            elif place.resource == EXPLAIN:
                asked.open("history", "traits", "events")
                shown = self._reading(asked, lambda tx: self._explained(tx, asked))
            else:
                shown = self._then(asked)
            return Response(encode(shown), media_type="application/json", headers=_UNSTORED)

    def _explained(self, tx: Tx, asked: _Asked) -> object:
        """Tell why a definition says what it says of a profile, now or as of a time."""
        key, query, history = asked.place.trait, asked.query, self._history
        if asked.reach.traits is not None:
            raise _outside("conditions over traits that it does not show")
        if not query.has("as_of"):
            return explained(self._found(tx, asked), key, history.now(), history.past)
        as_of = AsOf.of(query, history.now())
        found = self._found_then(tx, asked, as_of)
        return explained(found, key, as_of.at, history.past, rules_now=as_of.rules_now)

    def _then(self, asked: _Asked) -> object:
        """Return a profile, or one resource of it, as it was."""
        place, query = asked.place, asked.query
        if place.resource and not query.has("as_of"):
            raise Refused(404, "not_found", f"There is no resource `{place.resource}` of a profile.")
        if not place.profile:
            raise invalid("`as_of` is taken for one profile at a time.")
        as_of = AsOf.of(query, self._history.now())
        wanted = frozenset({place.resource}) if place.resource else query.names("expand")
        if unknown := sorted(wanted - _THEN.keys()):
            raise invalid(
                f"`as_of` is taken for {', '.join(_THEN)} and the profile itself, not `{unknown[0]}`."
            )
        asked.open("history", *sorted(wanted))

        def shown(tx: Tx) -> object:
            found = self._found_then(tx, asked, as_of)
            if place.resource:
                return _THEN[place.resource][0](found, query)
            return {
                "segment_id": found.segment_id,
                "collection": found.collection,
                "as_of": time_text(as_of.at),
                **{name: _whole(name, found, query) for name in sorted(wanted)},
            }

        return self._reading(asked, shown)

    def _export(self, asked: _Asked, *, is_read: bool) -> Response:
        asked.open("export")
        format = _format(asked)
        if not is_read:
            return Response(media_type=MEDIA_TYPES[format], headers=_UNSTORED)
        since = asked.query.time("since", 0) if asked.query.text("since") else None
        wanted = Export(
            "profiles",
            format,
            collection=asked.collection,
            since=since,
            resources=asked.reach.resources,
            traits=asked.reach.traits,
        )
        if not self._exports.acquire(blocking=False):
            raise _busy(f"{EXPORTS_MAX} exports")
        pieces = _released(export(self._history.past, asked.place.space, wanted), self._exports)
        # What can be wrong is found with the first piece, while there is still a status to choose.
        first = next(pieces, b"")
        return StreamingResponse(chain([first], pieces), media_type=MEDIA_TYPES[format], headers=_UNSTORED)

    def _reading(self, asked: _Asked, read: Callable[[Tx], _Answer]) -> _Answer:
        state = self._history.state()
        for _ in range(_ATTEMPTS):
            try:
                with state.read(asked.place.space) as tx:
                    return read(tx)
            except NotFound as error:
                raise Unavailable(f"reading space {asked.place.space!r}: nothing was written yet") from error
            except FileNotFoundError:
                continue  # a run was merged away since the transaction began
        raise Unavailable("reading recent events: run files go away faster than they are read")

    def _found(self, tx: Tx, asked: _Asked) -> Found:
        history, space = self._history, asked.place.space
        rules = history.rules_now(space)
        return find(tx, space, asked.collection, asked.place.profile, history.identifier_key(space), rules)

    def _found_then(self, tx: Tx, asked: _Asked, as_of: AsOf) -> FoundThen:
        history, space = self._history, asked.place.space
        reading = Reading(history.past, history.identifier_key(space), history.rules, history.untrusted())
        found = find_then(tx, space, asked.collection, asked.place.profile, as_of, reading)
        return found.only(asked.reach.traits)


_UNSTORED: Final = {"cache-control": "no-store"}


def _check_events(query: Query) -> None:
    if query.text("as_of"):
        raise invalid("Events are not read with `as_of`; give `end` instead.")
    if query.choice("history", ("full",)) != "full":
        raise invalid("The parameter `history` must be one of: full.")


def _whole(name: str, found: FoundThen, query: Query) -> object:
    """Return a resource with its page at its longest, and a cursor that goes on at the same time."""
    read, rows = _THEN[name]
    said = [(given, query.text(given)) for given in ("as_of", "rules") if query.text(given)]
    text = "&".join([f"limit={rows}", *(f"{given}={quote(value, safe='')}" for given, value in said)])
    return read(found, Query(text.encode()))


def _format(asked: _Asked) -> str:
    """Return the format that the client accepts: `format=`, else the first it names that there is."""
    if named := asked.query.choice("format", tuple(MEDIA_TYPES)):
        return named
    accepted = [part.partition(";")[0].strip().lower() for part in asked.accept.split(",")]
    for media in accepted:
        for format, type in MEDIA_TYPES.items():
            if media == type:
                return format
        if media in _ANYTHING:
            return "ndjson"
    raise Refused(
        406,
        "not_acceptable",
        f"There is no such format of an export; there are {', '.join(MEDIA_TYPES.values())}.",
    )


@contextmanager
def _one_of(slots: threading.BoundedSemaphore, what: str) -> Iterator[None]:
    if not slots.acquire(blocking=False):
        raise _busy(f"{QUESTIONS_MAX} {what}")
    try:
        yield
    finally:
        slots.release()


def _released(pieces: Iterator[bytes], slots: threading.BoundedSemaphore) -> Iterator[bytes]:
    try:
        yield from pieces
    finally:
        slots.release()


def _busy(what: str) -> Refused:
    return Refused(
        503,
        "service_unavailable",
        f"The server answers {what} at a time; try again.",
        retry_after_seconds=1,
    )


def _outside(what: str) -> Refused:
    return Refused(403, "forbidden", f"The access token does not open {what}.")


def _refusal(error: Exception) -> Response:
    """Return the answer that stands for an error, in the shape clients of the Profile API know."""
    if isinstance(error, Refused):
        refused = error
    elif isinstance(error, Invalid):
        refused = invalid(f"{str(error).capitalize()}.")
    elif isinstance(error, Unavailable | NotFound):
        refused = Refused(503, "service_unavailable", f"{str(error).capitalize()}.", retry_after_seconds=1)
    else:
        _LOG.error("reading the past of a profile", exc_info=error)
        refused = Refused(500, "internal_error", "The request could not be answered.")
    headers: dict[str, Any] = dict(_UNSTORED)
    if refused.retry_after_seconds is not None:
        headers["retry-after"] = str(refused.retry_after_seconds)
    return Response(
        encode({"error": refused.error()}), refused.status, headers=headers, media_type="application/json"
    )

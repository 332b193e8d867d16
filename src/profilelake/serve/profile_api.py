"""The Profile API: one ASGI callable from a request to the profile it asks for.

Paths, shapes, paging and errors are those clients of Segment know. Beyond them: the list of all
profiles, several resources in one answer (`expand`), a look-up of many profiles with the ids in the
body instead of the URL, scopes of tokens, and entity tags.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, TypeVar, cast
from urllib.parse import quote

import msgspec
from prometheus_client import CollectorRegistry

from profilelake.errors import Invalid, NotFound, Unavailable
from profilelake.ops import http
from profilelake.semantics.rules import Collection, IdentityRules
from profilelake.serve._answer import Refused, encode, entity_tag, invalid, matches
from profilelake.serve._consent import consent
from profilelake.serve._events import EVENTS_MAX, EventsPage, events
from profilelake.serve._links import LINKS_MAX, OTHER, links
from profilelake.serve._listing import TURN_SHOWN, Listing, Place
from profilelake.serve._metrics import ApiMetrics
from profilelake.serve._profile import Found, find
from profilelake.serve._rate import RateLimit
from profilelake.serve._request import (
    NO_QUERY,
    TARGET_BYTES_MAX,
    Query,
    Route,
    check_collection,
    route,
)
from profilelake.serve._resources import (
    EXTERNAL_IDS_MAX,
    TRAITS_MAX,
    Metadata,
    external_ids,
    metadata,
    traits,
)
from profilelake.serve.admission import Admissions, Admitted, Tokens
from profilelake.serve.forwarded import ForwardedAnswer, Forwarding, checked, is_past
from profilelake.state.recent import RunReader
from profilelake.state.store import State, Tx

REQUESTS_PER_SECOND: Final = 100
"""What a space may ask for in a second."""
LOOKUP_IDS_MAX: Final = 100
"""Profiles of one look-up."""
LOOKUP_BYTES_MAX: Final = 65_536

_Answer = TypeVar("_Answer")
_ATTEMPTS: Final = 2
_LOG: Final = logging.getLogger(__name__)
_EXPANDED: Final = {
    "traits": Query(b"limit=%d" % TRAITS_MAX),
    "external_ids": Query(b"limit=%d" % EXTERNAL_IDS_MAX),
    "events": Query(b"limit=%d" % EVENTS_MAX),
    "metadata": NO_QUERY,
    "links": Query(b"limit=%d" % LINKS_MAX),
    "consent": NO_QUERY,
}
_LIST: Final = "profiles"
"""What the list of all profiles is called in scopes and metrics."""
_HEADERS: Final = [
    # Whoever keeps an answer asks again before it is used: what a profile says changes at any time.
    (b"cache-control", b"private, no-cache"),
    (b"vary", b"authorization"),
]
_FOUND: Final = http.AnswerForm(200, _HEADERS, b"application/json")
_UNCHANGED: Final = http.AnswerForm(304, _HEADERS, None)


class Lookup(msgspec.Struct, forbid_unknown_fields=True):
    """Body of a look-up: ids as they would stand in a path, and what to read of each profile."""

    ids: list[str]
    expand: list[str] = msgspec.field(default_factory=lambda: ["traits"])


class Asked(NamedTuple):
    """A request that was let in: what it asks for, and who asks."""

    place: Route
    admitted: Admitted
    if_none_match: bytes | None


class ProfileApi:
    """Answers `/v1/spaces/…` (and the older `/v1/namespaces/…`) from the state, in one read transaction each.

    A space is a workspace. A token of another workspace gets the answer of no token at all, whether
    or not the space exists. Blocks only for look-ups in memory-mapped files.
    """

    def __init__(
        self,
        state: Callable[[], State],
        recent: Callable[[str], Path],
        identifier_key: Callable[[str], bytes],
        tokens: Tokens,
        *,
        rules: Callable[[str], IdentityRules],
        registry: CollectorRegistry,
        request_id: Callable[[], str],
        now: Callable[[], int],
        monotonic: Callable[[], float] = time.monotonic,
        requests_per_second: int | None = REQUESTS_PER_SECOND,
        processes: int = 1,
        past: Forwarding | None = None,
    ) -> None:
        """Serve what `state` gives (it may raise Unavailable while there is none).

        `recent` names the folder of a workspace's run files, `identifier_key` the key its identifiers
        are hashed with, `rules` its identity rules; `now` is in microseconds UTC. `requests_per_second`
        is what a space may ask of this process, None for no limit; a token with a rate of its own may
        ask for a share of it, as one of so many `processes`. `past` answers what
        only the lake knows; without it there is no such thing.
        """
        self._state = state
        self._past = past
        self._recent = recent
        self._identifier_key = identifier_key
        self._admissions = Admissions(tokens, now)
        self._rules = rules
        self._request_id = request_id
        self._monotonic = monotonic
        self.rate = RateLimit(requests_per_second, monotonic, processes=processes)
        """Counts the requests; who answers the same tokens elsewhere counts with it."""
        self._metrics = ApiMetrics(registry)
        self._keys: dict[str, bytes] = {}
        self._readers: dict[str, RunReader] = {}
        self._read: dict[str, Callable[[Found, Query], msgspec.Struct]] = {
            "traits": traits,
            "external_ids": external_ids,
            "events": self._events,
            "metadata": self._metadata,
            "links": links,
            "consent": consent,
        }

    async def __call__(self, scope: http.Scope, receive: http.Receive, send: http.Send) -> None:
        """Answer one HTTP request."""
        if self._past is not None and is_past(scope):
            await self._forwarded(self._past, scope, receive, send)
            return
        began = self._monotonic()
        own = [(b"request-id", self._request_id().encode())]
        place: Route | None = None
        status = 200
        try:
            asked = self._admitted(scope)
            place = asked.place
            if _is_lookup(place, scope["method"]):
                ready = _FOUND.answer(own, encode(await self._lookup(asked, await _body(receive))))
            else:
                query = Query(scope["query_string"]) if scope["query_string"] else NO_QUERY
                body = encode(self._one(asked, query) if place.profile else await self._all(asked, query))
                own.append((b"etag", entity_tag(body)))
                if asked.if_none_match is not None and matches(asked.if_none_match, own[-1][1]):
                    status = 304
                    ready = _UNCHANGED.answer(own)
                else:
                    ready = _FOUND.answer(own, body)
        except Exception as error:  # noqa: BLE001 - it is logged and answered
            refused = _refused(error)
            status = refused.status
            ready = _refusal(refused, own)
        self._metrics.answered(_label(place), status, self._monotonic() - began)
        await send(ready.start)
        await send(ready.body)

    async def _forwarded(
        self, past: Forwarding, scope: http.Scope, receive: http.Receive, send: http.Send
    ) -> None:
        """Let the process that reads the lake answer, if the request may ask."""
        own = [(b"request-id", self._request_id().encode())]
        answer = ForwardedAnswer(send, own[0])
        began = self._monotonic()
        try:
            asked = self._admitted(scope)
            await past(scope, receive, answer, checked(asked.place, asked.admitted.words))
        except Exception as error:
            if answer.status is not None:
                raise  # the client has a part of the answer: only the connection can say that it ends here
            ready = _refusal(_refused(error), own)
            await answer(ready.start)
            await answer(ready.body)
        self._metrics.answered("past", answer.status or 0, self._monotonic() - began)

    def _admitted(self, scope: http.Scope) -> Asked:
        """Return what a request asks for, if it may ask.

        Raises:
            Refused: no such path, no good token for that space, too many requests, or the scope of the
                token leaves it out.
        """
        raw_path: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
        if len(raw_path) + len(scope["query_string"]) > TARGET_BYTES_MAX:
            raise invalid(f"Path and query are longer than {TARGET_BYTES_MAX} bytes.")
        place = route(raw_path)
        authorization = if_none_match = None
        for name, value in scope["headers"]:
            if name == b"authorization":
                authorization = value
            elif name == b"if-none-match":
                if_none_match = value
        admitted = self._admissions.of(authorization, place.space)
        token = admitted.token
        self.rate.check(token.workspace, token.id, admitted.scope.rate)
        method = scope["method"]
        if method not in ("GET", "HEAD") and not _is_lookup(place, method):
            raise Refused(405, "invalid_request_error", f"The method {method} is not allowed here; use GET.")
        check_collection(place.collection)
        admitted.check_collection(place.collection)
        return Asked(place, admitted, if_none_match)

    def _one(self, asked: Asked, query: Query) -> object:
        """Return a resource of one profile, or the profile with several of them."""
        place = asked.place
        name = place.resource
        if not name:
            wanted = query.names("expand")
            _check_expand(asked, wanted)
            return self._reading(
                place.space, lambda tx: self._expanded(self._found(tx, asked, place.profile), wanted)
            )
        read = self._read.get(name)
        if read is None:
            raise Refused(404, "not_found", f"There is no resource `{name}` of a profile.")
        _check_resource(asked, name)
        return self._reading(place.space, lambda tx: read(self._found(tx, asked, place.profile), query))

    async def _all(self, asked: Asked, query: Query) -> object:
        """Return a page of the list; between its turns other requests are answered."""
        if asked.place.resource:
            raise Refused(404, "not_found", "There is nothing at this path.")
        asked.admitted.check_resource(_LIST)
        wanted = query.names("expand")
        _check_expand_of_many(asked, wanted)
        space = asked.place.space
        listing = Listing(
            Place(space, _collection(asked.place), asked.admitted.scope),
            query,
            expanded=bool(wanted),
            show=lambda found: self._expanded(found, wanted),
        )
        self._reading(space, listing.read)
        while not listing.done:
            await asyncio.sleep(0)
            self._reading(space, listing.read)
        return listing.page()

    async def _lookup(self, asked: Asked, body: bytes) -> object:
        """Return several profiles, each beside the id it was asked by, in the order asked."""
        try:
            wanted = msgspec.json.decode(body, type=Lookup)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise invalid(f"The body cannot be read: {error}.") from None
        if len(wanted.ids) > LOOKUP_IDS_MAX:
            raise invalid(f"The body names {len(wanted.ids)} ids, more than {LOOKUP_IDS_MAX}.")
        expand = frozenset(wanted.expand)
        _check_expand_of_many(asked, expand)

        def one(tx: Tx, id: str) -> dict[str, object]:
            try:
                return {"id": id, **self._expanded(self._found(tx, asked, id), expand)}
            except Refused as refused:
                return {"id": id, "error": refused.error()}

        def some(ids: list[str]) -> Callable[[Tx], list[dict[str, object]]]:
            return lambda tx: [one(tx, id) for id in ids]

        data: list[dict[str, object]] = []
        for start in range(0, len(wanted.ids), TURN_SHOWN):
            await asyncio.sleep(0)
            data += self._reading(asked.place.space, some(wanted.ids[start : start + TURN_SHOWN]))
        return {"data": data}

    def _reading(self, space: str, read: Callable[[Tx], _Answer]) -> _Answer:
        """Run `read` inside one read transaction, and once more where a run file went away meanwhile."""
        state = self._state()
        for _ in range(_ATTEMPTS):
            try:
                with state.read(space) as tx:
                    return read(tx)
            except NotFound as error:
                raise Unavailable(f"reading space {space!r}: nothing was written yet") from error
            except FileNotFoundError:
                continue
        raise Unavailable(f"reading events of space {space!r}: run files go away faster than they are read")

    def _found(self, tx: Tx, asked: Asked, id: str) -> Found:
        space = asked.place.space
        key = self._keys.get(space)
        if key is None:
            key = self._keys[space] = self._identifier_key(space)
        return find(tx, space, _collection(asked.place), id, key, self._rules(space), asked.admitted.scope)

    def _expanded(self, found: Found, wanted: frozenset[str]) -> dict[str, object]:
        """Return a profile with each wanted resource as its own route gives it, pages at their longest."""
        return {
            "segment_id": found.segment_id,
            "collection": found.collection,
            **{name: self._read[name](found, _EXPANDED[name]) for name in sorted(wanted)},
        }

    def _events(self, found: Found, query: Query) -> EventsPage:
        return events(found, query, self._reader(found.space))

    def _metadata(self, found: Found, query: Query) -> Metadata:
        return metadata(found, query, self._reader(found.space))

    def _reader(self, space: str) -> RunReader:
        reader = self._readers.get(space)
        if reader is None:
            reader = self._readers[space] = RunReader(self._recent(space))
        return reader


def request_ids(start: bytes) -> Callable[[], str]:
    """Return what gives each request of a process an id; `start` is eight random bytes."""
    numbers = itertools.count(int.from_bytes(start, "big"))
    return lambda: f"{next(numbers) & _ID_MASK:016x}"


_ID_MASK: Final = (1 << 64) - 1


def _is_lookup(place: Route, method: str) -> bool:
    return method == "POST" and place.profile == "lookup" and not place.resource


def _collection(place: Route) -> Collection:
    return cast("Collection", place.collection)


def _label(place: Route | None) -> str:
    """Return what a request is counted under: a small fixed set of names, whatever clients send."""
    if place is None:
        return "refused"
    if place.resource:
        return place.resource if place.resource in _EXPANDED else "other"
    return "profile" if place.profile else _LIST


def _check_resource(asked: Asked, name: str) -> None:
    """Refuse a resource that the token does not open, be it for what it shows of the other collection."""
    asked.admitted.check_resource(name)
    if name == "links":
        asked.admitted.check_collection(OTHER[_collection(asked.place)])


def _check_expand(asked: Asked, names: frozenset[str]) -> None:
    unknown = sorted(names - _EXPANDED.keys())
    if unknown:
        raise invalid(f"`expand` names `{unknown[0]}`; it takes: {', '.join(_EXPANDED)}.")
    for name in names:
        _check_resource(asked, name)


def _check_expand_of_many(asked: Asked, names: frozenset[str]) -> None:
    _check_expand(asked, names)
    if "events" in names:
        raise invalid("Events are read one profile at a time.")


def _refused(error: Exception) -> Refused:
    """Return the refusal that stands for an error, with a code clients know."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, Invalid):
        return invalid(f"{str(error).capitalize()}.")
    if isinstance(error, Unavailable):
        return Refused(
            503,
            "service_unavailable",
            "Profiles cannot be read now; try again.",
            retry_after_seconds=error.retry_after_seconds,
        )
    # One profile that cannot be read must not take the connections of all others with it.
    _LOG.error("answering a Profile API request", exc_info=error)
    return Refused(500, "internal_error", "The request could not be answered.")


def _refusal(refused: Refused, own: list[tuple[bytes, bytes]]) -> http.Answer:
    headers = [(b"cache-control", b"no-store"), *own]
    if refused.retry_after_seconds is not None:
        headers.append((b"retry-after", b"%d" % refused.retry_after_seconds))
    if refused.status == 401:
        headers.append((b"www-authenticate", b'Basic realm="profiles"'))
    if refused.status == 405:
        headers.append((b"allow", b"GET, HEAD"))
    return http.answer(refused.status, headers, encode({"error": refused.error()}), b"application/json")


async def _body(receive: http.Receive) -> bytes:
    """Return the body of a request, refused as soon as it is too long."""
    parts: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await receive()
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > LOOKUP_BYTES_MAX:
            raise Refused(413, "invalid_request_error", f"The body is longer than {LOOKUP_BYTES_MAX} bytes.")
        parts.append(part)
        more = message.get("more_body", False)
    return b"".join(parts)

"""The Profile API: one ASGI callable from a request to the profile it asks for.

Paths, shapes, paging and errors are those clients of Segment know. Beyond them: several resources in
one answer (`expand`), and a look-up of many profiles with the ids in the body instead of the URL.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, Protocol, cast
from urllib.parse import quote

import msgspec
from prometheus_client import CollectorRegistry, Counter, Histogram

from profilelake.errors import Invalid, NotFound, Unavailable
from profilelake.ops import http
from profilelake.semantics.rules import Collection, IdentityRules
from profilelake.serve._answer import Refused, encode, invalid
from profilelake.serve._events import EVENTS_MAX, EventsPage, events
from profilelake.serve._profile import Found, find
from profilelake.serve._rate import RateLimit
from profilelake.serve._request import (
    TARGET_BYTES_MAX,
    Query,
    Route,
    check_collection,
    route,
    secret,
)
from profilelake.serve._resources import (
    EXTERNAL_IDS_MAX,
    TRAITS_MAX,
    Metadata,
    external_ids,
    metadata,
    traits,
)
from profilelake.state.recent import RunReader
from profilelake.state.store import State, Tx
from profilelake.workspaces import Token

REQUESTS_PER_SECOND: Final = 100
"""What a space may ask for in a second."""
LOOKUP_IDS_MAX: Final = 100
"""Profiles of one look-up."""
LOOKUP_BYTES_MAX: Final = 65_536

_ATTEMPTS: Final = 2
_LOG: Final = logging.getLogger(__name__)
_EXPANDED: Final = {
    "traits": Query(b"limit=%d" % TRAITS_MAX),
    "external_ids": Query(b"limit=%d" % EXTERNAL_IDS_MAX),
    "events": Query(b"limit=%d" % EVENTS_MAX),
    "metadata": Query(),
}
_LATENCIES: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


class Tokens(Protocol):
    """Knows which tokens are good; `workspaces.keyring.KeyRing` is one."""

    def poll(self) -> int:
        """Take note of changes, if it is time to look."""
        ...

    def token(self, secret: str, *, now: int) -> Token | None:
        """Return what a token opens, None where it opens nothing."""
        ...


class Lookup(msgspec.Struct, forbid_unknown_fields=True):
    """Body of a look-up: ids as they would stand in a path, and what to read of each profile."""

    ids: list[str]
    expand: list[str] = msgspec.field(default_factory=lambda: ["traits"])


class Answer(NamedTuple):
    """What goes back: status, JSON body, and the headers that are not always there."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


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
    ) -> None:
        """Serve what `state` gives (it may raise Unavailable while there is none).

        `recent` names the folder of a workspace's run files, `identifier_key` the key its identifiers
        are hashed with, `rules` its identity rules; `now` is in microseconds UTC. `requests_per_second`
        is this process's share of what a space may ask for, None for no limit.
        """
        self._state = state
        self._recent = recent
        self._identifier_key = identifier_key
        self._tokens = tokens
        self._rules = rules
        self._request_id = request_id
        self._now = now
        self._monotonic = monotonic
        self._rate = RateLimit(requests_per_second, monotonic)
        self._keys: dict[str, bytes] = {}
        self._readers: dict[str, RunReader] = {}
        self._read: dict[str, Callable[[Found, Query], msgspec.Struct]] = {
            "traits": traits,
            "external_ids": external_ids,
            "events": self._events,
            "metadata": self._metadata,
        }
        self._requests = Counter(
            "profilelake_profile_api_requests",
            "Requests answered by the Profile API",
            ("resource", "status"),
            registry=registry,
        )
        self._seconds = Histogram(
            "profilelake_profile_api_seconds",
            "Seconds from the request's head to its answer",
            ("resource",),
            buckets=_LATENCIES,
            registry=registry,
        )
        self._counted: dict[tuple[str, int], Callable[[], None]] = {}
        self._timed: dict[str, Callable[[float], None]] = {}

    async def __call__(self, scope: http.Scope, receive: http.Receive, send: http.Send) -> None:
        """Answer one HTTP request."""
        began = self._monotonic()
        place: Route | None = None
        try:
            place = self._admitted(scope)
            if _is_lookup(place, scope["method"]):
                answer = Answer(200, encode(self._lookup(place, await _body(receive))))
            else:
                answer = Answer(200, encode(self._get(place, scope)))
        except Exception as error:  # noqa: BLE001 - it is logged and answered
            answer = _failed(error)
        headers = [
            (b"cache-control", b"no-store"),
            (b"request-id", self._request_id().encode()),
            *answer.headers,
        ]
        ready = http.answer(answer.status, headers, answer.body, b"application/json")
        self._measure(_label(place), answer.status, self._monotonic() - began)
        await send(ready.start)
        await send(ready.body)

    def _admitted(self, scope: http.Scope) -> Route:
        """Return what a request asks for, if it may ask.

        Raises:
            Refused: no such path, no good token for that space, or too many requests.
        """
        raw_path: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
        if len(raw_path) + len(scope["query_string"]) > TARGET_BYTES_MAX:
            raise invalid(f"Path and query are longer than {TARGET_BYTES_MAX} bytes.")
        place = route(raw_path)
        self._tokens.poll()
        given = secret(next((value for name, value in scope["headers"] if name == b"authorization"), None))
        token = None if given is None else self._tokens.token(given, now=self._now())
        # A token with a scope was made for less than all profiles, and nothing less is served here yet.
        if token is None or token.workspace != place.space or token.scope:
            raise Refused(
                401, "authentication_error", "The access token is missing or not valid for this space."
            )
        self._rate.check(place.space)
        method = scope["method"]
        if method not in ("GET", "HEAD") and not _is_lookup(place, method):
            raise Refused(405, "invalid_request_error", f"The method {method} is not allowed here; use GET.")
        check_collection(place.collection)
        return place

    def _get(self, place: Route, scope: http.Scope) -> object:
        query = Query(scope["query_string"])
        if not place.resource:
            wanted = query.names("expand")
            _check_expand(wanted)
            return self._reading(
                place.space, lambda tx: self._expanded(self._found(tx, place, place.profile), wanted)
            )
        read = self._read.get(place.resource)
        if read is None:
            raise Refused(404, "not_found", f"There is no resource `{place.resource}` of a profile.")
        return self._reading(place.space, lambda tx: read(self._found(tx, place, place.profile), query))

    def _lookup(self, place: Route, body: bytes) -> object:
        """Return several profiles, each beside the id it was asked by, in the order asked."""
        try:
            wanted = msgspec.json.decode(body, type=Lookup)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise invalid(f"The body cannot be read: {error}.") from None
        if len(wanted.ids) > LOOKUP_IDS_MAX:
            raise invalid(f"The body names {len(wanted.ids)} ids, more than {LOOKUP_IDS_MAX}.")
        expand = frozenset(wanted.expand)
        _check_expand(expand)
        if "events" in expand:
            raise invalid("Events are read one profile at a time.")

        def one(tx: Tx, id: str) -> dict[str, object]:
            try:
                return {"id": id, **self._expanded(self._found(tx, place, id), expand)}
            except Refused as refused:
                return {"id": id, "error": refused.error()}

        return self._reading(place.space, lambda tx: {"data": [one(tx, id) for id in wanted.ids]})

    def _reading(self, space: str, read: Callable[[Tx], object]) -> object:
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

    def _found(self, tx: Tx, place: Route, id: str) -> Found:
        key = self._keys.get(place.space)
        if key is None:
            key = self._keys[place.space] = self._identifier_key(place.space)
        collection = cast("Collection", place.collection)
        return find(tx, place.space, collection, id, key, self._rules(place.space))

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

    def _measure(self, resource: str, status: int, seconds: float) -> None:
        counted = self._counted.get((resource, status))
        if counted is None:
            counted = self._counted[resource, status] = self._requests.labels(resource, str(status)).inc
            self._timed.setdefault(resource, self._seconds.labels(resource).observe)
        counted()
        self._timed[resource](seconds)


def _is_lookup(place: Route, method: str) -> bool:
    return method == "POST" and place.profile == "lookup" and not place.resource


def _label(place: Route | None) -> str:
    """Return what a request is counted under: a small fixed set of names, whatever clients send."""
    if place is None:
        return "refused"
    return place.resource if place.resource in _EXPANDED else "profile" if not place.resource else "other"


def _check_expand(names: frozenset[str]) -> None:
    unknown = sorted(names - _EXPANDED.keys())
    if unknown:
        raise invalid(f"`expand` names `{unknown[0]}`; it takes: {', '.join(_EXPANDED)}.")


def _failed(error: Exception) -> Answer:
    """Return the answer that stands for an error, in the shape clients know."""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    if isinstance(error, Refused):
        refused = error
    elif isinstance(error, Invalid):
        refused = invalid(f"{str(error).capitalize()}.")
    elif isinstance(error, Unavailable):
        refused = Refused(
            503,
            "service_unavailable",
            "Profiles cannot be read now; try again.",
            retry_after_seconds=error.retry_after_seconds,
        )
    else:
        # One profile that cannot be read must not take the connections of all others with it.
        _LOG.error("answering a Profile API request", exc_info=error)
        refused = Refused(500, "internal_error", "The request could not be answered.")
    if refused.retry_after_seconds is not None:
        headers += ((b"retry-after", b"%d" % refused.retry_after_seconds),)
    if refused.status == 401:
        headers += ((b"www-authenticate", b'Basic realm="profiles"'),)
    if refused.status == 405:
        headers += ((b"allow", b"GET, HEAD"),)
    return Answer(refused.status, encode({"error": refused.error()}), headers)


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

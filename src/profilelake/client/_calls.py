"""Every read as a call: which requests it takes and what comes of their answers."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import quote, urlsplit

import msgspec

from profilelake.client import _answers
from profilelake.client._answers import Event, Expanded, Profile, Trait
from profilelake.client._exchange import SQL_RETRIED, Ask, Call
from profilelake.client._tables import ARROW_STREAM, SqlResult
from profilelake.client.errors import InvalidRequest, ProfileNotFound, RequestFailed

Collection: TypeAlias = Literal["users", "accounts"]

LOOKUP_IDS_MAX: Final = 100
"""Ids the server takes in one look-up; more are asked for in several."""
TRAITS_PAGE: Final = 200
EVENTS_PAGE: Final = 100
PROFILES_PAGE: Final = 100
SQL_SECONDS: Final = 60.0
ANSWER_SECONDS: Final = 10.0
"""How much longer than a query may run its answer is waited for."""
PAGES_MAX: Final = 100_000
"""Pages of one profile's traits, identifiers or events: beyond that a server gives cursors in a circle."""
_EXPAND: Final = ("traits", "external_ids")


class Space:
    """The paths of one space's profiles."""

    def __init__(self, name: str) -> None:
        self._root = f"/v1/spaces/{quote(name, safe='')}/collections"

    def profiles(self, collection: Collection, id: str = "", resource: str = "") -> str:
        """Return the path of a collection, one profile, or a resource of it."""
        parts = [
            self._root,
            collection,
            "profiles",
            *(quote(part, safe=":") for part in (id, resource) if part),
        ]
        return "/".join(parts)


def profile(space: Space, id: str, collection: Collection) -> Call[Profile]:
    """Return a profile with all its traits and identifiers."""
    found = yield from find(space, id, collection)
    if found is None:
        raise _nobody()
    return found


def find(space: Space, id: str, collection: Collection) -> Call[Profile | None]:
    """Return a profile with all its traits and identifiers, None where there is none."""
    return (yield from profiles(space, [id], collection))[0]


def profiles(space: Space, ids: Sequence[str], collection: Collection) -> Call[list[Profile | None]]:
    """Return a profile for each id, None for each that nobody has."""
    found: list[Profile | None] = []
    for start in range(0, len(ids), LOOKUP_IDS_MAX):
        for entry in (yield from _looked_up(space, ids[start : start + LOOKUP_IDS_MAX], collection, _EXPAND)):
            whole = (yield from _whole(entry)) if _exists(entry) else None
            found.append(whole)
    return found


def _looked_up(
    space: Space, ids: Sequence[str], collection: Collection, expand: Sequence[str]
) -> Call[list[Expanded]]:
    """Look ids up in the body of a request: an e-mail address has no place in a URL, which gets logged."""
    if not all(ids):
        raise InvalidRequest("asking for a profile: the id is empty; give TYPE:VALUE, such as user_id:42")
    body = msgspec.json.encode({"ids": list(ids), "expand": list(expand)})
    reply = yield Ask("POST", space.profiles(collection, "lookup"), body=body)
    return _answers.looked(reply.body).data


def _segment_id(space: Space, id: str, collection: Collection) -> Call[str]:
    """Return the id by which a profile's resources are asked for."""
    entry = (yield from _looked_up(space, [id], collection, ()))[0]
    if not _exists(entry):
        raise _nobody()
    return entry.segment_id


def _nobody() -> ProfileNotFound:
    return ProfileNotFound(
        "asking for a profile: nobody has that id; see that its type and value are right",
        code="not_found",
        status=404,
    )


def _exists(entry: Expanded) -> bool:
    if entry.error is None:
        return True
    if entry.error.get("code") == "not_found":
        return False
    raise InvalidRequest(
        f"looking profiles up: {entry.error.get('message', 'no reason given')}",
        code=entry.error.get("code", ""),
        status=400,
    )


def _whole(first: Expanded) -> Call[Profile]:
    """Return a profile with what is on further pages of its resources."""
    traits = dict(first.traits.traits)
    url = first.traits.cursor.url
    for _ in range(PAGES_MAX):
        if not url:
            break
        page = _answers.traits_page((yield _at(url)).body)
        traits |= page.traits
        url = page.cursor.url
    identifiers = list(first.external_ids.data)
    url = first.external_ids.cursor.url
    for _ in range(PAGES_MAX):
        if not url:
            break
        more = _answers.identifiers_page((yield _at(url)).body)
        identifiers += more.data
        url = more.cursor.url
    return Profile(first.segment_id, first.collection, traits, identifiers)


def traits(
    space: Space, id: str, collection: Collection, include: Sequence[str] | None
) -> Call[dict[str, Trait]]:
    """Return traits with source and time."""
    segment_id = yield from _segment_id(space, id, collection)
    query = {"verbose": "true", "limit": str(TRAITS_PAGE)}
    if include is not None:
        query["include"] = ",".join(include)
    ask: Ask | None = Ask("GET", space.profiles(collection, segment_id, "traits"), query)
    found: dict[str, Trait] = {}
    for _ in range(PAGES_MAX):
        if ask is None:
            break
        page = _answers.verbose_page((yield ask).body)
        found |= page.traits
        ask = _at(page.cursor.url) if page.cursor.url else None
    return found


def events_first(
    space: Space,
    id: str,
    collection: Collection,
    *,
    start: datetime | None,
    end: datetime | None,
    include: Sequence[str] | None,
    descending: bool,
) -> Call[Ask]:
    """Return the request of the first page of a profile's events."""
    segment_id = yield from _segment_id(space, id, collection)
    query = {"limit": str(EVENTS_PAGE), "sort": "desc" if descending else "asc"}
    if include is not None:
        query["include"] = ",".join(include)
    if start is not None:
        query["start"] = _time(start)
    if end is not None:
        query["end"] = _time(end)
    return Ask("GET", space.profiles(collection, segment_id, "events"), query)


def events_page(ask: Ask) -> Call[tuple[list[Event], Ask | None]]:
    """Return a page of events and the request of the next."""
    page = _answers.events_page((yield ask).body)
    return page.data, _at(page.cursor.url) if page.cursor.url else None


def list_first(space: Space, collection: Collection) -> Call[Ask]:
    """Return the request of the first page of all profiles."""
    yield from ()
    return Ask("GET", space.profiles(collection), {"limit": str(PROFILES_PAGE), "expand": ",".join(_EXPAND)})


def list_page(ask: Ask) -> Call[tuple[list[Profile], Ask | None]]:
    """Return a page of profiles, whole, and the request of the next."""
    page = _answers.listed((yield ask).body)
    found: list[Profile] = []
    for entry in page.data:
        whole = yield from _whole(entry)
        found.append(whole)
    return found, _at(page.cursor.url) if page.cursor.url else None


def sql(
    query: str, parameters: Sequence[Any] | Mapping[str, Any] | None, timeout_seconds: float
) -> Call[SqlResult]:
    """Return the rows of a query."""
    reply = yield sql_ask(query, parameters, timeout_seconds)
    return SqlResult(reply.body)


def sql_ask(query: str, parameters: Sequence[Any] | Mapping[str, Any] | None, timeout_seconds: float) -> Ask:
    """Return the request that asks a query."""
    document: dict[str, Any] = {"query": query, "timeout_seconds": timeout_seconds}
    if parameters is not None:
        document["parameters"] = parameters
    return Ask(
        "POST",
        "/api/sql",
        body=msgspec.json.encode(document),
        accept=ARROW_STREAM,
        timeout_seconds=timeout_seconds + ANSWER_SECONDS,
        retried=SQL_RETRIED,
    )


def _at(url: str) -> Ask:
    """Return the request that a cursor names; cursors of our server are paths, of others maybe whole URLs."""
    parts = urlsplit(url)
    if not parts.path.startswith("/v1/"):
        raise RequestFailed("following a cursor: it names a place outside the Profile API; report this")
    return Ask("GET", parts.path + ("?" + parts.query if parts.query else ""))


def _time(at: datetime) -> str:
    if at.tzinfo is None:
        raise InvalidRequest("asking for events: a time has no zone; give one with tzinfo, such as UTC")
    return at.astimezone(UTC).isoformat()
